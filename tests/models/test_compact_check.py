"""The comparison that stands behind every compact network: what tracing cannot follow, it sees."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.models import compact_check
from bayesprune.models.channel_counts import ChannelCounts
from bayesprune.models.compact import compact
from bayesprune.models.rounding_noise import rounding_noise
from tests.oracles.traps import silence
from tests.oracles.units_reference import Net


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def counts_unseen(monkeypatch):
    """Tracing that does not see where code computes with the number of channels."""
    monkeypatch.setattr(ChannelCounts, "follow", lambda *_: None)


@pytest.mark.usefixtures("counts_unseen")
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


@pytest.mark.usefixtures("counts_unseen")
def test_the_example_is_compared_too():
    """On random inputs all units of the second layer are cut off; on the example they are not."""

    def forward(s, x):
        h = s.a(x).relu()
        return s.b((h / h.shape[1] - 5000.0).relu())

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    with torch.no_grad():
        network.a.weight.abs_()
    silence(network.a, [1, 2])
    with pytest.raises(ValueError, match="outputs would differ"):
        compact(network, torch.full((2, 4), 1e5))
    blind = compact(network, torch.zeros(2, 4)).report  # the report says that this comparison says nothing
    assert blind.output_sd == 0.0


def outputs(network, made, x):
    return [[network(x).detach()]], [[made(x).detach()]]


def test_rounding_inside_a_network_is_no_difference():
    """A forward in float64 that works in float32 for a while differs by the rounding of float32, at any scale."""

    class Inside(nn.Module):
        def __init__(self, order):
            super().__init__()
            self.a, self.order = nn.Linear(4, 512), order

        def forward(self, x):
            h = self.a(x).float()[:, self.order]
            return (h @ torch.ones(512, 1, dtype=torch.float32)).to(x.dtype)

    network = Inside(torch.arange(512)).eval()
    other = Inside(torch.randperm(512)).eval()
    other.load_state_dict(network.state_dict())
    x = 50 * torch.randn(5, 4)
    before, after = outputs(network, other, x)
    apart = float((before[0][0] - after[0][0]).abs().max())
    sd = float(before[0][0].std())
    assert apart > 1e-8 * sd  # the rounding of float64 does not explain it
    noise = rounding_noise(lambda each: [[each(x).detach()]], network)
    assert compact_check._compare(before, after, sd, torch.float64, lambda: noise) == apart
    with pytest.raises(ValueError, match="outputs would differ"):  # control: without the network's own noise
        compact_check._compare(before, after, sd, torch.float64, lambda: 0.0)
    wrong = [[after[0][0] + 1e-2 * sd]]
    with pytest.raises(ValueError, match="outputs would differ"):  # control: what is no rounding
        compact_check._compare(before, wrong, sd, torch.float64, lambda: noise)


def test_the_noise_of_a_network_in_float64_is_that_of_float64():
    network, x = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3)).eval(), torch.randn(5, 4)
    assert 1e-18 < rounding_noise(lambda each: [[each(x).detach()]], network) < 1e-14
