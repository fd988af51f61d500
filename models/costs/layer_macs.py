"""MACs by tensor: what the operations on each weight tensor of a network cost, also where a layer holds several."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from bayesprune.models.costs.macs import count_macs, own_weights

__all__ = ["macs_by_tensor"]


@torch.no_grad()
def macs_by_tensor(network: nn.Module, example_input: Any, tensors: Iterable[str]) -> dict[str, int]:
    """Multiply-accumulate operations with each of some weight tensors, for one example, all their entries counted.

    A copy of the network runs once with all of them zero, and once more for each tensor that a layer holds: what is
    sparse then says whose operations they are.

    Args:
        network: The network; it is left as it was.
        example_input: As `count_macs` takes it.
        tensors: Names of parameters.

    Returns:
        MACs by name; 0 for tensors that no matrix product and no convolution uses.

    Raises:
        ValueError: If the network has no such parameter, or does not take the input.
    """
    network = copy.deepcopy(network)
    known = dict(network.named_parameters())
    asked = list(tensors)
    strange = [name for name in asked if name not in known]
    if strange:
        raise ValueError(
            f"the network has no tensor {strange[0]!r}: its tensors are {', '.join(list(known)[:6])}"
            f"{', ...' if len(known) > 6 else ''}"
        )
    names = {id(known[name]): name for name in asked}
    held: dict[str, list[str]] = {name: [] for name in asked}  # by tensor, the modules that hold it
    for module, layer in network.named_modules():
        for _, weight in own_weights(layer):
            if id(weight) in names:
                held[names[id(weight)]].append(module)
    rounds = _rounds(held)
    for name in asked:
        known[name].zero_()
    without = count_macs(network, example_input)
    found = dict.fromkeys(asked, 0)
    for together in rounds:
        for name in together:
            known[name].fill_(1.0)
        counts = count_macs(network, example_input)
        for name in together:
            known[name].zero_()
            found[name] = sum(counts[m].sparse - without[m].sparse for m in held[name] if m in counts)
    return found


def _rounds(held: dict[str, list[str]]) -> list[list[str]]:
    """Tensors in rounds, of which no two in a round stand in one module."""
    rounds: list[list[str]] = []
    taken: list[set[str]] = []
    for name, modules in held.items():
        place = next((n for n, there in enumerate(taken) if there.isdisjoint(modules)), len(rounds))
        if place == len(rounds):
            rounds.append([])
            taken.append(set())
        rounds[place].append(name)
        taken[place].update(modules)
    return rounds
