"""Genomes by brute force: every small one, whether two are the same network, and what the network of one computes."""

from __future__ import annotations

import itertools

import torch
from torch import nn

from bayesprune.models.genomes.genome import Genome

__all__ = ["every_genome", "form", "reaches", "values_by_hand"]


def every_genome(vertices, operations):
    """Every genome of so many vertices whose operations are of these pairs of name and width."""
    pairs = [(begin, end) for end in range(1, vertices + 2) for begin in range(end)]
    for kinds in itertools.product(operations, repeat=vertices):
        names, widths = zip(*kinds, strict=True)
        for taken in itertools.product((False, True), repeat=len(pairs)):
            yield Genome(names, widths, tuple(pair for pair, is_in in zip(pairs, taken, strict=True) if is_in))


def form(genome):
    """The least of all ways to number the vertices of a genome: equal for two genomes if and only if isomorphic."""
    inner = range(1, genome.vertices + 1)
    ways = []
    for order in itertools.permutations(inner):
        number = {0: 0, genome.output: genome.output, **dict(zip(order, inner, strict=True))}
        labels = [(genome.operations[vertex - 1], genome.widths[vertex - 1]) for vertex in order]
        ways.append((labels, sorted((number[begin], number[end]) for begin, end in genome.edges)))
    return repr(min(ways))


def reaches(genome):
    """Vertices on a path from input to output, by powers of the adjacency matrix."""
    size = genome.output + 1
    step = torch.zeros(size, size, dtype=torch.long)
    for begin, end in genome.edges:
        step[begin, end] = 1
    some = torch.eye(size, dtype=torch.long)
    for _ in range(size):
        some = ((some @ (step + torch.eye(size, dtype=torch.long))) > 0).long()
    return [v for v in range(1, genome.output) if some[0, v] and some[v, size - 1]]


def values_by_hand(network, x):
    """Outputs of the network of a genome by the rules of its docstring, written for one example at a time."""
    return torch.stack([_one(network, each) for each in x])


def _one(network, x):
    genome, values = network.genome, [x]
    for vertex in range(1, genome.output + 1):
        name = "output" if vertex == genome.output else genome.operations[vertex - 1]
        begins = sorted(begin for begin, end in genome.edges if end == vertex)
        given = [values[begin] for begin in begins]
        layer = network.head if name == "output" else getattr(network, f"vertex{vertex}")
        least = min(one.ndim for one in given)
        if name in ("linear", "output") or least == 1:
            read = torch.cat([_flat(one, begin == 0) for one, begin in zip(given, begins, strict=True)])
        elif name in ("gru", "lstm") or least == 2:
            rows = [one if one.ndim == 2 else torch.stack([row.flatten() for row in one.unbind(1)]) for one in given]
            read = torch.cat([one[len(one) - min(map(len, rows)) :] for one in rows], dim=1)
        else:
            small = min(one.shape[1] for one in given), min(one.shape[2] for one in given)
            read = torch.cat([_shrunk(one, small) for one in given])
        values.append(_applied(name, layer, read))
    return values[-1]


def _applied(name, layer, read):
    if name in ("gru", "lstm"):
        cell = (nn.GRU if name == "gru" else nn.LSTM)(layer.cell.features, layer.cell.hidden, dtype=read.dtype)
        own = layer.cell
        with torch.no_grad():
            for key, value in zip(
                ("weight_ih_l0", "weight_hh_l0", "bias_ih_l0", "bias_hh_l0"),
                (own.input.weight, own.recurrent.weight, own.input.bias, own.recurrent.bias),
                strict=True,
            ):
                getattr(cell, key).copy_(value)
        return cell(read[:, None])[0][:, 0].detach()
    if name in ("max-pool", "average-pool"):
        if min(read.shape[1:]) < 2:
            return read
        blocks = read[:, : read.shape[1] // 2 * 2, : read.shape[2] // 2 * 2].unfold(1, 2, 2).unfold(2, 2, 2)
        return blocks.amax((-1, -2)) if name == "max-pool" else blocks.mean((-1, -2))
    if name == "global-pool":
        return read.mean((1, 2))
    if name in ("linear", "output"):
        made = (layer[0] if name == "linear" else layer).weight @ read + (layer[0] if name == "linear" else layer).bias
        return made.clamp_min(0) if name == "linear" else made
    return read if name == "identity" else layer(read[None])[0]


def _shrunk(value, small):
    while tuple(value.shape[1:]) != small:
        value = _applied("max-pool", None, value)
    return value


def _flat(value, is_input):
    if is_input or value.ndim == 1:
        return value.flatten()
    if value.ndim == 2:
        return value[-1]
    down, across = (-(-size // 4) for size in value.shape[1:])
    rows, columns = value.shape[1] // down, value.shape[2] // across
    return torch.stack([
        channel[r * down : (r + 1) * down, c * across : (c + 1) * across].mean()
        for channel in value for r in range(rows) for c in range(columns)
    ])  # fmt: skip
