"""The names of the executions of a step."""

from __future__ import annotations

__all__ = ["EXECUTIONS"]

EXECUTIONS = ("auto", "plain", "fused")
