"""The priors run at a draw of the guide: weights, and the part of the KL term of every site."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.sticking_the_landing import landing_term
from bayesprune.inference.terms.registry import only_by_term, registered_term, site_term
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid

__all__ = ["run_priors", "sites_from_draw"]

_NONE: Mapping[str, Tensor] = {}


def run_priors(
    model: BayesianNetwork,
    factors: Mapping[str, Factor],
    gradient: Gradient,
    kl_of: dict[str, Tensor],
    gates: Mapping[str, Tensor] = _NONE,
    given: Mapping[str, Tensor] = _NONE,
    names: Iterable[str] | None = None,
    values: dict[str, Tensor] | None = None,
) -> dict[str, Tensor]:
    """Weights at a draw of the guide, before the model's ways.

    Args:
        model: The model.
        factors: The guide's draw, by site.
        gradient: How terms are estimated.
        kl_of: Gets the part of the KL term of every site, in nats, and of factors of priors.
        gates: Values of Bernoulli latents in place of the draw's, by site; default none.
        given: Weights of tensors whose priors are evaluated elsewhere, by name; default none.
        names: Names of the tensors; default None: all that have a prior.
        values: Gets the value of every site.

    Returns:
        Weights by name of tensor, `(out, in, ...)`.
    """

    def draw(site: str, fn: Iid) -> Tensor:
        factor = factors[site]
        value = gates[site] if site in gates else factor.value
        term = landing_term(fn, factor, value) if gradient.sticking_the_landing else None
        kl_of[site] = term if term is not None else site_term(fn, factor, value, gradient.analytic)
        if values is not None:
            values[site] = value
        return value

    shared: dict[str, Tensor] = {}  # latents of the whole network
    weights = {}
    for name in model.priors if names is None else names:
        if name in given:
            weights[name] = given[name]
            continue
        prior = model.priors[name]
        weight, drawn = prior.run(draw, model.network.get_parameter(name), shared)
        if prior.hierarchy.factor is not None:
            kl_of[f"{name}.factor"] = -prior.factor(drawn, weight)
        weights[name] = weight
    return weights


def sites_from_draw(guide: Guide, gradient: Gradient) -> list[str]:
    """Names of the sites whose term has no registered form, so that it is estimated from the draw.

    Args:
        guide: The guide.
        gradient: How terms are estimated.
    """
    found: list[str] = []
    with torch.random.fork_rng(devices=[]), torch.no_grad(), fast_distributions():
        factors = guide.draw()

        def visit(site: str, fn: Iid) -> Tensor:
            factor = factors[site]
            form = registered_term(type(fn.base_dist), type(factor))
            landing = gradient.sticking_the_landing and factor.has_landing_term
            known = form is not None and (only_by_term(fn) or gradient.analytic and not landing)
            if factor.has_density and not known:
                found.append(site)
            return factor.value

        shared: dict[str, Tensor] = {}
        for name, prior in guide.model.priors.items():
            prior.run(visit, guide.model.network.get_parameter(name), shared)
    return found
