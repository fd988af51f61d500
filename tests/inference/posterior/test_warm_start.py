"""Warm starts: a fit begins exactly where an earlier one ended, restart by restart, or says why it cannot."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.horseshoe import Horseshoe
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

SIZE = 30
torch.manual_seed(5)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()
NUMBERS = X[:, 0] - X[:, 1]


def model(prior, outputs=2, hidden=5, pattern="*.weight", norm=False, likelihood=None):
    torch.manual_seed(123)
    middle = nn.BatchNorm1d(hidden) if norm else nn.Identity()
    network = nn.Sequential(nn.Linear(4, hidden), middle, nn.Tanh(), nn.Linear(hidden, outputs))
    return BayesianNetwork(network, {pattern: prior}, likelihood, data_size=SIZE)


def fitted(bnn, guide=None, y=Y, **how):
    return fit(bnn, (X, y), guide, **{"steps": 6, "batch_size": 10, "device": "cpu", **how})


def standing_still(parameters):
    """An optimizer that changes nothing: what is fitted is where the fit began."""
    return torch.optim.SGD(parameters, lr=0.0)


def state(result, restart=0, buffers=True):
    one = result.restarts[restart]
    modules = {"guide": one.guide, "network": one.model.network, "likelihood": one.model.likelihood}
    found = {f"{owner}.{k}": v for owner, module in modules.items() for k, v in module.state_dict().items()}
    return {k: v.clone() for k, v in found.items() if buffers or "running" not in k and "batches" not in k}


def same(one, other):
    assert list(one) == list(other)
    return all(torch.equal(one[key], other[key]) for key in one)


CASES = {
    "points": (HALO(kappa=20.0), "map", {}),
    "mean-field": (Horseshoe(), "meanfield", {}),
    "paired": (SpikeAndSlab(0.3), "paired", {}),
    "part of the network, with buffers": (Gaussian(0.5), "meanfield", {"pattern": "3.weight", "norm": True}),
    "a likelihood that is learnt": (Gaussian(0.5), "map", {"outputs": 1, "likelihood": Normal}),
}


@pytest.mark.parametrize(("prior", "guide", "more"), CASES.values(), ids=CASES)
def test_every_restart_begins_where_its_namesake_ended(prior, guide, more):
    more = {**more, "likelihood": more["likelihood"]() if "likelihood" in more else None}
    y = NUMBERS if more["likelihood"] else Y
    earlier = fitted(model(prior, **more), guide, y, restarts=2, learning_rate=0.05)
    before = [state(earlier, number) for number in range(2)]
    warm = fitted(model(prior, **more), guide, y, restarts=2, start=earlier, optimizer=standing_still)
    cold = fitted(model(prior, **more), guide, y, restarts=2, optimizer=standing_still)
    for number in range(2):
        begun = state(warm, number, buffers=False)  # batch normalisation goes on in training mode
        assert same(begun, state(earlier, number, buffers=False))
        assert not same(begun, state(earlier, 1 - number, buffers=False))
        assert not same(begun, state(cold, number, buffers=False))
        assert same(state(earlier, number), before[number])  # the earlier fit is left as it was
    assert warm.settings["warm_start"] and not earlier.settings["warm_start"]


def test_buffers_go_on_from_those_of_the_earlier_fit():
    bnn = model(Gaussian(0.5), norm=True, pattern="3.weight")
    earlier = fitted(bnn)
    warm = fitted(bnn, start=earlier)
    assert int(warm.model.network[1].num_batches_tracked) == 12
    assert int(fitted(bnn).model.network[1].num_batches_tracked) == 6


def test_two_halves_of_gradient_descent_are_the_whole():
    """Plain gradient descent on all the data has no memory, so that going on is the same as not having stopped."""
    how = {
        "guide": "map", "batch_size": SIZE, "precision": "float64", "schedule": "constant", "kl_warmup": 0.0,
        "optimizer": lambda groups: torch.optim.SGD(groups, lr=0.05),
    }  # fmt: skip
    bnn = model(Gaussian(0.5))
    whole = fitted(bnn, steps=10, **how)
    half = fitted(bnn, steps=5, **how)
    both = fitted(bnn, steps=5, start=half, **how)
    for key, value in state(whole).items():
        torch.testing.assert_close(state(both)[key], value, rtol=0, atol=1e-13)
    moved = [key for key, value in state(whole).items() if not torch.allclose(state(half)[key], value, atol=1e-4)]
    assert "guide.families.0.location" in moved  # control: half of the way is not the whole


def test_another_precision_begins_at_the_same_numbers():
    earlier = fitted(model(Gaussian(0.5)))
    warm = fitted(model(Gaussian(0.5)), start=earlier, precision="float64", optimizer=standing_still)
    for key, value in state(earlier).items():
        assert state(warm)[key].dtype == torch.float64
        assert torch.equal(state(warm)[key], value.double())


def test_the_knob_of_the_prior_may_differ():
    earlier = fitted(model(SpikeAndSlab(0.3)))
    warm = fitted(model(SpikeAndSlab(0.01)), start=earlier, optimizer=standing_still)
    assert same(state(warm), state(earlier))


REFUSED = {
    "another width": (model(Gaussian(0.5), hidden=6), None, r"sites, 0.weight is normal \(5, 4\).*normal \(6, 4\)"),
    "another guide": (model(Gaussian(0.5)), "map", r"0.weight is normal \(5, 4\), but delta \(5, 4\)"),
    "other latents": (model(Horseshoe()), None, "0.weight is normal .*, but not there in the model"),
    "fewer weights with a prior": (model(Gaussian(0.5), pattern="3.weight"), None, "0.weight is normal .* not there"),
    "other layers": (model(Gaussian(0.5), pattern="[03].weight", norm=True), None, "tensors of the network, 1.weight"),
}  # fmt: skip


@pytest.mark.parametrize(("bnn", "guide", "message"), REFUSED.values(), ids=REFUSED)
def test_another_structure_is_refused_and_the_difference_named(bnn, guide, message):
    earlier = fitted(model(Gaussian(0.5)), steps=1)
    with pytest.raises(ValueError, match=f"start= is a fit of another structure: .*{message}"):
        fitted(bnn, guide, start=earlier)


def test_priors_in_another_order_are_refused():
    """The guide of a MAP is one flat vector: in another order every number would go to another weight."""
    torch.manual_seed(0)
    square = nn.Sequential(nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False))

    class Swapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.add_module("1", nn.Linear(4, 4, bias=False))
            self.add_module("0", nn.Linear(4, 4, bias=False))

        def forward(self, x):
            return self.get_submodule("1")(self.get_submodule("0")(x))

    def of(network):
        return BayesianNetwork(network, {"*.weight": Gaussian(0.5)}, data_size=SIZE)

    earlier = fitted(of(square), "map", steps=1)
    with pytest.raises(ValueError, match="sites in another order"):
        fitted(of(Swapped()), "map", start=earlier)


def test_more_restarts_than_the_earlier_fit_has_are_refused():
    earlier = fitted(model(Gaussian(0.5)), restarts=2, steps=1)
    with pytest.raises(ValueError, match="start= has 2 restarts, but 3 are asked for"):
        fitted(model(Gaussian(0.5)), restarts=3, start=earlier)
    assert len(fitted(model(Gaussian(0.5)), restarts=1, start=earlier).restarts) == 1
