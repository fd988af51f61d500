"""Local reparameterisation: draws of a layer's outputs in place of draws of its weights.

Kingma, Salimans & Welling 2015, eq. 6. For independent weights with means m and variances v the outputs of a linear
layer on inputs h of one row an example have mean h m' + b and variance h^2 v', and are independent of each other given
h. They are Normal where the weights are, and nearly so where an output sums many weights, such as spikes and slabs.
Drawn for every example anew they have the same distribution for each example, and gradients of less variance than one
draw of weights for the whole batch, without a draw of any weight.

That holds for inputs `(batch, in)` of a layer that is used once. In convolutions, and in layers that are shared over
time, one weight acts at several places of an example, and draws there would have to be correlated: only where
approximations were asked for are they drawn independently, with the right mean and variance each. What is dropped are
the covariances between the places, the sum over the weights that both see of h h' v: a sum over places then varies less
than it should (two places that see the same weight and input 1 with variance v: 2 v in place of 4 v).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from torch.overrides import TorchFunctionMode

__all__ = ["LocalReparameterisation", "OutputMoments", "UsesOfWeights"]

_CONVOLUTIONS = (functional.conv1d, functional.conv2d, functional.conv3d)
_METHODS = {"size", "dim", "numel", "stride", "is_contiguous", "is_floating_point", "ndimension", "__len__"}
_PROPERTIES = {"shape", "dtype", "device", "ndim", "requires_grad", "is_cuda", "layout", "is_sparse", "is_leaf"}
"""Methods and properties of a tensor that say what it is like, not what is in it."""

Layer = Callable[[Tensor, Tensor, Tensor | None], Tensor]


@dataclass(frozen=True)
class OutputMoments:
    """Of what moments a layer draws its outputs.

    Attributes:
        name: Name of the weight tensor.
        placed: The tensor that the network runs with.
        mean: Means of the weights, `(out, in, ...)`.
        variance: Variances of the weights, likewise.
    """

    name: str
    placed: Tensor
    mean: Tensor
    variance: Tensor


class LocalReparameterisation(TorchFunctionMode):
    """Inside, layers with one of the given weights draw their outputs.

    Args:
        moments: Of which weights.

    Attributes:
        used: Names of the tensors whose layers drew their outputs, in that order.

    Raises:
        ValueError: Inside, if the network does anything else with one of the weights.
    """

    def __init__(self, moments: Iterable[OutputMoments]) -> None:
        super().__init__()
        self._moments = {id(one.placed): one for one in moments}
        self.used: list[str] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Draws the outputs of a layer, or calls `func`."""
        kwargs = kwargs or {}
        met = [self._moments[key] for key in _tensors(args, kwargs) if key in self._moments]
        if not met or _only_looks(func):
            return func(*args, **kwargs)
        found = _layer(func, args, kwargs)
        if found is None or met != [self._moments.get(id(found[1]))]:
            raise ValueError(
                f"the network does something else with {met[0].name} than when its uses were looked at, but its layer "
                "draws its outputs: fit with local_reparameterisation=False"
            )
        x, _, bias, layer = found
        self.used.append(met[0].name)
        mean, variance = layer(x, met[0].mean, bias), layer(x.square(), met[0].variance, None)
        # An example whose inputs are all zero has no variance, where the root has no derivative.
        sd = variance.clamp_min(torch.finfo(variance.dtype).tiny).sqrt()
        return torch.addcmul(mean, sd, torch.randn_like(sd))


class UsesOfWeights(TorchFunctionMode):
    """Inside, what a network does with some tensors is noted.

    Args:
        tensors: Pairs of a name and the tensor that the network runs with.
        batch: Examples that the network is run on.

    Attributes:
        layers: How often each is the weight of a linear layer on inputs `(batch, in)`, by name.
        elsewhere: How often each is that of another layer: of a convolution, or on inputs of more dimensions.
        otherwise: Names of those of which something else is made.
    """

    def __init__(self, tensors: Iterable[tuple[str, Tensor]], batch: int) -> None:
        super().__init__()
        self._names = {id(tensor): name for name, tensor in tensors}
        self._batch = batch
        self.layers = dict.fromkeys(self._names.values(), 0)
        self.elsewhere = dict.fromkeys(self._names.values(), 0)
        self.otherwise: set[str] = set()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Notes what `func` is called with, and calls it."""
        kwargs = kwargs or {}
        met = [self._names[key] for key in _tensors(args, kwargs) if key in self._names]
        if met and not _only_looks(func):
            found = _layer(func, args, kwargs)
            if found is None or met != [self._names.get(id(found[1]))]:
                self.otherwise.update(met)
            elif func is functional.linear and found[0].ndim == 2 and len(found[0]) == self._batch:
                self.layers[met[0]] += 1
            else:
                self.elsewhere[met[0]] += 1
        return func(*args, **kwargs)

    def draw_outputs(self, approximate: bool) -> list[str]:
        """Names of the tensors whose layers can draw their outputs: each is the weight of one layer and nothing else.

        Args:
            approximate: Whether of other layers than those for which it is exact too.
        """
        return [
            name
            for name, count in self.layers.items()
            if name not in self.otherwise and (count, self.elsewhere[name]) in ([(1, 0), (0, 1)][: 1 + approximate])
        ]


def _layer(
    func: Callable[..., Any], args: Sequence[Any], kwargs: dict[str, Any]
) -> tuple[Tensor, Tensor, Tensor | None, Layer] | None:
    """Inputs, weight and bias of a layer, and how it makes outputs of such three; None for any other function."""
    if func is functional.linear:
        x, weight, bias, _ = _arguments(*args, **kwargs)
        return x, weight, bias, functional.linear
    if func in _CONVOLUTIONS:
        x, weight, bias, more = _arguments(*args, **kwargs)
        return x, weight, bias, lambda x, weight, bias: func(x, weight, bias, **more)
    return None


def _arguments(
    input: Tensor,  # noqa: A002  # the names are those of `torch.nn.functional`
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> tuple[Tensor, Tensor, Tensor | None, dict[str, Any]]:
    """The arguments of a linear layer or a convolution, by their signatures."""
    return input, weight, bias, {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}


def _only_looks(func: Callable[..., Any]) -> bool:
    """Whether a function asks what a tensor is like: its shape, its number format, its device."""
    name = getattr(func, "__name__", "")
    if name == "__get__":
        return getattr(getattr(func, "__self__", None), "__name__", "") in _PROPERTIES
    return name in _METHODS


def _tensors(args: Sequence[Any], kwargs: dict[str, Any]) -> list[int]:
    """What tensors are among the arguments, those in lists too."""
    found: list[int] = []
    for one in (*args, *kwargs.values()):
        if isinstance(one, Tensor):
            found.append(id(one))
        elif isinstance(one, (list, tuple)):
            found += _tensors(one, {})
        elif isinstance(one, dict):
            found += _tensors((), one)
    return found
