"""Genetic search of architectures: evolution with ageing, with a surrogate or without; random search beside it."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from bayesprune.inference.data.fingerprints import data_fingerprint, described
from bayesprune.inference.search.evaluation import FitTraining, Job, Train, evaluations
from bayesprune.inference.search.history import Training, open_history, write_history
from bayesprune.inference.search.proposals import (
    STRATEGIES,
    Features,
    Plan,
    Proposal,
    prediction_ranks,
    proposals,
    round_size,
)
from bayesprune.inference.search.searched import Searched
from bayesprune.inference.search.surrogate import ACQUISITIONS, Surrogate, genome_features
from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.models.checks.given_numbers import checked_seed, real_number, whole_number
from bayesprune.models.files.places import expanded
from bayesprune.models.genomes.search_space import SearchSpace, parameters_of

__all__ = ["search"]

_OURS = ("start", "restarts", "checkpoint", "validation")
_MOST_WORKERS, _MOST_IN_ROUND = 256, 1000


def search(
    data: tuple[Tensor, Tensor] | None,
    space: SearchSpace,
    *,
    validation: tuple[Tensor, Tensor] | None = None,
    trainings: int = 40,
    strategy: str = "evolution",
    population: int = 10,
    tournament: int = 3,
    crossover: float = 0.25,
    surrogate: Surrogate | None = None,
    surrogate_after: int | None = None,
    offspring: int = 10,
    acquisition: str = "expected-improvement",
    features: Features = genome_features,
    train: Train | None = None,
    epochs: int = 3,
    seed: int = 0,
    workers: int = 1,
    batch: int | None = None,
    folder: str | Path | None = None,
    callback: Callable[[Training], None] | None = None,
    **how: Any,
) -> Searched:
    """Searches for an architecture whose network scores well on validation data after a short training.

    Regularised evolution (Real et al., arXiv:1802.01548): random genomes first; then each training is of a child of the
    best of some of the last `population` ones (so that the oldest leave, however good), by one mutation or by
    crossover. No two networks that are the same are trained. With a surrogate many children are made, and those are
    trained from which it expects most. Random search (``strategy="random"``) is the control: the same random genomes
    first, and on in that way. The budget of all is counted in trainings.

    The score chooses the winner, so that its score is too good by some luck: hold a test set back, and look at it once.

    Args:
        data: Training data `(x, y)`; None with a `train` of one's own, which knows them.
        space: Which genomes are tried.
        validation: `(x, y)` that score; None with a `train` of one's own.
        trainings: How many in all, those of a folder among them; default 40.
        strategy: ``"evolution"`` (default) or ``"random"``.
        population: Random genomes at first, and the last trainings that have children; default 10.
        tournament: Of how many of the population the best is chosen; default 3.
        crossover: Probability that a child has two parents; default 0.25.
        surrogate: What predicts scores, and how far they are off; default None: evolution by itself. It is fitted to
            all trainings before each round.
        surrogate_after: Trainings with a score after which it is asked; default None: the population.
        offspring: Children of which it chooses one; default 10.
        acquisition: ``"expected-improvement"`` (default) or ``"upper-confidence"`` (mean and one sd).
        features: From a genome and the space to what the surrogate reads, `(d,)`; default `genome_features`.
        train: Trains a network with a seed and returns its validation score, more is better. Default None: `fit` with a
            Gaussian prior and the guide ``"map"``, and the accuracy; of a regression minus the nll (nats per example).
        epochs: Of that training; default 3.
        seed: Of the search and of the trainings; default 0.
        workers: Processes that train, each in one thread; default 1: this one.
        batch: Trainings in a round, of which none knows the scores of the others; default None: as many as workers.
            Which genomes are trained depends on the batch, and not on the number of workers.
        folder: Where trainings are kept: the same call goes on after the last finished one, as it would have. Default
            None: nowhere.
        callback: Called after each training, those of a folder left out.
        **how: Further arguments of `fit`, such as ``batch_size``.

    Returns:
        What was found. A training whose loss or score is not finite is kept there as failed.

    Raises:
        ValueError: In one sentence: for bad input, before training starts; if the folder keeps another search; if a
            surrogate predicts no numbers.
    """
    _check_strategy(strategy, surrogate, acquisition)
    trainings, population = whole_number("trainings", trainings), whole_number("population", population, least=2)
    if strategy == "evolution" and trainings < population:
        raise ValueError(
            f"{trainings} trainings are fewer than the population of {population}, so nothing would evolve: "
            "give more trainings, a smaller population, or strategy='random'"
        )
    if not 0.0 <= real_number("crossover", crossover) <= 1.0:
        raise ValueError(f"crossover is a probability, not {crossover}: give a number from 0 to 1")
    workers = _at_most("workers", whole_number("workers", workers), _MOST_WORKERS)
    after = population if surrogate_after is None else whole_number("surrogate_after", surrogate_after, least=2)
    rounds = workers if batch is None else _at_most("batch", whole_number("batch", batch), _MOST_IN_ROUND)
    plan = Plan(
        space=space, seed=checked_seed(seed), strategy=strategy, population=population,
        tournament=whole_number("tournament", tournament), crossover=float(crossover), batch=rounds,
        features=features, surrogate=surrogate, acquisition=acquisition,
        offspring=_at_most("offspring", whole_number("offspring", offspring), _MOST_IN_ROUND), surrogate_after=after,
    )  # fmt: skip
    trains = _training(data, validation, train, epochs, how)
    asked = _asked(plan, trains, trainings)
    place = None if folder is None else expanded(folder)
    history = [] if place is None else open_history(place, asked)
    notes: list[str] = []
    start = 0
    with evaluations(trains, space, workers) as evaluate:
        while start < trainings:
            size = round_size(plan, start)
            if len(history) < min(start + size, trainings):
                found = proposals(plan, history[:start])[: trainings - start]
                _compare(place, history[start:], found)
                ranks, begun = prediction_ranks(history[:start]), len(history) - start
                jobs = [Job(one.genome, plan.seed + start + at) for at, one in enumerate(found)][begun:]
                for proposal, outcome in zip(found[begun:], evaluate(jobs), strict=True):
                    training = Training(
                        len(history), proposal.genome, outcome.score, proposal.parents, proposal.operator,
                        parameters_of(proposal.genome, space.input_shape, space.classes), outcome.seconds,
                        proposal.predicted, proposal.predicted_sd, ranks, outcome.problem,
                    )  # fmt: skip
                    history.append(training)
                    if place is not None:
                        write_history(place, asked, history)
                    if callback is not None:
                        callback(training)
                if len(history) < min(start + size, trainings):
                    notes.append(f"the search ended after {len(history)} trainings: its space has no other genomes")
                    break
            start += size
    return Searched(space, tuple(history[:trainings]), strategy, surrogate is not None, tuple(notes))


def _at_most(name: str, number: int, most: int) -> int:
    if number > most:
        raise ValueError(
            f"{name} must be at most {most}, not {number:.3g}: a search of one machine has no use for more"
        )
    return number


def _check_strategy(strategy: str, surrogate: Surrogate | None, acquisition: str) -> None:
    if strategy not in STRATEGIES:
        raise ValueError(f"strategy {strategy!r} is unknown: expected one of {', '.join(STRATEGIES)}")
    if acquisition not in ACQUISITIONS:
        raise ValueError(f"acquisition {acquisition!r} is unknown: expected one of {', '.join(ACQUISITIONS)}")
    if surrogate is None:
        return
    if strategy == "random":
        raise ValueError("random search asks no surrogate: leave surrogate= out, or take strategy='evolution'")
    if not (callable(getattr(surrogate, "fit", None)) and callable(getattr(surrogate, "predict", None))):
        raise ValueError(
            f"surrogate= takes an object with fit(features, scores) and predict(features) -> (mean, sd), not "
            f"{type(surrogate).__name__}"
        )


def _training(
    data: tuple[Tensor, Tensor] | None,
    validation: tuple[Tensor, Tensor] | None,
    train: Train | None,
    epochs: int,
    how: dict[str, Any],
) -> Train:
    """What trains: the caller's, or `fit`."""
    if train is not None:
        if how:
            raise ValueError(f"{next(iter(how))}= is for training by fit, not for train= of one's own: leave it out")
        if not callable(train):
            raise ValueError(f"train= takes a function of a network and a seed, not {type(train).__name__}")
        return train
    if data is None or validation is None or not len(validation[0]):
        raise ValueError(
            "a search trains on data and chooses on validation data: give data=(x, y) and validation=(x, y), or a "
            "function train= that knows them"
        )
    if wrong := [name for name in _OURS if name in how]:
        raise ValueError(f"{wrong[0]}= is not an argument of a search's trainings: leave it out")
    FitOptions(**{name: value for name, value in how.items() if name in FitOptions.__dataclass_fields__})  # checks them
    return FitTraining(data, validation, whole_number("epochs", epochs), how=dict(how))


def _asked(plan: Plan, train: Train, trainings: int) -> dict[str, Any]:
    """What a folder keeps of a call, to tell whether another one is the same."""
    if isinstance(train, FitTraining):
        trained: dict[str, Any] = {
            "epochs": train.epochs, "data": data_fingerprint(train.data),
            "validation": data_fingerprint(train.validation), "how": described(train.how),
        }  # fmt: skip
    else:
        trained = {"train": _named(train)}
    return {
        "space": plan.space.as_dict(),
        "strategy": plan.strategy,
        "trainings": trainings,
        "population": plan.population,
        "tournament": plan.tournament,
        "crossover": plan.crossover,
        "batch": plan.batch,
        "surrogate": None if plan.surrogate is None else _named(plan.surrogate),
        "surrogate_after": plan.surrogate_after,
        "offspring": plan.offspring,
        "acquisition": plan.acquisition,
        "features": _named(plan.features),
        "seed": plan.seed,
        "training": trained,
    }


def _named(given: Any) -> str:
    """A function by its name, an object as it prints itself, without addresses in memory."""
    name = getattr(given, "__qualname__", None)
    return f"{given.__module__}:{name}" if name else re.sub(r" at 0x[0-9a-fA-F]+", "", repr(given))[:500]


def _compare(place: Path | None, kept: Sequence[Training], found: Sequence[Proposal]) -> None:
    """Refuses to go on with a round whose genomes are proposed otherwise now."""
    for at, training in enumerate(kept):
        if at >= len(found) or training.hash != found[at].genome.hash:
            raise ValueError(
                f"{place} keeps another genome as training {training.number} than is proposed now, as the surrogate or "
                "its features have changed or have random numbers: give it the seed of then, or choose another folder"
            )
