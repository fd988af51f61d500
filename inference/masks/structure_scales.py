"""Weights that a network's structure has not cost nothing: their factors are their priors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from bayesprune.inference.masks.out_of_support import settle_scales
from bayesprune.inference.rules.registry import brought_by
from bayesprune.inference.rules.rule import ActiveRule, Needs, Rule, Run, never
from bayesprune.models.structure.structure_masks import StructureMasks

__all__ = ["StructureScales"]


@brought_by(StructureMasks)
@dataclass(frozen=True)
class StructureScales(Rule):
    """Sets Normal factors of the weights that masked layers have not to their priors; the default rule of such models.

    Their part of the KL term is zero then, from the first step on, so that the ELBO is that of the graph's weights
    alone. Under other priors than a fixed Normal they find to the prior in training (`settle_scales` says which).
    """

    name: ClassVar[str] = "structure"

    def begin(self, run: Run) -> ActiveStructureScales:
        """Sets them for the first time."""
        return ActiveStructureScales(run)


class ActiveStructureScales(ActiveRule):
    """The rule in one restart.

    Args:
        run: The restart.
    """

    needs = Needs(batch=never)

    def __init__(self, run: Run) -> None:
        self.run = run
        self.end()

    def end(self) -> None:
        """Sets them again, as an optimizer makes something of the rounding of a gradient that is zero."""
        for way in self.run.objective.model.ways:
            if isinstance(way, StructureMasks):
                for name, factor in way.factors.items():
                    settle_scales(self.run, name, factor != 0)
