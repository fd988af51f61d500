"""Scores that read sparse training as inference: Bayes factors, curvature, signal to noise, inclusion."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.masks.bayesian_scores import log_bayes_factor, slab_sd_of
from bayesprune.inference.masks.curvature import fisher_of_batch
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.exchange import grown, kept
from bayesprune.inference.masks.scores import DROP, GROW, Seen
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.masks.mask_way import Masks
from bayesprune.models.priors.continuous_spike_and_slab import ScheduledSpikeAndSlab
from tests.oracles.tempered_inclusion import inclusion, size_to_noise, squares_one_by_one
from tests.oracles.tempered_inclusion import log_bayes_factor as by_quadrature

RANDOM = torch.Generator().manual_seed(5)
X = torch.randn(40, 6, generator=RANDOM, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()


def network(*layers):
    torch.manual_seed(1)
    return nn.Sequential(*layers or (nn.Linear(6, 12), nn.ReLU(), nn.Linear(12, 2))).double()


def model(prior=None, net=None, masked=True):
    bnn = bp.BayesianNetwork(net or network(), {"*.weight": prior or bp.Gaussian(0.5)}, data_size=400).double()
    if masked:
        random = torch.Generator().manual_seed(3)
        bnn.ways.append(
            Masks({name: torch.rand(bnn.priors[name].shape, generator=random) < 0.5 for name in bnn.matrices})
        )
    return bnn


def seen_by(guide, gradient=None, density=0.3):
    """What an update would see."""
    bnn = guide.model
    masks = dict(bnn.ways[0].masks.items())
    slices = {}
    for family in guide.families:
        for piece in family.slices():
            slices.setdefault(piece.site.name, []).append((getattr(family, piece.parameter), piece))
    run = SimpleNamespace(objective=SimpleNamespace(guide=guide, model=bnn), slices=slices.__getitem__)
    taken = SimpleNamespace(x=X, y=Y, step=1)
    return Seen(run, taken, masks, gradient, dict.fromkeys(masks, density))


# -- Bayes factors -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("slab", [0.05, 0.5, 3.0])
@pytest.mark.parametrize("curvature", [0.0, 0.7, 150.0])
@pytest.mark.parametrize("gradient", [0.0, -2.0, 35.0])
def test_the_bayes_factor_is_the_ratio_of_the_evidences(gradient, curvature, slab):
    found = float(log_bayes_factor(torch.tensor(gradient).double(), torch.tensor(curvature, dtype=torch.float64), slab))
    assert found == pytest.approx(by_quadrature(gradient, curvature, slab), rel=1e-8, abs=1e-9)


def test_a_bayes_factor_with_the_slab_s_precision_left_out_is_another():
    """Control: g^2 / 2h, as it is for a flat slab."""
    exact = by_quadrature(3.0, 2.0, 0.5)
    assert abs(9.0 / (2.0 * 2.0) - 0.5 * np.log1p(0.25 * 2.0) - exact) > 0.5


def test_of_one_curvature_bayes_factors_are_in_the_order_of_gradients():
    g = torch.randn(5000, generator=RANDOM)
    flat = log_bayes_factor(g, torch.tensor(13.0), 0.4)
    assert torch.equal(flat.argsort(), g.abs().argsort())
    varied = log_bayes_factor(g, 13.0 * torch.rand(5000, generator=RANDOM), 0.4)
    assert not torch.equal(varied.argsort(), g.abs().argsort())  # control


@pytest.mark.parametrize("name", ["bayes-factor", "bayes-factor-flat"])
def test_growth_is_by_the_posterior_odds_in_nats_of_all_the_data(name):
    """Against the log-likelihood's own gradient, taken of all the data that the batch stands for."""
    guide = Guide(model(), "map")
    bnn, loss = guide.model, Objective(guide.model, guide)
    weights = {n: w.detach().requires_grad_() for n, w in bnn.weights_at(guide.means()).items()}
    likelihood = bnn.likelihood.log_prob(torch.func.functional_call(bnn.network, weights, (X,)), Y).mean() * 400
    true = dict(zip(weights, torch.autograd.grad(likelihood, list(weights.values())), strict=True))
    as_taken = {n: -g / bnn.data_size for n, g in true.items()}  # of the loss, divided by the number of data
    found = GROW[name].of(seen_by(guide, as_taken))
    fisher = fisher_of_batch(guide, X, Y, list(weights))
    assert loss(X, Y).item() == pytest.approx(float(loss.latest.kl) - likelihood.item(), rel=1e-9)
    for n, score in found.items():
        h = fisher[n] if name == "bayes-factor" else fisher[n].mean().expand_as(fisher[n])
        for place in ((0, 0), (1, 3)):
            expected = np.log(0.3 / 0.7) + by_quadrature(float(true[n][place]), float(h[place]), 0.5)
            assert float(score[place]) == pytest.approx(expected, rel=1e-8)
            assert abs(float(score[place]) - by_quadrature(float(true[n][place]) / 400, float(h[place]), 0.5)) > 1e-3


# -- curvature -----------------------------------------------------------------------------------------------


class Twice(nn.Module):
    """A layer that runs twice a pass."""

    def __init__(self):
        super().__init__()
        self.first, self.inner, self.last = nn.Linear(6, 5), nn.Linear(5, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.tanh(self.inner(torch.tanh(self.inner(torch.relu(self.first(x)))))))


class Positions(nn.Module):
    """A linear layer on sequences, whose gradient of one example is a sum over places."""

    def __init__(self):
        super().__init__()
        self.inner, self.last = nn.Linear(2, 5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.relu(self.inner(x.view(-1, 3, 2))).mean(1))


NETWORKS = {
    "linear": lambda: network(),
    "normalised": lambda: network(nn.Linear(6, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, 2)),
    "convolutional": lambda: network(
        nn.Unflatten(1, (1, 2, 3)), nn.Conv2d(1, 4, 2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)
    ),
    "twice": lambda: Twice().double(),
    "positions": lambda: Positions().double(),
}


@pytest.mark.parametrize("which", NETWORKS)
def test_the_curvature_is_the_mean_of_squared_gradients_of_examples(which):
    plain = NETWORKS[which]()
    guide = Guide(model(net=plain), "map")
    bnn = guide.model
    found = fisher_of_batch(guide, X, Y, bnn.matrices)
    plain.eval()
    with torch.no_grad():
        for name, weight in bnn.weights_at(guide.means()).items():
            plain.get_parameter(name).copy_(weight)
    for name in bnn.matrices:
        expected = squares_one_by_one(plain, bnn.likelihood, X, Y, name) * (400 / len(X))
        torch.testing.assert_close(found[name], expected, rtol=1e-9, atol=1e-12)
    outside = [bool((found[name] > 0)[~bnn.ways[0].masks[name]].any()) for name in bnn.matrices]
    assert any(outside)
    assert bnn.network.training and not any(one._forward_hooks for one in bnn.network.modules())


def test_squared_gradients_of_the_batch_are_no_curvature():
    """Control: what one backward pass gives for nothing is far off."""
    guide = Guide(model(), "map")
    weights = {n: w.detach().requires_grad_() for n, w in guide.model.weights_at(guide.means()).items()}
    total = guide.model.likelihood.log_prob(torch.func.functional_call(guide.model.network, weights, (X,)), Y).sum()
    slopes = torch.autograd.grad(total, list(weights.values()))
    found = fisher_of_batch(guide, X, Y, list(weights))
    ratios = [slope.square().mean() * 10.0 / found[n].mean() for n, slope in zip(weights, slopes, strict=True)]
    assert max(ratios) > 2.0


# -- the slab's width ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "guide", "sd"),
    [
        (bp.Gaussian(0.3), "map", 0.3),
        (ScheduledSpikeAndSlab(0.2, slab_sd=0.7), "map", 0.7),
        (bp.SpikeAndSlab(0.2, slab_sd=0.6), "paired", 0.6),
        (bp.Laplace(), "map", None),
        (bp.SparseVariationalDropout(), None, None),
    ],
)
def test_the_width_of_what_is_in_is_that_of_its_normal(prior, guide, sd):
    guide = Guide(model(prior), guide)
    found = slab_sd_of(guide.model.priors["0.weight"], guide.means())
    assert found is None if sd is None else float(found.max()) == pytest.approx(sd) == float(found.min())


# -- signal to noise -----------------------------------------------------------------------------------------


def test_the_score_of_ssvi_ranks_as_mean_over_sd():
    """It depends on |mean| / sd alone and grows with it: 1.3236 at 0, 3.008 at 3 (Li et al. 2024)."""
    ratios = np.concatenate([[0.0], np.geomspace(0.02, 6.0, 60)])
    scores = np.array([size_to_noise(ratio, 1.0) for ratio in ratios])
    assert (np.diff(scores) > 0.0).all()
    assert scores[0] == pytest.approx(1.3236, abs=1e-4) and size_to_noise(3.0, 1.0) == pytest.approx(3.008, abs=1e-3)
    for ratio, score in zip(ratios[::6], scores[::6], strict=True):
        assert size_to_noise(-0.04 * ratio, 0.04) == pytest.approx(score, rel=1e-7)
    random = np.random.default_rng(0)
    means, sds = random.normal(0.0, 0.1, 40), random.uniform(0.01, 0.2, 40)
    by_size = np.argsort([size_to_noise(m, s) for m, s in zip(means, sds, strict=True)])
    assert (by_size == np.argsort(abs(means) / sds)).all()
    assert (by_size != np.argsort(abs(means))).any()  # control: |mean| alone ranks otherwise


def test_the_score_is_mean_over_sd_of_each_factor():
    guide = Guide(model(), "meanfield")
    family = guide.families[0]
    with torch.no_grad():
        family.log_scale.copy_(torch.randn(family.log_scale.shape, generator=RANDOM))
    found = DROP["signal-to-noise"].of(seen_by(guide))
    for name, factor in guide.draw().items():
        fn = factor.distribution()
        torch.testing.assert_close(found[name], (fn.mean.abs() / fn.stddev).detach())
        assert not torch.allclose(found[name], fn.mean.abs().detach())


# -- inclusion -----------------------------------------------------------------------------------------------


def test_of_a_mixture_the_score_is_the_log_odds_at_the_weight():
    bnn = model(ScheduledSpikeAndSlab(0.2, slab_sd=0.5, spike_sd=0.05, annealing=0.0))
    bnn.knobs["density"].set(0.4)
    guide = Guide(bnn, "map")
    found = DROP["inclusion"].of(seen_by(guide))
    for name, weight in bnn.ungated_weights_at(guide.means()).items():
        expected = inclusion(weight.numpy(), 0.4, 0.05, 0.5)
        np.testing.assert_allclose(found[name].sigmoid().numpy(), expected, rtol=1e-9)
        assert torch.equal(found[name].flatten().argsort(), weight.abs().flatten().argsort())


def test_of_gates_it_is_the_log_odds_of_the_guide():
    guide = Guide(model(bp.SpikeAndSlab(0.2)), "paired")
    guide.vary_gates()
    found = DROP["inclusion"].of(seen_by(guide))
    for name, odds in found.items():
        assert torch.equal(odds, guide.log_odds()[f"{name}.z"]) and odds.std() > 0


def test_of_a_gate_a_row_it_is_that_of_the_row():
    guide = Guide(model(bp.SpikeAndSlab(0.2, level="output")), "paired")
    guide.vary_gates()
    odds = DROP["inclusion"].of(seen_by(guide))["0.weight"]
    assert odds.shape == (12, 6) and bool((odds == odds[:, :1]).all()) and odds[:, 0].std() > 0


# -- draws ---------------------------------------------------------------------------------------------------


def test_at_a_vanishing_temperature_masks_are_those_of_the_highest_odds():
    odds = torch.randn(30, 20, generator=RANDOM, dtype=torch.float64)
    mask = torch.rand(30, 20, generator=RANDOM) < 0.5
    for chosen in (kept, grown):
        exact = chosen(mask, odds, 60)
        assert torch.equal(chosen(mask, odds, 60, 1e-9), exact)
        assert not torch.equal(chosen(mask, odds, 60, 1.0), exact)  # control


def test_one_weight_is_drawn_with_its_odds_to_the_power_of_one_over_the_temperature():
    torch.manual_seed(0)
    odds, none = torch.tensor([0.3, -0.8, 1.1], dtype=torch.float64), torch.zeros(3, dtype=torch.bool)
    for temperature in (0.5, 1.0, 2.0):
        counts = sum(grown(none, odds, 1, temperature).double() for _ in range(4000))
        expected = (odds / temperature).softmax(0)
        error = (expected * (1.0 - expected) / 4000).sqrt()
        assert bool(((counts / 4000 - expected).abs() < 4.0 * error).all())
        assert bool(((counts / 4000 - (odds / (2.0 * temperature)).softmax(0)).abs() > 4.0 * error).any())  # control


# -- refusals ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "guide", "scores", "said"),
    [
        (bp.Gaussian(), "map", {"drop": "signal-to-noise"}, "guide='meanfield' and a prior on the weight itself"),
        (bp.SpikeAndSlab(), "paired", {"drop": "signal-to-noise"}, "signal-to-noise is"),
        (bp.Gaussian(), "map", {"drop": "inclusion"}, r"take ScheduledSpikeAndSlab\(\) or SpikeAndSlab\(\)"),
        (bp.Laplace(), "map", {"grow": "bayes-factor"}, r"take ScheduledSpikeAndSlab\(\) or Gaussian\(\)"),
        (bp.Laplace(), "map", {"grow": "bayes-factor-flat"}, "compares zero with Normal"),
    ],
)
def test_scores_refuse_what_has_them_not(prior, guide, scores, said):
    with pytest.raises(ValueError, match=said) as told:
        bp.fit(
            model(prior, masked=False),
            (X.repeat(10, 1), Y.repeat(10)),
            guide,
            rules=[DynamicMasks(density=0.3, **scores)],
            steps=4,
        )
    assert "\n" not in str(told.value)
