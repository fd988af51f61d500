"""The dense gradient of the weights that a step gives: that of the likelihood at the weights the network ran with."""

from __future__ import annotations

import copy

import pyro.distributions as dist
import pytest
import torch
from torch import nn
from torch.func import functional_call

from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.execution.weight_gradient import with_shifts
from bayesprune.inference.objective.latent_gate_estimators import antithetic
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.latent import Latent
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.halo import HALO
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from tests.oracles.plain_path import apart, batch_for, distance, mlp, objective_of, state_of

TIGHT = 1e-12
KINDS = {
    "a weight that is a latent, whose prior pulls at it": (Gaussian(), "map", {}),
    "a drawn weight": (Gaussian(), "meanfield", {}),
    "a term from the draw": (Hierarchy(weight=lambda: dist.StudentT(4.0, 0.0, 1.0)), "meanfield", {}),
    "scales": (HALO(), "meanfield", {}),
    "gates": (SpikeAndSlab(), None, {}),
    "two evaluations a draw": (SpikeAndSlab(), None, {"latent_gates": antithetic}),
    "particles": (Gaussian(), "meanfield", {"particles": 3}),
    "a product": (
        Hierarchy(raw=Latent(lambda: dist.Normal(0.0, 1.0)), weight=lambda raw: torch.tanh(raw)), "meanfield", {},
    ),
}  # fmt: skip


class Watched(nn.Module):
    """A network that notes the weights it is run with."""

    def __init__(self, network):
        super().__init__()
        self.inner, self.seen = network, []

    def forward(self, x):
        self.seen.append({n: p.detach().clone() for n, p in self.named_parameters()})
        return self.inner(x)


def by_hand(network, seen, x, y, size, names):
    """Mean over the weights that were run with of the gradient of the mean loss of an example."""
    total = dict.fromkeys(names, 0.0)
    for weights in seen:
        own = {n: w.clone().requires_grad_() for n, w in weights.items()}
        outputs = functional_call(network, own, (x,))
        loss = nn.functional.cross_entropy(outputs, y)
        found = torch.autograd.grad(loss, [own[n] for n in names])
        total = {n: total[n] + g / size for n, g in zip(names, found, strict=True)}
    return total


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_it_is_that_of_the_likelihood_at_the_weights_of_the_step(kind, execution):
    prior, guide, more = KINDS[kind]
    watched = Watched(mlp())
    objective = objective_of({"inner.a*.weight": prior}, guide, watched, **more)
    network = objective.model.network
    optimizer = make_optimizer("adam", objective, 0.01)
    x, y = batch_for(nn.Sequential())
    stepper = Stepper(objective, optimizer, 10, execution, compiled=False, clip=1e-3)
    stepper.step(x, y, 0.5)
    network.seen.clear()
    twin = copy.deepcopy((objective, optimizer))
    torch.manual_seed(3)
    terms, found = stepper.step(x, y, 0.5, weight_gradient=True)
    seen = list(network.seen)
    assert len(seen) == {"particles": 3, "two evaluations a draw": 2}.get(kind, 1)
    names = list(objective.model.priors)
    expected = by_hand(copy.deepcopy(network), seen, x, y, len(seen), names)
    assert found.keys() == expected.keys()
    for name in names:
        assert distance(found[name], expected[name]) < TIGHT, name
    # It is a step as any other: the same numbers as one that was not asked.
    plain = Stepper(*twin, 10, "plain", clip=1e-3)
    torch.manual_seed(3)
    same = plain.step(x, y, 0.5)
    assert float(same.loss) == float(terms.loss)
    stepper.finish()
    assert apart(state_of(objective, optimizer), state_of(*twin)) < TIGHT
    # The controls: of one evaluation only, or of the loss with the prior's pull.
    if len(seen) > 1:
        assert any(distance(found[n], by_hand(network, seen[:1], x, y, 1, names)[n]) > 1e-3 for n in names)
    assert any(distance(found[n], 0.5 * expected[n]) > 1e-3 for n in names)


def test_tied_weights_have_one_gradient_and_the_network_gets_its_own_back():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.other = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.other.weight = self.one.weight

        def forward(self, x):
            return self.other(torch.tanh(self.one(x)))

    network = Tied().double()
    before = network.one.weight
    x = torch.randn(5, 4, dtype=torch.float64)
    with with_shifts(network, ["one.weight"]) as shifts:
        network(x).square().sum().backward()
        assert network.other.weight is before
        with pytest.raises(RuntimeError):
            network(torch.randn(5, 3))
        assert network.one.weight is before
    assert torch.equal(shifts["one.weight"].grad, before.grad)
    network(x)
    assert not network._forward_hooks and not network._forward_pre_hooks


def test_layers_that_would_draw_their_outputs_draw_weights_in_that_step():
    objective = objective_of(Gaussian(), "meanfield", local_reparameterisation=True)
    stepper = Stepper(objective, make_optimizer("adam", objective, 0.01), 10, "plain")
    _, found = stepper.step(*batch_for(objective.model.network), 1.0, weight_gradient=True)
    assert all(float(gradient.abs().max()) > 0 for gradient in found.values())


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_terms_have_no_graph_and_stay_as_they_are(execution):
    objective = objective_of({"a*.weight": HALO()}, "meanfield")
    stepper = Stepper(objective, make_optimizer("adam", objective, 0.01), 10, execution, compiled=False)
    x, y = batch_for(objective.model.network)
    terms = stepper.step(x, y, 1.0)
    parts = [terms.loss, terms.log_likelihood, terms.kl, terms.outputs, *terms.kl_of.values()]
    assert not any(part.requires_grad for part in parts)
    before = [part.clone() for part in parts]
    later = stepper.step(x, y, 1.0)
    assert all(torch.equal(part, value) for part, value in zip(parts, before, strict=True))
    assert float(later.loss) != float(terms.loss)
