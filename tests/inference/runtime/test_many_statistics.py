"""Batch normalisation in several processes: by the whole batch (`SharedStatistics`), or each by its own share."""

from __future__ import annotations

import pytest
import torch

from bayesprune.inference.runtime.share import Share
from tests.inference.runtime import statistics_checks as checks
from tests.inference.runtime.many_processes import alone
from tests.inference.runtime.problems import distance

WORLDS = (2, 3)


def by_torch(name):
    """Torch's own function on the whole batch."""
    made, shape = checks.LAYERS[name]
    layer, x = checks.layer_of(made), checks.inputs_of(name, shape).requires_grad_(True)
    for _ in range(2):
        outputs = layer(x)
    (outputs * checks.targets_of(shape)).sum().backward()
    return outputs.detach(), x.grad, [p.grad for p in layer.parameters()], list(layer.buffers())


@pytest.mark.parametrize("name", checks.LAYERS)
@pytest.mark.parametrize("world", WORLDS)
def test_a_layer_is_torch_s_own_on_the_whole_batch(group, world, name):
    outputs, inputs, parameters, buffers = by_torch(name)
    allowed = 1e-8 if name == "far from zero" else 1e-11  # torch's own loses so many digits there
    for rank, found in enumerate(group(world, "normalised_layers")):
        found, rows = found[name], Share(rank, world).rows(len(outputs))
        assert torch.allclose(found["outputs"], outputs[rows], rtol=allowed, atol=allowed)
        assert torch.allclose(found["inputs"], inputs[rows], rtol=allowed, atol=allowed)
        assert len(found["parameters"]) == len(parameters) and len(found["buffers"]) == len(buffers)
        for mine, theirs in zip(found["parameters"], parameters, strict=True):
            assert torch.allclose(mine, theirs, rtol=allowed, atol=100 * allowed)
        for mine, theirs in zip(found["buffers"], buffers, strict=True):
            assert mine.dtype == theirs.dtype and torch.allclose(mine, theirs, rtol=allowed)
    made, shape = checks.LAYERS[name]
    part = checks.layer_of(made)(checks.inputs_of(name, shape)[rows])
    assert not torch.allclose(part, outputs[rows], rtol=1e-2, atol=1e-2)  # control: by its share alone it is another


def test_layers_in_evaluation_mode_and_other_functions_are_left_alone(group):
    assert group(2, "layers_that_are_left_alone") == [[True, True], [True, True]]


@pytest.mark.parametrize("world", WORLDS)
def test_synchronised_steps_are_those_of_one_process(group, world):
    losses, gradients = checks.steps_of_a_normalised_network(alone)["synchronised"]
    for found in group(world, "steps_of_a_normalised_network"):
        assert distance(found["synchronised"][0], losses) < 1e-9
        assert distance(found["synchronised"][1], gradients) < 1e-9
        assert distance(found["apart"][0], losses) > 1e-5  # control: normalised by shares
        assert distance(found["apart"][1], gradients) > 1e-3


@pytest.mark.parametrize("world", WORLDS)
def test_synchronised_fits_end_where_one_process_ends(group, world):
    expected = checks.fits_of_a_normalised_network(alone)["synchronised"]
    first, *others = group(world, "fits_of_a_normalised_network")
    assert distance(first["synchronised"]["tensors"], expected["tensors"]) < 1e-9
    assert distance(first["apart"]["tensors"], expected["tensors"]) > 1e-4  # control
    for mode in ("synchronised", "apart"):
        assert first[mode]["type"] == "BatchNorm1d" and int(first[mode]["layers"][2]) == 18
        for other in others:
            assert torch.equal(other[mode]["tensors"], first[mode]["tensors"])
    assert "batch normalisation is synchronised" in first["synchronised"]["why"]
    assert "synchronised" not in first["apart"]["why"] + expected["why"]


def test_running_statistics_are_the_mean_and_all_else_is_of_the_first_process(group):
    found = group(2, "statistics_before_and_after_levelling")
    for number in (0, 1):
        mine, theirs = (one["before"][number] for one in found)
        assert distance(mine, theirs) > 1e-3
        assert all(distance(one["after"][number], (mine + theirs) / 2) < 1e-14 for one in found)
    assert all(torch.equal(one["after"][2], found[0]["before"][2]) for one in found)
    assert not torch.equal(found[1]["before"][2], found[0]["before"][2])  # control
    assert [one["count"] for one in found] == [1, 1]
