"""A search space whose genomes have a score without being trained."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest

from bayesprune.models.genomes.search_space import SearchSpace


class Landscape:
    """A score that is a function of the genome: its depth, its operations, pairs of them in a row, and its hash.

    Pairs and the hash are nothing that the features of a surrogate tell.

    Args:
        seed: Of the numbers in it.
    """

    def __init__(self, seed=0):
        self.seed = seed

    def __call__(self, network, seed):
        return self.score(network.genome)

    def score(self, genome):
        numbers = np.random.default_rng(self.seed)
        names = ("conv3x3", "conv1x1", "max-pool", "average-pool", "linear", "identity")
        weight = dict(zip(names, numbers.normal(size=6), strict=True))
        pair = {(first, second): numbers.normal() for first in names for second in names}
        depth = [0]
        for vertex in range(1, genome.output):
            depth.append(1 + max(depth[begin] for begin in genome.inputs[vertex]))
        inner = [edge for edge in genome.edges if edge[0] > 0 and edge[1] < genome.output]
        score = sum(weight[name] for name in genome.operations) / 3.0 - 0.3 * (max(depth) - 3.0) ** 2
        score += 0.3 * sum(pair[genome.operations[a - 1], genome.operations[b - 1]] for a, b in inner)
        noise = int(hashlib.sha256(f"{self.seed} {genome.hash}".encode()).hexdigest()[:8], 16) / 2**32
        return float(score + 0.3 * noise)

    def __repr__(self):
        return f"Landscape({self.seed})"


class Linear:
    """A surrogate that is a ridge regression, with the sd of its residuals: fast, and exactly the same again."""

    def fit(self, features, scores):
        self.mean, self.spread = features.mean(0), features.std(0) + 1e-9
        x = np.column_stack([np.ones(len(features)), (features - self.mean) / self.spread])
        self.weights = np.linalg.solve(x.T @ x + np.eye(x.shape[1]), x.T @ scores)
        self.sd = float(np.std(scores - x @ self.weights)) + 1e-6

    def predict(self, features):
        x = np.column_stack([np.ones(len(features)), (features - self.mean) / self.spread])
        return x @ self.weights, np.full(len(x), self.sd)

    def __repr__(self):
        return "Linear()"


@pytest.fixture
def space():
    return SearchSpace((1, 8, 8), 10)


@pytest.fixture
def landscape():
    return Landscape()


@pytest.fixture
def linear():
    return Linear()
