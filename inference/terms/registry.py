"""Terms of the negative ELBO: E_q[log q - log p] of a site, analytic where the pair of families is registered.

A pair without a term is estimated from the draw, log q(value) - log p(value), which is always right in expectation.
Register your own with `register_term`; it must return the sum over the site in nats. `check_term`
(bayesprune.inference.terms.check) compares a term with what it stands for.

A term may branch on shapes and on `requires_grad`, not on values: while the objective is traced
(`bayesprune.inference.guides.functional`) a value that decides would decide for all later steps.

In the formulas below m and s are the location and the scale of a Normal guide, for a positive site of its logarithm
and for a site on (0, 1) of its logit, and H = 0.5 log(2 pi e) + log s is the entropy of that Normal.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pyro.distributions as dist
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.distributions.utils import probs_to_logits
from torch.nn.functional import logsigmoid

from bayesprune.inference.guides.families import (
    LOG_SQRT_2PI,
    BernoulliFactor,
    DeltaFactor,
    Factor,
    LogitNormalFactor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.functional import is_functional
from bayesprune.inference.guides.hard_concrete import HardConcreteFactor
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.guides.truncated_lognormal import TruncatedLogNormalFactor
from bayesprune.models.distributions.fitted_normal import FittedNormal
from bayesprune.models.distributions.log_uniform import LogUniform, TruncatedLogUniform
from bayesprune.models.distributions.nonzero_penalty import NonzeroPenalty
from bayesprune.models.distributions.signed_gamma import SignedGamma
from bayesprune.models.language.iid import Iid

Term = Callable[[Any, Any], Tensor]
"""(univariate prior, factor) -> E_q[log q - log p] in nats, summed over the site."""

_TERMS: dict[tuple[type, type], Term] = {}

_HALF_LOG_2PIE = LOG_SQRT_2PI + 0.5  # entropy of a standard Normal


def register_term(prior: type, factor: type) -> Callable[[Term], Term]:
    """Decorator: registers a term for a family of priors and a family of guide factors.

    The term is called with the prior, whose parameters broadcast to the site's shape, and the factor, and returns
    E_q[log q - log p] in nats summed over the site, as a tensor of no dimensions; for a `DeltaFactor` minus the log
    prior. What has no closed form it may take from the draw, `factor.value`, as long as its expectation and that of
    its gradient are right. `check_term` compares it with the average of log q - log p.

    Args:
        prior: Class of the univariate prior, e.g. `pyro.distributions.Normal`; matched exactly.
        factor: Class of the guide's factor, e.g. `NormalFactor`; matched exactly.

    Returns:
        The decorator, which gives the function back; a later term for the same pair takes the place of an earlier.
    """

    def register(term: Term) -> Term:
        _TERMS[prior, factor] = term
        return term

    return register


def registered_terms() -> tuple[tuple[type, type], ...]:
    """The registered pairs (prior family, factor family)."""
    return tuple(_TERMS)


def registered_term(prior: type, factor: type) -> Term | None:
    """The term of a pair (prior family, factor family), or None for one that is estimated from the draw."""
    return _TERMS.get((prior, factor))


def only_by_term(prior: Iid) -> bool:
    """Whether a prior's term is not to be had from a draw: it depends on all of q, or passes no gradient to a draw."""
    return bool(getattr(prior.base_dist, "only_by_term", False))


def site_term(prior: Iid, factor: Factor, value: Tensor, analytic: bool = True) -> Tensor:
    """E_q[log q - log p] of one site in nats (for a Delta: minus the log prior).

    Args:
        prior: The site's prior, given its drawn parents.
        factor: The site's guide factor.
        value: The drawn value.
        analytic: Whether registered terms are used; default True. False estimates every term from the draw that can be.

    Raises:
        ValueError: If the prior has no other than registered terms, and none for this guide.
    """
    alone = only_by_term(prior)
    term = registered_term(type(prior.base_dist), type(factor)) if analytic or alone else None
    if term is not None:
        return term(prior.base_dist, factor)
    if alone:
        family, guide = type(prior.base_dist).__name__, type(factor).__name__
        raise ValueError(f"{family} has no term for {guide}: leave the latent the guide that its prior gives it")
    if isinstance(factor, SlabFactor):
        return _slab_from_draw(prior.base_dist, factor, value)
    log_prior = prior.log_prob(value)
    return factor.log_prob(value) - log_prior if factor.has_density else -log_prior


def _slab_from_draw(prior: Any, factor: SlabFactor, value: Tensor) -> Tensor:
    """A E[log q(w | z = 1) - log p(w)]: the gate's average is exact, the slab's is from the draw."""
    entries = NormalFactor.distribution(factor).log_prob(value) - prior.log_prob(value)
    return (factor.inclusion * entries).sum()


# -- real sites ----------------------------------------------------------------------------------------------------


def _normal_entries(prior: Any, q: Any) -> Tensor:
    """KL(Normal(m, s) || Normal(loc, scale)) of each entry; of a LogNormal against a LogNormal it is the same."""
    precision = prior.scale.square().reciprocal()
    squares = q.scale.square() + (q.location - prior.loc).square()
    return prior.scale.log() - q.log_scale + 0.5 * (precision * squares - 1.0)


@register_term(dist.Normal, NormalFactor)
def normal_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal || Normal) = log(scale / s) + (s^2 + (m - loc)^2) / (2 scale^2) - 1/2 (Kingma & Welling 2014, app. B).

    From the sums over the site where the prior has mean zero and one fixed scale.
    """
    constants = _constants(prior)
    if constants is None:
        return _normal_entries(prior, q).sum()
    log_scale, half_precision = constants
    squares, log_scales = q.sums.unbind()
    return torch.add(q.location.numel() * (log_scale - 0.5) - log_scales, squares, alpha=half_precision)


def _constants(prior: Any) -> tuple[float, float] | None:
    """Log s and 1 / (2 s^2) of a Normal(0, s) that depends on no latent, or None for any other.

    Remembered on the distribution, which is made once a model where it depends on no latent. Values are not looked
    at while the objective is traced: there a distribution that is new has none, though the answer may be other.
    """
    if prior.scale.numel() > 1 or prior.scale.requires_grad or prior.loc.requires_grad:
        return None
    if not hasattr(prior, "_bayesprune_constants"):
        if is_functional():
            return None
        scale = float(prior.scale)
        prior._bayesprune_constants = (math.log(scale), 0.5 / scale**2) if _is_zero(prior) else None
    found: tuple[float, float] | None = prior._bayesprune_constants
    return found


def _is_zero(prior: Any) -> bool:
    """Whether a prior's location is zero and fixed."""
    loc = prior.loc
    if loc.requires_grad:
        return False
    one_number = all(stride == 0 for stride in loc.stride())  # a number that was broadcast to the scale's shape
    return bool(loc[(0,) * loc.ndim] == 0) if one_number else bool((loc == 0).all())


@register_term(dist.Normal, SlabFactor)
def normal_slab(prior: Any, q: Any) -> Tensor:
    """A KL(Normal(m, s) || Normal(loc, scale)), the slab's part of the paired guide's KL.

    A is the inclusion of each entry (Titsias & Lazaro-Gredilla 2011).
    """
    return (q.inclusion * _normal_entries(prior, q)).sum()


def _laplace_entries(prior: Any, q: Any) -> Tensor:
    """KL(Normal(m, s) || Laplace(loc, scale)) of each entry."""
    centred = q.location - prior.loc
    standard = centred / q.scale
    mean_distance = q.scale * math.sqrt(2.0 / math.pi) * (-0.5 * standard.square()).exp()
    mean_distance = mean_distance + centred * torch.erf(standard * math.sqrt(0.5))
    return (2.0 * prior.scale).log() + mean_distance / prior.scale - (q.log_scale + _HALF_LOG_2PIE)


@register_term(dist.Laplace, NormalFactor)
def laplace_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal || Laplace) = log(2 scale) + E|w - loc| / scale - H, by the mean of the folded Normal.

    Leone, Nelson & Nottingham 1961: with d = m - loc, E|w - loc| = s sqrt(2 / pi) exp(-d^2 / 2 s^2)
    + d erf(d / (s sqrt 2)).
    """
    return _laplace_entries(prior, q).sum()


@register_term(dist.Laplace, SlabFactor)
def laplace_slab(prior: Any, q: Any) -> Tensor:
    """A KL(Normal(m, s) || Laplace(loc, scale)), as `normal_slab` with the KL of `laplace_normal`."""
    return (q.inclusion * _laplace_entries(prior, q)).sum()


SPARSE_DROPOUT = (0.63576, 1.87320, 1.48695)
"""k1, k2 and k3 of Molchanov, Ashukha & Vetrov 2017, eq. 14."""


@register_term(LogUniform, NormalFactor)
def log_uniform_normal(prior: Any, q: Any) -> Tensor:
    """KL(Normal(m, s) || LogUniform), approximated: k1 (1 - sigmoid(k2 + k3 log alpha)) + log(1 + 1 / alpha) / 2.

    alpha = s^2 / m^2 (Molchanov, Ashukha & Vetrov 2017, eq. 14). It is off by at most
    0.0094 nats an entry, at log alpha = -3.5, and in the derivative in log alpha by at most 0.014.
    """
    k1, k2, k3 = SPARSE_DROPOUT
    inverse = (q.location / q.scale).square()
    log_alpha = -inverse.clamp_min(1e-30).log()  # held where a location of zero has no derivative
    return (k1 * (-k2 - k3 * log_alpha).sigmoid() + 0.5 * inverse.log1p()).sum()


@register_term(FittedNormal, NormalFactor)
def fitted_normal_normal(prior: Any, q: Any) -> Tensor:
    """Strength min over xi of KL(Normal(m, s) || Normal(0, xi)) = strength log(1 + m^2 / s^2) / 2.

    Dai, Zhu, Guo & Wipf 2018. No average of log q - log p over draws: xi is one for all of them.
    """
    return (0.5 * prior.strength * (q.location / q.scale).square().log1p()).sum()


# -- positive sites: x = exp(u) with u ~ Normal(m, s), so that E log x = m and E x^k = exp(k m + k^2 s^2 / 2) ------


def _kl_lognormal(q: Any, log_prior: Tensor) -> Tensor:
    """E[log q] = -(m + H) less the expected log prior (that of each entry), summed."""
    return (-(q.location + q.log_scale + _HALF_LOG_2PIE) - log_prior).sum()


@register_term(dist.Gamma, LogNormalFactor)
def gamma_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || Gamma(a, b)): E log p = a log b - lgamma(a) + (a - 1) m - b exp(m + s^2 / 2).

    Louizos, Ullrich & Welling 2017 use it, and the next, for the group horseshoe.
    """
    shape, rate = prior.concentration, prior.rate
    mean = (q.location + 0.5 * q.scale.square()).exp()
    return _kl_lognormal(q, shape * rate.log() - torch.lgamma(shape) + (shape - 1.0) * q.location - rate * mean)


@register_term(dist.InverseGamma, LogNormalFactor)
def inverse_gamma_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || InverseGamma(a, b)): E log p = a log b - lgamma(a) - (a + 1) m - b exp(-m + s^2 / 2)."""
    shape, rate = prior.concentration, prior.rate
    reciprocal = (-q.location + 0.5 * q.scale.square()).exp()
    return _kl_lognormal(q, shape * rate.log() - torch.lgamma(shape) - (shape + 1.0) * q.location - rate * reciprocal)


@register_term(dist.Exponential, LogNormalFactor)
def exponential_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || Exponential(b)): E log p = log b - b exp(m + s^2 / 2), that of a Gamma(1, b)."""
    return _kl_lognormal(q, prior.rate.log() - prior.rate * (q.location + 0.5 * q.scale.square()).exp())


@register_term(dist.HalfNormal, LogNormalFactor)
def half_normal_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || HalfNormal(c)): E log p = 0.5 log(2 / pi) - log c - exp(2 m + 2 s^2) / (2 c^2)."""
    square = (2.0 * (q.location + q.scale.square())).exp()
    return _kl_lognormal(q, 0.5 * math.log(2.0 / math.pi) - prior.scale.log() - 0.5 * square / prior.scale.square())


@register_term(dist.LogNormal, LogNormalFactor)
def lognormal_lognormal(prior: Any, q: Any) -> Tensor:
    """KL(LogNormal || LogNormal): that of the Normals of the logarithms, which a change of variables leaves alone."""
    return _normal_entries(prior, q).sum()


@register_term(dist.HalfCauchy, LogNormalFactor)
def half_cauchy_lognormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a LogNormal under HalfCauchy(c): only log(1 + x^2 / c^2) is taken from the draw.

    log p = log(2 / pi) - log c - log(1 + x^2 / c^2); the entropy m + H is exact. The expectation of the rest has no
    closed form. It is softplus(2 (log x - log c)), which does not overflow where x^2 does; by `logsigmoid`, since
    PyTorch's softplus is the identity above 20, an error of 2e-9.

    Against the plain draw its gradient in log s has less noise where x < c / sqrt(3), next to none far below c, and
    more above, up to twice: there the draw's entropy happens to cancel half of it.
    """
    log_scale = prior.scale.log()
    from_draw = -logsigmoid(-2.0 * (q.log_value - log_scale))
    return _kl_lognormal(q, math.log(2.0 / math.pi) - log_scale - from_draw)


@register_term(TruncatedLogUniform, TruncatedLogNormalFactor)
def truncated_log_uniform_lognormal(prior: Any, q: Any) -> Tensor:
    """KL of a truncated log-Normal from the log-uniform on the same interval: log(b - a) less the entropy of log x.

    Neklyudov, Molchanov, Ashukha & Vetrov 2017.
    """
    return ((prior.high - prior.low).log() - q.distribution().entropy_of_logarithm()).sum()


# -- sites on (0, 1): x = sigmoid(u) with u ~ Normal(m, s) ---------------------------------------------------------


def _unit_entries(q: Any, a: Any, b: Any) -> Tensor:
    """E[log q - (a - 1) log x - (b - 1) log(1 - x)] of each entry, with less noise than the draw has.

    log q = log Normal(u) - log x - log(1 - x) leaves f(u) = -a log x - b log(1 - x), which has no closed form. From it
    k (u - m) is taken, which has mean zero whatever k is, so that k needs no gradient. The variance is least at
    k = E f'(u) = (a + b) E sigmoid(u) - a (Stein's lemma); E sigmoid(u) is close to sigmoid(m / sqrt(1 + pi s^2 / 8))
    (MacKay 1992), for any s.
    """
    logit = torch.logit(q.value)
    with torch.no_grad():
        slope = (a + b) * (q.location * (1.0 + math.pi / 8.0 * q.scale.square()).rsqrt()).sigmoid() - a
    from_draw = -a * logsigmoid(logit) - b * logsigmoid(-logit) - slope * (logit - q.location)
    return from_draw - (q.log_scale + _HALF_LOG_2PIE)


@register_term(dist.Beta, LogitNormalFactor)
def beta_logitnormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a logit-Normal under Beta(a, b), in part from the draw; see `_unit_entries`."""
    a, b = prior.concentration1, prior.concentration0
    return (_unit_entries(q, a, b) + torch.lgamma(a) + torch.lgamma(b) - torch.lgamma(a + b)).sum()


@register_term(dist.Uniform, LogitNormalFactor)
def uniform_logitnormal(prior: Any, q: Any) -> Tensor:
    """E[log q - log p] of a logit-Normal under a Uniform(low, high) that holds (0, 1); see `_unit_entries`."""
    return (_unit_entries(q, 1.0, 1.0) + (prior.high - prior.low).log()).sum()


# -- gates ---------------------------------------------------------------------------------------------------------


@register_term(dist.Bernoulli, BernoulliFactor)
def bernoulli_bernoulli(prior: Any, q: Any) -> Tensor:
    """KL(Bernoulli || Bernoulli), by log odds, so that probabilities at 0 and 1 cost what they should.

    With log odds l of q and l' of the prior: a (l - l') + log(1 - a) - log(1 - a'), log(1 - a) = logsigmoid(l) - l.
    """
    logits = _logits(prior)
    log_off = logsigmoid(q.logit) - q.logit
    return (q.probability * (q.logit - logits) + log_off - logsigmoid(-logits)).sum()


def _logits(prior: Any) -> Tensor:
    """Log odds of a Bernoulli; while the objective is traced not remembered on it, as PyTorch would do by itself."""
    if is_functional() and "logits" not in vars(prior):
        return probs_to_logits(prior.probs, is_binary=True)
    logits: Tensor = prior.logits
    return logits


@register_term(NonzeroPenalty, HardConcreteFactor)
def penalty_hard_concrete(prior: Any, q: Any) -> Tensor:
    """Expected price of gates that are not zero: price P(z != 0) (Louizos, Welling & Kingma 2018, eq. 12).

    A penalty, with no entropy of q.
    """
    return (prior.price * q.probability).sum()


# -- points: minus the log prior, by as few passes over the site as it takes ---------------------------------------


@register_term(dist.Normal, DeltaFactor)
def normal_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Normal at a point: log scale + (w - loc)^2 / (2 scale^2) + 0.5 log(2 pi)."""
    constants = _constants(prior)
    if constants is None:
        standard = (q.value - prior.loc) / prior.scale
        return (prior.scale.log() + 0.5 * standard.square() + LOG_SQRT_2PI).sum()
    log_scale, half_precision = constants
    return half_precision * q.value.square().sum() + q.value.numel() * (log_scale + LOG_SQRT_2PI)


@register_term(dist.Laplace, DeltaFactor)
def laplace_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Laplace at a point: log(2 scale) + |w - loc| / scale."""
    loc, scale = prior.loc, prior.scale
    if scale.numel() == 1:
        return (q.value - loc).abs().sum() / scale.reshape(()) + q.value.numel() * (2.0 * scale.reshape(())).log()
    if is_functional() or scale.shape != q.value.shape or not _is_zero(prior):
        inverse = scale.reciprocal()  # its derivative needs no further division, of which there is one a weight
        return ((2.0 * scale).log() + (q.value - loc).abs() * inverse).sum()
    return LaplaceAtPoint.apply(q.value, scale)


class LaplaceAtPoint(torch.autograd.Function):
    """(value, scale) -> sum of log(2 scale) + |value| / scale, in a third of autograd's passes over the weights."""

    @staticmethod
    def forward(ctx: Any, value: Tensor, scale: Tensor) -> Tensor:
        """Returns the sum in nats."""
        inverse = scale.reciprocal()
        ratio = value.abs().mul_(inverse)
        ctx.save_for_backward(value, inverse, ratio)
        return scale.log().sum() + value.numel() * math.log(2.0) + ratio.sum()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """sign(value) / scale, and (1 - |value| / scale) / scale."""
        value, inverse, ratio = ctx.saved_tensors
        inverse = inverse * gradient
        return value.sign().mul_(inverse), torch.addcmul(inverse, ratio, inverse, value=-1.0)


def _gamma_point(size: Tensor, log_size: Tensor, shape: Tensor, rate: Tensor) -> Tensor:
    """Minus the log density of Gamma(a, b), b x - (a - 1) log x - a log b + lgamma(a); by two sums for one a and b."""
    normaliser = shape * rate.log() - torch.lgamma(shape)
    if normaliser.numel() > 1:
        return (rate * size - (shape - 1.0) * log_size - normaliser).sum()
    # A parameter of shape (1, 1) is one number too; the term has no dimensions.
    shape, rate, normaliser = (parameter.reshape(()) for parameter in (shape, rate, normaliser))
    return rate * size.sum() - (shape - 1.0) * log_size.sum() - size.numel() * normaliser


@register_term(dist.Gamma, DeltaFactor)
def gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a Gamma at a point; by two sums over the site where its parameters are numbers."""
    return _gamma_point(q.value, q.log_value, prior.concentration, prior.rate)


@register_term(SignedGamma, DeltaFactor)
def signed_gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a `SignedGamma` at a point: that of the Gamma at its size, and log 2 for the sign."""
    size = q.value.abs()
    return _gamma_point(size, size.log(), prior.concentration, prior.rate) + q.value.numel() * math.log(2.0)


@register_term(dist.InverseGamma, DeltaFactor)
def inverse_gamma_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of an InverseGamma(a, b): that of Gamma(a, b) at 1 / x, and 2 log x for the change."""
    point = _gamma_point(q.value.reciprocal(), -q.log_value, prior.concentration, prior.rate)
    return point + 2.0 * q.log_value.sum()


@register_term(dist.Exponential, DeltaFactor)
def exponential_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of an Exponential(b) at a point: b x - log b."""
    return (prior.rate * q.value - prior.rate.log()).sum()


@register_term(dist.HalfNormal, DeltaFactor)
def half_normal_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a HalfNormal(c) at a point: log c + x^2 / (2 c^2) + 0.5 log(pi / 2)."""
    return (prior.scale.log() + 0.5 * (q.value / prior.scale).square() + 0.5 * math.log(math.pi / 2.0)).sum()


@register_term(dist.HalfCauchy, DeltaFactor)
def half_cauchy_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a HalfCauchy(c) at a point: log c + log(1 + x^2 / c^2) + log(pi / 2)."""
    return (prior.scale.log() + (q.value / prior.scale).square().log1p() + math.log(math.pi / 2.0)).sum()


@register_term(dist.LogNormal, DeltaFactor)
def lognormal_point(prior: Any, q: Any) -> Tensor:
    """Minus the log density of a LogNormal at a point: that of the Normal at log x, and log x for the change."""
    logarithm = q.log_value
    standard = (logarithm - prior.loc) / prior.scale
    return (prior.scale.log() + 0.5 * standard.square() + logarithm + LOG_SQRT_2PI).sum()
