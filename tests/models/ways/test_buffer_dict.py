"""Tensors under names with dots move, are copied and are saved as the buffers of any module are."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.func import functional_call

from bayesprune.models.ways.buffer_dict import BufferDict

GIVEN = {"a.weight": torch.tensor([1.0, 2.0]), "b": torch.tensor([3])}


def made(**how):
    return BufferDict({name: tensor.clone() for name, tensor in GIVEN.items()}, **how)


def test_tensors_are_found_by_their_names_in_the_order_given():
    tensors = made()
    assert list(tensors) == list(GIVEN) and len(tensors) == 2 and "b" in tensors and "c" not in tensors
    assert all(torch.equal(tensor, GIVEN[name]) for name, tensor in tensors.items())
    with pytest.raises(KeyError):
        tensors["c"]


def test_they_move_and_are_copied_with_the_module():
    tensors = made()
    copied = copy.deepcopy(tensors).double()
    copied["a.weight"].zero_()
    assert copied["a.weight"].dtype == torch.float64 and copied["b"].dtype == torch.int64
    assert torch.equal(tensors["a.weight"], GIVEN["a.weight"])


def test_they_are_state_unless_they_are_tables():
    state, other = made().state_dict(), made()
    other["a.weight"].zero_()
    other.load_state_dict(state)
    assert torch.equal(other["a.weight"], GIVEN["a.weight"])
    assert made(persistent=False).state_dict() == {} and len(list(made(persistent=False).buffers())) == 2


def test_a_functional_call_reads_the_tensors_that_it_is_given():
    class Sum(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.tensors = made()

        def forward(self):
            return self.tensors["a.weight"].sum()

    name = next(name for name, _ in Sum().named_buffers())
    assert float(functional_call(Sum(), {name: torch.tensor([5.0, 6.0])}, ())) == 11.0
    assert float(Sum()()) == 3.0  # control
