"""The default length: 30 passes, and never fewer than 2,500 steps."""

from __future__ import annotations

import pytest
import torch
from torch.utils.data import DataLoader, IterableDataset

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.defaults.length import LEAST_STEPS, PASSES, default_epochs


def batches(data, size=128):
    return Batches(data, size, torch.device("cpu"), torch.float32)


@pytest.mark.parametrize(
    ("examples", "size", "epochs"),
    [(60_000, 128, 30), (1294, 128, 228), (309, 128, 834), (20, 128, 2500), (640, 1, 30)],
)
def test_thirty_passes_with_a_floor_in_steps(examples, size, epochs):
    data = batches((torch.zeros(examples, 1), torch.zeros(examples)), size)
    assert default_epochs(data) == epochs
    assert epochs == PASSES or (epochs - 1) * data.steps_in(1) < LEAST_STEPS <= epochs * data.steps_in(1)


def test_a_share_is_of_both():
    data = batches((torch.zeros(60_000, 1), torch.zeros(60_000)))
    assert default_epochs(data, 1 / 3) == 10
    few = batches((torch.zeros(128, 1), torch.zeros(128)))
    assert default_epochs(few, 1 / 3) == 833 and default_epochs(few, 1e-9) == 1


def test_a_stream_asks_for_steps():
    class Stream(IterableDataset):
        def __iter__(self):
            yield torch.zeros(1), torch.zeros(())

    with pytest.raises(ValueError, match="give steps="):
        default_epochs(batches(DataLoader(Stream(), batch_size=4)))
