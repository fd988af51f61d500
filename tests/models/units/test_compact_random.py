"""Random networks with units that are dead in many ways: compaction is exact, and takes out all that it can."""

from __future__ import annotations

import copy
import json
import warnings
from unittest import mock

import pytest
import torch
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from torch import fx, nn

from bayesprune.models.graphs.traced_graph import graph_of
from bayesprune.models.tracing.activation import Activation
from bayesprune.models.tracing.channel_trace import ChannelTrace, trace_channels
from bayesprune.models.units.channel_groups import ChannelGroups
from bayesprune.models.units.compact import compact
from bayesprune.models.units.cutting import cut
from tests.oracles.random_network import CHANNELS, SIDE, random_network

EXACT = 1e-10  # of the largest output
STEPS = st.lists(st.tuples(*[st.integers(0, 59)] * 4), min_size=3, max_size=12)
SEEDS = st.integers(0, 10**6)
QUICK = settings(max_examples=50, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
LONG = settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))


def inputs(count, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, CHANNELS, SIDE, SIDE, generator=generator, dtype=torch.float64)


def run(network, x):
    with torch.no_grad():
        return network(x)


def distance(ones, others):
    """Largest difference, relative to the largest number (at least 1)."""
    scale = max(1.0, *(float(one.abs().max()) for one in ones))
    return max(float((one - other).abs().max()) for one, other in zip(ones, others, strict=True)) / scale


def check_another_size(network, compact_network, seed):
    """The compact network takes larger maps wherever the original does without mixing examples."""
    if any(operation == "head" and how[0] == "reshape" for operation, _, how in network.program):
        return
    x = torch.randn(3, CHANNELS, SIDE + 5, SIDE + 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    try:
        expected = run(network, x)
    except RuntimeError:  # sizes are written in its code
        event("one size only")
        return
    event("any size")
    assert distance(expected, run(compact_network, x)) < EXACT


def compacted(network, x, **options):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* units are dead", category=UserWarning)
        return compact(network, x, **options)


def check_exact(steps, seed, round_to):
    network = random_network(steps, seed)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    result = compacted(network, inputs(2, seed), round_to=round_to)
    x = inputs(5, seed + 1)
    expected = run(network, x)
    assert distance(expected, run(result.network, x)) < EXACT
    check_another_size(network, result.network, seed)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    loaded = cut(network, inputs(2, seed), json.loads(json.dumps(result.plan)))
    loaded.load_state_dict(result.network.state_dict())
    assert distance(run(result.network, x), run(loaded, x)) == 0.0
    removed = sum(result.report.units_before.values()) - sum(result.report.units_after.values())
    event("something is removed" if removed else "nothing is removed")
    assert result.report.parameters_after == sum(parameter.numel() for parameter in result.network.parameters())


@QUICK
@given(STEPS, SEEDS, st.sampled_from([1, 1, 1, 2, 4]))
def test_a_compact_network_gives_the_same_outputs_and_can_be_loaded(steps, seed, round_to):
    check_exact(steps, seed, round_to)


@pytest.mark.slow
@LONG
@given(STEPS, SEEDS, st.sampled_from([1, 1, 1, 2, 4]))
def test_a_compact_network_gives_the_same_outputs_and_can_be_loaded_at_length(steps, seed, round_to):
    check_exact(steps, seed, round_to)


def check_known_values(steps, seed):
    """Where tracing says that a number does not depend on the input, the network gives that number."""
    network, found, real = random_network(steps, seed), {}, {}
    traced, interpreted = ChannelTrace.run_node, fx.Interpreter.run_node

    def noted(self, n):
        found[n.name] = traced(self, n)
        return found[n.name]

    def measured(self, n):
        result = interpreted(self, n)
        real[n.name] = result.detach().clone() if torch.is_tensor(result) else None  # it may be changed in place later
        return result

    x = inputs(2, seed)
    with mock.patch.object(ChannelTrace, "run_node", noted):
        trace_channels(network, x)
    with mock.patch.object(fx.Interpreter, "run_node", measured), torch.no_grad():
        fx.Interpreter(fx.GraphModule(network, graph_of(network, 1))).run(x)
    constants = 0
    for name, activation in found.items():
        if isinstance(activation, Activation) and real[name] is not None:
            sure = ~activation.value.isnan()
            constants += int(sure.sum())
            apart = (activation.value - real[name])[sure].abs()
            assert apart.numel() == 0 or float(apart.max()) < 1e-10 * max(1.0, float(real[name].abs().max())), name
    return constants


@QUICK
@given(STEPS, SEEDS)
def test_numbers_that_are_traced_as_constant_are_what_the_network_gives(steps, seed):
    event("some" if check_known_values(steps, seed) else "none")


@pytest.mark.slow
@LONG
@given(STEPS, SEEDS)
def test_numbers_that_are_traced_as_constant_are_what_the_network_gives_at_length(steps, seed):
    check_known_values(steps, seed)


class Slope(nn.Module):
    """In place of activation functions: no number is cut off, and none stays zero."""

    def forward(self, x):
        return 0.7 * x + 0.3


def without_saturation(network):
    """The network with everything replaced that hides differences by chance and not by zeros."""
    network = copy.deepcopy(network)
    for name, layer in list(network.layers.named_children()):
        if isinstance(layer, nn.MaxPool2d):
            setattr(network.layers, name, nn.AvgPool2d(2, 1, layer.padding))
        elif type(layer).__module__.endswith("activation"):
            setattr(network.layers, name, Slope())
    return network


def influential(network, x):
    """Channels by layer whose outputs, when changed at random, change what the network gives."""
    network = without_saturation(network)
    base = run(network, x)
    generator = torch.Generator().manual_seed(0)
    found = {}
    for name, layer in network.layers.named_children():
        width = getattr(layer, "num_features", None) or getattr(layer, "out_channels", 0)
        for channel in range(width):

            def disturb(_, __, output, channel=channel):
                output = output.clone()
                output[:, channel] += torch.randn(output[:, channel].shape, generator=generator, dtype=output.dtype)
                return output

            handle = layer.register_forward_hook(disturb)
            if distance(base, run(network, x)) > 1e-14:
                found.setdefault(f"layers.{name}", set()).add(channel)
            handle.remove()
    return found


def check_all_needed(steps, seed):
    """Every removable unit that is left matters, unless it is the last of its layer."""
    network = random_network(steps, seed)
    x = inputs(2, seed)
    result = compacted(network, x)
    if {operation for operation, _, _ in network.program} & {"pad_channels", "pad", "relu_in_place"}:
        return 0  # a unit may be needed for the constant that it is tied to, or be cut off by chance
    matters = influential(result.network, x)
    seen = 0
    for name, units in ChannelGroups(network, x).sets.items():
        if "all" in result.report.kept.get(name, ""):
            continue
        for unit in result.plan["units"][name]["kept"]:
            if not units.removable[unit]:
                continue
            seen += 1
            needed = False
            for part in units.slices:
                if part.role != "input" and part.tensor.endswith((".weight", ".running_mean")):
                    kept = result.plan["tensors"].get(part.tensor, {"kept": {}})["kept"]
                    kept = kept.get(str(part.dim), list(range(len(part.unit))))
                    channels = {kept.index(place) for place in (part.unit == unit).nonzero().flatten().tolist()}
                    needed = needed or bool(channels & matters.get(part.tensor.rsplit(".", 1)[0], set()))
            assert needed, f"unit {unit} of {name} is kept and nothing depends on it"
    return seen


@QUICK
@given(STEPS, SEEDS)
def test_what_is_left_is_needed(steps, seed):
    event("units seen" if check_all_needed(steps, seed) else "none seen")


@pytest.mark.slow
@LONG
@given(STEPS, SEEDS)
def test_what_is_left_is_needed_at_length(steps, seed):
    check_all_needed(steps, seed)


def test_random_networks_are_not_trivial():
    """Most have outputs that vary and units to remove; else the tests above would say little."""
    varied = removed = constants = needed = 0
    generator = torch.Generator().manual_seed(0)
    for seed in range(30):
        steps = torch.randint(0, 60, (9, 4), generator=generator).tolist()
        network = random_network(steps, seed)
        outputs = run(network, inputs(16, seed))
        varied += all(float(part.std(dim=0).mean()) > 0.02 * float(part.abs().max()) for part in outputs)
        report = compacted(network, inputs(2, seed)).report
        removed += report.units_before != report.units_after
        constants += check_known_values(steps, seed) > 0
        needed += check_all_needed(steps, seed) > 3
    assert min(varied, removed, constants) > 14
    assert needed > 5


def test_a_wrong_removal_is_seen():
    """The negative control: one more unit zeroed is far outside the tolerance in most networks."""
    generator = torch.Generator().manual_seed(1)
    visible = 0
    for seed in range(20):
        network = random_network(torch.randint(0, 60, (6, 4), generator=generator).tolist(), seed)
        x = inputs(5, seed)
        other = copy.deepcopy(network)
        layer = next(iter(other.layers.values()))
        live = (layer.weight != 0).flatten(1).any(dim=1).nonzero()
        if len(live):
            with torch.no_grad():
                layer.weight[live[0]] = 0.0
        visible += distance(run(network, x), run(other, x)) > 1e-3
    assert visible > 8
