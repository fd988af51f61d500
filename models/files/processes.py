"""Whether the process that wrote something is still running: by its number and the time at which it was started."""

from __future__ import annotations

import functools
import os
import socket
from collections.abc import Mapping
from typing import Any

import psutil

__all__ = ["is_running", "this_process"]

_SLACK = 2.0
"""Seconds by which the start of one process is told differently when the clock of the machine is set."""


@functools.cache
def _started(process: int) -> float:
    return psutil.Process(process).create_time()


def this_process() -> dict[str, Any]:
    """Number, start (seconds since 1970) and machine of this process, as JSON takes them."""
    process = os.getpid()
    return {"process": process, "started": _started(process), "host": socket.gethostname()}


def is_running(owner: Mapping[str, Any]) -> bool | None:
    """Whether a process runs that `this_process` described.

    Args:
        owner: Has ``process`` and ``host``; ``started`` is None where an earlier version wrote it: any process of the
            same number is then taken for it.

    Returns:
        True or False; None for one on another machine, of which nothing can be told.
    """
    if owner["host"] != socket.gethostname():
        return None
    try:
        started = psutil.Process(int(owner["process"])).create_time()
    except psutil.AccessDenied:
        return True
    except (psutil.Error, ValueError, OverflowError):
        return False
    return owner.get("started") is None or abs(started - owner["started"]) <= _SLACK
