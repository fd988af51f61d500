"""Channel groups of small networks, each slice written out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.models.units.channel_groups import ChannelGroups
from tests.oracles.units_reference import Net


def conv(a, b, kernel=3, **options):
    return nn.Conv2d(a, b, kernel, **options)


def described(network, example, **options):
    """By set: the slices as `(tensor, dim, role): [unit of each index]`."""
    sets = ChannelGroups(network, example, **options).sets
    return {
        name: {(part.tensor, part.dim, part.role): part.unit.tolist() for part in units.slices}
        for name, units in sets.items()
    }


def refused(network, example, **options):
    """By set: which units stay, and why."""
    sets = ChannelGroups(network, example, **options).sets
    return {name: ((~units.removable).nonzero().flatten().tolist(), units.refused) for name, units in sets.items()}


def linear_slices(name, units, bias=True):
    found = {(f"{name}.weight", 0, "output"): units}
    return found | ({(f"{name}.bias", 0, "output"): units} if bias else {})


def bn_slices(name, units):
    return {(f"{name}.{key}", 0, "pass"): units for key in ("weight", "bias", "running_mean", "running_var")}


X = torch.zeros(2, 3, 8, 8)
V = torch.zeros(2, 4)
OUT = "it is an output of the network"


def test_an_mlp_has_rows_and_columns():
    network = Net(
        lambda s, x: s.c(torch.relu(s.b(torch.relu(s.a(x))))), a=nn.Linear(4, 3), b=nn.Linear(3, 2), c=nn.Linear(2, 2)
    )
    found = described(network, V)
    assert found == {
        "a": linear_slices("a", [0, 1, 2]) | {("b.weight", 1, "input"): [0, 1, 2]},
        "b": linear_slices("b", [0, 1]) | {("c.weight", 1, "input"): [0, 1]},
        "c": linear_slices("c", [0, 1]),
    }
    assert refused(network, V) == {"a": ([], None), "b": ([], None), "c": ([0, 1], OUT)}


def test_flatten_gives_a_channel_one_column_for_each_position():
    network = nn.Sequential(conv(3, 2), nn.BatchNorm2d(2), nn.ReLU(), nn.MaxPool2d(3), nn.Flatten(), nn.Linear(8, 2))
    assert described(network, X) == {
        "0": linear_slices("0", [0, 1]) | bn_slices("1", [0, 1]) | {("5.weight", 1, "input"): [0] * 4 + [1] * 4},
        "5": linear_slices("5", [0, 1]),
    }


def test_a_depthwise_filter_belongs_to_the_channel_that_it_reads():
    network = nn.Sequential(conv(3, 2), conv(2, 4, groups=2), conv(4, 1))
    assert described(network, X)["0"] == (
        linear_slices("0", [0, 1]) | linear_slices("1", [0, 0, 1, 1]) | {("2.weight", 1, "input"): [0, 0, 1, 1]}
    )


def test_a_grouped_convolution_ties_the_channels_of_one_position():
    network = nn.Sequential(conv(3, 4), conv(4, 6, groups=2), conv(6, 1))
    found = described(network, X)
    assert found["0"] == linear_slices("0", [0, 1, 0, 1]) | {("1.weight", 1, "input"): [0, 1]}
    assert found["1"] == linear_slices("1", [0, 1, 2, 0, 1, 2]) | {("2.weight", 1, "input"): [0, 1, 2, 0, 1, 2]}


def test_a_residual_sum_ties_both_sides():
    def forward(s, x):
        h = s.a(x)
        h = h + s.b(F.relu(h))
        h += s.c(h)
        return s.d(h)

    network = Net(forward, a=conv(3, 2), b=conv(2, 2, padding=1), c=conv(2, 2, 1), d=conv(2, 1))
    found = described(network, X)
    assert found["a"] == {
        **linear_slices("a", [0, 1]),
        ("b.weight", 1, "input"): [0, 1],
        **linear_slices("b", [0, 1]),
        ("c.weight", 1, "input"): [0, 1],
        **linear_slices("c", [0, 1]),
        ("d.weight", 1, "input"): [0, 1],
    }
    assert list(found) == ["a", "d"]
    units = ChannelGroups(network, X)["c"]
    assert units.layers == ("a", "b", "c") and units.count == 2


def test_a_sum_with_the_input_keeps_the_units_apart_and_in_place():
    network = Net(lambda s, x: s.b(x + s.a(x)), a=conv(3, 3, padding=1), b=conv(3, 1))
    assert refused(network, X)["a"] == ([0, 1, 2], "it is an input of the network")


def test_concatenated_channels_stay_units_of_their_makers():
    network = Net(lambda s, x: s.c(torch.cat([s.a(x), s.b(x), s.a(x)], 1)), a=conv(3, 2), b=conv(3, 1), c=conv(5, 1))
    found = described(network, X)
    assert found["a"] == linear_slices("a", [0, 1]) | {("c.weight", 1, "input"): [0, 1, -1, 0, 1]}
    assert found["b"] == linear_slices("b", [0]) | {("c.weight", 1, "input"): [-1, -1, 0, -1, -1]}


@pytest.mark.parametrize(
    "parts",
    [
        lambda h: h.chunk(2, 1),
        lambda h: torch.split(h, 2, dim=1),
        lambda h: h.split([2, 1], 1),
        lambda h: (h[:, :2], h[:, 2:]),
        lambda h: (h[:, 0:-1], h[:, -1:, ...]),
    ],
)
def test_parts_of_channels_are_followed(parts):
    def forward(s, x):
        first, second = parts(s.a(x))
        return s.b(first) + s.c(second)

    network = Net(forward, a=conv(3, 3), b=conv(2, 1), c=conv(1, 1))
    found = described(network, X)
    assert found["a"] == {
        **linear_slices("a", [0, 1, 2]),
        ("b.weight", 1, "input"): [0, 1],
        ("c.weight", 1, "input"): [2],
    }


def test_squeeze_and_excitation_ties_the_scale_to_what_it_scales():
    def forward(s, x):
        h = F.relu(s.a(x))
        scale = torch.sigmoid(s.up(F.relu(s.down(h.mean((2, 3), keepdim=True)))))
        return s.b(h * scale)

    network = Net(forward, a=conv(3, 2), down=conv(2, 3, 1), up=conv(3, 2, 1), b=conv(2, 1))
    found = described(network, X)
    assert found["a"] == {
        **linear_slices("a", [0, 1]),
        ("down.weight", 1, "input"): [0, 1],
        **linear_slices("up", [0, 1]),
        ("b.weight", 1, "input"): [0, 1],
    }
    assert found["down"] == linear_slices("down", [0, 1, 2]) | {("up.weight", 1, "input"): [0, 1, 2]}


def test_one_map_that_weighs_all_channels_stays_and_ties_nothing():
    network = Net(lambda s, x: s.b(s.a(x) * torch.sigmoid(s.m(x))), a=conv(3, 2), m=conv(3, 1), b=conv(2, 1))
    found = refused(network, X)
    assert found["a"] == ([], None)
    assert found["m"] == ([0], "it is broadcast over channels")


@pytest.mark.parametrize("way", ["module", "function", "view"])
def test_a_channel_shuffle_ties_the_channels_of_one_place_in_each_group(way):
    def by_view(s, h):
        n, c, height, width = h.shape
        return h.view(n, 2, c // 2, height, width).transpose(1, 2).contiguous().view(n, -1, height, width)

    ways = {
        "module": lambda s, h: s.shuffle(h),
        "function": lambda s, h: F.channel_shuffle(h, 2),
        "view": by_view,
    }
    network = Net(lambda s, x: s.b(ways[way](s, s.a(x))), a=conv(3, 6), b=conv(6, 1), shuffle=nn.ChannelShuffle(2))
    found = described(network, X)["a"]
    assert found == linear_slices("a", [0, 1, 2, 0, 1, 2]) | {("b.weight", 1, "input"): [0, 0, 1, 1, 2, 2]}


def test_a_raw_gate_belongs_to_the_channels_that_it_scales():
    network = Net(lambda s, x: s.b(s.a(x) * s.gate), a=conv(3, 2), b=conv(2, 1), gate=nn.Parameter(torch.ones(2, 1, 1)))
    found = described(network, X)["a"]
    assert found[("gate", 0, "pass")] == [0, 1]
    network = Net(lambda s, x: s.b(s.a(x) * s.gate), a=conv(3, 2), b=conv(2, 1), gate=nn.Parameter(torch.ones(1)))
    assert ("gate", 0, "pass") not in described(network, X)["a"]


def test_prelu_has_a_slope_for_each_channel_or_one_for_all():
    for slopes, expected in ((2, {("1.weight", 0, "pass"): [0, 1]}), (1, {})):
        network = nn.Sequential(conv(3, 2), nn.PReLU(slopes), conv(2, 1))
        wanted = linear_slices("0", [0, 1]) | expected | {("2.weight", 1, "input"): [0, 1]}
        assert described(network, X)["0"] == wanted


S = torch.zeros(2, 5, 3)  # (batch, time, features)
GATES = {"RNN": 1, "GRU": 3, "LSTM": 4}


def recurrent_slices(name, kind, end=""):
    rows = [0, 1] * GATES[kind]
    found = {
        (f"{name}.{tensor}_{which}{end}", 0, "output"): rows for tensor in ("weight", "bias") for which in ("ih", "hh")
    }
    return found | {(f"{name}.weight_hh{end}", 1, "input"): [0, 1]}


@pytest.mark.parametrize("kind", list(GATES))
@pytest.mark.parametrize("start", ["none", "zeros"])
def test_a_cell_that_is_called_for_each_step_has_one_row_a_gate_and_a_column_for_each_unit(kind, start):
    def forward(s, x):
        state = None if start == "none" else x.new_zeros(x.shape[0], 2)
        if kind == "LSTM" and state is not None:
            state = (state, x.new_zeros((x.shape[0], 2)))
        for step in range(5):
            state = s.cell(s.a(x[:, step]), state)
        return s.b(state[0] if kind == "LSTM" else state)

    network = Net(forward, a=nn.Linear(3, 3), cell=getattr(nn, f"{kind}Cell")(3, 2), b=nn.Linear(2, 1))
    found = described(network, S)
    assert found["cell"] == recurrent_slices("cell", kind) | {("b.weight", 1, "input"): [0, 1]}
    assert found["a"] == linear_slices("a", [0, 1, 2]) | {("cell.weight_ih", 1, "input"): [0, 1, 2]}


@pytest.mark.parametrize("kind", list(GATES))
def test_a_recurrent_layer_is_a_cell(kind):
    network = Net(lambda s, x: s.b(s.r(x)[0][:, -1]), r=getattr(nn, kind)(3, 2, batch_first=True), b=nn.Linear(2, 1))
    assert described(network, S)["r"] == recurrent_slices("r", kind, "_l0") | {("b.weight", 1, "input"): [0, 1]}


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True}, {"proj_size": 1}])
def test_recurrent_layers_of_several_parts_are_refused(options):
    network = Net(lambda s, x: s.b(s.r(x)[0]), r=nn.LSTM(3, 2, **options), b=nn.LazyLinear(1))
    network(S)
    with pytest.raises(ValueError, match=r"node 'r' \(LSTM 'r' with several levels"):
        ChannelGroups(network, S)


def test_an_embedding_makes_a_unit_of_each_column():
    network = nn.Sequential(nn.Embedding(7, 2), nn.Linear(2, 1))
    found = described(network, torch.zeros(2, 5, dtype=torch.int64))
    assert found["0"] == {("0.weight", 1, "output"): [0, 1], ("1.weight", 1, "input"): [0, 1]}


def test_a_transposed_convolution_has_its_inputs_first():
    network = nn.Sequential(conv(3, 2), nn.ConvTranspose2d(2, 3, 2), conv(3, 1))
    found = described(network, X)
    assert found["0"] == linear_slices("0", [0, 1]) | {("1.weight", 0, "input"): [0, 1]}
    own = {("1.weight", 1, "output"): [0, 1, 2], ("1.bias", 0, "output"): [0, 1, 2]}
    assert found["1"] == own | {("2.weight", 1, "input"): [0, 1, 2]}


def test_a_pixel_shuffle_ties_the_channels_of_one_map():
    network = nn.Sequential(conv(3, 8), nn.PixelShuffle(2), conv(2, 1))
    found = described(network, X)["0"]
    assert found == linear_slices("0", [0] * 4 + [1] * 4) | {("2.weight", 1, "input"): [0, 1]}


@pytest.mark.parametrize(
    "view",
    [
        lambda h: h.view(2, 72),
        lambda h: h.reshape(-1, 72),
        lambda h: torch.reshape(h, shape=(2, 72)),
        lambda h: h.view((2, 72)),
        lambda h: h.view(h.size(0), -1),
        lambda h: torch.flatten(h, 1),
    ],
)
def test_a_view_is_followed_whether_its_sizes_are_written_or_computed(view):
    network = Net(lambda s, x: s.b(view(s.a(x))), a=conv(3, 2), b=nn.Linear(72, 1))
    assert described(network, X)["a"][("b.weight", 1, "input")] == [0] * 36 + [1] * 36


def test_the_padded_shortcut_of_cifar_resnets_ties_the_channels_in_the_middle():
    def forward(s, x):
        h = s.a(x)
        return s.c(F.pad(h[:, :, ::2, ::2], (0, 0, 0, 0, 1, 1), "constant", 0) + s.b(h))

    network = Net(forward, a=conv(3, 2), b=conv(2, 4, stride=2, padding=1), c=conv(4, 1))
    assert described(network, X)["a"] == {
        **linear_slices("a", [0, 1]),
        ("b.weight", 1, "input"): [0, 1],
        **linear_slices("b", [2, 0, 1, 3]),
        ("c.weight", 1, "input"): [2, 0, 1, 3],
    }


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (nn.LayerNorm([2, 6, 6]), "LayerNorm 'norm' normalises across channels"),
        (nn.GroupNorm(1, 2), "GroupNorm 'norm' normalises across channels"),
        (nn.LocalResponseNorm(2), "LocalResponseNorm 'norm' normalises across channels"),
        (nn.Softmax(1), "node 'norm' mixes channels"),
    ],
)
def test_normalisation_across_channels_keeps_the_units_and_says_why(layer, reason):
    network = Net(lambda s, x: s.c(s.b(s.norm(s.a(x)))), a=conv(3, 2), norm=layer, b=conv(2, 3), c=conv(3, 1))
    found = refused(network, X)
    assert found["a"][0] == [0, 1] and found["a"][1].startswith(reason)
    assert found["b"] == ([], None)


def test_layer_norm_by_function_keeps_them_too():
    network = Net(lambda s, x: s.b(F.layer_norm(s.a(x), (3,))), a=nn.Linear(4, 3), b=nn.Linear(3, 1))
    assert refused(network, V)["a"] == ([0, 1, 2], "node 'layer_norm' mixes channels (layer_norm)")


class Unknown(nn.Module):
    """A leaf of fx, as modules of torch.nn are."""

    __module__ = "torch.nn.made_up"

    def forward(self, x):
        return x.flip(1)


def test_an_unknown_layer_is_refused_by_name_or_keeps_what_it_touches():
    network = nn.Sequential(conv(3, 2), Unknown(), conv(2, 3), conv(3, 1))
    with pytest.raises(ValueError, match=r"node '_1' \(Unknown '1'\)"):
        ChannelGroups(network, X)
    found = refused(network, X, unknown="keep")
    assert found["0"] == ([0, 1], "node '_1' (Unknown '1') is not understood")
    assert found["2"] == ([], None)
    with pytest.raises(ValueError, match="unknown= takes 'refuse' or 'keep', not 'guess'"):
        ChannelGroups(network, X, unknown="guess")


def test_an_unknown_function_is_refused_by_name_or_keeps_what_it_touches():
    network = Net(lambda s, x: s.b(torch.roll(s.a(x), 1, 1)), a=conv(3, 2), b=conv(2, 1))
    with pytest.raises(ValueError, match=r"node 'roll' \(function roll\)"):
        ChannelGroups(network, X)
    assert refused(network, X, unknown="keep")["a"][0] == [0, 1]


def test_a_function_with_arguments_that_are_not_understood_is_refused_by_name():
    network = Net(lambda s, x: s.b(torch.clamp(s.a(x), min=s.low)), a=conv(3, 2), b=conv(2, 1))
    network.low = nn.Parameter(torch.zeros(2, 1, 1))
    with pytest.raises(ValueError, match="node 'clamp'"):
        ChannelGroups(network, X)


def test_a_layer_that_is_called_twice_ties_what_it_reads_and_makes():
    network = Net(lambda s, x: s.d(s.c(s.a(x)) + s.c(s.b(x))), a=conv(3, 2), b=conv(3, 2), c=conv(2, 3), d=conv(3, 1))
    found = described(network, X)
    assert ChannelGroups(network, X).sets["a"].layers == ("a", "b")
    assert found["a"] == {**linear_slices("a", [0, 1]), ("c.weight", 1, "input"): [0, 1], **linear_slices("b", [0, 1])}
    assert found["c"] == linear_slices("c", [0, 1, 2]) | {("d.weight", 1, "input"): [0, 1, 2]}


def test_steps_of_a_sequence_that_are_joined_tie_their_channels():
    """Beside each other along time, two embeddings make one unit of each column."""
    network = Net(
        lambda s, x: s.c(torch.cat([s.a(x), s.b(x)], 1)), a=nn.Linear(3, 2), b=nn.Linear(3, 2), c=nn.Linear(2, 1)
    )
    assert described(network, S)["a"] == {
        **linear_slices("a", [0, 1]),
        **linear_slices("b", [0, 1]),
        ("c.weight", 1, "input"): [0, 1],
    }
    network.run = lambda s, x: s.c(torch.stack([s.a(x), s.b(x)], 2))
    assert ChannelGroups(network, S).sets["a"].layers == ("a", "b")


def test_zeroing_units_by_their_groups_zeroes_what_makes_them():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2))
    groups = ChannelGroups(network, X)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    groups.zero(network, {"0": [1, 3]})
    for name, tensor in network.state_dict().items():
        changed = {"0.weight", "0.bias", "1.weight", "1.bias"}
        if name in changed:
            assert not tensor[[1, 3]].any()
            assert torch.equal(tensor[[0, 2]], before[name][[0, 2]])
        else:
            assert torch.equal(tensor, before[name]), name


def test_the_table_names_sets_and_reasons_and_unknown_names_are_listed():
    groups = ChannelGroups(nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2)), V)
    assert str(groups).splitlines() == ["0       3 units", f"2       2 units; 2 stay: {OUT}"]
    with pytest.raises(KeyError, match="no layer '5' makes units: there are 0, 2"):
        groups["5"]


def test_the_network_is_left_as_it_is():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.Dropout(), conv(4, 2)).train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    ChannelGroups(network, torch.randn(2, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training and network[1].training
