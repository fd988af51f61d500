"""MACs: multiply-accumulate operations of one forward pass, by layer, dense and sparse.

An operation costs half of what `torch.utils.flop_counter.FlopCounterMode` counts. One that multiplies by a layer's
weights, wherever in the code it happens, belongs to that layer; any other (products of attention, weights that were
computed on the way) belongs to the module whose forward it happens in. Weights times a number stay their layer's.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.modules.module import register_module_forward_hook, register_module_forward_pre_hook
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.dyrelu import DyReLU
from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.networks.placing import like

__all__ = ["Macs", "count_macs", "count_nonzero", "own_weights"]


class Macs(NamedTuple):
    """Multiply-accumulate operations for one example: all, and those with a weight that is not zero."""

    dense: int
    sparse: int


def count_macs(network: nn.Module, example_input: Any) -> dict[str, Macs]:
    """Counts the MACs of one example by module.

    The network runs once, in evaluation mode and without gradients, and is left as it was. Meanwhile PyTorch's fused
    kernels for attention and recurrent cells are off, because their MACs would not be seen. Positions that are
    padding count like any other, weights of a sparse layout like dense ones, and what is not a matrix product or a
    convolution (activations, normalisation, pooling, embeddings) counts nothing.

    Args:
        network: The network.
        example_input: A tensor `(n, ...)`, or a tuple of the network's inputs; it is put on the network's device and,
            if floating, in its dtype.

    Returns:
        MACs by dotted name of the module, "" for the network itself; modules without any are left out. Those of the
        batch are divided by n, the first dimension of the first tensor, and rounded. In `sparse` an operation on
        weights counts times the density of these weights, which is exact for linear layers and convolutions, as
        every weight is used equally often; other operations keep their dense count.

    Raises:
        ValueError: If the example input is empty, or the network does not take it.
    """
    inputs = _inputs(network, example_input)
    counter = FlopCounterMode(display=False)
    layers = _Layers(network, counter)
    with evaluation_mode(network), _nothing_hidden(), counter, layers.followed(), layers:
        try:
            network(*inputs)
        except Exception as problem:  # forward is the user's code
            shapes = ", ".join(str(tuple(part.shape)) if torch.is_tensor(part) else str(part) for part in inputs)
            reason = first_line(problem)
            raise ValueError(
                f"the network does not take an example input of shape {shapes} ({reason}): pass one that it can be "
                "called with"
            ) from problem
    halves = 2 * _batch_size(inputs)
    return {
        name: Macs((flops + halves // 2) // halves, (layers.sparse[name] + halves // 2) // halves)
        for name, flops in layers.dense.items()
    }


def own_weights(module: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    """The weights that a module itself holds: parameters of two or more dimensions, but no bias or normalisation.

    Nor is what a `DyReLU` calculates its slopes with: that is gone in the end.
    """
    if isinstance(module, (nn.LayerNorm, nn.RMSNorm, DyReLU)):
        return
    for name, parameter in module.named_parameters(recurse=False):
        if parameter.ndim >= 2 and not name.startswith("bias"):
            yield name, parameter


def count_nonzero(tensor: Tensor) -> int:
    """Number of entries that are not zero, by value in sparse layouts; on the meta device all are taken for it."""
    if tensor.is_meta:
        return tensor.numel()
    tensor = tensor.detach()
    if tensor.layout == torch.sparse_coo:
        tensor = tensor.coalesce()  # entries of one place are summed
    return int(torch.count_nonzero(_values(tensor)))


class _Layers(TorchDispatchMode):
    """Divides what the counter counts among the layers, while the network runs."""

    def __init__(self, network: nn.Module, counter: FlopCounterMode) -> None:
        super().__init__()
        self.dense: Counter[str] = Counter()
        self.sparse: Counter[str] = Counter()
        self._counter = counter
        self._names = {id(module): name for name, module in network.named_modules()}
        self._running = [""]
        self._scaled: list[Tensor] = []  # weights times a number, kept so that their places stay theirs
        # A storage may hold weights of several layers (views of one flat vector), so a place in it is kept as well.
        self._places: dict[int, list[tuple[range, str]]] = defaultdict(list)
        for name, module in network.named_modules():
            for _, weight in own_weights(module):
                storage, place = _place(weight)
                self._places[storage].append((place, name))

    @contextmanager
    def followed(self) -> Iterator[None]:
        """Notes which module is running; hooks of PyTorch as a whole, so that the network gets none."""

        def enter(module: nn.Module, _: Any) -> None:
            self._running.append(self._names.get(id(module), self._running[-1]))

        def leave(module: nn.Module, _: Any, __: Any) -> None:
            self._running.pop()

        with ExitStack() as hooks:
            hooks.callback(register_module_forward_pre_hook(enter).remove)
            hooks.callback(register_module_forward_hook(leave, always_call=True).remove)
            yield

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        before = self._counter.get_total_flops()
        result = func(*args, **(kwargs or {}))
        flops = self._counter.get_total_flops() - before
        if flops:
            self._note(flops, [arg for arg in args if isinstance(arg, Tensor)])
        elif func is torch.ops.aten.mul.Tensor:
            self._note_scaled(result, [arg for arg in args if isinstance(arg, Tensor)])
        return result

    def _note_scaled(self, product: Tensor, factors: list[Tensor]) -> None:
        """Notes that a layer's weights times a number, as shared blocks have them, are that layer's weights."""
        for weight, number in (factors, factors[::-1]) if len(factors) == 2 else ():
            owner = self._owner(weight)
            if owner is not None and number.ndim == 0 and product.shape == weight.shape:
                storage, place = _place(product)
                self._places[storage].append((place, owner))
                self._scaled.append(product)

    def _note(self, flops: int, tensors: list[Tensor]) -> None:
        for tensor in reversed(tensors):  # weights come last; before them there may be an input that is a parameter
            owner = self._owner(tensor)
            if owner is not None:
                self.dense[owner] += flops
                self.sparse[owner] += flops * count_nonzero(tensor) // max(math.prod(tensor.shape), 1)
                return
        self.dense[self._running[-1]] += flops
        self.sparse[self._running[-1]] += flops

    def _owner(self, tensor: Tensor) -> str | None:
        storage, place = _place(tensor)
        owners = [name for weight, name in self._places.get(storage, ()) if place.start in weight]
        if not owners:
            return None
        return self._running[-1] if self._running[-1] in owners else owners[0]  # tied weights: the layer that runs


def _place(tensor: Tensor) -> tuple[int, range]:
    """Which storage a tensor is a view of, and the range of it that it lies in."""
    values = _values(tensor)
    start = values.storage_offset()
    span = sum((size - 1) * step for size, step in zip(values.shape, values.stride(), strict=True))
    return values.untyped_storage()._cdata, range(start, start + span + 1)


def _values(tensor: Tensor) -> Tensor:
    if tensor.layout == torch.strided:
        return tensor
    return tensor._values() if tensor.layout == torch.sparse_coo else tensor.values()


@contextmanager
def _nothing_hidden() -> Iterator[None]:
    """No gradients, and only kernels that the counter knows: others, as the fused LSTM, would count as nothing."""
    attention = torch.backends.mha.get_fastpath_enabled()
    onednn, cudnn = torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled
    try:
        torch.backends.mha.set_fastpath_enabled(False)
        torch.backends.mkldnn.enabled = torch.backends.cudnn.enabled = False  # type: ignore[assignment]
        with torch.no_grad(), sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(attention)
        torch.backends.mkldnn.enabled, torch.backends.cudnn.enabled = onednn, cudnn


def _inputs(network: nn.Module, example_input: Any) -> tuple[Any, ...]:
    parts = tuple(example_input) if isinstance(example_input, (tuple, list)) else (example_input,)
    reference = next((p for p in network.parameters() if p.is_floating_point()), None)
    if not any(torch.is_tensor(part) and part.ndim for part in parts):
        raise ValueError("the example input holds no batch: pass a tensor (n, ...), or a tuple of the network's inputs")
    for part in parts:
        if torch.is_tensor(part) and part.numel() == 0:
            raise ValueError(f"the example input of shape {tuple(part.shape)} is empty: pass at least one example")
    if reference is None:
        return parts
    return tuple(like(part, reference) if torch.is_tensor(part) else part for part in parts)


def _batch_size(inputs: tuple[Any, ...]) -> int:
    return next(len(part) for part in inputs if torch.is_tensor(part) and part.ndim)
