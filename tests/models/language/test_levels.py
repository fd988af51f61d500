"""Levels: shapes of latents for every kind of tensor, and blocks at the edge."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch

from bayesprune.models.language.latent import Latent
from bayesprune.models.language.levels import LEVELS, broadcasts_to, expand_blocks, level_shape, repeated

LINEAR, CONV, BIAS = (5, 7), (4, 3, 5, 5), (5,)
EXPECTED = {
    ("weight", LINEAR): (5, 7),
    ("weight", CONV): (4, 3, 5, 5),
    ("weight", BIAS): (5,),
    ("output", LINEAR): (5, 1),
    ("output", CONV): (4, 1, 1, 1),
    ("output", BIAS): (5,),
    ("input", LINEAR): (1, 7),
    ("input", CONV): (1, 3, 1, 1),
    ("kernel", LINEAR): (5, 7),
    ("kernel", CONV): (4, 3, 1, 1),
    ("edge", LINEAR): (5, 7),
    ("edge", CONV): (4, 3, 1, 1),
    ("layer", LINEAR): (),
    ("layer", CONV): (),
    ("layer", BIAS): (),
    ("network", LINEAR): (),
    ("network", CONV): (),
    ("network", BIAS): (),
}


@pytest.mark.parametrize(("level", "shape"), list(EXPECTED))
def test_a_level_has_the_documented_shape_and_broadcasts_to_the_tensor(level, shape):
    found = level_shape(level, shape)
    assert found == EXPECTED[level, shape]
    assert torch.broadcast_shapes(found, shape) == torch.Size(shape)


@pytest.mark.parametrize("level", ["input", "kernel", "block", "edge"])
def test_a_bias_has_no_input_level_and_the_error_names_the_tensor(level):
    with pytest.raises(ValueError, match=f"per='{level}'.*fc1.bias"):
        level_shape(level, BIAS, tensor="fc1.bias")


def test_an_unknown_level_lists_those_there_are():
    with pytest.raises(ValueError, match="'row' is unknown.*weight.*network"):
        level_shape("row", LINEAR)
    assert "unit" not in LEVELS


@pytest.mark.parametrize(
    ("shape", "block", "expected"),
    [
        ((32, 48), (16, 16), (2, 3)),
        ((33, 47), (16, 16), (3, 3)),
        ((1, 1), (16, 16), (1, 1)),
        ((10, 784), (4, 100), (3, 8)),
        ((20, 6, 3, 3), (16, 4), (2, 2, 1, 1)),
    ],
)
def test_blocks_are_counted_with_the_smaller_ones_at_the_edge(shape, block, expected):
    assert level_shape("block", shape, block) == expected


@pytest.mark.parametrize(("shape", "block"), [((5, 7), (2, 3)), ((4, 6), (2, 3)), ((5, 4, 3, 3), (3, 3))])
def test_each_entry_gets_the_value_of_its_own_block(shape, block):
    blocks = level_shape("block", shape, block)
    value = torch.arange(float(torch.Size(blocks).numel())).reshape(blocks)
    spread = expand_blocks(value, shape, block)
    assert spread.shape == (*shape[:2], *(1,) * (len(shape) - 2))
    for row in range(shape[0]):
        for column in range(shape[1]):
            expected = value[row // block[0], column // block[1]]
            assert torch.equal(spread[row, column], expected)


@pytest.mark.parametrize(("shape", "gates"), [((6, 4), 3), ((8, 4), 4), ((6, 4, 3, 3), 2), ((6, 4), 1)])
def test_the_rows_of_a_gate_stand_together_and_each_has_the_entry_of_its_unit(shape, gates):
    units = shape[0] // gates
    assert level_shape("edge", shape, gates=gates) == (units, 4, *(1,) * (len(shape) - 2))
    value = torch.arange(float(units * 4)).reshape(level_shape("edge", shape, gates=gates))
    spread = repeated(value, "edge", shape, gates=gates)
    for row in range(shape[0]):
        assert torch.equal(spread[row], value[row % units])
    if gates > 1:  # control: rows of a unit side by side
        assert not torch.equal(spread, value.repeat_interleave(gates, 0))


def test_rows_that_are_not_those_of_so_many_gates_are_refused():
    with pytest.raises(ValueError, match=r"multiple of 3, but fc1 has shape \(8, 4\)"):
        level_shape("edge", (8, 4), tensor="fc1", gates=3)
    with pytest.raises(ValueError, match="per='edge'"):
        Latent(dist.Normal(0.0, 1.0), gates=3)


def test_the_gradient_of_a_block_is_the_sum_over_its_entries():
    value = torch.ones(3, 3, requires_grad=True)
    expand_blocks(value, (5, 7), (2, 3)).sum().backward()
    assert value.grad.tolist() == [[6.0, 6.0, 2.0], [6.0, 6.0, 2.0], [3.0, 3.0, 1.0]]


@pytest.mark.parametrize(
    ("found", "shape", "fits"),
    [((), (3, 4), True), ((3, 1), (3, 4), True), ((4,), (3, 4), True), ((3, 4), (3, 1), False), ((3,), (3, 4), False),
     ((2, 3, 4), (3, 4), False), ((1, 3, 4), (3, 4), False)],
)  # fmt: skip
def test_numbers_broadcast_to_entries_without_adding_any(found, shape, fits):
    assert broadcasts_to(found, shape) == fits
