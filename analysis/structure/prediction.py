"""How well features of graphs predict scores of networks, beside baselines that know next to nothing of structure."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from bayesprune.analysis.structure.cross_validation import (
    Folds,
    bootstrapped,
    most_correlated,
    out_of_fold,
    r2,
    rank_correlations,
    repeated_folds,
)
from bayesprune.analysis.structure.graph_features import FeatureTable, GraphLike, feature_table
from bayesprune.analysis.structure.noise_ceiling import NoiseCeiling, noise_ceiling
from bayesprune.analysis.structure.published_splits import PUBLISHED_SEED, split_scores
from bayesprune.analysis.structure.regressors import REGRESSORS, regressor

__all__ = ["ALL", "BEST_SINGLE", "FAMILY", "FeatureScore", "PerformancePrediction", "predict_performance"]

Array = npt.NDArray[np.float64]

ALL, BEST_SINGLE, FAMILY = "all features", "best single feature", "family only"
_BASELINES = {"size only": ("nodes", "edges"), "source count only": ("source_nodes",)}
_DRAWS = 2000
_LEVELS = (2.5, 97.5)
_SURE = 1.959964


@dataclass(frozen=True)
class FeatureScore:
    """What one regressor predicts from some of the features.

    Attributes:
        regressor: Its name.
        features: Name of the features: ``"all features"``, or of a baseline.
        r2: R2 of the predictions of all rows, each by a regressor that was not fitted on it; mean over repeats.
        r2_sd: Its sd over repeats: what it depends on how rows are dealt to folds. NaN for one repeat.
        interval: 95 % interval of `r2` by the bootstrap over rows: what it depends on which graphs there were.
        spearman: Spearman's rank correlation of predictions and scores, mean over repeats.
        spearman_sd: Its sd over repeats.
        kendall: Kendall's tau-b, likewise.
        kendall_sd: Its sd over repeats.
        within: R2 within each group, by name: what is left of it where the family is known. Empty without groups.
        coverage: Share of scores within 1.96 stated sds of their prediction; NaN where none is stated.
        predictions: Mean over repeats, `(n,)`.
        sds: Stated sds, mean over repeats, `(n,)`; NaN where none is stated.
    """

    regressor: str
    features: str
    r2: float
    r2_sd: float
    interval: tuple[float, float]
    spearman: float
    spearman_sd: float
    kendall: float
    kendall_sd: float
    within: Mapping[str, float]
    coverage: float
    predictions: Array
    sds: Array


@dataclass(frozen=True)
class PerformancePrediction:
    """How well features predict scores; `str` is the table.

    Attributes:
        scores: What was predicted, `(n,)`: of several seeds the mean.
        rows: A score a regressor and set of features, all features first.
        gains: By regressor, the R2 of all features less that of the best baseline, and the sd of that difference over
            bootstrap draws of rows.
        best_baseline: By regressor, the name of that baseline.
        ceiling: What seeds leave to chance; None without several seeds a graph.
        splits: By regressor, R2 of all features on single splits, `(splits,)`; empty where they were not asked for.
        published_split: By regressor, R2 on the published split, ``random_state=7``.
        groups: Group of each row; None without.
        by_group: Whether folds kept groups together.
        folds: Folds of a repeat.
        repeats: Repeats.
        notes: Sentences on what the table does not say.
    """

    scores: Array
    rows: tuple[FeatureScore, ...]
    gains: Mapping[str, tuple[float, float]]
    best_baseline: Mapping[str, str]
    ceiling: NoiseCeiling | None
    splits: Mapping[str, Array]
    published_split: Mapping[str, float]
    groups: tuple[str, ...] | None
    by_group: bool
    folds: int
    repeats: int
    notes: tuple[str, ...]

    def __getitem__(self, key: tuple[str, str]) -> FeatureScore:
        """The score of a regressor and a set of features, both by name.

        Raises:
            KeyError: In one sentence, if there is none.
        """
        for row in self.rows:
            if (row.regressor, row.features) == key:
                return row
        known = ", ".join(f"{row.regressor}: {row.features}" for row in self.rows)
        raise KeyError(f"there is no score of {key}: one of {known} is expected")

    def __str__(self) -> str:
        how = "groups left out in turn" if self.by_group else f"{self.repeats} x {self.folds} folds"
        lines = [
            f"{len(self.scores)} graphs, {how}; sd over repeats, 95 % interval over graphs",
            f"{'regressor':<22} {'features':<20} {'R2':>6} {'sd':>6} {'95 %':>15} {'rho':>6} {'tau':>6} {'within':>7}",
        ]
        for row in self.rows:
            low, high = row.interval
            groups = " ".join(f"{value:.2f}" for value in row.within.values())
            lines.append(
                f"{row.regressor:<22} {row.features:<20} {row.r2:6.2f} {row.r2_sd:6.2f} [{low:6.2f},{high:6.2f}] "
                f"{row.spearman:6.2f} {row.kendall:6.2f} {groups:>7}"
            )
        if self.ceiling is not None:
            lines.append(
                f"ceiling by seeds: R2 {self.ceiling.of_scores:.2f} of these scores, {self.ceiling.of_one:.2f} of one "
                f"seed ({self.ceiling.graphs} graphs with several)"
            )
        for name, found in self.splits.items():
            low, middle, high = np.nanpercentile(found, [5.0, 50.0, 95.0])
            lines.append(
                f"single splits, {name}: R2 {self.published_split[name]:.2f} with seed {PUBLISHED_SEED}; of "
                f"{len(found)} splits median {middle:.2f}, 5 to 95 % [{low:.2f}, {high:.2f}]"
            )
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def to_dict(self) -> dict[str, Any]:
        """What JSON can hold, predictions included; NaN is None."""
        rows = [{name: _plain(getattr(row, name)) for name in FeatureScore.__dataclass_fields__} for row in self.rows]
        return {
            "scores": _plain(self.scores),
            "rows": rows,
            "gains": _plain(self.gains),
            "best_baseline": dict(self.best_baseline),
            "ceiling": None if self.ceiling is None else _plain(self.ceiling.to_dict()),
            "splits": _plain(self.splits),
            "published_split": _plain(self.published_split),
            "groups": None if self.groups is None else list(self.groups),
            "by_group": self.by_group,
            "folds": self.folds,
            "repeats": self.repeats,
            "notes": list(self.notes),
        }


def predict_performance(
    features: FeatureTable | Sequence[GraphLike],
    scores: Any,
    groups: Sequence[str] | None = None,
    regressors: Sequence[str] = ("bayesian-ridge", "random-forest"),
    baselines: Mapping[str, Sequence[str]] | None = None,
    folds: int = 10,
    repeats: int = 5,
    by_group: bool = False,
    splits: int = 0,
    seed: int = 0,
) -> PerformancePrediction:
    """How well features predict scores, by repeated cross-validation, beside baselines.

    Whatever is fitted, the standardisation of features and the choice of a single one included, is fitted on the folds
    that are not predicted. Baselines go through the same folds and regressors: ``"size only"`` (nodes and edges),
    ``"source count only"``, ``"family only"`` (the group), and ``"best single feature"``, that of the largest rank
    correlation with the scores on the folds fitted on.

    A sentence warns where all features gain no more over the best baseline than the sd of that gain.

    Args:
        features: The graphs, or a table of their features.
        scores: Such as accuracies, `(n,)`; or `(n, seeds)`, NaN where a seed was not trained: their means are then
            predicted, and the ceiling that seeds leave is told.
        groups: Family of each graph, `(n,)`; default None.
        regressors: Names of `bayesprune.analysis.structure.regressors.REGRESSORS`: ``"bayesian-ridge"`` and
            ``"random-forest"`` (default), ``"adaboost"``, ``"gaussian-process"``, ``"hist-gradient-boosting"`` and
            ``"horseshoe"``.
        baselines: Names of features by name of baseline; default None: the above, of those that there are.
        folds: Folds, at least 2; default 10.
        repeats: How often rows are dealt out anew; default 5.
        by_group: Whether graphs of a group stay in one fold, so that each is predicted from other families; there is
            then no baseline of the family. Default False.
        splits: How many single splits of the published protocol are tried too, to see how lucky one can be; default 0.
        seed: Of folds and regressors; default 0.

    Raises:
        ValueError: In one sentence, if these do not fit together.
    """
    table = features if isinstance(features, FeatureTable) else feature_table(features)
    targets, seeds = _scores(scores, len(table))
    names = _groups(groups, by_group, len(table))
    _check(table, regressors, folds, repeats, splits)
    dealt = repeated_folds(len(table), folds, repeats, seed, names if by_group else None)
    sets = _sets(table, names, baselines, by_group)
    rows, gains, best = [], {}, {}
    for name in regressors:
        make = functools.partial(regressor, name, seed)
        found = {of: _predicted(make, *what, targets, dealt) for of, what in sets.items()}
        rows += [_score(name, of, targets, names, *values, seed) for of, values in found.items()]
        if len(found) > 1:
            draws = {of: bootstrapped(targets, means, _DRAWS, seed) for of, (means, _) in found.items()}
            scored = {row.features: row.r2 for row in rows if row.regressor == name}
            best[name] = max((of for of in scored if of != ALL), key=lambda of: scored[of])
            gains[name] = (scored[ALL] - scored[best[name]], float(np.nanstd(draws[ALL] - draws[best[name]])))
    tried, published = {}, {}
    for name in regressors if splits else ():
        make = functools.partial(regressor, name, seed)
        tried[name] = split_scores(make, table.values, targets, range(splits))
        published[name] = float(split_scores(make, table.values, targets, [PUBLISHED_SEED])[0])
    notes = _notes(gains, best)
    for note in notes:
        warnings.warn(note, stacklevel=2)
    return PerformancePrediction(
        scores=targets,
        rows=tuple(rows),
        gains=gains,
        best_baseline=best,
        ceiling=seeds,
        splits=tried,
        published_split=published,
        groups=names,
        by_group=by_group,
        folds=len(dealt[0]),
        repeats=len(dealt),
        notes=notes,
    )


Choice = Callable[[Array, Array], Sequence[int]] | None


def _sets(
    table: FeatureTable, groups: tuple[str, ...] | None, baselines: Mapping[str, Sequence[str]] | None, by_group: bool
) -> dict[str, tuple[Array, Choice]]:
    """Columns by name of a set of features, and how they are chosen in a fold where they are."""
    if baselines is None:
        baselines = {of: names for of, names in _BASELINES.items() if set(names) <= set(table.names)}
    found: dict[str, tuple[Array, Choice]] = {ALL: (table.values, None)}
    found |= {of: (table.only(list(names)).values, None) for of, names in baselines.items()}
    if table.values.shape[1] > 1:
        found[BEST_SINGLE] = (table.values, most_correlated)
    if groups is not None and len(set(groups)) > 1 and not by_group:
        flags = [[float(one == kind) for kind in sorted(set(groups))] for one in groups]
        found[FAMILY] = (np.array(flags), None)
    return found


def _predicted(
    make: Callable[[], Any], features: Array, choose: Choice, scores: Array, dealt: Sequence[Folds]
) -> tuple[Array, Array]:
    """Means and stated sds of each repeat, `(repeats, n)`."""
    found = [out_of_fold(make, features, scores, one, choose) for one in dealt]
    return np.array([means for means, _ in found]), np.array([sds for _, sds in found])


def _score(
    name: str, of: str, scores: Array, groups: tuple[str, ...] | None, means: Array, sds: Array, seed: int
) -> FeatureScore:
    each = np.array([r2(scores, one) for one in means])
    rho, tau = np.array([rank_correlations(scores, one) for one in means]).T
    low, high = np.nanpercentile(bootstrapped(scores, means, _DRAWS, seed), _LEVELS)
    mean, sd = means.mean(0), sds.mean(0)
    kinds = np.array(groups) if groups is not None else None
    within: dict[str, float] = {}
    for kind in sorted(set(groups or ())):
        these = kinds == kind
        within[kind] = float(np.mean([r2(scores[these], one[these]) for one in means]))
    spreads = [float(values.std(ddof=1)) if len(means) > 1 else float("nan") for values in (each, rho, tau)]
    inside = np.abs(scores - mean) <= _SURE * sd
    return FeatureScore(
        regressor=name,
        features=of,
        r2=float(each.mean()),
        r2_sd=spreads[0],
        interval=(float(low), float(high)),
        spearman=float(rho.mean()),
        spearman_sd=spreads[1],
        kendall=float(tau.mean()),
        kendall_sd=spreads[2],
        within=within,
        coverage=float(inside.mean()) if np.isfinite(sd).all() else float("nan"),
        predictions=mean,
        sds=sd,
    )


def _notes(gains: Mapping[str, tuple[float, float]], best: Mapping[str, str]) -> tuple[str, ...]:
    poor = [name for name, (gain, sd) in gains.items() if gain <= sd]
    if not poor:
        return ()
    said = "; ".join(f"{name}: {gains[name][0]:+.2f} R2, sd {gains[name][1]:.2f}, over {best[name]}" for name in poor)
    return (
        f"all features together gain no more than one sd over the best baseline ({said}): do not say that structure "
        "predicts these scores before such a baseline is taken out, by a design in which it is the same for all graphs",
    )


def _scores(scores: Any, rows: int) -> tuple[Array, NoiseCeiling | None]:
    given = np.asarray(scores, dtype=np.float64)
    if given.ndim not in (1, 2) or len(given) != rows:
        raise ValueError(
            f"scores of shape {given.shape} do not belong to {rows} graphs: give ({rows},), or ({rows}, seeds)"
        )
    table = given[:, None] if given.ndim == 1 else given
    if np.isinf(table).any() or not np.isfinite(table).any(1).all():
        raise ValueError(
            "each graph needs a finite score: leave out graphs without one, and write NaN only for seeds not trained"
        )
    targets = np.nanmean(table, 1)
    if np.ptp(targets) == 0.0:
        raise ValueError(
            "all scores are equal, so there is nothing to predict: train longer or shorter, or other graphs"
        )
    return targets, noise_ceiling(table)


def _groups(groups: Sequence[str] | None, by_group: bool, rows: int) -> tuple[str, ...] | None:
    if groups is None and by_group:
        raise ValueError("by_group=True leaves out families in turn, and none are named: give groups=")
    if groups is None:
        return None
    found = tuple(map(str, groups))
    if len(found) != rows:
        raise ValueError(f"there are {len(found)} groups for {rows} graphs: give the family of each graph")
    if by_group and len(set(found)) < 2:
        raise ValueError(
            f"all graphs are of the group {found[0]!r}, so that none is left to fit on: leave out by_group"
        )
    return found


def _check(table: FeatureTable, regressors: Sequence[str], folds: int, repeats: int, splits: int) -> None:
    if isinstance(regressors, str) or not regressors or not set(regressors) <= set(REGRESSORS):
        raise ValueError(f"regressors={regressors!r} are not known: give a tuple of some of {', '.join(REGRESSORS)}")
    if not 2 <= folds <= len(table):
        raise ValueError(f"folds={folds} of {len(table)} graphs cannot be made: give a number from 2 to the graphs")
    if repeats < 1 or splits < 0:
        raise ValueError(f"repeats={repeats} and splits={splits}, but at least 1 and 0 are expected: give more")


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return [_plain(one) for one in value.tolist()]
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    if isinstance(value, tuple | list):
        return [_plain(one) for one in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value
