"""Networks that trace without complaint and invite wrong removals: exact on inputs of any size, or refused."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.models.units.compact import compact
from tests.oracles.traps import LARGER, MAPS, SERIES, TRAPS, VECTORS, conv, refusal, silence, trap
from tests.oracles.units_reference import Net

EXACT = 1e-10  # of the outputs' standard deviation


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


# ------------------------------------------------------------------------------------------- shapes that are moved


@trap(MAPS, LARGER, a=4, b=5, c=2)
def linear_layers_on_the_last_dimension_of_maps():
    network = Net(
        lambda s, x: s.c(s.b(s.a(x).permute(0, 2, 3, 1)).relu().permute(0, 3, 1, 2)),
        a=conv(3, 6),
        b=nn.Linear(6, 7),
        c=conv(7, 2),
    )
    silence(network.a, [1, 2])
    silence(network.b, [0, 3], 0.4)
    return network


@trap(MAPS, a=6, b=2)
def folds_the_channels_into_the_batch():
    """All channels are one dimension of a batch, and stay together."""

    def forward(s, x):
        h = s.a(x)
        n, c, height, width = h.shape
        return s.b(F.avg_pool2d(h.view(n * c, 1, height, width), 2).view(n, -1, height // 2, width // 2))

    network = Net(forward, a=conv(3, 6), b=conv(6, 2))
    silence(network.a, [1, 2])
    return network


@trap(MAPS, LARGER, a=4, b=2)
def repeats_channels():
    network = Net(
        lambda s, x: s.b(torch.cat([s.a(x).repeat(1, 2, 1, 1), s.a(x).repeat_interleave(2, 1)], 1).relu()),
        a=conv(3, 6),
        b=conv(24, 2),
    )
    silence(network.a, [1, 2])
    return network


@trap(MAPS, LARGER, a=6, m=1, b=2)
def expands_one_map_over_all_channels():
    """The map has as many channels as are written: these are then all needed."""
    network = Net(lambda s, x: s.b(s.a(x) * s.m(x).expand(-1, 6, -1, -1)), a=conv(3, 6), m=conv(3, 1), b=conv(6, 2))
    silence(network.a, [1, 2])
    return network


@trap(MAPS, LARGER, a=4, down=3, b=2)
def expands_a_scale_as_the_maps_are():
    def forward(s, x):
        h = s.a(x).relu()
        scale = torch.sigmoid(s.up(s.down(F.adaptive_avg_pool2d(h, 1).view(h.size(0), 6)).relu()))
        return s.b(h * scale.view(h.size(0), 6, 1, 1).expand_as(h))

    network = Net(forward, a=conv(3, 6), down=nn.Linear(6, 3), up=nn.Linear(3, 6), b=conv(6, 2))
    silence(network.a, [1, 2])
    return network


@trap(VECTORS, a=6, b=3)
def takes_a_softmax_over_channels():
    network = Net(lambda s, x: s.b(s.a(x).softmax(1)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1, 2])
    return network


@trap(VECTORS, a=6, b=3)
def picks_single_channels():
    network = Net(
        lambda s, x: s.b(s.a(x)[:, ::2]) + s.a(x)[:, 0:1] + s.a(x)[:, -1, None], a=nn.Linear(4, 6), b=nn.Linear(3, 3)
    )
    silence(network.a, [1, 2])
    return network


@refusal(VECTORS, "indexing by a tensor")
def picks_channels_by_a_list():
    network = Net(lambda s, x: s.b(s.a(x)[:, [0, 2]]), a=nn.Linear(4, 6), b=nn.Linear(2, 3))
    silence(network.a, [1, 2])
    return network


@trap(MAPS, LARGER, a=4, b=2)
def turns_the_channels_round():
    network = Net(lambda s, x: s.b(s.a(x) + s.a(x).flip(1)), a=conv(3, 6), b=conv(6, 2))
    silence(network.a, [1, 2, 4])
    return network


@trap(VECTORS, a=4, b=3)
def gates_one_half_by_the_other():
    network = Net(lambda s, x: s.b(F.glu(s.a(x), 1)), a=nn.Linear(4, 6), b=nn.Linear(3, 3))
    silence(network.a, [1])
    return network


@trap(VECTORS, a=3, b=5, c=2)
def takes_an_outer_product():
    network = Net(
        lambda s, x: s.c((s.a(x).unsqueeze(2) * s.b(x).unsqueeze(1)).flatten(1)),
        a=nn.Linear(4, 3),
        b=nn.Linear(4, 5),
        c=nn.Linear(15, 2),
    )
    silence(network.a, [0])
    silence(network.b, [1])
    return network


@trap(SERIES, [(9, 4)], a=4, b=3)
def normalises_over_time_and_reads_the_last_step():
    network = Net(
        lambda s, x: s.b(s.norm(s.a(x).transpose(1, 2)).transpose(1, 2)[:, -1]),
        a=nn.Linear(4, 6),
        norm=nn.BatchNorm1d(6),
        b=nn.Linear(6, 3),
    )
    silence(network.norm, [1, 2], 0.3)
    return network


# ----------------------------------------------------------------------------------------------- constants, numbers


@trap(MAPS, LARGER, a=4, b=2)
def pools_negative_constants_with_padding():
    """Maximum pooling pads with minus infinity: the constant -0.8 stays what it is."""
    network = nn.Sequential(conv(3, 6), nn.MaxPool2d(3, 2, 1), conv(6, 2))
    silence(network[0], [1, 2], -0.8)
    return Net(lambda s, x: s.b(s.pool(s.a(x))), a=network[0], pool=network[1], b=network[2])


@trap(VECTORS, a=4, b=3)
def rounds_constants_to_whole_numbers():
    network = Net(lambda s, x: s.b(s.a(3 * x).to(torch.int64).to(torch.float64)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1, 2], 1.7)
    return network


@refusal(VECTORS, "outputs are not finite")
def has_constants_that_are_no_numbers():
    network = Net(lambda s, x: s.b(torch.log(s.a(x)).abs().clamp(0, 1)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1], -1.0)
    return network


@trap(VECTORS, a=5, b=3)
def has_constants_that_rounding_makes_look_different():
    network = Net(
        lambda s, x: s.b(F.avg_pool1d(s.a(x.unsqueeze(2).repeat(1, 1, 7)), 3, 1).mean(2)),
        a=nn.Conv1d(4, 6, 1),
        b=nn.Linear(6, 3),
    )
    silence(network.a, [1], 0.1)
    return network


@trap(VECTORS, a=6, b=3)
def hardly_reads_a_unit():
    """A weight of 1e-300 is a weight; there is no threshold below which units count as dead."""
    network = Net(lambda s, x: s.b(s.a(x).relu()), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    with torch.no_grad():
        network.b.weight[:, 1] = 0.0
        network.b.weight[0, 1] = 1e-300
    return network


@pytest.mark.parametrize("name", list(TRAPS))
def test_a_trap_is_passed_exactly_or_refused(name):
    make, shape, others, expected = TRAPS[name]
    network = make().eval()
    example = torch.zeros(2, *shape)
    if isinstance(expected, str):
        with pytest.raises(ValueError, match=expected):
            compact(network, example)
        return
    result = compact(network, example)
    assert {key: len(result.network.get_submodule(key).weight) for key in expected} == expected
    for other in others:
        for count in (1, 9):
            x = torch.randn(count, *other)
            with torch.no_grad():
                one, two = copy.deepcopy(network)(x.clone()), result.network(x.clone())
            assert one.shape == two.shape
            sd = float(one.std(dim=0).mean()) if count > 1 else 1.0
            assert sd > 1e-4
            assert float((one - two).abs().max()) < EXACT * sd
