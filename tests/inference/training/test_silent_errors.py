"""A network that raises an error without a word is told by the error's type, in a sentence."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp

torch.manual_seed(4)
X = torch.randn(40, 4)
Y = (X[:, 0] > 0).long()


class Choosy(nn.Module):
    """Takes four features, and says nothing of why it takes no others."""

    def __init__(self):
        super().__init__()
        self.norm, self.layer = nn.BatchNorm1d(4), nn.Linear(4, 2)

    def forward(self, x):
        if x.shape[1] != 4:
            raise ValueError
        return self.layer(self.norm(x))


def test_a_network_that_raises_without_a_word_is_told_by_the_type_of_its_error():
    model = bp.BayesianNetwork(Choosy(), {"layer.weight": bp.Gaussian()}, data_size=40)
    done = bp.fit(model, (X, Y), "meanfield", epochs=1, device="cpu")
    assert done.predict(X, draws=2).mean.shape == (40, 2)
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(40, 3\) \(ValueError\)"):
        done.predict(X[:, :3], draws=2)
    network = Choosy()
    bp.reestimate_statistics(network, (X, Y))
    with pytest.raises(ValueError, match=r"does not take inputs of shape \(40, 3\) \(ValueError\)"):
        bp.reestimate_statistics(network, (X[:, :3], Y))
