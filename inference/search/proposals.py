"""What is trained next: random genomes, children of the best of the last ones, and those that a surrogate prefers.

All is a function of the trainings so far and the seed: numbers of training n come from a generator of its own, so that
an interrupted search needs nothing but its trainings to go on as it would have.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from bayesprune.inference.search.history import Training
from bayesprune.inference.search.surrogate import ACQUISITIONS, Surrogate, rank_correlation
from bayesprune.models.genomes.crossover import crossed
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.mutations import mutated
from bayesprune.models.genomes.random_genomes import random_genome
from bayesprune.models.genomes.search_space import SearchSpace

__all__ = ["STRATEGIES", "Features", "Plan", "Proposal", "prediction_ranks", "proposals", "round_size"]

STRATEGIES = ("evolution", "random")
Features = Callable[[Genome, SearchSpace], np.ndarray]
_TRIES = 300
"""Draws of a genome that has not been trained yet."""


@dataclass(frozen=True)
class Plan:
    """How a search proposes; see `bayesprune.inference.search.search.search` for what the settings mean."""

    space: SearchSpace
    seed: int
    strategy: str
    population: int
    tournament: int
    crossover: float
    batch: int
    features: Features
    surrogate: Surrogate | None
    acquisition: str
    offspring: int
    surrogate_after: int


@dataclass(frozen=True)
class Proposal:
    """A genome to be trained.

    Attributes:
        genome: The genome, pruned, of the space.
        parents: Numbers of the trainings that it was made of.
        operator: What made it.
        predicted: What the surrogate predicts; None without one.
        predicted_sd: The standard deviation of that.
    """

    genome: Genome
    parents: tuple[int, ...] = ()
    operator: str = "random"
    predicted: float | None = None
    predicted_sd: float | None = None


def proposals(plan: Plan, history: Sequence[Training]) -> list[Proposal]:
    """The genomes of the next round, the most promising first; none has been trained yet, and no two are the same.

    Args:
        plan: How to propose.
        history: The trainings so far: whole rounds.

    Returns:
        So many as a round has; fewer where no more are found in the space.
    """
    number = len(history)
    seen, numbers = {training.hash for training in history}, range(number, number + round_size(plan, number))
    if plan.strategy == "random" or number < plan.population:
        return _distinct(lambda rng: _random(plan, rng), plan, numbers, seen)
    scored = [training for training in history if training.score is not None]
    if plan.surrogate is None or len(scored) < plan.surrogate_after:
        return _distinct(lambda rng: _child(plan, history, rng), plan, numbers, seen)
    return _preferred(plan, plan.surrogate, history, seen)


def round_size(plan: Plan, start: int) -> int:
    """Trainings of the round that begins with a training: a batch, and the first population ends with its own.

    Args:
        plan: How to propose.
        start: Number of the training.
    """
    if plan.strategy == "random" or start >= plan.population:
        return plan.batch
    return min(plan.batch, plan.population - start)


def prediction_ranks(history: Sequence[Training]) -> float | None:
    """Spearman's rank correlation of what was predicted with what was measured; None of fewer than three pairs.

    Args:
        history: The trainings.
    """
    pairs = [(one.predicted, one.score) for one in history if one.predicted is not None and one.score is not None]
    if not pairs:
        return None
    return rank_correlation(*(np.array(side, dtype=float) for side in zip(*pairs, strict=True)))


def _preferred(plan: Plan, surrogate: Surrogate, history: Sequence[Training], seen: set[str]) -> list[Proposal]:
    """The children of a round's first generator that the surrogate prefers."""
    wanted = plan.offspring * plan.batch
    rng = random.Random(f"{plan.seed}/{len(history)}")
    children: list[Proposal] = []
    known = set(seen)
    for _ in range(wanted):
        child = _unseen(lambda: _child(plan, history, rng), known) or _unseen(lambda: _random(plan, rng), known)
        if child is None:
            break
        known.add(child.genome.hash)
        children.append(child)
    if not children:
        return []
    measured = [training.score for training in history if training.score is not None]
    worst = min(measured)  # a training that failed counts as the worst: its kin is to be avoided
    scores = np.array([worst if training.score is None else training.score for training in history])
    surrogate.fit(np.stack([plan.features(one.genome, plan.space) for one in history]), scores)
    at = np.stack([plan.features(one.genome, plan.space) for one in children])
    predicted = surrogate.predict(at)
    parts = [np.asarray(part, dtype=float).reshape(-1) for part in predicted] if len(predicted) == 2 else []
    if [len(part) for part in parts] != [len(children)] * 2 or not (np.isfinite(parts).all() and (parts[1] >= 0).all()):
        raise ValueError(
            f"the surrogate {type(surrogate).__name__} predicts no finite mean and standard deviation for each of "
            f"{len(children)} genomes: its predict has to return two arrays (n,)"
        )
    mean, sd = parts
    wish = ACQUISITIONS[plan.acquisition](mean, sd, max(measured))
    order = np.lexsort((np.arange(len(children)), -mean, -wish))[: plan.batch]
    return [
        Proposal(children[at].genome, children[at].parents, children[at].operator, float(mean[at]), float(sd[at]))
        for at in order.tolist()
    ]


def _distinct(
    draw: Callable[[random.Random], Proposal | None], plan: Plan, numbers: range, seen: set[str]
) -> list[Proposal]:
    """One proposal for each training, from its own generator, of genomes that nothing has tried yet."""
    known, found = set(seen), []
    for number in numbers:
        rng = random.Random(f"{plan.seed}/{number}")
        one = _unseen(functools.partial(draw, rng), known) or _unseen(functools.partial(_random, plan, rng), known)
        if one is None:
            break
        known.add(one.genome.hash)
        found.append(one)
    return found


def _unseen(draw: Callable[[], Proposal | None], known: set[str]) -> Proposal | None:
    for _ in range(_TRIES):
        one = draw()
        if one is not None and one.genome.hash not in known:
            return one
    return None


def _random(plan: Plan, rng: random.Random) -> Proposal:
    return Proposal(random_genome(plan.space, rng))


def _child(plan: Plan, history: Sequence[Training], rng: random.Random) -> Proposal | None:
    """A child of the winner of a tournament among the last trainings, or of two winners."""
    population = history[-plan.population :]
    first = _winner(plan, population, rng)
    if rng.random() < plan.crossover:
        second = _winner(plan, population, rng)
        if first.number != second.number:
            both = crossed(first.genome, second.genome, plan.space, rng)
            return None if both is None else Proposal(both[0], (first.number, second.number), both[1])
    changed = mutated(first.genome, plan.space, rng)
    return None if changed is None else Proposal(changed[0], (first.number,), changed[1])


def _winner(plan: Plan, population: Sequence[Training], rng: random.Random) -> Training:
    """The best of some of a population; those that failed lose against all others."""
    chosen = rng.sample(population, min(plan.tournament, len(population)))
    return max(chosen, key=lambda one: (one.score is not None, one.score or 0.0))
