"""Scores of sparse training that read it as inference: signal to noise, inclusion, and Bayes factors of weights.

Inclusion and Bayes factors are log odds, float64: at a temperature T of `DynamicMasks` weights are drawn with odds to
the power of 1 / T, at 0 those of the highest odds stay or come. A budget of so many weights is a constraint on top of
that: the masks at 0 are a mode of the posterior under it, and no draw from the prior.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import pyro.distributions as dist
import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.masks.curvature import fisher_of_batch
from bayesprune.inference.masks.scores import Seen, drop_score, grow_score
from bayesprune.models.distributions.inclusion_threshold import implied_density
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.inclusion import SlabMembership
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.masks.mask_way import Masks

__all__ = ["bayes_factor", "implied_densities", "inclusion", "log_bayes_factor", "signal_to_noise", "slab_sd_of"]

NORMAL = "normal"


def log_bayes_factor(gradient: Tensor, curvature: Tensor, slab_sd: Tensor | float) -> Tensor:
    """Log of the evidence for a weight ~ Normal(0, slab_sd) over that for a weight of zero, to second order at zero.

    With s = slab_sd, where the log-likelihood is g w - h w^2 / 2 the ratio is exactly
    (1 + s^2 h)^(-1/2) exp(g^2 / (2 (h + 1 / s^2))). Of one curvature for all weights it orders them as |g| does.

    Args:
        gradient: g, of the log-likelihood of all the data at zero, in nats / weight.
        curvature: h, minus its second derivative there, at least 0, in nats / weight^2.
        slab_sd: Standard deviation of the weight where it is in.

    Returns:
        Nats, float64, of the common shape.
    """
    g, h = gradient.double(), curvature.double()
    variance = torch.as_tensor(slab_sd, dtype=torch.float64, device=g.device).square()
    return 0.5 * (g.square() / (h + variance.reciprocal()) - torch.log1p(variance * h))


def masked_priors(guide: Guide) -> Iterator[TensorPrior]:
    """The priors on the tensors of a guide's model that have masks."""
    for way in guide.model.ways:
        if isinstance(way, Masks):
            for name in way.masks:
                if name in guide.model.priors:
                    yield guide.model.priors[name]


# -- drop: |mu| / sigma --------------------------------------------------------------------------------------


def _weight_site(prior: TensorPrior) -> str | None:
    return prior.sites[WEIGHT].name if WEIGHT in prior.sites else None


def check_normal(guide: Guide) -> None:
    """Refuses weights whose posterior is no Normal.

    Raises:
        ValueError: If there are such.
    """
    for prior in masked_priors(guide):
        site = _weight_site(prior)
        if site is None or guide.family_of[site] != NORMAL:
            raise ValueError(
                f"signal-to-noise is |mean| / sd of a Normal, which the guide does not have of {prior.name}: fit with "
                "guide='meanfield' and a prior on the weight itself, such as Gaussian(), or drop by 'magnitude'"
            )


@drop_score("signal-to-noise", "|mean| / sd of a mean-field posterior", check=check_normal)
def signal_to_noise(seen: Seen) -> dict[str, Tensor]:
    """|mu| / sigma of each weight's Normal factor (Blundell et al. 2015, section 5.1).

    E|w| / sd |w|, the score of Li et al. 2024 (SSVI), is a monotone function of it, so that it ranks weights the same.
    """
    found = {}
    for name in seen.masks:
        site = _weight_site(seen.guide.model.priors[name])
        assert site is not None  # by `check_normal`
        parts = {piece.parameter: piece.of(parameter.data) for parameter, piece in seen.run.slices(site)}
        found[name] = parts["location"].abs() * (-parts["log_scale"]).exp()
    return found


# -- drop: log odds of inclusion -----------------------------------------------------------------------------


def check_included(guide: Guide) -> None:
    """Refuses priors whose inclusion is no matter of gates or of a slab.

    Raises:
        ValueError: If there are such.
    """
    for prior in masked_priors(guide):
        event = prior.hierarchy.included
        if event is None or not (isinstance(event, SlabMembership) or event.gate is not None):
            raise ValueError(
                f"inclusion is a probability of a gate or of a slab, which the prior on {prior.name} does not have: "
                "take ScheduledSpikeAndSlab() or SpikeAndSlab(), or drop by 'magnitude'"
            )


@drop_score("inclusion", "log odds of inclusion: the slab's given the weight, or a gate's", check=check_included)
def inclusion(seen: Seen) -> dict[str, Tensor]:
    """Log odds that a weight is included, in nats: of the slab at the guide's location of the weight, or of its gate.

    Of a mixture with one spike and one slab a tensor it orders weights as |weight| does (`inclusion_threshold`).
    """
    guide, values = seen.guide, seen.guide.means()
    return {name: _log_odds(guide, guide.model.priors[name], values) for name in seen.masks}


def _log_odds(guide: Guide, prior: TensorPrior, values: Mapping[str, Tensor]) -> Tensor:
    event = prior.hierarchy.included
    assert event is not None  # by `check_included`
    if isinstance(event, SlabMembership):
        # float64: the odds of weights near zero differ in what float32 loses beside the odds at zero
        return prior.membership_log_odds({latent: values[site.name].double() for latent, site in prior.sites.items()})
    assert event.gate is not None
    return prior.spread(event.gate, guide.log_odds()[prior.sites[event.gate].name]).double()


# -- grow: Bayes factors -------------------------------------------------------------------------------------


def slab_sd_of(prior: TensorPrior, values: Mapping[str, Tensor]) -> Tensor | None:
    """The standard deviation of a weight that is in, given what it depends on; None where it is no Normal around zero.

    That of the slab of a mixture or beside a gate, else of the weight's own Normal, given its scales.

    Args:
        prior: The prior.
        values: Values by name of site, such as `Guide.means`.

    Returns:
        Of a shape that broadcasts to `(out, in, ...)`.
    """
    event = prior.hierarchy.included
    latent = WEIGHT if prior.weight_is_latent else None if event is None else event.slab
    if latent is None:
        return None
    found: list[Iid] = []

    def look(site: str, fn: Iid) -> Tensor:
        if site == prior.sites[latent].name:
            found.append(fn)
        return values[site]

    prior.run(look, next(iter(values.values())), {})
    fn = found[0].base_dist
    if hasattr(fn, "slab_sd"):
        sd: Tensor = fn.slab_sd
        return sd
    return fn.scale if isinstance(fn, dist.Normal) and bool((fn.loc == 0).all()) else None


def check_slab(guide: Guide) -> None:
    """Refuses priors under which a weight that is in has no Normal around zero.

    Raises:
        ValueError: If there are such.
    """
    values = guide.means()
    for prior in masked_priors(guide):
        if slab_sd_of(prior, values) is None:
            raise ValueError(
                f"a Bayes factor compares zero with Normal(0, sd), which the prior on {prior.name} has not of a weight "
                "that is in: take ScheduledSpikeAndSlab() or Gaussian(), or grow by 'gradient'"
            )


@grow_score("bayes-factor", "log odds by gradient and diagonal Fisher", needs_gradient=True, check=check_slab)
def bayes_factor(seen: Seen) -> dict[str, Tensor]:
    """Logit of the density asked for, plus `log_bayes_factor` of gradient and Fisher information of all the data.

    The gradient is that of the steps' batches, scaled to all the data; with its noise the expected square exceeds that
    of the true one by data_size / batch times the Fisher information, unless `batches` average over many. The curvature
    is `fisher_of_batch` of the last step's batch.
    """
    return _posterior_log_odds(seen, fisher_of_batch(seen.guide, seen.taken.x, seen.taken.y, seen.masks))


@grow_score("bayes-factor-flat", "the same, one curvature a tensor: as gradient", needs_gradient=True, check=check_slab)
def flat_bayes_factor(seen: Seen) -> dict[str, Tensor]:
    """As `bayes_factor`, with the mean of the tensor's Fisher information for each weight: it orders as |gradient|."""
    fisher = fisher_of_batch(seen.guide, seen.taken.x, seen.taken.y, seen.masks)
    return _posterior_log_odds(seen, {name: h.mean().expand_as(h) for name, h in fisher.items()})


def _posterior_log_odds(seen: Seen, fisher: Mapping[str, Tensor]) -> dict[str, Tensor]:
    assert seen.gradient is not None
    model, values = seen.guide.model, seen.guide.means()
    found = {}
    for name in seen.masks:
        # The loss is minus the log-likelihood of all the data, and its gradient comes divided by their number.
        g = seen.gradient[name] * -float(model.data_size)
        sd = slab_sd_of(model.priors[name], values)
        assert sd is not None  # by `check_slab`
        odds = torch.logit(torch.tensor(seen.density[name], dtype=torch.float64), eps=1e-12)
        found[name] = odds.to(g.device) + log_bayes_factor(g, fisher[name], sd)
    return found


# -- what masks say of the prior -----------------------------------------------------------------------------


def implied_densities(guide: Guide) -> dict[str, float]:
    """The density of the slab that each tensor's mask implies, under its mixture prior: that of its smallest weight.

    The smallest |weight| that is in is the threshold at which masks by magnitude cut, from above: weights that are out
    are zero. `implied_density` says the prior under which it is included with probability one half.

    Args:
        guide: The guide of a model with masks, such as `Fit.guide`.

    Returns:
        Densities in (0, 1) by name of tensor, of those whose prior is a mixture with one spike and one slab.

    Raises:
        ValueError: If there is no such tensor.
    """
    values, found = guide.means(), dict[str, float]()
    weights = guide.model.weights_at(values)
    masks = {name: mask for way in guide.model.ways if isinstance(way, Masks) for name, mask in way.masks.items()}
    for prior in masked_priors(guide):
        if not prior.weight_is_latent:
            continue
        fn = prior.weight_distribution({latent: values[site.name] for latent, site in prior.sites.items()}).base_dist
        if hasattr(fn, "spike_sd") and hasattr(fn, "slab_sd"):
            least = weights[prior.name].abs()[masks[prior.name]].min()
            spike, slab = fn.spike_sd.reshape(-1)[0], fn.slab_sd.reshape(-1)[0]
            found[prior.name] = float(implied_density(least, spike, slab))
    if not found:
        raise ValueError(
            "no tensor has both a mask and a mixture of spike and slab: fit ScheduledSpikeAndSlab() with "
            "rules=[DynamicMasks(...)]"
        )
    return found
