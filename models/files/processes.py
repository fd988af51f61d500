"""Whether the process that wrote something is still running: by its number and the time at which it was started."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import psutil

__all__ = ["is_running", "this_process"]

_SLACK = 0.5
"""Seconds by which the start of one process may be told differently."""


def _started(process: int) -> float:
    """When a process was started: seconds since the boot where Linux tells it, else since 1970.

    Times since 1970 move when the clock is set, and a fit must not be taken for dead then.
    """
    try:
        fields = Path(f"/proc/{process}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return int(fields[19]) / float(os.sysconf("SC_CLK_TCK"))
    except (OSError, ValueError, IndexError, AttributeError):
        return float(psutil.Process(process).create_time())


_own_start = functools.cache(_started)


def this_process() -> dict[str, Any]:
    """Number, start (in seconds, see `is_running`) and machine of this process, as JSON takes them."""
    process = os.getpid()
    return {"process": process, "started": _own_start(process), "host": socket.gethostname()}


def is_running(owner: Mapping[str, Any]) -> bool | None:
    """Whether a process runs that `this_process` described; one that has ended and was not waited for does not.

    Args:
        owner: Has ``process`` and ``host``; ``started`` is None where an earlier version wrote it: any process of the
            same number is then taken for it.

    Returns:
        True or False; None for one on another machine, of which nothing can be told.
    """
    if owner["host"] != socket.gethostname():
        return None
    try:
        process = int(owner["process"])
        if psutil.Process(process).status() == psutil.STATUS_ZOMBIE:
            return False
        started = _started(process)
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False
    return owner.get("started") is None or abs(started - owner["started"]) <= _SLACK
