"""Removing units behind closed gates, once and again: the outputs stay, and everything is where it was said to be."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from torch.func import functional_call

from bayesprune.models.unit_removal import without_units
from bayesprune.models.units.cutting import cut
from bayesprune.models.units.plans import restored, restored_tensor
from tests.oracles.gated_networks import CASES, PERCEPTRON

EVERY = pytest.mark.parametrize("name", CASES)


def random_closed(model, seed, branches=()):
    """Some gates of every set, never all (of what groups read, all but two), and the gates of these branches."""
    generator = torch.Generator().manual_seed(seed)
    closed = {}
    for site, one in model.gates.sets.items():
        if one.is_layer:
            closed[site] = torch.tensor([one.owner in branches])
            continue
        closed[site] = torch.rand(one.count, generator=generator) < 0.4
        order = torch.randperm(one.count, generator=generator)
        closed[site][order[-1:]] = True
        closed[site][order[: 2 if site == "first.gate" else 1]] = False
    return closed


def masked_outputs(model, closed, x):
    """What the network puts out while these gates are closed and all others open."""
    values = {site: (~gone).double() for site, gone in closed.items()}
    weights = {name: model.network.get_parameter(name).detach() for name in model.gates.tensors}
    with torch.no_grad():
        return functional_call(model.network, model.gates.weights(weights, values, model.network), (x,))


def difference(found, wanted):
    """Largest difference relative to the standard deviation of the outputs."""
    assert found.shape == wanted.shape and float(wanted.std()) > 1e-3
    return float((found - wanted).abs().max() / wanted.std())


def marks(model):
    """Something by which each gate is known: entries of vectors that belong to its unit; `(gates,)`."""
    tensors, found = dict(model.network.named_parameters()), []
    for one in model.gates.sets.values():
        if one.is_layer:
            found.append(tensors[f"{one.owner}.weight"].new_tensor([float(len(one.owner)) + ord(one.owner[0])]))
            continue
        part = next(
            p for p in model.gates.groups[one.owner].slices if p.role != "input" and tensors[p.tensor].ndim == 1
        )
        first = {int(unit): index for index, unit in reversed(list(enumerate(part.unit)))}
        found.append(tensors[part.tensor].detach()[[first[int(number)] for number in one.numbers]])
    return torch.cat(found)


BRANCHES = {"residual": [(), ("b_two",), ("a_two", "b_two")]}
TWICE = [(name, one, two) for name in CASES for one, two in [((), BRANCHES.get(name, [()])[-1])]]
TWICE += [("residual", ("a_two",), ()), ("residual", ("b_two",), ("a_two",))]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(("name", "first", "second"), TWICE)
def test_outputs_stay_and_everything_is_where_it_was_said_to_be(name, first, second, training):
    case = CASES[name]
    declared = case.model().train(training)
    before = copy.deepcopy(dict(declared.network.named_parameters()))
    x, model, origin = case.inputs(8), declared, torch.arange(sum(case.gates.values()))
    for seed, branches in ((1, first), (2, second)):
        closed = random_closed(model, seed, branches)
        wanted, known = masked_outputs(model, closed, x), marks(model)
        removed = without_units(model, closed)
        gone = int(torch.cat(list(closed.values())).sum())
        assert gone > 0 and removed.emptied == ()
        assert removed.model.training is training and removed.model.network.training is training
        with torch.no_grad():
            found = removed.model.network(x)
            assert difference(found, wanted) < 1e-9
            if model is declared:  # control: with all gates open
                is_open = {site: torch.zeros_like(gone) for site, gone in closed.items()}
                assert difference(masked_outputs(model, is_open, x), found) > 0.01
        assert torch.equal(marks(removed.model), known[removed.gates])
        kept = ~torch.cat(list(closed.values()))
        inside = [site for site in closed if site.startswith(tuple(f"{b[0]}_in" for b in branches))] if branches else []
        numbers = torch.arange(len(kept)).split([len(c) for c in closed.values()])
        for site, number in zip(closed, numbers, strict=True):
            kept[number] &= site not in inside  # with a branch go the units that it alone makes
        assert torch.equal(removed.gates, kept.nonzero().squeeze(1))
        if model is declared:
            assert not torch.equal(known[: len(removed.gates)], known[removed.gates])  # control
        for tensor, dims in removed.kept.items():
            if tensor in dict(removed.model.network.named_parameters()):
                sliced = model.network.get_parameter(tensor).detach()
                for dim, index in dims.items():
                    sliced = sliced.index_select(dim, index)
                assert torch.equal(removed.model.network.get_parameter(tensor).detach(), sliced)
        assert removed.model.gates.whole == declared.gates.whole
        assert removed.model.gates.declared_count == len(marks(declared)) and removed.model.declared is declared.network
        model, origin = removed.model, origin[removed.gates]
    assert torch.equal(marks(model), marks(declared)[origin])
    assert all(torch.equal(parameter, before[key]) for key, parameter in declared.network.named_parameters())

    plan = json.loads(json.dumps(model.plan))
    replayed = cut(declared.network, declared.example_input, plan, keep_mode=True)
    shapes = {key: value.shape for key, value in model.network.state_dict().items()}
    assert {key: value.shape for key, value in replayed.state_dict().items()} == shapes
    replayed.load_state_dict(model.network.state_dict())
    with torch.no_grad():
        assert torch.equal(replayed(x), model.network.train(training)(x))

    whole = restored(declared.network, model.network.state_dict(), plan)
    own, left = dict(declared.network.named_parameters()), dict(model.network.named_parameters())
    left_units = {site: origin[(origin >= start) & (origin < stop)] - start for site, start, stop in spans(declared)}
    for key, parameter in own.items():
        if key not in left:
            assert whole[key].shape == parameter.shape and not bool(whole[key].any())
            continue
        expected = parameter.detach().clone()
        for site, one in declared.gates.sets.items():
            if one.is_layer:
                continue
            for part in declared.gates.groups[one.owner].slices:
                if part.tensor == key:
                    stays = torch.isin(part.unit, one.numbers[left_units[site]]) | (part.unit < 0)
                    expected.index_fill_(part.dim, (~stays).nonzero().squeeze(1), 0.0)
        assert torch.equal(whole[key], expected), key
    key = next(key for key, entry in plan["tensors"].items() if len(entry["kept"]) == 1 and key in left)
    filled = restored_tensor(key, left[key], plan, fill=7.0)
    assert torch.equal((filled == 7.0), (whole[key] == 0.0) & (filled == 7.0)) and bool((filled == 7.0).any())


def spans(model):
    """Site, and the numbers of its first gate and after its last among all."""
    start = 0
    for site, one in model.gates.sets.items():
        yield site, start, start + one.count
        start += one.count


def test_of_a_layer_all_of_whose_units_are_closed_one_stays():
    model = PERCEPTRON.model()
    closed = {"0.gate": torch.tensor([False, True, False, False]), "2.gate": torch.ones(3, dtype=torch.bool)}
    removed = without_units(model, closed)
    assert removed.emptied == ("2",) and {s: one.count for s, one in removed.model.gates.sets.items()} == {
        "0.gate": 3,
        "2.gate": 1,
    }
    again = without_units(
        removed.model, {s: torch.ones(one.count).bool() for s, one in removed.model.gates.sets.items()}
    )
    assert again.emptied == ("0",)  # that of 2 has been said
    assert [one.count for one in again.model.gates.sets.values()] == [1, 1]


def test_of_what_a_grouped_convolution_reads_two_units_stay():
    case = CASES["convolutional"]
    model = case.model().eval()
    closed = {site: torch.zeros(count, dtype=torch.bool) for site, count in case.gates.items()}
    for number in (3, 4):  # of 4
        closed["first.gate"] = torch.arange(4) < number
        removed = without_units(model, closed)
        assert removed.model.gates.sets["first.gate"].count == 2
        assert removed.emptied == (() if number == 3 else ("first",))
        x = case.inputs()
        still = {s: torch.zeros(one.count).bool() for s, one in removed.model.gates.sets.items()}
        still["first.gate"] = closed["first.gate"][removed.gates[:2]]
        found, wanted = masked_outputs(removed.model, still, x), masked_outputs(model, closed, x)
        assert difference(found, wanted) < 1e-9
        again = without_units(removed.model, still)  # nothing more can go
        assert len(again.gates) == len(removed.gates)


@EVERY
def test_with_no_gate_closed_nothing_is_cut(name):
    model = CASES[name].model()
    removed = without_units(model, {s: torch.zeros(one.count).bool() for s, one in model.gates.sets.items()})
    assert removed.kept == {} and torch.equal(removed.gates, torch.arange(sum(CASES[name].gates.values())))
    assert {k: v.shape for k, v in removed.model.network.state_dict().items()} == {
        k: v.shape for k, v in model.network.state_dict().items()
    }


def test_a_model_without_some_units_has_all_that_it_had_and_shares_what_was_declared():
    model = PERCEPTRON.model()
    closed = {"0.gate": torch.tensor([False, True, False, False]), "2.gate": torch.zeros(3, dtype=torch.bool)}
    made = without_units(model, closed).model
    again = without_units(made, {s: torch.zeros(one.count).bool() for s, one in made.gates.sets.items()}).model
    for other in (made, again):
        assert type(other) is type(model) and set(vars(other)) == set(vars(model))
        assert (other.data_size, other.patterns) == (model.data_size, model.patterns)
        assert (other.declared_sizes, other.left_to_gates) == (model.declared_sizes, model.left_to_gates)
        assert other.likelihood is model.likelihood and other.example_input is model.example_input
        assert other.declared is model.network and other.plan is not None
        # A prior is told the size that its tensor was declared with, not the one that it has now.
        assert other.priors["2.weight"].reserved == model.priors["2.weight"].reserved
        assert other.priors["2.weight"].shape == (3, 3) != model.priors["2.weight"].shape  # the control
    assert list(made.state_dict()) == list(model.state_dict())
