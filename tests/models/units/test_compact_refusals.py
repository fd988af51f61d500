"""What compaction refuses, in one sentence that names the place."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.utils import parametrizations, prune

from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.units.channel_groups import ChannelGroups
from bayesprune.models.units.compact import compact
from bayesprune.models.units.residual_branches import residual_branches
from tests.oracles.units_reference import Net

V = torch.zeros(2, 4)
X = torch.zeros(2, 3, 8, 8)


def mlp():
    network = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3)).double()
    with torch.no_grad():
        network[0].weight[[1, 2]] = 0.0
        network[0].bias[[1, 2]] = 0.0
    return network


def test_frozen_parameters_are_cut_and_stay_frozen():
    """Frozen means not trained; removal is no training."""
    network = mlp()
    network[2].weight.requires_grad_(False)
    made = compact(network, V).network
    assert made[2].weight.shape == (5, 4) and not made[2].weight.requires_grad
    assert made[2].bias.requires_grad and made[0].weight.requires_grad  # control


@pytest.mark.parametrize("bias", [True, False])
def test_constants_are_moved_into_a_frozen_reader_which_stays_frozen(bias):
    network = mlp()
    if not bias:
        network[2].bias = None
    network[2].requires_grad_(False)
    with torch.no_grad():
        network[0].bias[1] = 0.5
    made = compact(network, V).network
    x = torch.randn(9, 4, dtype=torch.float64)
    assert torch.allclose(made(x), network(x), rtol=0, atol=1e-12)
    assert made[2].bias.abs().sum() > 0 and not made[2].bias.requires_grad
    assert made[0].bias.requires_grad  # control


def test_tied_weights_are_refused():
    network = Net(lambda s, x: s.b(s.a(x)), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    network.b.weight = network.a.weight
    with pytest.raises(ValueError, match=r"a.weight and b.weight are one tied parameter"):
        compact(network, V)


def test_control_flow_that_depends_on_data_is_refused():
    network = Net(lambda s, x: s.a(x) if x.sum() > 0 else s.a(-x), a=nn.Linear(4, 2))
    with pytest.raises(ValueError, match="cannot be traced, because its forward depends on its data"):
        compact(network, V)


def test_a_forward_that_breaks_on_a_proxy_is_refused():
    zeros = torch.zeros  # by a name of its own, which the trace does not know
    network = Net(lambda s, x: s.a(zeros(x.shape[0], 4) + x), a=nn.Linear(4, 2))
    with pytest.raises(ValueError, match=r"cannot be traced by torch.fx \(TypeError: zeros.*x\.new_zeros\(\.\.\.\)"):
        compact(network, V)


@pytest.mark.parametrize(
    ("layer", "words"),
    [
        (nn.MultiheadAttention(4, 2), "node 'layer'.*MultiheadAttention 'layer'"),
        (nn.Bilinear(4, 4, 4), "node 'layer'.*Bilinear 'layer'"),
    ],
)
def test_an_unknown_layer_is_refused_by_the_name_of_its_node(layer, words):
    def forward(s, x):
        h = s.a(x)
        return s.b(s.layer(h, h, h)[0] if isinstance(layer, nn.MultiheadAttention) else s.layer(h, h))

    network = Net(forward, a=nn.Linear(4, 4), layer=layer, b=nn.Linear(4, 2))
    with pytest.raises(ValueError, match=words):
        compact(network, V)
    assert compact(network, V, unknown="keep").report.units_after["a"] == 4


@pytest.mark.parametrize(
    "function", [lambda h: h.sort(1)[0], lambda h: torch.where(h > 0, h, 0 * h), lambda h: h @ h.t()]
)
def test_an_unknown_function_is_refused_by_the_name_of_its_node(function):
    network = Net(lambda s, x: s.b(function(s.a(x))), a=nn.Linear(4, 2), b=nn.LazyLinear(2))
    network(V)
    with pytest.raises(ValueError, match=r"channels cannot be followed through node '(sort|gt|matmul)'"):
        compact(network, V)


def weight_norm(layer):
    return parametrizations.weight_norm(layer)


def hooked(layer):
    layer.register_forward_hook(lambda module, args, output: 2 * output)
    return layer


def hooked_before(layer):
    layer.register_forward_pre_hook(lambda module, args: (2 * args[0],))
    return layer


def patched(layer):
    layer.forward = lambda x: F.linear(x, layer.weight, layer.bias) + 1
    return layer


def stubborn(layer):
    layer.train(True)
    layer.train = lambda mode=True: layer
    return layer


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (weight_norm, "with a parametrization"),
        (hooked, "with forward hooks"),
        (hooked_before, "with forward hooks"),
        (patched, "with another forward"),
        (stubborn, "that stays in training mode"),
    ],
)
def test_a_layer_that_does_something_else_than_its_class_is_refused(change, words):
    network = mlp()
    network[2] = change(network[2])
    with pytest.raises(ValueError, match=f"node '_2' .* '2' {words}"):
        compact(network, V)


def test_masks_of_torch_are_refused_until_they_are_made_permanent():
    network = mlp()
    prune.random_unstructured(network[2], "weight", 0.5)
    with pytest.raises(ValueError, match="cannot be copied, .* make them its own"):
        compact(network, V)
    with torch.no_grad():
        network(V.double())  # the hook then leaves a tensor without a gradient
    with pytest.raises(ValueError, match="with forward hooks"):
        compact(network, V)
    prune.remove(network[2], "weight")
    prune.ln_structured(network[2], "weight", 0.5, n=2, dim=1)
    prune.remove(network[2], "weight")
    assert compact(network, V).report.units_after["0"] <= 3


def test_hooks_of_the_whole_network_are_refused_and_those_of_blocks_are_followed():
    network = mlp()
    network.register_forward_hook(lambda module, args, output: 2 * output)
    with pytest.raises(ValueError, match="the network has forward hooks"):
        compact(network, V)
    network = nn.Sequential(mlp(), nn.Linear(3, 2).double())
    network[0].register_forward_hook(lambda module, args, output: output + 3.0)
    result = compact(network, V)
    assert result.report.units_after["0.0"] == 4
    x = torch.randn(5, 4, dtype=torch.float64)
    with torch.no_grad():
        assert float((result.network(x) - network(x)).abs().max()) < 1e-12


def test_a_subclass_of_a_layer_is_not_taken_for_the_layer():
    class Scaled(nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    network = mlp()
    network[2] = Scaled(6, 5).double()
    with pytest.raises(ValueError, match=r"node 'linear' \(function linear\)"):
        compact(network, V)


def test_an_example_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"does not take an example input of shape \(2, 5\)"):
        compact(mlp(), torch.zeros(2, 5))
    with pytest.raises(ValueError, match="the network takes 1 inputs, but the example has 2"):
        compact(mlp(), (V, V))


def test_input_without_a_batch_is_refused_for_maps_and_works_for_vectors():
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.Conv2d(4, 2, 3))
    with pytest.raises(ValueError, match="convolution '0' of something without a batch"):
        compact(network, torch.zeros(3, 8, 8))
    network = Net(lambda s, x: s.b(s.pool(s.a(x))), a=nn.Identity(), pool=nn.MaxPool2d(2), b=nn.Identity())
    with pytest.raises(ValueError, match="pooling with indices, or of something without a batch"):
        compact(network, torch.zeros(3, 8, 8))
    assert compact(mlp(), torch.zeros(4)).report.units_after["0"] == 4


def test_outputs_that_say_nothing_are_refused():
    network = Net(lambda s, x: torch.log(-torch.exp(s.a(x))), a=nn.Linear(4, 2))
    with pytest.raises(ValueError, match="outputs are not finite .* pass a real input as the example"):
        compact(network, V)
    network = Net(lambda s, x: x.shape[0])
    with pytest.raises(ValueError, match="the network gives no tensors"):
        compact(network, V)


def test_outputs_that_are_not_finite_here_and_there_are_compared_all_the_same():
    network = Net(lambda s, x: torch.log(s.b(s.a(x).relu())), a=nn.Linear(4, 6).double(), b=nn.Linear(6, 20).double())
    with torch.no_grad():
        network.a.weight[[1, 2]] = 0.0
        network.a.bias[[1, 2]] = 0.0
    x = torch.randn(50, 4, dtype=torch.float64)
    with torch.no_grad():
        outputs = network(x)
    assert outputs.isnan().any() and outputs.isfinite().any()
    result = compact(network, x)
    assert result.report.units_after["a"] == 4
    with torch.no_grad():
        assert torch.allclose(result.network(x), outputs, rtol=0, atol=1e-12, equal_nan=True)


def gated(network, example):
    return NetworkGates(UnitGates(kappa=2e-4), network, example, 10)


@pytest.mark.parametrize("word", ["class", "None", "lambda"])
def test_a_module_named_by_a_word_of_python_is_refused_by_its_name(word):
    """torch.fx writes `self.class(x)`, and Python's own SyntaxError would be all that is said."""
    network = nn.Sequential()
    network.add_module(word, nn.Linear(4, 6))
    network.add_module("match", nn.Linear(6, 3))  # a word of Python in some places only
    sentence = f"'{word}' is used by the network, but '{word}' is a word of Python.*give it another name"
    for removal in (compact, ChannelGroups, residual_branches, gated):
        with pytest.raises(ValueError, match=sentence):
            removal(network, V)
    named = nn.Sequential(OrderedDict(classes=network[0], match=network[1]))
    assert compact(named, V).report.units_after == {"classes": 6, "match": 3}
