from __future__ import annotations

import pytest
import torch

from benchmarks.sparse_break_even import break_even, masked


def test_break_even_lies_where_the_line_in_logarithms_crosses_one():
    # Speed-up 0.1 / density, exactly a line in logarithms: it breaks even at density 0.1.
    densities = [0.5, 0.2, 0.07, 0.01]
    assert break_even(densities, [0.1 / density for density in densities]) == pytest.approx(0.9)
    assert break_even(densities, [0.12 / density for density in densities]) == pytest.approx(0.88)
    assert break_even(densities, [0.5, 0.6, 0.7, 0.8]) is None
    assert break_even(densities, [1.5, 1.6, 1.7, 1.8]) == 0.0
    assert break_even(densities, [1.5, 0.6, 0.7, 1.4]) > 0.93  # the last crossing, not the first


@pytest.mark.parametrize(("block", "shape"), [(1, (30, 20)), (16, (48, 64))])
def test_a_masked_layer_has_the_density_asked_for(block, shape):
    linear = masked(*shape, 0.25, block)
    assert linear.weight.shape == shape
    tiles = linear.weight.view(shape[0] // block, block, shape[1] // block, block)
    assert float((tiles != 0).any(3).any(1).double().mean()) == pytest.approx(0.25)
    assert float((linear.weight != 0).double().mean()) == pytest.approx(0.25)
    assert torch.count_nonzero(masked(16, 16, 0.01, 16).weight) == 256  # at least one block
