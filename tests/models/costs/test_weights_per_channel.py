"""Weights per channel: the published table of ResNet-34 and ResNet-50 from their shapes, and when it is said."""

from __future__ import annotations

import math

import pytest
import torch

from bayesprune.models.costs.layer_shares import erk_counts, uniform_counts
from bayesprune.models.costs.weights_per_channel import collapse_in_words, weights_per_channel
from bayesprune.models.ready_networks import make_ready


def residual(bottleneck, own=None):
    """Weights of ResNet-34 or ResNet-50 with a stem of 3 x 3, for 10 classes, with at most so many blocks a stage."""
    shapes, before = {"conv1": (64, 3, 3, 3)}, 64
    for stage, (blocks, width) in enumerate(zip((3, 4, 6, 3), (64, 128, 256, 512), strict=True)):
        after = 4 * width if bottleneck else width
        for block in range(blocks if own is None else min(blocks, own)):
            name = f"layer{stage + 1}.{block}"
            if bottleneck:
                inner = [(width, before, 1, 1), (width, width, 3, 3), (after, width, 1, 1)]
            else:
                inner = [(width, before, 3, 3), (width, width, 3, 3)]
            shapes |= {f"{name}.conv{number}": shape for number, shape in enumerate(inner, start=1)}
            if before != after:
                shapes[f"{name}.shortcut"] = (after, before, 1, 1)
            before = after
    return shapes | {"fc": (10, before)}


def size(shapes):
    return sum(math.prod(shape) for shape in shapes.values())


TABLE = {
    False: ((21_265_088, 11_164_352), {0.001: (1.266, 2.293), 0.0005: (0.633, 1.147), 0.0001: (0.127, 0.229)}),
    True: ((23_467_712, 13_928_128), {0.001: (0.457, 0.810), 0.0005: (0.229, 0.405), 0.0001: (0.046, 0.081)}),
}
"""Weights without and with blocks shared beyond the second of a stage; at a density, weights per channel of the two."""


@pytest.mark.parametrize("bottleneck", [False, True])
def test_the_table_of_resnet_34_and_50_without_and_with_shared_blocks(bottleneck):
    sizes, rows = TABLE[bottleneck]
    whole, shared = residual(bottleneck), residual(bottleneck, own=2)
    assert (size(whole), size(shared)) == sizes
    for density, expected in rows.items():
        count = round(density * size(whole))  # sharing keeps the number of weights
        for shapes, value in zip((whole, shared), expected, strict=True):
            counts = erk_counts(shapes, count)
            assert sum(counts.values()) == count
            found = weights_per_channel(shapes, counts)
            dimensions = sum(map(sum, shapes.values()))
            assert round(count / dimensions, 3) == value
            # The same for each tensor, to a weight: the layout is ERK's, of which no tensor is dense here.
            for name, one in found.items():
                assert one * sum(shapes[name]) == pytest.approx(count / dimensions * sum(shapes[name]), abs=1.0)
    assert rows[0.001][0] != rows[0.001][1]  # control


def test_shapes_of_the_ready_network_have_the_same_sum():
    """ResNet-50 differs in its stem and classes alone."""
    with torch.device("meta"):
        network = make_ready("resnet-50", (3, 224, 224), 10)
    ready = [tuple(p.shape) for p in network.parameters() if p.ndim > 1]
    assert sorted(ready[1:]) == sorted(list(residual(True).values())[1:]) and ready[0] == (64, 3, 7, 7)


SHAPES = {"fc1.weight": (300, 784), "fc2.weight": (100, 300), "fc3.weight": (10, 100)}


def test_a_network_with_fewer_weights_than_channels_is_told_what_to_do():
    dimensions = 1084 + 400 + 110
    assert collapse_in_words(SHAPES, erk_counts(SHAPES, dimensions)) is None
    sentence, is_whole = collapse_in_words(SHAPES, erk_counts(SHAPES, dimensions - 1))
    assert is_whole and "1,593 weights are 1 a channel" in sentence and "density above 0.006" in sentence
    sentence, is_whole = collapse_in_words(SHAPES, erk_counts(SHAPES, 0.001))
    assert is_whole and "266 weights are 0.17 a channel" in sentence


def test_single_layers_below_are_named_with_their_numbers():
    sentence, is_whole = collapse_in_words(SHAPES, uniform_counts(SHAPES, 0.01))
    assert not is_whole and "fc3.weight (0.091 a channel) and fc2.weight (0.75 a channel)" in sentence
    assert "fc1.weight" not in sentence


def test_a_tensor_that_keeps_all_its_weights_lacks_none():
    shapes = {"depthwise": (8, 1, 1, 1), "fc.weight": (50, 50)}
    counts = {"depthwise": 8, "fc.weight": 200}
    assert weights_per_channel(shapes, counts)["depthwise"] < 1.0
    assert collapse_in_words(shapes, counts) is None
    assert collapse_in_words(shapes, counts | {"depthwise": 7}) is not None
