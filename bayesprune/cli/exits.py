"""How a command ends: exit codes, signals, and the sentence that says what went wrong and what is left."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from typing import NoReturn

__all__ = [
    "INTERRUPTED",
    "TERMINATED",
    "Interrupted",
    "Terminated",
    "end_with_parent",
    "ended_by_hand",
    "exit_code",
    "ignore_signals",
    "listen_to_signals",
    "sentence",
    "what_is_left",
]

INTERRUPTED, TERMINATED = 130, 143
"""Exit codes of what was ended by Ctrl-C and by SIGTERM, as shells have them."""
NOTHING = "nothing was written"
_SIGNALS = ("SIGTERM", "SIGHUP")
"""The second comes from a terminal that is closed; not on Windows."""
_LOOKS, _GRACE = 1.0, 30.0
"""Seconds between two looks at a parent; seconds in which a process may tidy up after it."""


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


def listen_to_signals(once: bool = False) -> None:
    """Turns signals that ask the process to end into `Terminated`, unless somebody else has a use for them.

    Args:
        once: Whether further signals are ignored after the first, Ctrl-C too: of several processes each may get one
            from the terminal, from the launcher and from whoever ends them. Default False.
    """
    for name in _SIGNALS:
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) == signal.SIG_DFL:  # nohup ignores it
            signal.signal(number, _terminate_once if once else _terminate)
    if once and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _interrupt_once)


def ignore_signals() -> None:
    """Lets no signal disturb the end of one of several processes, which `listen_to_signals(once=True)` has prepared."""
    for name in ("SIGINT", *_SIGNALS):
        number = getattr(signal, name, None)
        if number is not None and signal.getsignal(number) in (_terminate_once, _interrupt_once):
            signal.signal(number, signal.SIG_IGN)


def end_with_parent() -> None:
    """Ends this process, as SIGTERM does, when its parent has ended without doing so: when that was killed."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(_LOOKS)
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(_GRACE)
        os._exit(TERMINATED)  # it waits for another process that does not answer

    threading.Thread(target=watch, daemon=True).start()


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


def _terminate_once(*_: object) -> NoReturn:
    ignore_signals()
    raise Terminated


def _interrupt_once(*_: object) -> NoReturn:
    ignore_signals()
    raise KeyboardInterrupt
