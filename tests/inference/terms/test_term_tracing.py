"""Terms in the functional form: traced once, a graph gives a term and its gradients at any other parameters."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch.fx.experimental.proxy_tensor import make_fx

from bayesprune.inference.guides.factors import BernoulliFactor, DeltaFactor, NormalFactor
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.functional import functional
from bayesprune.inference.guides.hard_concrete import HardConcreteFactor
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFactor
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.terms.real import normal_normal
from bayesprune.inference.terms.registry import registered_term, registered_terms
from tests.oracles.known_terms import CASES, FAMILIES, factor_at, number

SHAPE = (3, 4)
LEVELS = {"a number": (), "an output": (3, 1), "a weight": SHAPE}
PAIRS = registered_terms()
EQUAL = {"rtol": 1e-10, "atol": 1e-12}


def named(pair):
    return "-".join(kind.__name__ for kind in pair)


def normal(*shape):
    return torch.randn(shape, dtype=torch.float64)


def guide_at(kind, family, seed):
    """Random parameters of a guide."""
    torch.manual_seed(seed)
    if kind is BernoulliFactor:
        return {"logit": 1.5 * normal(*SHAPE)}
    if kind is HardConcreteFactor:
        return {"log_alpha": 1.5 * normal(*SHAPE)}
    if kind is DeltaFactor:
        real = family(**{name: number(value) for name, value in FAMILIES[family].parameters.items()}).support
        return {"value": normal(*SHAPE) if real is dist.constraints.real else normal(*SHAPE).exp()}
    more = {"logit": normal(3, 1)} if kind is SlabFactor else {}
    more |= {"loading": 0.4 * normal(*SHAPE, 2)} if kind is LowRankNormalFactor else {}
    return {"location": normal(*SHAPE), "log_scale": 0.3 * normal(*SHAPE) - 0.7, **more}


def parameters_at(family, shape, seed):
    """Random parameters of a prior; those of a Uniform hold the interval."""
    torch.manual_seed(seed + 100)
    if family is dist.Bernoulli:
        return {"probs": normal(*shape).sigmoid()}
    if family is dist.Uniform:
        return {"low": -normal(*shape).exp(), "high": 1.0 + normal(*shape).exp()}
    real = FAMILIES[family].real
    return {
        name: value + 0.3 * normal(*shape) if name in real else value * (0.3 * normal(*shape)).exp()
        for name, value in FAMILIES[family].parameters.items()
    }


def arguments(pair, shape, seed):
    """The leaves of both and the noise."""
    family, kind = pair
    guide, parameters = guide_at(kind, family, seed), parameters_at(family, shape, seed)
    torch.manual_seed(seed + 200)
    return guide, parameters, normal(*SHAPE)


def evaluation(pair, term=None, prior=None):
    """A function of the leaves and the noise that gives the term and its gradients in all the leaves."""
    family, kind = pair
    term = term or registered_term(family, kind)

    def evaluate(guide, parameters, noise):
        leaves = {name: leaf.detach().requires_grad_() for name, leaf in {**guide, **parameters}.items()}
        fixed = prior or family(**{name: leaves[name] for name in parameters})
        value = term(fixed, factor_at(kind, {name: leaves[name] for name in guide}, noise))
        return [value.detach(), *torch.autograd.grad(value, list(leaves.values()))]

    return evaluate


def traced(function, *given):
    with functional(), fast_distributions():
        return make_fx(function)(*given)


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_a_traced_term_is_the_term_at_other_parameters(pair, level):
    evaluate = evaluation(pair)
    first, second = (arguments(pair, LEVELS[level], seed) for seed in (0, 1))
    graph = traced(evaluate, *first)
    for given in (first, second):
        torch.testing.assert_close(graph(*given), evaluate(*given), **EQUAL)
    # Control: a graph that had kept what it saw would give the first again.
    assert not torch.allclose(graph(*first)[0], graph(*second)[0], rtol=1e-6)
    assert not torch.allclose(graph(*first)[1], graph(*second)[1], rtol=1e-6)


@pytest.mark.parametrize("pair", [pair for pair in PAIRS if pair[0] is not dist.Uniform], ids=named)
@pytest.mark.parametrize("primed", [False, True], ids=["new", "used before"])
def test_a_prior_of_constants_is_traced_without_a_look_at_them_and_nothing_is_left_on_it(pair, primed):
    case = CASES[pair]
    prior = case["centred"] if "centred" in case else next(iter(case.values()))
    prior = prior.expand(()) if hasattr(prior, "expand") else prior  # one of its own
    evaluate = evaluation(pair, prior=prior)
    (first, _, noise), (second, _, other) = (arguments(pair, (), seed) for seed in (0, 1))
    if primed:
        evaluate(first, {}, noise)
    before = set(vars(prior))
    graph = traced(evaluate, first, {}, noise)
    assert set(vars(prior)) == before
    torch.testing.assert_close(graph(second, {}, other), evaluate(second, {}, other), **EQUAL)


@pytest.mark.parametrize("pair", PAIRS, ids=named)
def test_a_term_can_be_mapped_over_particles(pair):
    """`vmap` is how several draws are evaluated at once; it refuses a look at values."""
    evaluate = evaluation(pair)
    given = [arguments(pair, (3, 1), seed) for seed in range(3)]
    family, kind = pair

    def value(guide, parameters, noise):
        prior = family(**parameters)
        return registered_term(family, kind)(prior, factor_at(kind, guide, noise))

    stacked = [{name: torch.stack([one[i][name] for one in given]) for name in given[0][i]} for i in range(2)] + [
        torch.stack([one[2] for one in given])
    ]
    with functional(), fast_distributions():
        found = torch.vmap(value)(*stacked)
    torch.testing.assert_close(found, torch.stack([evaluate(*one)[0] for one in given]), **EQUAL)


def looks_at_values(prior, q):
    """A term that takes a short way where all locations are positive."""
    squares = q.location.square() if bool((q.location > 0).all()) else (q.location - prior.loc).square()
    return (squares / prior.scale.square()).sum() + q.log_scale.sum()


def test_a_term_that_branches_on_values_cannot_be_traced():
    pair = (dist.Normal, NormalFactor)
    with pytest.raises(RuntimeError, match="get value out of a tracing tensor"):
        traced(evaluation(pair, looks_at_values), *arguments(pair, SHAPE, 0))


def test_a_term_that_remembers_values_is_seen_to_give_the_old_ones():
    pair, memory = (dist.Normal, NormalFactor), {}

    def remembers(prior, q):
        scale = memory.setdefault("scale", prior.scale.detach())
        return normal_normal(dist.Normal(prior.loc, scale), q) + 0.0 * prior.scale.sum()

    first, second = (arguments(pair, SHAPE, seed) for seed in (0, 1))
    evaluation(pair, remembers)(*first)
    graph = traced(evaluation(pair, remembers), *first)
    torch.testing.assert_close(graph(*first)[0], evaluation(pair)(*first)[0], **EQUAL)
    with pytest.raises(AssertionError):
        torch.testing.assert_close(graph(*second)[0], evaluation(pair)(*second)[0], **EQUAL)


def test_the_hand_written_derivative_of_a_point_is_left_out_of_a_trace():
    pair = (dist.Laplace, DeltaFactor)
    prior_at = lambda scale: dist.Laplace(number(0.0), scale)  # noqa: E731
    value, scale = arguments(pair, SHAPE, 0)[0]["value"], normal(*SHAPE).exp()
    term = registered_term(*pair)

    def names(found):
        seen, to_see = set(), [found.grad_fn]
        while to_see:
            node = to_see.pop()
            seen.add(type(node).__name__)
            to_see += [parent for parent, _ in node.next_functions if parent is not None]
        return seen

    leaf = value.clone().requires_grad_()
    assert "LaplaceAtPointBackward" in names(term(prior_at(scale), DeltaFactor(leaf)))
    with functional():
        assert "LaplaceAtPointBackward" not in names(term(prior_at(scale), DeltaFactor(leaf)))
