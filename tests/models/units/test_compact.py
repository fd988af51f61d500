"""What compaction removes, what it moves into biases, and what it has to keep: small networks in closed form."""

from __future__ import annotations

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from bayesprune.models.units.compact import compact
from tests.oracles.units_reference import Net

EXACT = 1e-10  # of the outputs' standard deviation
VISIBLE = 1e-3


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def conv(a, b, kernel=3, **options):
    return nn.Conv2d(a, b, kernel, **options)


def silence(layer, rows, bias=None):
    """Zeros the rows or filters of a layer; their biases become zero, or this number."""
    with torch.no_grad():
        layer.weight[rows] = 0.0
        if layer.bias is not None:
            layer.bias[rows] = 0.0 if bias is None else bias


def ignore_columns(layer, columns):
    with torch.no_grad():
        layer.weight[:, columns] = 0.0


def check(network, x, **options):
    """Compacts, compares on inputs that compaction has not seen, and returns the result."""
    result = compact(network, x, **options)
    fresh = torch.randn((7, *x.shape[1:]))
    with torch.no_grad():
        expected, found = copy.deepcopy(network).eval()(fresh), result.network(fresh)
    sd = float(expected.std(dim=0).mean())
    assert sd > 1e-3
    assert float((expected - found).abs().max()) < EXACT * sd
    return result


def widths(result):
    return result.report.units_after


V = torch.zeros(2, 4)
X = torch.zeros(2, 3, 9, 9)


def mlp(activation=nn.ReLU, bias=True):
    return nn.Sequential(nn.Linear(4, 6), activation(), nn.Linear(6, 3, bias=bias))


# ------------------------------------------------------------------------------------------------------------ removal


def test_units_without_rows_or_without_readers_are_removed():
    network = mlp()
    silence(network[0], [1, 4])
    ignore_columns(network[2], [0, 4])
    result = check(network, V)
    assert result.plan["units"]["0"] == {"of": 6, "kept": [2, 3, 5]}
    assert torch.equal(result.network[0].weight, network[0].weight[[2, 3, 5]])
    assert torch.equal(result.network[2].weight, network[2].weight[:, [2, 3, 5]])
    assert (result.network[0].out_features, result.network[2].in_features) == (3, 3)
    assert (result.report.parameters_before, result.report.parameters_after) == (51, 27)


def test_a_network_without_dead_units_is_left_whole():
    network = mlp()
    result = check(network, V)
    assert result.plan["tensors"] == {} and widths(result) == {"0": 6, "2": 3}


def test_dead_readers_make_what_they_read_dead():
    """Unit 0 of the first layer is read by unit 0 of the second alone, that by unit 0 of the third, that by nothing."""
    network = nn.Sequential(*[layer for _ in range(3) for layer in (nn.Linear(4, 4), nn.Tanh())], nn.Linear(4, 2))
    for place in (2, 4):
        with torch.no_grad():
            network[place].weight[1:, 0] = 0.0
    ignore_columns(network[6], [0])
    assert widths(check(network, V)) == {"0": 3, "2": 3, "4": 3, "6": 2}


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_units_that_only_read_each_other_are_removed(kind):
    """Units 0 and 1 read each other and their own past; nothing else reads them."""

    def forward(s, x):
        state = None
        for step in range(4):
            state = s.cell(x[:, step], state)
        return s.head(state[0] if kind == "LSTM" else state)

    network = Net(forward, cell=getattr(nn, f"{kind}Cell")(3, 5), head=nn.Linear(5, 2))
    gates = len(network.cell.weight_hh) // 5
    with torch.no_grad():
        network.cell.weight_hh.view(gates, 5, 5)[:, 2:, :2] = 0.0
        network.head.weight[:, :2] = 0.0
    result = check(network, torch.zeros(2, 4, 3))
    assert widths(result) == {"cell": 3, "head": 2}
    assert (result.network.cell.hidden_size, result.network.cell.input_size) == (3, 3)
    with torch.no_grad():  # the negative control: read once more, they stay
        network.cell.weight_hh[3, 0] = 0.1
    assert widths(check(network, torch.zeros(2, 4, 3)))["cell"] == 5


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_units_that_stay_zero_are_removed(kind):
    network = Net(
        lambda s, x: s.head(s.r(x)[0][:, -1]), r=getattr(nn, kind)(3, 4, batch_first=True), head=nn.Linear(4, 2)
    )
    gates = len(network.r.weight_hh_l0) // 4
    rows = slice(None) if gates == 1 else 2  # the candidate is enough
    with torch.no_grad():
        for parameter in network.r.parameters():
            parameter.view(gates, 4, -1)[0 if gates == 1 else rows, 1] = 0.0
    result = check(network, torch.zeros(2, 5, 3))
    assert widths(result) == {"r": 3, "head": 2}
    assert result.network.r.hidden_size == 3


def test_dead_columns_of_an_embedding_are_removed():
    network = nn.Sequential(nn.Embedding(7, 5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.no_grad():
        network[0].weight[:, [1, 3]] = 0.0
        network[1].weight[:, 4] = 0.0
    result = compact(network, torch.randint(0, 7, (2, 6)))
    assert widths(result) == {"0": 2, "1": 4, "3": 2} and result.report.kept == {}
    assert result.network[0].embedding_dim == 2 and result.network[0].num_embeddings == 7
    index = torch.arange(7)
    with torch.no_grad():
        assert float((result.network(index) - network(index)).abs().max()) < 1e-14


def test_a_depthwise_filter_goes_with_its_channel():
    network = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 8, groups=4), nn.ReLU(), conv(8, 2))
    silence(network[2], [2, 3, 6])
    ignore_columns(network[4], [2, 3])
    result = check(network, X)
    assert result.plan["units"]["0"]["kept"] == [0, 2, 3]  # channel 3 has one dead filter, and one that lives
    layer = result.network[2]
    assert (layer.groups, layer.in_channels, layer.out_channels) == (3, 3, 6)


def test_a_grouped_convolution_keeps_groups_of_one_size():
    network = nn.Sequential(conv(3, 6), nn.ReLU(), conv(6, 4, groups=2), nn.ReLU(), conv(4, 2))
    silence(network[0], [0, 1, 3])  # 0 and 3 are at the same place of their groups; 1 stays for the sake of 4
    result = check(network, X)
    assert result.plan["tensors"]["0.weight"]["kept"]["0"] == [1, 2, 4, 5]
    layer = result.network[2]
    assert (layer.groups, layer.in_channels, layer.out_channels) == (2, 4, 4)


def test_both_sides_of_a_sum_have_to_be_dead():
    network = Net(lambda s, x: s.c(F.relu(s.a(x) + s.b(x))), a=conv(3, 4), b=conv(3, 4), c=conv(4, 2))
    silence(network.a, [0, 1])
    silence(network.b, [1, 2])
    assert check(network, X).plan["units"]["a"]["kept"] == [0, 2, 3]


def test_one_dead_factor_makes_a_product_dead():
    gate = nn.Parameter(torch.tensor([1.0, 0.0, 2.0, 0.0]).view(4, 1, 1))
    network = Net(lambda s, x: s.b(torch.sigmoid(s.a(x)) * s.gate), a=conv(3, 4), gate=gate, b=conv(4, 2, padding=1))
    result = check(network, X)
    assert result.network.gate.shape == (2, 1, 1) and widths(result) == {"a": 2, "b": 2}
    assert result.network.gate.flatten().tolist() == [1.0, 2.0]


def test_buffers_and_entries_of_normalisation_are_cut():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2))
    network[1].running_mean.copy_(torch.arange(4.0))
    network[1].running_var.copy_(torch.arange(1.0, 5.0))
    silence(network[1], [0, 2])
    normalisation = check(network, X).network[1]
    assert normalisation.num_features == 2
    assert normalisation.running_mean.tolist() == [1.0, 3.0] and normalisation.running_var.tolist() == [2.0, 4.0]
    assert normalisation.num_batches_tracked == 0


@pytest.mark.parametrize("options", [{"affine": False}, {"track_running_stats": False}, {}])
@pytest.mark.parametrize("kind", [nn.BatchNorm2d, nn.InstanceNorm2d])
def test_normalisation_without_numbers_of_its_own_knows_its_new_width(kind, options):
    network = nn.Sequential(conv(3, 4), kind(4, **options), nn.ReLU(), conv(4, 2))
    ignore_columns(network[3], [0, 2])
    assert check(network, X).network[1].num_features == 2


def test_a_unit_of_a_part_of_the_channels_is_removed_from_every_part():
    def forward(s, x):
        first, second = s.a(x).relu().chunk(2, 1)
        return s.b(first) + s.c(torch.cat([second, first], 1))

    network = Net(forward, a=conv(3, 6), b=conv(3, 2), c=conv(6, 2))
    silence(network.a, [0, 1, 4])
    result = check(network, X)
    assert widths(result)["a"] == 3
    assert [result.network.b.in_channels, result.network.c.in_channels] == [1, 3]


# ---------------------------------------------------------------------------------------------------------- constants


def test_a_constant_unit_moves_into_the_bias_of_a_linear_reader():
    network = mlp()
    silence(network[0], [1, 4], torch.tensor([0.7, -0.7]))  # the second is cut off by the ReLU
    result = check(network, V)
    assert widths(result) == {"0": 4, "2": 3}
    expected = network[2].bias + 0.7 * network[2].weight[:, 1]
    assert torch.allclose(result.network[2].bias, expected, rtol=0, atol=1e-15)
    assert result.plan["bias_added"] == []


@pytest.mark.parametrize(
    "pool", [nn.Identity(), nn.MaxPool2d(2, padding=1), nn.AvgPool2d(2, 1, 1, count_include_pad=False)]
)
def test_a_constant_unit_moves_into_the_bias_of_a_convolution_without_padding(pool):
    network = nn.Sequential(conv(3, 4), nn.Tanh(), pool, conv(4, 2))
    silence(network[0], [1], -0.7)
    result = check(network, X)
    assert widths(result)["0"] == 3
    expected = network[3].bias + torch.tanh(torch.tensor(-0.7)) * network[3].weight[:, 1].sum(dim=(1, 2))
    assert torch.allclose(result.network[3].bias, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_what_is_there_leaves_constants_constant(mode):
    network = nn.Sequential(conv(3, 4), nn.Tanh(), conv(4, 2, padding=1, padding_mode=mode))
    silence(network[0], [1], 0.7)
    assert widths(check(network, X))["0"] == 3


@pytest.mark.parametrize(
    ("pool", "padding"),
    [
        (nn.Identity(), 1),
        (nn.Identity(), "same"),
        (nn.ZeroPad2d(1), 0),
        (nn.AvgPool2d(3, 1, 1), 0),
        (nn.AvgPool2d(2, ceil_mode=True, padding=1), 0),
    ],
)
def test_a_constant_unit_stays_where_zeros_are_put_beside_it_and_the_report_says_so(pool, padding):
    network = nn.Sequential(conv(3, 4), nn.Tanh(), pool, conv(4, 2, padding=padding))
    silence(network[0], [1], 0.7)
    result = check(network, X)
    assert widths(result)["0"] == 4
    reason = (
        "1 without incoming weights stay: they emit something else than zero, which 3 cannot take into the bias exactly"
    )
    assert result.report.kept["0"] == reason
    assert reason in str(result.report)
    # The negative control: removal with the bias that would be right away from the border is visibly wrong.
    wrong = copy.deepcopy(network)
    with torch.no_grad():
        wrong[3].bias += torch.tanh(torch.tensor(0.7)) * wrong[3].weight[:, 1].sum(dim=(1, 2))
        wrong[3].weight[:, 1] = 0.0
        x = torch.randn(5, 3, 9, 9)
        expected = network(x)
        assert float((wrong(x) - expected).abs().max()) > VISIBLE * float(expected.std(dim=0).mean())


def test_normalisation_with_scale_zero_emits_its_shift():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2))
    with torch.no_grad():
        network[1].running_mean.normal_()
        network[1].weight[[1, 2]] = 0.0
        network[1].bias.copy_(torch.tensor([0.1, 0.5, -0.5, 0.2]))
    result = check(network, X)
    assert widths(result)["0"] == 2
    expected = network[3].bias + 0.5 * network[3].weight[:, 1].sum(dim=(1, 2))
    assert torch.allclose(result.network[3].bias, expected, rtol=0, atol=1e-14)


def test_normalisation_of_a_constant_is_a_constant():
    network = nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(), conv(4, 2))
    silence(network[0], [1], 0.3)
    with torch.no_grad():
        network[1].running_mean[1], network[1].running_var[1] = -2.0, 4.0
    result = check(network, X)
    emitted = 2.3 / (4 + network[1].eps) ** 0.5
    expected = network[3].bias + emitted * network[3].weight[:, 1].sum(dim=(1, 2))
    assert torch.allclose(result.network[3].bias, expected, rtol=0, atol=1e-13)


@pytest.mark.parametrize("activation", [nn.Sigmoid, nn.Softplus, nn.Hardsigmoid, nn.LogSigmoid])
def test_functions_that_are_not_zero_at_zero_emit_constants(activation):
    network = mlp(activation)
    silence(network[0], [1])
    result = check(network, V)
    assert widths(result)["0"] == 5
    expected = network[2].bias + float(activation()(torch.zeros(()))) * network[2].weight[:, 1]
    assert torch.allclose(result.network[2].bias, expected, rtol=0, atol=1e-15)
    network = nn.Sequential(conv(3, 4), activation(), conv(4, 2, padding=1))
    silence(network[0], [1])
    assert widths(check(network, X))["0"] == 4


@pytest.mark.parametrize("groups", [1, 2])
def test_a_reader_without_bias_gets_one(groups):
    network = nn.Sequential(conv(3, 4), nn.Sigmoid(), conv(4, 6, groups=groups, bias=False), nn.ReLU(), conv(6, 2))
    silence(network[0], [0, 2])
    result = check(network, X)
    assert result.plan["bias_added"] == ["2"]
    assert list(dict(result.network.named_parameters())) == [
        "0.weight",
        "0.bias",
        "2.weight",
        "2.bias",
        "4.weight",
        "4.bias",
    ]
    weight = network[2].weight.sum(dim=(2, 3))
    expected = 0.5 * (weight[:, [0, 2]].sum(dim=1) if groups == 1 else weight[:, 0])
    assert torch.allclose(result.network[2].bias, expected, rtol=0, atol=1e-14)
    assert result.network[2].bias.requires_grad


def test_no_bias_is_added_for_rows_that_are_removed():
    network = nn.Sequential(conv(3, 4), nn.Sigmoid(), conv(4, 3, bias=False), nn.ReLU(), conv(3, 2))
    silence(network[0], [0])
    with torch.no_grad():
        network[2].weight[1:, 0] = 0.0
    ignore_columns(network[4], [0])
    result = check(network, X)
    assert widths(result) == {"0": 3, "2": 2, "4": 2} and result.plan["bias_added"] == []


def test_a_reader_of_zeros_gets_no_bias():
    network = mlp(bias=False)
    silence(network[0], [0])
    assert check(network, V).plan["bias_added"] == []


def test_a_layer_that_is_called_with_two_constants_keeps_them():
    """The bias cannot hold both."""
    network = Net(
        lambda s, x: s.b(s.a(x).sigmoid()) - s.b(s.a(x).tanh()), a=nn.Linear(4, 5), b=nn.Linear(5, 2, bias=False)
    )
    silence(network.a, [1], 0.3)
    assert widths(check(network, V))["a"] == 5
    network.run = lambda s, x: s.b(s.a(x).sigmoid()) + 2 * s.b(s.a(x + 1.0).sigmoid())
    result = check(network, V)
    assert widths(result)["a"] == 4 and result.plan["bias_added"] == ["b"]


def test_a_constant_input_of_a_recurrent_cell_moves_into_its_bias():
    network = Net(
        lambda s, x: s.c(s.b(torch.sigmoid(s.a(x)))[0]), a=nn.Linear(4, 3), b=nn.LSTMCell(3, 2), c=nn.Linear(2, 1)
    )
    silence(network.a, [1])
    result = check(network, V)
    assert widths(result)["a"] == 2
    expected = network.b.bias_ih + 0.5 * network.b.weight_ih[:, 1]
    assert torch.allclose(result.network.b.bias_ih, expected, rtol=0, atol=1e-15)


# -------------------------------------------------------------------------------------------------- what may not vanish


def test_a_layer_never_vanishes():
    network = nn.Sequential(conv(3, 4), nn.ReLU(), conv(4, 5), nn.ReLU(), conv(5, 2))
    network = Net(lambda s, x: s.path(x) + s.skip(x), path=network, skip=conv(3, 2, 7))
    silence(network.path[2], [0, 1, 2, 3, 4])
    with pytest.warns(UserWarning) as caught:
        result = check(network, X)
    sentence = "all {} units are dead: one is kept, because a layer cannot be empty"
    assert sorted(str(warning.message) for warning in caught) == [
        f"path.0: {sentence.format(4)}",
        f"path.2: {sentence.format(5)}",
    ]
    assert widths(result) == {"path.0": 1, "path.2": 1, "path.4": 2}
    assert result.report.kept == {"path.0": sentence.format(4), "path.2": sentence.format(5)}


def test_what_differs_at_the_border_is_not_taken_for_constant_even_if_pooling_makes_it_one_number():
    """That number is another for maps of another size, and the compact network has to be right for these too."""

    def forward(s, x):
        return s.c(s.b(torch.sigmoid(s.a(x))).relu().mean((2, 3)))

    network = Net(forward, a=conv(3, 4), b=conv(4, 5, padding=1), c=nn.Linear(5, 4))
    silence(network.a, [0, 1])
    with torch.no_grad():
        network.b.weight[0, 2:] = 0.0  # reads constants only
    result = check(network, X)
    assert widths(result) == {"a": 4, "b": 5, "c": 4}
    network.b.padding = (0, 0)
    result = check(network, X)
    assert widths(result) == {"a": 2, "b": 4, "c": 4}
    x = torch.randn(3, 3, 23, 17)
    with torch.no_grad():
        assert float((network(x) - result.network(x)).abs().max()) < 1e-13


@pytest.mark.parametrize(("multiple", "expected"), [(1, 3), (2, 4), (4, 4), (5, 5), (8, 6)])
def test_widths_are_kept_at_multiples(multiple, expected):
    network = mlp(nn.Sigmoid)
    silence(network[0], [0, 2, 4])
    result = check(network, V, round_to=multiple)
    assert widths(result) == {"0": expected, "2": 3}
    kept = result.plan["units"]["0"]["kept"]
    assert {1, 3, 5} <= set(kept)
    assert torch.equal(result.network[0].weight, network[0].weight[kept])


def test_widths_that_are_no_numbers_of_units_are_refused():
    with pytest.raises(ValueError, match="round_to must be at least 1, not 0"):
        compact(mlp(), V, round_to=0)


def test_outputs_stay_even_if_they_are_constant():
    network = mlp()
    silence(network[2], [0])
    result = check(network, V)
    assert widths(result)["2"] == 3
    assert result.report.kept["2"] == "1 without incoming weights stay: it is an output of the network"
