"""Network source: a traced network as readable Python, the lines of a constructor and of a forward.

Every operation of the torch.fx graph becomes one line. A variable goes on through a chain of layers under one name,
`x` or the name of the block it is in, and a new one begins where the old one is still wanted, as at a branch.
"""

from __future__ import annotations

import builtins
import keyword
import operator
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn

from bayesprune.models.deployment.expression_source import INFIX, Expressions, wrapped
from bayesprune.models.deployment.module_source import is_layer, layer_source, literal
from bayesprune.models.graphs.in_place import IN_PLACE

__all__ = ["NetworkSource", "network_source"]

_PURE_METHODS = {"size", "dim", "numel", "ndimension", "stride"}
_RESERVED = {"self", "torch", "nn", "F", "math", "operator"} | set(keyword.kwlist) | set(dir(builtins))


@dataclass(frozen=True)
class NetworkSource:
    """A network as source.

    Attributes:
        layers: Lines of the constructor, without indentation.
        forward: Lines of the forward, without indentation.
        inputs: Names of the forward's arguments.
        imports: Import lines that the forward needs beside those of torch and nn.
        state: Tensors by their name in the new network's state dict.
        parameters: Number of parameters.
    """

    layers: list[str]
    forward: list[str]
    inputs: list[str]
    imports: list[str]
    state: dict[str, Tensor]
    parameters: int


def network_source(network: nn.Module, graph: fx.Graph, tensors: dict[fx.Node, bool]) -> NetworkSource:
    """Writes a traced network as source.

    Args:
        network: The network, in evaluation mode.
        graph: Its graph; nodes whose results nothing uses are taken out of it.
        tensors: Nodes whose results are a tensor (true) or hold some; the others give sizes and the like.

    Raises:
        ValueError: If a layer or function has no readable source, with its name.
    """
    _take_out_unused(graph)
    attributes = _Attributes(network, graph)
    forward = _Forward(graph, tensors, attributes)
    imports = forward.expressions.imports
    return NetworkSource(
        attributes.lines, forward.lines, forward.inputs, imports, attributes.state, attributes.parameters
    )


def _take_out_unused(graph: fx.Graph) -> None:
    """Takes out what computes nothing that is wanted: sizes never used, halves of unpacked pairs."""
    for node in reversed(graph.nodes):
        functions = node.op == "call_function" and (node.target in INFIX or node.target in (getattr, operator.getitem))
        methods = node.op == "call_method" and node.target in _PURE_METHODS
        if not node.users and (node.op == "get_attr" or functions or methods):
            graph.erase_node(node)


def _identifier(path: str, prefix: str) -> str:
    """A dotted name as a Python name: ``layer1.0.conv1`` is ``layer1_0_conv1``, and ``0`` is ``<prefix>_0``."""
    name = re.sub(r"\W", "_", path)
    return f"{prefix}_{name}" if not name or name[0].isdigit() else name


def _short(path: str, prefix: str) -> str:
    """The end of a dotted name that says something, e.g. ``conv1`` of ``layer1.0.conv1``, ``layer1_0`` of the block."""
    parts = path.split(".")
    begin = next((k for k in range(len(parts) - 1, -1, -1) if not parts[k][:1].isdigit()), 0)
    return _identifier(".".join(parts[begin:]), prefix)


def _free(wanted: str, taken: set[str]) -> str:
    """The name itself, or with a number behind it."""
    name, number = wanted, 1
    while name in taken:
        number += 1
        name = f"{wanted}_{number}"
    return name


def _block(scope: str) -> str:
    """The part of a dotted name that a paragraph of source is about, e.g. ``layer1.0``."""
    return ".".join(scope.split(".")[:2])


class _Attributes:
    """The layers, parameters and buffers that a graph uses, under flat names, as lines of a constructor."""

    def __init__(self, network: nn.Module, graph: fx.Graph) -> None:
        self.lines: list[str] = []
        self.state: dict[str, Tensor] = {}
        self.parameters = 0
        self._taken = _RESERVED | set(dir(nn.Module()))
        self._names: dict[str, str] = {}
        block = None
        for path, name in _used(network, graph):
            paragraph = _block(path if name else path.rpartition(".")[0])
            self.lines += [""] if block not in (None, paragraph) else []
            block = paragraph
            module = network.get_submodule(path)
            if name:
                self._write_tensor(f"{path}.{name}".lstrip("."), getattr(module, name))
            else:
                self._write_layer(path, module)

    def __call__(self, path: str) -> str:
        """A layer or tensor as the forward says it, e.g. ``self.fc_weight``, or ``self.fc.weight`` of a layer."""
        if path in self._names:
            return f"self.{self._names[path]}"
        owner, _, name = path.rpartition(".")
        return f"self.{self._names[owner]}.{name}"

    def _name(self, path: str, prefix: str) -> str:
        name = _free(_identifier(path.lstrip("_"), prefix), self._taken)
        self._taken.add(name)
        self._names[path] = name
        return name

    def _write_layer(self, path: str, layer: nn.Module) -> None:
        source = layer_source(path, layer)
        name = self._name(path, type(layer).__name__.lower())
        self.lines += wrapped(f"self.{name} = {source}")
        self.parameters += sum(parameter.numel() for parameter in layer.parameters())
        self.state |= {f"{name}.{key}": tensor for key, tensor in layer.state_dict().items()}

    def _write_tensor(self, path: str, tensor: Any) -> None:
        if not torch.is_tensor(tensor):
            raise ValueError(
                f"the network's forward uses {path}, a {type(tensor).__name__}: use layers and tensors only"
            )
        name = self._name(path, "tensor")
        shape = literal(tuple(tensor.shape))
        if isinstance(tensor, nn.Parameter) and tensor.is_floating_point():
            self.lines.append(f"self.{name} = nn.Parameter(torch.zeros({shape}))")
            self.parameters += tensor.numel()
        else:
            dtype = "" if tensor.is_floating_point() else f", dtype={tensor.dtype}"
            self.lines.append(f'self.register_buffer("{name}", torch.zeros({shape}{dtype}))')
        self.state[name] = tensor.detach()


def _used(network: nn.Module, graph: fx.Graph) -> Iterator[tuple[str, str]]:
    """Layers as (name, "") and loose tensors as (name of their module, name) that a graph uses, in their order."""
    layers = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    loose: dict[str, dict[str, None]] = {}
    for node in graph.nodes:
        if node.op == "get_attr":
            owner, _, name = str(node.target).rpartition(".")
            if is_layer(network.get_submodule(owner)):
                layers.add(owner)
            else:
                loose.setdefault(owner, {})[name] = None
    for path, _ in network.named_modules():
        if path in layers:
            yield path, ""
        yield from ((path, name) for name in loose.get(path, ()))


class _Forward:
    """The lines of a forward."""

    def __init__(self, graph: fx.Graph, tensors: dict[fx.Node, bool], attributes: _Attributes) -> None:
        self.lines: list[str] = []
        self.inputs: list[str] = []
        self.expressions = Expressions(attributes)
        self._tensors = tensors
        self._nodes = list(graph.nodes)
        self._position = {node: number for number, node in enumerate(self._nodes)}
        self._inline = self._inlined()
        self._last_use = {node: self._end(node) for node in self._nodes}
        self._variables = self.expressions.variables
        self._scopes: dict[fx.Node, str] = {}  # the block that a variable's name is of
        self._paragraph: str | None = None
        for node in self._nodes:
            if node.op == "placeholder":
                self._write_input(node)
            elif node not in self._inline and not (node.op == "output" and self._is_returned(self._nodes[-2])):
                self._write(node)

    def _inlined(self) -> set[fx.Node]:
        """Nodes written where they are used: attributes, and sizes that the very next line uses."""
        found: set[fx.Node] = set()
        for node in reversed(self._nodes):
            if node.op == "get_attr":
                found.add(node)
            elif node.op in ("call_function", "call_method") and node not in self._tensors and len(node.users) == 1:
                between = self._nodes[self._position[node] + 1 : self._position[next(iter(node.users))]]
                if node.target not in IN_PLACE and all(other in found for other in between):
                    found.add(node)
        return found

    def _end(self, node: fx.Node) -> int:
        """Position of the last line that reads a node."""
        return max((self._end(u) if u in self._inline else self._position[u] for u in node.users), default=-1)

    def _write_input(self, node: fx.Node) -> None:
        target = str(node.target)
        if target.startswith("*"):
            raise ValueError(f"the network's forward takes {target}, an open number of inputs: name each of them")
        alone = sum(other.op == "placeholder" for other in self._nodes) == 1
        name = _free("x" if alone else _identifier(target, "input"), _RESERVED | set(self.inputs))
        self.inputs.append(name)
        self._variables[node], self._scopes[node] = name, ""

    def _write(self, node: fx.Node) -> None:
        if node.op == "call_module" or node.meta.get("nn_module_stack"):
            paragraph = _block(self._scope(node))
            self.lines += [""] if self._paragraph not in (None, paragraph) else []
            self._paragraph = paragraph
        self.lines += wrapped(self._line(node))

    def _line(self, node: fx.Node) -> str:
        if node.op == "output":
            return f"return {self.expressions.argument(node.args[0])}"
        first: Any = node.args[0] if node.args else None
        if node.target in IN_PLACE and first in self._variables and self._last_use[first] <= self._position[node]:
            self._variables[node], self._scopes[node] = self._variables[first], self._scopes[first]
            return f"{self._variables[first]} {IN_PLACE[node.target]} {self.expressions.argument(node.args[1])}"
        source, _ = self.expressions.source(node)
        if not node.users or self._is_returned(node):
            return f"return {source}" if node.users else source
        name = self._name(node)
        self._variables[node] = name
        return f"{name} = {source}"

    def _is_returned(self, node: fx.Node) -> bool:
        """Whether a node is the network's output and its line the last."""
        return self._nodes[-1].args[0] is node and self._nodes[-2] is node and node.target not in IN_PLACE

    def _scope(self, node: fx.Node) -> str:
        """The block that a node is in, e.g. ``layer1.0``."""
        if node.op == "call_module":
            return str(node.target).rpartition(".")[0]
        stack = node.meta.get("nn_module_stack")
        return str(next(reversed(stack.values()))[0]) if stack else ""

    def _name(self, node: fx.Node) -> str:
        """A name for a node's result: that of the chain it goes on, else of its block, else of its layer."""
        here, scope = self._position[node], self._scope(node)
        living = _RESERVED | {name for other, name in self._variables.items() if self._last_use[other] > here}
        candidates: list[tuple[str, str]] = []
        if self._tensors.get(node):
            operands = [other for other in self._operands(node) if other in self._tensors]
            chain = operands[0] if len(operands) == 1 and self._last_use[operands[0]] == here else None
            if (
                chain is not None
                and self._tensors[chain]
                and f"{scope}.".startswith(f"{self._scopes[chain]}.".lstrip("."))
            ):
                candidates.append((self._variables[chain], self._scopes[chain]))
            if chain is not None or not scope:
                candidates.append((self.inputs[0], ""))
            if scope:
                candidates.append((_short(scope, "block"), scope))
        for name, its_scope in candidates:
            if name not in living:
                self._scopes[node] = its_scope
                return name
        self._scopes[node] = scope
        return _free(self._own_name(node), living)

    def _own_name(self, node: fx.Node) -> str:
        """A name that says what a node does."""
        if node.op == "call_module":
            return _short(str(node.target), "layer")
        if node.target is getattr:
            return str(node.args[1])
        if node.target is operator.getitem:
            of: Any = node.args[0]
            return f"{self._variables.get(of, 'item')}_{node.args[1]}" if str(node.args[1]).isdigit() else "item"
        return _identifier(getattr(node.target, "__name__", str(node.target)).strip("_"), "value")

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """Variables that a line reads, also through what is written inside it."""
        found: list[fx.Node] = []
        for other in node.all_input_nodes:
            found += self._operands(other) if other in self._inline else [other]
        return list(dict.fromkeys(found))
