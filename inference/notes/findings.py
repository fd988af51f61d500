"""What a fit should say of itself where it came to little: sentences, each with a setting to turn and a value.

Every finding is a pure function of what a fit knows: trace, settings, guide and model. How each is decided, with its
numbers, stands in docs/notes.md.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from bayesprune.inference.data.against_constant import CONSTANT
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.inclusion_notes import inclusion_notes
from bayesprune.inference.notes.course import Course, course_of
from bayesprune.inference.notes.emptied_layers import EmptiedLayers, collapsed_layers, emptied_layers, fallen_scales
from bayesprune.inference.notes.mask_notes import mask_notes
from bayesprune.inference.notes.remedies import Remedies
from bayesprune.inference.rules.gate_noise import NOISY
from bayesprune.inference.rules.thresholds import Thresholds
from bayesprune.models.language.inclusion import UNDECIDED, is_undecided

__all__ = ["findings"]

MOST = 4
"""At most so many notes at once."""
NO_BETTER, HARDLY = 0.02, 0.1
"""Shares of what there is to gain over a constant prediction: up to the first a fit is no better, up to the second (of
labels of several classes) hardly."""
SEVERAL = 2.5
"""Fewest classes, as the exponential of their entropy, from which on little gain is a fault and no hard problem."""
FAR_BELOW = 0.5
"""Nats per example below a constant from which on the scale of the noise is at fault, where one is learned."""
WORSE, LOST = 0.1, 1.0 / 3.0
"""On validation data: share of the constant's nats by which a fit is worse than it; share of the best gain that is too
little at the end."""
LEAST = 0.05
"""Nats per example of a gain on validation data below which its loss is not told."""
KEPT = 0.8
"""Share of the training likelihood's best gain below which what is lost on validation data was lost there too."""
RISE, FALL = 0.02, 0.06
"""Nats per example between quarters of the end: the loss rose; it was still falling fast."""
LEARNED = 0.9
"""Share of the labels' entropy from which on a fit has not ended too early, however its loss moves."""
HALF = 0.5
"""Share of what is to be looked at that is much."""
NEAR = 0.2
"""Difference of log odds to the prior's within which an inclusion probability sits at it."""
EARLY, MANY = 0.25, 0.1
"""Share of the gain in likelihood before which pruning is premature; share of units or weights that has to go."""


@dataclass(frozen=True)
class _Facts:
    """What findings are made of."""

    fit: Fitted
    course: Course
    remedies: Remedies
    constant: float | None

    @property
    def gain(self) -> float | None:
        """Of the expected log-likelihood over the best constant's, at the end, in nats per example."""
        return None if self.constant is None else float(self.course.log_likelihood[-1]) - self.constant


def findings(fit: Fitted) -> list[str]:
    """Sentences on what is wrong with a fit, the worst first, at most four and none twice; none for a good one.

    Those on how far inclusion probabilities of a regression can be trusted (`inclusion_notes`) come after them.

    Args:
        fit: The fit; its first restart is looked at.
    """
    if fit.settings.get("steps") == 0 or not math.isfinite(float(fit.trace["loss"].isel(restart=0).max())):
        return []  # nothing was trained
    constant = fit.settings.get(CONSTANT)
    if not isinstance(constant, (int, float)) or not math.isfinite(constant):
        constant = None  # a fit of an earlier version, or a likelihood without a best constant
    facts = _Facts(fit, course_of(fit), Remedies(fit), constant)
    layers, masked = emptied_layers(fit, collapsed_layers(fit)), mask_notes(fit, _has_learned(facts))
    rose = _loss_rose(facts)
    if (useless := _no_better_than_constant(facts, layers, rose, masked)) is not None:
        return [useless, *inclusion_notes(fit)]
    lost = None if rose else _worse_on_validation(facts)
    untold = layers.without(_told(fit))
    found = [
        *masked,
        f"{untold}{fallen_scales(fit, untold.tensors)}: {facts.remedies.about(untold.tensors).less_prior()}"
        if untold
        else None
        if layers
        else _joined(_pruned_prematurely(facts)),
        rose,
        lost,
        None if lost or rose or layers else _cut_short(facts),
        None if layers.excluded else _undecided(facts),
    ]
    return [*[note for note in found if note is not None][:MOST], *inclusion_notes(fit)]


def _no_better_than_constant(
    facts: _Facts, layers: EmptiedLayers, rose: str | None, masked: Sequence[str]
) -> str | None:
    gain, constant = facts.gain, facts.constant
    if gain is None or constant is None:
        return None
    labels = facts.fit.model.likelihood.is_labels
    # Of labels the entropy can be gained; of numbers, a share R^2 of the variance is worth -1/2 log(1 - R^2) nats.
    whole = -constant if labels else -0.5 * math.log1p(-NO_BETTER) / NO_BETTER
    if gain > (HARDLY if _several_labels(facts) else NO_BETTER) * whole:
        return None
    how = "no better" if gain <= NO_BETTER * whole else "hardly better"
    learned = any(parameter.requires_grad for parameter in facts.fit.model.likelihood.parameters())
    accuracy = facts.course.validation.get("accuracy")
    reached = "" if accuracy is None else f", validation accuracy {100 * float(accuracy[-1]):.1f} %"
    begins = (
        f"the fit is {how} than a constant prediction: {facts.course.log_likelihood[-1]:.4g} nats per example in "
        f"training, the best constant has {constant:.4g}{reached}"
    )
    if masked or rose:
        return f"{begins}; {masked[0] if masked else rose}"
    if gain < -FAR_BELOW and learned and not labels:
        return (
            f"{begins}; the scale of the noise is still far from the size of the errors: standardise the targets, or "
            f"{facts.remedies.longer()} and learning_rate=0.01"
        )
    if not layers and (early := _pruned_prematurely(facts, useless=True)) is not None:
        return _joined((f"{begins}; {early[0]}", early[1]))
    untold = layers.without(_told(facts.fit))
    emptied = f"; {untold}{fallen_scales(facts.fit, untold.tensors)}" if untold else ""
    remedy = facts.remedies.about(layers.tensors).less_prior()
    return f"{begins}{emptied}: if the inputs say more of the targets than this, {remedy}"


def _told(fit: Fitted) -> list[str]:
    """Tensors whose last weight was missed when it left, which `Thresholds` has said by name."""
    report = (fit.settings.get(Thresholds.name) or [{}])[0]
    return [str(one["tensor"]) for one in report.get("emptied", ())]


def _has_learned(facts: _Facts) -> bool:
    """Whether there are labels of which it has learned nearly all there is."""
    gain, constant = facts.gain, facts.constant
    if gain is None or constant is None:
        return False
    return facts.fit.model.likelihood.is_labels and gain > LEARNED * -constant


def _several_labels(facts: _Facts) -> bool:
    """Whether there are labels of so many classes that little gain is a fault and no hard problem."""
    labels = facts.fit.model.likelihood.is_labels
    return labels and facts.constant is not None and math.exp(-facts.constant) > SEVERAL


def _worse_on_validation(facts: _Facts) -> str | None:
    ends = facts.course.best_of_validation()
    if ends is None or facts.constant is None:
        return None
    best, last = (-value - facts.constant for value in ends)
    is_worse = last < -max(LEAST, WORSE * abs(facts.constant))
    if not is_worse and not (best > LEAST and last < LOST * best):
        return None
    said = f"on validation data its nll is {ends[1]:.3g} nats per example"
    said += f", where a constant prediction has {-facts.constant:.3g}" if is_worse else f", after {ends[0]:.3g} before"
    gains = facts.course.log_likelihood - facts.constant
    if gains[-1] < KEPT * gains.max():
        return f"{said}: the prior has taken back what the data had taught: {facts.remedies.less_prior()}"
    return f"{said}: it learns what is chance in the training data: {facts.remedies.more_prior()}"


def _loss_rose(facts: _Facts) -> str | None:
    quarters = facts.course.quarters
    if quarters is None or quarters.rise <= max(quarters.noise, RISE):
        return None
    return (
        f"the loss rose at the end, by {quarters.rise:.2g} nats per example (noise {quarters.noise:.1g}): "
        f"{facts.remedies.slower()}"
    )


def _cut_short(facts: _Facts) -> str | None:
    """Of labels alone, and where much of them was left to learn: a prior may be paid off for ever at no use."""
    quarters, gain, constant = facts.course.quarters, facts.gain, facts.constant
    if quarters is None or gain is None or constant is None or not facts.fit.model.likelihood.is_labels:
        return None
    fall = quarters.misfit_fall if facts.fit.guide.is_map else quarters.fall
    if fall <= max(quarters.noise, FALL) or _has_learned(facts):
        return None
    # A fit that has learned less than half of what labels have to say needs more than time.
    is_far = _several_labels(facts) and gain < HALF * -constant
    return (
        f"the fit ended while the loss still fell, by {fall:.2g} nats per example between the last two quarters of its "
        f"steps: {facts.remedies.less_prior() if is_far else facts.remedies.longer()}"
    )


def _pruned_prematurely(facts: _Facts, useless: bool = False) -> tuple[str, str] | None:
    """Units, or weights with gates, most of which left before the network had learned anything: what, and a remedy."""
    course, report = facts.course, (facts.fit.settings.get("gating") or [{}])[0]
    if float(report.get("noise") or 0.0) > NOISY:
        said = f"the noise of their gates' gradient weighs {report['noise']:.1f} times their price"
        return f"units were pruned prematurely: {said}", facts.remedies.gentler_gates()
    if course.units_left is not None:
        at, left = course.units_left
        gone, what, remedy = left[0] - left, "units", facts.remedies.gentler_gates()
        share = gone[-1] / left[0]
    elif course.zeros is not None:
        at = np.arange(1, len(course.zeros) + 1) * course.steps_an_epoch
        gone, what, remedy = (
            course.zeros - course.zeros.min(),
            "weights",
            facts.remedies.about(_gated_tensors(facts.fit)).less_prior(),
        )
        share = float(gone[-1])
    else:
        return None
    gains = course.log_likelihood - (course.log_likelihood[0] if facts.constant is None else facts.constant)
    if share < (HALF if useless else MANY) or len(gains) < 4:
        return None
    step = float(at[int(np.argmax(gone >= HALF * gone[-1]))])
    begins = f"{what} were pruned prematurely: half of those that left had gone by step {step:.0f}"
    if useless:
        return (f"{begins}, before anything was learned", remedy) if course.units_left is not None else None
    epoch = min(len(gains) - 1, int(step / course.steps_an_epoch))
    reached = float(gains[: epoch + 1].max() / gains.max()) if gains.max() > 0 else 1.0
    if reached >= EARLY:
        return None
    return f"{begins}, when the likelihood had made {100 * max(reached, 0.0):.0f} % of what it gained", remedy


def _gated_tensors(fit: Fitted) -> list[str]:
    events = {name: prior.hierarchy.included for name, prior in fit.model.priors.items()}
    return [name for name, event in events.items() if event is not None and event.gate]


def _joined(found: tuple[str, str] | None) -> str | None:
    return None if found is None else ": ".join(found)


@torch.no_grad()
def _undecided(facts: _Facts) -> str | None:
    """Inclusion probabilities of gates, most of which the data have left open."""
    fit = facts.fit
    model, closed = fit.model, fit.guide.inclusion()
    inside = near = total = 0
    densities: set[float] = set()
    undecided: list[str] = []
    for name, prior in model.priors.items():
        event = prior.hierarchy.included
        if event is None or not event.gate or prior.sites[event.gate].name not in closed:
            continue
        pip = prior.spread(event.gate, closed[prior.sites[event.gate].name]).expand(prior.shape)
        config: dict[str, Any] = prior.hierarchy.config or {}
        density = (config.get("arguments") or {}).get("expected_density")
        total += model.declared_sizes[name]
        found = int(is_undecided(pip).sum())
        inside += found
        undecided += [name] if found else []
        if isinstance(density, float) and 0.0 < density < 1.0:
            densities.add(density)
            odds = math.log(density / (1.0 - density))
            near += int(((pip.double().clamp(1e-9, 1 - 1e-9).logit() - odds).abs() < NEAR).sum())
    low, high = UNDECIDED
    if total and inside > HALF * total:
        where = f"; {100 * near / total:.0f} % sit at the prior's {densities.pop():g}" if len(densities) == 1 else ""
        return (
            f"{100 * inside / total:.0f} % of the inclusion probabilities lie between {low} and {high}{where}: the "
            f"data have not decided on these weights: {facts.remedies.about(undecided).sharper_prior()}"
        )
    report = (fit.settings.get("gating") or [{}])[0]
    gates = fit.trace.sizes.get("unit", 0)
    interior = int(report.get("interior") or 0)
    if gates and interior > HALF * gates:
        return f"{interior} of {gates} gates of units were undecided when they were rounded: {facts.remedies.longer()}"
    return None
