"""The diagonal Laplace approximation of a trained network: exact where it can be, and good for pruning elsewhere."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.inclusion.reduction import evidence_change, reduced_inclusion, reduction
from bayesprune.inference.pruning.prune import keep_highest, masked_network
from bayesprune.inference.training.laplace_around import diagonal_ggn, laplace_around
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli, Categorical
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.normal import Normal
from tests.oracles import reduction_reference as exact
from tests.oracles import spike_and_slab_reference as spike

PROBLEM = spike.orthogonal_problem()
X, Y = torch.as_tensor(PROBLEM.x), torch.as_tensor(PROBLEM.y)


def regression(weights):
    layer = nn.Linear(X.shape[1], 1, bias=False, dtype=torch.float64)
    with torch.no_grad():
        layer.weight.copy_(torch.as_tensor(weights).reshape(1, -1))
    return layer


def around(weights, **more):
    return laplace_around(regression(weights), (X, Y), Normal(PROBLEM.noise_sd), PROBLEM.slab_sd, **more)


def guide_of(fit):
    (family,) = fit.guide.families
    return family.location.detach().numpy(), family.log_scale.detach().exp().numpy()


# -- a linear regression with orthogonal features ------------------------------------------------------------

LEAST_SQUARES = np.linalg.lstsq(PROBLEM.x, PROBLEM.y, rcond=None)[0]
MEAN, COVARIANCE = exact.posterior(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, PROBLEM.slab_sd)
DECAY = 1.0 / (len(PROBLEM.y) * PROBLEM.slab_sd**2)  # the prior's precision as the optimizer of a mean loss has it


@pytest.mark.parametrize(
    ("weights", "decay", "other"),
    [(MEAN, None, 0.0), (MEAN, DECAY, 0.0), (LEAST_SQUARES, 0.0, None)],
    ids=["the mode", "ridge", "least squares"],
)
def test_it_is_the_exact_posterior_whether_or_not_the_network_was_trained_with_the_prior(weights, decay, other):
    location, sd = guide_of(around(weights, weight_decay=decay))
    np.testing.assert_allclose(location, MEAN, rtol=0, atol=1e-11)
    np.testing.assert_allclose(sd, np.diag(COVARIANCE) ** 0.5, rtol=0, atol=1e-11)
    wrong, _ = guide_of(around(weights, weight_decay=other))  # control: told otherwise
    assert np.abs(wrong - MEAN).max() > 1e-4


def test_reduction_of_a_trained_network_is_the_difference_of_two_log_evidences():
    fitted = around(LEAST_SQUARES, weight_decay=0.0)
    expected = exact.exact_changes(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, PROBLEM.slab_sd)
    found = evidence_change(fitted)["weight"].values[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)
    pips = reduced_inclusion(fitted, PROBLEM.inclusion)["weight"].values[0]
    np.testing.assert_allclose(pips, spike.enumerate_posterior(PROBLEM).pips, rtol=0, atol=1e-9)
    half = evidence_change(around(LEAST_SQUARES, weight_decay=0.0, examples=40))["weight"].values[
        0
    ]  # control: half of the data
    assert np.abs(half - expected).max() > 1e-2


def test_its_elbo_is_the_log_evidence():
    summary = around(MEAN).summary()
    sds = np.full(X.shape[1], PROBLEM.slab_sd)
    evidence = exact.log_marginal(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, sds)
    assert summary["elbo"] == pytest.approx(evidence, abs=1e-8)
    assert around(0.9 * MEAN).summary()["elbo"] < evidence - 0.1  # control: not at the optimum


def test_a_weight_decay_of_torch_s_optimizer_is_the_one_that_is_meant():
    layer, decay = regression(np.zeros(X.shape[1])), 0.05
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.2, weight_decay=decay)
    for _ in range(2000):
        optimizer.zero_grad()
        (-Normal(PROBLEM.noise_sd).log_prob(layer(X), Y).mean()).backward()
        optimizer.step()
    found = around(layer.weight.detach(), weight_decay=decay)
    np.testing.assert_allclose(guide_of(found)[0], MEAN, rtol=0, atol=1e-10)
    assert np.abs(guide_of(around(layer.weight.detach()))[0] - MEAN).max() > 1e-3  # control: decay not told


# -- the curvature -------------------------------------------------------------------------------------------


def small_classifier():
    torch.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.BatchNorm1d(4), nn.Linear(4, 3)).double()


def ggn(network, x, y, likelihood, examples=1000):
    names = {name: bp.Gaussian() for name, parameter in network.named_parameters() if parameter.ndim > 1}
    model = bp.BayesianNetwork(network, names, likelihood, len(x))
    return diagonal_ggn(model, Batches((x, y), 16, torch.device("cpu"), torch.float64), examples)


def test_the_curvature_of_a_classifier_is_its_fisher_information_label_by_label():
    network = small_classifier().eval()
    x, y = torch.randn(70, 3, dtype=torch.float64), torch.arange(70) % 3  # more than one part of the data
    found = ggn(network, x, y, Categorical())
    expected = exact.fisher_by_enumeration(network, x)
    empirical = exact.fisher_by_enumeration(network, x, lambda i: [int(y[i])])
    for name, value in found.items():
        torch.testing.assert_close(value, expected[name], rtol=1e-10, atol=1e-14)
        assert not torch.allclose(value, empirical[name], rtol=1e-2)  # control: the observed labels alone
    assert set(found) == {"0.weight", "3.weight"}


@pytest.mark.parametrize(
    ("likelihood", "y", "curvature"),
    [
        (Bernoulli(), torch.tensor([0, 1, 1, 0, 1]), lambda f: f.sigmoid() * (1 - f.sigmoid())),
        (Poisson(), torch.tensor([0, 2, 1, 4, 0]), lambda f: f.exp()),
        (Normal(0.3), torch.randn(5, dtype=torch.float64), lambda f: torch.full_like(f, 1 / 0.09)),
    ],
    ids=["bernoulli", "poisson", "normal"],
)
def test_the_curvature_of_one_output_is_its_textbook_formula(likelihood, y, curvature):
    torch.manual_seed(1)
    layer, x = nn.Linear(4, 1, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    expected = (curvature(layer(x).detach()) * x.square()).mean(0)
    found = ggn(layer, x, y, likelihood)["weight"][0]
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)
    fewer = ggn(layer, x, y, likelihood, examples=4)["weight"][0]
    assert not torch.allclose(fewer, expected, rtol=1e-3)


def test_a_loader_gives_what_the_tensors_give():
    network = small_classifier()
    x, y = torch.randn(70, 3, dtype=torch.float64), torch.arange(70) % 3
    loader = DataLoader(TensorDataset(x, y), batch_size=32, shuffle=True)
    from_tensors, from_loader = (laplace_around(network, data) for data in ((x, y), loader))
    state = torch.random.get_rng_state()
    laplace_around(network, loader)
    assert torch.equal(state, torch.random.get_rng_state())
    for ours, theirs in zip(guide_of(from_tensors), guide_of(from_loader), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-9)


def test_of_a_loader_the_first_examples_are_taken_and_no_more():
    network, likelihood = small_classifier(), Categorical()
    x, y = torch.randn(70, 3, dtype=torch.float64), torch.arange(70) % 3
    model = bp.BayesianNetwork(network, {"0.weight": bp.Gaussian()}, likelihood, 70)
    loader = Batches(DataLoader(TensorDataset(x, y), batch_size=32), 32, torch.device("cpu"), torch.float64)
    found = diagonal_ggn(model, loader, examples=40)["0.weight"]
    torch.testing.assert_close(found, ggn(network, x[:40], y[:40], likelihood)["0.weight"], rtol=1e-12, atol=1e-15)
    more = ggn(network, x[:64], y[:64], likelihood)["0.weight"]  # control: both batches whole
    assert not torch.allclose(found, more, rtol=1e-3)


# -- a network trained elsewhere -----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def digits():
    x, y = load_digits(return_X_y=True)
    x, y = torch.as_tensor(x / 16.0, dtype=torch.float32), torch.as_tensor(y)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    return x[order[:1200]], y[order[:1200]], x[order[1200:]], y[order[1200:]]


@pytest.fixture(scope="module")
def trained(digits):
    x, y = digits[:2]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.5, weight_decay=1e-3)
    for _ in range(300):
        optimizer.zero_grad()
        nn.functional.cross_entropy(network(x), y).backward()
        optimizer.step()
    return network


def accuracy(network, digits):
    return float((network(digits[2]).argmax(-1) == digits[3]).float().mean())


def test_a_network_trained_elsewhere_is_pruned_to_80_percent_and_still_reads_digits(digits, trained):
    before = {name: value.clone() for name, value in trained.state_dict().items()}
    fitted = laplace_around(trained, digits[:2])
    assert all(torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    pruned = bp.prune(fitted, sparsity=0.8, criterion=reduction)
    assert pruned.report.sparsity == pytest.approx(0.8, abs=1e-3)
    weights = fitted.included_weights()
    chance = []
    for seed in range(5):
        torch.manual_seed(seed)
        masks = keep_highest({name: torch.rand_like(w) for name, w in weights.items()}, 0.8, "network")
        chance.append(accuracy(masked_network(trained, weights, masks), digits))
    assert accuracy(trained, digits) > 0.93
    assert accuracy(pruned.network, digits) > 0.85  # seen: 0.915 of 0.958
    assert max(chance) < 0.5  # seen: 0.1 to 0.3
    # A prior much wider than the weights makes the evidence ask for their removal, and spoils the order too.
    wide = laplace_around(trained, digits[:2], prior_sd=3.0)
    assert accuracy(bp.prune(wide, sparsity=0.8, criterion=reduction).network, digits) < 0.6
    assert asked_for(wide) < 0.4 < 0.7 < asked_for(fitted)


def asked_for(fitted):
    """The share of the first layer's weights whose probability of being needed is above a half."""
    return float((reduced_inclusion(fitted)["0.weight"] > 0.5).mean())


def test_pixels_that_are_always_empty_are_left_to_the_prior_where_no_decay_was_at_work(digits, trained):
    empty = (digits[0] == 0).all(0).numpy()
    assert empty.sum() > 0
    left = evidence_change(laplace_around(trained, digits[:2], weight_decay=0.0))["0.weight"].values
    np.testing.assert_allclose(left[:, empty], 0.0, atol=1e-6)  # they say nothing, for or against
    assert np.abs(left[:, ~empty]).max() > 1.0
    mode = evidence_change(laplace_around(trained, digits[:2]))["0.weight"].values
    weight, sd = trained[0].weight.detach().double().numpy(), (2.0 / 64.0) ** 0.5
    np.testing.assert_allclose(mode[:, empty], -0.5 * (weight[:, empty] / sd) ** 2, atol=1e-6)  # taken at their word
    assert np.abs(mode[:, empty]).max() > 0.1


def test_the_result_is_a_fit_like_any_other(tmp_path, digits, trained):
    fitted = laplace_around(trained, digits[:2], prior_sd={"0.weight": 0.2, "2.weight": 0.3})
    summary = fitted.summary()
    assert summary["epochs"] == 0 and np.isfinite(summary["elbo"]) and "Laplace" in summary["method"]
    scores = fitted.score(digits[2], digits[3], draws=8)
    assert scores["accuracy"] > 0.9
    model = bp.BayesianNetwork(trained, {"0.weight": bp.Gaussian(0.2), "2.weight": bp.Gaussian(0.3)}, data_size=1200)
    back = bp.Fit.load(fitted.save(tmp_path / "fit"), model)
    for name, value in evidence_change(fitted).items():
        np.testing.assert_array_equal(evidence_change(back)[name].values, value.values)
    assert not np.allclose(
        evidence_change(laplace_around(trained, digits[:2], prior_sd=0.2))["2.weight"].values,
        evidence_change(fitted)["2.weight"].values,
    )


# -- refusals ------------------------------------------------------------------------------------------------


class Cauchy(Normal):
    """Noise with heavy tails: not log-concave."""

    name = "cauchy"

    def log_prob(self, outputs, y):
        return -torch.log1p((y - outputs.squeeze(-1)).square())


class Broken(nn.Linear):
    def forward(self, x):
        return super().forward(x).abs().sqrt()  # no derivative at zero


class Unlabelled:
    """A loader that tells how many batches it has, but not of how many examples."""

    def __len__(self):
        return 1

    def __iter__(self):
        return iter([(torch.randn(5, 4), torch.randn(5))])


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"likelihood": Normal()}, "parameter to learn"),
        ({"likelihood": Cauchy(1.0)}, "not log-concave"),
        ({"weight_decay": -1.0}, "weight_decay"),
        ({"weight_decay": float("nan")}, "weight_decay"),
        ({"examples": 0}, "examples"),
        ({"prior_sd": -1.0}, "must be positive"),
        ({"prior_sd": {"fc": 1.0}}, "matches no parameter"),
        ({"data_size": 7}, "data_size=7"),
        ({"network": nn.Linear(9, 1)}, "does not take inputs"),
        ({"network": nn.BatchNorm1d(4)}, "no parameter with two dimensions"),
        ({"data": Unlabelled()}, "data_size="),
    ],
)
def test_what_it_cannot_do_is_refused_in_one_sentence(more, said):
    torch.manual_seed(0)
    given = {"network": nn.Linear(4, 1), "data": (torch.randn(5, 4), 5.0 * torch.randn(5)), "likelihood": Normal(1.0)}
    with pytest.raises(ValueError, match=said) as refused:
        laplace_around(**{**given, **more})
    assert "\n" not in str(refused.value)


def test_a_curvature_that_is_not_finite_is_refused():
    network = Broken(4, 1)
    nn.init.zeros_(network.weight)
    nn.init.zeros_(network.bias)
    with pytest.raises(ValueError, match="curvature of weight is not finite"):
        laplace_around(network, (torch.randn(5, 4), torch.randn(5)), Normal(1.0))


def test_the_likelihood_of_the_refusal_is_one():
    assert issubclass(Cauchy, Likelihood)
