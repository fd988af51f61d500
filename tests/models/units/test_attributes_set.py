"""A forward that sets the numbers of a tensor, which no operation shows: refused, by the trace and by the recorder."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.models.graphs import traced_graph
from bayesprune.models.units.compact import compact
from tests.oracles.traps import silence
from tests.oracles.units_reference import Net


def with_a_hidden(change):
    """A network whose hidden values are changed by a function."""

    def forward(s, x):
        h = s.a(x).relu()
        return s.c(s.b(change(h)).relu())

    torch.manual_seed(0)
    network = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(6, 5), c=nn.Linear(5, 3))
    silence(network.a, [1, 2])
    return network


def sets_data(h):
    h.data = h.data + 0.3
    return h


def sets_data_by_name(h):
    setattr(h, "data", h * 2)  # noqa: B010
    return h


def sets_real(h):
    h.real = h + 0.3
    return h


def adds_to_data(h):
    h.data += 0.3
    return h


def adds_to_data_and_sets_it(h):
    g = h.data
    g += 0.3
    h.data = g * 2
    return h


def tags(h):
    h.tag = "hidden"
    assert h.tag == "hidden"
    return h


def asks_for_gradients(h):
    h.grad = None
    return h


@pytest.mark.parametrize("change", [sets_data, sets_data_by_name, sets_real, adds_to_data_and_sets_it])
def test_a_forward_that_sets_the_numbers_of_a_tensor_is_refused(change):
    with pytest.raises(ValueError, match=r"forward sets \.(data|real) of a tensor"):
        compact(with_a_hidden(change), torch.zeros(2, 4))


@pytest.mark.parametrize("change", [adds_to_data, tags, asks_for_gradients])
def test_what_an_attribute_leaves_in_the_graph_is_no_reason_to_refuse(change):
    network = with_a_hidden(change)
    result = compact(network, torch.zeros(2, 4))
    x = torch.randn(7, 4)
    assert torch.allclose(result.network(x), network.eval()(x), atol=1e-5)


@pytest.mark.parametrize("change", [sets_data, sets_data_by_name, adds_to_data_and_sets_it])
def test_the_recorder_sees_a_tensor_whose_numbers_were_put_elsewhere(monkeypatch, change):
    monkeypatch.delattr(traced_graph._Proxy, "__setattr__")
    with pytest.raises(ValueError, match="something else with tensors than with what torch.fx puts in their place"):
        compact(with_a_hidden(change), torch.zeros(2, 4))


def in_place(h):
    return h.t_().unsqueeze_(0).squeeze_(0).t_().add_(1).mul_(0.5)


@pytest.mark.parametrize("change", [adds_to_data, in_place])
def test_the_recorder_takes_what_operations_put_elsewhere_for_what_it_is(monkeypatch, change):
    monkeypatch.delattr(traced_graph._Proxy, "__setattr__")
    compact(with_a_hidden(change), torch.zeros(2, 4), unknown="keep")
