"""Channel tracing: follows every channel of a network through its torch.fx graph.

The graph is run on `Activation`s in place of tensors. Operations that work channel by channel pass them on,
operations that join two channels tie them, and only layers that mix channels (linear, convolution, recurrent cells)
end them and make new ones: these are recorded, as they decide what a channel's removal means. What is not
understood is refused, or, if asked for, keeps every channel that it touches.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.models.activation import NO_CHANNEL, Activation, activations, along_dimension, unknown
from bayesprune.models.channel_records import Slice, Use
from bayesprune.models.channel_ties import Ties
from bayesprune.models.function_traces import FUNCTIONS
from bayesprune.models.layer_traces import LAYERS, changed_by_hand


class ChannelTrace(fx.Interpreter):
    """The result of channel tracing; `trace_channels` makes it.

    Attributes:
        network: A copy of the network in evaluation mode.
        ties: Which channels are tied or pinned.
        slices: Slices of parameters and buffers.
        uses: Readings of channels.
        nodes: Channels of each node's result.
        sizes: Nodes whose arguments hold sizes: target, arguments and keyword arguments with `Count` in their place.
    """

    def __init__(self, network: fx.GraphModule, keep_unknown: bool) -> None:
        super().__init__(network)
        self.extra_traceback = False  # errors are sentences for users
        self.keep_unknown = keep_unknown
        self.ties = Ties()
        self.slices: dict[tuple[str, int], Slice] = {}
        self.uses: list[Use] = []
        self.nodes: dict[str, list[Tensor]] = {}
        self.sizes: dict[str, tuple[Any, tuple[Any, ...], dict[str, Any]]] = {}
        self.node: fx.Node

    # -- what layers report --------------------------------------------------------------------------------

    def slice(self, tensor: str, dim: int, role: str, channel: Tensor) -> Tensor:
        """Records a slice; a layer that is called again ties its channels to those of the first call."""
        before = self.slices.get((tensor, dim))
        if before is not None:
            self.ties.tie(before.channel, channel)
            return before.channel
        self.slices[tensor, dim] = Slice(tensor, dim, role, channel)
        return channel

    def new_channels(self, tensor: str, dim: int, count: int) -> Tensor:
        """Channels that a layer makes: new ones, or those of its first call."""
        before = self.slices.get((tensor, dim))
        return self.ties.new(count) if before is None else before.channel

    def refuse(self, what: str, arguments: Any) -> Any:
        """Refuses an operation, or keeps all that it touches, where that was asked for."""
        where = f"{self.node.name!r}"
        if not self.keep_unknown:
            raise ValueError(
                f"channels cannot be followed through node {where} ({what}): write it with layers that are understood, "
                'or pass unknown="keep" to keep every unit that it touches'
            )
        return self.ended(arguments, f"node {where} ({what}) is not understood")

    def ended(self, arguments: Any, reason: str) -> Any:
        """Keeps all channels that go into a node; what it gives has channels that stay, of the real shapes."""
        for activation in activations(arguments):
            self.ties.pin(activation.channel, reason)
        channel = self.ties.new(1)
        self.ties.pin(channel, reason)

        def pinned(found: Any) -> Any:
            if isinstance(found, (tuple, list)):
                return tuple(pinned(part) for part in found)
            if not torch.is_tensor(found):
                return found
            return Activation(channel.expand(found.shape) if found.ndim else channel[0], unknown(found.shape))

        return pinned(self.node.meta["example"])

    # -- the interpreter -----------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, and keeps the channels of its result."""
        self.node = n
        result = super().run_node(n)
        result = self._one_dimension(result)
        self.nodes[n.name] = [activation.channel for activation in activations(result)]
        return result

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An input of the network; its channels stay."""
        found = super().placeholder(target, args, kwargs)
        if not torch.is_tensor(found):
            return found
        channel = self.ties.new(1)
        self.ties.pin(channel, "it is an input of the network")
        return Activation(channel.view([1] * found.ndim).expand(found.shape), unknown(found.shape))

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of the network; their channels stay."""
        for activation in activations(args):
            self.ties.pin(activation.channel, "it is an output of the network")
        return super().output(target, args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A parameter or buffer that the network's code uses by itself, e.g. a gate of shape (channels, 1, 1)."""
        found = super().get_attr(target, args, kwargs)
        if not torch.is_tensor(found):
            return found
        value = found.detach().to("cpu", torch.float64)
        long = [dim for dim in range(found.ndim) if found.shape[dim] > 1]
        if not long:
            return Activation(torch.full(found.shape, NO_CHANNEL), value)
        if len(long) > 1:
            channel = self.ties.new(1)
            self.ties.pin(channel, f"{target} differs along several dimensions")
            return Activation(channel.view([1] * found.ndim).expand(found.shape), value)
        line = self.new_channels(str(target), long[0], found.shape[long[0]])
        line = self.slice(str(target), long[0], "pass", line)
        return Activation(along_dimension(line, long[0], found.shape), value)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer."""
        module = self.fetch_attr(target)
        handler = LAYERS.get(type(module))
        changed = changed_by_hand(module)
        if handler is None or changed:
            return self.refuse(f"{type(module).__name__} {target!r}{changed}", (args, kwargs))
        return handler(self, str(target), module, *args, **kwargs)

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of torch or Python."""
        if not activations((args, kwargs)):
            return super().call_function(target, args, kwargs)
        if target is getattr:
            return getattr(args[0].channel if args[1] != "dtype" else args[0].value, args[1])
        return self._apply(_name_of(target), target, args, kwargs)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method of a tensor."""
        if not activations((args, kwargs)):
            return super().call_method(target, args, kwargs)
        return self._apply(str(target), getattr(Tensor, str(target)), args, kwargs)

    def _apply(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = FUNCTIONS.get(name.strip("_") if not name.startswith("__") else name)
        if handler is None:
            return self.refuse(f"function {name}", (args, kwargs))
        return handler(self, function, *args, **kwargs)

    def _one_dimension(self, result: Any) -> Any:
        if isinstance(result, Activation):
            return Activation(self.ties.one_dimension(result.channel), result.value)
        if isinstance(result, tuple) and type(result) is not torch.Size:
            return tuple(self._one_dimension(part) for part in result)
        if isinstance(result, list):
            return [self._one_dimension(part) for part in result]
        return result


def trace_channels(network: nn.Module, example_input: Any, unknown: str = "refuse") -> ChannelTrace:
    """Traces a network's channels; see `bayesprune.models.channel_groups.ChannelGroups`."""
    if unknown not in ("refuse", "keep"):
        raise ValueError(f"unknown= takes 'refuse' or 'keep', not {unknown!r}")
    _refuse_tied(network)
    copied = copy.deepcopy(network).eval()
    inputs = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    graph = _graph(copied)
    traced = ChannelTrace(fx.GraphModule(copied, graph), unknown == "keep")
    with torch.no_grad():
        try:
            _Examples(traced.module).run(*(_placed(part, copied) for part in inputs))  # type: ignore[arg-type]
        except (RuntimeError, ValueError, IndexError, TypeError) as problem:
            shapes = ", ".join(str(tuple(part.shape)) if torch.is_tensor(part) else str(part) for part in inputs)
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise ValueError(f"the network does not take an example input of shape {shapes} ({reason})") from problem
        traced.run(*inputs)
    return traced


class _Examples(fx.Interpreter):
    """Notes on each node what it really gives (shapes are what is wanted)."""

    def run_node(self, n: fx.Node) -> Any:
        n.meta["example"] = _meta(found := super().run_node(n))
        return found


def _meta(found: Any) -> Any:
    if isinstance(found, (tuple, list)):
        return tuple(_meta(part) for part in found)
    return torch.empty_like(found, device="meta") if torch.is_tensor(found) else found


def _placed(part: Any, network: nn.Module) -> Any:
    """An example input on the network's device and, for numbers with a fraction, in its dtype."""
    like = next(network.parameters(), None)
    if not torch.is_tensor(part) or like is None:
        return part
    return part.to(like.device, like.dtype if part.is_floating_point() else part.dtype)


def _graph(network: nn.Module) -> fx.Graph:
    try:
        return fx.Tracer().trace(network)
    except fx.proxy.TraceError as problem:
        raise ValueError(
            f"the network cannot be traced, because its forward depends on its data ({problem}): "
            "units can only be followed through a fixed sequence of layers; replace the branch"
        ) from problem
    except Exception as problem:  # forward is the user's code, and a proxy in place of a tensor may break it anyhow
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"the network cannot be traced by torch.fx ({type(problem).__name__}: {reason})") from problem


def _refuse_tied(network: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            raise ValueError(
                f"{seen[id(parameter)]} and {name} are one tied parameter, whose units cannot be removed from one "
                "layer alone: give each layer its own copy"
            )
        seen[id(parameter)] = name


_OPERATORS = {"iadd": "add", "isub": "sub", "imul": "mul", "itruediv": "truediv"}
_DISPATCHED = {
    getattr(F, name): name
    for name in ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d")
}


def _name_of(function: Any) -> str:
    if function in _DISPATCHED:  # these are called `fn` by their own account
        return _DISPATCHED[function]
    name = getattr(function, "__name__", str(function))
    home = (getattr(function, "__module__", None) or "torch").split(".")[0]
    if home not in ("torch", "_operator", "math"):
        return f"{home}.{name}"
    return _OPERATORS.get(name, name) if home == "_operator" or function in vars(operator).values() else name
