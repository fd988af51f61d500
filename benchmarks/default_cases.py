"""The data sets and networks on which bare defaults are tried, and the plain network that they are held against.

Every case is what a user would write: data through `load_data`, a network, patterns of the weights of two or more
dimensions. The plain network is the same one, from the same starting weights, trained by a loop of plain PyTorch.
"""

from __future__ import annotations

import copy
import functools
import tempfile
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from sklearn import datasets
from torch import Tensor, nn
from torch.nn import functional

import bayesprune as bp
from bayesprune.data.sets import DataSplits
from bayesprune.inference.rules.schedules import hold_then_cosine
from bayesprune.models.likelihoods.names import likelihood_class
from bayesprune.models.ready_networks import make_ready
from bayesprune.runs.declaration import resolve_prior

RATE, BATCH = 1e-3, 128
"""Of the plain network: those of `bayesprune.fit`."""
Shape = tuple[int, ...]


@dataclass(frozen=True)
class Case:
    """A data set with a network for it.

    Attributes:
        load: Makes the data from the seed of the validation split.
        network: Makes the network from the shape of an input and the number of outputs.
        on: Patterns of the weights under a prior: all of two dimensions or more.
        seeds: How many seeds are fitted unless said otherwise.
    """

    load: Callable[[int], DataSplits]
    network: Callable[[Shape, int], nn.Module]
    on: tuple[str, ...] = ("*.weight",)
    seeds: int = 3

    def start(self, splits: DataSplits, seed: int) -> nn.Module:
        """The network at the starting weights of a seed; the global random state is left as it was."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return self.network(splits.input_shape, splits.classes or 1)

    def model(self, splits: DataSplits, prior: str, seed: int) -> bp.BayesianNetwork:
        """The model with a ready prior at its defaults."""
        size = len(splits.train[0])
        made = resolve_prior(prior, {}, size)
        network, likelihood = (
            self.start(splits, seed),
            likelihood_class("normal" if splits.classes is None else "categorical")(),
        )
        if isinstance(made, bp.UnitGates):
            example = torch.zeros(1, *splits.input_shape)
            return bp.BayesianNetwork(network, {}, likelihood, size, gates=made, example_input=example)
        return bp.BayesianNetwork(network, dict.fromkeys(self.on, made), likelihood, size)


class RowsByGRU(nn.Module):
    """A GRU that reads an image row by row, and a linear layer on its last state."""

    def __init__(self, pixels: int, outputs: int, width: int = 64) -> None:
        super().__init__()
        self.gru = nn.GRU(pixels, width, batch_first=True)
        self.fc = nn.Linear(width, outputs)

    def forward(self, x: Tensor) -> Tensor:
        """`(n, 1, rows, pixels)` to `(n, outputs)`."""
        states, _ = self.gru(x.squeeze(1))
        out: Tensor = self.fc(states[:, -1])
        return out


def small_cnn(input_shape: Shape, outputs: int, channels: int = 16) -> nn.Sequential:
    """Two convolutions of 3 x 3 with batch normalisation, a pooling after each, and a linear layer."""
    side = input_shape[1] // 2 // 2
    return nn.Sequential(
        OrderedDict[str, nn.Module](
            conv1=nn.Conv2d(input_shape[0], channels, 3, padding=1),
            bn1=nn.BatchNorm2d(channels),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(2),
            conv2=nn.Conv2d(channels, channels, 3, padding=1),
            bn2=nn.BatchNorm2d(channels),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(channels * side * side, outputs),
        )
    )


@functools.lru_cache(maxsize=1)
def _named(name: str, seed: int) -> DataSplits:
    return bp.load_data(name, seed=seed)


@functools.lru_cache(maxsize=1)
def fashion(seed: int, examples: int | None = None) -> DataSplits:
    """Fashion-MNIST with so many examples to train on (default all that are not for validation), a tenth held out."""
    splits = _named("fashion-mnist", seed)
    if examples is None:
        return splits
    order = torch.randperm(len(splits.train[0]), generator=torch.Generator().manual_seed(seed))[:examples]
    x, y = splits.validation
    held = slice(0, examples // 10)
    train = (splits.train[0][order], splits.train[1][order])
    return replace(splits, train=train, validation=(x[held], y[held]))


@functools.lru_cache(maxsize=1)
def table_data(name: str, seed: int, scaled: bool = False) -> DataSplits:
    """A table of scikit-learn as a user's file of it; `scaled`: with targets of mean 0 and standard deviation 1."""
    found = getattr(datasets, f"load_{name}")()
    y = (found.target - found.target.mean()) / found.target.std() if scaled else found.target
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / f"{name}.npz"
        np.savez(file, x=found.data, y=y)
        return replace(bp.load_data(file, seed=seed), name=name)


_mlp = functools.partial(make_ready, "lenet-300-100")
CASES: dict[str, Case] = {
    "digits": Case(functools.partial(_named, "digits"), _mlp),
    "breast-cancer": Case(functools.partial(table_data, "breast_cancer"), _mlp),
    "diabetes-scaled": Case(functools.partial(table_data, "diabetes", scaled=True), _mlp),
    "diabetes-raw": Case(functools.partial(table_data, "diabetes"), _mlp),
    "fashion-5000": Case(functools.partial(fashion, examples=5000), _mlp),
    "cnn": Case(functools.partial(_named, "digits"), small_cnn, ("conv*.weight", "fc.weight")),
    "gru": Case(
        functools.partial(_named, "digits"), lambda shape, outputs: RowsByGRU(shape[-1], outputs), ("*.weight*",)
    ),
    "fashion-60000": Case(fashion, _mlp, seeds=1),
}
"""By name: LeNet-300-100, the command line's default network, but for the CNN and the GRU, both on digits."""


def train_plain(network: nn.Module, splits: DataSplits, steps: int, seed: int) -> nn.Module:
    """Trains a copy of the network: Adam, the batches, the schedule and the number of steps of `fit`, nothing else.

    Args:
        network: The starting point.
        splits: The data; cross entropy for labels, else the squared error.
        steps: Optimizer steps.
        seed: Of the batches' order.

    Returns:
        The network after the last step, in evaluation mode.
    """
    plain = copy.deepcopy(network).train()
    x, y = splits.train
    loss = functional.mse_loss if splits.classes is None else functional.cross_entropy
    optimizer = torch.optim.Adam(plain.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: hold_then_cosine(step / steps))
    generator = torch.Generator().manual_seed(seed)
    done = 0
    while done < steps:
        for rows in torch.randperm(len(x), generator=generator).split(BATCH)[: steps - done]:
            optimizer.zero_grad()
            outputs = plain(x[rows])
            loss(outputs.squeeze(-1) if splits.classes is None else outputs, y[rows]).backward()
            optimizer.step()
            schedule.step()
            done += 1
    return plain.eval()


@torch.no_grad()
def plain_figures(network: nn.Module, splits: DataSplits) -> dict[str, float]:
    """What a plain network scores on the test data: accuracy and nll, or rmse."""
    x, y = splits.test
    outputs = torch.cat([network(part) for part in x.split(1024)])
    if splits.classes is None:
        return {"rmse": float(functional.mse_loss(outputs.squeeze(-1), y).sqrt())}
    accuracy = float((outputs.argmax(1) == y).double().mean())
    return {"accuracy": accuracy, "nll": float(functional.cross_entropy(outputs, y))}


def constant_figures(splits: DataSplits) -> dict[str, float]:
    """What the best constant prediction of the training data scores on the test data: accuracy, or rmse."""
    train, test = splits.train[1], splits.test[1]
    if splits.classes is None:
        return {"rmse": float((test - train.mean()).square().mean().sqrt())}
    return {"accuracy": float((test == train.bincount().argmax()).double().mean())}
