"""Module source: a layer of torch.nn as the Python expression that builds it, e.g. ``nn.Linear(800, 500)``.

Arguments are read off the layer and those at their defaults left out. The expression is tried: the layer that it
builds has to agree with the one it was read from, so that a layer which was changed afterwards is refused.
"""

from __future__ import annotations

import inspect
import math
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["is_layer", "layer_source", "literal"]

_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
_NOT_KEPT = {"self", "device", "dtype", "_weight", "_freeze", "min_value", "max_value"}  # no part of what is built
_RECURRENT = {
    "num_layers": 1,
    "nonlinearity": "tanh",
    "bias": True,
    "batch_first": False,
    "dropout": 0.0,
    "bidirectional": False,
    "proj_size": 0,
}
_SAME_AS = {"stride": "kernel_size", "kdim": "embed_dim", "vdim": "embed_dim"}  # None stands for that argument


def is_layer(module: nn.Module) -> bool:
    """Whether a module is of a class of torch.nn that computes something by itself."""
    kind = type(module)  # an nn.Module itself is what torch.fx keeps the tensors of a module of one's own in
    return getattr(nn, kind.__name__, None) is kind is not nn.Module and not isinstance(module, _CONTAINERS)


def layer_source(name: str, layer: nn.Module) -> str:
    """Returns the expression that builds a layer, with the arguments that are not at their defaults.

    Args:
        name: Name of the layer, for error messages.
        layer: A layer of torch.nn; its weights are not part of the expression.

    Raises:
        ValueError: If it is not a layer of torch.nn, has hooks, or cannot be built again by its constructor.
    """
    if not is_layer(layer):
        raise ValueError(
            f"layer {name!r} is a {type(layer).__name__}, which is neither a layer of torch.nn nor traceable by "
            "torch.fx: write it with layers and functions of torch"
        )
    refuse_hooks(name, layer)
    call = f"nn.{type(layer).__name__}({', '.join(_arguments(name, layer))})"
    with torch.device("meta"):
        built = eval(call, {"nn": nn})
    difference = _difference(built, layer)
    if difference:
        raise ValueError(
            f"layer {name!r} is not what {call} builds (its {difference} differs): it was changed after it was built, "
            "which generated code does not repeat"
        )
    return call


def refuse_hooks(name: str, module: nn.Module) -> None:
    """Refuses a module with forward hooks, which run beside its code (weight norm and torch's pruning use them).

    Raises:
        ValueError: If it has any.
    """
    if module._forward_hooks or module._forward_pre_hooks:
        raise ValueError(
            f"{f'layer {name!r}' if name else 'the network'} ({type(module).__name__}) has forward hooks, which "
            "generated code cannot hold: remove them (torch.nn.utils.prune.remove, remove_weight_norm) and export again"
        )


def literal(value: Any) -> str:
    """Returns a constant as Python source.

    Raises:
        TypeError: If it is of a type that has none.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if value is None or value is Ellipsis or isinstance(value, (bool, int, float, complex)):
        return "..." if value is Ellipsis else repr(value)
    if isinstance(value, str):
        plain = '"' not in value and value.isprintable() and "\\" not in value
        return f'"{value}"' if plain else repr(value)
    if isinstance(value, (torch.dtype, torch.memory_format, torch.layout)):
        return str(value)
    if isinstance(value, torch.device):
        return f'torch.device("{value}")'
    if isinstance(value, tuple):
        return f"({', '.join(map(literal, value))}{',' if len(value) == 1 else ''})"
    if isinstance(value, list):
        return f"[{', '.join(map(literal, value))}]"
    raise TypeError(f"a value of class {type(value).__name__}")


def _arguments(name: str, layer: nn.Module) -> list[str]:
    """Arguments as source: those that are required by position, except for kernel sizes; others by keyword."""
    found: list[str] = []
    keywords = False
    for argument, default in _parameters(layer).items():
        required = default is inspect.Parameter.empty
        value = _value(name, layer, argument, default)
        if not required and _same(value, default, argument, layer):
            continue
        try:
            written = literal(value)
        except TypeError as problem:
            raise ValueError(
                f"layer {name!r} ({type(layer).__name__}) was built with {argument}={value!r}, {problem}, which has "
                "no readable source: build it from numbers and strings"
            ) from problem
        keywords = keywords or not required or argument == "kernel_size"
        found.append(f"{argument}={written}" if keywords else written)
    return found


def _parameters(layer: nn.Module) -> dict[str, Any]:
    """Arguments of a layer's constructor and their defaults."""
    if isinstance(layer, nn.RNNBase):  # its signature says *args
        wanted = {k: v for k, v in _RECURRENT.items() if k != "nonlinearity" or isinstance(layer, nn.RNN)}
        empty = inspect.Parameter.empty
        return {"input_size": empty, "hidden_size": empty, **wanted}
    variadic = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return {
        argument: parameter.default
        for argument, parameter in inspect.signature(type(layer).__init__).parameters.items()
        if argument not in _NOT_KEPT and parameter.kind not in variadic
    }


def _value(name: str, layer: nn.Module, argument: str, default: Any) -> Any:
    """The value that a layer was built with."""
    if isinstance(layer, nn.MultiheadAttention) and argument in ("bias", "add_bias_kv"):
        return (layer.in_proj_bias if argument == "bias" else layer.bias_k) is not None
    if not hasattr(layer, argument):
        raise ValueError(
            f"layer {name!r} ({type(layer).__name__}) does not keep its argument {argument}, so that it cannot be "
            "written as source: build it from simpler layers"
        )
    value = getattr(layer, argument)
    if argument == "bias" and not isinstance(value, bool):
        affine = getattr(layer, "affine", getattr(layer, "elementwise_affine", True))
        return value is not None if affine else default
    return value


def _same(value: Any, default: Any, argument: str, layer: nn.Module) -> bool:
    """Whether a value is what the default means: (1, 1) is 1, and a stride of None the kernel size."""
    if default is None and argument in _SAME_AS:
        return bool(value is None or value == getattr(layer, _SAME_AS[argument]))
    if isinstance(value, tuple) and isinstance(default, (int, float)):
        return all(part == default for part in value)
    return type(value) is type(default) and bool(value == default) or (value is None and default is None)


def _difference(built: nn.Module, layer: nn.Module) -> str | None:
    """What of a layer differs from the one that its source builds: an attribute, or the name of a tensor."""
    shapes = {key: tensor.shape for key, tensor in layer.state_dict().items()}
    again = {key: tensor.shape for key, tensor in built.state_dict().items()}
    for key in {**shapes, **again}:
        if shapes.get(key) != again.get(key):
            return key
    for key, value in vars(built).items():
        if key.startswith("_") or key == "training" or isinstance(value, (Tensor, nn.Module)):
            continue
        if key not in vars(layer) or vars(layer)[key] != value:
            return key
    return None
