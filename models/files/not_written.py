"""What could not be written: the sentence names the place, the reason and what is left there."""

from __future__ import annotations

from pathlib import Path

__all__ = ["NotWrittenError"]


class NotWrittenError(OSError):
    """Something could not be written, for example because the disk is full.

    Args:
        path: What was being written.
        problem: What the system said.
        left: What is left, and what to do: the end of the sentence.
    """

    def __init__(self, path: Path | str, problem: OSError, left: str) -> None:
        super().__init__(f"{path} cannot be written ({problem.strerror or problem}): {left}")
        self.path = path
