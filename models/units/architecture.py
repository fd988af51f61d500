"""Architecture: the widths of a network in the notation of the pruning literature, as 784-300-100-10."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from torch import fx, nn

from bayesprune.models.graphs.traced_graph import graph_of

__all__ = ["architecture", "layer_sizes", "notation"]

_ADDITIONS = {"add", "iadd", "add_"}


def architecture(network: nn.Module, example_input: Any) -> str:
    """Writes the widths of a network.

    The first number counts inputs, the others what each linear layer, convolution, recurrent layer or embedding puts
    out, in the order in which they run. Channels are counted, not pixels, so that LeNet-5 is ``1-20-50-500-10``. The
    layers inside a residual branch stand in parentheses, ``3-16-(12-16)-(9-16)-10``; a projection beside it is as wide
    as its last layer and is not written. Any other network (branches that are joined in another way, layers that run
    twice or not at all, code that torch.fx cannot trace) is a list of layers, in the order of the modules:
    ``conv1: 16, fc: 10``.

    Args:
        network: The network; it is left as it is.
        example_input: An input, or a tuple of inputs; only their number matters.

    Raises:
        ValueError: If there is no such layer.
    """
    inputs = len(example_input) if isinstance(example_input, (tuple, list)) else 1
    return notation(network, layer_sizes(network), inputs)


def layer_sizes(network: nn.Module, shapes: Mapping[str, Sequence[int]] | None = None) -> dict[str, tuple[int, int]]:
    """Inputs and outputs of each linear layer, convolution, recurrent layer and embedding, in the order of the modules.

    Args:
        network: The network.
        shapes: Shapes that the weights of linear layers and convolutions had before a removal, by name of tensor;
            default None, and for weights that are not among them: those that they have.
    """
    sizes = {}
    for name, module in network.named_modules():
        if isinstance(module, (nn.Linear, nn.modules.conv._ConvNd)):
            rows, columns = (shapes or {}).get(f"{name}.weight", module.weight.shape)[:2]
            groups = getattr(module, "groups", 1)
            if getattr(module, "transposed", False):
                sizes[name] = (rows, columns * groups)
            elif columns == 1 and groups > 1:  # depthwise: removal takes groups away
                sizes[name] = (rows * groups // len(module.weight), rows)
            else:
                sizes[name] = (columns * groups, rows)
        elif isinstance(module, (nn.RNNBase, nn.RNNCellBase)):
            width = getattr(module, "proj_size", 0) or module.hidden_size
            sizes[name] = (module.input_size, width * (1 + getattr(module, "bidirectional", False)))
        elif isinstance(module, nn.Embedding):
            sizes[name] = (module.num_embeddings, module.embedding_dim)
    return sizes


def notation(network: nn.Module, sizes: Mapping[str, tuple[int, int]], inputs: int = 1) -> str:
    """Writes given sizes in the notation of `architecture`.

    Args:
        network: A network that runs these layers.
        sizes: Inputs and outputs of each layer, from `layer_sizes`.
        inputs: How many inputs the network takes; default 1.

    Raises:
        ValueError: If there are no sizes.
    """
    if not sizes:
        raise ValueError("the network has no linear, convolutional or recurrent layer, so that there are no widths")
    if "" in sizes:  # the network is one layer
        return "-".join(map(str, sizes[""]))
    try:
        line = _line(graph_of(copy.deepcopy(network).eval(), inputs), set(sizes))
    except (RuntimeError, ValueError):  # it cannot be copied, or not be traced
        line = None
    if line is None:
        return ", ".join(f"{name}: {outputs}" for name, (_, outputs) in sizes.items())
    written = [str(sizes[line[0].layers[0]][0])]
    for part in line:
        widths = "-".join(str(sizes[name][1]) for name in part.layers)
        written.append(f"({widths})" if part.is_branch else widths)
    return "-".join(written)


@dataclass(frozen=True)
class _Part:
    """A layer that everything goes through, or the layers of a residual branch with those of its shortcut."""

    layers: list[str]
    is_branch: bool = False
    shortcut: tuple[str, ...] = ()


def _line(graph: fx.Graph, names: set[str]) -> list[_Part] | None:
    """The parts of a graph in which each layer runs once; None if it is no line of such parts."""
    reads: dict[fx.Node, list[fx.Node]] = {}  # of what depends on the input: what of that it reads
    passed: dict[fx.Node, set[fx.Node]] = {}  # the nodes that lie on every way from the input to a node
    for node in graph.nodes:
        reads[node] = [other for other in node.all_input_nodes if other in passed]
        if reads[node]:
            passed[node] = {node} | set.intersection(*(passed[other] for other in reads[node]))
        elif node.op == "placeholder":
            passed[node] = {node}
    trunk = [node for node in passed if node in passed.get(next(reversed(graph.nodes)), ())]
    if not trunk or trunk[0].op != "placeholder":  # several inputs
        return None
    order = list(passed)
    line = []
    for before, node in pairwise(trunk):
        if any(_layer(other, names) for other in order[order.index(before) + 1 : order.index(node)]):
            branch = _branch(before, node, reads, names)
            if branch is None:
                return None
            line.append(branch)
        if _layer(node, names):
            line.append(_Part(_layer(node, names)))
    found = [name for part in line for name in (*part.layers, *part.shortcut)]
    return line if sorted(found) == sorted(names) else None


def _branch(before: fx.Node, node: fx.Node, reads: Mapping[fx.Node, list[fx.Node]], names: set[str]) -> _Part | None:
    """The longer of the two ways that a sum joins; None if it is no residual sum."""
    if _called(node) not in _ADDITIONS or len(reads[node]) != 2:
        return None
    ways = []
    for end in reads[node]:
        way: list[str] = []
        while end is not before:
            if len(reads[end]) != 1:
                return None
            way = _layer(end, names) + way
            (end,) = reads[end]
        ways.append(way)
    shortcut, branch = sorted(ways, key=len)
    return _Part(branch, True, tuple(shortcut)) if len(shortcut) < min(len(branch), 2) else None


def _called(node: fx.Node) -> str:
    """Name of the function or method that a node calls, or nothing."""
    if node.op == "call_method":
        return str(node.target)
    return str(getattr(node.target, "__name__", "")) if node.op == "call_function" else ""


def _layer(node: fx.Node, names: set[str]) -> list[str]:
    """The layer that a node runs, if it is one of these."""
    return [str(node.target)] if node.op == "call_module" and node.target in names else []
