"""Training of a genome's network: the default budget, and what became of it, in this process or in others."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.training.fit import fit
from bayesprune.inference.workers.processes import in_order
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
    return in_order(partial(_evaluated, train, space), workers, "search")


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
