"""Every registered term passes the checker, and the checker catches the mistakes that terms have."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch

import bayesprune as bp
from bayesprune.inference.guides.factors import (
    LOG_SQRT_2PI,
    BernoulliFactor,
    DeltaFactor,
    Factor,
    LogNormalFactor,
    NormalFactor,
)
from bayesprune.inference.guides.paired import SlabFactor
from bayesprune.inference.terms.check import LEVELS, TermCheck, check_term
from bayesprune.inference.terms.positive import half_cauchy_lognormal
from bayesprune.inference.terms.real import normal_normal
from bayesprune.inference.terms.registry import registered_term, registered_terms
from tests.oracles.known_terms import CASES, NOISE_PAIRS, number, typical

PAIRS = registered_terms()  # at collection, before any test registers its own
NAMED = [(pair, name) for pair in PAIRS if pair not in NOISE_PAIRS for name in CASES.get(pair, ["absent"])]
EXACT = (DeltaFactor, BernoulliFactor)


def identifier(value):
    return "-".join(kind.__name__ for kind in value) if isinstance(value, tuple) else value


def test_every_registered_pair_has_a_case_and_every_case_is_registered():
    assert set(PAIRS) == set(CASES)
    assert len(PAIRS) >= 22


def test_the_page_on_extending_lists_the_registered_pairs():
    page = Path(__file__).parents[3] / "docs" / "extending.md"
    table = page.read_text(encoding="utf-8").split("Registered already:")[1].split("\n## ")[0]
    listed = set()
    for row in table.splitlines():
        if row.startswith("| `"):
            guides, priors = row.strip("| ").split(" | ")
            for prior in re.findall(r"[A-Z]\w+", priors):
                listed |= {(prior, guide) for guide in re.findall(r"`(\w+)`", guides)}
    assert listed == {tuple(kind.__name__ for kind in pair) for pair in PAIRS}


@pytest.mark.parametrize(("pair", "name"), NAMED, ids=identifier)
def test_a_registered_term_is_the_average_of_log_q_less_log_p_with_all_its_gradients(pair, name):
    found = check_term(CASES[pair][name], pair[1])
    assert (found.prior, found.factor) == tuple(kind.__name__ for kind in pair)
    assert found.cases == len(LEVELS)
    if pair[1] in EXACT:
        assert found.draws == 0 and found.z_score == 0.0
        assert found.relative_difference < 1e-12
    else:
        assert found.draws == 4096 and found.relative_difference == 0.0
        assert 0.1 < found.z_score < 5.0  # of dozens of comparisons: zero would mean that nothing was compared
        assert found.z_score == max(found.parts.values())


def test_the_parts_are_the_value_and_the_gradients_in_every_parameter_of_both():
    parts = check_term(typical(dist.Laplace), SlabFactor).parts
    guide = [f"gradient in the guide's {name}" for name in ("location", "log_scale", "logit")]
    assert list(parts) == ["value", *guide, "gradient in the prior's loc", "gradient in the prior's scale"]
    assert list(check_term(dist.HalfCauchy, DeltaFactor).parts) == [
        "value",
        "gradient in the guide's value",
        "gradient in the prior's scale",
    ]


# -- mistakes ------------------------------------------------------------------------------------------------------


def normal_kl(prior, q, half=0.5, log=1.0, square=1.0):
    """KL(Normal || Normal) of each entry, right where the arguments are left alone."""
    squares = q.scale.square() + square * (q.location - prior.loc).square()
    return prior.scale.log() - log * q.log_scale + half * (squares / prior.scale.square() - 1.0)


def gamma_kl(prior, q, sign=1.0, normaliser=1.0, entropy=0.5 + LOG_SQRT_2PI, rate=None):
    shape, rate = prior.concentration, prior.rate if rate is None else rate
    mean = (q.location + 0.5 * q.scale.square()).exp()
    log_prior = shape * rate.log() - normaliser * torch.lgamma(shape) + (shape - 1.0) * q.location - sign * rate * mean
    return -q.location - q.log_scale - entropy - log_prior


def half_cauchy(prior, q, ratio):
    log_p = math.log(2.0 / math.pi) - prior.scale.log() - torch.log1p(ratio(q.value, prior.scale))
    return (-(q.location + q.log_scale + LOG_SQRT_2PI + 0.5) - log_p).sum()


def point(prior, q, scale=None):
    scale = prior.scale if scale is None else scale
    return ((2.0 * scale).log() + (q.value - prior.loc).abs() / scale).sum()


def gates(prior, q, swapped=False):
    """KL(Bernoulli || Bernoulli), or that of the one to the other."""
    ours, theirs = (prior.logits, q.logit) if swapped else (q.logit, prior.logits)
    off = torch.nn.functional.logsigmoid(-ours) - torch.nn.functional.logsigmoid(-theirs)
    return (ours.sigmoid() * (ours - theirs) + off).sum()


def doubled_gradient(value):
    """Zero, with a gradient."""
    return (value - value.detach()).sum()


NORMAL, GAMMA, CAUCHY = typical(dist.Normal), typical(dist.Gamma), typical(dist.HalfCauchy)
LAPLACE, GATE = typical(dist.Laplace), dist.Bernoulli(number(0.2))
RIGHT = {
    "Normal": (NORMAL, NormalFactor, lambda p, q: normal_kl(p, q).sum()),
    "Gamma": (GAMMA, LogNormalFactor, lambda p, q: gamma_kl(p, q).sum()),
    "HalfCauchy": (CAUCHY, LogNormalFactor, lambda p, q: half_cauchy(p, q, lambda x, c: (x / c) ** 2)),
    "Laplace at a point": (LAPLACE, DeltaFactor, point),
    "gate": (GATE, BernoulliFactor, gates),
    "slab": (NORMAL, SlabFactor, lambda p, q: (q.inclusion * normal_kl(p, q)).sum()),
}
VALUE, ONE_AN_OUTPUT = "in its value", r"scale of shape \(3, 1\)"
MISTAKES = {
    "wrong sign of the mean": (GAMMA, LogNormalFactor, lambda p, q: gamma_kl(p, q, sign=-1.0).sum(), VALUE),
    "wrong sign of the term": (NORMAL, NormalFactor, lambda p, q: -normal_kl(p, q).sum(), VALUE),
    "wrong sign of the entropy": (NORMAL, NormalFactor, lambda p, q: normal_kl(p, q, log=-1.0).sum(), VALUE),
    "missing factor 2": (NORMAL, NormalFactor, lambda p, q: normal_kl(p, q, half=1.0).sum(), VALUE),
    "missing factor 2 of a square": (NORMAL, NormalFactor, lambda p, q: normal_kl(p, q, square=0.5).sum(), VALUE),
    "missing factor 2 in what is drawn": (
        CAUCHY,
        LogNormalFactor,
        lambda p, q: half_cauchy(p, q, lambda x, c: x / c),
        VALUE,
    ),
    "missing normaliser": (GAMMA, LogNormalFactor, lambda p, q: gamma_kl(p, q, normaliser=0.0).sum(), VALUE),
    "missing constant of the entropy": (GAMMA, LogNormalFactor, lambda p, q: gamma_kl(p, q, entropy=0.5).sum(), VALUE),
    "missing normaliser of a point": (LAPLACE, DeltaFactor, lambda p, q: point(p, q) - p.scale.log().sum(), VALUE),
    "missing log 2 of a point": (LAPLACE, DeltaFactor, lambda p, q: point(p, q) - 12 * math.log(2.0), VALUE),
    "detached from the prior's rate": (
        GAMMA,
        LogNormalFactor,
        lambda p, q: gamma_kl(p, q, rate=p.rate.detach()).sum(),
        "in its gradient in the prior's rate",
    ),
    "detached from the guide's log_scale": (
        NORMAL,
        NormalFactor,
        lambda p, q: normal_kl(p, q, log=0.0).sum() - q.log_scale.detach().sum(),
        "in its gradient in the guide's log_scale",
    ),
    "detached from everything": (
        NORMAL,
        NormalFactor,
        lambda p, q: normal_kl(p, q).sum().detach(),
        "in its gradient in the guide's location",
    ),
    "detached from the draw": (
        CAUCHY,
        LogNormalFactor,
        lambda p, q: half_cauchy(p, q, lambda x, c: (x.detach() / c) ** 2),
        "in its gradient in the guide's location",
    ),
    "detached from the scale of a point": (
        LAPLACE,
        DeltaFactor,
        lambda p, q: point(p, q, p.scale.detach()),
        "in its gradient in the prior's scale",
    ),
    "detached from the inclusion": (
        NORMAL,
        SlabFactor,
        lambda p, q: (q.inclusion.detach() * normal_kl(p, q)).sum(),
        "in its gradient in the guide's logit",
    ),
    "detached from the gate's prior": (
        lambda odds: dist.Bernoulli(odds / (1.0 + odds)),
        BernoulliFactor,
        lambda p, q: gates(dist.Bernoulli(p.probs.detach()), q),
        "in its gradient in the prior's odds",
    ),
    "a gradient too large though the value is right": (
        NORMAL,
        NormalFactor,
        lambda p, q: normal_kl(p, q).sum() + 0.2 * doubled_gradient(q.location),
        "in its gradient in the guide's location",
    ),
    "forgets to sum": (NORMAL, NormalFactor, normal_kl, r"returns a value of shape \(3, 4\)"),
    "forgets to sum over rows": (NORMAL, NormalFactor, lambda p, q: normal_kl(p, q).sum(-1), r"shape \(3,\)"),
    "averages": (NORMAL, NormalFactor, lambda p, q: normal_kl(p, q).mean(), VALUE),
    "returns a number": (NORMAL, NormalFactor, lambda p, q: float(normal_kl(p, q).detach().sum()), "type float"),
    "keeps the dimensions of one number": (
        typical(dist.Exponential),
        DeltaFactor,
        lambda p, q: (q.value * p.rate - p.rate.log()).sum() if p.rate.numel() > 1 else p.rate * q.value - p.rate.log(),
        "returns a value of shape",
    ),
    "sums a scale an output once for each output": (
        NORMAL,
        NormalFactor,
        lambda p, q: (
            p.scale.log().sum() * (12 if p.scale.numel() == 1 else 1) + (normal_kl(p, q) - p.scale.log()).sum()
            if p.scale.shape != q.location.shape and q.location.ndim == 2
            else normal_kl(p, q).sum()
        ),
        ONE_AN_OUTPUT,
    ),
    "takes the first scale for all": (
        lambda scale: dist.Normal(0.0, scale),
        NormalFactor,
        lambda p, q: normal_kl(dist.Normal(0.0, p.scale.reshape(-1)[0]), q).sum(),
        ONE_AN_OUTPUT,
    ),
    "transposes the scale": (
        lambda scale: dist.Normal(0.0, scale),
        NormalFactor,
        lambda p, q: normal_kl(dist.Normal(0.0, p.scale.mT if p.scale.ndim == 2 else p.scale), q).sum(),
        "cannot be evaluated with the prior's scale of shape",
    ),
    "the wrong way round": (GATE, BernoulliFactor, lambda p, q: gates(p, q, swapped=True), VALUE),
    "forgets the inclusion": (NORMAL, SlabFactor, lambda p, q: normal_kl(p, q).sum(), VALUE),
    "sums the inclusion apart": (NORMAL, SlabFactor, lambda p, q: q.inclusion.mean() * normal_kl(p, q).sum(), VALUE),
    "uses the mean for a zero": (
        NORMAL,
        NormalFactor,
        lambda p, q: normal_kl(dist.Normal(torch.zeros_like(p.loc), p.scale), q).sum(),
        VALUE,
    ),
}


@pytest.mark.parametrize("name", RIGHT)
def test_what_the_mistakes_are_made_from_is_right(name):
    prior, kind, term = RIGHT[name]
    assert isinstance(check_term(prior, kind, term), TermCheck)


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_caught_and_its_part_named_in_one_sentence(name):
    prior, kind, term, message = MISTAKES[name]
    with pytest.raises(ValueError, match=message) as caught:
        check_term(prior, kind, term)
    said = str(caught.value)
    assert kind.__name__ in said
    assert "\n" not in said and said.count(". ") == 0


def test_a_small_mistake_is_found_with_more_draws_and_not_with_few():
    def term(prior, q):
        return normal_normal(prior, q) + 0.02 * (q.location - prior.loc).square().sum()

    assert check_term(NORMAL, NormalFactor, term, draws=32).draws == 32
    with pytest.raises(ValueError, match="wrong in its"):
        check_term(NORMAL, NormalFactor, term, draws=100_000)


def test_a_mistake_on_the_way_of_constants_is_found_though_latents_are_right():
    def term(prior, q):
        return normal_normal(prior, q) + (0.0 if prior.scale.requires_grad else 1.0)

    with pytest.raises(ValueError, match=r"wrong in its value with the prior's loc of shape \(\)"):
        check_term(typical(dist.Normal, loc=0.0), NormalFactor, term)


def test_a_check_repeats_itself_and_leaves_the_global_random_state_alone():
    torch.manual_seed(3)
    before = torch.get_rng_state()
    one, same, other = (check_term(CAUCHY, LogNormalFactor, draws=320, seed=seed) for seed in (1, 1, 2))
    assert one == same and one != other
    assert torch.equal(before, torch.get_rng_state())
    assert one.parts["value"] > 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((dist.Cauchy(0.0, 1.0), NormalFactor), r"no term is registered for \(Cauchy, NormalFactor\)"),
        ((NORMAL, Factor), "cannot draw from a Factor: derive it from one of SlabFactor"),
        ((3.0, NormalFactor), "takes a distribution or a function of scales that returns one, not 3.0"),
        ((lambda scale: scale, NormalFactor), "must return a distribution, but returned Tensor"),
        ((lambda scale: exec("raise ValueError"), NormalFactor), r"cannot make the prior with .* \(ValueError\)"),
        ((lambda a, b: dist.Normal(a, torch.zeros(7)), NormalFactor), "cannot make the prior with the prior's a of"),
        (
            (dist.Gamma(3.0, 1.0), NormalFactor, lambda p, q: q.value.sum()),
            "Gamma has no density at a value of NormalFactor",
        ),
    ],
)
def test_a_bad_argument_gets_one_sentence(arguments, message):
    with pytest.raises(ValueError, match=message) as caught:
        check_term(*arguments)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("more", [{"draws": 0}, {"limit": 0.0}, {"limit": math.nan}])
def test_draws_and_limit_out_of_range_are_refused(more):
    with pytest.raises(ValueError, match="needs draws of at least 1 and a positive limit"):
        check_term(NORMAL, NormalFactor, **more)


def test_the_registry_gives_what_it_holds():
    assert registered_term(dist.HalfCauchy, LogNormalFactor) is half_cauchy_lognormal
    assert registered_term(dist.Cauchy, NormalFactor) is None
    assert bp.check_term is check_term
