"""What a search has found: its trainings in order, the best genome, and how far it had come after each."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from bayesprune.inference.search.history import REMEDY, SEARCH_FILE, Training, best_of, read_search
from bayesprune.inference.search.proposals import prediction_ranks
from bayesprune.models.files.json_file import damaged
from bayesprune.models.files.places import expanded
from bayesprune.models.genomes.genome import Genome
from bayesprune.models.genomes.genome_network import GenomeNetwork, network_of
from bayesprune.models.genomes.search_space import SearchSpace

__all__ = ["Searched"]

_SHOWN = 10


@dataclass(frozen=True)
class Searched:
    """What `search` found. `str()` is a table of its best trainings.

    Attributes:
        space: The space that was searched.
        trainings: All trainings, in order.
        strategy: ``"evolution"`` or ``"random"``.
        is_assisted: Whether a surrogate chose what was trained.
        notes: Sentences worth telling the user.
    """

    space: SearchSpace
    trainings: tuple[Training, ...]
    strategy: str
    is_assisted: bool = False
    notes: tuple[str, ...] = ()

    @property
    def best(self) -> Training:
        """The training of the best score; of equal ones the first.

        Raises:
            ValueError: If all trainings have failed.
        """
        found = best_of(list(self.trainings))
        if found is None:
            reason = next((one.problem for one in self.trainings if one.problem), "there are none")
            raise ValueError(f"all trainings of the search have failed ({reason}): train at a lower learning rate")
        return found

    @property
    def genome(self) -> Genome:
        """The genome of the best score."""
        return self.best.genome

    def network(self, seed: int = 0) -> GenomeNetwork:
        """The network of the best genome, with random weights: fit it, as any other network.

        Args:
            seed: Of its weights; default 0. The global random state is left as it was.
        """
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return network_of(self.genome, self.space.input_shape, self.space.classes)

    @property
    def best_so_far(self) -> tuple[float | None, ...]:
        """The best score after each training; None before the first that did not fail."""
        found: list[float | None] = []
        for training in self.trainings:
            before = found[-1] if found else None
            known = [score for score in (before, training.score) if score is not None]
            found.append(max(known, default=None))
        return tuple(found)

    @property
    def rank_correlation(self) -> float | None:
        """Spearman's, of all that the surrogate predicted with what was measured; None of fewer than three pairs.

        Only what was trained is counted, which are the children that it preferred: a narrow range, in which ranks
        are harder to tell than among all genomes.
        """
        return prediction_ranks(self.trainings)

    def rows(self) -> list[dict[str, Any]]:
        """The trainings as JSON holds them."""
        return [training.as_dict() for training in self.trainings]

    @staticmethod
    def load(folder: str | Path) -> Searched:
        """Reads a search back that was given a folder.

        Args:
            folder: The folder.

        Raises:
            ValueError: In one sentence, if it is no search, or damaged.
        """
        place = expanded(folder)
        asked, trainings = read_search(place)
        try:
            space = space_of(asked.get("space"))
        except ValueError as problem:
            raise damaged(place / SEARCH_FILE, problem, REMEDY) from problem
        strategy = asked.get("strategy")
        is_assisted = asked.get("surrogate") is not None
        return Searched(space, tuple(trainings), strategy if isinstance(strategy, str) else "evolution", is_assisted)

    def __str__(self) -> str:
        head = (
            f"{'training':>8} {'score':>8} {'predicted':>17} {'parameters':>10} {'seconds':>8}  {'made by':<18} genome"
        )
        scored = [one for one in self.trainings if one.score is not None]
        ranked = sorted(scored, key=lambda one: (-(one.score or 0.0), one.number))[:_SHOWN]
        lines = [head, *(_line(one) for one in ranked)]
        failed = len(self.trainings) - len(scored)
        count = f"{len(self.trainings)} trainings" + (f", {failed} of them failed" if failed else "")
        ranks = self.rank_correlation
        if ranks is not None:
            count += f"; rank correlation of predictions with scores {ranks:.2f}"
        return "\n".join([*lines, count, *self.notes])


def space_of(found: Any) -> SearchSpace:
    """The space of what `SearchSpace.as_dict` returned, whoever wrote it.

    Args:
        found: What JSON holds.

    Raises:
        ValueError: In one sentence, if it is something else.
    """
    if not isinstance(found, Mapping) or set(found) != set(SearchSpace.__dataclass_fields__):
        raise ValueError("its space has other settings")
    for name in ("input_shape", "operations", "widths"):
        if not isinstance(found[name], list) or len(found[name]) > 1000:
            raise ValueError(f"{name} of its space is no list")
    if not all(isinstance(name, str) for name in found["operations"]):
        raise ValueError("operations of its space are no texts")
    try:
        given: dict[str, Any] = {key: tuple(one) if isinstance(one, list) else one for key, one in found.items()}
        return SearchSpace(**given)
    except TypeError as problem:
        raise ValueError(str(problem)) from problem


def _line(one: Training) -> str:
    predicted = "" if one.predicted is None else f"{one.predicted:.4f} +- {one.predicted_sd or 0.0:.4f}"
    names = ", ".join(
        f"{name} {width}" if width else name
        for name, width in zip(one.genome.operations, one.genome.widths, strict=True)
    )
    return (
        f"{one.number:>8} {one.score or 0.0:>8.4f} {predicted:>17} {one.parameters:>10,} {one.seconds:>8.1f}  "
        f"{one.operator:<18} {names}"
    )
