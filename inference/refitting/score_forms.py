"""The forms of a posterior over sparse networks, scored apart: averaged, one structure, and its means."""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.left_in import left_in
from bayesprune.inference.inclusion.probabilities import probabilities_at
from bayesprune.inference.predictions.metrics import are_of_classes, averaged_scores, brier_score
from bayesprune.inference.predictions.predictive import draw_statistics, outputs_of_draws
from bayesprune.inference.pruning.prune import pruned
from bayesprune.inference.pruning.ranking import Ranking
from bayesprune.inference.refitting.fixed_gates import fix_gates
from bayesprune.inference.restart import Restart
from bayesprune.models.language.inclusion import UNDECIDED, is_undecided
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.networks.placing import like

__all__ = ["AVERAGED", "DRAWN", "MEANS", "FormScores", "score_forms"]

AVERAGED, DRAWN, MEANS = "averaged", "drawn", "means"
_WORDS = {
    AVERAGED: "averaged over draws of weights and gates",
    DRAWN: "structure fixed, averaged over draws of its weights",
    MEANS: "structure fixed, weights at their means: one network",
}


@dataclass(frozen=True)
class FormScores:
    """Scores of the forms of a posterior on the same examples.

    Attributes:
        rows: Of each form that there is, by its name: the likelihood's scores (accuracy, or rmse), ``nll`` (nats an
            example), for classes ``ece`` and ``brier``, and ``kept``, the number of weights in it: of ``"averaged"``
            the mean over draws, a sum of probabilities; of ``"drawn"`` and ``"means"`` that of the structure.
        weights: How many weights have a prior.
        undecided: Share of them whose inclusion probability lies between 0.05 and 0.95; None where there are no
            probabilities.
        structure: How the structure was chosen, in words.
        notes: Why a form is missing, and what probabilities are not.
    """

    rows: Mapping[str, Mapping[str, float]]
    weights: int
    undecided: float | None
    structure: str
    notes: tuple[str, ...] = ()

    def __getitem__(self, form: str) -> Mapping[str, float]:
        """The scores of a form."""
        return self.rows[form]

    def __str__(self) -> str:
        names = list(dict.fromkeys(name for row in self.rows.values() for name in row))
        lines = [f"{'form':<10}" + "".join(f"{name:>13}" for name in names)]
        for form, row in self.rows.items():
            cells = [f"{row[n]:>13,.0f}" if n == "kept" else f"{row.get(n, math.nan):>13.4f}" for n in names]
            lines.append(f"{form:<10}" + "".join(cells))
        lines += [f"  {form}: {_WORDS[form]}" for form in self.rows]
        if DRAWN in self.rows:
            lines.append(f"  the structure is {self.structure}, of {self.weights:,} weights")
        if self.undecided is not None:
            low, high = UNDECIDED
            lines.append(f"  undecided: {100 * self.undecided:.1f} % of the inclusion probabilities ({low} to {high})")
        return "\n".join([*lines, *(f"  note: {note}" for note in self.notes)])


def score_forms(
    fit: Fit,
    x: Tensor,
    y: Tensor,
    draws: int = 32,
    *,
    min_inclusion: float = 0.5,
    restart: int = 0,
    seed: int | None = None,
    data: Data | None = None,
) -> FormScores:
    """Scores the averaged prediction, the median-probability model with drawn weights, and the same at its means.

    Three answers to "how good is the posterior" that papers mix: ``"averaged"``, over draws of weights and gates;
    ``"drawn"``, the gates fixed to those of probability > `min_inclusion`, averaged over draws of the weights that are
    left in; and ``"means"``, one plain network, that of ``prune(fit, min_inclusion=...)``. Of a refit the first two are
    the same.

    Args:
        fit: The fit.
        x: Inputs, `(n, ...)`.
        y: Targets.
        draws: Draws of the weights; default 32.
        min_inclusion: What a weight's inclusion probability exceeds in the structure, in [0, 1); default 0.5.
        restart: Which restart; default the first.
        seed: Of the draws, as for `Fit.draws`.
        data: Training data, for the statistics of batch normalisation, as for `Fit.predict`.

    Returns:
        The scores. A MAP has one form, its network, under ``"means"``, and the notes say so; where gates of units were
        learned, ``"drawn"`` is missing.

    Raises:
        ValueError: For a prior without an inclusion event, or as `Fit.score`.
    """
    one = fit.restart(restart)
    weights = sum(one.model.declared_sizes.values())
    how = Ranking.of(data=data)
    if one.guide.is_map:
        count = sum(int(left.sum()) for left in left_in(one.guide).values())
        note = "a MAP is one network: nothing is averaged, and no weight has an inclusion probability"
        rows = {MEANS: _averaged(fit, x, y, 1, restart, seed, data) | {"kept": float(count)}}
        return FormScores(rows, weights, None, "that of the MAP", (note,))
    probabilities = probabilities_at(fit, restart)
    flat = torch.cat([found.reshape(-1).double() for found in probabilities.values()])
    undecided = float(is_undecided(flat).sum()) / len(flat)
    rows = {AVERAGED: _averaged(fit, x, y, draws, restart, seed, data) | {"kept": float(flat.sum())}}
    result = pruned(fit, how, min_inclusion, restart)
    notes = []
    if one.model.closes_units or one.model.plan is not None:
        notes.append("units are closed by gates of their own, so that there is no form with drawn weights alone")
    else:
        fixed = _with_structure(fit, restart, result.masks)
        kept = float(sum(int(mask.sum()) for mask in result.masks.values()))
        rows[DRAWN] = _averaged(fixed, x, y, draws, 0, seed, data) | {"kept": kept}
    plain = like(x, next(result.network.parameters()))
    rows[MEANS] = _scores(result.likelihood, [outputs_at(result.network, {}, plain)], like(y, plain))
    rows[MEANS] |= {"kept": float(result.report.nonzero)}
    if fit.settings.get("refit"):
        notes.append("the structure was given (refit), and its probabilities are the zeros and ones of that")
    words = "the median-probability model" if min_inclusion == 0.5 else f"inclusion probability > {min_inclusion:g}"
    return FormScores(rows, weights, undecided, words, tuple(notes))


def _with_structure(fit: Fit, restart: int, masks: Mapping[str, Tensor]) -> Fit:
    """The fit of one restart alone with its gates fixed, copied."""
    one = copy.deepcopy(fit.restart(restart))
    guide = one.guide
    fix_gates(guide.model, guide, masks)
    fixed = Restart(guide.model, guide, one.seed, one.fisher)
    return Fit([fixed], fit.trace, fit.settings, fit.inputs, fit.examples)


@torch.no_grad()
def _averaged(
    fit: Fit, x: Tensor, y: Tensor, draws: int, restart: int, seed: int | None, data: Data | None
) -> dict[str, float]:
    """Scores of the prediction averaged over draws, of one pass over them."""
    model = fit.restart(restart).model
    chosen = draw_statistics(fit, restart, data)
    found = outputs_of_draws(fit, lambda outputs: outputs, x, draws, restart, seed=seed, statistics=chosen)
    return _scores(model.likelihood, found, like(y, next(model.network.parameters())))


@torch.no_grad()
def _scores(likelihood: Likelihood, outputs: Sequence[Tensor], y: Tensor) -> dict[str, float]:
    """Scores of the mean prediction at outputs, `(n, ...)` a draw."""
    mean = torch.stack([likelihood.predict(one) for one in outputs]).mean(dim=0).cpu()
    found = averaged_scores(likelihood, mean, [likelihood.scored.log_prob(one, y) for one in outputs], y)
    return found | ({"brier": brier_score(mean, y.cpu())} if are_of_classes(likelihood, mean, y) else {})
