"""Bayesian model reduction: what the evidence becomes when a weight is taken out, from the fit that has it.

Nothing is fitted again. For a posterior q(w) = Normal(m, v) that was found under the prior Normal(0, s^2), the model
whose prior is narrower, Normal(0, r^2), has the evidence p(y) E_q[Normal(w; 0, r^2) / Normal(w; 0, s^2)], in closed
form (Friston & Penny 2011; Beckers et al. 2022, for networks). At r = 0 the weight is removed, and this is the
Savage-Dickey ratio of the posterior's and the prior's density at zero (Dickey 1971).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.guide import normals
from bayesprune.inference.guides.registry import is_point
from bayesprune.inference.inclusion.event_rule import EventRule, event_rule
from bayesprune.inference.posterior.axis_names import dimensions
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.inclusion import REDUCED_LEVELS, ReducedToZero
from bayesprune.models.language.levels import level_shape
from bayesprune.models.language.tensor_prior import TensorPrior

WIDTHS = "the reduced model's prior has to be narrower than the fit's: give a reduced_sd in [0, prior sd)"


def log_evidence_change(location: Tensor, sd: Tensor, prior_sd: Tensor, reduced_sd: float = 0.0) -> Tensor:
    """Log evidence of the reduced model less that of the full one, for every weight by itself.

    With m, v the posterior's mean and variance, s and r the two prior sds, and u = 1 + r^2 (1/v - 1/s^2):
    (1/2) log(s^2 / (v u)) - (m^2 / (2 v)) (1 - r^2 / s^2) / u. Multiplying precisions by r^2 is what makes r = 0 no
    special case. Friston & Penny 2011, their Gaussian case for one parameter with prior mean zero.

    Args:
        location: Posterior means m.
        sd: Posterior standard deviations, the square roots of v; of the same shape.
        prior_sd: Prior standard deviations s; broadcasts to that shape.
        reduced_sd: Prior standard deviation r of the reduced model; default 0: the weight is removed.

    Returns:
        Nats, of the shape of `location`, in float64; positive where the data favour the reduced model.

    Raises:
        ValueError: If a standard deviation of the fit is not positive, or `reduced_sd` is not in [0, prior sd).
    """
    m, v, s2 = location.double(), sd.double().square(), prior_sd.double().square()
    if not (bool((v > 0).all()) and bool((prior_sd > 0).all())):
        raise ValueError("a posterior or prior standard deviation is not positive: a point has no density to compare")
    if not (math.isfinite(reduced_sd) and reduced_sd >= 0 and bool((reduced_sd < prior_sd).all())):
        raise ValueError(f"reduced_sd is {reduced_sd}, but {WIDTHS}")
    r2 = reduced_sd**2
    u = 1.0 + r2 * (1.0 / v - 1.0 / s2)  # positive for r < s, also where the posterior is wider than the prior
    return 0.5 * (s2.log() - v.log() - u.log()) - 0.5 * m.square() / v * (1.0 - r2 / s2) / u


def evidence_change(fit: Fitted, reduced_sd: float = 0.0, restart: int = 0, per: str = "weight") -> xr.Dataset:
    """Change of the log evidence when a weight, or a group of them, is reduced, for every one of every tensor.

    The changes of several weights add up where the fit takes them to be independent, as a mean-field guide does; how
    far that is from the truth, the fit cannot tell. A tempered fit gives the change of the tempered evidence.

    Args:
        fit: A fit with Normal(0, sd) priors of fixed sd, such as `Gaussian` (a prior much wider than the weights asks
            for their removal: Lindley's paradox), and a mean-field Normal guide: of
            `fit(..., guide="meanfield")` or of `laplace_around`.
        reduced_sd: Prior standard deviation of a weight in the reduced model; default 0: it is removed.
        restart: Which restart; default the first.
        per: What is reduced as one: a ``"weight"`` (default), ``"kernel"``, ``"output"`` or ``"input"``; the change of
            a group is the sum over its weights.

    Returns:
        One variable a tensor, `(out, in, ...)`, for groups without the dimensions that they span, in nats, float64: log
        evidence of the reduced model less that of the full one, positive where the data favour taking it out.
        Attributes ``units``, ``reduced_sd`` and ``tempered``.

    Raises:
        ValueError: If a prior is not Normal(0, sd) with a fixed sd, the guide of its weights is not Normal,
            `reduced_sd` is not below every prior sd, or `per` is unknown.
    """
    one = fit.restart(restart)
    priors = one.model.priors
    changes = _changes(one, reduced_sd)
    return xr.Dataset(
        {name: _variable(priors[name], per, _summed(priors[name], change, per)) for name, change in changes.items()},
        attrs={"units": "nats", "reduced_sd": float(reduced_sd), "tempered": int(bool(fit.settings.get("tempered")))},
    )


def reduced_inclusion(
    fit: Fitted, expected_density: float = 0.5, reduced_sd: float = 0.0, restart: int = 0, per: str = "weight"
) -> xr.Dataset:
    """Inclusion probability of every weight by Bayesian model reduction, without fitting again.

    The probability of the full model against the one in which this weight alone is reduced:
    sigmoid(logit(expected_density) - change of the log evidence). It equals the posterior inclusion probability under
    spike and slab where the weights are independent a posteriori, as with orthogonal features.

    Args:
        fit: As in `evidence_change`.
        expected_density: Prior probability that a weight, or a group, is in the network; default 0.5.
        reduced_sd: Prior standard deviation of a weight in the reduced model; default 0: it is removed.
        restart: Which restart; default the first.
        per: As in `evidence_change`.

    Returns:
        One variable a tensor, of the shape that `evidence_change` has, in [0, 1], float64; its attribute ``kind`` is
        ``"reduction"``, ``event`` its text, as in `Fit.inclusion_probabilities`.

    Raises:
        ValueError: As `evidence_change`, or if `expected_density` is not strictly between 0 and 1.
    """
    if not 0.0 < expected_density < 1.0:
        raise ValueError(
            f"expected_density is {expected_density}, but a prior probability strictly between 0 and 1 is expected"
        )
    one = fit.restart(restart)
    prior_log_odds = math.log(expected_density) - math.log1p(-expected_density)
    reduced = "weight = 0" if reduced_sd == 0 else f"weight ~ Normal(0, {reduced_sd:g})"
    attrs = {"kind": "reduction", "event": f"the full model against {reduced}, one {per} at a time (reduction)"}
    variables = {}
    for name, change in _changes(one, reduced_sd).items():
        prior = one.model.priors[name]
        variables[name] = (*_variable(prior, per, (prior_log_odds - _summed(prior, change, per)).sigmoid()), attrs)
    return xr.Dataset(variables, attrs={"expected_density": expected_density, "reduced_sd": float(reduced_sd)})


def reduction(fit: Fitted, restart: int = 0) -> dict[str, Tensor]:
    """Criterion for `prune`: the log evidence that is lost when a weight is removed, in nats; more is kept sooner.

    Its order is that of `reduced_inclusion`, without probabilities that round to 1 and tie. The weights of a group
    share the group's where the prior's event is of groups (`reduced_to_zero(level=...)`).

    Args:
        fit: As in `evidence_change`.
        restart: Which restart; default the first.

    Returns:
        Minus the change of the log evidence by name of tensor, `(out, in, ...)`, float64.

    Raises:
        ValueError: As `evidence_change`.
    """
    one = fit.restart(restart)
    return {name: -_of_event(one.model.priors[name], change) for name, change in _changes(one, 0.0).items()}


def event_log_odds(one: Restart, prior: TensorPrior) -> Tensor:
    """Log odds of the event `reduced_to_zero` for every weight of a tensor, `(out, in, ...)`, float64.

    Raises:
        ValueError: As `evidence_change`.
    """
    event = prior.hierarchy.included
    assert isinstance(event, ReducedToZero)
    prior_log_odds = math.log(event.expected_density) - math.log1p(-event.expected_density)
    return prior_log_odds - _of_event(prior, _changes(one, 0.0, (prior.name,))[prior.name])


def drawn_event(one: Restart, prior: TensorPrior) -> Tensor:
    """Which weights of a tensor are included at a draw of the event, boolean, `(out, in, ...)`; those of a group alike.

    Raises:
        ValueError: As `evidence_change`.
    """
    probability = event_log_odds(one, prior).sigmoid()
    event = prior.hierarchy.included
    assert isinstance(event, ReducedToZero)
    groups = level_shape(event.level, prior.shape, tensor=prior.name)
    return torch.rand(groups, dtype=probability.dtype, device=probability.device) < probability


def _of_event(prior: TensorPrior, change: Tensor) -> Tensor:
    """The change of what each weight belongs to under the prior's event, `(out, in, ...)`."""
    event = prior.hierarchy.included
    level = event.level if isinstance(event, ReducedToZero) else "weight"
    return _summed(prior, change, level).expand(prior.shape)


def _summed(prior: TensorPrior, change: Tensor, per: str) -> Tensor:
    """Sums a tensor of weights over its groups; axes that groups span are kept with one entry."""
    if per not in REDUCED_LEVELS:
        raise ValueError(f"per= takes one of {', '.join(REDUCED_LEVELS)}, not {per!r}")
    shape = level_shape(per, prior.shape, tensor=prior.name)
    spanned = [axis for axis, extent in enumerate(shape) if extent != prior.shape[axis]]
    return change.sum(dim=spanned, keepdim=True) if spanned else change


def _variable(prior: TensorPrior, per: str, value: Tensor) -> tuple[tuple[str, ...], Any]:
    """Dimensions and values of a tensor's groups, without the axes that they span."""
    shape = level_shape(per, prior.shape, tensor=prior.name)
    spanned = tuple(axis for axis, extent in enumerate(shape) if extent != prior.shape[axis])
    dims = tuple(dim for axis, dim in enumerate(dimensions(prior.name, prior)) if axis not in spanned)
    return dims, value.cpu().numpy().squeeze(axis=spanned)


def _changes(one: Restart, reduced_sd: float, names: Sequence[str] | None = None) -> dict[str, Tensor]:
    """Change for every weight of the named tensors, by default all."""
    asked = list(one.model.priors) if names is None else names
    prior_sds = {name: fixed_prior_sd(one.model, one.model.priors[name]) for name in asked}
    posterior = _normal_guide(one, asked)
    narrowest = min(float(sd.min()) for sd in prior_sds.values())
    if not 0.0 <= reduced_sd < narrowest:  # of all tensors, before any is computed
        raise ValueError(f"reduced_sd is {reduced_sd}, the narrowest prior's sd {narrowest:.4g}, but {WIDTHS}")
    with torch.no_grad():
        return {
            name: log_evidence_change(*posterior[name], prior_sd, reduced_sd) for name, prior_sd in prior_sds.items()
        }


def fixed_prior_sd(model: BayesianNetwork, prior: TensorPrior) -> Tensor:
    """Standard deviation of a prior on weights that is Normal(0, sd) with no latent above it.

    Returns:
        `(out, in, ...)`, in the dtype of the network's parameter.

    Raises:
        ValueError: If the prior is anything else.
    """
    found: list[Iid] = []
    like = model.network.get_parameter(prior.name)

    def look(_: str, fn: Iid) -> Tensor:
        found.append(fn)
        return torch.zeros(prior.shape, dtype=like.dtype, device=like.device)

    alone = prior.weight_is_latent and len(prior.sites) == 1 and prior.hierarchy.factor is None
    if alone:
        prior.run(look, like, {})
    # The very class: a LogNormal, or a Normal under a transform, is another distribution.
    if not (alone and isinstance(found[0].base_dist, torch.distributions.Normal) and not bool(found[0].mean.any())):
        raise ValueError(
            f"the prior on {prior.name} is {prior.hierarchy!r}, but reduction needs Normal(0, sd) with a fixed sd: "
            "fit with Gaussian(), or ask fit.inclusion_probabilities()"
        )
    return found[0].stddev.detach()


def _normal_guide(one: Restart, names: Sequence[str]) -> dict[str, tuple[Tensor, Tensor]]:
    """As `normals`, of a guide that holds the weights of these tensors as Normals.

    Raises:
        ValueError: If it does not.
    """
    for name in names:
        chosen = one.guide.family_of[name]
        if chosen != "normal":
            what = "a point (MAP)" if is_point(chosen) else f"the family {chosen!r}"
            raise ValueError(
                f"the guide of {name} is {what}, but reduction needs a mean-field Normal: fit with guide='meanfield', "
                "or use laplace_around on a trained network"
            )
    return normals(one.guide)


@event_rule(ReducedToZero)
class ReductionRule(EventRule):
    """Of models that are compared: in closed form, under a mean-field Normal guide."""

    ranks_by_default = True

    def included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Drawn: under a mean-field guide the models' probabilities multiply."""
        return drawn_event(one, prior)

    def probabilities(self, fit: Fitted, restart: int, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        """See `event_log_odds`."""
        one = fit.restart(restart)
        return {prior.name: event_log_odds(one, prior).sigmoid() for prior in priors}

    def log_odds(self, fit: Fitted, restart: int, priors: list[TensorPrior]) -> dict[str, Tensor] | None:
        """See `event_log_odds`."""
        one = fit.restart(restart)
        return {prior.name: event_log_odds(one, prior) for prior in priors}

    def is_left_to_units(self, one: Restart, prior: TensorPrior) -> bool:
        """Never: it has a probability of its own."""
        return False


__all__ = [
    "drawn_event",
    "event_log_odds",
    "evidence_change",
    "fixed_prior_sd",
    "log_evidence_change",
    "reduced_inclusion",
    "reduction",
]
