"""Batch normalisation: the statistics that belong to given weights, estimated on training data.

The running statistics that a fit leaves are an average over the draws of its last steps. They belong neither to another
draw nor to the weights of a pruned network, and there they are wrong. Estimating them again learns nothing from the
targets, so it is not fine-tuning.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _BatchNorm

from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.data.trainable_batch import TrainableBatches, seen_by
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.evaluation_mode import evaluation_mode, held_in_evaluation

__all__ = ["BATCH_SIZE", "reestimate_statistics", "statistics_at", "take_statistics", "tracked_layers"]

BATCH_SIZE = 256
_SEED = 0  # of the order of the data: sorted ones would make batches that are unlike each other


def tracked_layers(network: nn.Module) -> dict[str, _BatchNorm]:
    """Layers of batch normalisation whose running statistics follow the training, by name.

    Layers without running statistics are not among them, nor are those that are held in evaluation mode: those that
    are in it while the network is in training mode, or that were when it was fitted.
    """
    held = set(held_in_evaluation(network))
    return {
        name: layer
        for name, layer in network.named_modules()
        if isinstance(layer, _BatchNorm) and layer.running_mean is not None and layer not in held
    }


def reestimate_statistics(network: nn.Module, data: Data, batch_size: int = BATCH_SIZE) -> int:
    """Estimates the running statistics of batch normalisation again, IN PLACE, in one pass over training data.

    They become the mean and the unbiased variance of all values that a layer sees while it and the layers before it
    normalise by batch, as in training. Only batch normalisation is in training mode meanwhile (dropout is off).
    Modes, momentum and the global random state are left as they were. Layers without running statistics, and
    those that the network does not use, are skipped, and so are layers that are held in evaluation mode: those that
    are in it while the network is in training mode, or that were when it was fitted. Batches of a single example, of
    which a layer would get one value of each channel, are left out, as they have no variance.

    Args:
        network: The network; its buffers are changed.
        data: Training data: `(x, y)` tensors, a `Dataset` or a `DataLoader`; targets are not used.
        batch_size: Examples a batch; default 256.

    Returns:
        How many layers were estimated again; where there are none, the data are not touched.

    Raises:
        ValueError: If the network does not take the data, or statistics would not be finite; the network is then
            as it was.
    """
    layers = list(tracked_layers(network).values())
    if not layers:
        return 0
    reference = _reference(network)
    batches = Batches(data, batch_size, reference.device, reference.dtype)
    before = {layer: {name: buffer.clone() for name, buffer in layer.named_buffers(recurse=False)} for layer in layers}
    found: dict[_BatchNorm, _Moments] = {}
    try:
        found = _checked(_seen(network, layers, batches, {}))
    finally:
        with torch.no_grad():
            for layer, buffers in before.items():  # a forward pass has moved them, by the layer's momentum
                estimated = found[layer].buffers if layer in found else {}
                for name, buffer in layer.named_buffers(recurse=False):
                    buffer.copy_(estimated.get(name, buffers[name]))
    return len(found)


def statistics_at(
    network: nn.Module, weights: Mapping[str, Tensor], inputs: Tensor, batch_size: int = BATCH_SIZE
) -> dict[str, Tensor]:
    """The statistics that `reestimate_statistics` would give a network with these weights; nothing of it is changed.

    It costs one forward pass over the inputs.

    Args:
        network: The network.
        weights: Values of some of its parameters, by name; the others are its own.
        inputs: Training inputs, `(n, ...)`.
        batch_size: Examples a batch; default 256.

    Returns:
        Values of buffers by name, for `outputs_at` and `torch.func.functional_call`; none where no layer is tracked.
        Weights that are not finite have statistics that are not.

    Raises:
        ValueError: If the network does not take the inputs.
    """
    layers = tracked_layers(network)
    if not layers:
        return {}
    reference = _reference(network)
    batches = Batches((inputs, inputs), batch_size, reference.device, reference.dtype)
    own = {
        _joined(name, key): buffer.clone()
        for name, layer in layers.items()
        for key, buffer in layer.named_buffers(recurse=False)
    }
    seen = _seen(network, list(layers.values()), batches, {**weights, **own})
    return {
        _joined(name, key): value.to(own[_joined(name, key)])
        for name, layer in layers.items()
        if layer in seen
        for key, value in seen[layer].buffers.items()
    }


@torch.no_grad()
def take_statistics(network: nn.Module, inputs: Tensor) -> int:
    """As `reestimate_statistics` on inputs alone, but where statistics cannot be had, IN PLACE, the old ones stay.

    Args:
        network: The network; its buffers are changed.
        inputs: Training inputs, `(n, ...)`.

    Returns:
        How many layers were estimated again: none if statistics would not be finite, or no layer sees a batch.

    Raises:
        ValueError: If the network does not take the inputs.
    """
    found = statistics_at(network, {}, inputs)
    if not all(bool(torch.isfinite(value).all()) for value in found.values()):
        return 0
    for name, value in found.items():
        network.get_buffer(name).copy_(value)
    return sum(name.rpartition(".")[2] == "running_mean" for name in found)


def _joined(module: str, buffer: str) -> str:
    return f"{module}.{buffer}" if module else buffer


def _reference(network: nn.Module) -> Tensor:
    tensors = itertools.chain(network.parameters(), network.buffers())
    return next(tensor for tensor in tensors if tensor.is_floating_point())


def _seen(
    network: nn.Module, layers: list[_BatchNorm], batches: Batches, given: Mapping[str, Tensor]
) -> dict[_BatchNorm, _Moments]:
    """What layers see in a pass over the data, with the given parameters and buffers in place of the network's own."""
    devices = [batches.device] if batches.device.type == "cuda" else []
    with torch.no_grad(), torch.random.fork_rng(devices), _watched(network, layers) as seen:
        torch.manual_seed(_SEED)
        trainable = TrainableBatches()
        for x, _ in batches:
            if trainable(network, x):
                _forward(network, given, x)
    return seen


@dataclass
class _Moments:
    """Count, mean and sum of squared deviations of each channel, added up in float64: `(channels,)`."""

    count: int
    mean: Tensor
    deviations: Tensor
    batches: int = 1

    @staticmethod
    def of(values: Tensor) -> _Moments:
        """Those of `(n, channels, ...)`, of one batch in its own dtype: in double they cost more than the layers do."""
        flat = values.detach().movedim(1, 0).flatten(1)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        mean = flat.mean(dim=1)
        return _Moments(flat.shape[1], mean.double(), (flat - mean[:, None]).square_().sum(dim=1).double())

    def __add__(self, other: _Moments) -> _Moments:
        """Those of both together (Chan, Golub & LeVeque 1983)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        return _Moments(
            count,
            self.mean + apart * (other.count / count),
            self.deviations + other.deviations + apart.square() * (self.count * other.count / count),
            self.batches + other.batches,
        )

    @property
    def buffers(self) -> dict[str, Tensor]:
        """As batch normalisation keeps them."""
        variance = self.deviations / (self.count - 1)
        tracked = torch.tensor(self.batches)
        return {"running_mean": self.mean, "running_var": variance, "num_batches_tracked": tracked}


@contextmanager
def _watched(network: nn.Module, layers: list[_BatchNorm]) -> Iterator[dict[_BatchNorm, _Moments]]:
    """Evaluation mode but for these layers; yields the moments of what they have seen, which grow with every batch.

    `torch.optim.swa_utils.update_bn` puts the whole network in training mode, dropout included, gives a smaller last
    batch the weight of a whole one, and leaves out the variance between batches.
    """
    seen: dict[_BatchNorm, _Moments] = {}

    def watch(layer: nn.Module, inputs: tuple[Tensor, ...], named: dict[str, Tensor]) -> None:
        assert isinstance(layer, _BatchNorm)
        if not layer.training:
            return  # `TrainableBatches` tries a batch
        more = _Moments.of(seen_by(inputs, named))
        seen[layer] = seen[layer] + more if layer in seen else more

    hooks = [layer.register_forward_pre_hook(watch, with_kwargs=True) for layer in layers]
    try:
        with evaluation_mode(network):
            for layer in layers:
                layer.train()
            yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _forward(network: nn.Module, given: Mapping[str, Tensor], x: Tensor) -> None:
    try:
        functional_call(network, dict(given), (x,)) if given else network(x)
    except (RuntimeError, ValueError, IndexError) as problem:
        reason = first_line(problem)
        raise ValueError(f"the network does not take inputs of shape {tuple(x.shape)} ({reason})") from problem


def _checked(seen: dict[_BatchNorm, _Moments]) -> dict[_BatchNorm, _Moments]:
    if not seen:
        raise ValueError(
            "batch normalisation saw no batch of two examples or more: give more data, or a larger batch_size"
        )
    for moments in seen.values():
        if not bool(torch.isfinite(moments.mean + moments.deviations).all()):
            raise ValueError(
                "statistics of batch normalisation came out as NaN or infinite: look for such numbers in the inputs "
                "and in the weights"
            )
    return seen
