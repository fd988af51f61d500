"""Log-likelihoods of examples, observations drawn for them, and what is left out, with the reason."""

from __future__ import annotations

import json
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

import bayesprune as bp
from bayesprune.analysis.arviz import pointwise

DATA, DRAWS = 40, 150


def fitted(likelihood, x, y, outputs=1, prior=None, guide="meanfield", **how):
    torch.manual_seed(0)
    priors = {"weight": bp.Gaussian() if prior is None else prior}
    bnn = bp.BayesianNetwork(nn.Linear(x.shape[1], outputs), priors, likelihood, len(x))
    how = {"epochs": 40, "learning_rate": 0.05, "precision": "float64", "device": "cpu", "execution": "plain"} | how
    return bp.fit(bnn, (x, y), guide, **how)


def left_out(tree):
    return json.loads(tree.attrs.get("left_out", "{}"))


@pytest.fixture(scope="module")
def inputs():
    return torch.randn(DATA, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.fixture(scope="module")
def regression(inputs):
    """Targets far from standard units: 200 + 30 x_0, noise of sd 15."""
    noise = torch.randn(DATA, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    y = 200 + 30 * inputs[:, 0] + 15 * noise
    return fitted(bp.Normal(), inputs, y, epochs=200), y


def by_hand(fit, x, draws):
    """Means and noise in the units of the targets, from the four buffers of a standardised network."""
    network, weight = fit.model.network, fit.draws(draws)["weight"].numpy()
    standard = ((x - network.data_input_mean) / network.data_input_sd).numpy()
    outputs = standard @ weight[:, 0].T + float(network.bias.detach())
    shift, factor = float(network.data_output_shift), float(network.data_output_factor)
    return shift + factor * outputs.T, float(fit.model.likelihood.scale.detach())


# --------------------------------------------------------------------------------------------- what is there


def test_log_likelihoods_are_densities_in_the_units_of_the_targets(regression, inputs):
    fit, y = regression
    tree = bp.to_arviz(fit, draws=5, data=(inputs, y))
    means, sd = by_hand(fit, inputs, 5)
    found = tree["log_likelihood"]["y"]
    assert found.dims == ("chain", "draw", "example")
    np.testing.assert_allclose(found.values[0], stats.norm.logpdf(y.numpy(), means, sd), rtol=1e-9)
    np.testing.assert_allclose(found.values.sum(axis=2), tree["sample_stats"]["log_likelihood_sum"], rtol=1e-12)
    unit = float(fit.model.network.data_output_factor)
    assert unit > 10  # control: in standard units they would be others
    standard = stats.norm.logpdf(y.numpy() / unit, means / unit, sd / unit)
    assert np.abs(found.values[0] - standard).min() > 2


def test_log_likelihoods_of_counts_and_of_two_targets_are_densities_by_hand(inputs):
    counts = torch.arange(DATA) % 5
    fit = fitted(bp.Poisson(), inputs, counts, standardise=False)
    found = bp.to_arviz(fit, draws=5, data=(inputs, counts))["log_likelihood"]["y"].values[0]
    bias, weight = fit.model.network.bias.detach().numpy(), fit.draws(5)["weight"].numpy()
    rates = np.exp((inputs.numpy() @ weight.transpose(0, 2, 1) + bias)[..., 0])
    np.testing.assert_allclose(found, stats.poisson.logpmf(counts.numpy(), rates), rtol=1e-8)
    assert np.abs(found - stats.poisson.logpmf(counts.numpy()[::-1], rates)).max() > 0.1  # control
    two = torch.stack([3 * inputs[:, 0], inputs[:, 1] - 2], dim=1)
    fit = fitted(bp.Normal(), inputs, two, 2, standardise=False)
    found = bp.to_arviz(fit, draws=5, data=(inputs, two))["log_likelihood"]["y"].values[0]
    bias, weight = fit.model.network.bias.detach().numpy(), fit.draws(5)["weight"].numpy()
    means = inputs.numpy() @ weight.transpose(0, 2, 1) + bias
    each = stats.norm.logpdf(two.numpy(), means, fit.model.likelihood.scale.detach().numpy())
    np.testing.assert_allclose(found, each.sum(axis=2), rtol=1e-8)
    assert np.abs(found - each[..., 0]).max() > 0.1  # control: both targets count


def test_predictive_draws_have_the_spread_of_weights_and_noise_together(regression, inputs):
    fit, y = regression
    tree = bp.to_arviz(fit, draws=DRAWS, data=(inputs, y))
    drawn = tree["posterior_predictive"]["y"].values[0]
    means, sd = by_hand(fit, inputs, DRAWS)
    assert drawn.shape == (DRAWS, DATA)
    noise = (drawn - means) / sd
    assert abs(noise.mean()) < 4 / math.sqrt(noise.size)
    assert noise.std() == pytest.approx(1.0, abs=4 / math.sqrt(2 * noise.size))
    assert stats.kstest(noise.ravel(), "norm").pvalue > 1e-3
    np.testing.assert_array_equal(tree["observed_data"]["y"].values, y.numpy())
    assert means.std(axis=0).max() < 0.6 * sd  # control: the means alone are far narrower


def test_predictive_draws_are_the_same_at_every_call_and_leave_the_random_state_alone(regression, inputs):
    fit, y = regression
    torch.manual_seed(7)
    first = bp.to_arviz(fit, draws=3, data=(inputs, y))["posterior_predictive"]["y"].values
    after = torch.rand(())
    second = bp.to_arviz(fit, draws=3, data=(inputs, y))["posterior_predictive"]["y"].values
    np.testing.assert_array_equal(first, second)
    torch.manual_seed(7)
    assert torch.rand(()) == after
    assert (first[0, 0] != first[0, 1]).all()  # control


def test_the_draws_of_the_weights_are_those_without_the_data(regression, inputs):
    fit, y = regression
    found = [bp.to_arviz(fit, draws=5, **how)["posterior"]["weight"].values for how in ({}, {"data": (inputs, y)})]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("likelihood", "outputs", "y"),
    [
        (bp.Categorical(), 3, torch.arange(DATA) % 3),
        (bp.Bernoulli(), 1, torch.arange(DATA) % 2 == 0),
        (bp.Bernoulli(), 1, (torch.arange(DATA) % 2).double()),
        (bp.Poisson(), 1, torch.arange(DATA) % 4),
    ],
    ids=["labels", "booleans", "zeros and ones", "counts"],
)
def test_labels_and_counts_are_integers_drawn_with_their_probabilities(likelihood, outputs, y, inputs):
    fit = fitted(likelihood, inputs, y, outputs)
    tree = bp.to_arviz(fit, draws=DRAWS, data=(inputs, y))
    drawn, observed = (tree[group]["y"] for group in ("posterior_predictive", "observed_data"))
    assert drawn.dtype == observed.dtype == np.int32
    np.testing.assert_array_equal(observed.values, y.numpy().astype(int))
    with torch.no_grad():
        expected = fit.predict(inputs, draws=DRAWS).mean.numpy()
    values = drawn.values[0]
    if outputs == 3:
        values = (values[:, :, None] == np.arange(3)).astype(float)
    error = np.abs(values.mean(axis=0) - expected) / (values.std(axis=0) / math.sqrt(DRAWS) + 0.01)
    assert error.max() < 4.5
    assert np.abs(values.mean(axis=0) - expected[::-1]).max() > np.abs(values.mean(axis=0) - expected).max()  # control


def test_observations_of_several_numbers_have_a_dimension_of_targets(inputs):
    y = torch.stack([10 * inputs[:, 0], 1000 + inputs[:, 1]], dim=1)
    tree = bp.to_arviz(fitted(bp.Normal(), inputs, y, 2), draws=4, data=(inputs, y))
    assert tree["posterior_predictive"]["y"].dims == ("chain", "draw", "example", "target")
    assert tree["log_likelihood"]["y"].dims == ("chain", "draw", "example")
    assert tree["observed_data"]["y"].dims == ("example", "target")
    assert float(tree["posterior_predictive"]["y"].sel(target=1).mean()) == pytest.approx(1000, abs=5)


def test_a_map_has_as_many_observations_of_the_noise_as_draws_are_asked_for(inputs, regression):
    _, y = regression
    fit = fitted(bp.Normal(), inputs, y, prior=bp.Laplace(), guide="map", epochs=100)
    tree = bp.to_arviz(fit, draws=DRAWS, data=(inputs, y))
    assert tree["posterior"].sizes["draw"] == 1
    drawn = tree["posterior_predictive"]["y"].values[0]
    assert drawn.shape == (DRAWS, DATA)
    scale = float(fit.model.likelihood.scale.detach())
    assert drawn.std(axis=0).mean() == pytest.approx(scale, rel=0.05)
    assert left_out(tree)["log_likelihood"].startswith("all draws of this fit are alike")
    assert "log_likelihood" not in tree and "log_likelihood" not in left_out(bp.to_arviz(regression[0], draws=2))


def test_along_one_dimension_the_groups_have_it_too(regression, inputs):
    fit, y = regression
    tree = bp.to_arviz(fit, draws=3, data=(inputs, y), sample_dims=["sample"])
    for group in ("posterior", "log_likelihood", "posterior_predictive"):
        assert "sample" in tree[group].dims and "draw" not in tree[group].dims
    chains = bp.to_arviz(fit, draws=3, data=(inputs, y))
    np.testing.assert_array_equal(tree["log_likelihood"]["y"], chains["log_likelihood"]["y"].values[0])
    with pytest.raises(ValueError, match=r"sample_dims takes \('chain', 'draw'\) or 'sample', not 'draws'"):
        bp.to_arviz(fit, draws=3, sample_dims="draws")


# ------------------------------------------------------------------------------------------- what is left out


def test_large_groups_are_kept_only_if_asked_for(regression, inputs, monkeypatch):
    fit, y = regression
    monkeypatch.setattr(pointwise, "MOST", 4 * DATA)
    assert "log_likelihood" in bp.to_arviz(fit, draws=4, data=(inputs, y))  # control
    tree = bp.to_arviz(fit, draws=5, data=(inputs, y))
    for group in ("log_likelihood", "posterior_predictive"):
        assert group not in tree
        assert left_out(tree)[group] == "5 draws of 40 examples take 0 MB and more: pointwise=True keeps them"
    assert "log_p" in tree["sample_stats"] and "observed_data" in tree
    assert "log_likelihood" in bp.to_arviz(fit, draws=5, data=(inputs, y), pointwise=True)
    assert "log_likelihood" not in bp.to_arviz(fit, draws=4, data=(inputs, y), pointwise=False)
    with pytest.raises(ValueError, match="pointwise=True looks at examples, but there are none: pass data="):
        bp.to_arviz(fit, draws=4, pointwise=True)


class LogNormal(bp.Likelihood):
    """As in docs/extending.md."""

    name, is_ordered = "log-normal", True

    def distribution(self, outputs):
        return dist.LogNormal(outputs.squeeze(-1), 0.3)

    def log_prob(self, outputs, y):
        return dist.LogNormal(outputs.squeeze(-1), 0.3).log_prob(y)

    def predict(self, outputs):
        return (outputs.squeeze(-1) + 0.5 * 0.3**2).exp()

    def check(self, outputs, y):
        if outputs.shape != (len(y), 1) or not bool((y > 0).all()):
            raise ValueError("LogNormal needs outputs (N, 1) and positive targets (N,): check both")

    def scores(self, mean_prediction, y):
        return {"rmse": float((mean_prediction - y).square().mean().sqrt())}


class WithoutDistribution(LogNormal):
    name = "without-distribution"

    def distribution(self, outputs):
        raise NotImplementedError("only a density is known")


class OfAnotherShape(LogNormal):
    name = "of-another-shape"

    def distribution(self, outputs):
        return dist.LogNormal(outputs, 0.3)


def test_a_likelihood_of_one_s_own_draws_observations(inputs):
    y = (inputs[:, 0]).exp()
    fit = fitted(LogNormal(), inputs, y)
    drawn = bp.to_arviz(fit, draws=DRAWS, data=(inputs, y))["posterior_predictive"]["y"].values[0]
    assert (drawn > 0).all()
    with torch.no_grad():
        expected = fit.predict(inputs, draws=DRAWS).mean.numpy()
    np.testing.assert_allclose(drawn.mean(axis=0), expected, rtol=0.15)


@pytest.mark.parametrize(
    ("likelihood", "reason"),
    [
        (WithoutDistribution(), "the likelihood without-distribution cannot (only a density is known)"),
        (OfAnotherShape(), "the likelihood of-another-shape draws shape (8, 1) where observations have (8,)"),
    ],
    ids=["none", "another shape"],
)
def test_a_likelihood_that_cannot_draw_is_left_out_with_the_reason_or_refused(likelihood, reason, inputs):
    y = (inputs[:, 0]).exp()
    fit = fitted(likelihood, inputs, y, epochs=1)
    tree = bp.to_arviz(fit, draws=3, data=(inputs, y))
    assert "posterior_predictive" not in tree and "log_likelihood" in tree
    assert left_out(tree)["posterior_predictive"] == reason


def test_what_cannot_draw_keeps_its_large_log_likelihoods_where_they_are_asked_for(inputs, monkeypatch):
    monkeypatch.setattr(pointwise, "MOST", DATA)
    y = (inputs[:, 0]).exp()
    fit = fitted(WithoutDistribution(), inputs, y, epochs=1)
    assert "log_likelihood" not in bp.to_arviz(fit, draws=3, data=(inputs, y))  # control
    tree = bp.to_arviz(fit, draws=3, data=(inputs, y), pointwise=True)
    assert tree["log_likelihood"]["y"].shape == (1, 3, DATA) and "log_likelihood" not in left_out(tree)
    reason = "the likelihood without-distribution cannot (only a density is known)"
    assert left_out(tree)["posterior_predictive"] == reason
    point = fitted(WithoutDistribution(), inputs, y, guide="map", epochs=1)
    with pytest.raises(ValueError, match=r"^pointwise=True has nothing to keep: all draws .* alike, and the l"):
        bp.to_arviz(point, draws=3, data=(inputs, y), pointwise=True)
    assert "log_likelihood" not in bp.to_arviz(point, draws=3, data=(inputs, y))


class WithoutSupport(dist.Normal):
    @property
    def support(self):
        raise NotImplementedError


class OfNoKnownSupport(bp.Normal):
    """Draws, but does not say whether whole numbers."""

    def distribution(self, outputs):
        return WithoutSupport(outputs.squeeze(-1), 1.0)


def test_a_distribution_that_does_not_say_its_support_draws_all_the_same(regression, inputs):
    fit, y = regression
    fit = fitted(OfNoKnownSupport(), inputs, y, epochs=1)
    drawn = bp.to_arviz(fit, draws=3, data=(inputs, y))["posterior_predictive"]["y"]
    assert drawn.dtype == np.float64 and drawn.shape == (1, 3, DATA)
    assert "posterior_predictive" not in left_out(bp.to_arviz(fit, draws=3, data=(inputs, y)))


def test_targets_that_the_likelihood_does_not_take_are_refused_in_its_words(regression, inputs):
    fit, y = regression
    with pytest.raises(ValueError, match=r"observations|shape"):
        bp.to_arviz(fit, draws=3, data=(inputs, y[:, None].expand(-1, 2)))


# ------------------------------------------------------------------------------------------ inclusion by tensor


@pytest.fixture(scope="module")
def mixed(inputs):
    """Three tensors: one with gates, one whose prior declares no event, one with a signed HALO."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    own = bp.Hierarchy(weight=lambda: dist.Normal(0.0, 1.0), included=None)
    priors = {"0.weight": bp.SpikeAndSlab(0.5), "2.weight": own, "4.weight": bp.HALO(kappa=20.0)}
    bnn = bp.BayesianNetwork(network, priors, data_size=DATA)
    return bp.fit(bnn, (inputs, torch.arange(DATA) % 2), "meanfield", epochs=3, device="cpu")


def test_a_tensor_without_an_event_does_not_take_it_from_the_others(mixed):
    tree = bp.to_arviz(mixed, draws=20)
    posterior, draws = tree["posterior"], mixed.draws(20)
    expected = (draws["0.weight"] != 0).sum(dim=(1, 2)).numpy()
    np.testing.assert_array_equal(posterior["0.weight.included"].values[0], expected)
    assert "2.weight.included" not in posterior
    assert "the prior on 2.weight declares no inclusion event" in left_out(tree)["2.weight.included"]
    assert "0.weight.included" not in left_out(tree)


def test_a_signed_halo_under_a_mean_field_guide_has_its_counts(mixed):
    posterior = bp.to_arviz(mixed, draws=20)["posterior"]
    factors = mixed.shrinkage_factors(draws=20)
    effective = float(posterior["4.weight.effective"].mean())
    assert effective == pytest.approx(float((1 - factors["4.weight"]).sum()), rel=1e-5)
    assert 0 <= posterior["4.weight.included"].min() <= posterior["4.weight.included"].max() <= 6


def test_gates_of_units_are_in_the_posterior_and_in_the_likelihood(inputs):
    torch.manual_seed(0)
    network, y = nn.Sequential(nn.Linear(2, 4), nn.ReLU(), nn.Linear(4, 2)), torch.arange(DATA) % 2
    bnn = bp.BayesianNetwork(
        network, {}, gates=bp.UnitGates(kappa=1e-3), data_size=DATA, example_input=inputs[:1].float()
    )
    fit = bp.fit(bnn, (inputs.float(), y), steps=1, device="cpu", execution="plain", precision="float64")
    fit.guide.gates.theta.data.fill_(0.5)
    tree, draws = bp.to_arviz(fit, draws=20, data=(inputs, y)), fit.draws(20)
    posterior, gates = tree["posterior"], draws["0.gate"].numpy()
    assert posterior["0.gate"].dims == ("chain", "draw", "0.gate.unit") and posterior["0.gate"].dtype == np.int8
    np.testing.assert_array_equal(posterior["0.gate"].values[0], gates)
    np.testing.assert_array_equal(posterior["0.gate.open"].values[0], gates.sum(axis=1))
    assert set(np.unique(gates)) == {0, 1}
    first, second = (fit.guide.means()[f"{layer}.weight"].detach().numpy() for layer in (0, 2))
    bias, last = (fit.model.network[layer].bias.detach().numpy() for layer in (0, 2))
    hidden = np.maximum(inputs.numpy() @ first.T + bias, 0.0) * gates[:, None, :]
    logits = hidden @ second.T + last
    expected = (logits - np.logaddexp(logits[..., :1], logits[..., 1:]))[:, np.arange(DATA), y.numpy()]
    np.testing.assert_allclose(tree["log_likelihood"]["y"].values[0], expected, rtol=1e-9)
    assert np.ptp(expected, axis=0).max() > 1e-3  # control: the gates matter


def test_integers_that_never_change_are_floats_for_the_sake_of_arviz_s_histograms(regression, inputs):
    _, y = regression
    fit = fitted(bp.Normal(), inputs, y, prior=bp.SpikeAndSlab(0.5), guide="paired", epochs=30)
    (family,) = fit.guide.families
    with torch.no_grad():
        family.logit.copy_(torch.tensor([50.0, 0.0]))
    gates = bp.to_arviz(fit, draws=50)["posterior"]["weight.z"]
    assert gates.dtype == np.int8  # control: one of them changes
    with torch.no_grad():
        family.logit.copy_(torch.tensor([50.0, -50.0]))
    gates = bp.to_arviz(fit, draws=50)["posterior"]["weight.z"]
    assert gates.dtype == np.float64 and (gates.values == [[1.0, 0.0]]).all()
