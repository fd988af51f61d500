"""Odd networks: whatever tracing believes of them, what comes out is exact everywhere, or refused in a sentence."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch
from torch import fx
from torch.func import functional_call

import bayesprune as bp
from bayesprune.models.graphs import example_run, traced_graph
from bayesprune.models.tracing import channel_trace, layer_traces
from bayesprune.models.tracing.channel_counts import ChannelCounts
from bayesprune.models.tracing.channel_trace import ChannelTrace
from bayesprune.models.unit_removal import without_units
from bayesprune.models.units.compact import compact
from bayesprune.models.units.wider_check import WiderCheck
from tests.oracles.innocent_networks import INNOCENT
from tests.oracles.odd_networks import ODD, combinations
from tests.oracles.units_reference import Net

EXACT = 1e-9  # of the largest output, and of 1
EVERY = pytest.mark.parametrize("name", list(ODD))
SEEN = "outputs would differ by .* batch of|would not run|outputs would be of shape"
WITHOUT_GRADIENTS_ONLY = {"subtracts_from_a_chunk"}
WITH_KEEP_ONLY = {name for name, case in ODD.items() if case.options}


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


@pytest.fixture
def blind(monkeypatch):
    """A trace that takes torch.fx's word for everything, as it was before these networks were met."""
    monkeypatch.setattr(channel_trace, "refuse_another_graph", lambda *_: set())
    monkeypatch.setattr(ChannelCounts, "follow", lambda *_: None)
    monkeypatch.setattr(traced_graph, "InPlaceTracer", fx.Tracer)
    monkeypatch.setattr(example_run, "_places", lambda found: [id(part) for part in example_run.tensors_of(found)])
    monkeypatch.setattr(layer_traces, "activations", lambda _: [])
    monkeypatch.setattr(ChannelTrace, "_read", lambda _: ())


@pytest.fixture
def narrow(monkeypatch):
    """A comparison of small inputs only, in batches of the example's size."""
    monkeypatch.setattr(WiderCheck, "compared", lambda _: ((), {}))


def run(network, x, grad):
    """What a network gives that has run never before."""
    with torch.set_grad_enabled(grad):
        return copy.deepcopy(network)(x.clone()).detach().double()


def apart(one, two):
    """Largest difference, relative to the largest number and to 1."""
    if one.shape != two.shape:
        return float("inf")
    finite = one.isfinite()
    if not torch.equal(one[~finite].nan_to_num(), two[~finite].nan_to_num()):
        return float("inf")
    if not bool(finite.any()):
        return 0.0
    return float((one - two)[finite].abs().max()) / max(1.0, float(one[finite].abs().max()))


def distance(network, other, example, run_one=run, run_other=run):
    """The largest difference at any scale and batch size, and how many were compared."""
    found, compared = 0.0, 0
    for _, x, grad in combinations(example):
        try:
            one = run_one(network, x, grad)
        except (RuntimeError, IndexError):  # a batch that the network does not take
            continue
        found = max(found, apart(one, run_other(other, x, grad)))
        compared += 1
    return found, compared


def compacted(case):
    network = case.make().eval()
    with case.under(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* units are dead", category=UserWarning)
        return network, compact(network, case.example(), **case.options)


def widths(network, names):
    return {name: len(network.get_submodule(name).weight) for name in names}


def test_there_are_odd_networks_of_every_kind():
    kinds = ("asks_whether", "slice", "_data_", "number_of", "row", "picks")
    assert len(ODD) > 30
    assert all(sum(kind in name for name in ODD) >= 2 for kind in kinds)


@EVERY
def test_an_odd_network_is_compacted_exactly_or_refused(name):
    case = ODD[name]
    if isinstance(case.expected, str):
        with pytest.raises(ValueError, match=case.expected):
            compacted(case)
        return
    network, result = compacted(case)
    found, compared = distance(network, result.network, case.example())
    assert compared == (12 if name in WITHOUT_GRADIENTS_ONLY else 24)
    assert found < EXACT
    assert widths(result.network, case.expected) == case.expected


@EVERY
def test_the_comparison_alone_sees_it_too(name, blind):
    """Where tracing is fooled, the networks themselves are not."""
    with pytest.raises(ValueError, match=SEEN):
        compacted(ODD[name])


@EVERY
def test_it_would_be_wrong_without_a_word(name, blind, narrow):
    """The negative control: every one of them is a trap."""
    network, result = compacted(ODD[name])
    assert result.report.max_output_difference < 1e-14
    assert distance(network, result.network, ODD[name].example())[0] > 1e-3


@pytest.mark.parametrize("name", list(INNOCENT))
def test_an_innocent_network_is_compacted(name):
    case = INNOCENT[name]
    network, result = compacted(case)
    assert widths(result.network, case.expected) == case.expected
    found, compared = distance(network, result.network, case.example())
    assert compared >= 6
    assert found < (1e-2 if "precision" in name else EXACT)


# ----------------------------------------------------------------------------------------- removal while a fit runs


def gated(name):
    """A model with gates on all units that may be removed; the first of each set but the last are closed."""
    case = ODD[name]
    gates = bp.UnitGates(kappa=2e-4)
    with case.under():
        model = bp.BayesianNetwork(case.make(), {}, data_size=50, gates=gates, example_input=case.example()).eval()
    closed = {}
    for site, one in model.gates.sets.items():
        closed[site] = torch.arange(one.count) < one.count // 2
    return case, model, closed


def with_gates(model, values):
    """Runs a model's network while its gates have these values, `(gates,)`."""
    parts = values.split([one.count for one in model.gates.sets.values()])
    by_site = dict(zip(model.gates.sets, parts, strict=True))

    def masked(network, x, grad):
        weights = {name: network.get_parameter(name).detach() for name in model.gates.tensors}
        with torch.set_grad_enabled(grad):
            once = copy.deepcopy(network)
            return functional_call(once, model.gates.weights(weights, by_site, once), (x.clone(),)).detach()

    return masked


def distance_of_removal(name):
    """How far a model without closed units is from one with gates of zero, at all scales."""
    case, model, closed = gated(name)
    values = torch.cat([(~gone).double() for gone in closed.values()])
    removed = without_units(model, closed)
    after = with_gates(removed.model, values[removed.gates])  # a last unit of a layer stays, behind its closed gate
    return distance(model.network, removed.model.network, case.example(), with_gates(model, values), after)[0]


@EVERY
def test_removal_in_a_fit_is_exact_or_refused_when_the_gates_are_declared(name):
    expected = ODD[name].expected
    if name in WITH_KEEP_ONLY or isinstance(expected, str):
        words = "cannot be followed through node" if name in WITH_KEEP_ONLY else expected
        with pytest.raises(ValueError, match=words):
            gated(name)
        return
    try:
        assert distance_of_removal(name) < EXACT
    except ValueError as refusal:
        assert "no unit of the network may be removed" in str(refusal)


def test_removal_in_a_fit_would_be_wrong_without_what_tracing_sees(blind):
    """The negative control, for those that removal in a fit can be fooled by at all."""
    wrong = 0
    for name in ODD:
        if name not in WITH_KEEP_ONLY:
            try:
                wrong += distance_of_removal(name) > 1e-3
            except (RuntimeError, ValueError):  # sizes that do not fit show themselves
                continue
    assert wrong >= 13


# ------------------------------------------------------------------------------------------- what the report says


def test_the_report_says_what_was_compared():
    report = compacted(INNOCENT["counts_its_calls"])[1].report
    assert report.not_compared == {}
    assert len(report.compared) == 9
    for part in ("batch of 1", "batch of 2", "batch of 5", "sd 1,", "sd 50,", "sd 255,"):
        modes = {name.rsplit(", ")[-1] for name in report.compared if part in name}
        assert modes == {"with gradients", "without gradients"}
    assert "not compared" not in str(report)


def test_the_report_says_what_was_not_compared():
    report = compacted(INNOCENT["takes_one_input_only"])[1].report
    assert list(report.not_compared) == ["batch of 2", "batch of 5"]
    assert len(report.compared) == 3
    assert "not compared: batch of 2 (" in str(report)
    report = compacted(INNOCENT["has_its_batch_written_in_it"])[1].report
    assert list(report.not_compared) == ["batch of 1", "batch of 2", "batch of 5"]
    assert all(name.startswith("batch of 3, sd ") for name in report.compared) and len(report.compared) == 3
    report = compacted(INNOCENT["looks_up_indices"])[1].report
    assert all("sd 1," in name for name in report.compared) and report.not_compared == {}


def test_the_report_says_what_was_compared_without_gradients_only():
    report = compacted(ODD["subtracts_from_a_chunk"])[1].report
    assert len(report.compared) == 9 and all(name.endswith("without gradients") for name in report.compared)
    assert len(report.not_compared) == 4 and all(name.endswith(", with gradients") for name in report.not_compared)
    assert all("modified inplace" in reason for reason in report.not_compared.values())


def test_a_size_at_which_a_network_mixes_examples_is_not_compared():
    """Outputs that are not as many as the inputs belong to no batch; with the example they do."""
    network = Net(lambda s, x: s.b(s.a(x).relu()).view(-1, 6), a=torch.nn.Linear(4, 6), b=torch.nn.Linear(6, 3))
    with torch.no_grad():
        network.b.weight[:, [1, 2]] = 0.0
    report = compact(network.eval(), torch.zeros(2, 4)).report
    assert report.units_after["a"] == 4
    assert "batch of 1" in report.not_compared and "batch of 5" in report.not_compared
    assert len(report.compared) == 3
