"""One run of several processes, which torchrun, srun or `--processes` has started."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar, get_args

from bayesprune.inference.runtime.environment import processes_here
from bayesprune.inference.runtime.fabric import BatchNorm, FabricRuntime
from bayesprune.inference.runtime.lost import LostProcessError
from bayesprune.runs.part_folder import Part, joining_part, writing_part

__all__ = ["TIMEOUT", "check_in_one_process", "first_alone", "part_of_all", "runtime_here"]

T = TypeVar("T")
TIMEOUT = "BAYESPRUNE_TIMEOUT"
"""Environment variable: seconds that a process waits for the others."""


def check_in_one_process(options: Mapping[str, Any]) -> None:
    """Refuses what several processes have no share in.

    Args:
        options: Values by the option that gives them; None where it was not given.

    Raises:
        ValueError: If one of them was given, and this is one of several processes.
    """
    world = processes_here()[1]
    given = [option for option, value in options.items() if value is not None]
    if world > 1 and given:
        raise ValueError(
            f"{given[0]} runs in one process, but {world} were started: leave it out, or start one process"
        )


def runtime_here(how: Mapping[str, Any], batch_norm: str = "apart") -> FabricRuntime | None:
    """Where the fit runs in this process and the others that were started with it; None if there are none.

    Args:
        how: Options of the fit; ``device`` and ``precision`` are looked at.
        batch_norm: See `FabricRuntime`; default ``"apart"``.

    Raises:
        ValueError: For a word that is not known, a timeout that is no number of seconds, or if the processes do not
            find each other in time.
    """
    if batch_norm not in (known := get_args(BatchNorm)):
        raise ValueError(f"--batch-norm takes one of {', '.join(known)}, not {batch_norm!r}")
    if processes_here()[1] == 1:
        return None
    place = {name: how[name] for name in ("device", "precision") if how.get(name) is not None}
    return FabricRuntime(**place, batch_norm=batch_norm, **_timeout())  # type: ignore[arg-type]  # just checked


def first_alone(runtime: FabricRuntime | None, work: Callable[[], T]) -> T:
    """What a function returns, called in the first process before the others: where they would be in each other's way.

    Args:
        runtime: That of the processes; None: there is one.
        work: The function.

    Raises:
        LostProcessError: In the others, if it has failed in the first one.
    """
    if runtime is None:
        return work()
    if runtime.rank > 0:
        if not runtime.agreed(False):
            raise LostProcessError("the first process of the fit has ended")
        return work()
    try:
        made = work()
    except BaseException:
        with contextlib.suppress(LostProcessError):  # they have ended, and this is why
            runtime.agreed(False)
        raise
    runtime.agreed(True)
    return made


@contextlib.contextmanager
def part_of_all(
    runtime: FabricRuntime | None, out: str | Path, asked: Mapping[str, Any], fresh: bool
) -> Iterator[Part]:
    """RUN.part, which the first process alone writes; see `writing_part`.

    Args:
        runtime: That of the processes; None: there is one.
        out: The run folder to be.
        asked: All that was asked for.
        fresh: Whether what an earlier fit has left is removed first.

    Yields:
        What the fit is to use; in the others without a watcher.
    """
    with contextlib.ExitStack() as stack:
        is_first = runtime is None or runtime.rank == 0
        part = writing_part(out, asked, fresh) if is_first else joining_part(out)
        yield first_alone(runtime, lambda: stack.enter_context(part))


def _timeout() -> dict[str, float]:
    """The timeout as an argument, where the environment gives one."""
    given = os.environ.get(TIMEOUT)
    if given is None:
        return {}
    try:
        seconds = float(given)
    except ValueError:
        seconds = math.nan
    if not 0.0 < seconds < 1e9:
        raise ValueError(f"{TIMEOUT} is {given!r} in the environment: give a positive number of seconds, or unset it")
    return {"timeout": seconds}
