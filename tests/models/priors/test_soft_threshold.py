"""Soft thresholds as a prior: their start, their gradients, what is deployed, and what is refused."""

from __future__ import annotations

import math
import runpy

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.priors.soft_threshold import soft_thresholded
from tests.oracles.str_reference import soft, str_gradients, threshold

SIZE = 60
LEVELS, FORMS = ("layer", "output", "network"), ("sigmoid", "exp")
EACH = pytest.mark.parametrize(("per", "form"), [(per, form) for per in LEVELS for form in FORMS])


NAMES = ("0.weight", "2.weight", "4.weight")
RAWS = tuple(f"{name}.raw" for name in NAMES)


def network():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 4), nn.Tanh(), nn.Linear(4, 3)).double()


def data():
    torch.manual_seed(4)
    x = torch.randn(SIZE, 5, dtype=torch.float64)
    return x, x[:, :3].argmax(1)


def model_of(prior):
    return bp.BayesianNetwork(network(), {"*.weight": prior}, data_size=SIZE)


def sites_of(guide):
    """Where each site lives: the flat parameter and a view of it."""
    return {
        piece.site.name: (family.get_parameter(piece.parameter), piece)
        for family in guide.families
        for piece in family.slices()
    }


def weights_at_start(prior):
    model = model_of(prior)
    guide = Guide(model).double()
    return {name: weight.detach() for name, weight in model.weights_at(guide.means()).items()}, guide.means()


# -- the start --------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("init", [None, -1.0])
def test_a_network_starts_as_it_was_whatever_its_thresholds(per, form, init):
    found, values = weights_at_start(bp.SoftThreshold(init=init, g=form, per=per))
    for name, p in network().named_parameters():
        if name.endswith("weight"):
            torch.testing.assert_close(found[name], p.detach(), rtol=1e-13, atol=1e-15)
            raw = values[f"{name}.raw"]
            assert float((raw - p.detach()).abs().min()) > 1e-5  # raw lies beyond the threshold
    x = data()[0]
    there = torch.func.functional_call(network(), found, (x,))
    torch.testing.assert_close(there, network()(x), rtol=1e-12, atol=1e-14)


@EACH
def test_by_default_a_threshold_starts_at_a_hundredth_of_the_root_mean_square_of_what_shares_it(per, form):
    _, values = weights_at_start(bp.SoftThreshold(g=form, per=per))
    first = dict(network().named_parameters())["0.weight"].detach().numpy()
    rms = np.sqrt((first**2).mean(axis=1, keepdims=True) if per == "output" else (first**2).mean())
    (s,) = [value.numpy() for name, value in values.items() if name.endswith(".s") and name[0] in "0*"]
    np.testing.assert_allclose(threshold(s, form)[0].reshape(np.shape(rms)), 0.01 * rms, rtol=1e-12)


def test_as_published_raw_weights_start_at_the_network_s_and_are_shrunk():
    found, values = weights_at_start(bp.SoftThreshold.from_paper(1e-3, SIZE, init=-3.0))
    p = dict(network().named_parameters())["0.weight"].detach()
    assert torch.equal(values["0.weight.raw"], p)
    expected = soft(p.numpy(), np.array(-3.0))
    np.testing.assert_allclose(found["0.weight"].numpy(), expected, rtol=1e-14, atol=1e-16)
    assert 0 < (expected == 0).sum() < expected.size  # some are out from the start


# -- gradients --------------------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize("paper", [False, True], ids=["by pressure", "by weight decay"])
def test_gradients_are_those_by_hand(per, form, paper):
    """Of the loss per datum, prior included, at thresholds among the weights."""
    x, y = data()
    if paper:
        prior = bp.SoftThreshold.from_paper(0.01, SIZE, init=-2.0, g=form, per=per)
    else:
        prior = bp.SoftThreshold(0.3, raw_sd=0.6, init=-2.0, g=form, per=per)
    model = model_of(prior)
    guide = Guide(model).double()
    where = sites_of(guide)
    own = dict(network().named_parameters())
    with torch.no_grad():  # to thresholds among the weights, each another one
        for site, (parameter, piece) in where.items():
            view = piece.of(parameter)
            view.copy_(own[site.removesuffix(".raw")] if site in RAWS else view + 0.2 * torch.randn_like(view))
    loss = Objective(model, guide)(x, y) / SIZE
    loss.backward()

    values = {site: value.numpy() for site, value in guide.means().items()}
    shared = {name: next(s for s in values if s in (f"{name}.s", "*.weight.s")) for name in NAMES}
    softened = {name: soft(values[f"{name}.raw"], values[shared[name]], form) for name in NAMES}
    leaves = {name: torch.tensor(value, requires_grad=True) for name, value in softened.items()}
    plain = nn.functional.cross_entropy(torch.func.functional_call(network(), leaves, (x,)), y)
    plain.backward()
    expected = {site: np.zeros_like(value) for site, value in values.items() if site.endswith(".s")}
    for name in NAMES:
        raw, s = values[f"{name}.raw"], values[shared[name]]
        in_raw, in_s = str_gradients(raw, s, leaves[name].grad.numpy(), form)
        expected[f"{name}.raw"] = in_raw + (0.01 * raw if paper else raw / 0.6**2 / SIZE)
        expected[shared[name]] += in_s.reshape(expected[shared[name]].shape)
        assert 0 < (softened[name] == 0).sum() < raw.size
    for site in [site for site in expected if site.endswith(".s")]:
        each = 1.0  # of a tensor or the network; of an output, one of as many parts as the tensor has outputs
        if per == "output":
            tensor = values[f"{site.removesuffix('.s')}.raw"]
            each = tensor.shape[1] / tensor.size
        expected[site] += values[site] * (0.01 if paper else 0.3 * each / SIZE)
    assert set(expected) == set(where)
    for site, gradient in expected.items():
        parameter, piece = where[site]
        np.testing.assert_allclose(piece.of(parameter.grad).numpy(), gradient, rtol=1e-11, atol=1e-14, err_msg=site)
    # Controls: the sign of the loss in s, and a gradient that passes straight through.
    name = "0.weight"
    wrong = str_gradients(values[f"{name}.raw"], values[shared[name]], leaves[name].grad.numpy(), form, "sign of ds")[1]
    right = str_gradients(values[f"{name}.raw"], values[shared[name]], leaves[name].grad.numpy(), form)[1]
    assert np.abs(wrong - right).max() > 1e-4


def test_a_weight_of_zero_and_a_weight_at_the_threshold_have_no_gradient():
    raw = torch.tensor([0.0, 0.25, -0.25, 0.5, -0.5], dtype=torch.float64, requires_grad=True)
    found = soft_thresholded(raw, torch.tensor(0.25, dtype=torch.float64))
    assert found.tolist() == [0.0, 0.0, 0.0, 0.25, -0.25]
    assert torch.autograd.grad(found.sum(), raw)[0].tolist() == [0.0, 0.0, 0.0, 1.0, 1.0]


# -- what is deployed -------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def fit():
    """Thresholds that have taken a part of the weights out."""
    torch.manual_seed(0)
    prior = bp.SoftThreshold.from_paper(0.012, SIZE, init=-5.0)
    settings = bp.SoftThreshold.paper_fit(epochs=40) | {"batch_size": 20}
    return bp.fit(model_of(prior), data(), device="cpu", precision="float64", execution="plain", **settings)


def test_what_prune_returns_is_the_thresholded_weight_and_no_masked_raw_one(fit):
    result = bp.prune(fit, sparsity=fit.summary()["sparsity"])
    means = {name: value.numpy() for name, value in fit.guide.means().items()}
    for layer in (0, 2, 4):
        raw, s = means[f"{layer}.weight.raw"], means[f"{layer}.weight.s"]
        found, expected = result.network[layer].weight.detach().numpy(), soft(raw, s)
        assert found == pytest.approx(expected, rel=1e-14, abs=1e-16)
        assert np.array_equal(found == 0, np.abs(raw) <= threshold(s, "sigmoid")[0])
        masked = np.where(expected != 0, raw, 0.0)
        shrunk = np.abs(masked - found)[expected != 0]
        assert shrunk == pytest.approx(float(threshold(s, "sigmoid")[0]), rel=1e-9) and shrunk.min() > 1e-3
    x = data()[0]
    np.testing.assert_allclose(result.network(x).softmax(1).detach(), fit.predict(x, draws=1).mean, rtol=1e-12)
    assert result.report.sparsity == pytest.approx(fit.summary()["sparsity"])
    assert 0.1 < result.report.sparsity < 0.95


def test_the_event_of_points_is_whether_a_weight_is_there(fit):
    found = fit.inclusion_probabilities()
    weights = fit.included_weights()
    for name, weight in weights.items():
        assert np.array_equal(found[name].values, (weight != 0).numpy().astype(float))
    assert not all(bool((found[name] == 1).all()) for name in weights)
    by_event = bp.prune(fit, min_inclusion=0.5)
    assert by_event.report.sparsity == pytest.approx(fit.summary()["sparsity"])


def test_a_fit_is_saved_and_read_back_with_smoothed_labels(tmp_path):
    def model():
        prior = bp.SoftThreshold.from_paper(0.02, SIZE, init=-5.0, per="output")
        return bp.BayesianNetwork(network(), {"*.weight": prior}, bp.Categorical(0.1), data_size=SIZE)

    fit = bp.fit(model(), data(), steps=30, device="cpu", precision="float64")
    assert fit.summary()["likelihood"] == {"name": "categorical", "label_smoothing": 0.1}
    again = bp.Fit.load(fit.save(tmp_path / "fit"), model())
    assert again.model.likelihood.label_smoothing == 0.1
    x, y = data()
    assert again.score(x, y) == fit.score(x, y)
    assert again.guide.means().keys() == fit.guide.means().keys()
    for site, value in fit.guide.means().items():
        assert torch.equal(again.guide.means()[site], value)
    plain = bp.BayesianNetwork(network(), {"*.weight": fit.model.priors["0.weight"].hierarchy}, data_size=SIZE)
    with pytest.raises(ValueError, match="likelihood"):
        bp.Fit.load(tmp_path / "fit", plain)


def test_an_export_does_what_the_fit_does_without_bayesprune(fit, tmp_path):
    result = bp.prune(fit, sparsity=fit.summary()["sparsity"])
    x = data()[0]
    small = bp.compact(result.network, x[:2])
    folder = bp.export_network(small.network, x[:2], tmp_path / "small")
    alone = runpy.run_path(str(folder / "network.py"))["load"]()
    with torch.no_grad():
        found = alone(x)
    assert not isinstance(alone, bp.BayesianNetwork) and "raw" not in (folder / "network.py").read_text()
    np.testing.assert_allclose(found.softmax(1), fit.predict(x, draws=1).mean, rtol=1e-9)
    zeros = sum(int((p == 0).sum()) for p in alone.parameters() if p.ndim == 2)
    assert zeros > 0


# -- declarations -----------------------------------------------------------------------------------------------------


def test_tensors_of_a_network_share_one_s_that_counts_once():
    prior = bp.SoftThreshold(0.3, per="network", raw_sd=1.0)
    model = model_of(prior)
    assert sorted(model.sites) == ["*.weight.s", "0.weight.raw", "2.weight.raw", "4.weight.raw"]
    one, other = (Guide(model_of(bp.SoftThreshold(p, per="network", raw_sd=1.0))).double() for p in (0.3, 0.6))
    terms = [Objective(guide.model, guide).kl_terms() for guide in (one, other)]
    s = float(one.means()["*.weight.s"])
    expected = 0.5 * 0.3 * s**2 - 0.5 * math.log(2.0)  # twice the precision, of one number
    assert float(terms[1]["*.weight.s"] - terms[0]["*.weight.s"]) == pytest.approx(expected, rel=1e-9)


def test_a_stronger_pressure_leaves_fewer_weights():
    def left(pressure):
        fit = bp.fit(
            model_of(bp.SoftThreshold(pressure)),
            data(),
            steps=300,
            execution="plain",
            device="cpu",
            precision="float64",
        )
        return 1.0 - fit.summary()["sparsity"]

    found = [left(pressure) for pressure in (0.1, 10.0, 60.0)]
    assert found[0] > found[1] > found[2] > 0.0


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"g": "tanh"}, "SoftThreshold\\(g=...\\) takes one of sigmoid, exp, not 'tanh'"),
        ({"per": "weight"}, "SoftThreshold\\(per=...\\) takes one of layer, output, network, not 'weight'"),
        ({"pressure": 0.0}, "SoftThreshold\\(pressure=...\\) must be positive, not 0.0"),
        ({"pressure": -1.0}, "must be positive, not -1.0"),
        ({"raw_sd": 0.0}, "SoftThreshold\\(raw_sd=...\\) must be positive, not 0.0"),
        ({"init": math.nan}, "init"),
        ({"init": "low"}, "init"),
        ({"init": 0.5}, "at most its mode 0, not 0.5"),
    ],
)
def test_bad_settings_are_refused_in_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message) as refused:
        bp.SoftThreshold(**settings)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight_decay": 0.0, "data_size": 5}, "needs a positive weight_decay, not 0.0"),
        ({"weight_decay": 1e-4}, "SoftThreshold.from_paper needs data_size="),
        ({"weight_decay": 1e-4, "data_size": 5, "g": "relu"}, "takes one of sigmoid, exp"),
        ({"weight_decay": 1e-4, "data_size": 5, "per": "kernel"}, "takes one of layer, output, network"),
    ],
)
def test_bad_constants_of_the_paper_are_refused_in_a_sentence(settings, message):
    with pytest.raises(ValueError, match=message):
        bp.SoftThreshold.from_paper(**settings)


def test_a_pattern_that_matches_nothing_is_refused_with_the_names_that_there_are():
    with pytest.raises(ValueError, match="the pattern 'conv\\*' matches no parameter: the network has 0.weight"):
        bp.BayesianNetwork(network(), {"conv*": bp.SoftThreshold()}, data_size=SIZE)
