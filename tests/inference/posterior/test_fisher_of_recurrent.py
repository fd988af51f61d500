"""The Fisher information of recurrent networks, which vmap cannot cross, is that of their unrolled form."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import bayesprune as bp


class ByLayer(nn.Module):
    """An RNN by PyTorch's layer, and a linear layer on its last state."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.fc = nn.RNN(2, 3, batch_first=True), nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        return self.fc(self.rnn(x)[0][:, -1])


class ByHand(ByLayer):
    """The same, unrolled over the steps by hand."""

    def forward(self, x: Tensor) -> Tensor:
        rnn, state = self.rnn, x.new_zeros(len(x), 3)
        for step in range(x.shape[1]):
            inputs = x[:, step] @ rnn.weight_ih_l0.T + rnn.bias_ih_l0
            state = torch.tanh(inputs + state @ rnn.weight_hh_l0.T + rnn.bias_hh_l0)
        return self.fc(state)


@pytest.mark.parametrize("kind", [nn.RNN, nn.GRU, nn.LSTM])
def test_a_horseshoe_is_fitted_on_every_recurrent_layer(kind):
    network = ByLayer()
    network.rnn = kind(2, 3, batch_first=True)
    x, y = torch.randn(12, 4, 2), torch.arange(12) % 2
    bnn = bp.BayesianNetwork(network, {"*weight*": bp.Horseshoe()}, data_size=12)
    fit = bp.fit(bnn, (x, y), steps=2, device="cpu")
    assert set(fit.restarts[0].fisher) == set(bnn.priors)
    assert all(float(found.sum()) > 0 for found in fit.restarts[0].fisher.values())


def test_it_is_that_of_the_unrolled_network():
    x, y = torch.randn(12, 4, 2, dtype=torch.float64), torch.arange(12) % 2
    found = []
    for network in (ByLayer(), ByHand()):
        torch.manual_seed(0)
        for parameter in network.parameters():
            nn.init.normal_(parameter)
        bnn = bp.BayesianNetwork(network, {"*weight*": bp.Horseshoe()}, data_size=12)
        fit = bp.fit(bnn, (x, y), steps=1, learning_rate=1e-12, device="cpu", precision="float64")
        found.append(fit.restarts[0].fisher)
    assert found[0].keys() == found[1].keys()
    for name, value in found[0].items():
        torch.testing.assert_close(value, found[1][name], rtol=1e-8, atol=1e-12)
        assert not torch.allclose(value, torch.zeros_like(value))
