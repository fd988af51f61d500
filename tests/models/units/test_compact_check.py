"""The comparison that stands behind every compact network: what tracing cannot follow, it sees."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from bayesprune.models.tracing.channel_counts import ChannelCounts
from bayesprune.models.units.compact import compact
from bayesprune.models.units.compact_check import check
from bayesprune.models.units.output_distance import compare
from bayesprune.models.units.rounding_noise import rounding_noise
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
    assert compare(before, after, [sd], torch.float64, lambda: noise).difference == apart
    with pytest.raises(ValueError, match="outputs would differ"):  # control: without the network's own noise
        compare(before, after, [sd], torch.float64, lambda: [0.0])
    wrong = [[after[0][0] + 1e-2 * sd]]
    with pytest.raises(ValueError, match="outputs would differ"):  # control: what is no rounding
        compare(before, wrong, [sd], torch.float64, lambda: noise)


def test_the_noise_of_a_network_in_float64_is_that_of_float64():
    network, x = nn.Sequential(nn.Linear(4, 64), nn.Tanh(), nn.Linear(64, 3)).eval(), torch.randn(5, 4)
    (noise,) = rounding_noise(lambda each: [[each(x).detach()]], network)
    assert 1e-18 < noise < 1e-14


def test_the_noise_is_that_of_each_output_by_itself():
    network, x = nn.Linear(4, 3).eval(), torch.randn(5, 4)
    one, other = rounding_noise(lambda each: [[each(x).detach(), x]], network)
    assert one > 0 == other


# -- what is wrong is seen whatever number formats there are beside it ------------------------------------------


def pair(forward):
    """A network and one that differs by 0.3 in its hidden layer."""
    torch.manual_seed(0)
    network = Net(forward, a=nn.Linear(40, 30), b=nn.Linear(30, 20), c=nn.Linear(20, 3)).eval()
    network.k = 0.3
    wrong = copy.deepcopy(network)
    wrong.k = 0.0
    return network, wrong


def reordered(network):
    """The same network, its units in another order."""
    same, order = copy.deepcopy(network), torch.randperm(30)
    with torch.no_grad():
        same.a.weight.copy_(network.a.weight[order])
        same.a.bias.copy_(network.a.bias[order])
        same.b.weight.copy_(network.b.weight[:, order])
    return same


def compared(network, made):
    return check(network, made, None, torch.zeros(4, 40))


def hidden(s, x):
    return s.b(s.a(x).relu() + s.k).relu()


def in_bfloat16(s, x):
    return s.c(hidden(s, x).bfloat16().to(x.dtype))


BESIDE = {
    "nothing": lambda o, x: o,
    "bfloat16": lambda o, x: (o, x.bfloat16()),
    "large bfloat16": lambda o, x: (o, 100 * x.bfloat16()),
    "half": lambda o, x: (o, x.half()),
    "large": lambda o, x: (o, 1e6 * x),
    "many": lambda o, x: (x.half(), 1e6 * x, o, x.argmax(1)),
}


@pytest.mark.parametrize("beside", BESIDE)
def test_an_output_is_judged_by_itself_whatever_is_put_out_beside_it(beside):
    network, wrong = pair(lambda s, x: BESIDE[beside](0.01 * s.c(hidden(s, x)), x))
    with pytest.raises(ValueError, match="outputs would differ"):
        compared(network, wrong)
    assert compared(network, copy.deepcopy(network)).relative == 0.0  # control


def test_a_short_number_format_inside_hides_no_wrong_output():
    network, wrong = pair(in_bfloat16)
    with pytest.raises(ValueError, match="outputs would differ"):
        compared(network, wrong)
    same = reordered(network)  # control
    found = compared(network, same)
    assert found.relative < 0.05 and len(found.compared) == 9 and found.not_compared == {}


def test_a_difference_at_wider_inputs_is_in_the_report():
    """At small inputs the networks are the same; 0.05 of the sd passes for rounding in bfloat16, and is told."""

    def forward(s, x):
        beyond = s.k * (x.abs().amax(dim=1, keepdim=True) > 50)
        return s.c((s.b(s.a(x).relu()) + beyond).bfloat16().to(x.dtype))

    network, other = pair(forward)
    other.k = network.k + 0.1
    found = compared(network, other)
    assert found.difference == 0.0 < 1e-3 < found.relative < 0.05 and len(found.compared) == 9
    other.k = network.k + 10.0
    with pytest.raises(ValueError, match=r"outputs would differ .*batch of"):
        compared(network, other)


def test_an_output_that_is_nothing_but_rounding_is_said_to_be_not_compared():
    """The second output is what the order of a sum changes; it is not the same in a network with other units."""

    def forward(s, x):
        h = s.a(x).relu()
        g = s.b(h)
        return s.c(g), g - nn.functional.linear(h.flip(1), s.b.weight.flip(1), s.b.bias)

    network, wrong = pair(forward)
    found = compared(network, reordered(network))
    left = {name: reason for name, reason in found.not_compared.items() if "rounding" in reason}
    assert left and all(name.endswith(", output 2") for name in left)
    assert len(found.compared) == 9 and found.relative < 1e-8
    with torch.no_grad():  # control: what is no rounding in the other output
        wrong.c.bias += 1e-3
    with pytest.raises(ValueError, match=r"outputs would differ .*output 1"):
        compared(network, wrong)


def test_the_last_digit_of_an_output_in_bfloat16_is_rounding():
    """Beside a large mean it is more than their standard deviation; more than the digit is not."""
    network, _ = pair(lambda s, x: (0.1 * s.c(hidden(s, x)) + 100).bfloat16())
    made = Net(lambda s, x: (network(x).double() + s.off).bfloat16(), a=nn.Linear(1, 1)).eval()
    made.off = 0.5
    assert compared(network, made).difference == 0.5
    made.off = 2.0
    with pytest.raises(ValueError, match="outputs would differ"):
        compared(network, made)
