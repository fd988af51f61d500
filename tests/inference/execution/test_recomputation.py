"""Checkpointed layers: refused where their weights are drawn, since gradients would be wrong; right elsewhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.utils.checkpoint import checkpoint

from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.priors.gaussian import Gaussian
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab

# what PyTorch says of its older form where no gradients are recorded
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")
SIZE = 24
torch.manual_seed(3)
X = torch.randn(SIZE, 30)
Y = (X[:, 0] > 0).long()


class Checkpointed(nn.Module):
    """Two layers, of which some run again in the backward pass."""

    def __init__(self, again, reentrant=False):
        super().__init__()
        self.first, self.middle, self.last = nn.Linear(30, 25), nn.Linear(25, 25), nn.Linear(25, 2)
        self.again, self.reentrant = again, reentrant

    def forward(self, x):
        h = self.first(x).tanh()
        for name in ("middle", "last"):
            layer = getattr(self, name)
            h = checkpoint(layer, h, use_reentrant=self.reentrant) if name in self.again else layer(h)
        return h


def fitted(network, prior, execution, pattern="*.weight", **more):
    model = BayesianNetwork(network, {pattern: prior}, data_size=SIZE)
    return fit(model, (X, Y), steps=4, batch_size=12, execution=execution, device="cpu", compiled=False, **more)


@pytest.mark.parametrize(
    ("reentrant", "execution"), [(False, "plain"), (False, "auto"), (False, "fused"), (True, "plain")]
)
@pytest.mark.parametrize(("prior", "drawn"), [(SpikeAndSlab(), None), (SpikeAndSlab(), False), (Gaussian(), True)])
def test_layers_whose_weights_are_drawn_may_not_run_again(prior, drawn, reentrant, execution):
    with pytest.raises(ValueError, match=r"runs layers again in its backward pass .* last\.weight .*: leave out"):
        fitted(Checkpointed(["last"], reentrant), prior, execution, local_reparameterisation=drawn)


@pytest.mark.parametrize("reentrant", [False, True])
def test_layers_without_a_prior_may_and_the_fit_is_the_same(reentrant):
    found = []
    for again in ([], ["middle"]):
        torch.manual_seed(1)
        network = Checkpointed(again, reentrant)
        found.append(fitted(network, Gaussian(), "plain", "last.weight").restarts[0].guide.state_dict())
    plain, again = found
    assert all(torch.equal(plain[name], again[name]) for name in plain)


def test_gradients_would_be_wrong_without_a_word():
    network = Checkpointed(["last"])
    weights = {name: torch.randn_like(value).requires_grad_() for name, value in network.named_parameters()}

    def gradient():
        loss = functional_call(network, weights, (X,)).square().sum()
        return torch.autograd.grad(loss, weights["first.weight"])[0]

    again, network.again = gradient(), []
    assert not torch.allclose(again, gradient(), rtol=0.1)
