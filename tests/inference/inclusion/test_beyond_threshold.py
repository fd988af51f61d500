"""Inclusion by soft thresholds under Normal guides: beside quadrature, draws, and what users ask of a fit."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from scipy.integrate import quad
from scipy.special import expit
from scipy.stats import norm
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.beyond_threshold import beyond, beyond_of, mean_of_included
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.left_in import included_weights, left_in
from bayesprune.inference.pruning.criteria import CRITERIA
from bayesprune.inference.restart import Restart
from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.inference.training.settled_training import settled_training
from bayesprune.models.language.latent import Latent
from tests.oracles.soft_threshold_reference import inclusion_by_quadrature, mean_by_quadrature

SHAPE = (6, 5)
FORMS = {"sigmoid": (torch.sigmoid, expit), "exp": (torch.exp, np.exp)}


def number(value):
    return torch.tensor(value, dtype=torch.float64)


def soft(raw, threshold):
    return raw.sign() * torch.relu(raw.abs() - threshold)


def declared(per="layer", form="sigmoid", **more):
    """A soft threshold as a user writes it; `more` are further nodes or others of the same name."""
    nodes = {
        "s": Latent(lambda: dist.Normal(0.0, 1.0), per=per, init=-2.0),
        "raw": Latent(lambda: dist.Normal(0.0, 1.0)),
        "threshold": Latent(lambda s: FORMS[form][0](s), per=per),
        "weight": lambda raw, threshold: soft(raw, threshold),
        "included": bp.beyond_threshold("raw", "threshold"),
    }
    return bp.Hierarchy(**{**nodes, **more})


def fit_of(prior, guide="meanfield", seed=0, s=(-2.0, 0.4), layers=1, widest=0.4):
    """A fit whose guide was moved to values of all sizes; no step is taken."""
    torch.manual_seed(seed)
    network = nn.Sequential(*(nn.Linear(5, 6 if layers == 1 else 5, bias=False) for _ in range(layers))).double()
    model = bp.BayesianNetwork(network, {"*.weight": prior}, bp.Categorical(), 40)
    q = Guide(model, guide)
    with torch.no_grad():
        for family in q.families:
            for piece in family.slices():
                value = piece.of(family.get_parameter(piece.parameter).data)
                if piece.parameter == "location":
                    value.copy_(torch.randn_like(value) * 0.5 if piece.site.latent == "raw" else value * 0 + s[0])
                    if piece.site.latent == "s":
                        value += 0.3 * torch.randn_like(value)
                elif piece.parameter == "log_scale" and piece.site.latent == "raw":
                    value.copy_(torch.rand_like(value) * 3.0 - 3.0 + math.log(widest))
                elif piece.parameter == "log_scale":
                    value.fill_(math.log(s[1]))
    return bp.Fit([Restart(model, q, seed)], xr.Dataset(), {})


def normal_of(fit, latent, tensor="0.weight"):
    """Location and sd of a latent's guide, by name of its site."""
    found = {}
    for family in fit.guide.families:
        for piece in family.slices():
            if piece.site.latent == latent and piece.site.name.startswith((tensor, "*")):
                found[piece.parameter] = piece.of(family.get_parameter(piece.parameter).detach()).numpy()
    return found["location"].reshape(-1), np.exp(found.get("log_scale", np.array(-np.inf))).reshape(-1)


def by_quadrature(fit, form="sigmoid", tensor="0.weight", rows=6):
    """The same probabilities by scipy, entry by entry."""
    (raw, raw_sd), (s, s_sd) = normal_of(fit, "raw", tensor), normal_of(fit, "s", tensor)
    raw, raw_sd = raw.reshape(rows, -1), raw_sd.reshape(rows, -1)
    g, found = FORMS[form][1], np.empty(raw.shape)
    for i, j in np.ndindex(raw.shape):
        at, spread = s[min(i, len(s) - 1)], s_sd[min(i, len(s_sd) - 1)]
        found[i, j] = inclusion_by_quadrature(raw[i, j], raw_sd[i, j], lambda u: float(g(at + spread * u)))  # noqa: B023
    return found


# -- the probability ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("per", ["layer", "output", "network"])
def test_the_probability_is_that_of_adaptive_quadrature(per, form):
    fit = fit_of(declared(per, form))
    found = fit.inclusion_probabilities()["0.weight"].values
    assert np.abs(found - by_quadrature(fit, form)).max() < 1e-8


def test_a_threshold_held_at_its_centre_is_seen_to_be_off():
    fit = fit_of(declared(), s=(-1.0, 1.0))
    raw, sd = normal_of(fit, "raw")
    g = expit(normal_of(fit, "s")[0])
    at_centre = norm.sf((g - raw) / sd) + norm.cdf((-g - raw) / sd)
    assert np.abs(at_centre.reshape(SHAPE) - by_quadrature(fit)).max() > 0.05
    assert np.abs(fit.inclusion_probabilities()["0.weight"].values - by_quadrature(fit)).max() < 1e-8


def test_a_point_threshold_gives_the_closed_form():
    fit = fit_of(declared(), {"s": "delta", "raw": "normal"})
    raw, sd = normal_of(fit, "raw")
    g = expit(normal_of(fit, "s")[0])
    expected = norm.sf((g - raw) / sd) + norm.cdf((-g - raw) / sd)
    assert fit.inclusion_probabilities()["0.weight"].values.reshape(-1) == pytest.approx(expected, abs=1e-14)


def test_a_lognormal_threshold_of_ones_own_is_integrated_too():
    """The latent is the threshold itself."""
    own = Latent(lambda: dist.LogNormal(-1.0, 1.0), per="output", init=0.2)
    fit = fit_of(declared(s=own, threshold=Latent(lambda s: s, per="output")))
    found = fit.inclusion_probabilities()["0.weight"].values
    assert np.abs(found - by_quadrature(fit, "exp")).max() < 1e-8
    latent = bp.Hierarchy(
        raw=Latent(lambda: dist.Normal(0.0, 1.0)),
        s=own,
        weight=lambda raw, s: soft(raw, s),
        included=bp.beyond_threshold("raw", "s"),
    )
    fit = fit_of(latent)
    assert np.abs(fit.inclusion_probabilities()["0.weight"].values - by_quadrature(fit, "exp")).max() < 1e-8


@pytest.mark.parametrize("per", ["layer", "output", "network"])
def test_draws_agree_within_their_standard_error(per):
    fit = fit_of(declared(per), layers=2, seed=3)
    count = 800
    drawn, found = fit.draws(count, sites=fit.model.priors.__contains__), fit.inclusion_probabilities()
    for name in ("0.weight", "1.weight"):
        exact = found[name].values
        counted = (drawn[name] != 0).double().mean(0).numpy()
        error = np.sqrt(np.maximum(exact * (1 - exact), 1e-3) / count)
        assert (np.abs(counted - exact) < 4.5 * error).all()
        assert (np.abs(counted - np.clip(exact + 0.1, 0, 1)) > 4.5 * error).any()  # a tenth is seen


@pytest.mark.parametrize("sd", [0.3, 0.03, 0.006])
def test_a_step_beyond_the_first_nodes_is_not_missed(sd):
    """Thresholds that one standard unit of s moves by up to sixty sd of raw."""
    location = torch.linspace(-0.9, 0.9, 37, dtype=torch.float64)
    found = beyond(location, torch.full_like(location, sd), lambda u: number(-1.0 + 1.5 * u).sigmoid())
    exact = [inclusion_by_quadrature(float(m), sd, lambda u: float(expit(-1.0 + 1.5 * u))) for m in location]
    assert np.abs(found.probability.numpy() - exact).max() < 1e-8
    assert (found.log_in.exp() + found.log_out.exp()).numpy() == pytest.approx(1.0, abs=1e-12)


def test_log_odds_keep_their_order_where_probabilities_round_and_where_thresholds_sleep():
    location = torch.tensor([0.0, 5.0, 10.0, 20.0, 40.0], dtype=torch.float64)
    for threshold in (0.5, 1e-9, 0.0):
        found = beyond(location, torch.ones(5).double(), lambda _, t=threshold: number(t), is_point=True)
        assert torch.isfinite(found.log_odds).all() and (found.log_odds.diff() > 0).all()
    assert found.probability.unique().tolist() == [1.0]
    far = beyond(location, torch.ones(5).double(), lambda _: number(100.0), is_point=True)
    tails = np.logaddexp(norm.logcdf(location.numpy() - 100.0), norm.logcdf(-location.numpy() - 100.0))
    assert far.log_in.numpy() == pytest.approx(tails, rel=1e-12)
    assert far.probability[0] == 0.0 and (far.log_odds.diff() > 0).all()
    small = beyond(location, torch.ones(5).double(), lambda _: number(1e-3), is_point=True)
    assert small.log_out.numpy() == pytest.approx(np.log(2e-3) + norm.logpdf(location.numpy()), abs=1e-3)


# -- what has no closed form -------------------------------------------------------------------------------------


def off_by_draws(fit):
    found = fit.inclusion_probabilities(draws=50)["0.weight"].values
    return np.allclose(found * 50, np.round(found * 50), atol=1e-4)


def test_others_are_counted_over_draws():
    fits = {
        "two latents": declared(
            t=Latent(lambda: dist.LogNormal(0.0, 1.0), per="layer"),
            threshold=Latent(lambda s, t: t * torch.sigmoid(s), per="layer"),
        ),
        "mixed entries": declared("output", threshold=Latent(lambda s: torch.sigmoid(s.mean()), per="layer")),
        "entries of others": declared("output", threshold=Latent(lambda s: torch.sigmoid(s.flip(0)), per="output")),
        "dimensions of its own": declared(
            s=Latent(lambda: dist.Normal(-2.0, 1.0), dims={"k": 3}),
            threshold=Latent(lambda s: torch.sigmoid(s.mean()), per="layer"),
        ),
        "raw itself": declared(threshold=Latent(lambda raw: raw.square().mean().sqrt(), per="layer")),
        "raw is a point": declared(raw=Latent(lambda: dist.Normal(0.0, 1.0), guide="delta")),
    }
    for what, prior in fits.items():
        fit = fit_of(prior)
        assert beyond_of(fit.guide, fit.model.priors["0.weight"]) is None, what
        assert off_by_draws(fit), what
        assert torch.isfinite(CRITERIA["inclusion"](fit, 0)["0.weight"]).all(), what
    assert not off_by_draws(fit_of(declared()))


def test_a_map_has_zeros_and_ones():
    fit = fit_of(declared(), "map")
    found = fit.inclusion_probabilities()["0.weight"].values
    assert set(np.unique(found)) == {0.0, 1.0}
    assert "meaning" not in fit.inclusion_probabilities()["0.weight"].attrs
    assert (found == (included_weights(fit.guide)["0.weight"] != 0).numpy()).all()


# -- what is deployed --------------------------------------------------------------------------------------------


def test_the_mean_of_an_included_weight_is_its_integral():
    fit = fit_of(declared(), {"s": "delta", "raw": "normal"})
    raw, sd = normal_of(fit, "raw")
    g = float(expit(normal_of(fit, "s")[0][0]))
    known = beyond_of(fit.guide, fit.model.priors["0.weight"])
    expected = [mean_by_quadrature(m, v, g) for m, v in zip(raw, sd, strict=True)]
    assert known.mean.numpy().reshape(-1) == pytest.approx(expected, abs=1e-9)
    given = np.array(expected) / (norm.sf((g - raw) / sd) + norm.cdf((-g - raw) / sd))
    assert fit.included_weights()["0.weight"].numpy().reshape(-1) == pytest.approx(given, rel=1e-6, abs=1e-9)
    centre = included_weights(fit.guide)["0.weight"].numpy().reshape(-1)
    assert np.abs(centre - given).max() > 0.01


def test_the_mean_is_that_of_draws_where_the_threshold_is_uncertain():
    fit = fit_of(declared("output"), seed=1)
    drawn = fit.draws(1500, sites=lambda name: name == "0.weight")["0.weight"]
    known = beyond_of(fit.guide, fit.model.priors["0.weight"])
    error = drawn.std(0) / len(drawn) ** 0.5
    assert ((drawn.mean(0) - known.mean).abs() < 4.5 * error + 1e-6).all()


def test_another_function_of_the_weight_keeps_the_centre():
    """A hard threshold has the same event and another mean."""
    hard = declared(weight=lambda raw, threshold: torch.where(raw.abs() > threshold, raw, 0.0))
    fit = fit_of(hard)
    assert mean_of_included(fit.guide, fit.model.priors["0.weight"]) is None
    assert torch.equal(fit.included_weights()["0.weight"], included_weights(fit.guide)["0.weight"])
    assert np.abs(fit.inclusion_probabilities()["0.weight"].values - by_quadrature(fit)).max() < 1e-8


def test_half_an_inclusion_probability_keeps_just_those_weights_and_none_of_them_as_zero():
    fit = fit_of(declared(), s=(-1.0, 0.4), widest=1.5)
    likely = fit.inclusion_probabilities()["0.weight"].values > 0.5
    result = bp.prune(fit, min_inclusion=0.5)
    assert (result.masks["0.weight"].numpy() == likely).all()
    assert ((dict(result.network.named_parameters())["0.weight"] != 0).numpy() == likely).all()
    left = left_in(fit.guide)["0.weight"].numpy()  # by the median of the weight, of one sign
    assert (left & ~likely).sum() == 0 and (likely & ~left).sum() > 0


def test_what_is_left_in_is_what_more_likely_than_not_has_one_sign():
    fit = fit_of(declared(), {"s": "delta", "raw": "normal"}, s=(-1.0, 0.4))
    drawn = fit.draws(2001, sites=lambda name: name == "0.weight")["0.weight"]
    median = drawn.median(0).values != 0
    left = left_in(fit.guide)["0.weight"]
    raw, sd = normal_of(fit, "raw")
    clear = (np.abs(np.abs(raw) - expit(normal_of(fit, "s")[0])) > 0.1 * sd).reshape(SHAPE)
    assert (median.numpy() == left.numpy())[clear].all() and 0 < left.sum() < left.numel()
    assert (CRITERIA["sign"](fit, 0)["0.weight"] > 0).equal(left)
    at_its_own = bp.prune(fit, sparsity=1.0 - float(left.double().mean()))
    assert at_its_own.masks["0.weight"].equal(left)


def sign_by_quadrature(location, sd, s, s_sd):
    """The larger of P(w > 0) and P(w < 0) of one weight."""

    def above(u, side):
        return norm.pdf(u) * norm.sf((expit(s + s_sd * u) - side * location) / sd)

    return max(
        quad(above, -10, 10, (side,), limit=500, epsabs=1e-12, points=np.linspace(-8, 8, 9))[0] for side in (-1, 1)
    )


@pytest.mark.parametrize("per", ["layer", "output"])
def test_a_sparsity_is_reached_by_how_sure_signs_are(per):
    fit = fit_of(declared(per), s=(-1.0, 0.4), widest=1.5)
    odds = CRITERIA["sign"](fit, 0)["0.weight"]
    (raw, raw_sd), (s, s_sd) = normal_of(fit, "raw"), normal_of(fit, "s")
    row = np.arange(30) // 5 if per == "output" else np.zeros(30, int)
    exact = [sign_by_quadrature(raw[i], raw_sd[i], s[row[i]], s_sd[row[i]]) for i in range(30)]
    assert odds.sigmoid().numpy().reshape(-1) == pytest.approx(exact, abs=1e-8)
    drawn = fit.draws(1500, sites=lambda name: name == "0.weight")["0.weight"]
    counted = torch.maximum((drawn > 0).double().mean(0), (drawn < 0).double().mean(0))
    assert (odds.sigmoid() - counted).abs().max() < 0.06
    result = bp.prune(fit, sparsity=0.8)
    assert result.report.criterion == "sign"
    kept = result.masks["0.weight"]
    assert kept.sum() == 6 and odds[kept].min() > odds[~kept].max()
    assert (dict(result.network.named_parameters())["0.weight"] != 0).equal(kept)


def test_what_is_wide_around_zero_is_likely_in_and_of_no_sure_sign():
    location, sd = number([0.0, 0.5]), number([1.0, 0.1])
    wide, known = beyond(location, sd, lambda _: number(0.3), is_point=True).probability
    assert wide > 0.7 and known > 0.9
    sign = beyond(location, sd, lambda _: number(0.3), is_point=True, of_sign=True).probability
    assert sign.numpy() == pytest.approx([norm.cdf(-0.3), norm.cdf(2.0)], abs=1e-12)


def test_the_sign_of_other_posteriors_is_counted_over_draws():
    gaussian = bp.Gaussian(1.0)
    fit = fit_of(gaussian)
    found = CRITERIA["sign"](fit, 0)["0.weight"]
    assert found.shape == SHAPE and 0.0 <= found.min() and found.max() <= 1.0
    with pytest.raises(ValueError, match="MAP"):
        CRITERIA["sign"](fit_of(declared(), "map"), 0)
    assert bp.prune(fit_of(declared(), "map"), sparsity=0.9).report.criterion == "magnitude"


def test_other_criteria_of_a_sparsity_keep_their_order():
    fit = fit_of(declared(), s=(-1.0, 0.4))
    kept, sizes = bp.prune(fit, sparsity=0.8, criterion="magnitude").masks["0.weight"], included_weights(fit.guide)
    assert sizes["0.weight"].abs()[kept].min() > sizes["0.weight"].abs()[~kept].max()
    by_odds = bp.prune(fit, sparsity=0.8, criterion="inclusion").masks["0.weight"]
    odds = CRITERIA["inclusion"](fit, 0)["0.weight"]
    assert odds[by_odds].min() >= odds[~by_odds].max()


# -- the ready prior ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("per", ["layer", "output"])
def test_the_prior_alone_includes_what_scipy_says(per):
    shape = (40, 50)
    found = bp.prior_sparsity(bp.SoftThreshold(pressure=40.0, g="sigmoid", per=per), shape, draws=300)
    s_sd, raw_sd = (1.0 if per == "output" else 40.0) ** -0.5, math.sqrt(10 / 50)

    def included(s):
        return norm.pdf(s, 0.0, s_sd) * 2.0 * norm.sf(expit(s) / raw_sd)

    exact = 1.0 - quad(included, -10 * s_sd, 10 * s_sd, epsabs=1e-12)[0]
    draws = found.sparsity.numpy()
    assert abs(draws.mean() - exact) < 4.0 * draws.std() / math.sqrt(len(draws))
    assert found.kind == "atom" and "threshold" in found.event


def test_a_mean_field_fit_of_the_ready_prior_answers_what_users_ask(tmp_path):
    data = bp.load_data("digits")
    torch.manual_seed(0)
    network = bp.lenet_300_100(64, hidden=(12, 8))
    model = bp.BayesianNetwork(
        network, {"*.weight": bp.SoftThreshold(20.0, init=-2.5, g="sigmoid")}, data_size=len(data.train[0])
    )
    fit = bp.fit(model, data.train, "meanfield", steps=40)
    assert fit.settings["optimizer"] == "adam" and fit.settings["learning_rate"] == 3e-3
    found = fit.inclusion_probabilities()
    assert found["fc1.weight"].attrs["kind"] == "atom" and "either sign" in found["fc1.weight"].attrs["meaning"]
    assert fit.summary()["elbo"] is not None and 0.0 < fit.summary()["sparsity"] < 1.0
    assert set(CRITERIA["signal-to-noise"](fit, 0)) == set(found)
    again = bp.Fit.load(fit.save(tmp_path / "fit"), model=model)
    assert np.array_equal(again.inclusion_probabilities()["fc2.weight"].values, found["fc2.weight"].values)
    assert "fc1.weight.included" in bp.to_arviz(fit, draws=3).posterior
    assert bp.plot_inclusion(fit) is not None
    assert float(fit.effective_parameters(draws=3)["mean"].sum()) > 0


def test_what_the_prior_asks_of_a_fit_depends_on_the_guide_and_yields_to_what_is_given():
    model = bp.BayesianNetwork(nn.Linear(5, 6), {"weight": bp.SoftThreshold()}, bp.Categorical(), 40)

    def settled(guide, **given):
        how = settled_training(FitOptions(**given), model, guide)
        return how.optimizer, how.learning_rate, how.schedule

    assert settled("meanfield") == ("adam", 3e-3, "hold-cosine")
    assert settled({"s": "delta", "raw": "normal"}) == settled("meanfield")
    assert settled("map") == settled(None) == ("sgd", 0.1, "cosine")
    assert settled("meanfield", learning_rate=1e-3)[1] == 1e-3
    assert settled("meanfield", optimizer="sgd") == ("sgd", 1e-3, "hold-cosine")
    others = bp.BayesianNetwork(nn.Linear(5, 6), {"weight": bp.Gaussian()}, bp.Categorical(), 40)
    assert settled_training(FitOptions(), others, "meanfield").learning_rate == 1e-3


@pytest.mark.parametrize("guide", ["meanfield", "map"])
def test_under_gates_of_units_both_probabilities_multiply(guide):
    data = bp.load_data("digits")
    torch.manual_seed(0)
    network = bp.lenet_300_100(64, hidden=(12, 8))
    model = bp.BayesianNetwork(
        network,
        {"*.weight": bp.SoftThreshold(20.0, init=-2.5, g="sigmoid")},
        data_size=len(data.train[0]),
        gates=bp.UnitGates(),
        example_input=data.train[0][:1],
    )
    fit = bp.fit(model, data.train, guide, steps=30)
    whole, own = fit.inclusion_probabilities(), fit.inclusion_probabilities(units=False)
    there = fit.model.open_at(fit.guide.way_probabilities())
    for name, value in there.items():
        assert whole[name].values == pytest.approx(own[name].values * value.numpy(), abs=1e-6)
    kept = bp.prune(fit, min_inclusion=0.5).masks["fc1.weight"]
    assert 0 < kept.sum() < kept.numel()
    assert (own["fc1.weight"].values == 0).any() or guide == "meanfield"
