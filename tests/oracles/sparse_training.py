"""Sparse training written from the papers, in double precision and plain loops: places are sets of flat indices.

Mocanu et al. 2018 (SET), Evci et al. 2020 (RigL), Liu et al. 2021 (ITOP; GraNet), Zhu & Gupta 2017 (gradual magnitude),
Tanaka et al. 2020 (SynFlow). Only the gradient of the loss is by autograd.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

Places = dict[str, set[int]]
Array = npt.NDArray[np.float64]
MISTAKES = ("", "keeps momentum", "masked gradient", "dropped stay out", "grown start elsewhere", "step after")


def best_subset(scores: Sequence[float], among: Sequence[int], count: int) -> set[int]:
    """The subset of that size with the largest sum of scores, of all subsets."""
    return set(max(itertools.combinations(among, count), key=lambda chosen: sum(scores[one] for one in chosen)))


def odds_of_subsets(weights: Sequence[float], count: int) -> dict[frozenset[int], float]:
    """Probabilities of subsets drawn one after the other without replacement, by all orders.

    Args:
        weights: Of the draws, positive.
        count: How many are drawn.
    """
    found: dict[frozenset[int], float] = {}
    for order in itertools.permutations(range(len(weights)), count):
        left, odds = float(sum(weights)), 1.0
        for one in order:
            odds *= weights[one] / left
            left -= weights[one]
        found[frozenset(order)] = found.get(frozenset(order), 0.0) + odds
    return found


def cubic(step: int, steps: int, start: float, final: float, ends: float) -> float:
    """Zhu & Gupta's density."""
    done = min(1.0, step / (ends * steps))
    return final + (start - final) * (1.0 - done) ** 3


@dataclass
class Method:
    """What is done with masks.

    Attributes:
        every: Steps between updates.
        grow: ``"gradient"``, ``"random"``, or empty: nothing comes.
        share: Share that is exchanged in the beginning.
        last_share: The same at `until`.
        until: Share of the fit after which nothing is exchanged.
        start: Density in the beginning, of a cubic over the whole network; None: constant.
        final: Number of weights in the end.
        ends: Share of the fit at which the cubic ends.
        wanted: Weights of each tensor after the steps at which the density moves; empty: it does not, by layer.
        mistake: One of `MISTAKES`, for controls.
    """

    every: int
    grow: str = "gradient"
    share: float = 0.0
    last_share: float = 0.0
    until: float = 1.0
    start: float | None = None
    final: int = 0
    ends: float = 0.5
    wanted: Mapping[int, Mapping[str, int]] = field(default_factory=dict)
    mistake: str = ""

    def due(self, step: int, steps: int) -> bool:
        if self.wanted and step <= max(self.wanted):
            return step in self.wanted
        settled = 0 if self.start is None else round(self.ends * steps)
        if step < settled:
            return step % self.every == 0
        if step == settled > 0:
            return True
        return self.share > 0.0 and step % self.every == 0 and step <= self.until * steps and step < steps

    def part(self, step: int, steps: int) -> float:
        if self.share == 0.0 or step < max(self.wanted, default=0) or step > self.until * steps:
            return 0.0
        wave = 0.5 * (1.0 + math.cos(math.pi * step / (self.until * steps)))
        return self.last_share + (self.share - self.last_share) * wave


@dataclass
class Trained:
    """Where the loop is.

    Attributes:
        values: Parameters by name.
        momentum: Of the optimizer, by name.
        places: Flat indices that are in, by name of masked tensor.
        history: `places` after every update, by step.
    """

    values: dict[str, Tensor]
    momentum: dict[str, Tensor]
    places: Places
    history: dict[int, Places] = field(default_factory=dict)


def train(
    loss: Callable[[Mapping[str, Tensor], int], Tensor],
    values: Mapping[str, Tensor],
    places: Places,
    method: Method,
    steps: int,
    rate: float,
    weight_decay: float,
    random: Mapping[int, Tensor] | None = None,
    momentum: float = 0.9,
) -> Trained:
    """Trains by SGD with momentum along a cosine, weight decay on the masked tensors alone.

    Args:
        loss: Mean loss of the batch of a step, from 1, at parameters by name.
        values: Parameters at the start.
        places: Masks at the start.
        method: What is done with them.
        steps: How many.
        rate: First learning rate.
        weight_decay: As SGD has it.
        random: State of torch's generator at the updates, by step; for random growth.
        momentum: Of SGD.
    """
    at = Trained({n: v.clone() for n, v in values.items()}, {}, {n: set(p) for n, p in places.items()})
    for name, there in at.places.items():
        for one in range(at.values[name].numel()):
            if one not in there:
                at.values[name].view(-1)[one] = 0.0
    for step in range(1, steps + 1):
        due = method.due(step, steps)
        if due and method.mistake == "step after":
            _update(at, _gradient(loss, at, step), method, step, steps, random)
        gradient = _gradient(loss, at, step)
        lr = rate * 0.5 * (1.0 + math.cos(math.pi * (step - 1) / steps))
        for name, value in at.values.items():
            slope = gradient[name]
            if name in at.places:
                there = torch.zeros(value.numel(), dtype=value.dtype)
                there[sorted(at.places[name])] = 1.0
                slope = (slope.view(-1) * there).view(value.shape) + weight_decay * value
            at.momentum[name] = slope if step == 1 else momentum * at.momentum[name] + slope
            value -= lr * at.momentum[name]
        if due and method.mistake != "step after":
            _update(at, gradient, method, step, steps, random)
    return at


def _gradient(loss: Callable[[Mapping[str, Tensor], int], Tensor], at: Trained, step: int) -> dict[str, Tensor]:
    """The dense gradient: in the weights that the network runs with."""
    leaves = {name: value.clone().requires_grad_() for name, value in at.values.items()}
    slopes = torch.autograd.grad(loss(leaves, step), list(leaves.values()))
    return dict(zip(leaves, slopes, strict=True))


def _update(
    at: Trained,
    gradient: Mapping[str, Tensor],
    method: Method,
    step: int,
    steps: int,
    random: Mapping[int, Tensor] | None,
) -> None:
    before = {name: set(there) for name, there in at.places.items()}
    sizes = {name: at.values[name].numel() for name in before}
    size = {name: at.values[name].abs().flatten().tolist() for name in before}
    uniform = _uniform(at, random[step]) if method.grow == "random" and random is not None else {}
    if method.start is not None:
        whole = sum(sizes.values())
        wanted = round(cubic(step, steps, method.start, method.final / whole, method.ends) * whole)
        if wanted < sum(map(len, at.places.values())):
            _threshold(at.places, size, wanted)
    for name, count in method.wanted.get(step, {}).items():
        there = at.places[name]
        if count <= len(there):
            at.places[name] = set(sorted(there, key=lambda one: -size[name][one])[:count])
        else:
            slope = gradient[name].abs().flatten().tolist()
            free = sorted((one for one in range(sizes[name]) if one not in there), key=lambda one: -slope[one])
            at.places[name] = there | set(free[: count - len(there)])
    part = method.part(step, steps)
    for name, there in at.places.items():
        if part == 0.0:
            break
        count = min(round(part * len(there)), sizes[name] - len(there))
        ranked = sorted(there, key=lambda one: size[name][one])
        stays = set(ranked[count:])
        slope = uniform[name] if method.grow == "random" else gradient[name].abs().flatten().tolist()
        if method.mistake == "masked gradient":
            slope = [value if one in there else 0.0 for one, value in enumerate(slope)]
        free = [one for one in range(sizes[name]) if one not in stays]
        if method.mistake == "dropped stay out":
            free = [one for one in free if one not in there]
        free.sort(key=lambda one: -slope[one])
        at.places[name] = stays | set(free[:count])
    for name, there in at.places.items():
        for one in range(sizes[name]):
            if one not in there or one not in before[name]:
                if not (method.mistake == "grown start elsewhere" and one in there):
                    at.values[name].view(-1)[one] = 0.0
                elif gradient[name].view(-1)[one] != 0.0:
                    at.values[name].view(-1)[one] = -0.1 * gradient[name].view(-1)[one]
                if method.mistake != "keeps momentum" and name in at.momentum:
                    at.momentum[name].view(-1)[one] = 0.0
    at.history[step] = {name: set(there) for name, there in at.places.items()}


def _threshold(places: Places, size: Mapping[str, Sequence[float]], wanted: int) -> None:
    """Leaves the largest weights of the whole network, and one a tensor at least."""
    best = {name: max(there, key=lambda one: size[name][one]) for name, there in places.items()}
    others = [(size[name][one], name, one) for name, there in places.items() for one in there if one != best[name]]
    others.sort(reverse=True)
    for name in places:
        places[name] = {best[name]}
    for _, name, one in others[: wanted - len(places)]:
        places[name].add(one)


def _uniform(at: Trained, state: Tensor) -> dict[str, list[float]]:
    generator = torch.Generator()
    generator.set_state(state)
    return {name: torch.rand(at.values[name].shape, generator=generator).flatten().tolist() for name in at.places}


def flow_scores(layers: Sequence[tuple[Array, Array]]) -> list[Array]:
    """SynFlow's scores of a perceptron with any activation that is the identity above zero, by its two passes.

    Args:
        layers: Weights `(out, in)` and biases `(out,)` of each, masked.
    """
    reaching, flow = [], np.ones(layers[0][0].shape[1])
    for weight, bias in layers:
        reaching.append(flow)
        flow = np.abs(weight) @ flow + np.abs(bias)
    leaving, found = np.ones(layers[-1][0].shape[0]), []
    for (weight, _), inflow in zip(reversed(layers), reversed(reaching), strict=True):
        found.append(leaving[:, None] * np.abs(weight) * inflow[None, :])
        leaving = np.abs(weight).T @ leaving
    return found[::-1]


def synflow(layers: Sequence[tuple[Array, Array]], total: int, rounds: int = 100, once: bool = False) -> list[Array]:
    """SynFlow's masks of a perceptron, of so many weights in all.

    Args:
        layers: Weights and biases.
        total: Weights in the end.
        rounds: Of pruning.
        once: Whether all goes in one round, for a control.
    """
    masks = [np.ones_like(weight) for weight, _ in layers]
    whole = sum(mask.size for mask in masks)
    for number in [rounds] if once else range(1, rounds + 1):
        scores = flow_scores([(w * m, b) for (w, b), m in zip(layers, masks, strict=True)])
        count = round(whole * (total / whole) ** (number / rounds))
        flat = np.concatenate([score.ravel() for score in scores])
        threshold = np.sort(flat)[::-1][count - 1]
        masks = [(score >= threshold) & (mask > 0) for score, mask in zip(scores, masks, strict=True)]
        masks = [mask.astype(np.float64) for mask in masks]
    return masks
