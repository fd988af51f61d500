"""Transfer: guide, point estimates and optimizer of a fit go on with the units that are left of its network."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor

from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.gate_family import GateFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.slices import ParameterSlice
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.unit_removal import Removed

__all__ = ["check_removable", "transfer"]

Cut = Callable[[Tensor], Tensor]


def check_removable(model: BayesianNetwork) -> None:
    """Refuses, before training starts, models whose latents or ways cannot be cut with their units.

    Raises:
        ValueError: If a latent's entries are not those of weights, rows or columns, or a way does not follow.
    """
    for way in model.ways:
        if not way.follows_removal:
            raise ValueError(
                f"{way.name} between weights and network cannot follow units that leave: fit with "
                "rules=[Gating(remove=None)]"
            )
    for prior in model.priors.values():
        for latent, spec in prior.hierarchy.latents.items():
            if spec.dims or spec.is_repeated:
                raise ValueError(
                    f"{prior.name}: the latent {latent} is declared per {'dims=' if spec.dims else spec.per}, whose "
                    "entries cannot leave with single units: fit with rules=[Gating(remove=None)]"
                )


@torch.no_grad()
def transfer(
    removed: Removed,
    before: tuple[Objective, torch.optim.Optimizer],
    after: tuple[Objective, torch.optim.Optimizer],
) -> None:
    """Copies what is left of every trained tensor, and of the optimizer's state of it, into a new objective, IN PLACE.

    Args:
        removed: What was removed.
        before: Objective and optimizer of before.
        after: Those made for `removed.model`, which are filled.
    """
    old, new = before[0], after[0]
    pairs = [*_guide_pairs(old.guide, new.guide, removed), *_point_pairs(old.model, new.model, removed)]
    for source, target, cut in pairs:
        target.copy_(cut(source))
    old_q, new_q = GateFamily.among(old.guide.ways), GateFamily.among(new.guide.ways)
    for name in ("absorbed", "origin"):
        getattr(new_q, name).copy_(getattr(old_q, name)[removed.gates.to(old_q.theta.device)])
    new_q.settled.copy_(old_q.settled)
    for source, target, cut in pairs:
        state = before[1].state.get(source)
        if state:
            after[1].state[target] = {
                key: cut(value).clone() if torch.is_tensor(value) and value.shape == source.shape else value
                for key, value in state.items()
            }


def _guide_pairs(old: Guide, new: Guide, removed: Removed) -> list[tuple[Tensor, Tensor, Cut]]:
    """Parameters of the guide: the old one, the new one, and how one is cut to the other."""
    index = removed.gates.to(next(old.parameters()).device)
    thetas = [GateFamily.among(guide.ways).theta for guide in (old, new)]
    pairs: list[tuple[Tensor, Tensor, Cut]] = [(thetas[0], thetas[1], lambda flat: flat[index])]
    shapes = {name: prior.shape for name, prior in old.model.priors.items()}
    earlier = {_kind(family): family for family in cast(Iterable[Family], old.families)}
    for family in cast(Iterable[Family], new.families):
        source = earlier[_kind(family)]
        left = {piece.site.name for piece in family.slices()}
        for name, target in family.named_parameters():
            pieces = [piece for piece in source.slices() if piece.parameter == name and piece.site.name in left]
            pairs.append((source.get_parameter(name), target, _flat_cut(pieces, removed.kept, shapes)))
    return pairs


def _kind(family: Family) -> tuple[type, str]:
    """A guide has one family of each kind."""
    return type(family), family.sites[0].support


def _flat_cut(
    pieces: Sequence[ParameterSlice], kept: Mapping[str, Mapping[int, Tensor]], shapes: Mapping[str, Sequence[int]]
) -> Cut:
    def cut(flat: Tensor) -> Tensor:
        parts = []
        for piece in pieces:
            value, tensor = piece.of(flat), piece.site.tensor
            for dim, index in kept.get(tensor, {}).items():
                if dim < len(piece.site.shape) and value.shape[dim] == shapes[tensor][dim]:
                    value = value.index_select(dim, index.to(value.device))
            parts.append(value.reshape(-1))
        return torch.cat(parts)

    return cut


def _point_pairs(old: BayesianNetwork, new: BayesianNetwork, removed: Removed) -> list[tuple[Tensor, Tensor, Cut]]:
    """Point estimates of the network; those of the likelihood are shared."""
    before = dict(old.network.named_parameters())
    pairs: list[tuple[Tensor, Tensor, Cut]] = []
    for name, target in new.network.named_parameters():
        kept = removed.kept.get(name, {})

        def cut(value: Tensor, kept: Mapping[int, Tensor] = kept) -> Tensor:
            for dim, index in kept.items():
                value = value.index_select(dim, index.to(value.device))
            return value

        pairs.append((before[name], target, cut))
    return pairs + [(parameter, parameter, lambda value: value) for parameter in old.likelihood.parameters()]
