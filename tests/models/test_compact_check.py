"""The comparison that stands behind every compact network: what tracing cannot follow, it sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.models.compact import compact
from tests.oracles.traps import silence
from tests.oracles.units_reference import Net


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def test_a_difference_below_what_outputs_vary_is_seen_beside_a_large_bias():
    """The check measures by the outputs' spread: a bias of a million does not hide a wrong removal."""

    def forward(s, x):
        h = s.a(x).relu()
        return s.b(h / h.shape[1])

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1, 2])
    with torch.no_grad():
        network.b.bias.fill_(1e6)
        network.b.weight.mul_(1e-2)
    with pytest.raises(ValueError, match="outputs would differ"):
        compact(network, torch.zeros(2, 4))


def test_the_example_is_compared_too():
    """On random inputs all units of the second layer are cut off; on the example they are not."""

    def forward(s, x):
        h = s.a(x).relu()
        return s.b((h / h.shape[1] - 50.0).relu())

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    with torch.no_grad():
        network.a.weight.abs_()
    silence(network.a, [1, 2])
    with pytest.raises(ValueError, match="outputs would differ"):
        compact(network, torch.full((2, 4), 1000.0))
    blind = compact(network, torch.zeros(2, 4)).report  # the report says that this comparison says nothing
    assert blind.output_sd == 0.0
