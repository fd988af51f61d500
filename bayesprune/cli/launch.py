"""`bayesprune fit --processes N`: the same command in N processes on this machine, by PyTorch's own launcher."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from bayesprune.cli.exits import Terminated
from bayesprune.cli.one_message import AlreadySaidError, exit_code_said, has_lost_others, run_id

__all__ = ["ProcessEndedError", "check_processes", "launch"]

_CORES_SHARED = 4
"""Most processes a core: more would only wait for each other."""
_SIGNALS = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")
"""Those that torch's launcher hands on to the processes."""
_MEETING = 60
"""Seconds that the launcher takes at most to reach its own store."""


class ProcessEndedError(RuntimeError):
    """A process of the fit has ended that could not say why, such as one that was killed.

    Attributes:
        exit_code: That of the command: of the process, or 1 where it was killed.
    """

    def __init__(self, sentence: str, exit_code: int) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


def check_processes(processes: int) -> None:
    """Refuses numbers of processes that this machine has no use for.

    Raises:
        ValueError: If it is below 1, or more than four for each core.
    """
    most = _CORES_SHARED * (os.cpu_count() or 1)
    if processes < 1:
        raise ValueError(f"--processes is {processes}: give 1 or more")
    if processes > most:
        raise ValueError(
            f"--processes is {processes}, but this machine has {os.cpu_count()} cores: give {most} or fewer"
        )


def launch(arguments: Sequence[str], processes: int) -> None:
    """Runs a command line in several processes at once, and waits until all have ended.

    They inherit standard output and error. What one of them says of its failure is all that is said; that one was
    killed, or that the command was interrupted, is said by this process. None is left behind: they end when this
    process is interrupted, terminated or killed.

    Args:
        arguments: The command line; that of `bayesprune fit`.
        processes: How many.

    Raises:
        AlreadySaidError: If one of them failed and has said why.
        ProcessEndedError: If one ended without a word.
        KeyboardInterrupt: After Ctrl-C.
        Terminated: After SIGTERM.
    """
    with _environment(processes), _signals_put_back(), _silent_logs():
        from torch.distributed import TCPStore
        from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, SignalException
        from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
        from torch.distributed.launcher.api import LaunchConfig, elastic_launch

        # The launcher takes up the store that this process has made at the port, so that both may read it.
        store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, multi_tenant=True)
        config = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            nproc_per_node=processes,
            run_id=run_id(),
            rdzv_backend="static",
            rdzv_endpoint=f"127.0.0.1:{store.port}",
            rdzv_configs={"rank": 0, "timeout": _MEETING},
            max_restarts=0,
            logs_specs=DefaultLogsSpecs(log_dir=os.devnull),
        )
        given = [one.replace("$", "$$") for one in arguments]  # the launcher puts ranks in place of ${local_rank}
        try:
            elastic_launch(config, sys.executable)("-P", "-m", "bayesprune", *given)
        except SignalException as stop:
            ended: BaseException = KeyboardInterrupt() if stop.sigval == signal.SIGINT else Terminated()
        except ChildFailedError as problem:
            ended = _ended(problem, store)
        else:
            return
    raise ended from None


def _ended(problem: Any, store: Any) -> Exception:
    """What to say of processes that have failed.

    Args:
        problem: Torch's report on them, a `ChildFailedError`.
        store: Where they say what they have said.
    """
    killed = [
        (rank, -one.exitcode)
        for rank, one in problem.failures.items()
        if one.exitcode < 0 and -one.exitcode != signal.SIGTERM
    ]
    code = exit_code_said(store)
    if code is not None:
        return AlreadySaidError(1 if killed else code)
    if killed:
        rank, number = killed[0]
        return ProcessEndedError(f"process {rank} of the fit was ended by {signal.Signals(number).name}", 1)
    rank, first = problem.get_first_failure()
    code = 1 if first.exitcode < 0 else first.exitcode
    how = "lost the others" if has_lost_others(store) and code == 1 else f"ended with exit code {code}"
    return ProcessEndedError(f"process {rank} of the fit {how}", code)


@contextlib.contextmanager
def _environment(processes: int) -> Iterator[None]:
    """What the processes are to find in their environment; afterwards it is as it was."""
    before = dict(os.environ)
    # A script `bayesprune` and `python -m bayesprune` find different modules; they are to find those of this process.
    os.environ["PYTHONPATH"] = os.pathsep.join(place or os.getcwd() for place in sys.path)
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // processes)))
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _signals_put_back() -> Iterator[None]:
    """Puts back what this process does at signals, which torch's launcher changes."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    numbers = [getattr(signal, name) for name in _SIGNALS if hasattr(signal, name)]
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextlib.contextmanager
def _silent_logs() -> Iterator[None]:
    """Nothing is logged: torch's launcher reports on every process that it ends."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)
