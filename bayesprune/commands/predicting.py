"""`bayesprune predict`: predictions of a run, or of a pruned network, for inputs in a file."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bayesprune.commands.console import figure, stdout
from bayesprune.commands.input_scaling import input_scaling, scaled_like_training
from bayesprune.commands.pruning import COMPACT_FILE, PLAN_FILE, WEIGHTS_FILE
from bayesprune.data.files import ARRAY_ERRORS, reason_of
from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.predictions.outputs_at import outputs_at
from bayesprune.inference.predictions.predictive_intervals import intervals_at
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.checks.size_bounds import checked_count, checked_input_shape, checked_settings, checked_width
from bayesprune.models.deployment.export_trace import run_traced, trace
from bayesprune.models.deployment.network_source import network_source
from bayesprune.models.files.json_file import damaged, need, read_json
from bayesprune.models.files.new_file import check_new_file, new_file
from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import infinite_buffers, not_finite, read_tensors
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.standardisation import put_in_units, units_of
from bayesprune.models.units.cutting import cut
from bayesprune.runs.code_trust import CodeTrust, allowed_code
from bayesprune.runs.declaration import make_network
from bayesprune.runs.run_folder import SUMMARY_FILE, load_run, run_data

__all__ = ["Predicted", "load_pruned", "predict_file", "print_predicted"]

DRAWS, BATCH_SIZE = 32, 1024
SUFFIXES = (".npz", ".csv")
UNSCALED = 5.0
"""Root mean square above which inputs do not look standardised: that of standardised ones is near 1."""
_REMEDY = "make the folder again"
_PRUNED: dict[str, Any] = {
    "rule": str, "network": str, "input_shape": list, "outputs": int, "likelihood": dict, "input_scaling": dict,
    "compact_parameters": (int, type(None)),
}  # fmt: skip
_LATER: dict[str, Any] = {"width": float, "digests": dict, "network_settings": dict}
"""Keys that earlier versions did not write."""


@dataclass(frozen=True)
class Predicted:
    """What was predicted, in the order of the inputs.

    Attributes:
        mean: Mean of the observation: probabilities `(n, classes)`, else `(n,)` or `(n, d)` as the targets.
        sd: Standard deviation of that mean over draws of the weights, not of the observation; None for one network.
        classes: The most probable class, `(n,)`; None for a regression.
        lower: Lower ends of predictive intervals of a regression, like `mean`; None for labels.
        upper: Their upper ends.
        by: What predicted, in words.
        inputs: What was done to the inputs, in words.
        notes: What a user should know besides.
    """

    mean: NDArray[Any]
    sd: NDArray[Any] | None
    classes: NDArray[np.int64] | None
    lower: NDArray[Any] | None
    upper: NDArray[Any] | None
    by: str
    inputs: str
    notes: tuple[str, ...] = ()


def predict_file(
    source: str | Path,
    inputs: str | Path,
    out: str | Path,
    draws: int | None = None,
    batch_size: int = BATCH_SIZE,
    restart: int | None = None,
    raw: bool = False,
    data_root: str | Path | None = None,
    trust_code: bool = False,
    network: str | None = None,
    prior: str | None = None,
    interval: float = 0.9,
) -> Predicted:
    """Predicts for the inputs in a file and writes a file of predictions, all of it or nothing.

    Args:
        source: A run folder, whose predictions are averaged over draws of the weights (one for a MAP), or the folder
            of a pruned network. Of a folder with a compact network, that one predicts.
        inputs: A file `.npy` with an array `(n, *input_shape)`. Floating-point numbers are taken as standardised
            like the training data, unless `raw`. Bytes are taken as images as they came, and scaled, if the
            training data were bytes of images; they may then come as `(n, height, width)`.
        out: The file to write: `.npz` with the arrays ``mean``, ``sd``, ``class``, ``lower`` and ``upper``, or `.csv`
            with the columns ``class``, ``mean_0``, ..., ``sd_0``, ..., ``lower_0``, .... There is no sd where only one
            network predicts, no class for a regression, and no ends of intervals for labels.
        draws: Draws of the weights; default 32. Only for a run.
        batch_size: Examples a forward pass; default 1024.
        restart: Which restart of a run; default the first.
        raw: Whether numbers are in the units of the data file, to be scaled as the training data were.
        data_root: Folder where a run's data, which tell the scaling, are looked for.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, repeated to allow it; default None.
        prior: Its prior, repeated to allow it; default None.
        interval: Probability of the predictive intervals of a regression, noise included; default 0.9.

    Returns:
        What was predicted.

    Raises:
        CodeNotTrusted: If the folder names code that is neither repeated nor trusted.
        ValueError: For bad input, before anything is predicted; if a prediction is NaN or infinite.
        OSError: If the file cannot be written.
    """
    source, inputs, out = expanded(source), expanded(inputs), expanded(out)
    if out.suffix not in SUFFIXES:
        raise ValueError(f"--out takes a file {' or '.join(SUFFIXES)}, not {out.name}")
    check_new_file(out, "--out")
    if batch_size < 1:
        raise ValueError(f"--batch-size must be at least 1, not {batch_size}")
    if not 0.0 < interval < 1.0:
        raise ValueError(f"--interval is the probability of an interval, in (0, 1), not {interval}")
    summary = _read_summary(source)
    x = _read_inputs(inputs, summary["input_shape"])
    pruned = "rule" in summary
    if pruned and (draws is not None or restart is not None):
        raise ValueError(f"{source} holds one pruned network: leave --draws and --restart out, or name the run")
    if raw or x.dtype == np.uint8:
        scaling = _scaling(summary, Path(source)) if pruned else input_scaling(run_data(source, data_root))
        if not raw and scaling["divisor"] == 1:
            raise ValueError(
                f"{inputs} holds bytes, but the training data were no images of bytes: give numbers, standardised as "
                "they were, or --raw"
            )
        x, done = scaled_like_training(x, scaling), "scaled as the training data were"
    else:
        done = "taken as standardised like the training data"
    tensor = torch.from_numpy(np.ascontiguousarray(x, dtype=np.float64))
    notes: tuple[str, ...] = ()
    if pruned:
        made, likelihood = load_pruned(source, trust_code, network, prior)
        outputs, sd = _by_network(made, tensor, batch_size), None
        mean = likelihood.predict(outputs)
        # Folders of earlier versions do not say which scale was learned.
        known = likelihood.is_ordered and not any(True for _ in likelihood.parameters())
        ends = intervals_at(likelihood, [outputs], interval) if known else None
        is_compact = summary["compact_parameters"] is not None
        by = f"the {'compact' if is_compact else 'pruned'} network"
        weights = COMPACT_FILE if is_compact else WEIGHTS_FILE
    else:
        fit = load_run(source, trust_code, network, prior)
        notes = _with_inputs(fit, source, data_root)
        found = fit.predict(tensor, draws if draws is not None else DRAWS, restart or 0, batch_size)
        mean, sd = found.mean, found.sd if len(found.draws) > 1 else None
        likelihood = fit.restarts[restart or 0].model.likelihood
        ends = None
        if likelihood.is_ordered:
            within = fit.predictive_intervals(tensor, interval, draws or DRAWS, restart or 0, batch_size)
            ends = within.lower, within.upper
        by = f"{len(found.draws)} draws of the weights" if sd is not None else "one network"
        weights = f"restart-{restart or 0}.safetensors"
    for predictions in (mean, sd, *(ends or ())):
        _require_finite(predictions, source / weights, inputs)
    lower, upper = (None, None) if ends is None else (ends[0].numpy(), ends[1].numpy())
    spread, said = None if sd is None else sd.numpy(), _notes(x) + notes
    predicted = Predicted(mean.numpy(), spread, _classes(likelihood, mean), lower, upper, by, done, said)
    with new_file(out) as staged:
        (_write_npz if out.suffix == ".npz" else _write_csv)(staged, predicted)
    return predicted


def _with_inputs(fit: Fit, run: Path, data_root: str | Path | None) -> tuple[str, ...]:
    """Gives a fit with batch normalisation the run's training inputs; a note where they cannot be had."""
    if not tracked_layers(fit.model.network):
        return ()
    try:
        fit.keep_inputs(run_data(run, data_root).train)
    except (ValueError, OSError) as problem:
        return (
            "batch normalisation has the running statistics of the training, which are not those of a draw, as the "
            f"training data are not at hand: {problem}",
        )
    return ()


def print_predicted(source: Path, out: Path, predicted: Predicted) -> None:
    """Prints what was written, in a line, and notes."""
    stdout().print(
        f"{len(predicted.mean):,} predictions by {predicted.by} of {source}, inputs {predicted.inputs}; written to "
        f"{out}: {', '.join(_arrays(predicted))}",
        soft_wrap=True,
    )
    for note in predicted.notes:
        stdout().print(f"note: {note}", soft_wrap=True)


def _require_finite(predictions: Tensor | None, weights: Path, inputs: str | Path) -> None:
    """Refuses predictions that are no numbers: NaN would come out as class 0, and infinity as a certainty."""
    wrong = None if predictions is None else ~predictions.isfinite().reshape(len(predictions), -1).all(dim=1)
    if wrong is not None and bool(wrong.any()):
        raise ValueError(
            f"the weights of {weights} give NaN or infinity for {int(wrong.sum()):,} of {len(wrong):,} inputs, the "
            f"first at index {int(wrong.nonzero()[0])} of {inputs}: the weights are damaged, or the inputs too large"
        )


def load_pruned(
    folder: str | Path, trust_code: bool = False, network: str | None = None, prior: str | None = None
) -> tuple[nn.Module, Likelihood]:
    """Reads the network of a folder that `bayesprune prune` made, and what its outputs mean, onto the CPU.

    The network is built by its name and given the folder's weights; a compact one is cut by the folder's plan.
    The folder's own ``network.py`` is not run.

    Args:
        folder: The folder.
        trust_code: Whether to run the code of a network of one's own that the folder names; default False.
        network: That network, `FILE.py:NAME` or `MODULE:NAME`, repeated to allow it; default None.
        prior: The prior of its run; it is not made, but has to be the one that the folder names. Default None.

    Returns:
        The network, in evaluation mode, and its likelihood.

    Raises:
        CodeNotTrusted: If the network is code that is neither repeated nor trusted.
        ValueError: If it is no such folder, a file is damaged, or the network's code is gone.
    """
    folder = expanded(folder)
    summary, trust, where = _read_summary(folder), CodeTrust(trust_code, network, prior), folder / SUMMARY_FILE
    if "rule" not in summary:
        raise ValueError(f"{folder} is a run folder: read it with load_run, or prune it first")
    if prior is not None and "prior" in summary:
        allowed_code({"prior": summary["prior"]}, trust, where)
    reference = allowed_code({"network": summary["network"]}, trust, where)["network"]
    compact = summary["compact_parameters"] is not None
    name = COMPACT_FILE if compact else WEIGHTS_FILE
    file = folder / name
    # Infinity may stand in buffers that are no statistics; which they are is known when there is a network.
    state = read_tensors(file, _REMEDY, summary.get("digests", {}).get(name), may_be_infinite=None)
    dtype = next((value.dtype for value in state.values() if value.is_floating_point()), torch.float32)
    shape = summary["input_shape"]
    with torch.random.fork_rng(devices=[]):
        settings = summary["network_settings"]
        made = make_network(reference, shape, summary["outputs"], summary["width"], settings).to(dtype).eval()
    try:
        if units_of(state):
            put_in_units(made, units_of(state))
        if compact:
            example = torch.zeros(2, *shape, dtype=dtype)
            made = cut(made, example, read_json(folder / PLAN_FILE, _REMEDY))
            _load_exported(made, state, example)
        else:
            made.load_state_dict(state)
        likelihood = Likelihood.from_config(summary["likelihood"])
        scales = getattr(likelihood, "unit", None)
        if scales is not None and len(scales) != summary["outputs"]:
            raise ValueError(f"the noise has {len(scales)} scales for {summary['outputs']} outputs")
    except (RuntimeError, ValueError, TypeError, KeyError, IndexError, AttributeError) as problem:
        reason = " ".join(str(problem).split())[:200]
        raise ValueError(f"the files of {folder} do not fit each other ({reason}): prune the run again") from problem
    wrong = not_finite(made.state_dict(), infinite_buffers(made))
    if wrong is not None:
        raise ValueError(f"{file} holds NaN or infinity in {wrong}: {_REMEDY}")
    return made.eval(), likelihood


@torch.no_grad()
def _load_exported(network: nn.Module, state: Mapping[str, Tensor], example: Tensor) -> None:
    """Fills a compact network from a file of `export_network`, which has flat names for its layers."""
    graph = trace(network, (example,))
    tensors, _ = run_traced(network, graph, (example,))
    own = network_source(network, graph, tensors).state
    wrong = [name for name in {**own, **state} if name not in own or name not in state]
    wrong += [name for name in own.keys() & state.keys() if own[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"{wrong[0]} is not the same in the plan and in the weights")
    for name, tensor in own.items():  # these are views of the network's own
        tensor.copy_(state[name])


@torch.no_grad()
def _by_network(network: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    x = x.to(next(network.parameters()).dtype)
    try:
        return outputs_at(network, {}, x, batch_size)
    except (RuntimeError, ValueError) as problem:
        reason = first_line(problem)
        raise ValueError(f"the network does not take inputs of shape {tuple(x.shape)} ({reason})") from problem


def _classes(likelihood: Likelihood, mean: Tensor) -> NDArray[np.int64] | None:
    if not likelihood.is_labels:
        return None
    found = mean.argmax(dim=-1) if mean.ndim == 2 else (mean > 0.5).long()
    classes: NDArray[np.int64] = found.numpy()
    return classes


# ------------------------------------------------------------------------------------------------------ reading


def _read_summary(folder: Path) -> dict[str, Any]:
    """The summary of a run folder or of the folder of a pruned network; the latter has the key ``rule``."""
    if not folder.is_dir():
        raise ValueError(f"there is no folder {folder}: name one that bayesprune fit or prune made")
    if not (folder / SUMMARY_FILE).is_file():
        raise ValueError(f"{folder} is neither a run folder nor one of a pruned network: it has no {SUMMARY_FILE}")
    file = folder / SUMMARY_FILE
    found = read_json(file, _REMEDY)
    needed: dict[str, Any] = _PRUNED if "rule" in found else {"input_shape": list}
    missing = [key for key in needed if key not in found]
    if missing:
        raise ValueError(
            f"{file} lacks {', '.join(missing[:3])}: it is damaged or of an older version, so make the folder again"
        )
    need(file, found, {**needed, **{key: kind for key, kind in _LATER.items() if key in found}}, _REMEDY)
    try:
        found["input_shape"] = checked_input_shape(found["input_shape"])
        if "rule" in found:
            found["outputs"] = checked_count(found["outputs"], "outputs")
            found["width"] = checked_width(found.get("width", 1.0))
            found["network_settings"] = checked_settings(found.get("network_settings", {}), "network_settings")
    except ValueError as problem:
        raise damaged(file, problem, _REMEDY) from problem
    return found


def _scaling(summary: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """How inputs were scaled, as the summary of a pruned network says it."""
    found, shape = summary["input_scaling"], summary["input_shape"]
    try:
        divisor, mean, sd = (np.asarray(found[key], dtype=np.float64) for key in ("divisor", "mean", "sd"))
        known = [shape] if len(shape) != 3 else [shape, shape[:1]]
        fits = divisor.shape == () and mean.shape == sd.shape and sd.shape in known
        finite = fits and all(np.isfinite(part).all() for part in (divisor, mean, sd))
        if not finite or divisor <= 0 or (sd <= 0).any():
            raise ValueError("a divisor, a mean and a positive sd are expected")
    except (TypeError, KeyError, ValueError, OverflowError) as problem:
        raise damaged(folder / SUMMARY_FILE, f"input_scaling: {problem}", _REMEDY) from problem
    return {"divisor": found["divisor"], "mean": mean, "sd": sd}


def _read_inputs(file: Path, input_shape: tuple[int, ...]) -> NDArray[Any]:
    """The array of a `.npy` file, `(n, *input_shape)`, finite."""
    if not file.is_file():
        raise ValueError(f"there is no file {file}: --input takes a file .npy")
    try:
        with file.open("rb") as stream:
            x: NDArray[Any] = np.lib.format.read_array(stream, allow_pickle=False)
    except ARRAY_ERRORS as problem:
        raise ValueError(
            f"{file} cannot be read as a .npy file of numbers ({reason_of(problem)}): write the inputs with numpy.save"
        ) from problem
    if x.dtype.kind not in "fiu":
        raise ValueError(f"{file} has dtype {x.dtype}, but real numbers are expected")
    if x.dtype == np.uint8 and len(input_shape) == 3 and x.ndim == 3 and (1, *x.shape[1:]) == input_shape:
        x = x[:, None]  # grey images without the dimension of channels
    if x.shape[1:] != input_shape or not len(x):
        one = " (for one example add a first dimension: x[None])" if x.shape == input_shape else ""
        expected = ", ".join(["n", *map(str, input_shape)])
        raise ValueError(f"{file} has shape {x.shape}, but ({expected}) is expected, n at least 1{one}")
    wrong = int(np.count_nonzero(~np.isfinite(x)))
    if wrong:
        raise ValueError(f"{file} holds {wrong} NaN or infinite numbers: remove or fill them")
    return x


def _notes(x: NDArray[Any]) -> tuple[str, ...]:
    rms = math.sqrt(float(np.mean(np.square(x, dtype=np.float64))))
    if rms <= UNSCALED:
        return ()
    return (
        f"the root mean square of the inputs is {figure(rms)}, that of the training data near 1: if they are in the "
        "units of the data file, give --raw",
    )


# ------------------------------------------------------------------------------------------------------ writing


def _arrays(predicted: Predicted) -> Mapping[str, NDArray[Any]]:
    """What there is of mean, sd, class and the ends of intervals, by name."""
    arrays = {"mean": predicted.mean, "sd": predicted.sd, "class": predicted.classes}
    arrays |= {"lower": predicted.lower, "upper": predicted.upper}
    return {name: array for name, array in arrays.items() if array is not None}


def _write_npz(file: Path, predicted: Predicted) -> None:
    with file.open("wb") as stream:
        np.savez(stream, **dict(_arrays(predicted)))  # type: ignore[arg-type]


def _write_csv(file: Path, predicted: Predicted) -> None:
    columns: dict[str, NDArray[Any]] = {}
    if predicted.classes is not None:
        columns["class"] = predicted.classes
    for name, array in _arrays(predicted).items():
        if name != "class":
            wide = array.reshape(len(array), -1)
            columns |= {f"{name}_{number}": wide[:, number] for number in range(wide.shape[1])}
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*(column.astype(str) for column in columns.values()), strict=True))
