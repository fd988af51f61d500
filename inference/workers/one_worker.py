"""What runs in a worker process: its beginning, its end with the process that began it, and its jobs."""

from __future__ import annotations

import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
from typing import Any

import torch

__all__ = ["begin_worker", "worked", "worker_pid"]

_SENT: list[bytes] = []
_WORK: list[Any] = []
"""What this process does with a job, as it was sent and as a function."""


def begin_worker(sent: bytes) -> None:
    """Makes this process a worker.

    Args:
        sent: What is done with a job, pickled.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first one ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    _SENT[:] = [sent]


def worker_pid() -> int:
    """The number of this process, known to the one that began it once it has begun."""
    return os.getpid()


def worked(job: bytes) -> bytes:
    """The result of a job, pickled.

    Args:
        job: The job, pickled.

    Raises:
        ValueError: If what is done with it cannot be found in this process.
        Exception: What it raises; where that cannot be sent back, the nearest of its base classes that can.
    """
    if not _WORK:
        # Bytes that the parent has pickled itself a moment ago, and no file.
        try:
            _WORK.append(pickle.loads(_SENT[0]))
        except Exception as problem:
            reason = " ".join(str(problem).split())[:120]
            raise ValueError(
                f"what is computed cannot be found in another process ({reason}): write its functions at the top of a "
                "module, or take workers=1"
            ) from problem
    try:
        return pickle.dumps(_WORK[0](pickle.loads(job)))
    except Exception as problem:
        if _can_be_sent(problem):
            raise
        raise _that_can_be_sent(problem) from problem


def _can_be_sent(problem: Exception) -> bool:
    try:
        return type(pickle.loads(pickle.dumps(problem))) is type(problem)
    except Exception:  # whatever its class does when it is made of its arguments
        return False


def _that_can_be_sent(problem: Exception) -> Exception:
    """The same sentence and notes in the nearest base class that is made of a sentence."""
    for kind in type(problem).__mro__:
        try:
            found = kind(str(problem))
        except Exception:  # noqa: S112  # as above
            continue
        if isinstance(found, Exception) and str(found) == str(problem) and _can_be_sent(found):
            break
    else:
        found = RuntimeError(str(problem))
    for note in getattr(problem, "__notes__", ()):
        found.add_note(note)
    return found


def _end_with_parent() -> None:
    """Ends this process when the one that began it has been killed, which could not tell it so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
