"""Training of a genome's network: the default budget, and what became of it, in this process or in others."""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.genome_network import network_of
from bayesprune.models.genomes.search_space import SearchSpace
from bayesprune.models.priors.gaussian import Gaussian

__all__ = ["Evaluated", "FitTraining", "Job", "Train", "evaluations"]

Train = Callable[[nn.Module, int], float]
"""Trains a network with a seed, and returns its validation score: more is better."""


@dataclass(frozen=True)
class FitTraining:
    """The default training of a search: `fit` of a Gaussian prior with the guide ``"map"``.

    Called with a network and a seed, it returns the accuracy on the validation data, or where the targets are no
    classes the negative of the nll (nats per example).

    Args:
        data: Training data `(x, y)`.
        validation: `(x, y)` that score.
        epochs: Passes over the data; default 3.
        scale: Of the Gaussian prior; default 1.
        how: Further arguments of `fit`, such as ``batch_size``; default none.
    """

    data: tuple[Tensor, Tensor] = field(repr=False)
    validation: tuple[Tensor, Tensor] = field(repr=False)
    epochs: int = 3
    scale: float = 1.0
    how: dict[str, Any] = field(default_factory=dict)

    def __call__(self, network: nn.Module, seed: int) -> float:
        """Trains it and returns its score."""
        priors = dict.fromkeys(weight_names(network), Gaussian(self.scale))
        model = BayesianNetwork(network, priors, data_size=len(self.data[0]))
        # Tens of short trainings: a graph would not repay its making, and the plain execution gives the same numbers
        # wherever they are trained.
        how = {"guide": "map", "execution": "plain", **self.how}
        fitted = fit(model, self.data, epochs=self.epochs, seed=seed, **how)
        scores = fitted.score(*self.validation)
        return scores["accuracy"] if "accuracy" in scores else -scores["nll"]


@dataclass(frozen=True)
class Job:
    """A genome to be trained.

    Attributes:
        genome: The genome.
        seed: Of its starting weights and of its training.
    """

    genome: Genome
    seed: int


@dataclass(frozen=True)
class Evaluated:
    """What became of a training.

    Attributes:
        score: The validation score; None where it failed.
        seconds: How long it took.
        problem: Why it failed, in words; None where it did not.
    """

    score: float | None
    seconds: float
    problem: str | None = None


def evaluations(train: Train, space: SearchSpace, workers: int) -> Any:
    """A context in which jobs are trained, each in one thread, in this process or in several others.

    Args:
        train: What trains.
        space: The space of the genomes.
        workers: Processes; 1 is this one.

    Returns:
        A context manager of a function from jobs to an iterator of what became of them, in their order.

    Raises:
        ValueError: If the training cannot be sent to other processes.
    """
    return _here(train, space) if workers == 1 else _elsewhere(train, space, workers)


@contextlib.contextmanager
def _here(train: Train, space: SearchSpace) -> Iterator[Callable[[Sequence[Job]], Iterator[Evaluated]]]:
    def run(jobs: Sequence[Job]) -> Iterator[Evaluated]:
        for job in jobs:
            threads = torch.get_num_threads()
            torch.set_num_threads(1)  # as in processes of their own, so that numbers are the same
            try:
                yield _evaluated(train, space, job)
            finally:
                torch.set_num_threads(threads)

    yield run


@contextlib.contextmanager
def _elsewhere(
    train: Train, space: SearchSpace, workers: int
) -> Iterator[Callable[[Sequence[Job]], Iterator[Evaluated]]]:
    try:
        sent = pickle.dumps((train, space))
    except Exception as problem:
        reason = " ".join(str(problem).split())[:120]
        raise ValueError(
            f"the training cannot be sent to other processes ({reason}): write it as a function at the top of a "
            "module, or take workers=1"
        ) from problem
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, mp_context=context, initializer=_begin, initargs=(sent,))

    def run(jobs: Sequence[Job]) -> Iterator[Evaluated]:
        try:
            yield from pool.map(_work, jobs)
        except BrokenProcessPool as problem:
            raise ValueError(
                "a process of the search has ended before it could train: guard the script by "
                "if __name__ == '__main__', as other processes import it, or take workers=1"
            ) from problem

    try:
        yield run
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


_SENT: list[tuple[Train, SearchSpace]] = []
"""What a worker process trains with."""


def _begin(sent: bytes) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal: the first one ends them
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)
    # Bytes that the parent has pickled itself a moment ago, and no file; as bytes, as tensors would go through memory
    # that processes share, of which there may be little.
    _SENT[:] = [pickle.loads(sent)]


def _end_with_parent() -> None:
    """Ends this process when the one that began it has been killed, which could not tell it so."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        multiprocessing.connection.wait([parent.sentinel])
        os._exit(1)


def _work(job: Job) -> Evaluated:
    return _evaluated(*_SENT[0], job)


def _evaluated(train: Train, space: SearchSpace, job: Job) -> Evaluated:
    began = time.perf_counter()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(job.seed)
        network = network_of(job.genome, space.input_shape, space.classes)
        try:
            score, problem = float(train(network, job.seed)), None
        except NonFiniteLossError as reason:
            score, problem = math.nan, " ".join(str(reason).split())
    if problem is None and not math.isfinite(score):
        problem = f"the score is {score}"
    return Evaluated(score if problem is None else None, time.perf_counter() - began, problem)
