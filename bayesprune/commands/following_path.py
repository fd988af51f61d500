"""`bayesprune path`: fits along the values of a prior's knob, into a folder that a second call goes on with."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bayesprune.analysis.plots.front import plot_front
from bayesprune.commands.console import print_lines, stdout
from bayesprune.commands.fitting import content_of
from bayesprune.data.named_sets import DATASETS
from bayesprune.data.sets import load_data
from bayesprune.inference.data.data_units import ONLY_NOISE
from bayesprune.inference.sparsity_path.continuation import sparsity_path
from bayesprune.inference.sparsity_path.folder import INDEX_FILE, REMEDY, read_index
from bayesprune.inference.sparsity_path.sparsity_path import SparsityPath
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.files.places import expanded
from bayesprune.runs.code_trust import CodeTrust, repeating
from bayesprune.runs.declaration import UNIT_GATES, Declaration, declare, resolve_prior
from bayesprune.runs.run_folder import check_declared
from bayesprune.runs.starting_weights import StartingWeights

__all__ = ["follow_path", "load_path", "parse_numbers", "print_path"]

FRONT_FILE = "front.png"
_LATER = ("network_settings", "network_parts")
"""What is declared only where there is some of it; of parts there are none, as a path takes no recipe."""
MOST_VALUES = 1000
"""Numbers that an option takes: each value is a fit, each sparsity a network of each fit."""


def parse_numbers(text: str, option: str) -> list[float]:
    """Reads numbers with commas between them.

    Raises:
        ValueError: If one is no number, or not finite, or there are more than `MOST_VALUES`.
    """
    parts = text.split(",")
    if len(parts) > MOST_VALUES:
        raise ValueError(f"{option} has {len(parts):,} numbers, but at most {MOST_VALUES:,} are taken: leave some out")
    try:
        numbers = [float(part) for part in parts]
    except ValueError as problem:
        shown = repr(text) if len(text) <= 80 else f"{text[:80]!r}..."
        raise ValueError(f"{option} takes numbers with commas between them, such as 0.3,0.1, not {shown}") from problem
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"{option} takes finite numbers, not {parts[[*map(math.isfinite, numbers)].index(False)]}")
    return numbers


@dataclass(frozen=True)
class _ModelAt:
    """The function from a value of the knob to the model, of which other processes make it by the same names.

    Attributes:
        declaration: What is declared, at any value.
        knob: The setting that changes.
        seed: Of the starting weights.
        start: A file of weights to start from, or None.
    """

    declaration: Declaration
    knob: str
    seed: int
    start: StartingWeights | None

    def __call__(self, value: float) -> BayesianNetwork:
        return _with(self.declaration, self.knob, value).model(self.seed, self.start)


def follow_path(
    out: str | Path,
    data: str,
    network: str,
    prior: str,
    knob: str,
    values: Sequence[float],
    settings: Mapping[str, Any] | None = None,
    on: tuple[str, ...] | None = None,
    likelihood: str | None = None,
    weights: str | Path | None = None,
    new_head: bool = False,
    network_settings: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    sparsities: Sequence[float] | None = None,
    width: float = 1.0,
    standardise: bool | None = None,
    **how: Any,
) -> SparsityPath:
    """Follows a path of what is named, or goes on with the one in the folder, and draws its front.

    Args:
        out: The folder of the path.
        data: A data set by name, a folder or a file.
        network: A name in `NETWORKS`, or `MODULE:NAME`.
        prior: A name in `PRIORS`, or `FILE.py:NAME` of a function.
        knob: The setting of the prior that changes along the path.
        values: Its values, from dense to sparse.
        settings: The other settings of the prior.
        on: Patterns of the parameters that get the prior; default all weights.
        likelihood: A name; default by the targets.
        weights: A file of weights to start from (`StartingWeights`); default random ones.
        new_head: Whether the last layer starts anew all the same; default False.
        network_settings: Arguments by name of a network of one's own; default none.
        data_root: Folder where a named data set is looked for first.
        seed: Of the first restart and of the validation split.
        sparsities: What fits are pruned to; default as `sparsity_path`.
        width: Multiplies the widths of the network's hidden layers; default 1.
        standardise: As in `bayesprune.fit`; default None: False where there are `weights`, which were trained as they
            are.
        how: Further arguments of `sparsity_path`: epochs, restarts, workers, guide, ...

    Returns:
        The path.

    Raises:
        ValueError: For bad input, before training starts; if the folder holds something else.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        OSError: If the folder cannot be written.
    """
    settings = dict(settings or {})
    if new_head and weights is None:
        raise ValueError("--new-head starts the last layer of --weights anew, but there are none: leave it out")
    start = None if weights is None else StartingWeights(expanded(weights), new_head)
    if standardise is not None or weights is not None:
        how["standardise"] = ONLY_NOISE if standardise is None else standardise
    if prior == UNIT_GATES:
        raise ValueError(
            "a path begins each fit at the one before, but unit-gates leaves networks of different sizes: run "
            f"bayesprune fit for each value of {knob} (--set {knob}={values[0]:g}), and bayesprune compare"
        )
    if knob in settings:
        raise ValueError(f"--set gives {knob}, which --values go along: leave it out")
    for value in values:  # a misspelt name or a value out of range is told before data are fetched
        resolve_prior(prior, {**settings, knob: value}, data_size=1)
    name = data if data in DATASETS else str(expanded(data).absolute())
    splits = load_data(name if Path(name).exists() else data, seed=seed, root=data_root)
    if not len(splits.validation[0]):
        raise ValueError(f"{data} has no validation data, on which the front is chosen: give more examples")
    declaration = declare(splits, network, prior, settings, on, likelihood, width, network_settings)
    declared = declaration.as_dict()
    # So that a path of an earlier version, which does not name them, goes on.
    declared = {key: value for key, value in declared.items() if key not in _LATER or value}
    if start is not None:
        _with(declaration, knob, values[0]).model(seed, start)  # fills the notes on what is done to the weights
        declared |= _declared_weights(expanded(out), start)
    try:
        path = sparsity_path(
            _ModelAt(declaration, knob, seed, start),
            splits.train,
            values,
            knob=knob,
            validation=splits.validation,
            test=splits.test,
            seed=seed,
            prunings=None if sparsities is None else [{"sparsity": sparsity} for sparsity in sparsities],
            folder=out,
            declaration={
                **declared,
                "data": splits.name,
                "data_seed": seed,
                "data_root": None if data_root is None else str(expanded(data_root).absolute()),
                "starting_weights": None if weights is None else str(expanded(weights).absolute()),
            },
            **how,
        )
    except ValueError:
        raise
    except BaseException as stop:
        stop.add_note(f"the same command goes on with what is finished in {out}")
        raise
    plot_front({f"{prior}, {knob}": path}, path=Path(out) / FRONT_FILE)
    return path


def load_path(
    folder: str | Path, trust_code: bool = False, network: str | None = None, prior: str | None = None
) -> tuple[dict[str, Any], SparsityPath]:
    """Reads a path back that `bayesprune path` made, its network and priors by name.

    Args:
        folder: Its folder.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, `FILE.py:NAME` or `MODULE:NAME`, repeated to allow it; default None.
        prior: Its prior, `FILE.py:NAME`, repeated to allow it; default None.

    Returns:
        What its models were made of (key ``declaration`` of path.json), and the path.

    Raises:
        CodeNotTrusted: If the folder names code that is neither repeated nor trusted.
        ValueError: If it is no path, is damaged, was made from Python, or code of one's own has changed since.
    """
    folder = expanded(folder)
    index = read_index(folder)
    if index.get("declaration") is None:
        raise ValueError(
            f"{folder} was made from Python, by a function that is not stored: use SparsityPath.load there"
        )
    if not isinstance(index["declaration"], Mapping):
        raise ValueError(f"{folder / INDEX_FILE} is damaged: it does not say how its models are made")
    declared, trust = dict(index["declaration"]), CodeTrust(trust_code, network, prior)
    check_declared(folder / INDEX_FILE, declared, REMEDY)
    declaration = Declaration.from_dict(declared, trust, folder / INDEX_FILE)
    return declared, SparsityPath.load(folder, lambda value: _with(declaration, index["knob"], value).model())


def print_path(out: Path, path: SparsityPath) -> None:
    """Prints the table of a path, and what may be done next."""
    console = stdout()
    print_lines(console, str(path))
    declared = read_index(out)["declaration"]
    for note in declared.get("notes", ()):
        console.print(f"note: {note}", soft_wrap=True)
    console.print(f"written to {out}: path.json, {FRONT_FILE}, a folder for each fit")
    again = repeating(declared)
    console.print(f"next: bayesprune prune {out} --sparsity 0.95{again} --out {out}-pruned", soft_wrap=True)


def _declared_weights(folder: Path, start: StartingWeights) -> dict[str, Any]:
    """What a path's folder keeps of the weights that it starts from, beside the place of their file.

    Folders of earlier versions have no digest, and do not say of a new head either: they go on without both.
    """
    before = (read_index(folder)["declaration"] or {}) if (folder / INDEX_FILE).is_file() else {}
    if before.get("starting_weights") is not None and "weights_digest" not in before:
        return {"notes": list(start.notes)}
    new_head = {"new_head": True} if start.new_head else {}
    return {**new_head, "weights_digest": content_of(start.file), "notes": list(start.notes)}


def _with(declaration: Declaration, knob: str, value: float) -> Declaration:
    return replace(declaration, prior_settings={**declaration.prior_settings, knob: value})
