"""`bayesprune fit`: from names to a run folder."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from bayesprune.commands.asked_recipe import asked_recipe, parts_of, prior_of
from bayesprune.commands.console import figure, percent, stdout
from bayesprune.commands.showing_gates import what_is_left
from bayesprune.commands.tuning import asked_tuning, fit_tuned, print_tuned
from bayesprune.data.named_sets import DATASETS
from bayesprune.data.sets import load_data
from bayesprune.inference.data.data_units import ONLY_NOISE
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.posterior.storage import write_fit
from bayesprune.inference.rules.budget import Budget
from bayesprune.inference.rules.gate_training import Gating
from bayesprune.inference.rules.rule import Rule
from bayesprune.inference.training.fit import fit
from bayesprune.inference.training.fit_options import filled_in
from bayesprune.inference.training.laplace_around import laplace_around
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.files.flushing import flush_folder
from bayesprune.models.files.json_file import read_regular
from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import tensor_digest
from bayesprune.models.files.unwritable import naming
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.runs.code_trust import absolute, repeating
from bayesprune.runs.declaration import declare, resolve_prior
from bayesprune.runs.part_folder import note_what_is_left
from bayesprune.runs.run_folder import write_rest
from bayesprune.runs.run_processes import check_in_one_process, first_alone, part_of_all, runtime_here
from bayesprune.runs.run_summary import summarise_run
from bayesprune.runs.starting_weights import StartingWeights

__all__ = [
    "content_of",
    "fit_run",
    "note_what_is_left",
    "objective_line",
    "parse_settings",
    "print_run",
    "remarks",
    "scores_line",
]


R = TypeVar("R", Budget, Gating)


def parse_settings(pairs: Sequence[str], option: str = "--set") -> dict[str, Any]:
    """Reads `key=value` settings; values are JSON where they can be (numbers, true, null, lists), else text.

    Args:
        pairs: The settings.
        option: What gave them, for messages.

    Raises:
        ValueError: For a pair without an equals sign, a key that comes twice, or a value that is nested too deeply.
    """
    settings: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise ValueError(f"{option} takes KEY=VALUE, not {pair!r}")
        if key in settings:
            raise ValueError(f"{option} gives {key} twice: give it once")
        try:
            settings[key] = json.loads(value)
        except RecursionError as problem:
            raise ValueError(
                f"{option} gives {key} lists in lists that are too deep: give a number or a name"
            ) from problem
        except ValueError:  # no JSON, or a number of thousands of digits
            settings[key] = value
    return settings


def fit_run(
    out: str | Path,
    data: str,
    network: str,
    prior: str | None = None,
    settings: Mapping[str, Any] | None = None,
    on: tuple[str, ...] | None = None,
    likelihood: str | None = None,
    weights: str | Path | None = None,
    new_head: bool = False,
    network_settings: Mapping[str, Any] | None = None,
    data_root: str | Path | None = None,
    seed: int = 0,
    epochs: int | None = None,
    width: float = 1.0,
    gating: Mapping[str, Any] | None = None,
    budget: Mapping[str, Any] | None = None,
    fresh: bool = False,
    progress: bool = False,
    tune: Any = None,
    recipe: tuple[str | None, Mapping[str, Any]] = (None, {}),
    **how: Any,
) -> dict[str, Any]:
    """Fits what is named and writes a run folder, all of it or nothing.

    Where torchrun or srun has started several processes, all of them fit together (`FabricRuntime`), and the first one
    alone writes.

    While it runs, its state and the trace so far stand beside the run folder's place, in a folder of its name and
    ``.part``: a call with the same arguments goes on with what an earlier one has left there. The fit is written
    before anything is scored or drawn.

    Args:
        out: The run folder to make.
        data: A data set by name, a folder or a file.
        network: A name in `NETWORKS`, or `MODULE:NAME`.
        prior: A name in `PRIORS`, or `FILE.py:NAME`; default None, with a recipe only: a Gaussian by weight decay.
        settings: Settings of the prior.
        on: Patterns of the parameters that get the prior; default all weights.
        likelihood: A name; default by the targets.
        weights: A file of weights to start from (`StartingWeights`); default random ones.
        new_head: Whether the last layer starts anew all the same; default False.
        network_settings: Arguments by name of a network of one's own; default none.
        data_root: Folder where a named data set is looked for first.
        seed: Of the first restart and of the validation split.
        epochs: Passes over the training data; 0: none, `laplace_around` the network of `weights`. Default None: as
            `bayesprune.fit`, or 0 for the prior ``"reduction"`` with `weights`.
        width: Multiplies the widths of the network's hidden layers; default 1.
        gating: Arguments of `Gating`, for the prior ``"unit-gates"``; default none.
        budget: Arguments of `Budget`, such as ``{"density": 0.02}``, or with a `LayerBudget`; default none: no budget.
            With a recipe its density or layout.
        fresh: Whether what an earlier call has left is removed, and the fit begins anew; default False.
        progress: Whether to show a progress line; default False.
        tune: Knobs that are tuned on validation data before the fit: `kl_weight` and settings of the prior, as texts of
            ``--tune`` or as `bayesprune.tune` takes them; default none.
        recipe: Sparse training: a name in `RECIPES` and its settings; default none.
        how: Further arguments of `bayesprune.fit`: guide, steps, restarts, ...; and ``batch_norm``: whether several
            processes normalise batches ``"apart"`` (default) or ``"synchronised"``.

    Returns:
        The summary, as written to RUN/summary.json; of several processes in the first one, in the others nothing.

    Raises:
        ValueError: For bad input, before training starts.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        OSError: If the folder cannot be written after all.
        LostProcessError: If another process of the fit has ended.
    """
    given = {"--tune": tune, "--gating": gating or None, "--epochs 0": epochs if epochs == 0 else None}
    chosen, recipe_settings = recipe
    made = asked_recipe(chosen, recipe_settings, budget or {}, prior, given)
    prior, settings = prior_of(prior, settings, made)
    steps, batch_norm = how.setdefault("steps", None), how.pop("batch_norm", "apart")
    if epochs is None and steps is None and prior == "reduction" and weights is not None:
        epochs = 0
    check_in_one_process({"--tune": tune, "a Laplace approximation (--epochs 0)": epochs if epochs == 0 else None})
    if epochs == 0:
        _check_nothing_trained(weights, how)
    if new_head and weights is None:
        raise ValueError("--new-head starts the last layer of --weights anew, but there are none: leave it out")
    if weights is not None and how.get("standardise") is None:
        how["standardise"] = ONLY_NOISE  # they were trained as they are
    declared = resolve_prior(prior, settings or {}, data_size=1)  # a misspelt name is told before data are fetched
    rules: list[Rule] = [*made.rules] if made else [] if not budget else [_rule(Budget, budget, "--budget")]
    if isinstance(declared, UnitGates):
        rules.append(_rule(Gating, gating or {}, "--gating"))
    elif gating:
        raise ValueError(f"--gating is about the gates of --prior unit-gates, which {prior} has not: leave it out")
    tuning = None if tune is None else asked_tuning(tune, prior, settings or {}, epochs)
    name = data if data in DATASETS else str(expanded(data).absolute())
    root = None if data_root is None else str(expanded(data_root).absolute())
    begins_at = None if weights is None else expanded(weights)
    start = None if begins_at is None else StartingWeights(begins_at, new_head)
    asked = {
        "data": data if data in DATASETS else os.path.realpath(name), "network": absolute(network), "width": width,
        "network_settings": dict(network_settings or {}), "new_head": new_head,
        "network_code": _code_of(network), "prior": absolute(prior), "prior_settings": dict(settings or {}),
        "on": on and list(on), "guide": how.get("guide"), "seed": seed, "likelihood": likelihood, "epochs": epochs,
        "weights": None if begins_at is None else f"{os.path.realpath(begins_at)}, content {content_of(begins_at)}",
        **{key: value for key, value in how.items() if key not in ("callbacks", "rules")}, "gating": dict(gating or {}),
        "budget": _as_json(budget or {}), "tune": None if tuning is None else tuning.knobs,
        "recipe": chosen, "recipe_settings": None if made is None else dict(recipe_settings),
        "batch_norm": None if batch_norm == "apart" else batch_norm,
    }  # fmt: skip
    asked = filled_in(asked)
    _refuse_infinity(asked)
    runtime = runtime_here(how, batch_norm)
    with part_of_all(runtime, out, asked, fresh) as part:
        splits = first_alone(runtime, lambda: load_data(name if Path(name).exists() else data, seed=seed, root=root))
        parts = parts_of(made)
        declaration = declare(splits, network, prior, settings, on, likelihood, width, network_settings, parts)
        model = declaration.model(seed, start)
        tuned = None
        if epochs == 0:
            fitted = laplace_around(model, splits.train)
        else:
            validation = splits.validation if len(splits.validation[0]) else None
            arguments = {
                "epochs": epochs, "validation": validation, "seed": seed, "progress": progress, **how,
                "rules": [*rules, *how.get("rules", ())],
                "callbacks": [*how.get("callbacks", ()), *part.watchers],
            }  # fmt: skip
            if tuning is None:
                fitted = fit(model, splits.train, checkpoint=part.state, runtime=runtime, **arguments)
            else:
                fitted, declaration, tuned = fit_tuned(tuning, declaration, splits, start, part, arguments)
        if runtime is not None and runtime.rank > 0:
            return {}
        with part.filled() as folder:
            with naming(folder, part.folder):
                write_fit(fitted, folder)
                flush_folder(folder)
            summary = summarise_run(
                fitted,
                declaration,
                splits,
                data_seed=seed,
                data_root=root,
                starting_weights=None if begins_at is None else str(begins_at.absolute()),
                gating_settings=dict(gating or {}) if isinstance(declared, UnitGates) else None,
                budget_settings=_as_json(budget) if budget else None,
                recipe=chosen,
                recipe_settings=None if made is None else dict(recipe_settings),
                tuned=None if tuned is None else tuned.rows(),
            )
            summary["notes"] += [*([] if start is None else start.notes), *([] if tuned is None else tuned.notes)]
            with naming(folder, part.folder):
                write_rest(folder, fitted, summary)
    return summary


def content_of(file: Path) -> str:
    """Hexadecimal digits of a file's content; none where there is no such file, which is told later."""
    return tensor_digest(read_regular(file, "give another one")) if file.is_file() else "none"


def _code_of(network: str) -> str | None:
    """Hexadecimal digits of the file that a network of one's own stands in, whose forward nothing else tells."""
    place, colon, _ = network.rpartition(":")
    if not colon:
        return None
    if not place.endswith(".py"):
        try:
            found = importlib.util.find_spec(place)
        except (ImportError, ValueError):  # told when it is imported
            return None
        place = "" if found is None or found.origin is None else found.origin
    file = expanded(place) if place else None
    return content_of(file) if file is not None and file.is_file() else None


def _as_json(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Settings as JSON holds them: of a budget by layer its rows."""
    return {key: one.rows() if isinstance(one, LayerBudget) else one for key, one in settings.items()}


def _refuse_infinity(asked: Mapping[str, Any]) -> None:
    for name, value in asked.items():
        try:
            json.dumps(value, allow_nan=False)
        except ValueError as problem:
            raise ValueError(f"--{name.replace('_', '-')} is {value}: give finite numbers") from problem


def _rule(kind: type[R], settings: Mapping[str, Any], option: str) -> R:
    """A rule of the fit by the settings of its option."""
    known = [one.name for one in fields(kind)]
    unknown = [key for key in settings if key not in known]
    if unknown:
        raise ValueError(f"{option} knows no {unknown[0]!r}: its settings are {', '.join(known)}")
    return kind(**settings)


def _check_nothing_trained(weights: str | Path | None, how: Mapping[str, Any]) -> None:
    """Refuses what makes no sense where nothing is trained."""
    if weights is None:
        raise ValueError("--epochs 0 trains nothing, so it needs a trained network: give --weights FILE")
    if how.get("guide") not in (None, "meanfield"):
        raise ValueError(f"--epochs 0 makes a mean-field guide around the weights: leave out --guide {how['guide']}")
    if how.get("standardise"):
        raise ValueError("--epochs 0 trains nothing, and the network stays as it is: leave out --standardise")
    if how.get("restarts", 1) != 1:
        raise ValueError("--epochs 0 trains nothing, so restarts would all be the same: leave out --restarts")


def print_run(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints what a fit came to in a few lines, and what may be done next."""
    median = summary["median_probability_sparsity"]
    sparsity = f"{summary['nonzero']:,} of {summary['weights']:,} weights, sparsity "
    lines = [f"test {scores_line(summary)}", sparsity + percent(summary["sparsity"], 2)]
    if median is not None:
        lines.append(f"median-probability sparsity {percent(median, 2)} ({', '.join(summary['kinds'])})")
    if summary["units"] is not None:
        lines.append(what_is_left(summary))
    lines += [objective_line(summary), f"{summary['converged']}: {summary['convergence']}"]
    lines += remarks(summary)
    by_itself = median is not None or ("atom" in summary["kinds"] and summary["sparsity"] > 0)
    rule = "--min-inclusion 0.5" if by_itself else "--sparsity 0.95"
    rule = "" if summary.get("masks") else f" {rule}"
    if "execution" in summary:  # where something was trained
        lines.append(str(ExecutionReport(**summary["execution"])))
    lines.append(f"{summary['seconds']:.1f} s, written to {run}")
    again = repeating(summary)
    if median is not None and not summary.get("refit"):
        lines.append(f"to fix which weights are in, and train them on: bayesprune refit {run}{again} --out {run}-refit")
    lines.append(f"next: bayesprune show {run} --plots{again}; bayesprune prune {run}{rule}{again} --out {run}-pruned")
    print_tuned(summary)
    for line in lines:
        stdout().print(line, soft_wrap=True)


def scores_line(summary: Mapping[str, Any]) -> str:
    """The scores that a summary has, in a line."""
    parts = [
        None if summary["test_accuracy"] is None else f"accuracy {percent(summary['test_accuracy'])}",
        None if summary["test_rmse"] is None else f"rmse {figure(summary['test_rmse'])}",
        None if summary["nll"] is None else f"nll {figure(summary['nll'])} nats",
        None if summary["ece"] is None else f"ece {figure(summary['ece'])}",
    ]
    covered = [summary.get(f"test_coverage_{share}") for share in (50, 90)]
    if None not in covered:
        parts.append(f"intervals of 50 and 90 % cover {percent(covered[0])} and {percent(covered[1])}")
    return ", ".join(part for part in parts if part) or "no score"


def objective_line(summary: Mapping[str, Any]) -> str:
    """What was maximised, and what the fit chose of it by itself."""
    elbo, line = summary["elbo"], "not tempered"  # points and improper priors have no ELBO
    if summary["tempered"]:
        line = f"tempered, KL weight {figure(summary.get('kl_weight'))}"
        line += "" if elbo is None else " (1 is the ELBO: --kl-weight 1)"
    line += "" if elbo is None else f", ELBO {elbo:,.0f} nats"
    told = {
        "steps": f"{summary.get('steps') or 0:,} steps",
        "kl_weight": f"KL weight {figure(summary.get('kl_weight'))}",
        "kl_warmup": f"fade-in over {figure(summary.get('kl_warmup'))} of the steps",
    }
    chosen = [told[name] for name in summary.get("chosen", ()) if name in told]
    return f"objective: {line}{'; chosen by rule: ' if chosen else ''}{', '.join(chosen)}"


def remarks(summary: Mapping[str, Any]) -> list[str]:
    """What a user should know besides, a line each."""
    lines = [f"note: {note}" for note in summary["notes"]]
    # Notes of earlier versions do not say it; one that does is a sentence, and no bare name.
    said = any(name in note != name for name in summary["collapsed"] for note in summary["notes"])
    if summary["collapsed"] and not said:
        empty = ", ".join(summary["collapsed"])
        lines.append(f"note: nothing is left of {empty}: fit longer, or declare a prior of more density")
    if summary.get("batch_normalisation") is not None:  # runs of earlier versions do not say
        lines.append(f"batch normalisation: {summary['batch_normalisation']}")
    return lines
