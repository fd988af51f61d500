"""How a command ends: exit codes, signals, and the sentence that says what went wrong and what is left."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from typing import NoReturn

__all__ = [
    "INTERRUPTED",
    "TERMINATED",
    "Interrupted",
    "Terminated",
    "ended_by_hand",
    "exit_code",
    "listen_to_signals",
    "sentence",
    "what_is_left",
]

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of what was ended by Ctrl-C and by SIGTERM, as shells have them."""
NOTHING = "nothing was written"


class Interrupted(Exception):  # noqa: N818  # no error of anyone
    """Ctrl-C in a command that says itself what is left of its work."""

    exit_code = INTERRUPTED


class Terminated(BaseException):  # noqa: N818  # as KeyboardInterrupt, it is no error
    """SIGTERM, or a closed terminal: the process is asked to end, and tidies up as after Ctrl-C."""


@contextlib.contextmanager
def ended_by_hand() -> Iterator[None]:
    """Keeps the notes on what is left that Ctrl-C carries, which the parser of commands would drop."""
    try:
        yield
    except KeyboardInterrupt as stop:
        raise Interrupted(f"interrupted; {what_is_left(stop)}") from None


def listen_to_signals() -> None:
    """Turns signals that ask the process to end into `Terminated`, unless somebody else has a use for them."""
    for name in ("SIGTERM", "SIGHUP"):  # the second comes from a terminal that is closed; not on Windows
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, _terminate)


def exit_code(problem: Exception) -> int:
    """2 for what the user can put right in the command, 1 for a run that failed."""
    usage = isinstance(problem, ValueError) or hasattr(problem, "format_message")
    return 2 if usage else int(getattr(problem, "exit_code", 1))


def sentence(problem: Exception) -> str:
    """What went wrong, and what is left of what was begun, in one line."""
    if hasattr(problem, "format_message"):  # an error of the parser, whose class depends on typer's version
        return f"{' '.join(problem.format_message().split())} See: bayesprune --help"
    left = [note for note in getattr(problem, "__notes__", ()) if note != NOTHING]
    text = " ".join("; ".join([str(problem), *left]).split())
    if isinstance(problem, (ValueError, OSError)) or type(problem).__module__.startswith("bayesprune"):
        return text
    return f"{type(problem).__name__}: {text} (--debug shows where)"


def what_is_left(stop: BaseException) -> str:
    """What an interrupted command has left, by the notes of the exception that ended it."""
    return "; ".join(getattr(stop, "__notes__", ())) or NOTHING


def _terminate(*_: object) -> NoReturn:
    raise Terminated
