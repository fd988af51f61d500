"""The error of a network whose channels cannot be followed, with what else can be done."""

from __future__ import annotations

__all__ = ["NotFollowedError"]


class NotFollowedError(ValueError):
    """Channels cannot be followed through a node.

    Args:
        problem: The node, and why.
        remedy: What else can be done than to write the network otherwise; default the argument of `compact` and
            `ChannelGroups`. Who has no such argument says something else, by `otherwise`.
    """

    def __init__(self, problem: str, remedy: str = 'pass unknown="keep" to keep every unit that it touches') -> None:
        super().__init__(f"{problem}: write it with layers that are understood, or {remedy}")
        self.problem = problem

    def otherwise(self, remedy: str) -> NotFollowedError:
        """The same, with another remedy."""
        return NotFollowedError(self.problem, remedy)
