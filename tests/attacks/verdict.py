"""How an attack is run and judged: in this process, under an alarm, with its output captured."""

from __future__ import annotations

import contextlib
import faulthandler
import gc
import io
import os
import re
import resource
import signal
import socket
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

LIMIT = 30.0
"""Seconds after which a command counts as hanging."""
MEMORY = 4 << 30
"""Bytes that a command may ask for besides what the process has."""
SENTINEL = "PWNED"
"""A file of this name in the sandbox says that something was executed."""
EXIT_CODES = (0, 1, 2, 130)

_CLASS = re.compile(r"\b[A-Z]\w*(?:Error|Exception|Warning|Interrupt)\b")
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
_RAW = "(--debug shows where)"
_LIBRARY = re.compile(
    r"error: ('\S+' codec|invalid literal|could not convert|cannot convert|embedded null|too many values|not enough"
    r"|Out of range float|Overflow when|unhashable|list index|expected str|operands could not|cannot reshape"
    r"|math domain|zero-size)"
)
"""How the text of a library begins, where it is all of the message."""


class Hang(BaseException):
    """The alarm: no Exception, so that no handler of the package takes it for an error of its own."""


@dataclass(frozen=True)
class Outcome:
    """What a command did.

    Attributes:
        code: Its exit code; None where it hung or let an exception through.
        out: Standard output.
        err: Standard error.
        seconds: How long it took.
        escaped: The exception that came out of it, by name; ``"hang"`` for the alarm; empty where there was none.
        executed: Whether the sentinel is there.
        left: What lies in the sandbox afterwards that was not there before.
        warned: Warnings, each in a line.
    """

    code: int | None
    out: str
    err: str
    seconds: float
    escaped: str
    executed: bool
    left: tuple[str, ...]
    warned: tuple[str, ...] = ()


def run_under_alarm(command: Callable[[], int], sandbox: Path, limit: float = LIMIT) -> Outcome:
    """Runs a command in the sandbox; it can neither hang, nor fetch anything, nor take all memory.

    Args:
        command: Returns an exit code.
        sandbox: The current folder while it runs.
        limit: Seconds until the alarm.
    """
    before, here = _listing(sandbox), os.getcwd()
    # As a terminal has them: what cannot be encoded is an error on standard output, and escaped on standard error.
    out = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", newline="")
    err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="backslashreplace", newline="")
    code, escaped, warned = None, "", []
    began = time.perf_counter()
    try:
        os.chdir(sandbox)
        with (
            contextlib.redirect_stdout(out), contextlib.redirect_stderr(err), _destructors_heard(),
            _no_network(), _bounded_memory(), warnings.catch_warnings(record=True) as warned, _alarm(limit),
        ):  # fmt: skip
            warnings.simplefilter("always")
            code = command()
    except Hang:
        escaped = "hang"
    except BaseException as problem:  # whatever it is, it is a finding and not the end of the others
        if isinstance(problem, KeyboardInterrupt):
            raise
        escaped = f"{type(problem).__name__}: {problem}"
    finally:
        seconds = time.perf_counter() - began
        os.chdir(here)
    texts = []
    for stream in (out, err):
        stream.flush()
        texts.append(stream.buffer.getvalue().decode("utf-8", "backslashreplace"))
    after = _listing(sandbox)
    return Outcome(
        code, texts[0], texts[1], seconds, escaped or ("hang" if seconds > limit else ""), SENTINEL in after,
        tuple(sorted(after - before)), tuple(f"{one.category.__name__}: {one.message}" for one in warned),
    )  # fmt: skip


def complaints(
    found: Outcome, own_code: bool = False, may_stay: tuple[str, ...] = (), refuse: bool = False
) -> list[str]:
    """What is wrong with an outcome, a sentence each; an empty list where nothing is.

    Args:
        found: The outcome.
        own_code: Whether the message may name the exception that the user's own code raised.
        may_stay: What a command that fails may leave behind: the first part of paths.
        refuse: Whether the command must not succeed.
    """
    wrong = []
    if found.escaped == "hang":
        return [f"hang: still running after {found.seconds:.1f} s"]
    if found.escaped:
        return [f"traceback: {found.escaped}"]
    if found.executed:
        wrong.append("executed: the sentinel is there")
    if found.code not in EXIT_CODES:
        wrong.append(f"exit code {found.code}")
    if "Traceback" in found.out + found.err:
        wrong.append(f"traceback: {found.err.strip()[-300:]}")
    for name, text in (("standard output", found.out), ("standard error", found.err)):
        if _CONTROL.search(text):
            wrong.append(f"control characters on {name}: {text.strip()!r:.300}")
    if found.code == 0:
        if found.err:
            wrong.append(f"success with an error: {found.err.strip():.300}")
        return wrong + (["accepted: what had to be refused"] if refuse else [])
    if not found.err.startswith("error: ") or found.err.count("\n") != 1 or len(found.err) < 20:
        wrong.append(f"no single sentence: {found.err!r:.500}")
    if _RAW in found.err or (not own_code and _CLASS.search(found.err)):
        wrong.append(f"raw exception class: {found.err.strip():.500}")
    if _LIBRARY.match(found.err):
        wrong.append(f"text of a library: {found.err.strip():.300}")
    stays = [name for name in found.left if name.split("/")[0] not in may_stay]
    if stays:
        wrong.append(f"left behind: {', '.join(stays[:5])}")
    return wrong


def _listing(folder: Path) -> set[str]:
    found = set()
    for path, folders, files in os.walk(folder):
        found |= {str((Path(path) / name).relative_to(folder)) for name in (*folders, *files)}
    return found


@contextlib.contextmanager
def _destructors_heard() -> Iterator[None]:
    """What a destructor raises is printed on standard error, as outside of tests."""
    before = sys.unraisablehook
    sys.unraisablehook = sys.__unraisablehook__
    try:
        yield
        gc.collect(0)
    finally:
        sys.unraisablehook = before


@contextlib.contextmanager
def _alarm(limit: float) -> Iterator[None]:
    def ring(number: int, frame: object) -> None:
        raise Hang

    began = time.monotonic()
    faulthandler.dump_traceback_later(
        4 * limit, exit=True, file=sys.__stderr__
    )  # what hangs in C does not hear the alarm
    before = signal.signal(signal.SIGALRM, ring)
    left, _ = signal.setitimer(signal.ITIMER_REAL, limit, 1.0)  # and again, should something swallow the first
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
        if left:  # the alarm of whoever runs the tests
            signal.setitimer(signal.ITIMER_REAL, max(0.1, left - (time.monotonic() - began)))


@contextlib.contextmanager
def _bounded_memory() -> Iterator[None]:
    """What would fill the machine fails in this process instead."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + MEMORY, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@contextlib.contextmanager
def _no_network() -> Iterator[None]:
    def refuse(*arguments: object, **options: object) -> None:
        raise OSError("there is no network here")

    before = socket.getaddrinfo
    socket.getaddrinfo = refuse
    try:
        yield
    finally:
        socket.getaddrinfo = before
