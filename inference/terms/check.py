"""Checks a term of the negative ELBO against what it stands for: E_q[log q - log p], with all its gradients.

A term with a wrong factor trains without complaint, to a wrong answer. Here it is compared, at random parameters in
float64, with the average of log q - log p over many draws, both densities as the distributions themselves give them,
with reparameterised gradients; for gates with the sum over both values, and for points with the density itself.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.terms.factor_kinds import KINDS, FactorKind
from bayesprune.inference.terms.random_priors import Leaves, normal_numbers, prior_parameters, shapes_in_words
from bayesprune.inference.terms.registry import registered_term
from bayesprune.inference.terms.table import Term
from bayesprune.models.checks.first_line import first_line

BATCHES = 32
"""Averages over this many batches of draws give the standard errors."""
ROUNDING = 1e-9
"""The relative difference that is allowed where nothing is drawn."""

SITE = (3, 4)
LEVELS: tuple[tuple[tuple[int, ...], tuple[tuple[int, ...], ...], bool], ...] = (
    # The site's shape, the shapes of the prior's parameters in turn, and whether they are latents with gradients.
    (SITE, ((),), False),
    (SITE, ((),), True),
    (SITE, ((3, 1),), True),
    (SITE, ((1, 4),), True),
    (SITE, (SITE,), True),
    (SITE, ((3, 1), SITE, (), (1, 4)), True),
    (SITE, ((1, 4), (), SITE, (3, 1)), True),
    ((1, 1), ((1, 1),), True),
    ((), ((),), True),
)


@dataclass(frozen=True)
class TermCheck:
    """What `check_term` compared.

    Attributes:
        prior: Name of the family of priors.
        factor: Name of the guide's family.
        cases: Number of random settings: shapes of the site and of the prior's parameters.
        draws: Draws of the guide averaged in each; 0 where the comparison is exact (points and gates).
        z_score: Largest difference from the average over the draws, in standard errors; 0 where it is exact.
        relative_difference: Largest relative difference where the comparison is exact, else 0.
        parts: The largest of either for each part: ``"value"``, ``"gradient in the guide's location"``, ...
    """

    prior: str
    factor: str
    cases: int
    draws: int
    z_score: float
    relative_difference: float
    parts: dict[str, float]


def check_term(
    prior: Any,
    factor: type[Factor],
    term: Term | None = None,
    *,
    draws: int = 4096,
    seed: int = 0,
    limit: float = 7.0,
) -> TermCheck:
    """Checks a term against the average of log q - log p, in value and in every gradient, in float64.

    The prior's parameters are taken as fixed and as latents: one number, one an output, one an input, one a weight,
    and mixed. Checked are the value and the gradients in the guide's parameters and in those of the prior, entry by
    entry. A term that uses the draw (`factor.value`) is averaged over the same draws.

    Args:
        prior: What makes the prior: a distribution, ``dist.Gamma(3.0, 0.7)``, whose parameters are moved at random;
            or a function of positive random scales, as a declaration has it, ``lambda lam: dist.Laplace(0.0, lam)``
            (the class itself, where all that it needs may be positive: ``dist.Gamma``).
        factor: The class of the guide's factor: `NormalFactor`, `LogNormalFactor`, `LogitNormalFactor`,
            `DeltaFactor`, `BernoulliFactor`, `SlabFactor`, `LowRankNormalFactor` or a class derived from one of them.
        term: The term; default None: the one registered for the pair.
        draws: Draws of the guide in each setting, rounded up to a multiple of 32; default 4096.
        seed: Seed of the parameters and the draws, which leave the global random state alone; default 0.
        limit: Standard errors that a difference may have; default 7, which a right term exceeds in far less than one
            of a thousand checks. Where nothing is drawn the limit is a relative difference of 1e-9.

    Returns:
        What was compared and the largest differences.

    Raises:
        ValueError: If the term disagrees in a part, which is named; if it cannot be evaluated or returns no single
            number; if the pair has no term, the factor is of no known family, or the prior cannot be made.
    """
    if draws < 1 or not limit > 0:
        raise ValueError(f"check_term needs draws of at least 1 and a positive limit, not {draws} and {limit}")
    known = next((kind for kind in KINDS if issubclass(factor, kind.factor)), None)
    if known is None:
        expected = ", ".join(kind.factor.__name__ for kind in KINDS)
        raise ValueError(f"check_term cannot draw from a {factor.__name__}: derive it from one of {expected}")
    generator = torch.Generator().manual_seed(seed)
    parts: dict[str, float] = {}
    exact = known.is_exact
    size = 1 if exact else math.ceil(draws / BATCHES)
    with torch.enable_grad():
        for shape, levels, latent in LEVELS:
            build, scales = prior_parameters(prior, levels, latent, generator)
            family = type(build(scales)).__name__
            pair = _Pairing(factor, known, build, shape, term, f"the term for ({family}, {factor.__name__})")
            case = f"{shapes_in_words(scales)} on a site of shape {shape}"
            guide = pair.guide_parameters(scales, generator)
            one = _exact(pair, guide, scales, case) if exact else _drawn(pair, guide, scales, size, generator, case)
            for part, score in _compared(one, pair.name, case, ROUNDING if exact else limit).items():
                parts[part] = max(score, parts.get(part, 0.0))
    largest = max(parts.values())
    return TermCheck(
        prior=family,
        factor=factor.__name__,
        cases=len(LEVELS),
        draws=0 if exact else size * BATCHES,
        z_score=0.0 if exact else largest,
        relative_difference=largest if exact else 0.0,
        parts=parts,
    )


# -- the two sides -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Comparison:
    """The parts of a term beside what they should be, each a tensor, and the unit of their difference."""

    found: Leaves
    expected: Leaves
    unit: Leaves
    exact: bool


@dataclass(frozen=True)
class _Pairing:
    """A family of priors and a factor, on a site of one shape."""

    factor: type[Factor]
    known: FactorKind
    build: Callable[[Leaves], Any]
    shape: tuple[int, ...]
    given: Term | None
    name: str  # how messages call the term

    def term_for(self, prior: Any) -> Term:
        """The term under test."""
        found = self.given or registered_term(type(prior), self.factor)
        if found is None:
            raise ValueError(
                f"no term is registered for ({type(prior).__name__}, {self.factor.__name__}): register one with "
                "register_term, for exactly these classes, or give check_term(..., term=)"
            )
        return found

    def guide_parameters(self, scales: Leaves, generator: torch.Generator) -> Leaves:
        """Random parameters of the factor, as leaves."""
        with torch.no_grad():
            made = self.known.parameters(self.shape, lambda: self.build(scales).support, generator)
        return {name: value.requires_grad_() for name, value in made.items()}

    def make(self, guide: Leaves, noise: Tensor | None = None) -> Any:
        """The factor at given parameters; with noise `(n, *shape)` that of a site of n copies."""
        if noise is not None:
            guide = {name: leaf.expand(len(noise), *leaf.shape) for name, leaf in guide.items()}
            return self.known.copies(self.factor, guide, noise)
        if "location" in guide:
            noise = torch.zeros_like(guide["location"])
        return self.known.make(self.factor, guide, noise)

    def log_prior(self, scales: Leaves, value: Tensor) -> Tensor:
        """The prior's own log density of each entry."""
        prior = self.build(scales)
        try:
            log_prob: Tensor = prior.log_prob(value)
        except ValueError as problem:
            raise ValueError(
                f"{type(prior).__name__} has no density at a value of {self.factor.__name__} "
                f"({first_line(problem)[:100]}): check a prior whose support holds all that the guide draws"
            ) from problem
        return log_prob

    def evaluate(self, guide: Leaves, scales: Leaves, case: str, noise: Tensor | None = None) -> Tensor:
        """The term, as one number."""
        prior, q = self.build(scales), self.make(guide, noise)
        term = self.term_for(prior)
        try:
            value = term(prior, q)
        except (RuntimeError, TypeError, AttributeError, IndexError) as problem:
            raise ValueError(f"{self.name} cannot be evaluated with {case}: {first_line(problem)}") from problem
        if not isinstance(value, Tensor) or value.ndim:
            got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"type {type(value).__name__}"
            raise ValueError(
                f"{self.name} returns a value of {got} with {case}: return the sum over the site, a tensor of no "
                "dimensions"
            )
        return value


def _exact(pair: _Pairing, guide: Leaves, scales: Leaves, case: str) -> _Comparison:
    """For points minus the log prior, for gates the sum over both values."""
    found = _parts(pair.evaluate(guide, scales, case), guide, scales)
    total = pair.known.expected(guide, pair.shape, lambda value: pair.log_prior(scales, value))
    expected = _parts(total, guide, scales)
    return _Comparison(found, expected, {name: _magnitude(part) for name, part in expected.items()}, True)


def _drawn(
    pair: _Pairing, guide: Leaves, scales: Leaves, size: int, generator: torch.Generator, case: str
) -> _Comparison:
    """The average over batches of draws of both sides, and the standard error of their difference."""
    fixed = _parts(pair.evaluate(guide, scales, case), guide, scales)
    noise = normal_numbers((BATCHES, size, *pair.shape), generator)
    other = normal_numbers(pair.shape, generator).unsqueeze(0)
    # A closed form gives the same at any draw; what does not is averaged over the draws, n copies of the site at once.
    with torch.no_grad():
        at = [pair.evaluate(guide, scales, case, e) for e in (torch.zeros_like(other), other)]
    closed = bool(at[0] == at[1])
    found: list[Leaves] = []
    expected: list[Leaves] = []
    for batch in noise:
        expected.append(_parts(_log_ratio(pair, guide, scales, batch) / size, guide, scales))
        if not closed:
            found.append(_parts(pair.evaluate(guide, scales, case, batch) / size, guide, scales))
    means, units, averages = {}, {}, {}
    for name, part in fixed.items():
        sampled = torch.stack([one[name] for one in expected])
        terms = part.expand_as(sampled) if closed else torch.stack([one[name] for one in found])
        averages[name], means[name] = terms.mean(0), sampled.mean(0)
        error = (terms - sampled).std(0) / math.sqrt(BATCHES)
        # What none of n draws has shown (the far side of a kink, say) is still as likely as a few in n.
        units[name] = torch.maximum(error, _magnitude(means[name]) / (size * BATCHES))
    return _Comparison(averages, means, units, False)


def _log_ratio(pair: _Pairing, guide: Leaves, scales: Leaves, noise: Tensor) -> Tensor:
    """The sum over draws and entries of log q - log p, by the distributions' own densities."""
    q = pair.make(guide, noise)
    return pair.known.log_ratio(q, pair.log_prior(scales, q.value))


def _parts(value: Tensor, guide: Leaves, scales: Leaves) -> Leaves:
    """A value and its gradients in every leaf that takes one; a leaf it does not depend on has the gradient zero."""
    leaves = {f"gradient in the guide's {name}": leaf for name, leaf in guide.items()}
    leaves |= {f"gradient in the prior's {name}": leaf for name, leaf in scales.items() if leaf.requires_grad}
    parts = {"value": value.detach()}
    if not value.requires_grad:
        return parts | {name: torch.zeros_like(leaf) for name, leaf in leaves.items()}
    gradients = torch.autograd.grad(value, list(leaves.values()), allow_unused=True)
    for (name, leaf), gradient in zip(leaves.items(), gradients, strict=True):
        parts[name] = torch.zeros_like(leaf) if gradient is None else gradient
    return parts


def _compared(one: _Comparison, name: str, case: str, limit: float) -> dict[str, float]:
    """The largest difference of each part in its unit.

    Raises:
        ValueError: If one is above the limit, or no number.
    """
    scores: dict[str, float] = {}
    for part, expected in one.expected.items():
        found, unit = one.found[part].flatten(), one.unit[part].expand(expected.shape).flatten()
        score = ((found - expected.flatten()).abs() / unit).nan_to_num(nan=math.inf)
        worst = int(score.argmax())
        scores[part] = float(score[worst])
        if scores[part] > limit:
            entry = f" (entry {worst} of {len(score)})" if len(score) > 1 else ""
            of = "log q - log p is" if one.exact else "the average of log q - log p is"
            far = f"a relative {scores[part]:.1e}" if one.exact else f"{scores[part]:.0f} standard errors"
            raise ValueError(
                f"{name} is wrong in its {part}{entry} with {case}: it gives {float(found[worst]):.6g} where {of} "
                f"{float(expected.flatten()[worst]):.6g}, {far} away; return the sum over the site of "
                "E_q[log q - log p] in nats, all parameters attached"
            )
    return scores


def _magnitude(part: Tensor) -> Tensor:
    """The size in which rounding is counted, one for all the entries of a part."""
    return part.abs().max().clamp_min(1.0)
