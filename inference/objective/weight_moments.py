"""Mean and variance of single weights given what the guide has drawn of the rest.

Three kinds of weights have them in closed form, and are independent of each other given the rest:

* a latent with a Normal guide: m and v;
* a product z slab with a Bernoulli z of its own for each weight (spike and slab, paired or mean-field), of which
  neither is drawn: with P(z = 1) = a and slab ~ Normal(m, v) they are a m and a (v + m^2) - a^2 m^2;
* a Normal under any scale, w = offset + slope latent with a Normal latent of its own for each weight: non-centred
  scale mixtures, and spike and slab whose z is shared by a group. Scales and shared gates are drawn, so that the
  correlations that they make inside a group stay.

Which kind a weight is of is found by trying the declaration at a few values, never by the name of a prior.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from bayesprune.inference.guides.factors import BernoulliFactor, Factor, GivenGateFactor, NormalFactor
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import default_estimator, moment_matched
from bayesprune.inference.objective.site_terms import run_priors
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import Site, TensorPrior

__all__ = ["FEWEST_INPUTS", "WeightForm", "forms_of"]

FEWEST_INPUTS = 20
"""Weights of an output from which on a sum of spikes and slabs is drawn as a Normal."""
_TOLERANCE = {torch.float64: 1e-9}


@dataclass(frozen=True)
class WeightForm:
    """How the weights of a tensor depend on what is not drawn of them.

    Attributes:
        tensor: Name of the tensor.
        latent: Name of the site of the Normal latent, one number a weight: the weights themselves, a slab, or what a
            scale multiplies.
        gate: Name of the site of the gate, one a weight, that multiplies it; None where there is none.
        unit: Whether its slope is one: the weight is the latent, or latent times gate.
        is_drawn: Whether the latent is drawn all the same, since a term of the objective needs its draw.
    """

    tensor: str
    latent: str
    gate: str | None = None
    unit: bool = False
    is_drawn: bool = False

    @property
    def at_centre(self) -> tuple[str, ...]:
        """Names of the sites of which nothing is drawn."""
        latent = () if self.is_drawn else (self.latent,)
        return latent if self.gate is None else (*latent, self.gate)

    def mean(self, prior: TensorPrior, factors: Mapping[str, Factor], values: Mapping[str, Tensor]) -> Tensor:
        """Means of the weights, `(out, in, ...)`; where nothing was drawn they are the weights at `values`.

        Args:
            prior: The prior of the tensor.
            factors: The guide's draw, by site.
            values: Values by site.
        """
        factor = _normal(factors[self.latent])
        return factor.location if self.unit else _weight(prior, values, {self.latent: factor.location})

    def variance(
        self, prior: TensorPrior, factors: Mapping[str, Factor], values: Mapping[str, Tensor], mean: Tensor
    ) -> Tensor:
        """Variances of the weights, `(out, in, ...)`.

        Args:
            prior: The prior of the tensor.
            factors: The guide's draw, by site.
            values: Values by site.
            mean: Means of the weights.
        """
        factor = _normal(factors[self.latent])
        variance, centre = factor.scale.square(), factor.location
        if not self.unit:
            slope = self._slope(prior, values, torch.ones_like(centre))
            variance, centre = variance * slope.square(), centre * slope
        if self.gate is None:
            return variance
        gate = factors[self.gate]
        assert isinstance(gate, BernoulliFactor)
        return gate.probability * torch.addcmul(variance, centre, centre - mean)

    def _slope(self, prior: TensorPrior, values: Mapping[str, Tensor], one: Tensor) -> Tensor:
        if self.gate is not None:
            return _weight(prior, values, {self.latent: one, self.gate: one})
        at_zero = _weight(prior, values, {self.latent: torch.zeros_like(one)})
        return _weight(prior, values, {self.latent: one}) - at_zero


def forms_of(guide: Guide, gradient: Gradient, everywhere: bool, own_estimator: bool) -> tuple[WeightForm, ...]:
    """The tensors whose weights have a closed form; random numbers are taken.

    Args:
        guide: The guide.
        gradient: How terms are estimated.
        everywhere: Whether all kinds are looked for; else weights with gates of their own alone, from `FEWEST_INPUTS`
            inputs on.
        own_estimator: Whether an estimator of the gates' gradient was asked for, which then has all the gates.
    """
    model, found = guide.model, list[WeightForm]()
    has_gates = not own_estimator and default_estimator(model) is moment_matched
    with torch.no_grad():
        factors = guide.draw()
        values = _values(guide, factors)
        for name, prior in model.priors.items():
            if len(prior.shape) < 2:
                continue
            like = model.network.get_parameter(name)
            form = _with_gate(prior, factors, values) if has_gates else None
            if form is not None and math.prod(prior.shape[1:]) >= FEWEST_INPUTS:
                if _is_left(guide, gradient, form, factors, form.at_centre):
                    found.append(form)
                    continue
            form = _without_gate(prior, factors, values, like) if everywhere else None
            if form is not None:
                is_left = _is_left(guide, gradient, form, factors, (form.latent,))
                found.append(replace(form, is_drawn=not is_left))
    return tuple(found)


def _with_gate(prior: TensorPrior, factors: Mapping[str, Factor], values: Mapping[str, Tensor]) -> WeightForm | None:
    """The form of a weight that is a gate times a Normal latent, and perhaps times what else there is."""
    bernoulli = (BernoulliFactor, GivenGateFactor)  # of a given gate a is 0 or 1, and the moments hold
    gates = [site for site in prior.one_a_weight if type(factors[site.name]) in bernoulli]
    for gate in gates:
        for latent in _normals(prior, factors):
            zero, one = (
                torch.zeros(prior.shape).to(values[latent.name]),
                torch.ones(prior.shape).to(values[latent.name]),
            )
            slope = _weight(prior, values, {gate.name: one, latent.name: one})
            tries = [(torch.rand_like(one), torch.randn_like(one)) for _ in range(2)] + [(zero, one), (one, zero)]
            if slope.any() and all(
                _equal(_weight(prior, values, {gate.name: z, latent.name: s}), slope * z * s) for z, s in tries
            ):
                alone = set(_parents(prior)) <= {gate.latent, latent.latent} and bool((slope == 1.0).all())
                return WeightForm(prior.name, latent.name, gate.name, alone)
    return None


def _without_gate(
    prior: TensorPrior, factors: Mapping[str, Factor], values: Mapping[str, Tensor], like: Tensor
) -> WeightForm | None:
    """The form of a weight that is a Normal latent, or linear in one given the rest."""
    if prior.weight_is_latent:
        return WeightForm(prior.name, prior.name, unit=True) if type(factors[prior.name]) is NormalFactor else None
    for latent in _normals(prior, factors):
        one = torch.ones_like(values[latent.name])
        offset = _weight(prior, values, {latent.name: torch.zeros_like(one)})
        slope = _weight(prior, values, {latent.name: one}) - offset
        tries = [torch.randn_like(one), -100.0 * torch.rand_like(one)]
        if slope.any() and all(_equal(_weight(prior, values, {latent.name: s}), offset + slope * s) for s in tries):
            return WeightForm(prior.name, latent.name)
    return None


def _is_left(
    guide: Guide, gradient: Gradient, form: WeightForm, factors: dict[str, Factor], sites: tuple[str, ...]
) -> bool:
    """Whether nothing but the weights looks at the values of some sites, and the guide can leave them undrawn.

    They are no number for once: where a term of the objective becomes none either, it needs the draw.
    """
    left, none = guide.draw(sites), dict(factors)
    latent = _normal(left[form.latent])
    if not torch.equal(latent.value, latent.location):
        return False
    none[form.latent] = replace(latent, value=torch.full_like(latent.location, math.nan))
    gates = {site: torch.full_like(factors[site].value, math.nan) for site in sites if site == form.gate}
    kl_of: dict[str, Tensor] = {}
    try:
        run_priors(guide.model, none, gradient, kl_of, gates, names=[form.tensor])
    except Exception:  # whatever a declaration of one's own raises at what is no number
        return False
    return all(bool(torch.isfinite(term)) for term in kl_of.values())


def _values(guide: Guide, factors: Mapping[str, Factor]) -> dict[str, Tensor]:
    """Values of all sites at a draw, gates by their probabilities."""
    return {site: factors[site].value for site in guide.model.sites}


def _weight(prior: TensorPrior, values: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> Tensor:
    """The weights at values of the sites, with other ones for some of them."""
    like = next(iter(others.values()))
    weight, _ = prior.run(lambda site, _: others[site] if site in others else values[site], like, {})
    return weight


def _normal(factor: Factor) -> NormalFactor:
    assert isinstance(factor, NormalFactor)
    return factor


def _normals(prior: TensorPrior, factors: Mapping[str, Factor]) -> list[Site]:
    """The real latents of single weights with a Normal guide."""
    return [site for site in prior.one_a_weight if type(factors[site.name]) in (NormalFactor, SlabFactor)]


def _parents(prior: TensorPrior) -> tuple[str, ...]:
    return tuple(prior.hierarchy.parents.get(WEIGHT, ()))


def _equal(one: Tensor, other: Tensor) -> bool:
    rtol = _TOLERANCE.get(one.dtype, 1e-4)
    return bool(torch.allclose(one, other, rtol=rtol, atol=rtol * float(other.abs().max())))
