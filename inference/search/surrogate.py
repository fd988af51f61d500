"""Surrogates: what predicts the score of a genome before it is trained, and how its uncertainty is used."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from scipy.stats import norm, rankdata

from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.search_space import SearchSpace, parameters_of

__all__ = [
    "ACQUISITIONS",
    "Surrogate",
    "expected_improvement",
    "genome_features",
    "rank_correlation",
    "upper_confidence",
]


class Surrogate(Protocol):
    """Anything that learns scores from features; it is fitted anew to all trainings before it predicts.

    So that an interrupted search goes on as it would have, equal data have to make it predict the same: one with
    random numbers takes a fixed seed.
    """

    def fit(self, features: np.ndarray, scores: np.ndarray) -> object:
        """Learns from features `(n, d)` and scores `(n,)`; the return value is not used."""
        ...

    def predict(self, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Means and standard deviations, `(n,)` each, at features `(n, d)`."""
        ...


def expected_improvement(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """By how much a Normal score is expected to exceed the best one, E[max(score - best, 0)].

    Args:
        mean: Means, `(n,)`.
        sd: Standard deviations, `(n,)`; 0 where nothing is uncertain.
        best: The best score so far.

    Returns:
        `(n,)`, none negative.
    """
    gain = np.asarray(mean, dtype=float) - best
    sd = np.asarray(sd, dtype=float)
    with np.errstate(divide="ignore", invalid="ignore"):
        z = gain / sd
        uncertain = gain * norm.cdf(z) + sd * norm.pdf(z)
    return np.maximum(np.where(sd > 0.0, uncertain, gain), 0.0)


def upper_confidence(mean: np.ndarray, sd: np.ndarray, best: float) -> np.ndarray:
    """One standard deviation above the mean, whatever the best score is; arguments as `expected_improvement`."""
    return np.asarray(mean, dtype=float) + np.asarray(sd, dtype=float)


ACQUISITIONS = {"expected-improvement": expected_improvement, "upper-confidence": upper_confidence}
"""What is made of mean, standard deviation and the best score so far to choose what is trained, by name."""


def rank_correlation(first: np.ndarray, second: np.ndarray) -> float | None:
    """Spearman's rank correlation; None of fewer than three pairs, or where all values of one are the same.

    Args:
        first: Values, `(n,)`.
        second: The others.
    """
    ranks = [rankdata(values) for values in (first, second)]
    if len(ranks[0]) < 3 or any(np.ptp(each) == 0 for each in ranks):
        return None
    return float(np.corrcoef(*ranks)[0, 1])


def genome_features(genome: Genome, space: SearchSpace) -> np.ndarray:
    """Simple features of a genome: its graph, how often it has each operation, and its size.

    Args:
        genome: The genome; of the space.
        space: The space.

    Returns:
        `(7 + operations of the space,)`: vertices, edges, depth (operations on the longest path) and operations on the
        shortest path, vertices that read the input, vertices that lead to the output, log of the parameters (natural);
        and the number of vertices with each operation, in the order of `space.names`.
    """
    pruned = genome.pruned()
    longest, shortest = [0], [0]
    for vertex in range(1, pruned.output + 1):
        longest.append(1 + max(longest[begin] for begin in pruned.inputs[vertex]))
        shortest.append(1 + min(shortest[begin] for begin in pruned.inputs[vertex]))
    counts = [sum(name == own for own in pruned.operations) for name in space.names]
    reads = sum(begin == 0 for begin, _ in pruned.edges)
    size = np.log(parameters_of(pruned, space.input_shape, space.classes))
    graph = [len(pruned.operations), len(pruned.edges), longest[-1] - 1, shortest[-1] - 1, reads]
    return np.array([*graph, len(pruned.inputs[pruned.output]), size, *counts], dtype=float)
