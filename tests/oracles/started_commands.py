"""The command line in a process of its own, and what it leaves behind."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

import psutil

__all__ = ["MODULES", "begun", "ended"]

MODULES = f"import sys; sys.path[:0] = {[place for place in sys.path if place]!r}; "
"""Code by which a process finds the modules of this one."""


def begun(arguments: Sequence[object]) -> subprocess.Popen[str]:
    """Starts the command line on these arguments."""
    code = f"{MODULES}from bayesprune.cli.app import main; main()"
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=pipe, stderr=pipe, text=True)


def ended(process: subprocess.Popen[str]) -> tuple[int, str, str, int]:
    """Waits for it: exit code, standard output and error, and how many of its processes it has left behind."""
    children = psutil.Process(process.pid).children() if process.poll() is None else []
    out, err = process.communicate(timeout=300)
    _, left = psutil.wait_procs(children, timeout=5)
    return process.returncode, out, err, len(left)
