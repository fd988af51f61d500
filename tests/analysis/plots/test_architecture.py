"""Widths and weights of the drawing are counted again from the networks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.pruning.report import PruneReport, PruneResult
from tests.oracles.units_reference import Net


def bars(axis):
    """Lengths of the bars, a list for each series, top to bottom."""
    return [[bar.get_width() for bar in container] for container in axis.containers]


def zeroed(network, rows):
    """A network with the incoming weights and biases of some units of its layers set to zero."""
    with torch.no_grad():
        for name, gone in rows.items():
            layer = network.get_submodule(name)
            layer.weight[gone] = 0.0
            layer.bias[gone] = 0.0
    return network.eval()


@pytest.fixture
def dense():
    torch.manual_seed(0)
    network = zeroed(bp.lenet_300_100(20, 4, (9, 7)), {"fc1": [0, 3, 5], "fc2": [1]})
    with torch.no_grad():
        network.fc1.weight[:, [2, 11]] = 0.0
        network.fc2.weight[0, 1] = 0.0
    return network


def test_a_compact_network_is_drawn_in_the_usual_notation(dense):
    figure = bp.plot_architecture(bp.compact(dense, torch.zeros(2, 20)))
    before = 20 * 9 + 9 + 9 * 7 + 7 + 7 * 4 + 4
    after = 20 * 6 + 6 + 6 * 6 + 6 + 6 * 4 + 4
    arrow = "\N{RIGHTWARDS ARROW}"
    assert figure.get_suptitle() == (
        f"20-9-7-4 {arrow} 20-6-6-4, {before} {arrow} {after} parameters\n18 of 20 inputs are read"
    )
    units, weights = figure.axes
    assert bars(units) == [[9, 7, 4], [6, 6, 4]]
    # Not zero: 18 columns that are read; one weight less in fc2.
    assert bars(weights) == [[180, 63, 28], [6 * 18, 6 * 6 - 1, 6 * 4], [120, 36, 24]]
    assert [label.get_text() for label in units.get_yticklabels()] == ["fc1", "fc2", "fc3"]


def test_a_pruned_network_is_compacted_for_the_drawing(dense):
    report = PruneReport("by hand", "none", None, 1, 1, 0.0, {})
    pruned = PruneResult(dense, {}, report, bp.Categorical(), (20,))
    assert bars(bp.plot_architecture(pruned).axes[1]) == bars(bp.plot_architecture(pruned.compact()).axes[1])


def test_convolutions_count_channels_and_groups():
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 4, 3, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 16, 2)
    )
    zeroed(network, {"2": [0, 2]})
    units, weights = bp.plot_architecture(bp.compact(network, torch.zeros(2, 3, 8, 8))).axes
    assert bars(units)[0] == [6, 4, 2] and bars(units)[1] == [6, 2, 2]
    assert bars(weights)[0] == [6 * 27, 4 * 27, 128] and bars(weights)[2] == [6 * 27, 2 * 27, 64]


def test_a_first_layer_in_groups_counts_all_its_inputs():
    network = nn.Sequential(nn.Conv1d(4, 6, 1, groups=2), nn.ReLU(), nn.Flatten(), nn.Linear(6 * 5, 2)).eval()
    with torch.no_grad():
        network[0].weight[3:, 1] = 0.0  # the second input of the second group
    title = bp.plot_architecture(bp.compact(network, torch.zeros(2, 4, 5))).get_suptitle()
    assert title.startswith("4-6-2") and title.endswith("3 of 4 inputs are read")


def test_long_networks_are_not_written_out():
    layers = [part for _ in range(9) for part in (nn.Linear(3, 3), nn.ReLU())]
    result = bp.compact(nn.Sequential(*layers).eval(), torch.zeros(2, 3))
    assert bp.plot_architecture(result).get_suptitle().startswith("9 layers, 108 ")


def test_a_residual_network_is_written_out_and_one_of_another_form_is_not():
    def titled(join):
        def run(net, x):
            h = net.stem(x)
            return net.fc(join(h, net.b(torch.relu(net.a(h)))))

        layers = {"stem": nn.Linear(3, 4), "a": nn.Linear(4, 5), "b": nn.Linear(5, 4), "fc": nn.Linear(4, 2)}
        network = zeroed(Net(run, **layers), {"a": [0, 3]})
        return bp.plot_architecture(bp.compact(network, torch.zeros(2, 3))).get_suptitle()

    assert titled(lambda h, branch: h + branch).startswith("3-4-(5-4)-2 \N{RIGHTWARDS ARROW} 3-4-(3-4)-2, ")
    assert titled(lambda h, branch: h * branch).startswith("4 layers, ")


def test_wrong_input_is_told():
    result = bp.compact(nn.Sequential(nn.Flatten(), nn.LayerNorm(4)).eval(), torch.zeros(2, 4))
    with pytest.raises(ValueError, match="no linear layer and no convolution"):
        bp.plot_architecture(result)
    with pytest.raises(ValueError, match="has no format"):
        bp.plot_architecture(None, path="figure.bmp")
