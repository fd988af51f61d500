"""The front of a sweep on disk: FOLDER/front.json, and FOLDER/front.png where there is something to draw."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from bayesprune.analysis.plots.sweep import plot_sweep
from bayesprune.models.files.json_file import write_json
from bayesprune.sweeps.sweep_result import COMPLETE, Sweep

__all__ = ["FIGURE_FILE", "FRONT_FILE", "front_object", "write_front"]

FRONT_FILE, FIGURE_FILE = "front.json", "front.png"
FORMAT = 1
"""Number of the format of front.json."""
_NO_SCORES = ("resumed_at_epoch",)
"""What fits have that has no mean."""


def write_front(sweep: Sweep) -> list[Path]:
    """Writes what the settings of a sweep came to and which are on its fronts, and draws them; replaces earlier files.

    Args:
        sweep: The sweep, as far as it is.

    Returns:
        The files that were written; none where no fit is complete.

    Raises:
        Unwritable: If they cannot be written.
    """
    if not sweep.settings:
        return []
    written = [sweep.folder / FRONT_FILE]
    write_json(written[0], front_object(sweep))
    if sweep.sizes:
        written.append(sweep.folder / FIGURE_FILE)
        plot_sweep(sweep, path=written[1])
    return written


def front_object(sweep: Sweep) -> dict[str, Any]:
    """What front.json holds: see docs/sweeps.md.

    Raises:
        ValueError: If no fit is complete.
    """
    names, over_seeds = [str(name) for name in sweep.table if name not in _NO_SCORES], sweep.over_seeds
    rows = []
    for place, settings in enumerate(sweep.settings):
        complete = {one.seed: one for one in sweep.fits_of(settings) if one.state == COMPLETE}
        trials = {one.trial for one in sweep.fits_of(settings) if one.trial is not None}
        at = over_seeds.isel(setting=place)
        rows.append(
            {
                "settings": dict(settings),
                "seeds": list(complete),
                "trials": sorted(trials),
                "runs": [one.run.name for one in complete.values() if one.run is not None],
                "means": {name: _finite(at[name]) for name in names},
                "sds": {name: _finite(at[f"{name}_sd"]) for name in names},
            }
        )
    fronts = {}
    for size in sweep.sizes:
        front = sweep.front(against=size)
        fronts[size] = [
            {"number": int(number), "setting": int(setting)}
            for number, setting in zip(front.number.values, front.setting.values, strict=True)
        ]
    return {
        "format": FORMAT,
        "objectives": list(sweep.objectives),
        "score": f"validation_{sweep.score}",
        "settings": rows,
        "fronts": fronts,
        "best": {name: sweep.settings.index(sweep.best(name)[0]) for name in sweep.objectives if name in names},
    }


def _finite(value: Any) -> float | None:
    number = float(value)
    return number if math.isfinite(number) else None
