"""One message in all: which of the processes of a fit says how it ended, where each of them may fail."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from datetime import timedelta
from typing import Any

from bayesprune.cli.exits import Interrupted
from bayesprune.inference.runtime.environment import processes_here
from bayesprune.inference.runtime.lost import LostProcessError, NoRendezvousError

__all__ = ["AlreadySaidError", "exit_code_said", "has_lost_others", "is_mine_to_say", "launched_by_us", "run_id"]

_OURS = "bayesprune-"
"""What the names of runs begin with that `launch` has started: its process says what is not the fault of a worker."""
_PATIENCE = 5.0
"""Seconds in which the first process, which knows what is left of the fit, may say that another one has ended."""


class AlreadySaidError(Exception):
    """A command that has ended, of which another process has said why.

    Attributes:
        exit_code: That of the command.
    """

    def __init__(self, exit_code: int) -> None:
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


def run_id() -> str:
    """The name of a run that this process launches."""
    return f"{_OURS}{os.getpid()}"


def launched_by_us() -> bool:
    """Whether this process is one of those that `launch` has started, which says itself what becomes of them."""
    return os.environ.get("TORCHELASTIC_RUN_ID", "").startswith(_OURS)


def is_mine_to_say(exit_code: int, problem: BaseException) -> bool:
    """Whether this process is to say how it ended; of several the first does that asks.

    The others are told by the store of the launcher, which outlives them. Without one, as under Slurm, the first
    process speaks, and whoever failed by itself once the processes had met, or as they did not.

    Args:
        exit_code: The exit code that it ends with.
        problem: What has ended it.
    """
    rank, world = processes_here()
    if world == 1:
        return True
    # Else another process has ended, or a signal has come.
    is_own = isinstance(problem, Exception) and not isinstance(problem, (Interrupted, LostProcessError))
    store = _store()
    if store is None:
        return rank == 0 or (is_own and (_have_met() or isinstance(problem, NoRendezvousError)))
    with contextlib.suppress(RuntimeError):  # the launcher has ended: nobody else can be asked
        if launched_by_us() and not is_own:
            if isinstance(problem, LostProcessError):
                store.set(_key("lost"), "")
            return False
        until = time.monotonic() + (_PATIENCE if rank > 0 and not is_own else 0.0)
        while time.monotonic() < until and not store.check([_key("said")]):
            time.sleep(0.05)
        if store.add(_key("said"), 1) > 1:
            return False
        store.set(_key("code"), str(exit_code))
        return True
    return rank == 0


def exit_code_said(store: Any) -> int | None:
    """The exit code of the process that has said why it ended; None where none has.

    Args:
        store: The launcher's.
    """
    return int(store.get(_key("code"))) if store.check([_key("said")]) and store.check([_key("code")]) else None


def has_lost_others(store: Any) -> bool:
    """Whether a process has ended because it could not reach the others, by the launcher's store."""
    return bool(store.check([_key("lost")]))


def _key(what: str) -> str:
    """A key of the store; processes that torchrun starts again, after some have failed, have others."""
    return f"bayesprune/{os.environ.get('TORCHELASTIC_RESTART_COUNT', '0')}/{what}"


def _store() -> Any:
    """The store of torch's launcher, or None where there is none."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return None
    from torch.distributed import TCPStore

    with contextlib.suppress(RuntimeError, KeyError, ValueError):
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        return TCPStore(host, port, is_master=False, timeout=timedelta(seconds=_PATIENCE), wait_for_workers=False)
    return None


def _have_met() -> bool:
    """Whether the processes of the fit have found each other, so that a failure may be that of one alone."""
    distributed: Any = sys.modules.get("torch.distributed")
    return distributed is not None and distributed.is_available() and bool(distributed.is_initialized())
