"""Random networks, compacted: the same at other scales, batch sizes and image sizes, with gradients and without."""

from __future__ import annotations

import copy
import random
import warnings

import pytest
import torch

from bayesprune.models.units.compact import compact
from tests.oracles.random_network import CHANNELS, SIDE, random_network

EXACT = 1e-9  # of the largest output, and of 1
SIZES = [(SIDE, SIDE), (SIDE + 5, SIDE + 3), (2 * SIDE, SIDE)]


def network_of(seed):
    """A random network of 3 to 12 steps; every other one takes maps of any size."""
    draw = random.Random(seed)
    while True:
        steps = [[draw.randrange(60) for _ in range(4)] for _ in range(draw.randrange(3, 13))]
        network = random_network(steps, seed).eval()
        if seed % 2 or all(how == "pool" for how in heads(network)):
            return network


def heads(network):
    """How the results become rows: maps of another size are another number of rows for some."""
    return [how[0] for operation, _, how in network.program if operation == "head"]


def cases(network, seed):
    generator = torch.Generator().manual_seed(seed)
    for height, width in SIZES if "reshape" not in heads(network) else SIZES[:1]:
        for count in (1, 2, 5):
            for place, scale in enumerate((1.0, 50.0, 255.0)):
                x = scale * torch.randn(count, CHANNELS, height, width, generator=generator, dtype=torch.float64)
                yield x, (place + count) % 2 == 0


def run(network, x, grad):
    with torch.set_grad_enabled(grad):
        return [part.detach() for part in copy.deepcopy(network)(x.clone())]


def largest_distance(network, other, seed):
    """The largest difference relative to the outputs, how many inputs were compared, at how many image sizes."""
    found, compared, sizes = 0.0, 0, set()
    for x, grad in cases(network, seed):
        try:
            ones = run(network, x, grad)
        except RuntimeError:  # other sizes are written in its code, or it changes in place what gradients need
            continue
        others = run(other, x, grad)
        assert [one.shape for one in ones] == [two.shape for two in others]
        scale = max(1.0, *(float(one.abs().max()) for one in ones))
        found = max(found, *(float((one - two).abs().max()) / scale for one, two in zip(ones, others, strict=True)))
        compared += 1
        sizes.add(tuple(x.shape[2:]))
    return found, compared, len(sizes)


def compacted(network):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* units are dead", category=UserWarning)
        return compact(network, torch.zeros(2, CHANNELS, SIDE, SIDE))


def count_wrong(seeds):
    """How many networks come out different, how many lost units, and how many were compared at other image sizes."""
    wrong, smaller, resized = [], 0, 0
    for seed in seeds:
        network = network_of(seed)
        result = compacted(network)
        found, compared, sizes = largest_distance(network, result.network, seed)
        assert compared >= 5
        assert len(result.report.compared) == 9
        if not found < EXACT:
            wrong.append((seed, found))
        smaller += result.report.units_after != result.report.units_before
        resized += sizes > 1
    return wrong, smaller, resized


def test_twenty_random_networks_are_the_same_at_all_scales_and_sizes():
    wrong, smaller, resized = count_wrong(range(20))
    assert wrong == []
    assert smaller > 10 and resized >= 8


@pytest.mark.slow
def test_three_hundred_random_networks_are_the_same_at_all_scales_and_sizes():
    wrong, smaller, resized = count_wrong(range(1000, 1300))
    print(f"300 networks, {len(wrong)} wrong; {smaller} lost units, {resized} were compared at other image sizes")
    assert wrong == []
    assert smaller > 150 and resized > 120


def test_a_wrong_removal_would_be_seen():
    """The negative control: one weight changed by a thousandth in a compact network."""
    seen = 0
    for seed in range(20):
        network = network_of(seed)
        other = compacted(network).network
        with torch.no_grad():
            layer = [layer for layer in other.layers.children() if getattr(layer, "weight", None) is not None][-1]
            layer.weight.view(-1)[int(layer.weight.abs().argmax())] += 1e-3
        seen += largest_distance(network, other, seed)[0] > 1e3 * EXACT
    assert seen > 10
