"""Data of each kind are shared out among processes in the order of one process."""

from __future__ import annotations

import pytest
import torch

from bayesprune.inference.runtime.share import Share
from tests.inference.runtime import data_checks
from tests.inference.runtime.many_processes import alone
from tests.inference.runtime.problems import SIZE, distance

WORLDS = (2, 3)


@pytest.fixture(scope="module")
def one_process():
    return data_checks.batches_of_all_kinds(alone)


@pytest.mark.parametrize("kind", data_checks.KINDS)
@pytest.mark.parametrize("world", WORLDS)
def test_batches_are_those_of_one_process_in_parts(group, one_process, world, kind):
    every = [found[kind] for found in group(world, "batches_of_all_kinds")]
    expected = one_process[kind]["seen"]
    assert len(expected) == (10 if kind == "loader that drops the last" else 12)
    assert all(len(one["seen"]) == len(expected) for one in every)
    for step, (x, y, weight) in enumerate(expected):
        steps = [one["seen"][step] for one in every]
        assert torch.equal(torch.cat([part[0] for part in steps]), x) and weight == 1.0
        assert torch.equal(torch.cat([part[1] for part in steps]), y)
        for rank, (part, _, weight) in enumerate(steps):
            assert len(part) == len(x[Share(rank, world).rows(len(x))]) and weight == Share(rank, world).weight(len(x))
    if "shuffles" in kind or kind in ("tensors", "data set", "loader with a generator"):
        assert not torch.equal(expected[0][0], expected[6][0])  # control: in a new order each epoch
    for one in every:
        assert distance(one["tensors"], one_process[kind]["tensors"]) < 1e-11


@pytest.mark.parametrize("world", WORLDS)
def test_a_process_loads_its_own_examples_of_a_data_set_only(group, one_process, world):
    every = [found["data set"]["counts"] for found in group(world, "batches_of_all_kinds")]
    assert one_process["data set"]["counts"] == [2 * SIZE]
    batches = [17] * 5 + [16]
    for rank, counts in enumerate(every):
        assert counts == [2 * sum(len(range(size)[Share(rank, world).rows(size)]) for size in batches)]
    assert sum(sum(counts) for counts in every) == 2 * SIZE


def test_the_size_of_data_is_that_of_whole_batches(group):
    first, other = group(2, "sizes_of_data")
    assert first == other
    for (kind, size), sentence in first.items():
        if size == SIZE:
            assert not sentence, kind
        else:  # also where it is the number of examples that a process is given
            assert sentence.startswith("ValueError: ") and f"data_size={size}" in sentence and str(SIZE) in sentence, (
                kind
            )
