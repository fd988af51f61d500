"""Python's operators that work in place: how code writes them, and what gives the same as a new value."""

from __future__ import annotations

import operator
from typing import Any

__all__ = ["IN_PLACE", "OUT_OF_PLACE"]

IN_PLACE: dict[Any, str] = {
    **{operator.iadd: "+=", operator.isub: "-=", operator.imul: "*=", operator.itruediv: "/="},
    **{operator.ifloordiv: "//=", operator.imod: "%=", operator.ipow: "**=", operator.imatmul: "@="},
    **{operator.iand: "&=", operator.ior: "|=", operator.ixor: "^="},
}
"""How code writes them."""
OUT_OF_PLACE: dict[Any, Any] = {
    **{operator.iadd: operator.add, operator.isub: operator.sub, operator.imul: operator.mul},
    **{operator.itruediv: operator.truediv, operator.ifloordiv: operator.floordiv, operator.imod: operator.mod},
    **{operator.ipow: operator.pow, operator.imatmul: operator.matmul, operator.iand: operator.and_},
    **{operator.ior: operator.or_, operator.ixor: operator.xor},
}
"""The function that makes a new number."""
