"""Jobs in other processes, one thread each: who is free takes the next one.

Each process is an executor of its own, so that one that is killed takes no other with it, and its job is begun again in
a new one.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import signal
import threading
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from multiprocessing.context import SpawnProcess
from typing import Any, Generic, TypeVar

import torch

from bayesprune.inference.workers.one_worker import begin_worker, worked, worker_pid

__all__ = ["LostWorkerError", "Workers", "in_order", "worker_processes"]

Job = TypeVar("Job")
Result = TypeVar("Result")
_STARTING = threading.Lock()
"""Held while a process is started, so that it is known which one it is."""


class LostWorkerError(RuntimeError):
    """Processes were killed at the same job, one after the other."""


@dataclass(frozen=True)
class _Worker:
    """An executor of one process, that process, and its number, known once it has begun."""

    pool: ProcessPoolExecutor
    process: SpawnProcess
    pid: Future[int]


class Workers(Generic[Job, Result]):
    """Processes of this machine that do jobs; made by `worker_processes`.

    Args:
        work: What is done with a job; it has to be a function at the top of a module, or of one with its arguments.
        number: Processes, started when there are jobs for them.
        of: Whose processes these are, for sentences.
        again: How often a job is begun again whose process was killed.

    Raises:
        ValueError: If the work cannot be sent to other processes.
    """

    def __init__(self, work: Callable[[Job], Result], number: int, of: str, again: int) -> None:
        self.number, self.of, self.again = number, of, again
        self._sent = self._as_bytes(work)
        self._workers: list[_Worker] = []

    def as_they_end(
        self, jobs: Sequence[Job], then: Callable[[int, Result], Job | None] | None = None
    ) -> Iterator[tuple[int, Result]]:
        """Does jobs, and tells of each as soon as it has ended.

        Args:
            jobs: The jobs, begun in this order.
            then: From the number of a job in `jobs` and its result to a job that follows it under the same number,
                begun before those that wait; or to None. Default None: nothing follows.

        Yields:
            The number of a job in `jobs`, and its result.

        Raises:
            LostWorkerError: If a process is killed more often at the same job than it is begun again.
            ValueError: If a process cannot begin, or a job cannot be sent.
            Exception: What a job raises.
        """
        waiting = deque((number, self._as_bytes(job), 0) for number, job in enumerate(jobs))
        running: dict[Future[bytes], tuple[_Worker, int, bytes, int]] = {}
        while waiting or running:
            while waiting and len(running) < self.number:
                number, sent, losses = waiting.popleft()
                worker, future = self._begun({busy.pid for busy, *_ in running.values()}, sent)
                running[future] = worker, number, sent, losses
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                worker, number, sent, losses = running.pop(future)
                try:
                    result: Result = pickle.loads(future.result())  # bytes that the worker has pickled itself
                except BrokenProcessPool as problem:
                    self._bury(worker, problem)
                    if losses >= self.again:
                        raise LostWorkerError(
                            f"{losses + 1} processes of the {self.of} were killed at the same job, by hand or for want "
                            "of memory: take fewer workers"
                        ) from problem
                    waiting.appendleft((number, sent, losses + 1))
                    continue
                following = None if then is None else then(number, result)
                if following is not None:
                    waiting.appendleft((number, self._as_bytes(following), 0))
                yield number, result

    def in_order(self, jobs: Sequence[Job]) -> Iterator[Result]:
        """Does jobs, and tells their results in the order of the jobs; raises as `as_they_end`."""
        ended: dict[int, Result] = {}
        due = 0
        for number, result in self.as_they_end(jobs):
            ended[number] = result
            while due in ended:
                yield ended.pop(due)
                due += 1

    def close(self, in_work: bool) -> None:
        """Ends the processes.

        Args:
            in_work: Whether some may be at a job, which is given up.
        """
        for worker in self._workers:
            if in_work:
                worker.process.terminate()  # the executor notices it
        for worker in self._workers:
            worker.pool.shutdown(wait=True, cancel_futures=True)
        self._workers.clear()

    # -- inside ----------------------------------------------------------------------------------------------

    def _begun(self, busy: set[Future[int]], sent: bytes) -> tuple[_Worker, Future[bytes]]:
        """Gives a job to a process that has none, or to a new one."""
        for worker in [one for one in self._workers if one.pid not in busy]:
            try:
                return worker, worker.pool.submit(worked, sent)
            except BrokenProcessPool as problem:  # it was killed while it had nothing to do
                self._bury(worker, problem)
        pool = ProcessPoolExecutor(
            1, mp_context=multiprocessing.get_context("spawn"), initializer=begin_worker, initargs=(self._sent,)
        )
        with _STARTING:
            before = multiprocessing.active_children()
            with _signals_held():
                pid = pool.submit(worker_pid)  # starts the process
            started = (one for one in multiprocessing.active_children() if one not in before)
            worker = _Worker(pool, next(one for one in started if isinstance(one, SpawnProcess)), pid)
        self._workers.append(worker)
        return worker, pool.submit(worked, sent)

    def _bury(self, worker: _Worker, problem: BrokenProcessPool) -> None:
        """Forgets a process that has ended.

        Raises:
            ValueError: If it had not begun: another one would not either.
        """
        self._workers.remove(worker)
        worker.pool.shutdown(wait=True)
        if worker.pid.exception() is not None:
            raise ValueError(
                f"a process of the {self.of} has ended before it could begin: guard the script by "
                "if __name__ == '__main__', as other processes import it, or take workers=1"
            ) from problem

    def _as_bytes(self, given: Any) -> bytes:
        """As bytes, as tensors would go through memory that processes share, of which there may be little."""
        try:
            return pickle.dumps(given)
        except Exception as problem:
            reason = " ".join(str(problem).split())[:120]
            raise ValueError(
                f"what the {self.of} computes cannot be sent to other processes ({reason}): write its functions at the "
                "top of a module, or take workers=1"
            ) from problem


@contextlib.contextmanager
def worker_processes(
    work: Callable[[Job], Result], number: int, of: str, again: int = 1
) -> Iterator[Workers[Job, Result]]:
    """Processes of this machine that do jobs, each in one thread; they end with the context and with this process.

    Python's processes import the script that has begun them, which has to guard what it does by
    ``if __name__ == "__main__":``. Ctrl-C reaches this process alone; whatever ends the context gives up the jobs in
    work.

    Args:
        work: What is done with a job: a function at the top of a module, or `functools.partial` of one.
        number: Processes; they are started when there are jobs for them.
        of: Whose they are, for sentences, such as ``"search"``.
        again: How often a job is begun again whose process was killed; default 1.

    Raises:
        ValueError: If the work cannot be sent to other processes.
    """
    workers = Workers(work, number, of, again)
    try:
        yield workers
    except BaseException:
        workers.close(in_work=True)
        raise
    workers.close(in_work=False)


@contextlib.contextmanager
def in_order(
    work: Callable[[Job], Result], workers: int, of: str
) -> Iterator[Callable[[Sequence[Job]], Iterator[Result]]]:
    """A context in which jobs are done, each in one thread, in this process or in several others.

    Args:
        work: What is done with a job, as in `worker_processes`.
        workers: Processes; 1 is this one.
        of: Whose they are, for sentences.

    Returns:
        A context manager of a function from jobs to an iterator of their results, in their order.

    Raises:
        ValueError: If the work cannot be sent to other processes.
    """
    if workers > 1:
        with worker_processes(work, workers, of) as processes:
            yield processes.in_order
        return

    def here(jobs: Sequence[Job]) -> Iterator[Result]:
        for job in jobs:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as in processes of their own, so that numbers are the same
            try:
                result = work(job)
            finally:
                torch.set_num_threads(threads)
            yield result

    yield here


@contextlib.contextmanager
def _signals_held() -> Iterator[None]:
    """Holds Ctrl-C back while a process is started, which is not to hear of it even before it has begun."""
    if not hasattr(signal, "pthread_sigmask"):  # Windows
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
