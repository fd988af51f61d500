"""Channel tracing: follows every channel of a network through its torch.fx graph.

The graph is run on `Activation`s in place of tensors. Operations that work channel by channel pass them on,
operations that join two channels tie them, and only layers that mix channels (linear, convolution, recurrent cells)
end them and make new ones: these are recorded, as they decide what a channel's removal means. What is not
understood is refused, or, if asked for, keeps every channel that it touches.
"""

from __future__ import annotations

import copy
import inspect
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.activation import (
    NO_CHANNEL,
    Activation,
    activations,
    along_dimension,
    collapsed,
    spread,
    unknown,
)
from bayesprune.models.channel_records import Slice, Use
from bayesprune.models.channel_ties import Ties
from bayesprune.models.function_traces import FUNCTIONS
from bayesprune.models.layer_traces import LAYERS, changed_by_hand


class ChannelTrace(fx.Interpreter):
    """The result of channel tracing; `trace_channels` makes it.

    Attributes:
        module: A copy of the network in evaluation mode, as a graph.
        tensors: Names of the network's parameters and buffers; the graph has more, where its code makes tensors.
        ties: Which channels are tied or pinned.
        slices: Slices of parameters and buffers.
        uses: Readings of channels.
        nodes: Channels of each node's result.
        zeros: Nodes that give nothing but zeros, whatever the input is.
        examples: What each node really gives, on the meta device.
        changed: Nodes whose tensors a node changes in place, and whether its result is that tensor as a whole.
        features: Channels of normalisation layers, which note how many there are.
        sizes: Nodes whose arguments hold sizes: operation, target, arguments and keyword arguments, with `Count` there.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph, keep_unknown: bool) -> None:
        super().__init__(fx.GraphModule(network, graph))
        self.tensors = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
        self.extra_traceback = False  # errors are sentences for users
        self.keep_unknown = keep_unknown
        self.ties = Ties()
        self.slices: dict[tuple[str, int], Slice] = {}
        self.uses: list[Use] = []
        self.nodes: dict[str, list[Tensor]] = {}
        self.zeros: set[str] = set()
        self.examples: dict[str, Any] = {}
        self.changed: dict[str, list[tuple[fx.Node, bool]]] = {}
        self.features: dict[str, Tensor] = {}
        self.sizes: dict[str, tuple[str, Any, tuple[Any, ...], dict[str, Any]]] = {}
        self.node: fx.Node
        self._whole: dict[str, str] = {}  # tensors that code uses as a whole, with the reason why they stay

    @property
    def example(self) -> Any:
        """What the node that is being run really gives, on the meta device."""
        return self.examples[self.node.name]

    # -- what layers report --------------------------------------------------------------------------------

    def slice(self, tensor: str, dim: int, role: str, channel: Tensor) -> Tensor:
        """Records a slice; a layer that is called again ties its channels to those of the first call."""
        if tensor in self._whole:
            self.ties.pin(channel, self._whole[tensor])
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
            raise NotFollowedError(
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

        return pinned(self.example)

    # -- the interpreter -----------------------------------------------------------------------------------

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, and keeps the channels of its result."""
        self.node = n
        if n.op.startswith("call"):
            result = self._called(n)
            self._change(n, result)
        else:
            result = self._settled(super().run_node(n))
        self.nodes[n.name] = [activation.channel for activation in activations(result)]
        if isinstance(result, Activation) and bool((collapsed(result.value) == 0).all()):
            self.zeros.add(n.name)
        return result

    def _called(self, n: fx.Node) -> Any:
        """The result of a call, refused if its handler fails or gives something else than the network really does."""
        before = set(self.slices)
        try:
            result = self._settled(super().run_node(n))
            failure = "" if self._agrees(n, result) else "used in a way that is not understood"
        except NotFollowedError:
            raise
        except Exception as problem:  # a handler does not know these arguments
            failure = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        if not failure:
            return result
        self.sizes.pop(n.name, None)
        for key in set(self.slices) - before:
            self.ties.pin(self.slices[key].channel, f"node {n.name!r} is not understood")
        result = self.refuse(f"{_label(n)}: {failure}", self.fetch_args_kwargs_from_env(n))
        return self._settled(result)

    def _agrees(self, n: fx.Node, result: Any) -> bool:
        """Whether activations stand where the network gives tensors, and are of the same shapes."""

        def same(found: Any, example: Any) -> bool:
            if isinstance(found, Activation):
                return torch.is_tensor(example) and found.shape == example.shape == found.value.shape
            if isinstance(found, (tuple, list)):
                return len(found) == len(example) and all(map(same, found, example))
            return not torch.is_tensor(found) or not read

        read = activations(self.fetch_args_kwargs_from_env(n))
        return same(result, self.example)

    def _change(self, n: fx.Node, result: Any) -> None:
        """Follows a change in place: what is known of the changed tensors no longer holds."""
        for other, whole in self.changed.get(n.name, ()):
            known = self.env.get(other)
            if whole:
                self.env[other] = result
            elif isinstance(known, Activation):
                self.env[other] = Activation(known.channel, unknown(known.shape))
            else:
                self.refuse("a change in place of a part of a list", known)

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
        name, value = str(target), found.detach().to("cpu", torch.float64)
        long = [dim for dim in range(found.ndim) if found.shape[dim] > 1]
        if not long:
            return Activation(torch.full(found.shape, NO_CHANNEL), value)
        if len(long) > 1:
            return self._kept_whole(name, value, f"{name} differs along several dimensions")
        if name not in self.tensors:
            return self._kept_whole(name, value, f"{name} is neither a parameter nor a buffer")
        line = self.new_channels(name, long[0], found.shape[long[0]])
        line = self.slice(name, long[0], "pass", line)
        return Activation(along_dimension(line, long[0], found.shape), value)

    def _kept_whole(self, name: str, value: Tensor, reason: str) -> Activation:
        """A tensor that may not be cut, by the layer that owns it neither."""
        self._whole[name] = reason
        for part in self.slices.values():
            if part.tensor == name:
                self.ties.pin(part.channel, reason)
        dim = max(range(value.ndim), key=lambda each: value.shape[each])
        line = self.ties.new(value.shape[dim])
        self.ties.pin(line, reason)
        return Activation(along_dimension(line, dim, value.shape), value)

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
            return self._attribute(*args)
        plain = _OUT_OF_PLACE.get(target, target)
        return self._apply(_name_of(plain), plain, args, kwargs)

    def _attribute(self, x: Activation, name: str, *default: Any) -> Any:
        if name == "data":
            return x
        if name == "dtype":
            return x.value.dtype
        if name not in ("shape", "ndim", "device", "is_cuda", "requires_grad", "layout"):
            return self.refuse(f"attribute {name!r} of a tensor", x)
        return getattr(x.channel, name)

    def call_method(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A method of a tensor."""
        if not activations((args, kwargs)):
            return super().call_method(target, args, kwargs)
        name = str(target)
        plain = name if name.startswith("__") or not hasattr(Tensor, name.rstrip("_")) else name.rstrip("_")
        return self._apply(plain, getattr(Tensor, plain), args, kwargs)

    def _apply(self, name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        handler = FUNCTIONS.get(name if name.startswith("__") else name.lstrip("_"))
        if handler is None:
            return self.refuse(f"function {name}", (args, kwargs))
        return handler(self, function, *args, **kwargs)

    def _settled(self, result: Any) -> Any:
        """Activations whose channels differ along one dimension only, and all of whose numbers have one."""
        if isinstance(result, Activation):
            channel = result.channel
            if channel.numel() > 1 and bool((collapsed(channel) == NO_CHANNEL).any()):
                own = self.ties.new(1)  # a number that is repeated or joined to others cannot be removed with them
                self.ties.pin(own, f"node {self.node.name!r} repeats a number")
                channel = spread(lambda part: torch.where(part == NO_CHANNEL, own, part), channel)
            return Activation(self.ties.one_dimension(channel), result.value)
        if isinstance(result, tuple) and type(result) is not torch.Size:
            return tuple(self._settled(part) for part in result)
        if isinstance(result, list):
            return [self._settled(part) for part in result]
        return result


class NotFollowedError(ValueError):
    """Channels cannot be followed through a node."""


def trace_channels(network: nn.Module, example_input: Any, unknown: str = "refuse") -> ChannelTrace:
    """Traces a network's channels; see `bayesprune.models.channel_groups.ChannelGroups`."""
    if unknown not in ("refuse", "keep"):
        raise ValueError(f"unknown= takes 'refuse' or 'keep', not {unknown!r}")
    _refuse_tied(network)
    if network._forward_hooks or network._forward_pre_hooks:
        raise ValueError("the network has forward hooks, through which its units cannot be followed: remove them")
    try:
        copied = copy.deepcopy(network).eval()
    except RuntimeError as problem:
        raise ValueError(
            "the network cannot be copied, as some of its tensors are computed from others by hooks: make them its own "
            "(torch.nn.utils.prune.remove, remove_weight_norm)"
        ) from problem
    inputs = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    traced = ChannelTrace(copied, graph_of(copied, len(inputs)), unknown == "keep")
    taken = sum(node.op == "placeholder" for node in traced.graph.nodes)
    if taken != len(inputs):
        raise ValueError(f"the network takes {taken} inputs, but the example has {len(inputs)}: pass a tuple with all")
    with torch.no_grad():
        try:
            _Examples(traced).run(*(_placed(part, copied) for part in inputs))
        except Exception as problem:  # whatever the user's layers raise
            shapes = ", ".join(str(tuple(part.shape)) if torch.is_tensor(part) else str(part) for part in inputs)
            reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
            raise ValueError(f"the network does not take an example input of shape {shapes} ({reason})") from problem
        traced.run(*inputs)
    return traced


class _Examples(fx.Interpreter):
    """Notes what each node really gives (shapes are what is wanted), and which tensors it changes in place."""

    def __init__(self, trace: ChannelTrace) -> None:
        super().__init__(trace.module)
        self.extra_traceback = False
        self.trace = trace

    def run_node(self, n: fx.Node) -> Any:
        before = {other: _versions(found) for other, found in self.env.items()}
        found = super().run_node(n)
        self.trace.examples[n.name] = _meta(found)
        changed = [
            (other, self.env[other] is found)
            for other, versions in before.items()
            if _versions(self.env.get(other)) != versions
        ]
        if changed:
            self.trace.changed[n.name] = changed
        return found


def _versions(found: Any) -> list[int]:
    """How often tensors have been changed in place; parts of one tensor count together."""
    return [part._version for part in tree_flatten(found)[0] if torch.is_tensor(part)]


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


def graph_of(network: nn.Module, inputs: int) -> fx.Graph:
    """The torch.fx graph of a network for so many inputs; further arguments of its forward have their defaults."""
    arguments = list(inspect.signature(network.forward).parameters.values())[inputs:]
    held = {each.name: each.default for each in arguments if each.default is not inspect.Parameter.empty}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Was not able to add assertion", category=UserWarning)
            graph = fx.Tracer().trace(network, concrete_args=held or None)
    except fx.proxy.TraceError as problem:
        raise ValueError(
            f"the network cannot be traced, because its forward depends on its data ({problem}): "
            "units can only be followed through a fixed sequence of layers; replace the branch"
        ) from problem
    except Exception as problem:  # forward is the user's code, and a proxy in place of a tensor may break it anyhow
        reason = str(problem).splitlines()[0] if str(problem) else type(problem).__name__
        raise ValueError(f"the network cannot be traced by torch.fx ({type(problem).__name__}: {reason})") from problem
    if held:
        for node in [node for node in graph.nodes if node.op == "placeholder"][inputs:]:
            _take_out(graph, node)
        graph.set_codegen(fx.graph.CodeGen())
    return graph


def _take_out(graph: fx.Graph, node: fx.Node) -> None:
    """Takes out an argument that has its default, and the checks that it has."""
    for check in list(node.users):
        _take_out(graph, check)
    graph.erase_node(node)


def _refuse_tied(network: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            raise ValueError(
                f"{seen[id(parameter)]} and {name} are one tied parameter, whose units cannot be removed from one "
                "layer alone: give each layer its own copy"
            )
        seen[id(parameter)] = name


def _label(n: fx.Node) -> str:
    if n.op == "call_module":
        return f"layer {str(n.target)!r}"
    return f"function {n.target if isinstance(n.target, str) else _name_of(n.target)}"


_OUT_OF_PLACE: dict[Any, Any] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
    **{
        getattr(home, f"{name}_"): getattr(home, name)
        for home in (torch, F)
        for name in dir(home)
        if hasattr(home, f"{name}_") and callable(getattr(home, name))
    },
}
"""The function that gives what a function that works in place gives."""
_DISPATCHED = {
    getattr(F, name): name
    for name in ("max_pool1d", "max_pool2d", "max_pool3d", "adaptive_max_pool1d", "adaptive_max_pool2d")
}


def _name_of(function: Any) -> str:
    if function in _DISPATCHED:  # these are called `fn` by their own account
        return _DISPATCHED[function]
    name = str(getattr(function, "__name__", function))
    home = (getattr(function, "__module__", None) or "torch").split(".")[0]
    return name if home in ("torch", "_operator", "math") else f"{home}.{name}"
