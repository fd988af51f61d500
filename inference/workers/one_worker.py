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
        Exception: What it raises; a RuntimeError in its place where that cannot be sent back.
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
        try:
            pickle.loads(pickle.dumps(problem))
        except Exception:
            raise RuntimeError(f"{type(problem).__name__}: {problem}") from problem
        raise


def _end_with_parent() -> None:
    """Ends this process when the one that began it has been killed, which could not tell it so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)
