"""What a sweep came to: its fits, the settings over their seeds, the best and the front."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr

from bayesprune.inference.non_dominated import non_dominated

__all__ = ["COMPLETE", "FAILED", "PRUNED", "RUNNING", "SIZES", "WAITING", "Sweep", "SweepFit", "is_rising"]

COMPLETE, RUNNING, PRUNED, FAILED, WAITING = "complete", "running", "pruned", "failed", "waiting"
"""States of a fit."""
SIZES = ("density", "nonzero", "macs", "latency")
"""What a score can be set against; a smaller network has less of it."""
_SCORES = ("accuracy", "rmse", "nll", "ece")


@dataclass(frozen=True)
class SweepFit:
    """One fit of a sweep: a setting and a seed.

    Attributes:
        settings: What was tried, by the long names of the options of ``bayesprune fit``.
        seed: Of the fit.
        state: ``"complete"``, ``"running"``, ``"pruned"``, ``"failed"`` or ``"waiting"``.
        run: Its run folder; None where it has not begun.
        trial: Number of the trial that it belongs to; None where only run folders are there.
        scores: What it came to, by name; None for what was not measured or is not finite.
        epoch: Epochs that are done; None where it is not known.
        worker: Who fits it, ``HOST:PROCESS``; None where it is not known.
        problem: Why it failed, or was ended early, in a sentence; None else.
    """

    settings: Mapping[str, Any]
    seed: int
    state: str
    run: Path | None = None
    trial: int | None = None
    scores: Mapping[str, float | None] = field(default_factory=dict)
    epoch: int | None = None
    worker: str | None = None
    problem: str | None = None


@dataclass(frozen=True)
class Sweep:
    """What a sweep came to, so far.

    Attributes:
        folder: Its folder.
        asked: What was asked for: the options that all fits have in common, and what was searched.
        objectives: Names of the scores that were optimised.
        fits: All of its fits, by trial and seed.
        missing: Why part of the sweep could not be read (an unreachable storage), in sentences; none else.
    """

    folder: Path
    asked: Mapping[str, Any]
    objectives: tuple[str, ...]
    fits: tuple[SweepFit, ...]
    missing: tuple[str, ...] = ()

    @property
    def settings(self) -> list[Mapping[str, Any]]:
        """The settings with a complete fit, each once, in the order of their first trials."""
        return [rows[0].settings for rows in self._complete().values()]

    @property
    def table(self) -> xr.Dataset:
        """The scores of the complete fits over `(setting, seed)`; NaN where a seed of a setting is not complete.

        Variables are the names of scores, such as ``validation_accuracy``, ``density`` or ``seconds``; `setting` counts
        as `settings` does.
        """
        complete = self._complete()
        seeds = sorted({one.seed for rows in complete.values() for one in rows})
        names = dict.fromkeys(name for rows in complete.values() for one in rows for name in one.scores)
        data = {}
        for name in names:
            values = np.full((len(complete), len(seeds)), np.nan)
            for place, rows in enumerate(complete.values()):
                for one in rows:
                    values[place, seeds.index(one.seed)] = _number(one.scores.get(name))
            data[name] = (("setting", "seed"), values)
        return xr.Dataset(data, coords={"setting": np.arange(len(complete)), "seed": np.array(seeds, dtype=int)})

    @property
    def over_seeds(self) -> xr.Dataset:
        """Over `setting`: means of the scores over complete seeds, standard deviations ``{score}_sd``, ``seeds``.

        A standard deviation is NaN where there is one seed; ``seeds`` is how many are complete.
        """
        table = self.table
        # A setting that was sampled twice has each of its fits twice, and each seed once.
        counts = np.array([len({one.seed for one in rows}) for rows in self._complete().values()], dtype=int)
        means = table.mean("seed")  # without those that are missing
        several = table.sizes["seed"] > 1
        spreads = {
            f"{name}_sd": table[name].std("seed", ddof=1) if several else xr.full_like(means[name], np.nan)
            for name in table
        }
        return means.assign(spreads).assign(seeds=("setting", counts))

    @property
    def score(self) -> str:
        """The score that counts first, without the part of the data: ``"accuracy"`` where there are labels."""
        table = self.table
        asked = [name.removeprefix("validation_") for name in self.objectives if name.startswith("validation_")]
        found = [score for score in (*_SCORES, *asked) if f"validation_{score}" in table]
        if not found:
            raise ValueError(f"no fit of the sweep {self.folder} is complete yet: wait, or run bayesprune sweep on")
        return found[0]

    @property
    def sizes(self) -> tuple[str, ...]:
        """Names of the sizes that were measured, of `SIZES`."""
        table = self.table
        return tuple(size for size in SIZES if size in table and bool(table[size].notnull().any()))

    def front(self, score: str | None = None, against: str | Sequence[str] = "density") -> xr.Dataset:
        """The settings that no other beats: none is at least as good on validation data and at least as small.

        Scores and sizes are means over seeds. A setting with fewer complete seeds than others have is left out, since
        a mean of few is lucky more often.

        Args:
            score: ``"accuracy"``, ``"rmse"``, ``"nll"`` or ``"ece"``; default None: that of `score`.
            against: A name in `sizes`, or several; default ``"density"``.

        Returns:
            Over `point`, from large to small in the first size: ``setting`` (as in `table`), ``number`` (from 1, as
            the points are called in pictures), ``seeds`` (how many are complete), all scores (means over seeds) and
            their standard deviations, named ``{score}_sd`` (NaN for one seed).

        Raises:
            ValueError: If score or size are unknown, or no fit is complete.
        """
        sizes = [against] if isinstance(against, str) else list(against)
        score = self.score if score is None else score
        table, name = self.table, f"validation_{score}"
        if name not in table:
            have = [str(one).removeprefix("validation_") for one in table if str(one).startswith("validation_")]
            raise ValueError(f"the sweep has no score {score!r} on validation data: it has {', '.join(have) or 'none'}")
        for size in sizes:
            if size not in self.sizes:
                how = ": sweep with --latency" if size == "latency" else f": it has {', '.join(self.sizes) or 'none'}"
                raise ValueError(f"the sweep has no {size!r}, which was not measured{how}")
        means = self._means()
        good = means[name].values * (1.0 if is_rising(name) else -1.0)
        kept = non_dominated(np.stack([*(-means[size].values for size in sizes), good], axis=1))[::-1]
        settings = means.setting.values[kept]
        front = means.isel(setting=kept).drop_vars("setting").rename_dims(setting="point")
        return front.assign(setting=("point", settings), number=("point", np.arange(1, len(kept) + 1))).assign_attrs(
            score=score, against=sizes
        )

    def best(self, objective: str | None = None) -> tuple[Mapping[str, Any], Mapping[str, float]]:
        """The setting of the best mean over its seeds, of those with the most complete seeds; the means that it has.

        Args:
            objective: Name of a score; default None: the first that was optimised.

        Raises:
            ValueError: If no fit is complete, or none has the score.
        """
        objective = self.objectives[0] if objective is None else objective
        means = self._means()
        if objective not in means or not bool(means[objective].notnull().any()):
            raise ValueError(f"no fit of the sweep {self.folder} has the score {objective!r}: wait, or name another")
        values = means[objective].values
        place = int(np.nanargmax(values) if is_rising(objective) else np.nanargmin(values))
        scores = {str(name): float(means[name][place]) for name in self.table}
        found = {name: score for name, score in scores.items() if np.isfinite(score)}
        return self.settings[int(means.setting[place])], found

    def fits_of(self, settings: Mapping[str, Any]) -> list[SweepFit]:
        """The fits of a setting, in whatever state, by seed."""
        return sorted((one for one in self.fits if _key(one.settings) == _key(settings)), key=lambda one: one.seed)

    def _means(self) -> xr.Dataset:
        """Of `over_seeds` the settings with the most complete seeds."""
        means = self.over_seeds
        counts = means.seeds.values
        return means.isel(setting=np.flatnonzero(counts == counts.max(initial=0)))

    def _complete(self) -> dict[str, list[SweepFit]]:
        """The complete fits of each setting."""
        found: dict[str, list[SweepFit]] = {}
        for one in self.fits:
            if one.state == COMPLETE:
                found.setdefault(_key(one.settings), []).append(one)
        return found


def is_rising(score: str) -> bool:
    """Whether a score is the better the larger it is; all but accuracies are better small."""
    return score.endswith("accuracy")


def _key(settings: Mapping[str, Any]) -> str:
    """The same text for the same settings."""
    return json.dumps(settings, sort_keys=True)


def _number(value: Any) -> float:
    return float("nan") if value is None else float(value)
