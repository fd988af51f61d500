"""Tensors that a forward makes by itself: cut where they are of one number, else a sentence with a remedy."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.models.graphs.forward_constants import FACTORIES
from tests.oracles.units_reference import Net

X = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))


def network(forward, joined=6):
    """4 -> 6 -> 2 with units 2 and 3 of the hidden layer dead."""
    torch.manual_seed(0)
    made = Net(forward, a=nn.Linear(4, 6), b=nn.Linear(joined, 2))
    with torch.no_grad():
        made.a.weight[2:4] = 0.0
        made.a.bias[2:4] = 0.0
    return made


FORMS = {
    "zeros": (lambda s, x: s.b(s.a(x).relu() + torch.zeros(x.shape[0], 6)), 6),
    "zeros of a tuple": (lambda s, x: s.b(s.a(x).relu() + torch.zeros((x.size(0), 6))), 6),
    "zeros joined": (lambda s, x: s.b(torch.cat([s.a(x).relu(), torch.zeros(x.shape[0], 2)], 1)), 8),
    "zeros like the input": (
        lambda s, x: s.b(torch.cat([s.a(x).relu(), torch.zeros(x.shape[0], 2, device=x.device, dtype=x.dtype)], 1)),
        8,
    ),
    "ones": (lambda s, x: s.b(s.a(x).relu() * torch.ones(x.shape[0], 6)), 6),
    "full": (lambda s, x: s.b(s.a(x).relu() * torch.full((x.shape[0], 6), 0.5)), 6),
    "new_zeros": (lambda s, x: s.b(s.a(x).relu() + x.new_zeros(x.shape[0], 6)), 6),
    "new_full": (lambda s, x: s.b(s.a(x).relu() * x.new_full((x.shape[0], 6), 0.5)), 6),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_tensor_of_one_number_is_cut_with_the_units_that_it_is_used_with(form, tmp_path):
    forward, joined = FORMS[form]
    made = network(forward, joined)
    small = bp.compact(made, X[:2])
    assert small.report.units_after["a"] == 4 and small.network.a.weight.shape == (4, 4)
    torch.testing.assert_close(small.network(X), made(X))  # twelve examples, where two were traced
    bp.export_network(small.network, X[:2], tmp_path / "exported")
    bnn = bp.BayesianNetwork(made, {}, data_size=12, gates=bp.UnitGates(), example_input=X[:1])
    assert bnn.gates.sets["a.gate"].count == 6


def test_a_full_tensor_that_is_added_keeps_its_number():
    made = network(lambda s, x: s.b(s.a(x).relu() + torch.full((x.shape[0], 6), 0.5)))
    small = bp.compact(made, X[:2])
    torch.testing.assert_close(small.network(X), made(X))
    assert small.report.units_after["a"] == 4


def test_torch_is_as_it_was_after_a_trace_and_after_one_that_failed():
    before = [torch.zeros, torch.ones, torch.full]
    bp.compact(network(FORMS["zeros"][0]), X[:2])
    with pytest.raises(ValueError, match="forward depends on its data"):
        bp.compact(network(lambda s, x: s.b(s.a(x)) if x.sum() > 0 else s.b(s.a(-x))), X[:2])
    assert [torch.zeros, torch.ones, torch.full] == before == list(FACTORIES.values())


def test_what_is_not_understood_names_the_remedy():
    added = network(lambda s, x: s.b(s.a(x) + torch.arange(x.shape[0])[:, None]))
    with pytest.raises(ValueError, match=r"a tensor made inside forward, where x\.new_zeros.*buffers are understood"):
        bp.compact(added, X[:2])
    counted = network(lambda s, x: s.b(s.a(x) + torch.zeros(len(x), 6)))
    with pytest.raises(ValueError, match=r"write x\.shape\[0\] in place of len\(x\)"):
        bp.compact(counted, X[:2])
    kept = bp.compact(network(lambda s, x: s.b(s.a(x) + torch.zeros(6))), X[:2])
    assert kept.report.units_after["a"] == 6
    assert "made inside forward: make it a buffer, or with x.new_zeros" in kept.report.kept["a"]


class Recurrent(nn.Module):
    """Starts from zeros of the default dtype."""

    def __init__(self, start):
        super().__init__()
        self.cell, self.out, self.start = nn.RNNCell(4, 6), nn.Linear(6, 2), start

    def forward(self, x):
        return self.out(self.cell(x, self.start(x)))


def test_a_start_state_of_another_dtype_is_told_of_new_zeros():
    def fitted(start):
        bnn = bp.BayesianNetwork(Recurrent(start), {"out.weight": bp.Gaussian()}, data_size=12)
        return bp.fit(bnn, (X, (X[:, 0] > 0).long()), steps=2, precision="float64", progress=False)

    with pytest.raises(ValueError, match=r"same dtype.*x\.new_zeros\(\.\.\.\) in place of torch\.zeros"):
        fitted(lambda x: torch.zeros(x.shape[0], 6))
    assert fitted(lambda x: x.new_zeros(x.shape[0], 6)).settings["precision"] == "float64"
