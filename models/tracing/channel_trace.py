"""Channel tracing: follows every channel of a network through its torch.fx graph.

The graph is run on `Activation`s in place of tensors. Operations that work channel by channel pass them on,
operations that join two channels tie them, and only layers that mix channels (linear, convolution, recurrent cells)
end them and make new ones: these are recorded, as they decide what a channel's removal means. What is not
understood is refused, or, if asked for, keeps every channel that it touches.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.graphs.example_run import ExampleRun, placed
from bayesprune.models.graphs.faithful_graph import refuse_another_graph
from bayesprune.models.graphs.forward_constants import FACTORIES, remedy_for
from bayesprune.models.graphs.in_place import OUT_OF_PLACE
from bayesprune.models.graphs.traced_graph import graph_of, refuse_reserved_names
from bayesprune.models.networks.dyrelu_networks import refuse_active
from bayesprune.models.networks.shared_blocks import SharedBlock
from bayesprune.models.tracing.activation import (
    NO_CHANNEL,
    Activation,
    activations,
    along_dimension,
    collapsed,
    spread,
    unknown,
)
from bayesprune.models.tracing.channel_counts import ChannelCounts
from bayesprune.models.tracing.function_traces import FUNCTIONS, made_constant
from bayesprune.models.tracing.layer_traces import LAYERS, changed_by_hand
from bayesprune.models.tracing.not_followed import NotFollowedError
from bayesprune.models.tracing.recording import Recording


class ChannelTrace(fx.Interpreter):
    """The result of channel tracing; `trace_channels` makes it.

    Attributes:
        module: A copy of the network in evaluation mode, as a graph.
        recording: What is known of its channels.
        tensors: Names of the network's parameters and buffers; the graph has more, where its code makes tensors.
        nodes: Channels of each node's result.
        zeros: Nodes that give nothing but zeros, whatever the input is.
        changed: Nodes whose tensors a node changes in place, and whether its result is that tensor as a whole.
        written: Names of parameters and buffers that the network's forward changes.
        counts: Numbers that tell how many channels there are.
    """

    def __init__(self, network: nn.Module, graph: fx.Graph, keep_unknown: bool) -> None:
        refuse_reserved_names(graph)
        super().__init__(fx.GraphModule(network, graph))
        self.tensors = {name for name, _ in (*network.named_parameters(), *network.named_buffers())}
        self.extra_traceback = False  # errors are sentences for users
        self.recording = Recording(keep_unknown)
        self.nodes: dict[str, list[Tensor]] = {}
        self.zeros: set[str] = set()
        self.changed: dict[str, list[tuple[fx.Node, bool]]] = {}
        self.written: set[str] = set()
        self.counts = ChannelCounts()

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node, and keeps the channels of its result."""
        self.recording.node = n
        self.recording.reads = self._read()
        if n.op.startswith("call"):
            result = self._called(n)
            self._change(n, result)
        else:
            result = self._settled(super().run_node(n))
        self.counts.follow(self.recording, n, result, self.env)
        self.nodes[n.name] = [activation.channel for activation in activations(result)]
        if isinstance(result, Activation) and bool((collapsed(result.value) == 0).all()):
            self.zeros.add(n.name)
        return result

    def _read(self) -> Any:
        """All that the node that is being run reads."""
        return self.fetch_args_kwargs_from_env(self.recording.node)

    def _called(self, n: fx.Node) -> Any:
        """The result of a call, refused if its handler fails or gives something else than the network really does."""
        before = set(self.recording.slices)
        try:
            result = self._settled(super().run_node(n))
            failure = "" if self._agrees(n, result) else "used in a way that is not understood"
        except NotFollowedError:
            raise
        except Exception as problem:  # a handler does not know these arguments
            failure = first_line(problem)
        if not failure:
            return result
        self.recording.sizes.pop(n.name, None)
        for key in set(self.recording.slices) - before:
            self.recording.ties.pin(self.recording.slices[key].channel, f"node {n.name!r} is not understood")
        result = self.recording.refuse(f"{_label(n)}: {failure}", self.fetch_args_kwargs_from_env(n))
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
        return same(result, self.recording.example)

    def _change(self, n: fx.Node, result: Any) -> None:
        """Follows a change in place: what is known of the changed tensors no longer holds."""
        for other, whole in self.changed.get(n.name, ()):
            known = self.env.get(other)
            if whole:
                self.env[other] = result
            elif isinstance(known, Activation):
                self.env[other] = Activation(known.channel, unknown(known.shape))
            else:
                self.recording.reads = self._read()  # the turns before may have changed it
                self.recording.refuse("a change in place of a part of a list", known)

    def placeholder(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An input of the network; its channels stay."""
        found = super().placeholder(target, args, kwargs)
        if not torch.is_tensor(found):
            return found
        channel = self.recording.ties.new(1)
        self.recording.ties.pin(channel, "it is an input of the network")
        return Activation(channel.view([1] * found.ndim).expand(found.shape), unknown(found.shape))

    def output(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The outputs of the network; their channels stay."""
        for activation in activations(args):
            self.recording.ties.pin(activation.channel, "it is an output of the network")
        return super().output(target, args, kwargs)

    def get_attr(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A parameter or buffer that the network's code uses by itself, e.g. a gate of shape (channels, 1, 1)."""
        found = super().get_attr(target, args, kwargs)
        if not torch.is_tensor(found):
            return found
        name, value = str(target), found.detach().to("cpu", torch.float64)
        if self._is_written(found):
            words = f"the network's forward changes {name} in place"
            return self.recording.kept_whole(name, unknown(found.shape), words)
        long = [dim for dim in range(found.ndim) if found.shape[dim] > 1]
        if not long:
            return Activation(torch.full(found.shape, NO_CHANNEL), value)
        if len(long) > 1:
            return self.recording.kept_whole(name, value, f"{name} differs along several dimensions")
        if name not in self.tensors:
            words = f"{name} is neither a parameter nor a buffer"
            if name.rpartition(".")[2].startswith("_tensor_constant"):  # that is what torch.fx calls it
                words += ", but made inside forward: make it a buffer, or with x.new_zeros, x.new_ones or x.new_full"
            return self.recording.kept_whole(name, value, words)
        line = self.recording.new_channels(name, long[0], found.shape[long[0]])
        line = self.recording.slice(name, long[0], "pass", line)
        return Activation(along_dimension(line, long[0], found.shape), value)

    def _is_written(self, tensor: Tensor) -> bool:
        """Whether the network's forward changes a tensor, or what it shares memory with."""
        if not self.written or tensor.layout is not torch.strided:
            return False
        written = [tensor for name, tensor in _state(self.module) if name in self.written]
        return tensor.untyped_storage().data_ptr() in {part.untyped_storage().data_ptr() for part in written}

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A layer."""
        module = self.fetch_attr(target)
        handler = LAYERS.get(type(module))
        changed = changed_by_hand(module)
        if handler is None or changed:
            return self.recording.refuse(f"{type(module).__name__} {target!r}{changed}", (args, kwargs))
        result = handler(self.recording, str(target), module, *args, **kwargs)
        for name, _ in _state(module):
            own = isinstance(module, nn.modules.instancenorm._InstanceNorm) and name.startswith("running")
            if f"{target}.{name}" in self.written and not own:  # torch itself writes to those, and nothing reads them
                raise ValueError(f"the network's forward changes {target}.{name} in place")
        return result

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """A function of torch or Python."""
        if not activations((args, kwargs)):
            if target in FACTORIES.values() and self.recording.node.all_input_nodes:
                return made_constant(self.recording, target, *args, **kwargs)
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
            return self.recording.refuse(f"attribute {name!r} of a tensor", x)
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
            return self.recording.refuse(f"function {name}", (args, kwargs))
        return handler(self.recording, function, *args, **kwargs)

    def _settled(self, result: Any) -> Any:
        """Activations whose channels differ along one dimension only, and all of whose numbers have one."""
        if isinstance(result, Activation):
            channel, ties = result.channel, self.recording.ties
            if channel.numel() > 1 and bool((collapsed(channel) == NO_CHANNEL).any()):
                own = ties.new(1)  # a number that is repeated or joined to others cannot be removed with them
                ties.pin(own, f"node {self.recording.node.name!r} repeats a number")
                channel = spread(lambda part: torch.where(part == NO_CHANNEL, own, part), channel)
            return Activation(ties.one_dimension(channel), result.value)
        if isinstance(result, tuple) and type(result) is not torch.Size:
            return tuple(self._settled(part) for part in result)
        if isinstance(result, list):
            return [self._settled(part) for part in result]
        return result


def trace_channels(network: nn.Module, example_input: Any, unknown: str = "refuse") -> ChannelTrace:
    """Traces a network's channels; see `bayesprune.models.units.channel_groups.ChannelGroups`."""
    if unknown not in ("refuse", "keep"):
        raise ValueError(f"unknown= takes 'refuse' or 'keep', not {unknown!r}")
    _refuse_tied(network)
    _refuse_shared(network, unknown == "keep")
    refuse_active(network)
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
    untouched = {grad: copy.deepcopy(copied) for grad in (False, True)}  # a forward may leave something behind
    traced = ChannelTrace(copied, graph_of(copied, len(inputs)), unknown == "keep")
    taken = sum(node.op == "placeholder" for node in traced.graph.nodes)
    if taken != len(inputs):
        raise ValueError(f"the network takes {taken} inputs, but the example has {len(inputs)}: pass a tuple with all")
    here = [placed(part, copied) for part in inputs]
    with torch.no_grad():
        run = ExampleRun(traced.module)
        try:
            run.run(*(part.clone() if torch.is_tensor(part) else part for part in here))
        except Exception as problem:  # whatever the user's layers raise
            shapes = ", ".join(str(tuple(part.shape)) if torch.is_tensor(part) else str(part) for part in inputs)
            reason = first_line(problem)
            words = f"the network does not take an example input of shape {shapes} ({reason}){remedy_for(reason)}"
            raise ValueError(words) from problem
        traced.recording.examples, traced.changed = run.examples, run.changed
    traced.written = refuse_another_graph(untouched, traced.module, here)
    with torch.no_grad():
        traced.run(*inputs)
    traced.counts.settle(traced.recording)
    return traced


def _state(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [*module.named_parameters(), *module.named_buffers()]


def _refuse_tied(network: nn.Module) -> None:
    seen: dict[int, str] = {}
    for name, parameter in network.named_parameters(remove_duplicate=False):
        if id(parameter) in seen:
            raise ValueError(
                f"{seen[id(parameter)]} and {name} are one tied parameter, whose units cannot be removed from one "
                "layer alone: give each layer its own copy"
            )
        seen[id(parameter)] = name


def _refuse_shared(network: nn.Module, keep: bool) -> None:
    for name, module in network.named_modules():
        if isinstance(module, SharedBlock) and not keep:
            raise NotFollowedError(
                f"{name} uses the convolutions of an earlier block, so that a unit would leave several blocks at once"
            )


def _label(n: fx.Node) -> str:
    if n.op == "call_module":
        return f"layer {str(n.target)!r}"
    return f"function {n.target if isinstance(n.target, str) else _name_of(n.target)}"


_OUT_OF_PLACE: dict[Any, Any] = {
    **OUT_OF_PLACE,
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
