"""`bayesprune refit`: from a run folder to that of the posterior given the structure."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprune.commands.console import figure, percent, stdout, table
from bayesprune.commands.fitting import content_of, print_run
from bayesprune.commands.pruned_folder import read_folder_summary
from bayesprune.commands.pruning import MASKS_FILE
from bayesprune.data.sets import DataSplits
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.posterior.storage import FIT_FILE, write_fit
from bayesprune.inference.refitting.asked_gates import MEDIAN
from bayesprune.inference.refitting.refit import refit
from bayesprune.inference.refitting.score_forms import score_forms
from bayesprune.models.files.flushing import flush_folder
from bayesprune.models.files.places import expanded
from bayesprune.models.files.tensor_file import read_tensors
from bayesprune.models.files.unwritable import naming
from bayesprune.runs.code_trust import CodeTrust
from bayesprune.runs.declaration import Declaration
from bayesprune.runs.part_folder import writing_part
from bayesprune.runs.run_folder import SUMMARY_FILE, load_run, read_summary, run_data, write_rest
from bayesprune.runs.run_summary import summarise_run

__all__ = ["print_refit", "refit_run"]

_SCORES = ("accuracy", "rmse", "nll", "ece", "brier")
_REMEDY = "prune the run again"


def refit_run(
    run: str | Path,
    out: str | Path,
    gates: str = MEDIAN,
    restart: int | None = None,
    data_root: str | Path | None = None,
    trust_code: bool = False,
    network: str | None = None,
    prior: str | None = None,
    fresh: bool = False,
    progress: bool = False,
    **how: Any,
) -> dict[str, Any]:
    """Trains a run on with its gates fixed and writes a run folder, all of it or nothing.

    While it runs, its state and the trace so far stand in a folder of the run folder's name and ``.part``: a call with
    the same arguments goes on with what an earlier one has left there.

    Args:
        run: The run folder.
        out: The run folder to make.
        gates: ``"median"``, a probability in (0, 1) as a text, or a folder that `bayesprune prune` made of the run.
        restart: Which restart; default None: all of them.
        data_root: Folder where a named data set is looked for first.
        trust_code: Whether to run whatever code the folder names; default False.
        network: Its network, repeated to allow it; default None.
        prior: Its prior, repeated to allow it; default None.
        fresh: Whether what an earlier call has left is removed; default False.
        progress: Whether to show a progress line; default False.
        how: Options of `bayesprune.refit`; None: as in the run.

    Returns:
        The summary, as written to RUN/summary.json; ``forms`` has the test scores before and after, by form.

    Raises:
        CodeNotTrusted: If the folder names code that is neither repeated nor trusted.
        ValueError: For bad input, before training starts.
        NonFiniteLossError: If the loss becomes NaN or infinite.
        OSError: If the folder cannot be written after all.
    """
    run = expanded(run)
    earlier = read_summary(run)
    chosen, masks = _gates(gates)
    asked = {
        "run": f"{os.path.realpath(run)}, content {content_of(run / FIT_FILE)}", "gates": chosen,
        "content": None if masks is None else content_of(expanded(gates) / MASKS_FILE), "restart": restart, **how,
    }  # fmt: skip
    with writing_part(out, asked, fresh) as part:
        fit, splits = load_run(run, trust_code, network, prior), run_data(run, data_root)
        fit.keep_inputs(splits.train)
        validation = splits.validation if len(splits.validation[0]) else None
        given = {name: value for name, value in how.items() if value is not None}
        made = refit(
            fit,
            splits.train,
            masks if masks is not None else chosen if chosen == MEDIAN else float(chosen),
            restart=restart,
            validation=validation,
            callbacks=part.watchers,
            checkpoint=part.state,
            progress=progress,
            **given,
        )
        with part.filled() as folder:
            with naming(folder, part.folder):
                write_fit(made, folder)
                flush_folder(folder)
            declaration = Declaration.from_dict(earlier, CodeTrust(trust_code, network, prior), run / SUMMARY_FILE)
            summary = summarise_run(
                made,
                declaration,
                splits,
                data_seed=earlier["data_seed"],
                data_root=earlier["data_root"] if data_root is None else str(expanded(data_root).absolute()),
                starting_weights=earlier.get("starting_weights"),
                gating_settings=None,
                budget_settings=None,
                recipe=None,
                recipe_settings=None,
                tuned=None,
            )
            summary["refit_settings"] = {"run": str(run.absolute()), "gates": chosen, "restart": restart, **how}
            number = restart or 0
            summary["forms"] = {"before": _forms(fit, splits, number), "after": _forms(made, splits, 0)}
            with naming(folder, part.folder):
                write_rest(folder, made, summary)
    return summary


def _gates(given: str) -> tuple[str, dict[str, Tensor] | None]:
    """What --gates means: its word or number, or a folder with its masks."""
    if given == MEDIAN:
        return given, None
    try:
        float(given)
    except ValueError:
        folder = expanded(given)
        if not folder.is_dir():
            raise ValueError(
                f"--gates takes median, a probability in (0, 1), or a folder that bayesprune prune made, not {given!r}"
            ) from None
        summary = read_folder_summary(folder)
        if "rule" not in summary:
            raise ValueError(
                f"{folder} is a run folder, which keeps no masks: give one that bayesprune prune made of it"
            ) from None
        digest = summary.get("digests", {}).get(MASKS_FILE)
        found = read_tensors(folder / MASKS_FILE, _REMEDY, digest)
        return os.path.realpath(folder), {name: mask.bool() for name, mask in found.items()}
    if not 0.0 < float(given) < 1.0:
        raise ValueError(f"--gates takes a probability in (0, 1), not {given}: median is 0.5")
    return given, None


def _forms(fit: Fit, splits: DataSplits, restart: int) -> dict[str, Any]:
    """Test scores of each form by its name, and how much is undecided."""
    found = score_forms(fit, *splits.test, restart=restart)
    return {**{form: dict(row) for form, row in found.rows.items()}, "undecided": found.undecided}


def print_refit(run: Path, summary: Mapping[str, Any]) -> None:
    """Prints the scores of the forms before and after, and what the run came to."""
    forms = summary["forms"]
    rows = [(when, form, row) for when in forms for form, row in forms[when].items() if isinstance(row, Mapping)]
    scores = [name for name in _SCORES if any(name in row for _, _, row in rows)]
    shown = table("test scores", "form", *scores, "weights", numbers=(*scores, "weights"))
    for when, form, row in rows:
        cells = [_cell(name, row.get(name)) for name in scores]
        shown.add_row(when, form, *cells, f"{row['kept']:,.0f}")
    stdout().print(shown)
    undecided = [forms[when]["undecided"] for when in ("before", "after")]
    if None not in undecided:
        stdout().print(f"undecided probabilities: {percent(undecided[0])} before, {percent(undecided[1])} after, given")
    print_run(run, summary)


def _cell(name: str, value: float | None) -> str:
    if value is None:
        return ""
    return percent(value) if name == "accuracy" else figure(value)
