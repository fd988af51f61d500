"""The objective of a network with gates on its units with the expectation over the gates taken by enumeration."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

from bayesprune.inference.objective.unit_gate_estimators import Estimate, GateNll, Gates


def every_draw(theta: Mapping[str, Tensor]) -> Iterator[tuple[dict[str, Tensor], Tensor]]:
    """All values of the gates by site, `(units,)`, each with its probability, which has a gradient to theta."""
    sizes = [len(gates) for gates in theta.values()]
    together = torch.cat(list(theta.values()))
    for bits in itertools.product((0.0, 1.0), repeat=sum(sizes)):
        drawn = together.new_tensor(bits)
        chance = torch.where(drawn == 1.0, together, 1.0 - together).prod()
        yield dict(zip(theta, drawn.split(sizes), strict=True)), chance


def enumerated(nll: GateNll, gates: Gates) -> Estimate:
    """An estimator without noise: the expected loss itself."""
    (first, *draws), chances = zip(*every_draw(gates.theta), strict=True)
    losses = [nll(first).mean()[None]]  # the first call is an ordinary one
    stacked = {site: torch.stack([values[site] for values in draws]) for site in gates.theta}
    losses.append(torch.func.vmap(lambda values: nll(values).mean())(stacked))
    return Estimate(torch.stack(chances) @ torch.cat(losses))
