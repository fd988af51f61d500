"""Innocent networks: as odd to look at as those of `odd_networks.py`, but what is removed there is right to go."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.oracles.odd_networks import VECTORS, Odd, odd, two
from tests.oracles.traps import silence
from tests.oracles.units_reference import Net

INNOCENT: dict[str, Odd] = {}


def innocent(expected: Any, shape: tuple[int, ...] = VECTORS, **more: Any) -> Any:
    """Registers a function that makes a network whose removal is right."""
    return odd(expected, shape, INNOCENT, **more)


@innocent({"a": 4, "b": 3})
def asks_whether_it_is_a_list():
    return two(lambda s, x: s.b(s.a(x[0] if isinstance(x, (list, tuple)) else x).relu()))


@innocent({"a": 4, "b": 3})
def makes_a_tensor_of_what_is_none():
    return two(lambda s, x: s.b(s.a(x if isinstance(x, torch.Tensor) else x.contiguous()).relu()))


@innocent({"a": 4, "b": 3})
def counts_its_calls():
    def forward(s, x):
        s.calls += 1
        return s.b(s.a(x).relu())

    network = two(forward)
    network.register_buffer("calls", torch.tensor(0))
    return network


@innocent({"a": 4, "b": 3})
def recomputes_where_gradients_are_recorded():
    def forward(s, x):
        h = checkpoint(s.a, x, use_reentrant=False) if torch.is_grad_enabled() and s.training else s.a(x)
        return s.b(h.relu())

    return two(forward)


@innocent({"a": 4, "b": 3}, shape=(1, 4))
def takes_one_input_only():
    def forward(s, x):
        h = s.a(x).relu().view(1, -1)
        return s.b(h).view(1, 3)

    return two(forward)


@innocent({"a": 4, "b": 3}, shape=(1, 4))
def drops_a_batch_of_one():
    return two(lambda s, x: s.b(s.a(x).relu()).squeeze())


@innocent({"a": 4, "b": 3}, shape=(4,))
def takes_a_vector():
    return two(lambda s, x: s.b(s.a(x).relu()))


@innocent({"a": 4, "b": 3}, shape=(3, 4))
def has_its_batch_written_in_it():
    return two(lambda s, x: s.b(s.a(x).relu().reshape(3, 6)))


@innocent({"a": 4, "b": 3})
def works_in_single_precision_inside():
    return two(lambda s, x: s.b(s.a(x).float().sigmoid().relu().to(x.dtype)))


@innocent({"a": 4, "b": 3})
def takes_single_precision_only():
    return two(lambda s, x: s.b(s.a(x.float()).relu())).float()


@innocent({"a": 4, "b": 3})
def rounds_to_half_precision_inside():
    return two(lambda s, x: s.b(s.a(x).relu().half().to(x.dtype)))


@innocent({"a": 4, "b": 3})
def is_autocast_to_half_precision():
    """Autocasting, as PyTorch's own examples have it inside forward; a graph knows nothing of it."""

    def forward(s, x):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = s.a(x.float()).relu()
        return s.b(h.float())

    return two(forward).float()


@innocent({"a": 4, "b": 3})
def overflows_with_large_inputs():
    return two(lambda s, x: s.b(s.a(x).relu()).exp())


@innocent({"a": 4, "b": 3})
def uses_a_size_before_and_after_it_grows():
    """`n += 1` makes a new number, unlike `h += 1`."""

    def forward(s, x):
        n = size = x.shape[1]
        size += 1
        return s.b((s.a(x) * size / n).relu())

    return two(forward)


@innocent({"a": 4, "b": 3})
def adds_in_place_to_a_sum():
    def forward(s, x):
        h = s.a(x)
        h += s.c(x)
        return s.b(h.relu_())

    network = two(forward, c=nn.Linear(4, 6))
    silence(network.c, [1, 2])
    return network


@innocent({"c": 3, "b": 3}, shape=(2, 5, 4))
def adds_positions_by_number():
    def forward(s, x):
        return s.b((s.c(x) + s.e(torch.arange(5))).relu()).mean(1)

    network = Net(forward, c=nn.Linear(4, 5), e=nn.Embedding(5, 5), b=nn.Linear(5, 3))
    with torch.no_grad():
        network.b.weight[:, [0, 4]] = 0.0
    return network


@innocent({"a": 4, "b": 3}, shape=(2, 4, 5))
def normalises_each_map_by_itself():
    """Torch itself writes to the statistics of instance normalisation, in evaluation mode too."""
    network = Net(lambda s, x: s.b(s.norm(s.a(x)).relu()).mean(2), a=nn.Conv1d(4, 6, 1), b=nn.Conv1d(6, 3, 1))
    network.norm = nn.InstanceNorm1d(6, affine=True, track_running_stats=True)
    with torch.no_grad():
        network.norm.running_mean.uniform_(-1.0, 1.0)
        network.b.weight[:, [1, 2]] = 0.0
    return network


@innocent({"a": 4, "b": 3}, shape=(2, 5, 4))
def reshapes_by_numbers_of_units():
    """Sizes that only shape what they count follow what is left."""

    def forward(s, x):
        h = s.a(x).relu()
        n, length, count = h.shape
        h = h.view(n * length, count).reshape(n, length, h.size(-1))
        return s.b(h[:, :, : h.shape[-1]] * s.e(h.mean(1)).view(n, 1, count).expand(n, h.shape[1], count)).mean(1)

    network = two(forward, e=nn.Linear(6, 6))
    silence(network.e, [1, 2])
    with torch.no_grad():
        network.e.weight[:, [1, 2]] = 0.0
    return network


@innocent({"a": 4, "b": 3}, shape=(2, 5))
def looks_up_indices():
    """Whole numbers of an example are indices: they may be in any order, but not be larger."""
    network = Net(lambda s, x: s.b(s.a(s.e(x)).relu()).mean(1), e=nn.Embedding(7, 4), a=nn.Linear(4, 6))
    network.b = nn.Linear(6, 3)
    with torch.no_grad():
        network.b.weight[:, [1, 2]] = 0.0
    return network
