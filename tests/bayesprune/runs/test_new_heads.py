"""`--new-head`: the layers that start anew are found by what they do, and not by where they are declared."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn import functional

from bayesprune.runs.starting_weights import StartingWeights


class HeadFirst(nn.Module):
    """Declares its heads before the layers that run before them."""

    def __init__(self, outputs, more=None):
        super().__init__()
        self.head = nn.Linear(4, outputs)
        if more is not None:
            self.more = nn.Linear(4, more)
        self.hidden = nn.Linear(6, 4)

    def forward(self, x):
        hidden = self.hidden(x).relu()
        made = self.head(hidden)
        if hasattr(self, "more"):
            made = torch.cat([made, self.more(hidden)], dim=-1)
        return functional.log_softmax(made, dim=-1)


class RawHead(nn.Module):
    """Makes its outputs by a parameter of its own, which no layer has."""

    def __init__(self, outputs):
        super().__init__()
        self.hidden = nn.Linear(6, 4)
        self.w = nn.Parameter(torch.randn(4, outputs))

    def forward(self, x):
        return self.hidden(x).relu() @ self.w


def begun(into, trained, tmp_path, new_head=True, shape=(6,), **changed):
    """The network with the weights of another, how it began, and the notes."""
    torch.save({**trained.state_dict(), **changed}, tmp_path / "w.pth")
    before = {name: value.clone() for name, value in into.state_dict().items()}
    weights = StartingWeights(tmp_path / "w.pth", new_head)
    weights.load_into(into, shape)
    return into.state_dict(), before, weights.notes


def check(found, before, trained, fresh):
    for name, value in found.items():
        assert torch.equal(value, before[name] if name.rpartition(".")[0] in fresh else trained.state_dict()[name])


@pytest.mark.parametrize("classes", [3, 50])  # the same number, and another
def test_a_head_that_is_declared_first_starts_anew_and_the_hidden_layer_stays(tmp_path, classes):
    trained = HeadFirst(classes)
    found, before, notes = begun(HeadFirst(3), trained, tmp_path)
    check(found, before, trained, ["head"])
    assert notes[0].startswith("head began anew")


def test_all_heads_that_differ_start_anew(tmp_path):
    trained = HeadFirst(50, 20)
    found, before, notes = begun(HeadFirst(3, 2), trained, tmp_path)
    check(found, before, trained, ["head", "more"])
    assert notes[0].startswith("head and more began anew")
    trained = HeadFirst(50, 2)
    check(*begun(HeadFirst(3, 2), trained, tmp_path)[:2], trained, ["head"])


def test_it_is_recommended_where_only_outputs_differ(tmp_path):
    with pytest.raises(ValueError, match="only the last layer, head, differs, so give --new-head"):
        begun(HeadFirst(3), HeadFirst(50), tmp_path, new_head=False)
    with pytest.raises(ValueError, match="only the last layers, head and more, differ, so give --new-head"):
        begun(HeadFirst(3, 2), HeadFirst(50, 20), tmp_path, new_head=False)


@pytest.mark.parametrize("new_head", [False, True])
def test_a_last_layer_with_other_inputs_is_refused_and_not_recommended(tmp_path, new_head):
    net = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 3))
    wide = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    with pytest.raises(ValueError, match="0.weight has shape") as problem:
        begun(net, wide, tmp_path, new_head)
    assert "--new-head" not in str(problem.value)


def test_a_file_without_a_head_leaves_the_network_its_own(tmp_path):
    net, headless = HeadFirst(3), HeadFirst(3)
    torch.save({n: v for n, v in headless.state_dict().items() if "head" not in n}, tmp_path / "w.pth")
    with pytest.raises(ValueError, match="only the last layer, head, differs"):
        StartingWeights(tmp_path / "w.pth").load_into(net, (6,))
    own = net.head.weight.clone()
    StartingWeights(tmp_path / "w.pth", new_head=True).load_into(net, (6,))
    assert torch.equal(net.head.weight, own) and torch.equal(net.hidden.weight, headless.hidden.weight)


def test_where_no_layer_makes_the_outputs_it_is_refused_in_a_sentence(tmp_path):
    for net, shape in ((RawHead(3), (6,)), (HeadFirst(3), (7,)), (HeadFirst(3), None)):
        with pytest.raises(ValueError, match="which layer makes its outputs cannot be told: leave it out$"):
            begun(net, net, tmp_path, shape=shape)


def test_running_the_example_leaves_the_network_and_the_random_state_alone(tmp_path):
    net = nn.Sequential(nn.Linear(6, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 3), nn.Softmax(dim=-1))
    state = torch.random.get_rng_state()
    found, before, notes = begun(net, net, tmp_path)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert net.training and all(torch.equal(value, before[name]) for name, value in found.items())
    assert notes[0].startswith("3 began anew") and not any(module._forward_hooks for module in net.modules())


def test_a_bare_layer_is_named_by_its_parameters(tmp_path):
    with pytest.raises(ValueError, match="only the last layer, weight and bias, differs, so give --new-head"):
        begun(nn.Linear(6, 3), nn.Linear(6, 50), tmp_path, new_head=False)
    _, _, notes = begun(nn.Linear(6, 3), nn.Linear(6, 50), tmp_path)
    assert notes[0].startswith("weight and bias began anew")
    with pytest.raises(ValueError, match="weight has shape") as problem:
        begun(nn.Linear(6, 3), nn.Linear(5, 3), tmp_path, new_head=False)
    assert "--new-head" not in str(problem.value)
