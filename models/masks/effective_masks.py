"""Which weights of masks lie on a path from input to output: the others connect nothing, however well they are trained.

As SynFlow (Tanaka et al. 2020) does it a network is run with masks in place of weights on an input of ones, and its
gradient says what reaches what: a weight is on a path where its input is reached and its output reaches the network's.
Numbers of paths are cut to 0 and 1 at every layer, forward and backward, so that they are boolean products of the
masks, exact at any depth.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.networks.placing import looks_up
from bayesprune.models.networks.recurrent import RECURRENT_KERNELS, step_by_step

__all__ = ["effective_masks"]

NOTHING = 1e-6
"""What counts as zero: whatever arrives is at least one over the size of a pooled map."""
_Rule = Callable[..., Any]


def effective_masks(network: nn.Module, masks: Mapping[str, Tensor], input_shape: tuple[int, ...]) -> dict[str, Tensor]:
    """The weights of masks that lie on a path from an input to an output.

    Activations, normalisation (with the mean and variance that it takes over channels) and dropout pass on what they
    get; max pooling passes on all that it pools; biases are no paths; tensors without a mask connect wherever they are
    not zero. A product is closed where a factor is; a factor that comes from a sigmoid never is, so that gates of
    recurrent cells and of squeeze-and-excitation are open. A learned parameter that is added to activations is a bias.
    A weight that several layers share is on a path where it is on one in any of them.

    Args:
        network: The network; it is left as it was.
        masks: Boolean, `(out, in, ...)`, by name of its parameter.
        input_shape: Shape of one input, without the batch.

    Returns:
        Boolean, by name, each within its mask.

    Raises:
        ValueError: If the network cannot be run in this way.
    """
    ones = {name: mask.double().requires_grad_() for name, mask in masks.items()}
    others = {name: _passing(name, value) for name, value in network.named_parameters() if name not in masks}
    buffers = {
        name: value.double() if value.is_floating_point() else value.clone() for name, value in network.named_buffers()
    }
    device = next(iter(masks.values())).device
    x = torch.ones((1, *input_shape), dtype=torch.int64 if looks_up(network) else torch.float64, device=device)
    try:
        with torch.enable_grad(), evaluation_mode(network), _Paths(others.values()):
            outputs = torch.func.functional_call(network, {**ones, **others, **buffers}, (x,))
            outputs = outputs if isinstance(outputs, Tensor) else outputs[0]
            with torch._C.DisableTorchFunction():
                slopes = torch.autograd.grad(outputs.sum(), list(ones.values()), allow_unused=True)
    except (RuntimeError, TypeError, ValueError, AttributeError, IndexError, NotImplementedError) as problem:
        raise ValueError(
            f"paths through {type(network).__name__} cannot be followed by running it with masks on an input of ones "
            f"of {(1, *input_shape)} ({type(problem).__name__}: {problem}): look at masks without paths"
        ) from problem
    return {
        name: mask & (slope > NOTHING) if slope is not None else torch.zeros_like(mask)
        for (name, mask), slope in zip(masks.items(), slopes, strict=True)
    }


def _passing(name: str, value: Tensor) -> Tensor:
    """What stands for a tensor without a mask."""
    return torch.zeros_like(value, dtype=torch.float64) if name.endswith("bias") else (value.detach() != 0).double()


class _Reached(torch.autograd.Function):
    """1 where anything arrives and 0 elsewhere, forward and backward."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return (x > NOTHING).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Tensor:
        return (slopes[0] > NOTHING).to(slopes[0].dtype)


def _reached(x: Tensor) -> Tensor:
    return _Reached.apply(x)


class _Paths(TorchFunctionMode):
    """Has the operations of a network pass on what is reached."""

    def __init__(self, parameters: Any) -> None:
        super().__init__()
        self.parameters = {id(value) for value in parameters}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = getattr(func, "__name__", "")
        name = name.strip("_") if name.startswith("__") else name.rstrip("_")
        kwargs = kwargs or {}
        if name in _SAME:
            return args[0] if args else kwargs["input"]
        if name in ("sigmoid", "hardsigmoid"):
            return _gate(args[0])
        if name in _SUMS and len(args) > 1:
            return self._sum(name, *args[:2])
        if name in RECURRENT_KERNELS:  # what the kernel does inside, no mode sees
            with self:
                return (step_by_step(RECURRENT_KERNELS[name], args[0], *args[2]),)
        rule = _RULES.get(name)
        return func(*args, **kwargs) if rule is None else rule(func, *args, **kwargs)

    def _sum(self, name: str, one: Any, other: Any) -> Any:
        """Of what is added or taken away; a number that is taken away, or a parameter, changes no path."""
        terms = [part for part in (one, other) if id(part) not in self.parameters] or [one, other]
        if name in ("sub", "rsub", "isub"):
            tensors = [part for part in terms if isinstance(part, Tensor)]
            found = sum(tensors[1:], tensors[0])
            return _gate(found) if any(getattr(part, "is_gate", False) for part in tensors) else found
        return sum(part if isinstance(part, Tensor) else abs(part) for part in terms)


def _gate(x: Tensor) -> Tensor:
    """Marks what a sigmoid gave: as a factor it is never zero."""
    found = x * 1.0
    found.is_gate = True  # type: ignore[attr-defined]
    return found


def _layer(func: Any, x: Tensor, weight: Tensor, *more: Any, **named: Any) -> Tensor:
    """A linear map or convolution without its bias."""
    named.pop("bias", None)
    return _reached(func(x, weight, *((None, *more[1:]) if more else ()), **named))


def _product(func: Any, one: Any, other: Any, **_: Any) -> Any:
    factors = [_factor(one), _factor(other)]
    return factors[0] * factors[1]


def _factor(value: Any) -> Any:
    if not isinstance(value, Tensor):
        return float(value != 0)
    return value + 1.0 if getattr(value, "is_gate", False) else value.abs()


def _quotient(func: Any, one: Any, other: Any, **_: Any) -> Any:
    return one if isinstance(one, Tensor) else other


def _matrices(func: Any, *args: Any, **named: Any) -> Tensor:
    return _reached(func(*args, **named))


def _with_bias(product: Any) -> _Rule:
    return lambda func, bias, one, other, **_: _reached(product(one, other))


def _attention(func: Any, query: Tensor, key: Tensor, value: Tensor, *_: Any, **__: Any) -> Tensor:
    return _reached((query @ key.transpose(-2, -1) + 1.0) @ value)


def _softmax(func: Any, x: Tensor, *_: Any, **__: Any) -> Tensor:
    return _gate(x)


def _pooled(average: Any) -> _Rule:
    def pool(
        func: Any, x: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, dilation: Any = 1,
        ceil_mode: bool = False, return_indices: bool = False,
    ) -> Tensor:  # fmt: skip
        if return_indices or any(one != 1 for one in (dilation if isinstance(dilation, tuple) else (dilation,))):
            raise NotImplementedError("max pooling with a dilation, or whose places are asked for")
        return _reached(average(x, kernel_size, stride or kernel_size, padding, ceil_mode))

    return pool


def _pooled_to(average: Any) -> _Rule:
    return lambda func, x, output_size, *_, **__: _reached(average(x, output_size))


def _largest(func: Any, x: Tensor, *args: Any, **named: Any) -> Any:
    """The larger of two tensors, or the largest along a dimension: whatever reaches any of them."""
    if args and isinstance(args[0], Tensor):
        return x + args[0]
    found = _reached(torch.sum(x, *args, **named))
    return found if func.__name__ in ("amax", "amin") else (found, None)


_SAME = frozenset(
    "relu relu6 gelu silu tanh elu leaky_relu prelu rrelu softplus softsign hardtanh hardswish mish selu celu "
    "threshold logsigmoid tanhshrink hardshrink softshrink log_softmax batch_norm layer_norm group_norm instance_norm "
    "rms_norm local_response_norm dropout dropout1d dropout2d dropout3d alpha_dropout feature_alpha_dropout neg abs "
    "sqrt rsqrt square reciprocal exp log log1p expm1 pow clamp clip clamp_min clamp_max sin cos".split()
)
"""What passes on its first argument, where it is not to be counted."""
_SUMS = frozenset("add radd iadd sub rsub isub maximum minimum".split())
_RULES: dict[str, _Rule] = {
    **dict.fromkeys(("linear", "conv1d", "conv2d", "conv3d"), _layer),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _layer),
    **dict.fromkeys(("matmul", "rmatmul", "mm", "bmm", "mv", "einsum"), _matrices),
    "addmm": _with_bias(torch.mm),
    "baddbmm": _with_bias(torch.bmm),
    **dict.fromkeys(("mul", "rmul", "imul", "multiply"), _product),
    **dict.fromkeys(("div", "truediv", "rtruediv", "itruediv", "divide"), _quotient),
    **dict.fromkeys(("max", "min", "amax", "amin"), _largest),
    "softmax": _softmax,
    "scaled_dot_product_attention": _attention,
    **{f"max_pool{n}d": _pooled(pool) for n, pool in ((1, F.avg_pool1d), (2, F.avg_pool2d), (3, F.avg_pool3d))},
    **{
        f"adaptive_max_pool{n}d": _pooled_to(pool)
        for n, pool in ((1, F.adaptive_avg_pool1d), (2, F.adaptive_avg_pool2d), (3, F.adaptive_avg_pool3d))
    },
}
