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
from bayesprune.commands.pruned_folder import load_pruned, read_folder_summary, scaling_of
from bayesprune.commands.pruning import COMPACT_FILE, WEIGHTS_FILE
from bayesprune.data.files import ARRAY_ERRORS, reason_of
from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.predictions.predictive_intervals import intervals_at
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.files.new_file import check_new_file, new_file
from bayesprune.models.files.places import expanded
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.networks.placing import like, looks_up
from bayesprune.runs.run_folder import load_run, run_data

__all__ = ["Predicted", "predict_file", "print_predicted"]

DRAWS, BATCH_SIZE = 32, 1024
SUFFIXES = (".npz", ".csv")
UNSCALED = 5.0
"""Root mean square above which inputs do not look standardised: that of standardised ones is near 1."""


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
    summary = read_folder_summary(source)
    x = _read_inputs(inputs, summary["input_shape"])
    pruned = "rule" in summary
    if pruned and (draws is not None or restart is not None):
        raise ValueError(f"{source} holds one pruned network: leave --draws and --restart out, or name the run")
    if pruned:
        made, likelihood = load_pruned(source, trust_code, network, prior)
    else:
        fit = load_run(source, trust_code, network, prior)
    if looks_up(made if pruned else fit.model.network):
        x, done = _whole(x, inputs), "taken as tokens"
    elif raw or x.dtype == np.uint8:
        scaling = scaling_of(summary, Path(source)) if pruned else input_scaling(run_data(source, data_root))
        if not raw and scaling["divisor"] == 1:
            raise ValueError(
                f"{inputs} holds bytes, but the training data were no images of bytes: give numbers, standardised as "
                "they were, or --raw"
            )
        x, done = scaled_like_training(x, scaling), "scaled as the training data were"
    else:
        x, done = x.astype(np.float64), "taken as standardised like the training data"
    tensor = torch.from_numpy(np.ascontiguousarray(x))
    notes: tuple[str, ...] = ()
    if pruned:
        outputs, sd = _by_network(made, tensor, batch_size), None
        mean = likelihood.predict(outputs)
        # Folders of earlier versions do not say which scale was learned.
        known = likelihood.is_ordered and not any(True for _ in likelihood.parameters())
        ends = intervals_at(likelihood, [outputs], interval) if known else None
        is_compact = summary["compact_parameters"] is not None
        by = f"the {'compact' if is_compact else 'pruned'} network"
        weights = COMPACT_FILE if is_compact else WEIGHTS_FILE
    else:
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


@torch.no_grad()
def _by_network(network: nn.Module, x: Tensor, batch_size: int) -> Tensor:
    try:
        return outputs_at(network, {}, like(x, next(network.parameters())), batch_size)
    except (RuntimeError, ValueError, IndexError) as problem:
        reason = first_line(problem)
        raise ValueError(f"the network does not take inputs of shape {tuple(x.shape)} ({reason})") from problem


def _classes(likelihood: Likelihood, mean: Tensor) -> NDArray[np.int64] | None:
    if not likelihood.is_labels:
        return None
    found = mean.argmax(dim=-1) if mean.ndim == 2 else (mean > 0.5).long()
    classes: NDArray[np.int64] = found.numpy()
    return classes


# ------------------------------------------------------------------------------------------------------ reading


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


def _whole(x: NDArray[Any], file: Path) -> NDArray[np.int64]:
    """Tokens, which a network looks up by number."""
    if x.dtype.kind == "f" and (wrong := int(np.count_nonzero(x != np.round(x)))):
        raise ValueError(
            f"{file} holds {wrong:,} numbers that are not whole, but the network looks its inputs up by number: give "
            "tokens, as the training data were"
        )
    return x.astype(np.int64)


def _notes(x: NDArray[Any]) -> tuple[str, ...]:
    if x.dtype == np.int64:
        return ()
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
