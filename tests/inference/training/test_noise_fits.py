"""Priors with multiplicative noise as fits: where they start, both paths, saving, and what is pruned by."""

from __future__ import annotations

import math
import re
from pathlib import Path

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.distributions import constraints

import bayesprune as bp
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.pruning.criteria import dropout_rate
from bayesprune.models.distributions.truncated_log_normal import TruncatedLogNormal
from tests.oracles.noise_reference import open_probability
from tests.oracles.plain_path import (
    TOLERANCE,
    batch_for,
    differences,
    mlp,
    move,
    noise_at,
    objective_of,
    on_graph,
    on_plain,
    small_conv,
)

PRIORS = {
    "sparse variational dropout": bp.SparseVariationalDropout,
    "normal-Jeffreys": bp.GroupNormalJeffreys,
    "normal-Jeffreys a kernel": lambda: bp.GroupNormalJeffreys(per="kernel"),
    "group horseshoe": lambda: bp.GroupHorseshoe(0.3, per="input"),
    "hard concrete": bp.L0HardConcrete,
    "hard concrete an input": lambda: bp.L0HardConcrete(2.0, level="input", dropout=0.2),
    "hard concrete without decay": lambda: bp.L0HardConcrete(slab_sd=math.inf),
    "structured Bayesian pruning": bp.StructuredBayesianPruning,
    "structured Bayesian pruning a kernel": lambda: bp.StructuredBayesianPruning(-4.0, 0.5, per="kernel"),
    "bottleneck": lambda: bp.VIB(0.5),
    "bottleneck a kernel": lambda: bp.VIB(per="kernel"),
}


def data(rows=24):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, 4, generator=generator), torch.randint(3, (rows,), generator=generator)


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))


def model(prior, net=None):
    return bp.BayesianNetwork(net or network(), {"*.weight": prior}, data_size=24)


def fitted(prior, **more):
    return bp.fit(model(prior), data(), **{"epochs": 2, "batch_size": 8, "device": "cpu", "execution": "plain"} | more)


def site_of(guide, name):
    """The family that holds a site and the site's place in it."""
    for family in guide.families:
        for place, site in enumerate(family.sites):
            if site.name == name:
                return family, place
    raise AssertionError(name)


# -- starts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("make", [mlp, small_conv], ids=["linear", "convolution"])
def test_the_network_s_weights_are_the_start(name, make):
    plain = make(first="a1", second="a2")
    bnn = bp.BayesianNetwork(plain, {"a*.weight": PRIORS[name]()}, data_size=24)
    guide = Guide(bnn)
    assert guide.notes == []
    for tensor, weight in bnn.weights_at(guide.means()).items():
        torch.testing.assert_close(weight.detach(), plain.get_parameter(tensor).detach(), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(("prior", "latent"), [(bp.GroupNormalJeffreys(), "z"), (bp.VIB(), "z")])
def test_the_noise_starts_at_one_with_a_small_dropout_rate(prior, latent):
    family, place = site_of(Guide(model(prior)), f"0.weight.{latent}")
    location, log_scale = (family.cut(part.detach())[place] for part in (family.location, family.log_scale))
    assert torch.equal(location, torch.ones(5, 1))
    torch.testing.assert_close(2.0 * log_scale, torch.full((5, 1), -9.0))
    weights, place = site_of(Guide(model(bp.SparseVariationalDropout())), "0.weight")
    rms = weights.cut(weights.location.detach())[place].square().mean().sqrt()
    assert float(weights.cut(weights.log_scale.detach())[place][0, 0].exp() / rms) == pytest.approx(0.1)


def test_the_truncated_noise_starts_at_its_upper_end_and_stays_proper_elsewhere():
    family, place = site_of(Guide(model(bp.StructuredBayesianPruning())), "0.weight.theta")
    assert family.location.abs().max() == 0.0
    torch.testing.assert_close(family.log_scale.detach(), torch.full_like(family.log_scale, -5.0))
    beyond = model(bp.StructuredBayesianPruning(-3.0, -1.0))  # one is not between its ends
    assert float(Guide(beyond).means()["0.weight.theta"].max()) < math.exp(-1.0)


def test_the_scales_of_the_group_horseshoe_start_at_one():
    means = Guide(model(bp.GroupHorseshoe(0.3))).means()
    for letter in "sz":
        squares = means[f"0.weight.{letter}_a"] * means[f"0.weight.{letter}_b"]
        torch.testing.assert_close(squares, torch.ones_like(squares))
    torch.testing.assert_close(means["0.weight.s_a"], torch.tensor(0.09))  # its prior scale


def test_gates_and_truncated_noise_do_not_run_ahead_of_the_weights():
    for prior in (bp.L0HardConcrete(), bp.StructuredBayesianPruning()):
        assert Guide(model(prior)).groups()["spread"] == []
    assert Guide(model(bp.SpikeAndSlab())).groups()["spread"]  # the control


def test_a_latent_that_says_nothing_of_the_weights_is_still_told():
    silent = bp.Hierarchy(
        z=bp.Latent(dist.Normal(1.0, 0.1), "kernel", init=1.0),
        w=bp.Latent(dist.Normal(0.0, 1.0), init=0.5),
        weight=lambda z, w: z * w,
    )
    assert len(Guide(model(silent)).notes) == 2
    assert Guide(model(bp.GroupNormalJeffreys(per="kernel"))).notes == []


# -- both paths ----------------------------------------------------------------------------------------------------


QUICK = ("sparse variational dropout", "hard concrete an input", "structured Bayesian pruning a kernel")


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=() if name in QUICK else pytest.mark.slow) for name in PRIORS]
)
def test_the_graph_is_the_plain_path(name):
    net = mlp() if name not in QUICK[1:] else small_conv()
    objective = objective_of(PRIORS[name](), None, net)
    traced = trace(objective, *batch_for(net))
    move(objective, 0.1, seed=8)
    other = batch_for(net, seed=1)
    found = on_graph(traced, objective, *other, noise_at(traced, 3), 0.6)
    far = differences(found, on_plain(objective, *other, seed=3, kl_weight=0.6))
    assert {part: value for part, value in far.items() if not value < TOLERANCE} == {}
    control = differences(found, on_plain(objective, *other, seed=4, kl_weight=0.6))
    assert control["outputs"] > 1e-4


@pytest.mark.parametrize("name", ["hard concrete", pytest.param("structured Bayesian pruning", marks=pytest.mark.slow)])
def test_particles_are_mapped(name):
    net = mlp()
    objective = objective_of(PRIORS[name](), None, net, particles=2)
    batch = batch_for(net)
    traced = trace(objective, *batch)
    found = on_graph(traced, objective, *batch, noise_at(traced, 3), 0.6)
    assert max(differences(found, on_plain(objective, *batch, seed=3, kl_weight=0.6)).values()) < TOLERANCE


@pytest.mark.slow
@pytest.mark.parametrize("name", ["normal-Jeffreys", "hard concrete", "structured Bayesian pruning", "bottleneck"])
def test_a_compiled_fit_is_the_plain_fit(name):
    plain = fitted(PRIORS[name](), precision="float64")
    fused = fitted(PRIORS[name](), precision="float64", execution="fused", compiled=True)
    assert fused.settings["execution"]["compiled"]
    for one, other in zip(fused.guide.parameters(), plain.guide.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


# -- fits ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in PRIORS if "kernel" in name])  # the others: models/priors/test_laws
def test_a_fit_is_saved_and_read_back(name, tmp_path):
    fit = fitted(PRIORS[name]())
    assert all(bool(torch.isfinite(p).all()) for p in fit.guide.parameters())
    assert math.isfinite(fit.summary()["kl"])
    again = bp.Fit.load(fit.save(tmp_path / "fit"), model(PRIORS[name]()))
    x = data()[0]
    assert torch.equal(again.predict(x, draws=3).mean, fit.predict(x, draws=3).mean)
    probabilities = fit.inclusion_probabilities(draws=5)
    assert probabilities["0.weight"].attrs["kind"] == ("atom" if "concrete" in name else "relative")
    assert again.inclusion_probabilities(draws=5).equals(probabilities)
    pruned = bp.prune(fit, sparsity=0.5)
    assert pruned.report.sparsity == pytest.approx(0.5, abs=0.02)
    with pytest.raises(ValueError, match="has changed"):
        bp.Fit.load(tmp_path / "fit", model(bp.Gaussian()))


def test_local_reparameterisation_draws_the_outputs_of_dropped_weights():
    objective = objective_of(bp.SparseVariationalDropout(), None, local_reparameterisation=True)
    x, y = batch_for(objective.model.network)
    torch.manual_seed(0)
    local = [objective.terms(x, y) for _ in range(100)]
    apart = Objective(objective.model, objective.guide).train()
    drawn = [apart.terms(x, y) for _ in range(100)]
    assert float(local[0].kl) == pytest.approx(float(drawn[0].kl), rel=1e-12)
    ones, others = (torch.stack([float_of(t) for t in found]) for found in (local, drawn))
    error = math.sqrt(float(ones.var() + others.var()) / 100)
    assert abs(float(ones.mean() - others.mean())) < 4.0 * error
    assert float(ones.std()) < float(others.std())  # which is what it is for
    fit = fitted(bp.SparseVariationalDropout(), local_reparameterisation=True)
    assert fit.settings["local_reparameterisation"] is True


def float_of(terms):
    return terms.log_likelihood.detach()


def test_a_fitted_scale_that_is_a_point_has_the_same_objective_at_its_best():
    """xi as a point with a flat prior, at sqrt(m^2 + s^2), against xi that is maximised out: value and gradients."""
    explicit = bp.Hierarchy(
        xi=bp.Latent(lambda: dist.ImproperUniform(constraints.positive, (), ()), "output", guide="delta", init=1.0),
        z=bp.Latent(lambda xi: dist.Normal(0.0, xi), "output", guide="normal", init=1.0, spread=0.3),
        w=bp.Latent(dist.Normal(0.0, 0.5), guide="delta", init=lambda weight: weight),
        weight=lambda z, w: z * w,
        improper="its xi is flat",
    )
    ones = objective_of(bp.VIB(slab_sd=0.5), None)
    others = objective_of(explicit, None)
    for tensor in ("a1.weight", "a2.weight"):
        for latent in ("z", "w"):
            (mine, i), (theirs, j) = (site_of(each.guide, f"{tensor}.{latent}") for each in (ones, others))
            for parameter, _ in mine.named_parameters():
                theirs.pieces(parameter)[j].data.copy_(mine.pieces(parameter)[i].data)
        (family, i), (points, j) = site_of(ones.guide, f"{tensor}.z"), site_of(others.guide, f"{tensor}.xi")
        best = family.pieces("location")[i].square() + (2.0 * family.pieces("log_scale")[i]).exp()
        points.pieces("location")[j].data.copy_(0.5 * best.detach().log())
    for (_, one), (_, other) in zip(points_of(ones), points_of(others), strict=True):
        other.data.copy_(one.data)
    batch = batch_for(ones.model.network)

    def evaluate(objective):
        """The terms, and gradients in the pieces of a family, by name of site."""
        torch.manual_seed(0)
        terms = objective.terms(*batch)
        gradients = torch.autograd.grad(terms.loss, list(objective.guide.parameters()))
        found = dict(zip(map(id, objective.guide.parameters()), gradients, strict=True))

        def of(name):
            family, place = site_of(objective.guide, name)
            return torch.stack([family.cut(found[id(p)])[place] for p in family.parameters()])

        return terms, of

    (mine, slope), (theirs, other) = evaluate(ones), evaluate(others)
    assert float(mine.kl) == pytest.approx(float(theirs.kl), rel=1e-9)
    torch.testing.assert_close(slope("a1.weight.z"), other("a1.weight.z"), rtol=1e-9, atol=1e-9)
    assert float(other("a1.weight.xi").abs().max()) < 1e-9  # it is the optimum
    points, j = site_of(others.guide, "a1.weight.xi")
    points.pieces("location")[j].data.add_(0.01)
    assert float(evaluate(others)[0].kl) > float(theirs.kl) + 1e-6  # the control


def points_of(objective):
    return [(name, p) for name, p in objective.model.named_parameters() if p.requires_grad]


@pytest.mark.parametrize("make", [bp.L0HardConcrete, bp.VIB, bp.StructuredBayesianPruning])
def test_without_decay_nothing_but_the_gates_or_the_noise_costs(make):
    """The objective of Louizos, Welling & Kingma 2018 without weight decay: a price on nonzero weights alone."""
    torch.manual_seed(0)
    flat = objective_of(make(slab_sd=math.inf), None)
    x, y = batch_for(flat.model.network)
    terms = flat.terms(x, y)
    points = {site: float(term.detach()) for site, term in terms.kl_of.items() if site.endswith(".w")}
    assert points and set(points.values()) == {0.0}
    decayed = objective_of(make(), None).terms(x, y)
    assert all(abs(float(decayed.kl_of[site].detach())) > 1.0 for site in points)  # the control
    if make is bp.L0HardConcrete:
        (log_alpha,) = (p for name, p in flat.guide.named_parameters() if name.endswith("log_alpha"))
        price = sum(open_probability(float(a)) for a in log_alpha.detach())
        assert float(terms.kl.detach()) == pytest.approx(price, rel=1e-6)


@pytest.mark.parametrize("name", ["l0-hard-concrete", "vib", "structured-bayesian-pruning"])
def test_a_slab_without_decay_is_fitted_saved_and_read_back(name, tmp_path):
    from bayesprune.models.priors.ready import from_config, make_prior

    prior = make_prior(name, slab_sd="inf")
    assert prior.config == make_prior(name).__class__(slab_sd=math.inf).config
    assert from_config(prior.config).fingerprint() == prior.fingerprint() != make_prior(name).fingerprint()
    fit = fitted(prior, epochs=3)
    assert bool(torch.isfinite(fit.guide.means()["0.weight.w"]).all())
    again = bp.Fit.load(fit.save(tmp_path / "fit"), model(prior))
    assert torch.equal(again.guide.means()["0.weight.w"], fit.guide.means()["0.weight.w"])
    with pytest.raises(ValueError, match="has changed since"):
        bp.Fit.load(tmp_path / "fit", model(make_prior(name)))
    with pytest.raises(ValueError, match="cannot be simulated: "):
        bp.prior_sparsity(prior, (3, 4))


# -- pruning -------------------------------------------------------------------------------------------------------


def test_the_probability_of_an_open_gate_is_its_inclusion():
    fit = fitted(bp.L0HardConcrete(level="input"))
    family, place = site_of(fit.guide, "0.weight.z")
    with torch.no_grad():
        family.log_alpha[:9] = torch.tensor([-6.0, -2.0, -1.0, 3.0, 0.0, 0.0, -9.0, 40.0, 1.0])
    expected = [open_probability(a) for a in (-6.0, -2.0, -1.0, 3.0)]
    found = fit.inclusion_probabilities()["0.weight"].values
    assert found == pytest.approx(torch.tensor(expected).expand(5, 4).numpy(), rel=1e-5)
    assert fit.inclusion_probabilities()["0.weight"].attrs["event"] == "z != 0 (atom)"
    kept = bp.prune(fit, min_inclusion=0.5)
    assert torch.equal(kept.masks["0.weight"], torch.tensor([False, False, True, True]).expand(5, 4))
    torch.testing.assert_close(
        kept.network[0].weight[:, 3].detach(), fit.guide.means()["0.weight.w"][:, 3], rtol=1e-6, atol=1e-7
    )  # a gate of log alpha 3 is wide open once it is trained
    ranked = bp.prune(fit, sparsity=0.6, criterion="inclusion").masks
    assert int(ranked["0.weight"][:, 3].sum()) == 5 and int(ranked["2.weight"][:, 2].sum()) == 0
    drawn = fit.draws(50, sites=lambda site: site == "0.weight.z")["0.weight.z"]
    assert 0.0 == float(drawn[:, 0, 0].median()) and 1.0 == float(drawn[:, 0, 3].median())
    for one in (fit, fitted(bp.L0HardConcrete(), guide={"w": "normal"})):  # with points and without
        assert one.summary()["elbo"] is None  # a penalty is no bound on the evidence
    assert "inclusion_histogram" in fit.trace
    assert {"mean 0.weight.z", "mean 2.weight.z"} <= set(fit.trace.quantity.values)


def test_a_dropout_rate_ranks_by_the_ratio_of_mean_and_spread():
    fit = fitted(bp.GroupNormalJeffreys())
    family, place = site_of(fit.guide, "0.weight.z")
    with torch.no_grad():
        family.cut(family.location)[place].copy_(torch.tensor([[1.0], [-2.0], [0.0], [0.1], [1.0]]))
        family.cut(family.log_scale)[place].copy_(torch.tensor([[-2.0], [0.0], [0.0], [-5.0], [1.0]]))
    scores = dropout_rate(fit)["0.weight"]
    assert scores.shape == (5, 4)
    rows = scores[:, 0].tolist()
    assert [rows[k] for k in (0, 1, 3, 4)] == pytest.approx([4.0, math.log(4.0), math.log(0.01) + 10.0, -2.0], rel=1e-5)
    assert rows[2] == min(rows) and math.isfinite(rows[2])
    masks = bp.prune(fit, sparsity=0.6, criterion="dropout-rate", per="layer").masks["0.weight"]
    assert masks.any(1).tolist() == [True, False, False, True, False]


def test_the_other_dropout_rates_are_of_the_weight_and_of_the_truncated_noise():
    fit = fitted(bp.SparseVariationalDropout())
    torch.manual_seed(0)
    before = torch.randn(1)
    torch.manual_seed(0)
    scores = dropout_rate(fit)
    assert torch.equal(torch.randn(1), before)  # looking takes no random numbers
    family, place = site_of(fit.guide, "2.weight")
    location, log_scale = (family.cut(part.detach())[place] for part in (family.location, family.log_scale))
    torch.testing.assert_close(scores["2.weight"], 2.0 * (location.abs().log() - log_scale))
    fit = fitted(bp.StructuredBayesianPruning())
    family, place = site_of(fit.guide, "0.weight.theta")
    location, log_scale = (family.cut(part.detach())[place] for part in (family.location, family.log_scale))
    assert {"mean log 0.weight.theta", "log 2.weight.theta[0]"} <= set(fit.trace.quantity.values)
    drawn = TruncatedLogNormal(location, log_scale, -20.0, 0.0).sample((40_000,)).double()
    expected = (drawn.mean(0).square() / drawn.var(0)).log()
    torch.testing.assert_close(dropout_rate(fit)["0.weight"][:, :1].double(), expected, rtol=0.0, atol=0.06)


@pytest.mark.parametrize("prior", [bp.Gaussian(), bp.L0HardConcrete(), bp.GroupHorseshoe()], ids=repr)
def test_a_prior_without_a_dropout_rate_is_refused(prior):
    with pytest.raises(ValueError, match="0.weight has no multiplicative noise with a dropout rate"):
        bp.prune(fitted(prior, epochs=1), sparsity=0.5, criterion="dropout-rate")


PAGES = ("sparse-variational-dropout", "group-normal-jeffreys", "group-horseshoe", "l0-hard-concrete",
         "structured-bayesian-pruning", "vib")  # fmt: skip


@pytest.mark.parametrize("page", PAGES)
def test_the_page_on_a_prior_runs(page):
    text = (Path(__file__).parents[3] / "docs" / "priors" / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    space = {"bp": bp, "network": network(), "x": data()[0], "y": data()[1]}
    for block in blocks:
        exec(compile(block.replace("epochs=50", "epochs=1, device='cpu'"), page, "exec"), space)
    assert blocks and 0.0 <= space["result"].report.sparsity <= 0.95


# -- guides of one's own -------------------------------------------------------------------------------------------


def test_a_truncated_guide_fits_any_positive_interval_from_draws():
    interval = bp.Hierarchy(
        s=bp.Latent(dist.Uniform(0.5, 2.0), "layer", guide="truncatedlognormal", init=1.0),
        weight=lambda s: dist.Normal(0.0, s),
    )
    bnn = model(interval)
    assert bnn.sites["0.weight.s"].bounds == (0.5, 2.0)
    objective = Objective(bnn, Guide(bnn))
    assert objective.estimated_from_draw() == ["0.weight.s", "2.weight.s"]
    drawn = fitted(interval, epochs=1).draws(20)["0.weight.s"]
    assert 0.5 <= float(drawn.min()) < float(drawn.max()) <= 2.0


def test_a_term_that_no_draw_can_give_is_not_said_to_come_from_one():
    for prior, expected in ((bp.VIB(), []), (bp.GroupNormalJeffreys(), ["0.weight.z", "0.weight.w"])):
        bnn = model(prior)
        objective = Objective(bnn, Guide(bnn), Gradient(sticking_the_landing=True))
        assert objective.estimated_from_draw()[:2] == expected


@pytest.mark.parametrize(
    ("prior", "guide", "says"),
    [
        (bp.GroupNormalJeffreys(), {"z": "truncatedlognormal"}, "real values, but the truncatedlognormal guide"),
        (bp.GroupNormalJeffreys(), {"z": "hardconcrete"}, "real values, but the hardconcrete guide"),
        (bp.StructuredBayesianPruning(), {"theta": "lognormal"}, "interval values, but the lognormal guide"),
    ],
)
def test_a_guide_on_the_wrong_support_is_refused(prior, guide, says):
    with pytest.raises(ValueError, match=says):
        Guide(model(prior), guide)


@pytest.mark.parametrize(
    ("prior", "guide", "says"),
    [
        (bp.SparseVariationalDropout(), {"weight": "delta"}, "0.weight has no MAP: its prior density is infinite"),
        (bp.GroupNormalJeffreys(), {"z": "delta"}, "0.weight.z has no MAP: its prior density is infinite at zero"),
        (bp.GroupHorseshoe(), "map", "0.weight has no MAP: its log joint grows without bound"),
    ],
)
def test_points_are_refused_where_the_density_is_infinite(prior, guide, says):
    with pytest.raises(ValueError, match=says):
        fitted(prior, guide=guide)
    assert set(fitted(bp.SparseVariationalDropout(), guide="map", epochs=1).guide.family_of.values()) == {"normal"}


def test_a_gate_with_another_guide_than_its_own_is_refused():
    with pytest.raises(ValueError, match="NonzeroPenalty has no term for LogitNormalFactor"):
        fitted(bp.L0HardConcrete(), guide={"z": "logitnormal"})


# -- what they are for ---------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("prior", "border"),
    [
        (bp.SparseVariationalDropout(), 2.0),
        (bp.GroupNormalJeffreys(per="input"), 2.0),
        (bp.VIB(per="input"), 2.0),
        (bp.StructuredBayesianPruning(per="input"), 0.0),  # the paper's rule
        (bp.L0HardConcrete(3.0, slab_sd=1.0, level="input"), 0.95),
    ],
    ids=repr,
)
def test_inputs_that_matter_are_told_from_those_that_do_not(prior, border):
    """Three of ten inputs carry the signal: their weights are found, and their scores lie above all the others."""
    torch.manual_seed(0)
    x, true = torch.randn(200, 10), torch.tensor([1.0, -0.7, 0.5, *[0.0] * 7])
    y = x @ true + 0.3 * torch.randn(200)
    torch.manual_seed(1)
    bnn = bp.BayesianNetwork(nn.Linear(10, 1), {"weight": prior}, bp.Normal(0.3), data_size=200)
    fit = bp.fit(bnn, (x, y), steps=1000, batch_size=200, learning_rate=0.01, device="cpu", execution="plain")
    weights = fit.included_weights()["weight"][0]
    assert (weights - true).abs().max() < 0.1
    if prior.noise is None:
        scores = torch.as_tensor(fit.inclusion_probabilities()["weight"].values)[0]
    else:
        scores = dropout_rate(fit)["weight"][0]
    assert float(scores[:3].min()) > border > float(scores[3:].max())
