"""Blocks that share convolutions: beside networks without sharing, put together by hand."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx

import bayesprune as bp
from bayesprune.inference.execution.weight_gradient import with_shifts
from bayesprune.inference.masks.layouts import layout_of
from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.layer_shares import erk_counts
from bayesprune.models.costs.macs import count_macs
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.deployment.export import export_network
from bayesprune.models.networks.dyrelu_networks import dyrelus_of, with_dyrelu
from bayesprune.models.networks.shared_blocks import SharedBlock, extra_weights, share_blocks
from bayesprune.models.ready_networks import make_ready
from bayesprune.models.units.compact import compact

SHAPE = (3, 16, 16)
NETWORKS = {"resnet-20": 0.25, "resnet-34-cifar": 0.05, "resnet-50-cifar": 0.05}
# N_total, N_u, N_s of section 2.2 of the specification, by network and classes
TOTALS = {
    ("resnet-34-cifar", 10): (21_265_088, 11_164_352, 10_100_736, 1.9047),
    ("resnet-34-cifar", 100): (21_311_168, 11_210_432, 10_100_736, 1.9010),
    ("resnet-50-cifar", 10): (23_467_712, 13_928_128, 9_539_584, 1.6849),
    ("resnet-50-cifar", 100): (23_652_032, 14_112_448, 9_539_584, 1.6760),
}


def on_meta(name, classes, **more):
    with torch.device("meta"):
        return make_ready(name, (3, 32, 32), classes, **more)


def weights_of(network):
    return {name: network.get_parameter(name) for name in weight_names(network)}


def users(network):
    """Name of each shared block, the block, and the name of its donor."""
    names = {id(module): name for name, module in network.named_modules()}
    return [(n, m, names[id(m.donor[0])]) for n, m in network.named_modules() if isinstance(m, SharedBlock)]


def pair(name, dyrelu=False):
    """A network in float64 with shared blocks, and one without whose blocks have the weights s W."""
    torch.manual_seed(0)
    plain = make_ready(name, SHAPE, 5, NETWORKS[name], dyrelu=dyrelu).double()
    shared = share_blocks(plain)
    whole = copy.deepcopy(plain)
    with torch.no_grad():
        for block, user, donor in users(shared):
            for place, scale in enumerate(user.scales, start=1):
                weight = shared.get_parameter(f"{donor}.conv{place}.weight")
                whole.get_parameter(f"{block}.conv{place}.weight").copy_(scale * weight)
    return shared, whole


@pytest.mark.parametrize("name, classes", TOTALS)
def test_weights_are_as_many_as_the_specification_says(name, classes):
    total, unique, extra, factor = TOTALS[name, classes]
    plain, shared = on_meta(name, classes), on_meta(name, classes, shared_blocks=2)
    assert sum(w.numel() for w in weights_of(plain).values()) == total == unique + extra
    assert sum(w.numel() for w in weights_of(shared).values()) == unique
    assert extra_weights(shared) == extra and extra_weights(plain) == 0
    assert math.floor(1e4 * total / unique) / 1e4 == factor or round(total / unique, 4) == factor
    assert len(users(shared)) == 8  # of 16 blocks
    assert extra_weights(share_blocks(plain, 3)) < extra  # control


# eps of section 2.2, active weights over the sum of dimensions (inputs, outputs, kernel) of the tensors
EPS = {
    ("resnet-34-cifar", 0.001): (1.266, 2.293),
    ("resnet-34-cifar", 0.0005): (0.633, 1.147),
    ("resnet-34-cifar", 0.0001): (0.127, 0.229),
    ("resnet-50-cifar", 0.001): (0.457, 0.810),
    ("resnet-50-cifar", 0.0005): (0.229, 0.405),
    ("resnet-50-cifar", 0.0001): (0.046, 0.081),
}


@pytest.mark.parametrize("name, density", EPS)
def test_sharing_nearly_doubles_the_weights_per_channel_as_in_the_table(name, density):
    plain, shared = on_meta(name, 10), on_meta(name, 10, shared_blocks=2)
    active = round(density * TOTALS[name, 10][0])
    for network, eps in zip((plain, shared), EPS[name, density], strict=True):
        dimensions = sum(sum(weight.shape) for weight in weights_of(network).values())
        assert round(active / dimensions, 3) == eps


def test_erk_gives_the_first_convolution_what_the_table_has():
    shapes = {
        name: tuple(weight.shape)
        for name, weight in weights_of(on_meta("resnet-34-cifar", 10, shared_blocks=2)).items()
    }
    for active, count, each in ((21_265, 167, 4.61), (10_633, 84, 2.31), (2_127, 17, 0.46)):
        counts = erk_counts(shapes, active)
        assert abs(counts["conv1.weight"] - count) <= 1 and sum(counts.values()) == active
        assert abs(counts["layer4.1.conv1.weight"] / 512 - each) < 0.02


@pytest.mark.parametrize("dyrelu", [False, True])
@pytest.mark.parametrize("name", NETWORKS)
def test_gradients_of_all_users_reach_the_donor(name, dyrelu):
    shared, whole = pair(name, dyrelu)
    x, y = torch.randn(4, *SHAPE, dtype=torch.float64), torch.tensor([0, 1, 2, 3])
    outputs = []
    for network in (shared, whole):
        outputs.append(network(x))
        nn.functional.cross_entropy(outputs[-1], y).backward()
    torch.testing.assert_close(outputs[0], outputs[1], rtol=1e-10, atol=1e-12)
    expected = {name: parameter.grad.clone() for name, parameter in whole.named_parameters()}
    alone = {name: gradient.clone() for name, gradient in expected.items()}
    for block, user, donor in users(shared):
        for place, scale in enumerate(user.scales.detach(), start=1):
            own = expected.pop(f"{block}.conv{place}.weight")
            weight = shared.get_parameter(f"{donor}.conv{place}.weight").detach()
            expected[f"{donor}.conv{place}.weight"] += scale * own
            torch.testing.assert_close(user.scales.grad[place - 1], (own * weight).sum(), rtol=1e-7, atol=1e-12)
    found = {name: parameter.grad for name, parameter in shared.named_parameters() if not name.endswith("scales")}
    assert found.keys() == expected.keys()
    for key, gradient in found.items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-7, atol=1e-11, msg=key)
    donor = users(shared)[0][2]  # control: without its users' the donor's would be another
    key = f"{donor}.conv1.weight"
    assert float((found[key] - alone[key]).abs().max()) > 1e-3 * float(alone[key].abs().max())


@pytest.mark.parametrize("name", NETWORKS)
def test_parameters_have_one_name_and_others_keep_theirs(name):
    torch.manual_seed(0)
    plain = make_ready(name, SHAPE, 5, NETWORKS[name])
    before = {key: value.clone() for key, value in plain.state_dict().items()}
    shared = share_blocks(plain)
    assert all(torch.equal(value, before[key]) for key, value in plain.state_dict().items())
    names = [key for key, _ in shared.named_parameters(remove_duplicate=False)]
    assert len(names) == len(set(names)) == len({id(p) for p in shared.parameters()})
    kept = {key for key in shared.state_dict() if not key.endswith("scales")}
    gone = {
        key for key in before if ".conv" in key and any(key.startswith(f"{block}.") for block, _, _ in users(shared))
    }
    assert kept == set(before) - gone and gone
    scales = torch.cat([user.scales for _, user, _ in users(shared)]).detach()
    assert bool((scales >= 0).all()) and bool((scales < 1).all()) and float(scales.std()) > 0.15
    assert not [key for key in names if "scales" in key and key in weight_names(shared)]


def test_copies_moves_and_states_hold_together():
    torch.manual_seed(0)
    shared, x = share_blocks(make_ready("resnet-20", SHAPE, 5, 0.25)).eval(), torch.randn(2, *SHAPE)
    copied = copy.deepcopy(shared)
    block = copied.layer1[2]
    assert block.donor[0] is copied.layer1[1] and block.donor[0] is not shared.layer1[1]
    wide = copy.deepcopy(shared).double()
    torch.testing.assert_close(wide(x.double()), shared(x).double(), rtol=1e-4, atol=1e-5)
    torch.manual_seed(1)
    other = share_blocks(make_ready("resnet-20", SHAPE, 5, 0.25)).eval()
    assert not torch.equal(other(x), shared(x))
    other.load_state_dict(shared.state_dict())
    assert torch.equal(other(x), shared(x))
    with torch.no_grad():
        copied.layer1[1].conv1.weight.zero_()
    assert not torch.equal(copied(x), shared(x))


def test_weights_that_are_put_in_place_reach_all_users():
    torch.manual_seed(0)
    shared = share_blocks(make_ready("resnet-20", SHAPE, 5, 0.25)).double().eval()
    x, name = torch.randn(2, *SHAPE, dtype=torch.float64), "layer2.1.conv2.weight"
    masked = shared.get_parameter(name).detach() * (torch.rand_like(shared.get_parameter(name)) < 0.3)
    other = copy.deepcopy(shared)
    with torch.no_grad():
        other.get_parameter(name).copy_(masked)
    assert torch.equal(functional_call(shared, {name: masked}, (x,)), other(x))
    assert not torch.equal(other(x), shared(x))  # control

    def loss(weight, x):
        return functional_call(shared, {name: weight}, (x,)).square().sum()

    graph = make_fx(loss)(masked, x)
    assert torch.equal(graph(2 * masked, x), loss(2 * masked, x))
    live = other.get_parameter(name)
    whole = torch.autograd.grad(other(x).square().sum(), live)[0]
    with with_shifts(shared, [name]) as shifts:
        functional_call(shared, {name: masked}, (x,)).square().sum().backward()
    torch.testing.assert_close(shifts[name].grad, whole, rtol=1e-12, atol=1e-12)


def test_a_density_is_of_the_network_without_sharing():
    def model(network):
        return bp.BayesianNetwork(network, dict.fromkeys(weight_names(network), bp.Gaussian()), data_size=10)

    plain = make_ready("resnet-20", (1, 8, 8), 5, 0.5)
    shared = share_blocks(plain)
    whole = sum(w.numel() for w in weights_of(plain).values())
    for density in (0.02, 0.1, 0.5):
        one, other = layout_of(model(plain), density, "erk"), layout_of(model(shared), density, "erk")
        assert one.total == other.total == round(density * whole) and other.virtual == whole
        assert len(other.counts) == len(one.counts) - 6
    unique = sum(w.numel() for w in weights_of(shared).values())
    highest = unique / whole
    assert layout_of(model(shared), math.floor(1e4 * highest) / 1e4, "erk").total <= unique
    said = rf"give a density from .* to {math.floor(1e4 * highest) / 1e4}, which is N_u / \(N_u \+ N_s\) with"
    with pytest.raises(ValueError, match=said) as told:
        layout_of(model(shared), highest + 0.01, "erk")
    assert "\n" not in str(told.value)
    some = [name for name in weight_names(shared) if name.startswith("layer3")]
    assert extra_weights(shared, some) == 2 * 9 * 32 * 32 < extra_weights(shared)


@pytest.mark.parametrize("name", NETWORKS)
def test_weights_are_counted_once_and_macs_at_each_use(name):
    torch.manual_seed(0)
    plain = make_ready(name, SHAPE, 5, NETWORKS[name])
    shared, x = share_blocks(plain), torch.zeros(1, *SHAPE)
    before, found = count_macs(plain, x), count_macs(shared, x)
    assert sum(each.dense for each in before.values()) == sum(each.dense for each in found.values())
    block, user, donor = users(shared)[0]
    uses = 1 + sum(other == donor for _, _, other in users(shared))
    assert found[f"{donor}.conv1"].dense == uses * before[f"{donor}.conv1"].dense and uses >= 2
    with torch.no_grad():
        weight = shared.get_parameter(f"{donor}.conv1.weight")
        weight.view(-1)[: weight.numel() // 2] = 0.0
    sparse = count_macs(shared, x)[f"{donor}.conv1"]
    assert sparse.dense == found[f"{donor}.conv1"].dense
    half = sparse.dense * (weight.numel() - weight.numel() // 2) / weight.numel()
    assert abs(sparse.sparse - half) <= uses
    assert costs(shared, x).weights == sum(w.numel() for w in weights_of(shared).values())


def test_it_is_exported_and_its_units_are_kept(tmp_path):
    torch.manual_seed(0)
    shared, x = share_blocks(make_ready("resnet-20", (1, 8, 8), 5, 0.25)).eval(), torch.randn(2, 1, 8, 8)
    said = "^layer1.2 uses the convolutions of an earlier block, so that a unit would leave several blocks at once"
    with pytest.raises(ValueError, match=said):
        compact(shared, x)
    with pytest.raises(ValueError, match=said):
        bp.BayesianNetwork(shared, {}, data_size=9, gates=bp.UnitGates(kappa=1e-3))
    torch.testing.assert_close(compact(shared, x, unknown="keep").network(x), shared(x))
    export_network(shared, x, tmp_path / "made")
    space: dict = {"__file__": str(tmp_path / "made" / "network.py"), "__name__": "made"}
    exec(compile((tmp_path / "made" / "network.py").read_text(), "network.py", "exec"), space)
    torch.testing.assert_close(space["load"](tmp_path / "made")(x), shared(x))


def test_dyrelu_and_sharing_come_to_the_same_in_both_orders():
    torch.manual_seed(0)
    plain = make_ready("resnet-50-cifar", SHAPE, 5, 0.05)
    one, other = with_dyrelu(share_blocks(plain)), share_blocks(with_dyrelu(plain))
    assert one.state_dict().keys() == other.state_dict().keys() and one.config == other.config
    assert len(dyrelus_of(one)) == len(dyrelus_of(other)) == 49
    assert len({id(p) for layer in dyrelus_of(other) for p in layer.parameters()}) == 4 * 49


@pytest.mark.parametrize(
    ("network", "owned", "said"),
    [
        ("resnet-20", 0, "a whole number of blocks of a stage, at least 1, not 0"),
        ("resnet-20", 2.0, "a whole number of blocks of a stage, at least 1, not 2.0"),
        ("resnet-20", True, "a whole number of blocks of a stage, at least 1, not True"),
        ("resnet-20", 3, "no stage has more than 3 blocks, so that with owned=3 none would be shared"),
        ("resnet-18", 2, "no stage has more than 2 blocks"),
        ("resnet-20", 1, r"layer2.1 cannot use the convolutions of layer2.0, .*share_blocks\(owned=2\)"),
        ("lenet-5", 2, "no residual stages"),
        ("mobilenet-v2", 2, "no residual stages"),
    ],
)
def test_networks_that_cannot_share_are_refused_in_a_sentence(network, owned, said):
    with pytest.raises(ValueError, match=said) as told:
        share_blocks(make_ready(network, (3, 32, 32), 5, 0.1), owned)
    assert "\n" not in str(told.value) and len(str(told.value)) < 300


def test_a_network_shares_once():
    with pytest.raises(ValueError, match="shares blocks already"):
        share_blocks(share_blocks(make_ready("resnet-20", SHAPE, 5, 0.25)))
