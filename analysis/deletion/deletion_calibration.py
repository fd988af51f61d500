"""Whether an inclusion probability predicts what deleting that weight, unit or block does to the held-out loss."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from scipy import stats

from bayesprune.analysis.deletion.deletion_setup import DeletionSetup, Examples
from bayesprune.analysis.deletion.deletions import Array, entries, paired_error
from bayesprune.analysis.deletion.predictors import Scores
from bayesprune.analysis.deletion.rank_correlations import (
    BOOTSTRAP,
    CEILING,
    compared,
    comparison_lines,
    correlation_table,
    percentiles,
)
from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit

STRATA = 10
"""Strata of equal width in the score that half of a tensor's deletions are spread over."""


@dataclass(frozen=True)
class DeletionCalibration:
    """Sampled deletions and how well a score predicted them; print it, or draw it by `plot_deletion_calibration`.

    Attributes:
        deletions: Over `deletion`: ``tensor``; ``index`` (what was set to zero, as it is written in brackets, e.g.
            ``"3, :"``); ``group`` (number of the group in its tensor); ``weights`` (how many it has); ``score``;
            ``change`` (of the mean held-out loss, after minus before, nats per example: positive where the
            deletion hurts); ``error`` (its paired standard error over held-out examples); ``harmful`` (whether
            ``change`` exceeds `threshold` errors); where a ceiling was asked for ``elsewhere`` (the change of the mean
            loss on those other examples). Over `(predictor, deletion)`, where several scores were: ``predicted``.
        curve: Over `bin` (only those with deletions): ``lower``, ``upper`` (edges), ``score`` (mean), ``count``,
            ``share`` (fraction of harmful deletions) and ``change`` (mean, nats per example), each with ``_lower``
            and ``_upper``.
        correlation: Over `layer`, ``"all"`` and the tensors: ``spearman`` (rank correlation of score and change)
            with ``lower`` and ``upper``; ``auc`` (probability that a harmful deletion has a higher score than
            another one, ties one half); ``deletions`` and ``harmful`` (how many). NaN where it is not defined.
        score: What the score is, in words.
        kind: Kind of the inclusion event if the score is an inclusion probability, else None.
        per: What one deletion deletes.
        loss: Mean held-out loss of the base network, nats per example.
        examples: Number of held-out examples.
        threshold: Standard errors by which ``change`` has to exceed zero to count as harmful.
        probability: Of the intervals.
        comparison: Where several scores or a ceiling were asked for, else None. Over `(predictor, layer)`:
            ``spearman`` with ``lower`` and ``upper``. The predictor ``"ceiling"`` is exact deletion on other examples:
            what no score can be expected to exceed by much, as the change is measured with noise. Then also ``below``
            with ``below_lower`` and ``below_upper``: the ceiling's correlation less that of the score, by paired
            bootstrap samples.
        elsewhere: On how many other examples the ceiling was measured; 0: there is none.
    """

    deletions: xr.Dataset
    curve: xr.Dataset
    correlation: xr.Dataset
    score: str
    kind: str | None
    per: str
    loss: float
    examples: int
    threshold: float
    probability: float
    comparison: xr.Dataset | None = None
    elsewhere: int = 0

    def __str__(self) -> str:
        harmful = int(self.deletions.harmful.sum())
        lines = [
            f"{self.deletions.sizes['deletion']} deletions, one {self.per} each, by {self.score}: {harmful} raise the "
            f"loss of {self.loss:.4g} nats by more than {self.threshold:g} standard errors ({self.examples} examples)"
        ]
        width = max(len(str(name)) for name in self.correlation.layer.values)
        lines.append(f"{'':<{width}}  spearman  {f'{self.probability:.0%} interval':>16}    auc  harmful")
        for name in self.correlation.layer.values:
            row = self.correlation.sel(layer=name)
            interval = f"{float(row.lower):+.2f} to {float(row.upper):+.2f}"
            counts = f"{int(row.harmful)}/{int(row.deletions)}"
            lines.append(
                f"{name!s:<{width}}  {float(row.spearman):>+8.2f}  {interval:>16}  {float(row.auc):>5.2f}  {counts:>7}"
            )
        if self.comparison is not None:
            lines += ["", *comparison_lines(self.comparison, self.probability)]
        if self.elsewhere:
            lines.append(f"{CEILING}: the same deletions measured on {self.elsewhere:,} other examples")
        return "\n".join(lines)


def deletion_calibration(
    fit: Fit,
    data: Examples,
    n: int = 200,
    per: str = "weight",
    scores: Scores | Mapping[str, Any] | None = None,
    tensors: str | Sequence[str] | None = None,
    threshold: float = 2.0,
    bins: int = 10,
    probability: float = 0.89,
    seed: int = 0,
    restart: int = 0,
    base: str = "mean",
    batch_size: int = 1024,
    precision: str = "float64",
    train: Data | None = None,
    ceiling: Examples | int | None = None,
) -> DeletionCalibration:
    """Deletes weights, units or blocks one at a time, and compares the harm with their inclusion probabilities.

    The base network is one plain network at the guide's centre: every gate at its probability, which makes the weights
    E[weight], or every gate open, E[weight | included]. Everything else is the fit's point estimate. It is
    deterministic and in evaluation mode. A deletion sets the weights of one group of one tensor to zero, measures, and
    puts them back: one pass over the held-out data each. Statistics of batch normalisation are estimated for the base
    network and after every deletion (as `prune` does), on the training inputs that the fit keeps, at the cost of a
    pass over them each; a loaded fit has running statistics throughout, unless it is given inputs by `Fit.keep_inputs`.

    What is deleted is a stratified sample without replacement. The tensors share `n` as equally as their sizes
    allow. Within a tensor one half is drawn one from each of as many quantiles of the score, the other half evenly
    from ten strata of equal width between its lowest and highest score, so that a few high probabilities
    among many low ones are seen. Rank correlations are those of this sample, not of all weights.

    Args:
        fit: The fit; it is left as it was.
        data: Held-out `(x, y)`; training data would call harmful what was only fitted to noise.
        n: Number of deletions; default 200. All groups where there are not more.
        per: What one deletion deletes: a ``"weight"`` (default), the weights of an ``"output"`` (row, filter), an
            ``"input"`` (column), a ``"kernel"``, or what one ``"gate"`` switches: the prior's own groups, blocks
            included. The score of a group is the mean over its weights, for a gate its own.
        scores: What to compare with the harm in place of inclusion probabilities: ``"inclusion"`` (log odds for
            gates), ``"magnitude"``, ``"signal-to-noise"``, ``"deletion"`` (the predicted cost of deleting the group,
            at the base network), a criterion, what `deletion_scores` returns, or arrays by tensor, `(out, in, ...)`;
            higher means needed more. Default None: `Fit.inclusion_probabilities`. Or several of these by name, as in
            ``{"PIP": None, "magnitude": "magnitude"}``: all are compared with the same deletions, each measured
            once; the first says what is sampled, and what `curve` and `correlation` are of.
        tensors: Names of the tensors to delete from; default None: all with a prior.
        threshold: A deletion is harmful if it raises the mean loss by more than this many paired standard errors
            over the held-out examples; default 2, which calls about 2 % of harmless deletions harmful.
        bins: Bins of the reliability curve: of equal width in [0, 1] for inclusion probabilities, of equal counts for
            other scores; default 10.
        probability: Of the intervals; default 0.89. Those of rank correlations and mean changes are percentiles of
            a bootstrap over deletions within tensors (within bins), those of shares Jeffreys's.
        seed: Of the sample and of the bootstrap; default 0. The global random states are left as they were.
        restart: Which restart; default the first.
        base: ``"mean"`` (default), ``"included"`` or ``"median"``: what gates are in the base network: at their
            probabilities, all open, or open where the median-probability model has them. They differ for gates only.
            With most gates nearly shut, opening all of them makes a network that nobody would use: look at `loss`.
        batch_size: Examples a forward pass; default 1024.
        precision: ``"float64"`` (default), as small changes drown in rounding, or ``"float32"``.
        train: Training examples for scores that look at some, as ``"deletion"`` does; default None: those that the fit
            keeps.
        ceiling: Other examples `(x, y)`, such as 2,000 training examples, on which the same deletions are measured
            too; or how many of those that the fit keeps. Their rank correlation with the held-out changes is the
            ceiling of the scores. It costs as many passes again. Default None: no ceiling.

    Returns:
        The deletions, the reliability curve and the rank correlations; see `DeletionCalibration`.

    Raises:
        ValueError: For a MAP or a prior without an inclusion event (unless there are `scores`), events of unlike kinds,
            an unknown tensor, restart, `per`, `base` or criterion, scores of another shape, numbers out of range, or
            data that the network does not take.
    """
    _check_numbers(n, bins, threshold, probability, batch_size)
    setup = DeletionSetup.of(fit, data, per, scores, tensors, restart, base, batch_size, precision, train, ceiling)
    by_group = setup.first.by_group
    rng = np.random.default_rng(seed)
    picked = dict(zip(by_group, _sample(list(by_group.values()), n, rng), strict=True))
    loss, rows = _delete(setup, by_group, picked)
    deletions = _table(rows, threshold)
    curve = _curve(deletions, bins, setup.first.kind is not None, probability, rng)
    correlation = correlation_table(deletions, list(by_group), probability, rng)
    comparison = None
    if len(setup.predictors) > 1 or setup.elsewhere is not None:
        deletions, comparison = _compared(setup, deletions, picked, probability, rng)
    return DeletionCalibration(
        deletions,
        curve,
        correlation,
        setup.first.words,
        setup.first.kind,
        per,
        loss,
        len(setup.held_out[0]),
        float(threshold),
        float(probability),
        comparison,
        0 if setup.elsewhere is None else len(setup.elsewhere[0]),
    )


# ------------------------------------------------------------------------------------------------- what is asked


def _check_numbers(n: int, bins: int, threshold: float, probability: float, batch_size: int) -> None:
    for name, value in {"n": n, "bins": bins, "batch_size": batch_size}.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, not {value}")
    if not 0.0 <= threshold < np.inf:
        raise ValueError(f"threshold is a number of standard errors of at least 0, not {threshold}")
    if not 0.0 < probability < 1.0:
        raise ValueError(f"probability is that of an interval, strictly between 0 and 1, not {probability}")


# ------------------------------------------------------------------------------------------------- the sample


def _sample(scores: list[Array], n: int, rng: np.random.Generator) -> list[Array]:
    """Numbers of the groups to delete, tensor by tensor, ascending."""
    shares = _shared(n, np.array([len(score) for score in scores]), rng)
    return [_stratified(score, int(share), rng) for score, share in zip(scores, shares, strict=True)]


def _shared(n: int, sizes: Array, rng: np.random.Generator) -> Array:
    """Shares `n` as equally as the sizes allow; what cannot be shared out equally goes to random ones."""
    taken = np.zeros(len(sizes), dtype=int)
    while n > 0:
        room = np.flatnonzero(taken < sizes)
        if len(room) == 0:
            break
        if n < len(room):
            room = rng.permutation(room)[:n]
        step = min(n // len(room), int((sizes - taken)[room].min()))
        taken[room] += step
        n -= step * len(room)
    return taken


def _stratified(score: Array, n: int, rng: np.random.Generator) -> Array:
    """Half of the `n` one from each quantile, half spread evenly over the range of the score."""
    if n >= len(score):
        return np.arange(len(score))
    order = np.lexsort((rng.permutation(len(score)), score))  # equal scores in random order
    by_rank = -(-n // 2)
    picked = [int(rng.choice(part)) for part in np.array_split(order, by_rank)] if by_rank else []
    left = np.setdiff1d(np.arange(len(score)), picked)
    edges = np.linspace(score.min(), score.max(), STRATA + 1)
    stratum = np.searchsorted(edges[1:-1], score[left], side="right")
    sizes = np.bincount(stratum, minlength=STRATA)
    for number, share in enumerate(_shared(n - by_rank, sizes, rng)):
        picked += rng.choice(left[stratum == number], share, replace=False).tolist() if share else []
    return np.sort(np.array(picked, dtype=int))


# ------------------------------------------------------------------------------------------------- the deletions


def _delete(
    setup: DeletionSetup, scores: dict[str, Array], picked: dict[str, Array]
) -> tuple[float, list[dict[str, Any]]]:
    """Loss of the base network, and a row for each deletion."""
    before, groups = setup.losses(), setup.groups
    deleted = [(name, int(number)) for name, numbers in picked.items() for number in numbers]
    masks = ({name: groups[name] == number} for name, number in deleted)
    differences = setup.differences(before, masks)
    rows = []
    for (name, number), difference in zip(deleted, differences, strict=True):
        mask = groups[name] == number
        rows.append(
            {
                "tensor": name,
                "index": entries(mask),
                "group": number,
                "weights": int(mask.sum()),
                "score": float(scores[name][number]),
                "change": float(difference.mean()),
                "error": paired_error(difference),
            }
        )
    return float(before.mean()), rows


def _compared(
    setup: DeletionSetup, deletions: xr.Dataset, picked: dict[str, Array], probability: float, rng: np.random.Generator
) -> tuple[xr.Dataset, xr.Dataset]:
    """Every score of what was deleted, the change elsewhere, and the rank correlations of all."""
    predicted = {
        name: np.concatenate([one.by_group[tensor][numbers] for tensor, numbers in picked.items()])
        for name, one in setup.predictors.items()
    }
    deletions = deletions.assign(predicted=(("predictor", "deletion"), np.stack(list(predicted.values()))))
    deletions = deletions.assign_coords(predictor=list(predicted))
    if setup.elsewhere is not None:
        masks = ({name: setup.groups[name] == number} for name, numbers in picked.items() for number in numbers)
        predicted[CEILING] = np.array(setup.means_elsewhere(masks))
        deletions["elsewhere"] = ("deletion", predicted[CEILING], {"units": "nats per example"})
    change, tensor = deletions.change.values, deletions.tensor.values
    return deletions, compared(predicted, change, tensor, list(setup.groups), probability, rng)


def _table(rows: list[dict[str, Any]], threshold: float) -> xr.Dataset:
    table = xr.Dataset({key: ("deletion", np.array([row[key] for row in rows])) for key in rows[0]})
    table["harmful"] = table.change > threshold * table.error
    for key in ("change", "error"):
        table[key].attrs["units"] = "nats per example"
    return table


# ------------------------------------------------------------------------------------------------- the summaries


def _curve(
    deletions: xr.Dataset, bins: int, probabilities: bool, probability: float, rng: np.random.Generator
) -> xr.Dataset:
    score, change, harmful = (deletions[key].values for key in ("score", "change", "harmful"))
    edges = (
        np.linspace(0.0, 1.0, bins + 1) if probabilities else np.unique(np.quantile(score, np.linspace(0, 1, bins + 1)))
    )
    if len(edges) == 1:  # every score is the same
        edges = np.repeat(edges, 2)
    place = np.searchsorted(edges[1:-1], score, side="right")
    tail = (1.0 - probability) / 2.0
    rows = []
    for number in np.unique(place):
        at = np.flatnonzero(place == number)
        count, hits = len(at), int(harmful[at].sum())
        low, high = percentiles(change[rng.choice(at, (BOOTSTRAP, count))].mean(axis=1), probability)
        rows.append(
            {
                "lower": edges[number],
                "upper": edges[number + 1],
                "score": score[at].mean(),
                "count": count,
                "share": hits / count,
                "share_lower": stats.beta.ppf(tail, hits + 0.5, count - hits + 0.5) if hits else 0.0,
                "share_upper": stats.beta.ppf(1.0 - tail, hits + 0.5, count - hits + 0.5) if hits < count else 1.0,
                "change": change[at].mean(),
                "change_lower": low,
                "change_upper": high,
            }
        )
    return xr.Dataset({key: ("bin", np.array([row[key] for row in rows])) for key in rows[0]})
