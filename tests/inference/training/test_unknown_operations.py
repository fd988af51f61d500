"""What is said of an operation that is not understood fits the function that was called."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.commands.compacting import compacted
from bayesprune.inference.sparsity_path.point import _compacted

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()
KEEP = 'or pass unknown="keep" to keep every unit that it touches'


class Sorting(nn.Module):
    """Sorts what its hidden layer gives, which mixes channels."""

    def __init__(self):
        super().__init__()
        self.a, self.b = nn.Linear(4, 6), nn.Linear(6, 2)

    def forward(self, x):
        return self.b(self.a(x).sort(1)[0])


def pruned():
    torch.manual_seed(0)
    model = bp.BayesianNetwork(Sorting(), {"*.weight": bp.Gaussian()}, data_size=24)
    return bp.prune(bp.fit(model, (X, Y), steps=2, progress=False), sparsity=0.5)


def sentence(call):
    with pytest.raises(ValueError, match="channels cannot be followed through node 'sort'") as refusal:
        call()
    assert str(refusal.value).count(": write it with layers that are understood, or ") == 1
    return str(refusal.value)


def test_who_has_the_argument_is_told_of_it_and_it_helps():
    result = pruned()
    calls = [
        lambda **how: result.compact(X[:2], **how),
        lambda **how: bp.compact(result.network, X[:2], **how),
        lambda **how: bp.ChannelGroups(result.network, X[:2], **how),
    ]
    for call in calls:
        assert sentence(call).endswith(KEEP)
        assert call(unknown="keep") is not None
    assert result.compact(unknown="keep").report.units_after["a"] == 6


def test_gates_of_units_are_told_to_be_left_out():
    words = sentence(lambda: bp.BayesianNetwork(Sorting(), {}, data_size=24, gates=bp.UnitGates(), example_input=X))
    assert "unknown" not in words and words.endswith("leave out gates= and give priors= on its weights")


def test_a_plot_of_the_architecture_is_told_to_take_a_compact_network():
    result = pruned()
    assert sentence(lambda: bp.plot_architecture(result)).endswith('pass result.compact(unknown="keep")')
    bp.plot_architecture(result.compact(unknown="keep"))


def test_the_command_is_told_of_the_function_in_python():
    words = sentence(lambda: compacted(pruned(), X, timed=False, round_to=None))
    assert words.endswith('compact it in Python, bp.compact(network, x, unknown="keep")')


def test_a_note_of_a_path_says_how_to_compact_one_of_its_networks():
    notes = {}
    assert _compacted(pruned(), X, notes) is None
    (note,) = notes
    assert note.startswith("compact networks could not be made: channels cannot be followed")
    assert note.endswith('compact one of them with path.prune(value=...).compact(unknown="keep")')
