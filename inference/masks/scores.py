"""Scores by which weights go and come: the extension points ``DROP`` and ``GROW`` of sparse training.

A score is a function of what an update sees, one tensor of `(out, in, ...)` by name of tensor; of drop scores the
lowest go, of growth scores the highest come. Only their order counts, unless weights are drawn at a temperature: then
scores are log weights, up to a constant.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.rules.rule import Run, Taken

__all__ = ["DROP", "GROW", "Score", "Seen", "drop_score", "grow_score"]


@dataclass(frozen=True)
class Seen:
    """What an update of masks sees.

    Attributes:
        run: The restart.
        taken: The step after which it is.
        masks: The masks as they are, boolean, by name of tensor.
        gradient: The dense gradient, mean over the steps that were asked for; see `Taken.weight_gradient`. None where
            no score asks for it.
        density: Density that the schedule asks for now, of each tensor, by name.
    """

    run: Run
    taken: Taken
    masks: Mapping[str, Tensor]
    gradient: Mapping[str, Tensor] | None
    density: Mapping[str, float]

    @property
    def guide(self) -> Guide:
        """The guide."""
        return self.run.objective.guide

    def weights(self) -> dict[str, Tensor]:
        """Weights at the guide's locations, whatever the masks are, by name of masked tensor."""
        found = self.guide.model.ungated_weights_at(self.guide.means())
        return {name: found[name] for name in self.masks}


@dataclass(frozen=True)
class Score:
    """A score by name.

    Attributes:
        name: Its name.
        summary: What it is, for help texts.
        of: The function.
        needs_gradient: Whether it looks at `Seen.gradient`.
        check: Refuses a model whose guide does not have it, by a `ValueError`; default None: any.
    """

    name: str
    summary: str
    of: Callable[[Seen], dict[str, Tensor]]
    needs_gradient: bool = False
    check: Callable[[Guide], None] | None = None


DROP: dict[str, Score] = {}
GROW: dict[str, Score] = {}


ScoreFunction = Callable[[Seen], dict[str, Tensor]]
Register = Callable[[ScoreFunction], ScoreFunction]


def _register(table: dict[str, Score], name: str, summary: str, **more: Any) -> Register:
    def register(of: ScoreFunction) -> ScoreFunction:
        table[name] = Score(name, summary, of, **more)
        return of

    return register


def drop_score(name: str, summary: str, **more: Any) -> Register:
    """Decorator: a score of which the lowest go; `more` are the other fields of `Score`."""
    return _register(DROP, name, summary, **more)


def grow_score(name: str, summary: str, **more: Any) -> Register:
    """Decorator: a score of which the highest come; `more` are the other fields of `Score`."""
    return _register(GROW, name, summary, **more)


@drop_score("magnitude", "|weight|")
def magnitude(seen: Seen) -> dict[str, Tensor]:
    """|weight| at the guide's locations (Mocanu et al. 2018; Evci et al. 2020)."""
    return {name: weight.abs() for name, weight in seen.weights().items()}


@drop_score("random", "at random")
def at_random(seen: Seen) -> dict[str, Tensor]:
    """Uniform numbers: the baseline that every other score has to beat."""
    return {name: torch.rand(mask.shape, device=mask.device) for name, mask in seen.masks.items()}


grow_score("random", "at random (SET)")(at_random)


@grow_score("gradient", "|gradient of the loss| (RigL)", needs_gradient=True)
def gradient(seen: Seen) -> dict[str, Tensor]:
    """|d loss / d weight|, dense, in one batch or the mean of several (Evci et al. 2020)."""
    assert seen.gradient is not None
    return {name: slope.abs() for name, slope in seen.gradient.items() if name in seen.masks}
