"""Magnitude pruning in plain torch: the baselines that a sparse prior has to beat.

* `train_dense`: ordinary training.
* `one_shot`: global magnitude pruning of a trained network, no fine-tuning.
* `train_gradual`: gradual magnitude pruning (Zhu and Gupta 2017, "To prune, or not to prune", equation 1),
  global rather than per layer, in the same total number of epochs as dense training; or to a number of weights in
  each layer, where one is given.

Weight matrices (parameters of two or more dimensions) are pruned, biases never. Counts are exact: of D
weights, round(sparsity * D) are zero; equal magnitudes are pruned in order of their index. The data are
tensors in memory and a seed fixes both the starting point and the order of the batches, so dense and
gradual runs of one seed are paired.
"""

from __future__ import annotations

import copy
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional


@dataclass(frozen=True)
class Settings:
    """How to train.

    Attributes:
        epochs: passes over the data, in all.
        optimizer: "sgd" or "adam" (whose weight decay is added to the gradient, as in torch's Adam).
        learning_rate: at the start.
        momentum: for "sgd" only.
        weight_decay: per datum, on every parameter.
        schedule: "constant", "cosine" (to 0, per step) or "step" (times 0.1 at 1/2 and at 3/4 of the steps).
        batch_size: examples per step; the last batch of an epoch may be smaller.
        seed: of the starting weights and of the batches' order.
    """

    epochs: int = 20
    optimizer: str = "sgd"
    learning_rate: float = 0.1
    momentum: float = 0.9
    weight_decay: float = 1e-4
    schedule: str = "cosine"
    batch_size: int = 128
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse names that do not exist."""
        if self.optimizer not in ("sgd", "adam"):
            raise ValueError(f"The optimizer is {self.optimizer!r}, expected sgd or adam: choose one.")
        if self.schedule not in ("constant", "cosine", "step"):
            raise ValueError(f"The schedule is {self.schedule!r}, expected constant, cosine or step: choose one.")


@dataclass(frozen=True)
class Trained:
    """A network and what to ask of it.

    Attributes:
        network: as it was after the last step.
        masks: parameter name to a boolean mask, True where the weight is kept; all True if never pruned.
    """

    network: nn.Module
    masks: dict[str, Tensor]

    def accuracy(self, x: Tensor, y: Tensor) -> float:
        """Return the share of examples classified right, in [0, 1]."""
        return accuracy(self.network, x, y)

    @property
    def sparsity(self) -> float:
        """The fraction of exact zeros among the weight matrices."""
        weights = list(weight_matrices(self.network).values())
        return sum(int((w == 0).sum()) for w in weights) / sum(w.numel() for w in weights)


def lenet_300_100(in_features: int = 784, classes: int = 10, seed: int = 0) -> nn.Sequential:
    """Build LeNet-300-100 with torch's default initialisation, from `seed` and not the global generator."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(
            OrderedDict(
                flatten=nn.Flatten(),
                fc1=nn.Linear(in_features, 300),
                relu1=nn.ReLU(),
                fc2=nn.Linear(300, 100),
                relu2=nn.ReLU(),
                fc3=nn.Linear(100, classes),
            )
        )


def weight_matrices(network: nn.Module) -> dict[str, nn.Parameter]:
    """Return the parameters that pruning acts on: two or more dimensions, in the network's order."""
    return {name: p for name, p in network.named_parameters() if p.dim() >= 2}


@torch.no_grad()
def accuracy(network: nn.Module, x: Tensor, y: Tensor, batch_size: int = 2048) -> float:
    """Return the share of examples classified right, in [0, 1]."""
    was_training = network.training
    network.eval()
    right = 0
    for begin in range(0, len(x), batch_size):
        guesses = network(x[begin : begin + batch_size]).argmax(1)
        right += int((guesses == y[begin : begin + batch_size]).sum())
    network.train(was_training)
    return right / len(x)


def pruned_count(sparsity: float, total: int) -> int:
    """Return how many of `total` weights a sparsity in [0, 1) sets to zero."""
    if not 0.0 <= sparsity < 1.0:
        raise ValueError(f"The sparsity is {sparsity}, expected a fraction in [0, 1): give one.")
    return round(sparsity * total)


@torch.no_grad()
def global_masks(
    weights: dict[str, nn.Parameter], sparsity: float, previous: dict[str, Tensor] | None = None
) -> dict[str, Tensor]:
    """Return masks (True: keep) that drop the smallest magnitudes of all tensors together.

    Args:
        weights: name to tensor.
        sparsity: fraction to drop, of all weights together.
        previous: earlier masks; what they dropped is dropped first, so that nothing comes back by a tie.
    """
    flat = torch.cat([w.detach().abs().flatten() for w in weights.values()])
    if previous is not None:
        flat[~torch.cat([previous[name].flatten() for name in weights])] = -1.0
    order = torch.argsort(flat, stable=True)
    keep = torch.ones(flat.numel(), dtype=torch.bool, device=flat.device)
    keep[order[: pruned_count(sparsity, flat.numel())]] = False
    parts = torch.split(keep, [w.numel() for w in weights.values()])
    return {name: part.view(w.shape) for (name, w), part in zip(weights.items(), parts, strict=True)}


def layer_masks(
    weights: dict[str, nn.Parameter], left: Mapping[str, int], share: float, previous: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Return masks that drop the smallest magnitudes of each tensor by itself.

    Args:
        weights: name to tensor.
        left: how many of each are left in the end.
        share: how much of what goes in the end has gone, 1 in the end.
        previous: earlier masks, as in `global_masks`.
    """
    found = {}
    for name, w in weights.items():
        gone = share * (w.numel() - left[name]) / w.numel()
        # A budget that has been learned may leave nothing of a layer.
        every = {name: torch.zeros_like(w, dtype=torch.bool)}
        found |= every if gone >= 1.0 else global_masks({name: w}, gone, {name: previous[name]})
    return found


@torch.no_grad()
def one_shot(network: nn.Module, sparsity: float) -> Trained:
    """Return a copy of the network with its globally smallest weights set to zero; no training follows."""
    pruned = copy.deepcopy(network)
    weights = weight_matrices(pruned)
    masks = global_masks(weights, sparsity)
    for name, w in weights.items():
        w.mul_(masks[name])
    return Trained(pruned, masks)


def cubic_sparsity(step: int, begin: int, end: int, final: float) -> float:
    """Return s_t = s_f (1 - (1 - (t - t0) / (t1 - t0))^3): 0 until `begin`, `final` from `end` on."""
    if step >= end:
        return final
    if step <= begin:
        return 0.0
    return final * (1.0 - (1.0 - (step - begin) / (end - begin)) ** 3)


def train_dense(x: Tensor, y: Tensor, settings: Settings | None = None, network: nn.Module | None = None) -> Trained:
    """Train without pruning.

    Args:
        x: inputs, float, (n, ...).
        y: labels, int64, (n,).
        settings: default `Settings()`.
        network: starting point, copied; default LeNet-300-100 from the settings' seed.

    Returns:
        The network after the last epoch.
    """
    return _train(x, y, settings or Settings(), network, None)


def train_gradual(
    x: Tensor,
    y: Tensor,
    sparsity: float,
    settings: Settings | None = None,
    network: nn.Module | None = None,
    start: float = 0.1,
    end: float = 0.7,
    every: int = 100,
    layers: Mapping[str, int] | None = None,
) -> Trained:
    """Train with gradual global magnitude pruning, in `settings.epochs` epochs all told.

    Args:
        x: inputs, float, (n, ...).
        y: labels, int64, (n,).
        sparsity: final fraction of zeros among the weight matrices.
        settings: default `Settings()`.
        network: starting point, copied; default LeNet-300-100 from the settings' seed.
        start: fraction of the steps at which pruning begins.
        end: fraction of the steps at which the final sparsity is reached; training goes on to the last step.
        every: steps between updates of the masks.
        layers: how many weights of each matrix are left, in place of `sparsity`; default none: global.

    Returns:
        The network after the last epoch, exactly as sparse as asked.
    """
    pruned_count(sparsity, 1)  # refuses an impossible sparsity before any training
    if not 0.0 <= start < end <= 1.0 or every < 1:
        raise ValueError(
            f"Got start={start}, end={end}, every={every}, expected 0 <= start < end <= 1 and every >= 1: change them."
        )
    steps = total_steps(len(x), settings or Settings())
    begin, stop = round(start * steps), max(round(end * steps), 1)

    def wanted(step: int) -> float | None:
        # The last update is at `stop` whether or not `every` divides the span.
        due = begin <= step <= stop and ((step - begin) % every == 0 or step == stop)
        return cubic_sparsity(step, begin, stop, sparsity if layers is None else 1.0) if due else None

    return _train(x, y, settings or Settings(), network, wanted, layers)


def total_steps(examples: int, settings: Settings) -> int:
    """Return the number of updates that the settings make on so many examples."""
    return settings.epochs * math.ceil(examples / settings.batch_size)


def _train(
    x: Tensor,
    y: Tensor,
    settings: Settings,
    network: nn.Module | None,
    wanted: Callable[[int], float | None] | None,
    layers: Mapping[str, int] | None = None,
) -> Trained:
    """Train; after step t (counted from 1) prune to `wanted(t)` unless that is None."""
    if network is None:
        network = lenet_300_100(x[0].numel(), int(y.max()) + 1, settings.seed)
    network = copy.deepcopy(network).to(x.device).train()
    weights = weight_matrices(network)
    masks = {name: torch.ones_like(w, dtype=torch.bool) for name, w in weights.items()}
    optimizer = _optimizer(network, settings)
    total = total_steps(len(x), settings)
    pruning = False
    for step, (xs, ys) in enumerate(_batches(x, y, settings), start=1):
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate * _rate_factor(settings.schedule, step - 1, total)
        optimizer.zero_grad()
        functional.cross_entropy(network(xs), ys).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        target = wanted(step) if wanted is not None else None
        if target is not None and target > 0.0:
            pruning = True
            masks = layer_masks(weights, layers, target, masks) if layers else global_masks(weights, target, masks)
        if pruning:
            # Also wipes what momentum has just done to a masked weight.
            with torch.no_grad():
                for name, w in weights.items():
                    w.mul_(masks[name])
    return Trained(network.eval(), masks)


def _optimizer(network: nn.Module, settings: Settings) -> torch.optim.Optimizer:
    if settings.optimizer == "adam":
        return torch.optim.Adam(
            network.parameters(), lr=settings.learning_rate, weight_decay=settings.weight_decay, fused=True
        )
    return torch.optim.SGD(
        network.parameters(),
        lr=settings.learning_rate,
        momentum=settings.momentum,
        weight_decay=settings.weight_decay,
        fused=True,
    )


def _rate_factor(schedule: str, step: int, total: int) -> float:
    """Return the learning rate at a step (from 0) over the first one."""
    if schedule == "cosine":
        return 0.5 * (1.0 + math.cos(math.pi * step / total))
    if schedule == "step":
        return 1.0 if step < total / 2 else (0.1 if step < 3 * total / 4 else 0.01)
    return 1.0


def _batches(x: Tensor, y: Tensor, settings: Settings) -> Iterator[tuple[Tensor, Tensor]]:
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(settings.epochs):
        order = torch.randperm(len(x), generator=generator).to(x.device)
        for rows in torch.split(order, settings.batch_size):
            yield x[rows], y[rows]
