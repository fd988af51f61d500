"""Odd networks: legal code that torch.fx sees as something else, so that a removal seems exact and is not.

Each hides its difference from inputs of mean 0 and sd 1 in batches of two: it comes out with large inputs, in batches
of another size or where gradients are recorded. `innocent_networks.py` holds
their neighbours, whose removal is right.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from tests.oracles.traps import silence
from tests.oracles.units_reference import Net


@dataclass(frozen=True)
class Odd:
    """One network.

    Attributes:
        make: Makes it.
        shape: Of the example.
        expected: What is found before anything is compared: words of the refusal, or the widths that are left.
        options: Of `compact`.
        under: The context that compaction is asked for in.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    expected: str | dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)
    under: Callable[[], Any] = nullcontext

    def example(self) -> Tensor:
        """Zeros, or indices for a network that looks them up."""
        network = self.make()
        if next(iter(network.children()), None).__class__ is nn.Embedding:
            return torch.arange(math.prod(self.shape)).view(self.shape) % 7
        return torch.zeros(self.shape)


ODD: dict[str, Odd] = {}
VECTORS, KEEP = (2, 4), {"unknown": "keep"}
OTHERWISE = "does something else with tensors than with what torch.fx puts in their place"


def odd(expected: Any, shape: tuple[int, ...] = VECTORS, home: dict[str, Odd] = ODD, **more: Any) -> Any:
    """Registers a function that makes a network."""

    def register(function: Callable[[], nn.Module]) -> Callable[[], nn.Module]:
        home[function.__name__] = Odd(function, shape, expected, **more)
        return function

    return register


def two(forward: Callable[..., Any], deaf: tuple[int, ...] = (1, 2), **more: Any) -> Net:
    """Six units, two of which the second layer does not read."""
    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3), **more)
    with torch.no_grad():
        network.a.weight.copy_(torch.randn(6, 4))
        network.b.weight[:, list(deaf)] = 0.0
    return network


def late(h: Tensor) -> Tensor:
    """All units, but only where they are far above what inputs of sd 1 make of them."""
    return (h - 30.0).relu().sum(1, keepdim=True)


# ------------------------------------------------------------------------------- a) branches by the type of a tensor


def by_type(asks: Callable[[Any], Any]) -> Net:
    def forward(s, x):
        h = s.a(x).relu()
        y = s.b(h)
        return y + late(h) if asks(h) else y

    return two(forward)


@odd(OTHERWISE)
def asks_whether_it_is_a_tensor():
    return by_type(lambda h: isinstance(h, torch.Tensor))


@odd(OTHERWISE)
def asks_whether_its_type_is_that_of_tensors():
    return by_type(lambda h: type(h) is torch.Tensor)


@odd(OTHERWISE)
def asks_torch_whether_it_is_a_tensor():
    return by_type(torch.is_tensor)


@odd(OTHERWISE)
def asks_whether_it_is_no_proxy():
    return by_type(lambda h: not isinstance(h, fx.Proxy))


@odd(OTHERWISE)
def asks_for_what_only_proxies_have():
    return by_type(lambda h: not hasattr(h, "no_tensor_has_this"))


@odd(OTHERWISE)
def asks_whether_a_size_is_a_whole_number():
    return by_type(lambda h: isinstance(h.shape[0], int))


@odd(OTHERWISE)
def asks_for_a_length_and_forgives():
    def asks(h):
        try:
            return len(h) > 0
        except RuntimeError:
            return False

    return by_type(asks)


@odd(OTHERWISE)
def reads_the_other_of_two_parameters():
    """Both ways have the same operations of the same shapes."""

    def forward(s, x):
        h = s.a(x).relu()
        return s.b(h) + s.c((h - 30.0).relu() * (s.one if isinstance(h, torch.Tensor) else s.zero))

    network = two(forward, c=nn.Linear(6, 3, bias=False))
    network.one, network.zero = nn.Parameter(torch.ones(())), nn.Parameter(torch.zeros(()))
    return network


@odd(OTHERWISE)
def reads_the_other_of_two_results():
    """Both ways have the same operations; only what goes into the last one differs."""

    def forward(s, x):
        h = s.a(x).relu()
        late = (h - 30.0).relu()
        one, other = s.c(late), s.d(late)
        return s.b(h) + (one if isinstance(h, torch.Tensor) else other)

    network = two(forward, c=nn.Linear(6, 3, bias=False), d=nn.Linear(6, 3, bias=False))
    with torch.no_grad():
        network.d.weight[:, [1, 2]] = 0.0
    return network


@odd("does something else with gradients than without", under=torch.no_grad)
def asks_whether_gradients_are_recorded():
    return by_type(lambda h: torch.is_grad_enabled())


# ------------------------------------------------------------------------------------ b) changes of views in place


def of_view(change: Callable[[Any, Tensor, Tensor], Any], **widths: int) -> Net:
    """Units 0 to 3 are zero until something is added to a view of them."""

    def forward(s, x):
        h = s.a(x)
        change(s, h, (s.c(x) - 30.0).relu())
        return s.b(h)

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3), c=nn.Linear(4, 4))
    with torch.no_grad():
        network.c.weight.copy_(torch.randn(4, 4))
    silence(network.a, [0, 1, 2, 3])
    return network


WHOLE = {"a": 6, "b": 3, "c": 4}


@odd(WHOLE)
def adds_to_a_slice():
    def change(s, h, g):
        v = h[:, :4]
        v += g

    return of_view(change)


@odd(WHOLE)
def subtracts_from_a_chunk():
    def change(s, h, g):
        v = h.split([4, 2], 1)[0]
        v -= g

    return of_view(change)


@odd(WHOLE)
def adds_to_another_name():
    def change(s, h, g):
        v = h.view(-1, 6)
        v += F.pad(g, (0, 2))

    return of_view(change)


@odd({"a": 6, "b": 3})
def raises_a_view_to_a_power():
    def forward(s, x):
        h = s.a(x)
        v = h[:, :2]
        v **= 2.0
        w = h[:, :2]
        w += (x.abs().amax(1, keepdim=True) - 30.0).relu()
        return s.b(h)

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [0, 1])
    return network


# --------------------------------------------------------------------------------------- c) changes behind autograd


@odd(WHOLE)
def adds_to_the_data_of_a_tensor():
    return of_view(lambda s, h, g: h.data.add_(F.pad(g, (0, 2))))


@odd(WHOLE)
def adds_to_the_data_of_a_slice():
    return of_view(lambda s, h, g: h.data[:, :4].add_(g))


@odd(WHOLE)
def adds_to_a_slice_of_detached_data():
    return of_view(lambda s, h, g: h.detach()[:, :4].data.add_(g))


@odd(WHOLE)
def adds_by_name_to_the_data():
    def change(s, h, g):
        v = h.data
        v += F.pad(g, (0, 2))

    return of_view(change)


def large(x: Tensor) -> Tensor:
    """Zero for inputs of sd 1."""
    return (x.abs().amax() - 30.0).relu()


def with_buffer(change: Callable[[Any, Tensor], Any]) -> Net:
    """A factor of each unit; those of units 0 and 1 are zero until they are changed."""

    def forward(s, x):
        change(s, x)
        return s.b(s.a(x) * s.factors)

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    network.register_buffer("factors", torch.tensor([0.0, 0.0, 1.0, 2.0, 3.0, 4.0]))
    return network


@odd({"a": 6, "b": 3})
def adds_to_the_data_of_a_buffer():
    return with_buffer(lambda s, x: s.factors.data.add_(large(x)))


@odd({"a": 6, "b": 3})
def adds_to_a_buffer():
    return with_buffer(lambda s, x: s.factors.add_(large(x)))


@odd({"a": 6, "b": 3})
def adds_to_a_part_of_a_buffer():
    return with_buffer(lambda s, x: s.factors[:2].add_(large(x)))


@odd("forward changes norm.running_mean in place")
def moves_the_mean_of_a_normalisation():
    def forward(s, x):
        s.norm.running_mean.add_(large(x))
        return s.b(s.norm(s.a(x)))

    network = Net(forward, a=nn.Linear(4, 6), norm=nn.BatchNorm1d(6), b=nn.Linear(6, 3))
    silence(network.a, [0, 1])
    return network


@odd("forward changes a.bias in place")
def adds_to_the_data_of_a_bias():
    def forward(s, x):
        s.a.bias.data.add_(large(x))
        return s.b(s.a(x).relu())

    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    silence(network.a, [0, 1])
    return network


# ------------------------------------------------------------------------------ d) numbers of channels in arithmetic


def with_count(function: Callable[[Any], Any]) -> Net:
    """Two units are not read; their number still counts."""
    network = Net(lambda s, x: s.b(function(s.a(x).relu())) + s.c(x), a=nn.Linear(4, 6), b=nn.Linear(6, 3))
    network.c = nn.Linear(4, 3)
    with torch.no_grad():
        network.a.weight.copy_(torch.randn(6, 4))
        network.b.weight[:, [1, 2]] = 0.0
    return network


COUNTED = {"a": 6, "b": 3, "c": 3}


@odd(COUNTED)
def divides_by_the_number_of_units():
    return with_count(lambda h: (h / h.shape[1] - 5.0).relu())


@odd(COUNTED)
def multiplies_by_a_root_of_the_number_of_units():
    return with_count(lambda h: (h * h.size(1) ** -0.5 - 10.0).relu())


@odd(COUNTED)
def cuts_off_at_the_number_of_units():
    return with_count(lambda h: h.clamp(max=10 * h.shape[-1]))


@odd(COUNTED)
def divides_by_the_number_of_all_entries():
    return with_count(lambda h: (h * h.shape[0] / h.numel() - 5.0).relu())


@odd(COUNTED)
def takes_the_number_of_units_out_of_a_list_of_sizes():
    return with_count(lambda h: (h / h.size()[1:][0] - 5.0).relu())


@odd(COUNTED)
def adds_the_number_of_units_of_another_layer():
    network = with_count(lambda h: h)
    network.run = lambda s, x: s.b((s.a(x) - 5.0 * s.a(x).shape[1]).relu()) + s.c(x)
    return network


# ------------------------------------------------------------------------------------ e) units that index an embedding


def indexing(function: Callable[[Any, Tensor], Any], rows: int = 12) -> Net:
    """Row 0 of the embedding, which all units ask for at inputs of sd 1, is zero."""
    network = Net(
        lambda s, x: s.c(function(s, s.a(x))) + s.b(x), a=nn.Linear(4, 6), e=nn.Embedding(rows, 5), c=nn.Linear(5, 3)
    )
    network.b = nn.Linear(4, 3)
    with torch.no_grad():
        network.a.weight.copy_(torch.randn(6, 4))
        network.e.weight[0] = 0.0
    return network


INDEXING = {"a": 6, "c": 3}


@odd(INDEXING)
def adds_up_rows_that_units_ask_for():
    return indexing(lambda s, h: s.e((h / 30).clamp(0, 11).to(torch.int64)).sum(1))


@odd(INDEXING)
def takes_the_mean_of_rows_that_units_ask_for():
    return indexing(lambda s, h: s.e((h / 30).clamp(0, 11).to(torch.int64)).mean(1))


@odd(INDEXING)
def asks_for_a_row_by_the_largest_unit():
    return indexing(lambda s, h: s.e((h / 30).clamp(0, 11).to(torch.int64)).amax(1))


@odd({"a": 4, "b": 3, "c": 5})
def asks_for_rows_by_a_buffer():
    def forward(s, x):
        return s.b((s.a(x) - 30.0).relu() * s.c(s.index).sum(0)) + x[:, :3]

    network = Net(forward, a=nn.Linear(4, 4), b=nn.Linear(4, 3), c=nn.Embedding(5, 4))
    network.register_buffer("index", torch.tensor([0, 1, 2, 3]))
    return network


# ------------------------------------------------------------------------- f) what is not understood is to be kept


def picking(function: Callable[[Any, Tensor], Any], index: Tensor | None = None) -> Net:
    network = Net(lambda s, x: s.b(function(s, x)) + s.c(x), b=nn.Linear(1, 3), c=nn.Linear(4, 3), a=nn.Linear(4, 6))
    with torch.no_grad():
        network.a.weight.copy_(torch.randn(6, 4))
    network.register_buffer("index", torch.tensor([0, 1, 2, 3]) if index is None else index)
    return network


@odd({"b": 3, "c": 3}, options=KEEP)
def picks_inputs_by_a_buffer():
    return picking(lambda s, x: late(x[:, s.index]))


@odd({"b": 3, "c": 3}, options=KEEP)
def picks_last_entries_by_a_buffer():
    return picking(lambda s, x: late(x[..., s.index]))


@odd({"a": 6, "b": 3, "c": 3}, options=KEEP)
def picks_inputs_by_units_and_takes_the_largest():
    return picking(lambda s, x: x[:, (s.a(x) / 30).clamp(0, 3).to(torch.int64)[0]].mean(1, keepdim=True))


@odd({"a": 6, "b": 3, "c": 3}, options=KEEP)
def picks_units_by_a_buffer():
    return picking(lambda s, x: late(s.a(x)[:, s.index]))


def inputs(count: int, scale: float, example: Tensor) -> Tensor:
    """Inputs of a scale like an example: `(count, ...)`, of its shape where that is a vector, indices of its own."""
    generator = torch.Generator().manual_seed(17 * count)
    size = example.shape if example.ndim == 1 else (count, *example.shape[1:])
    if not example.is_floating_point():
        return example.flatten()[torch.randint(example.numel(), size, generator=generator)]
    return scale * torch.randn(size, generator=generator, dtype=example.dtype)


def combinations(example: Tensor) -> Iterator[tuple[str, Tensor, bool]]:
    """Inputs of all scales and batch sizes, with gradients and without."""
    for count in (1, 2, 3, 5):
        for scale in (1.0, 50.0, 255.0):
            for grad in (False, True):
                yield f"batch {count}, scale {scale:g}, grad {grad}", inputs(count, scale, example), grad
