"""The torch.fx graph of a network: what its forward does with so many inputs, changes in place included."""

from __future__ import annotations

import inspect
import keyword
import operator
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.graphs.forward_constants import recorded_factories, remedy_for
from bayesprune.models.graphs.in_place import IN_PLACE, OUT_OF_PLACE

__all__ = ["InPlaceTracer", "graph_of", "refuse_reserved_names", "take_out"]


_NUMBERS_OF = ("data", "real", "imag")
"""Attributes of a tensor that are its numbers."""


class _AttributeSetError(ValueError):
    """A forward that sets what a graph cannot show."""


class _Proxy(fx.Proxy):
    """A value that is traced; unlike torch.fx's, it keeps ``y += x`` apart from ``y = y + x``."""

    def __getattr__(self, name: str) -> fx.proxy.Attribute:
        return _Attribute(self, name)

    def __setattr__(self, name: str, value: Any) -> None:
        """Sets an attribute: torch.fx's own, or one that has nothing to do with a tensor's numbers.

        ``y.data += x`` ends in one, too; the addition is in the graph, and there is nothing left to set.
        """
        if name not in _NUMBERS_OF:
            super().__setattr__(name, value)
        elif not _changed_in_place(self, name, value):
            raise _AttributeSetError(
                f"the network's forward sets .{name} of a tensor, which no torch.fx graph shows, so that its units "
                "cannot be followed: give the new tensor a name, or write into it with copy_"
            )


class _Attribute(fx.proxy.Attribute, _Proxy):
    """An attribute of such a value, such as `.data`."""


def _changed_in_place(proxy: fx.Proxy, name: str, value: Any) -> bool:
    """Whether a value is what an operation in place, such as ``+=``, has made of that attribute of a traced value."""
    if not isinstance(value, fx.Proxy) or value.node.target not in IN_PLACE:
        return False
    changed = value.node.args[0]
    return isinstance(changed, fx.Node) and changed.target is getattr and changed.args[:2] == (proxy.node, name)


def _in_place(function: Callable[..., Any]) -> Callable[[fx.Proxy, Any], fx.Proxy]:
    def method(self: fx.Proxy, other: Any) -> fx.Proxy:
        return self.tracer.create_proxy("call_function", function, (self, other), {})

    return method


for _function in IN_PLACE:
    setattr(_Proxy, f"__{_function.__name__}__", _in_place(_function))


class InPlaceTracer(fx.Tracer):
    """A tracer that keeps ``y += x`` apart from ``y = y + x``: the one changes what `y` is a view of."""

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """A value of the trace."""
        return _Proxy(node, self)


def graph_of(network: nn.Module, inputs: int) -> fx.Graph:
    """The torch.fx graph of a network for so many inputs; further arguments of its forward have their defaults."""
    arguments = list(inspect.signature(network.forward).parameters.values())[inputs:]
    held = {each.name: each.default for each in arguments if each.default is not inspect.Parameter.empty}
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Was not able to add assertion", category=UserWarning)
            tracer = InPlaceTracer()
            with recorded_factories(tracer):
                graph = tracer.trace(network, concrete_args=held or None)
    except fx.proxy.TraceError as problem:
        raise ValueError(
            f"the network cannot be traced, because its forward depends on its data ({problem}): "
            "units can only be followed through a fixed sequence of layers; replace the branch"
        ) from problem
    except _AttributeSetError:
        raise
    except Exception as problem:  # forward is the user's code, and a proxy in place of a tensor may break it anyhow
        reason = first_line(problem)
        raise ValueError(
            f"the network cannot be traced by torch.fx ({type(problem).__name__}: {reason}){remedy_for(reason)}"
        ) from problem
    if held:
        for node in [node for node in graph.nodes if node.op == "placeholder"][inputs:]:
            take_out(graph, node)
        graph.set_codegen(fx.graph.CodeGen())
    _renew_numbers(graph)
    return graph


def take_out(graph: fx.Graph, node: fx.Node) -> None:
    """Takes out an argument that has its default, and the checks that it has."""
    for check in list(node.users):
        take_out(graph, check)
    graph.erase_node(node)


def refuse_reserved_names(graph: fx.Graph) -> None:
    """Refuses a graph whose code could not be written, as it names a module by a word of Python.

    Raises:
        ValueError: If it uses a module or tensor with such a name.
    """
    for node in graph.nodes:
        if node.op in ("call_module", "get_attr"):
            for part in str(node.target).split("."):
                if keyword.iskeyword(part):
                    raise ValueError(
                        f"{node.target!r} is used by the network, but {part!r} is a word of Python, by which torch.fx "
                        "cannot name a module in code: give it another name"
                    )


def _renew_numbers(graph: fx.Graph) -> None:
    """Writes ``n += 1`` as ``n = n + 1`` where `n` is a size: a number is not changed in place, whoever else holds it.

    Code that is made from a graph would give the new number to all who hold the old one.
    """
    numbers: set[fx.Node] = set()
    for node in graph.nodes:
        if _is_number(node, numbers):
            numbers.add(node)
            if node.target in IN_PLACE:
                node.target = OUT_OF_PLACE[node.target]


def _is_number(node: fx.Node, numbers: set[fx.Node]) -> bool:
    """Whether a node gives a size, several of them, or what is computed from nothing else; a tuple counts too."""
    if node.op == "call_method":
        return node.target in _NUMBERS
    if node.op != "call_function":
        return False
    if node.target is getattr:
        return node.args[1] in ("shape", "ndim")
    if node.target in (torch.chunk, torch.split, torch.unbind):
        return True
    if node.target is operator.getitem and node.args[0] in numbers:
        return not _is_tuple(node.args[0])
    home = getattr(node.target, "__module__", None)
    return (
        home in ("_operator", "math", "builtins")
        and bool(node.all_input_nodes)
        and numbers.issuperset(node.all_input_nodes)
    )


def _is_tuple(node: Any) -> bool:
    """Whether a node gives parts of a tensor."""
    return getattr(node.target, "__name__", node.target) in ("chunk", "split", "unbind")


_NUMBERS = ("size", "dim", "ndimension", "numel", "nelement", "item", "tolist", "chunk", "split", "unbind")
