"""Expression source: one node of a torch.fx graph as a readable Python expression."""

from __future__ import annotations

import inspect
import io
import math
import operator
import tokenize
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import fx

from bayesprune.models.deployment.module_source import literal

__all__ = ["Expressions", "wrapped"]

INFIX: dict[Any, str] = {
    **{operator.add: "+", operator.sub: "-", operator.mul: "*", operator.truediv: "/", operator.floordiv: "//"},
    **{operator.mod: "%", operator.pow: "**", operator.matmul: "@", operator.and_: "&", operator.or_: "|"},
    **{operator.xor: "^", operator.lshift: "<<", operator.rshift: ">>", operator.eq: "==", operator.ne: "!="},
    **{operator.lt: "<", operator.le: "<=", operator.gt: ">", operator.ge: ">="},
}
PREFIX: dict[Any, str] = {operator.neg: "-", operator.invert: "~", operator.pos: "+"}
_SPACES = {
    **{"F": F, "torch": torch, "torch.linalg": torch.linalg, "torch.fft": torch.fft, "torch.special": torch.special},
    **{"math": math, "operator": operator},
}
_IMPORTS = {"F": "from torch.nn import functional as F", "math": "import math", "operator": "import operator"}
_LINE_LENGTH = 120
_INDENT = 8  # of a method's body


class Expressions:
    """Nodes as expressions, given the names of their operands.

    Attributes:
        variables: Names of the nodes that are variables.
        imports: Import lines that the expressions so far need, beside that of torch.
    """

    def __init__(self, attribute: Callable[[str], str]) -> None:
        self._attribute = attribute  # says a layer's or tensor's dotted name as the forward does, e.g. self.conv1
        self.variables: dict[fx.Node, str] = {}
        self.imports: list[str] = []

    def source(self, node: fx.Node) -> tuple[str, bool]:
        """Returns a node as an expression, and whether it binds as closely as a name does.

        Raises:
            ValueError: If it calls a function that is not torch's or Python's, or holds a constant without source.
        """
        try:
            return self._source(node)
        except TypeError as problem:
            raise ValueError(
                f"node {node.name!r} ({node.target}) is called with {problem}, which has no readable source: pass "
                "tensors and plain numbers"
            ) from problem

    def argument(self, value: Any, atom: bool = False) -> str:
        """Returns an operand or constant as source, in parentheses where it has to be one piece and is not."""
        if isinstance(value, fx.Node):
            if value in self.variables:
                return self.variables[value]
            source, whole = self.source(value)
            return source if whole or not atom else f"({source})"
        if isinstance(value, slice):
            begin, end, step = ("" if x is None else self.argument(x) for x in (value.start, value.stop, value.step))
            return f"{begin}:{end}:{step}" if step else f"{begin}:{end}"
        if isinstance(value, tuple):
            return f"({', '.join(map(self.argument, value))}{',' if len(value) == 1 else ''})"
        if isinstance(value, list):
            return f"[{', '.join(map(self.argument, value))}]"
        if isinstance(value, dict):
            return "{" + ", ".join(f"{literal(key)}: {self.argument(part)}" for key, part in value.items()) + "}"
        source = literal(value)
        return f"({source})" if atom and source[0] == "-" else source

    def _source(self, node: fx.Node) -> tuple[str, bool]:
        if node.op == "get_attr":
            return self._attribute(str(node.target)), True
        if node.op == "call_module":
            return f"{self._attribute(str(node.target))}({self._arguments(node.args, node.kwargs)})", True
        if node.op == "call_method":
            of, *rest = node.args
            return f"{self.argument(of, True)}.{node.target}({self._arguments(rest, node.kwargs)})", True
        target: Any = node.target
        if target is getattr and len(node.args) == 2:
            return f"{self.argument(node.args[0], True)}.{node.args[1]}", True
        if target is operator.getitem:
            of, index = node.args
            plain = isinstance(index, tuple) and len(index) > 0
            inner = ", ".join(map(self.argument, index)) if plain else self.argument(index)  # type: ignore[arg-type]
            inner += "," if plain and len(index) == 1 else ""  # type: ignore[arg-type]
            return f"{self.argument(of, True)}[{inner}]", True
        if target in INFIX:
            left, right = (self.argument(part, True) for part in node.args)
            return f"{left} {INFIX[target]} {right}", False
        if target in PREFIX:
            return f"{PREFIX[target]}{self.argument(node.args[0], True)}", False
        said = _without_defaults(target, node.kwargs)
        return f"{self._function(node)}({self._arguments(node.args, said)})", True

    def _arguments(self, args: Any, kwargs: dict[str, Any]) -> str:
        positional = [self.argument(part) for part in args]
        return ", ".join(positional + [f"{name}={self.argument(part)}" for name, part in kwargs.items()])

    def _function(self, node: fx.Node) -> str:
        """The public name of a function, e.g. ``F.max_pool2d``."""
        target: Any = node.target
        if isinstance(target, torch._ops.OpOverload) and target.namespace == "aten":
            return f"torch.ops.{target}"
        for space, module in _SPACES.items():
            for name in dict.fromkeys([getattr(target, "__name__", ""), *(vars(module) if space == "F" else ())]):
                if vars(module).get(name) is target and (not name.startswith("_") or name == "_assert"):
                    if space in _IMPORTS and _IMPORTS[space] not in self.imports:
                        self.imports.append(_IMPORTS[space])
                    return f"{space}.{name}"
        name = f"{getattr(target, '__module__', None)}.{getattr(target, '__name__', target)}"
        raise ValueError(
            f"node {node.name!r} calls {name}, which is not a function of torch and so not there where torch is alone: "
            "write it with functions of torch"
        )


def wrapped(line: str) -> list[str]:
    """Breaks a statement that is too long for a method's body, after commas between brackets."""
    room = _LINE_LENGTH - _INDENT
    if len(line) <= room:
        return [line]
    depth, opened, ends = 0, 0, []
    for token in tokenize.generate_tokens(io.StringIO(line).readline):
        if token.string in ("(", "[", "{"):
            depth += 1
            opened = opened or token.end[1]
        elif token.string in (")", "]", "}"):
            depth -= 1
        elif token.string == "," and depth:
            ends.append(token.end[1])
    if not opened:
        return [line]
    lines = [line[:opened]]
    inner, begin = "", opened
    for end in [*ends, len(line) - 1]:
        piece = line[begin:end].strip()
        if inner and len(inner) + 1 + len(piece) > room - 4:
            lines.append(f"    {inner}")
            inner = piece
        else:
            inner = f"{inner} {piece}".strip()
        begin = end
    return [*lines, f"    {inner}", line[-1]]


def _without_defaults(function: Any, given: dict[str, Any]) -> dict[str, Any]:
    """Keyword arguments without those that are what the function takes by itself."""
    name = next((name for name, found in vars(F).items() if found is function), "")
    try:
        parameters = inspect.signature(vars(F).get(f"_{name}", function)).parameters
    except (TypeError, ValueError):  # built in
        return dict(given)
    return {
        key: value
        for key, value in given.items()
        if key not in parameters or isinstance(value, fx.Node) or _differs(value, parameters[key].default)
    }


def _differs(value: Any, default: Any) -> bool:
    return type(value) is not type(default) or value != default
