"""Which examples a process takes of a batch, and with what weight."""

from __future__ import annotations

import pytest
import torch

from bayesprune.inference.runtime.environment import processes_here, processes_on_this_node
from bayesprune.inference.runtime.share import LEAST, WHOLE, Share

SIZES = (1, 2, 3, 5, 6, 7, 16, 17, 101, 128)


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_shares_are_a_partition_as_equal_as_can_be(world):
    for size in SIZES:
        rows = [list(range(size))[Share(rank, world).rows(size)] for rank in range(world)]
        if size < LEAST * world:
            assert all(one == list(range(size)) for one in rows)  # whole, by all
        else:
            assert sum(rows, []) == list(range(size))
            assert max(map(len, rows)) - min(map(len, rows)) <= 1 and min(map(len, rows)) >= LEAST


@pytest.mark.parametrize("world", [1, 2, 3, 4, 7])
def test_weights_make_the_mean_of_means_that_over_the_batch(world):
    generator = torch.Generator().manual_seed(0)
    for size in SIZES:
        values = torch.randn(size, generator=generator, dtype=torch.float64)
        shares = [Share(rank, world) for rank in range(world)]
        means = torch.stack([one.weight(size) * values[one.rows(size)].mean() for one in shares])
        assert float(means.mean()) == pytest.approx(float(values.mean()), abs=1e-14)
        assert sum(one.weight(size) for one in shares) == pytest.approx(world, abs=1e-12)
    uneven = torch.stack([values[:101][Share(rank, 3).rows(101)].mean() for rank in range(3)]).mean()
    assert abs(float(uneven - values[:101].mean())) > 1e-6  # control: without weights


def test_the_share_of_one_process_is_all():
    assert WHOLE.rows(5) == slice(0, 5) and WHOLE.weight(5) == 1.0


# -- what the launcher says ------------------------------------------------------------------------------------

TORCHRUN = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_WORLD_SIZE": "2"}
SLURM = {"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_STEP_TASKS_PER_NODE": "3(x2)"}


@pytest.mark.parametrize(
    ("told", "expected"),
    [
        ({}, ((0, 1), 1)),
        (TORCHRUN, ((3, 4), 2)),
        (SLURM, ((5, 6), 3)),
        (SLURM | TORCHRUN, ((3, 4), 2)),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, ((0, 1), 1)),  # of a batch script: no step of srun
        ({"RANK": "first", "WORLD_SIZE": "2"}, ((0, 1), 1)),
        ({"RANK": "1", "WORLD_SIZE": "2"}, ((1, 2), 2)),
    ],
    ids=["nothing", "torchrun", "srun", "torchrun in a job", "batch script", "no number", "one machine"],
)
def test_which_process_this_is_says_the_launcher(monkeypatch, told, expected):
    for name in (*TORCHRUN, *SLURM, "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    for name, value in told.items():
        monkeypatch.setenv(name, value)
    assert (processes_here(), processes_on_this_node()) == expected
