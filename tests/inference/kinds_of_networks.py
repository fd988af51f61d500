"""Small networks of every way in which layers are used: once, twice, over time, at places, after normalisation."""

from __future__ import annotations

import torch
from torch import nn


class Shared(nn.Module):
    """A layer that runs twice, and one whose weight is read beside its layer."""

    def __init__(self):
        super().__init__()
        self.a, self.b, self.c = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 3)

    def forward(self, x):
        return self.c(torch.tanh(self.b(self.a(torch.tanh(self.a(x)))))) + torch.tanh(x) @ self.b.weight


class Recurrent(nn.Module):
    def __init__(self):
        super().__init__()
        self.cell, self.out = nn.GRU(2, 3, batch_first=True), nn.Linear(3, 3)

    def forward(self, x):
        return self.out(self.cell(x)[0][:, -1])


NETWORKS = {
    "linear": (lambda: nn.Sequential(nn.Linear(3, 5), nn.Tanh(), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)), (3,)),
    "batch normalisation": (lambda: nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.Linear(5, 3)), (3,)),
    "convolution": (
        lambda: nn.Sequential(nn.Conv2d(2, 2, 2), nn.Tanh(), nn.Flatten(), nn.Linear(2 * 2 * 2, 3)),
        (2, 3, 3),
    ),
    "shared": (Shared, (3,)),
    "recurrent": (Recurrent, (4, 2)),
    "sequence": (lambda: nn.Sequential(nn.Linear(2, 3), nn.Tanh(), nn.Flatten(), nn.Linear(12, 3)), (4, 2)),
}
"""How each is made, and the shape of one of its inputs."""
