"""Residual branches: which are found, what scales them, and the network without them."""

import copy

import pytest
import torch
from torch import fx, nn
from torch.nn import functional as F

from bayesprune.models.networks.lenet import lenet_5
from bayesprune.models.networks.resnet import resnet_18, resnet_20, resnet_32
from bayesprune.models.units.residual_branches import remove_branches, residual_branches

X = torch.zeros(2, 3, 8, 8)


class Net(nn.Module):
    """A forward of these modules."""

    def __init__(self, forward, **modules):
        super().__init__()
        for name, module in modules.items():
            setattr(self, name, module)
        self.run = forward

    def forward(self, x):
        return self.run(self, x)


def conv(before=3, after=3, **options):
    return nn.Conv2d(before, after, 3, padding=1, **options)


def described(network, x=X):
    return {name: (branch.output, branch.layers) for name, branch in residual_branches(network, x).items()}


def uneven(network):
    """float64, with normalisations that do something."""
    network = network.double()
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0.0, 0.3)
    return network


def silenced(network, names, x=X):
    """A copy whose branches put out zeros, by the parameters that are said to scale them."""
    branches, made = residual_branches(network, x), copy.deepcopy(network)
    with torch.no_grad():
        for name in names:
            for output in branches[name].output:
                made.get_parameter(output).zero_()
    return made


def check_removal(network, names, x, training=False):
    """Removing branches is what zeros in their output parameters are; without the zeros it is something else."""
    network, x = network.train(training), x.double()
    zeros, removed = silenced(network, names, x), remove_branches(network, x, names)
    assert removed.training == training
    with torch.no_grad():
        kept, wanted, found = copy.deepcopy(network)(x), zeros(x), removed(x)
    sd = float(wanted.std())
    assert sd > 0 and float((wanted - found).abs().max()) < 1e-10 * sd
    assert float((kept - found).abs().max()) > 1e-3 * sd
    return removed


@pytest.mark.parametrize(("make", "blocks"), [(resnet_20, 3), (resnet_32, 5)])
def test_every_block_of_a_cifar_resnet_is_a_branch(make, blocks):
    found = described(make(), torch.zeros(2, 3, 32, 32))
    assert list(found) == [f"layer{stage}.{block}" for stage in (1, 2, 3) for block in range(blocks)]
    for name, (output, layers) in found.items():
        assert output == (f"{name}.bn2.weight", f"{name}.bn2.bias")
        assert layers == tuple(f"{name}.{layer}" for layer in ("conv1", "bn1", "relu1", "conv2", "bn2"))


def test_projections_of_resnet_18_are_skips():
    network, x = resnet_18(width=0.1), torch.zeros(2, 3, 32, 32)
    found = residual_branches(network, x)
    assert list(found) == [f"layer{stage}.{block}" for stage in (1, 2, 3, 4) for block in (0, 1)]
    assert found["layer2.0"].layers == tuple(f"layer2.0.{layer}" for layer in ("conv1", "bn1", "conv2", "bn2"))
    assert found["layer2.0"].skip == "layer2_0_downsample_1"
    removed = remove_branches(network, x, ["layer2.0"])
    gone = {name for name, _ in network.named_parameters()} - {name for name, _ in removed.named_parameters()}
    assert gone == {f"layer2.0.{layer}" for layer in ("conv1.weight", "conv2.weight")} | {
        f"layer2.0.{layer}.{kind}" for layer in ("bn1", "bn2") for kind in ("weight", "bias")
    }


def test_a_network_without_sums_has_none():
    assert residual_branches(lenet_5(), torch.zeros(2, 1, 28, 28)) == {}
    network = lenet_5()
    assert type(remove_branches(network, torch.zeros(2, 1, 28, 28), [])) is type(network)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("make", "names"),
    [
        (resnet_20, ["layer1.1", "layer3.0"]),
        (resnet_20, ["layer2.2", "layer2.0", "layer2.1"]),
        (resnet_18, ["layer1.0", "layer2.0", "layer4.1"]),  # its ReLUs work in place
    ],
)
def test_removal_is_zero_output_in_both_modes(make, names, training):
    torch.manual_seed(0)
    network = uneven(make(width=0.25))
    removed = check_removal(network, names, torch.randn(4, 3, 32, 32), training)
    assert isinstance(removed, fx.GraphModule) and type(removed).__name__ == type(network).__name__
    left = dict(network.named_parameters())
    for name, parameter in removed.named_parameters():
        assert torch.equal(parameter, left[name]) and parameter is not left[name]
    assert sorted(set(left) - {name for name, _ in removed.named_parameters()}) == sorted(
        name for name in left if any(name.startswith(f"{branch}.{part}") for branch in names for part in ("conv", "bn"))
    )


def test_the_network_without_branches_has_the_others_and_can_lose_them_too():
    network, x = uneven(resnet_20(width=0.25)), torch.randn(4, 3, 32, 32)
    first = check_removal(network, ["layer1.1", "layer2.0"], x)
    assert set(residual_branches(first, x.double())) == set(residual_branches(network, x.double())) - {
        "layer1.1", "layer2.0"
    }  # fmt: skip
    second = check_removal(first, ["layer3.2"], x)
    both = remove_branches(network, x.double(), ["layer3.2", "layer1.1", "layer2.0"])
    with torch.no_grad():
        assert torch.equal(second.eval()(x.double()), both.eval()(x.double()))


def scaled(s, x):
    """A factor, dropout and ReLU follow the last layer."""
    return x + s.drop(s.b(F.relu(s.a(x))) * s.scale).relu()


def excited(s, x):
    """Squeeze and excitation at the end."""
    h = s.b(s.a(x).relu())
    return x + h * s.c(h.mean((2, 3), keepdim=True)).sigmoid()


def nested(s, x):
    """One branch inside another."""
    h = s.a(x).relu()
    h = h + s.b(h).relu()
    return x + s.c(h)


def twice(s, x):
    """Two sums, one after the other, of layers without a common name."""
    x = s.b(s.a(x).relu()) + x
    return torch.add(x, s.d(s.c(x).relu()))


def work_in_place(s, x):
    """The sum and what follows it work in place; the skip is read again later."""
    x = s.a(x)
    h = s.b(x).relu_()
    h += x
    return s.c(h.relu_()) + 0.5 * x


def three(**more):
    return {"a": conv(), "b": conv(), "c": conv(), **more}


@pytest.mark.parametrize(
    ("forward", "modules", "expected"),
    [
        (scaled, three(drop=nn.Dropout(), scale=nn.Parameter(torch.rand(3, 1, 1))), {"b": ("a", "b", "drop")}),
        (excited, three(), {"b": ("a", "b", "c")}),
        (nested, three(), {"b": ("b",), "c": ("a", "b", "c")}),
        (twice, three(d=conv()), {"b": ("a", "b"), "d": ("c", "d")}),
        (work_in_place, three(), {"b": ("b",), "c": ("b", "c")}),
    ],
)
def test_branches_of_other_forms(forward, modules, expected):
    torch.manual_seed(0)
    network = Net(forward, **copy.deepcopy(modules)).double()
    found = described(network, X.double())
    assert found == {name: ((f"{name}.weight", f"{name}.bias"), layers) for name, layers in expected.items()}
    for name in expected:
        check_removal(network, [name], torch.randn(4, 3, 8, 8))
    check_removal(network, list(expected), torch.randn(4, 3, 8, 8))


SKIPPED = {
    "a sigmoid follows the last layer": (lambda s, x: x + s.b(s.a(x)).sigmoid(), three()),
    "a normalisation without weights follows": (
        lambda s, x: x + s.norm(s.a(x)), three(norm=nn.BatchNorm2d(3, affine=False))
    ),
    "both sides are equally long": (lambda s, x: s.a(x) + s.b(x), three()),
    "the side begins in two places": (
        lambda s, x: (lambda h: h + s.c(x * h))(s.a(x)), three()
    ),
    "its last layer is used again": (lambda s, x: s.b(x + s.b(s.a(x))), three()),
    "its last layer's weights are used again": (lambda s, x: (x + s.b(s.a(x))) * s.b.bias.view(3, 1, 1), three()),
    "the skip is changed in place by it": (lambda s, x: x + s.b(x.relu_()), three()),
    "one side is broadcast": (lambda s, x: x + s.b(s.a(x)).mean((2, 3), keepdim=True), three()),
    "the sum multiplies one side": (lambda s, x: torch.add(x, s.b(s.a(x)), alpha=2.0), three()),
    "another part reads the branch": (lambda s, x: (lambda h: (x + h) * h.mean())(s.b(x)), three()),
}  # fmt: skip


@pytest.mark.parametrize("reason", SKIPPED)
def test_branches_that_cannot_be_taken_out_exactly_are_not_found(reason):
    forward, modules = SKIPPED[reason]
    assert described(Net(forward, **modules)) == {}


def test_such_branches_are_found_where_the_reason_is_gone():
    """Controls: the same networks, but for what keeps them from having a branch."""
    for forward in (
        lambda s, x: x + s.b(s.a(x)).tanh(),
        lambda s, x: s.c(x) + s.b(s.a(x)),
        lambda s, x: s.c(x + s.b(s.a(x))),
        lambda s, x: x + s.b(s.a(x).relu_()),
        lambda s, x: torch.add(x, s.b(s.a(x))),
    ):
        assert described(Net(forward, **three())) == {"b": (("b.weight", "b.bias"), ("a", "b"))}


def test_unknown_names_are_refused():
    with pytest.raises(ValueError, match="no residual branch 'layer9': there are layer1.0, layer1.1"):
        remove_branches(resnet_20(width=0.1), torch.zeros(2, 3, 32, 32), ["layer1.0", "layer9"])


def test_modes_and_frozen_parameters_stay():
    network = resnet_20(width=0.1).train()
    network.layer2.eval()
    network.fc.weight.requires_grad_(False)
    removed = remove_branches(network, torch.zeros(2, 3, 32, 32), ["layer1.1"])
    modes = {name: module.training for name, module in network.named_modules()}
    assert {name: module.training for name, module in removed.named_modules()}.items() <= modes.items()
    assert [name for name, each in removed.named_parameters() if not each.requires_grad] == ["fc.weight"]
