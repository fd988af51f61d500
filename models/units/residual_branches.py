"""Residual branches: which parts of a network are added to a skip, what scales them, and the network without them."""

from __future__ import annotations

import copy
import operator
import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from bayesprune.models.graphs.traced_graph import graph_of
from bayesprune.models.tracing.channel_trace import ChannelTrace, trace_channels

__all__ = ["ResidualBranch", "branches_of", "remove_branches", "residual_branches", "with_code"]


@dataclass(frozen=True)
class ResidualBranch:
    """A part of a network whose output is added to a skip.

    Attributes:
        name: Common prefix of the names of its layers, e.g. ``"layer1.0"``; where that is empty or another branch
            has the same, the name of the layer that scales its output.
        add: Name of the node of the sum in the network's torch.fx graph.
        output: Names of the parameters that scale all that the branch puts out, the weight and bias of its last layer
            that has some. It puts out exactly zero where they are zero.
        layers: Names of all modules that only the branch uses, those without parameters among them.
        end: Name of the node that the branch puts into the sum.
        skip: Name of the node that takes the place of the sum where the branch is gone.
    """

    name: str
    add: str
    output: tuple[str, ...]
    layers: tuple[str, ...]
    end: str
    skip: str


def residual_branches(network: nn.Module, example_input: Any) -> dict[str, ResidualBranch]:
    """Finds the residual branches of a network.

    A branch is the side of a sum of two tensors of one shape that begins where the other side begins too and has more
    layers with parameters on its shortest way (none of them for an identity, or for padding with zeros; a projection
    stays, as it is the shorter one). Left out are sums of two sides that are equally long, sides that begin in several
    places, and branches that no layer of their own scales: their last layer with parameters must be used nowhere else,
    what follows it must turn zeros into zeros, as ReLU does and a sigmoid does not, and nothing in the branch may
    change the skip in place.

    Args:
        network: The network; it is copied, not changed. It must be traceable by torch.fx.
        example_input: An input, `(n, ...)`, or a tuple of inputs; only its shape matters.

    Returns:
        The branches by name, in the order of their sums.

    Raises:
        ValueError: If the network cannot be traced or does not take the example input.
    """
    return branches_of(trace_channels(network, example_input, unknown="keep"))


def branches_of(trace: ChannelTrace) -> dict[str, ResidualBranch]:
    """The residual branches of a traced network; see `residual_branches`."""
    found = []
    for node in trace.graph.nodes:
        sides = _sides(trace, node)
        if sides is None:
            continue
        end, skip = sides
        nodes = _only_for(end, node)
        layers = _layers(trace.graph, nodes)
        output = _output(trace, end, nodes, layers)
        changed = {other for each in nodes for other, _ in trace.changed.get(each.name, ())}
        if output and changed <= set(nodes):
            found.append((_prefix(layers), ResidualBranch("", node.name, output, layers, end.name, skip.name)))
    prefixes = [prefix for prefix, _ in found]
    named = {}
    for prefix, branch in found:
        name = prefix if prefix and prefixes.count(prefix) == 1 else branch.output[0].rpartition(".")[0]
        named[name] = replace(branch, name=name)
    return named


def remove_branches(network: nn.Module, example_input: Any, names: Iterable[str]) -> nn.Module:
    """Makes a network without some of its residual branches: their sums are replaced by the skips.

    Names of parameters that stay do not change. Modes (training or evaluation) and `requires_grad` are as they were.

    Args:
        network: The network; it is copied.
        example_input: As for `residual_branches`.
        names: Names of branches; one inside another that goes too may be among them.

    Returns:
        A `torch.fx.GraphModule` of the same class name; a copy of the network if there are no names.

    Raises:
        ValueError: If there is no branch of a name, or the network's code does something else in training mode than in
            evaluation mode, so that the new code would not.
    """
    chosen = set(names)
    if not chosen:
        return copy.deepcopy(network)
    trace = trace_channels(network, example_input, unknown="keep")
    branches = branches_of(trace)
    unknown = sorted(chosen - set(branches))
    if unknown:
        raise ValueError(
            f"the network has no residual branch {unknown[0]!r}: there are {', '.join(branches) or 'none'}"
        )
    graph = copy.deepcopy(trace.graph)
    nodes = {node.name: node for node in graph.nodes}
    overwritten = {node.name for changes in trace.changed.values() for node, _ in changes}
    for branch in reversed([branch for name, branch in branches.items() if name in chosen]):
        if branch.add not in nodes:
            continue  # it was inside one that is gone
        add, skip = nodes[branch.add], nodes[branch.skip]
        gone = [add, *_only_for(nodes[branch.end], add)]
        if branch.add in overwritten:  # what changes the sum in place must not change the skip for its other readers
            with graph.inserting_before(add):
                skip = graph.call_method("clone", (skip,))
        add.replace_all_uses_with(skip)
        for node in gone:
            graph.erase_node(node)
            del nodes[node.name]
    return with_code(copy.deepcopy(network), graph, trace.module)


def with_code(network: nn.Module, graph: fx.Graph, traced: nn.Module) -> fx.GraphModule:
    """A network's modules with another graph as its code, in the modes that the modules have.

    Args:
        network: The network; the result shares its modules.
        graph: The code.
        traced: The module that was traced, which owns the tensors that code makes from numbers.

    Raises:
        ValueError: If the network is in training mode and its own code does something else there.
    """
    inputs = sum(node.op == "placeholder" for node in graph.nodes)
    if network.training and not isinstance(network, fx.GraphModule):
        modes = [str(graph_of(copy.deepcopy(network).train(mode), inputs)) for mode in (True, False)]
        if modes[0] != modes[1]:
            raise ValueError(
                "the network's forward does something else in training mode (such as functional dropout), and code "
                "made from it would not: use modules there (nn.Dropout), or call eval() first"
            )
    graph.lint()
    for node in graph.nodes:
        if node.op == "get_attr" and not hasattr(network, node.target.split(".")[0]):
            setattr(network, node.target, getattr(traced, node.target))
    made = fx.GraphModule(network, graph, type(network).__name__)
    training = {name: module.training for name, module in network.named_modules()}
    for name, module in made.named_modules():
        module.training = training[name]
    return made


def _sides(trace: ChannelTrace, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The branch's side and the skip's of a sum, or None where it is no sum of a branch and a skip."""
    if node.op not in ("call_function", "call_method") or node.target not in _SUMS:
        return None
    if len(node.args) != 2 or node.kwargs or node.args[0] is node.args[1]:
        return None
    one, other = node.args
    if not isinstance(one, fx.Node) or not isinstance(other, fx.Node):
        return None
    examples = [trace.recording.examples.get(side.name) for side in (one, other)]
    if not all(map(torch.is_tensor, examples)) or examples[0].shape != examples[1].shape:  # type: ignore[union-attr]
        return None
    start, length = _start(trace, one, node)
    other_start, other_length = _start(trace, other, node)
    if start is None or start is not other_start or length == other_length:
        return None
    return (one, other) if length > other_length else (other, one)


def _start(trace: ChannelTrace, end: fx.Node, add: fx.Node) -> tuple[fx.Node | None, int]:
    """Where a side of a sum begins (None if in many places), and the layers with parameters on its shortest way."""
    nodes = _only_for(end, add)
    if not nodes:
        return end, 0
    read = {each for node in nodes for each in node.all_input_nodes if each not in nodes}
    read = {each for each in read if torch.is_tensor(trace.recording.examples.get(each.name))}
    if len(read) != 1:
        return None, 0
    (start,) = read
    length = {start: 0}
    for node in reversed(nodes):
        before = [length[each] for each in node.all_input_nodes if each in length]
        if before:
            length[node] = min(before) + _has_parameters(trace.module, node)
    return start, length[end]


def _only_for(end: fx.Node, add: fx.Node) -> list[fx.Node]:
    """Nodes that would be of no use if a sum did not read this side of it, users first."""
    if list(end.users) != [add]:
        return []
    found, node = {end: None}, end.prev
    if end.op == "placeholder":
        return []
    while node.op != "root":
        if node.op != "placeholder" and node.users and all(user in found for user in node.users):
            found[node] = None
        node = node.prev
    return list(found)


def _has_parameters(module: nn.Module, node: fx.Node) -> bool:
    if node.op == "call_module":
        return any(True for _ in module.get_submodule(str(node.target)).parameters())
    return any(each.op == "get_attr" for each in node.all_input_nodes)


def _layers(graph: fx.Graph, nodes: list[fx.Node]) -> tuple[str, ...]:
    """Names of modules that these nodes use and no others do, in their order."""
    own = {node.name for node in nodes}
    elsewhere = {str(node.target) for node in graph.nodes if node.op == "call_module" and node.name not in own}
    elsewhere |= {_owner(node) for node in graph.nodes if node.op == "get_attr" and node.name not in own}
    used = dict.fromkeys(str(node.target) for node in reversed(nodes) if node.op == "call_module")
    return tuple(name for name in used if name not in elsewhere)


def _owner(node: fx.Node) -> str:
    return str(node.target).rpartition(".")[0]


def _output(trace: ChannelTrace, node: fx.Node, nodes: list[fx.Node], layers: tuple[str, ...]) -> tuple[str, ...]:
    """Parameters that scale what a node of a branch gives; none where no layer of the branch alone does."""
    if node not in nodes:
        return ()
    if node.op == "call_module" and isinstance(trace.module.get_submodule(str(node.target)), _SCALING):
        names = [name for name, _ in trace.module.get_submodule(str(node.target)).named_parameters(str(node.target))]
        return tuple(names) if node.target in layers and f"{node.target}.weight" in names else ()
    before = node.all_input_nodes
    if node.target in _PRODUCTS:  # zero if one factor is
        return next(filter(None, (_output(trace, factor, nodes, layers) for factor in before)), ())
    return _output(trace, before[0], nodes, layers) if len(before) == 1 and _keeps_zeros(trace, node, before[0]) else ()


def _keeps_zeros(trace: ChannelTrace, node: fx.Node, before: fx.Node) -> bool:
    """Whether a function of one tensor turns zeros into zeros, whatever is learned."""
    example = trace.recording.examples.get(before.name)
    if not torch.is_tensor(example):
        return False
    args, kwargs = fx.map_arg((node.args, node.kwargs), lambda _: torch.zeros(example.shape, dtype=example.dtype))
    if node.op == "call_method":
        found = getattr(args[0], str(node.target))(*args[1:], **kwargs)
    elif node.op == "call_module":
        module = copy.deepcopy(trace.module.get_submodule(str(node.target))).cpu()
        if [*module.parameters(), *module.buffers()] and not isinstance(module, nn.PReLU):
            return False
        found = module(*args, **kwargs)
    else:
        function: Any = node.target
        found = function(*args, **kwargs)
    return torch.is_tensor(found) and bool((found == 0).all())


def _prefix(names: tuple[str, ...]) -> str:
    """What names have in common, in whole parts between dots."""
    return ".".join(os.path.commonprefix([name.split(".") for name in names]))


_SUMS: tuple[Any, ...] = (operator.add, operator.iadd, torch.add, "add", "add_", "__add__", "__iadd__")
_PRODUCTS: tuple[Any, ...] = (operator.mul, operator.imul, torch.mul, "mul", "mul_")
_SCALING = (
    nn.Linear,
    *(nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d),
    *(nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.InstanceNorm1d, nn.InstanceNorm2d, nn.InstanceNorm3d),
    *(nn.LayerNorm, nn.GroupNorm),
)
"""Layers whose weight and bias, both zero, make all that they put out zero."""
