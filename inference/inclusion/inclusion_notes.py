"""What has to be known where inclusion probabilities are read: sentences."""

from __future__ import annotations

from typing import Any

import numpy as np

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.kept_inputs import inputs_of
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.identified import identified_tensor, regression_tensor
from bayesprune.inference.guides.registry import has_density
from bayesprune.inference.inclusion.correlated_inputs import CORRELATION, chooses_inputs, correlated_inputs
from bayesprune.inference.inclusion.event_rule import registered_rule
from bayesprune.inference.inclusion.probabilities import probabilities_at
from bayesprune.models.language.latent import Declared
from bayesprune.models.networks.placing import like, zeros_for

__all__ = [
    "CORRELATED",
    "DISAGREE",
    "given_structure",
    "inclusion_facts",
    "inclusion_notes",
    "meaning_of",
    "regression_of",
    "why_no_elbo",
]

CORRELATED = "correlated_inputs"
"""Key of `Fit.settings`: what `correlated_inputs` found, a restart each, where it found anything."""
DISAGREE = 0.2
"""Difference of an inclusion probability between restarts from which on they disagree about it; up to a tenth either
way is the noise of the gradient, of one draw a step."""


def inclusion_facts(fit: Fitted, data: Batches | None = None) -> dict[str, Any]:
    """What notes need of the training data, to be kept with the settings; nothing where there is nothing to say.

    Args:
        fit: The fit, with the examples that it keeps.
        data: The training data, some of whose inputs are read again where the fit keeps none; default None: they
            are not.
    """
    name = identified_tensor(fit.model)
    if name is None or not chooses_inputs(fit.model.priors[name]) or fit.guide.is_map:
        return {}
    reference = next(fit.model.network.parameters())
    x = None if fit.examples is None else fit.examples[0]
    if x is None and data is not None:
        try:
            x = inputs_of(data, reference)
        except Exception:  # of whatever reads the user's data: one more pass for a note is not worth the loss of a fit
            return {}
    if x is None:
        return {}
    found = [correlated_inputs(one, like(x, reference)) for one in fit.restarts]
    return {CORRELATED: found} if any(found) else {}


def regression_of(fit: Fitted) -> str | None:
    """The weights of a fit whose restarts can be compared weight by weight; None where there are hidden units.

    Args:
        fit: The fit.
    """
    name = identified_tensor(fit.model)
    if name is None or fit.settings.get(CORRELATED):
        return name
    reference = next(fit.model.network.parameters())
    kept = fit.examples[0] if fit.examples is not None else fit.inputs
    if kept is not None:
        return regression_tensor(fit.model, like(kept[:16], reference))
    shape = fit.settings.get("input_shape")
    return None if shape is None else regression_tensor(fit.model, zeros_for(fit.model.network, shape, 16) + 1)


def given_structure(fit: Fitted, restart: int = 0) -> list[str]:
    """A sentence where which weights are in was given before the training (`refit`), not learned in it.

    Args:
        fit: The fit.
        restart: Which of its restarts; default the first.
    """
    told = fit.settings.get("refit")
    if not isinstance(told, list) or restart >= len(told) or not isinstance(told[restart], dict):
        return []
    one = told[restart]
    kept, of = one.get("kept", 0), one.get("of", 0)
    if fit.restart(restart).guide.is_map:
        what = "the weights that are in are still points, as in a MAP"
    elif one.get("by_masks"):
        what = "what is said of the weights is given that they are in"
    else:
        what = "inclusion probabilities are the zeros and ones that were given, and the ELBO is that of data and gates"
    return [f"refit given the structure: {one.get('gates')}, {kept:,} of {of:,} weights; {what}"]


def inclusion_notes(fit: Fitted, restart: int = 0) -> list[str]:
    """Sentences on how far inclusion probabilities can be trusted: those of a regression, or given ones.

    Of a network with hidden units probabilities of weights cannot be compared between restarts, and what is said about
    them stands in docs/posteriors.md. A MAP has none.

    Args:
        fit: The fit.
        restart: Whose probabilities are read; default the first.
    """
    name = regression_of(fit)
    given = given_structure(fit, restart)
    if given or name is None or not chooses_inputs(fit.model.priors[name]) or fit.guide.is_map:
        return given
    notes = []
    if (said := _disagreement(fit, name)) is not None:
        notes.append(said)
    facts = fit.settings.get(CORRELATED) or []
    if restart < len(facts) and facts[restart] is not None:
        notes.append(_correlation(facts[restart], fit))
    return notes


def why_no_elbo(fit: Fitted) -> str | None:
    """Why restarts have no ELBO to be weighed by; None where they have one.

    Args:
        fit: The fit.
    """
    for one in fit.restarts:
        points = [name for name, family in one.guide.family_of.items() if not has_density(family)]
        improper = [name for name, prior in one.model.priors.items() if prior.hierarchy.improper]
        for q in one.guide.ways.values():
            if q.why_no_elbo:
                return q.why_no_elbo
        if points:
            return f"{points[0]} is a point"
        if improper:
            return f"the prior on {improper[0]} is improper"
    return None


def meaning_of(hierarchy: Declared) -> str | None:
    """What an inclusion probability is not, in a sentence, where its name promises more than it is.

    Args:
        hierarchy: The prior.
    """
    return None if hierarchy.included is None else registered_rule(hierarchy.included).meaning


def _correlation(facts: dict[str, Any], fit: Fitted) -> str:
    first, second = facts["inputs"]
    if facts["correlation"] > CORRELATION:
        what = f"inputs {first} and {second} correlate by {facts['correlation']:.2f}"
    else:
        what = f"the others explain {100 * facts['explained']:.0f} % of input {facts['explained_input']}"
    if why_no_elbo(fit) is not None:
        remedy = "compare restarts" if len(fit.restarts) > 1 else "fit with restarts=8 and compare them"
    elif len(fit.restarts) > 1:
        remedy = "read fit.combined(), which weighs the restarts and is nearer, not exact"
    else:
        remedy = "fit with restarts=8 and read fit.combined(), which is nearer, not exact"
    return (
        f"{what}, and the guide takes weights to be independent: it may choose one input where the posterior spreads "
        f"its belief, so that inclusion probabilities may be off by much: {remedy}"
    )


def _disagreement(fit: Fitted, name: str) -> str | None:
    """Where restarts have come to unlike probabilities; None where they agree, or there are none."""
    if len(fit.restarts) < 2:
        return None
    try:
        found = np.stack([probabilities_at(fit, number)[name].numpy() for number in range(len(fit.restarts))])
    except ValueError:  # a MAP, or a prior without an event that can be evaluated
        return None
    apart = np.ptp(found, axis=0)
    if not apart.max() > DISAGREE:
        return None
    remedy = "read fit.combined(), which weighs them by their evidence"
    if why_no_elbo(fit) is not None:
        remedy = "they have no ELBO to be weighed by, so that none is to be preferred"
    at = int(apart.argmax())
    of_one = found.reshape(len(found), -1)[:, at]
    where = ", ".join(str(int(index)) for index in np.unravel_index(at, apart.shape))
    return (
        f"{len(found)} restarts disagree about {int((apart > DISAGREE).sum())} of {apart.size} inclusion "
        f"probabilities, most about {name}[{where}] (from {of_one.min():.2f} to {of_one.max():.2f}): " + remedy
    )
