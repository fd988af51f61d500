"""Networks that trace without complaint and invite wrong removals, with what has to come of them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.oracles.units_reference import Net


def conv(a, b, kernel=3, **options):
    return nn.Conv2d(a, b, kernel, **options)


def silence(layer, rows, bias=0.0):
    with torch.no_grad():
        layer.weight[rows] = 0.0
        if layer.bias is not None:
            layer.bias[rows] = bias


MAPS, VECTORS, SERIES = (3, 8, 8), (4,), (5, 4)
TRAPS = {}


def trap(shape, others=(), **widths):
    """Registers a function that makes a network: the example's shape, shapes to try, and the widths that are right."""

    def register(function):
        TRAPS[function.__name__] = (function, shape, [shape, *others], widths)
        return function

    return register


def refusal(shape, words):
    def register(function):
        TRAPS[function.__name__] = (function, shape, [], words)
        return function

    return register


LARGER = [(3, 13, 11)]


# ------------------------------------------------------------------------------- numbers of channels, positions, inputs


@trap(VECTORS, a=6, b=3)
def divides_by_the_number_of_channels():
    def forward(s, x):
        h = s.a(x).relu()
        return s.b(h / h.shape[1])

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1, 2])
    return network


@trap(VECTORS, a=6, b=3)
def takes_the_mean_over_channels_by_hand():
    def forward(s, x):
        h = s.a(x).relu()
        return s.b(h) + h.sum(1, keepdim=True) / h.size(1)

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1, 2])
    return network


@trap(MAPS, LARGER, a=4, b=2)
def adds_up_over_positions():
    """The constant 0.3 adds up to 0.3 times the number of positions."""
    network = Net(lambda s, x: s.b(s.a(x).relu().sum((2, 3))), a=conv(3, 4), b=nn.Linear(4, 2))
    silence(network.a, [1], 0.3)
    return network


@trap(MAPS, LARGER, a=3, b=2)
def adds_up_zeros_over_positions():
    def forward(s, x):
        h = s.a(x).relu()
        return s.b(h.sum((2, 3)) / (h.shape[2] * h.shape[3]))

    network = Net(forward, a=conv(3, 4), b=nn.Linear(4, 2))
    silence(network.a, [1])
    return network


@trap(MAPS, LARGER, a=4, b=2)
def scales_by_the_number_of_positions():
    network = Net(lambda s, x: s.b((s.a(x).relu() * x.shape[2]).mean((2, 3))), a=conv(3, 4), b=nn.Linear(4, 2))
    silence(network.a, [1], 0.3)
    return network


@trap(MAPS, LARGER, a=4, b=2)
def raises_to_the_power_of_a_size():
    network = Net(lambda s, x: s.b((s.a(x).sigmoid() ** x.shape[2]).mean((2, 3))), a=conv(3, 4), b=nn.Linear(4, 2))
    silence(network.a, [1])
    return network


@trap(MAPS, [(3, 3, 3), *LARGER], a=4, b=3, c=2)
def is_all_border_on_a_small_map():
    """On maps of one position, a padded sum of constants is one number; on others it is not."""
    network = Net(lambda s, x: s.c(s.b(s.a(x)).mean((2, 3))), a=conv(3, 4), b=conv(4, 3, padding=1), c=nn.Linear(3, 2))
    silence(network.a, [1], 0.3)
    with torch.no_grad():
        network.b.weight[0, [0, 2, 3]] = 0.0
    return network


@trap((3, 3, 3), [MAPS, *LARGER], a=4, b=3, c=2)
def is_all_border_on_the_example():
    return is_all_border_on_a_small_map()


@trap(MAPS, [(3, 9, 9), (3, 12, 12)], a=4, b=2)
def counts_windows_that_reach_over_the_edge():
    """Even maps divide into whole windows; odd ones leave half a window, whose sum is divided by four all the same."""
    pool = nn.AvgPool2d(2, ceil_mode=True, divisor_override=4)
    network = Net(lambda s, x: s.b(s.pool(s.a(x)).mean((2, 3))), a=conv(3, 4), pool=pool, b=nn.Linear(4, 2))
    silence(network.a, [1], 0.3)
    return network


@trap(MAPS, LARGER, a=2, b=5)
def slices_channels_by_number_and_positions_by_size():
    def forward(s, x):
        h = s.a(x)
        return s.b(h[:, :4, : h.size(2) // 2]).mean((2, 3))

    network = Net(forward, a=conv(3, 6), b=conv(4, 5, 1))
    silence(network.a, [1, 2])
    return network


@refusal(VECTORS, "number of channels is not written in the code")
def pads_with_as_many_zeros_as_there_are_channels():
    def forward(s, x):
        h = s.a(x)
        return s.b(torch.cat([h, h.new_zeros(h.size(0), h.size(1))], 1))

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(12, 3))
    silence(network.a, [1, 2])
    return network


@trap(VECTORS, a=4, b=3)
def pads_with_a_written_number_of_zeros():
    def forward(s, x):
        h = s.a(x)
        return s.b(torch.cat([h, h.new_zeros(h.size(0), 6)], 1))

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(12, 3))
    silence(network.a, [1, 2])
    return network


@refusal(MAPS, "the compact network would not run|outputs would differ")
def squeezes_whatever_has_size_one():
    network = Net(lambda s, x: s.b(s.a(x).mean((2, 3), keepdim=True).squeeze()), a=conv(3, 4), b=nn.Linear(4, 2))
    silence(network.a, [0, 1, 2])
    return network


@trap(MAPS, a=7, b=3)
def shuffles_twice():
    """The first shuffle ties channels 0 and 2, the second 0 and 1: all four stay as long as 3 lives."""

    def shuffle(h):
        n, c, height, width = h.shape
        return h.view(n, 2, c // 2, height, width).transpose(1, 2).reshape(n, c, height, width)

    network = Net(lambda s, x: s.b(shuffle(shuffle(s.a(x)))), a=conv(3, 8), b=conv(8, 3))
    silence(network.a, [0, 1, 2, 4])
    network.run = lambda s, x: s.b(torch.cat([shuffle(shuffle(s.a(x)[:, :4])), s.a(x)[:, 4:]], 1))
    return network


# ----------------------------------------------------------------------------------------------------- changes in place


@trap(MAPS, a=4, b=4)
def changes_in_place_and_goes_on_with_the_old_name():
    def forward(s, x):
        h = s.norm(s.a(x))
        F.relu(h, inplace=True)
        return s.b(h)

    network = Net(forward, a=conv(3, 6), norm=nn.BatchNorm2d(6), b=conv(6, 4))
    silence(network.norm, [0, 1], -1.0)
    return network


@trap(MAPS, a=6, b=4)
def changes_a_part_in_place():
    """Channel 0 is constant until something is added to a view of it."""

    def forward(s, x):
        h = s.norm(s.a(x))
        h[:, :2].add_(s.c(x))
        return s.b(h)

    network = Net(forward, a=conv(3, 6), norm=nn.BatchNorm2d(6), b=conv(6, 4), c=conv(3, 2))
    silence(network.norm, [0, 1], -1.0)
    return network


@trap(MAPS, a=4, b=4)
def changes_in_place_by_layer():
    def forward(s, x):
        h = s.norm(s.a(x))
        return s.b(s.relu(h) + h)  # twice the same

    network = Net(forward, a=conv(3, 6), norm=nn.BatchNorm2d(6), relu=nn.ReLU(inplace=True), b=conv(6, 4))
    silence(network.norm, [0, 1], -1.0)
    return network


@trap(MAPS, a=4, b=4)
def adds_in_place():
    def forward(s, x):
        h = s.a(x)
        h += s.c(x)
        h.mul_(2.0).relu_()
        return s.b(h)

    network = Net(forward, a=conv(3, 6), c=conv(3, 6), b=conv(6, 4))
    silence(network.a, [0, 1])
    silence(network.c, [0, 1])
    return network


# -------------------------------------------------------------------------------------------------- tensors of its own


@trap(VECTORS, a=6, b=3)
def multiplies_by_a_constant_of_its_code():
    network = Net(
        lambda s, x: s.b(s.a(x) * torch.tensor([1.0, 2.0, 3.0, 0.0, 5.0, 6.0])), a=nn.Linear(4, 6), b=nn.Linear(6, 3)
    )
    silence(network.a, [1, 2])
    return network


@trap(VECTORS, a=6, b=3)
def multiplies_by_a_tensor_that_is_no_buffer():
    network = Net(lambda s, x: s.b(s.a(x) * s.factors), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    network.factors = torch.rand(6)
    silence(network.a, [1, 2])
    return network


@trap(VECTORS, a=3, b=3)
def multiplies_by_buffers():
    network = Net(lambda s, x: s.b(s.a(x) * s.factors * s.mask), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    network.register_buffer("factors", torch.rand(6), persistent=False)
    network.register_buffer("mask", torch.tensor([True, True, True, False, True, True]))
    silence(network.a, [1, 2])
    return network


@trap(MAPS, a=4, b=2)
def uses_the_scale_of_a_layer_by_itself():
    network = Net(
        lambda s, x: s.b(s.norm(s.a(x)) * s.norm.weight.view(1, -1, 1, 1)),
        a=conv(3, 6),
        norm=nn.BatchNorm2d(6),
        b=conv(6, 2),
    )
    with torch.no_grad():
        network.norm.weight.uniform_(0.5, 1.5)
    silence(network.norm, [0, 1])
    return network


@refusal(VECTORS, r"node 'linear' \(function linear\)")
def uses_the_weights_of_a_layer_by_themselves():
    network = Net(lambda s, x: F.linear(s.b(s.a(x)).relu(), s.a.weight.t()), a=nn.Linear(4, 6), b=nn.Linear(6, 6))
    silence(network.b, [1])
    return network


@refusal((3,), "node '_tensor_constant0'|cannot be followed|outputs would differ|cannot be traced")
def has_random_numbers_for_each_channel():
    def forward(s, x):
        h = s.a(x)
        return s.b(h + torch.randn_like(h))

    network = Net(forward, a=nn.Linear(3, 6), b=nn.Linear(6, 3))
    silence(network.a, [1])
    return network


@refusal(VECTORS, "dropout that stays active")
def drops_out_in_evaluation_mode():
    network = Net(lambda s, x: s.b(F.dropout(s.a(x).relu())), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1])
    return network


@trap(VECTORS, a=5, b=3)
def drops_out_in_training_mode():
    network = Net(lambda s, x: s.b(F.dropout(s.a(x).relu(), training=s.training)), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [1])
    return network


@refusal((5,), "rescales its rows, max_norm")
def rescales_an_embedding():
    network = Net(lambda s, x: s.b(s.a(x.to(torch.int64))), a=nn.Embedding(10, 6, max_norm=1.0), b=nn.Linear(6, 3))
    with torch.no_grad():
        network.b.weight[:, [0, 1]] = 0.0
    return network
