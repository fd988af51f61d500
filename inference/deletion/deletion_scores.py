"""Deletion scores: what deleting each weight, unit, input or block is predicted to cost, from derivatives alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.deletion.curvature import check_curvature
from bayesprune.inference.deletion.gate_derivatives import GateDerivatives, group_derivatives, set_derivatives
from bayesprune.inference.deletion.what_is_deleted import (
    base_network,
    base_weights,
    check_base,
    check_per,
    group_numbers,
    selected_priors,
)
from bayesprune.inference.fit_result import Fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.likelihood import Likelihood

__all__ = ["CHUNK", "DeletionScores", "by_weight_of", "chunks", "deletion_scores", "set_scores"]

CHUNK = 512
"""Examples whose derivatives are taken at once."""
SHOWN = 5
"""Groups of each tensor that are printed."""


@dataclass(frozen=True)
class DeletionScores:
    """Predicted change of the mean loss when a group of weights is deleted; print it, or prune by it.

    It is a criterion too: ``prune(fit, sparsity=0.5, criterion=scores)`` keeps the weights of the groups that cost
    most, and ``deletion_calibration(fit, held_out, per=scores.per, scores=scores)`` compares it with what happens.

    Attributes:
        change: Predicted loss without the group less that with it, nats an example: `curvature` / 2 - `slope`; one
            number a group, `(groups,)`, by name of tensor. Averaged over draws where there are any.
        slope: d loss / dg at g = 1 of a gate g that multiplies the group's weights, the same shape and unit.
        curvature: d^2 loss / dg^2 there, by Gauss-Newton or Fisher information.
        groups: Number of the group of each weight, `(out, in, ...)`, by name of tensor.
        per: What a group is.
        base: Which network it is about.
        draws: Over how many draws of the posterior it is averaged; None: at its centre.
        how: Which curvature.
        examples: Over how many examples.
    """

    change: dict[str, Tensor]
    slope: dict[str, Tensor]
    curvature: dict[str, Tensor]
    groups: dict[str, Tensor]
    per: str
    base: str
    draws: int | None
    how: str
    examples: int

    @property
    def __name__(self) -> str:
        """What `prune` writes in its report."""
        return f"deletion per {self.per}"

    @property
    def by_weight(self) -> dict[str, Tensor]:
        """Every weight's number that of its group, `(out, in, ...)` by name of tensor, as criteria give them."""
        return {name: self.change[name][numbers] for name, numbers in self.groups.items()}

    def __call__(self, fit: Any, restart: int = 0) -> dict[str, Tensor]:
        """As a criterion: the same whatever it is given."""
        return self.by_weight

    def __str__(self) -> str:
        where = f"averaged over {self.draws} draws" if self.draws is not None else f"at the weights {self.base}"
        lines = [f"predicted change of the loss when one {self.per} is deleted, nats an example, {where}"]
        lines[0] += f" ({self.examples:,} examples, {self.how})"
        width = max(len(name) for name in self.change)
        for name, change in self.change.items():
            count = min(SHOWN, len(change))
            top = change.topk(count).indices.tolist()
            most = ", ".join(f"{place}: {float(change[place]):+.3g}" for place in top)
            free = float((change <= 0).double().mean())
            lines.append(f"{name:<{width}}  {len(change):,} {self.per}s, {free:.0%} at no cost; most: {most}")
        return "\n".join(lines)


def deletion_scores(
    fit: Fit,
    data: Data | None = None,
    per: str = "weight",
    *,
    base: str = "mean",
    draws: int | None = None,
    curvature: str = "gauss-newton",
    tensors: str | Sequence[str] | None = None,
    restart: int = 0,
    seed: int = 0,
) -> DeletionScores:
    """What deleting each weight, unit or input is predicted to cost, without deleting anything.

    With a gate g on a group of weights, deleting is g = 0. In second order the loss changes by

        loss(0) - loss(1) = -d loss/dg + 1/2 d^2 loss/dg^2,

    both at g = 1: minus the slope, as the loss may still fall along the gate, plus half the curvature. That needs the
    derivatives of the network in use and a pass over the data, in place of one pass for each deletion. It is exact
    where the outputs are linear in the gate and the loss is quadratic in them (linear regression of known noise), and
    of third order in what the deletion changes of the outputs elsewhere. Optimal brain damage (LeCun, Denker & Solla
    1990) is this without the slope and by weight; a Taylor expansion in gates of units is that of Molchanov et al.
    2017 (first order). Derivatives are taken example by example: what is squared is the derivative of one example's
    loss, never that of a batch.

    Args:
        fit: The fit; it is left as it was.
        data: Training examples: `(x, y)`, a `Dataset` or a loader; default None: the few that the fit keeps. More are
            better: the slope is a difference of large numbers. Held-out data would be looked at twice where what is
            deleted is then judged on them.
        per: What one gate is on: a ``"weight"`` (default), an ``"output"`` (row, filter), an ``"input"`` (column), a
            ``"kernel"``, or what one ``"gate"`` of the prior switches, blocks included.
        base: Of which network: ``"mean"`` (default): E[weight]; ``"included"``: E[weight | included] with every gate
            open; ``"median"``: the median-probability model, with zeros where the fit leaves a weight out.
        draws: Average over so many draws of the weights from the posterior, in place of `base`; default None.
        curvature: ``"gauss-newton"`` (default; the exact curvature of the loss in the outputs: of labels the Fisher
            information, in expectation over the model's own labels, one backward pass an output), ``"sampled"`` (the
            same from one drawn label an example, one backward pass) or ``"empirical"`` (from the labels that there
            are, one backward pass).
        tensors: Names of the tensors; default None: all with a prior.
        restart: Which restart; default the first.
        seed: Of the draws and of drawn labels; default 0. The global random states are left as they were.

    Returns:
        The scores, in nats an example; positive where the deletion hurts.

    Raises:
        ValueError: For unknown words, tensors or restarts, less than one draw, or where there are no examples.
    """
    check_per(per)
    check_base(base)
    check_curvature(curvature)
    _check_draws(draws)
    priors = selected_priors(fit.restart(restart).model.priors, tensors)
    groups = {name: torch.tensor(group_numbers(prior, per)) for name, prior in priors.items()}
    given = _given(fit, data)
    sums: dict[str, list[Tensor]] = {}
    examples = 0
    networks = _networks(fit, restart, base, draws, seed)
    for number, model in enumerate(networks):
        batches = chunks(model.network, given)
        found = group_derivatives(
            model.network, model.likelihood.scored, batches, groups, curvature, seed * 1_000_003 + number
        )
        for name, one in found.items():
            parts = [one.change.cpu(), one.slope.cpu(), one.curvature.cpu()]
            sums[name] = [a + b for a, b in zip(sums[name], parts, strict=True)] if name in sums else parts
            examples = one.examples
    over = draws or 1
    change, slope, bent = ({name: parts[place] / over for name, parts in sums.items()} for place in range(3))
    return DeletionScores(change, slope, bent, groups, per, base, draws, curvature, examples)


def set_scores(
    fit: Fit,
    sets: Sequence[Mapping[str, Any]],
    data: Data | None = None,
    *,
    base: str = "mean",
    draws: int | None = None,
    curvature: str = "gauss-newton",
    restart: int = 0,
    seed: int = 0,
) -> GateDerivatives:
    """What deleting each of some sets is predicted to cost, one gate on all that a set holds.

    The slopes of members add up; curvatures do not, as what members do to the outputs may cancel or reinforce: two
    copies of a unit have four times the curvature of one.

    Args:
        fit: The fit; it is left as it was.
        sets: For each set booleans by name of tensor, `(out, in, ...)`, tensors or arrays: what goes at once.
        data: As in `deletion_scores`.
        base: The same.
        draws: The same.
        curvature: The same.
        restart: The same.
        seed: The same.

    Returns:
        Slope, curvature and change by set, `(sets,)`, nats an example.

    Raises:
        ValueError: As `deletion_scores`; or if there is no set.
    """
    check_base(base)
    check_curvature(curvature)
    _check_draws(draws)
    if not sets:
        raise ValueError("there is no set to score: give some, each as booleans by name of tensor")
    masks = [{name: torch.as_tensor(mask) for name, mask in one.items()} for one in sets]
    given = _given(fit, data)
    slope, bent, examples = torch.zeros(len(sets)).double(), torch.zeros(len(sets)).double(), 0
    for number, model in enumerate(_networks(fit, restart, base, draws, seed)):
        batches = chunks(model.network, given)
        found = set_derivatives(
            model.network, model.likelihood.scored, batches, masks, curvature, seed * 1_000_003 + number
        )
        slope, bent, examples = slope + found.slope.cpu(), bent + found.curvature.cpu(), found.examples
    over = draws or 1
    return GateDerivatives(slope / over, bent / over, examples)


def by_weight_of(
    network: nn.Module, likelihood: Likelihood, data: Data, names: Sequence[str], seed: int = 0
) -> dict[str, Tensor]:
    """The scores of single weights of a plain network, `(out, in, ...)` by name of tensor, nats an example.

    Args:
        network: The network.
        likelihood: What its outputs mean.
        data: Examples.
        names: The tensors.
        seed: Of the order of a loader.
    """
    shapes = {name: network.get_parameter(name).shape for name in names}
    groups = {name: torch.arange(shape.numel()).view(shape) for name, shape in shapes.items()}
    found = group_derivatives(network, likelihood.scored, chunks(network, data, seed), groups)
    return {name: one.change.view(shapes[name]) for name, one in found.items()}


def chunks(network: nn.Module, data: Data, seed: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
    """The examples where a network wants them, in order where they are in memory, else as a loader has them.

    Args:
        network: The network.
        data: The examples.
        seed: Of the order of a loader.
    """
    like = next(network.parameters())
    batches = Batches(data, CHUNK, like.device, like.dtype)
    if batches.tensors is not None:
        x, y = batches.tensors
        yield from zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        return
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        yield from batches


def _given(fit: Fit, data: Data | None) -> Data:
    found = fit.examples if data is None else data
    if found is None:
        raise ValueError(
            "deletion scores look at examples, which neither the fit keeps nor data= gives: pass data=(x, y)"
        )
    return found


def _check_draws(draws: int | None) -> None:
    if draws is not None and draws < 1:
        raise ValueError(f"draws must be at least 1, not {draws}: leave it out for the centre of the posterior")


def _networks(fit: Fit, restart: int, base: str, draws: int | None, seed: int) -> Iterator[BayesianNetwork]:
    """The network at the base's weights, or one at the weights of each draw."""
    dtype = next(fit.restart(restart).model.network.parameters()).dtype
    if draws is None:
        yield base_network(fit, restart, base_weights(fit, restart, base), dtype)
        return
    drawn = fit.draws(draws, restart, sites=fit.restarts[restart].model.priors.__contains__, seed=seed)
    for number in range(draws):
        yield base_network(fit, restart, {name: weights[number] for name, weights in drawn.items()}, dtype)
