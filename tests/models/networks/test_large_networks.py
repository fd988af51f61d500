"""Networks for large images: ResNet-18, 34 and 50, MobileNetV1 and V2."""

from __future__ import annotations

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.costs import costs
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.networks.mobilenet import mobilenet_v1, mobilenet_v2
from bayesprune.models.networks.resnet import resnet_18, resnet_18_imagenet, resnet_34, resnet_50
from bayesprune.models.priors.soft_threshold import SoftThreshold
from bayesprune.models.ready_networks import NETWORKS, make_ready, network_from_config
from benchmarks.large_networks import take_steps
from tests.models.costs.test_macs import macs_by_hooks

LARGE = ["resnet-18-imagenet", "resnet-34", "resnet-50", "mobilenet-v1", "mobilenet-v2"]
OF_TORCHVISION = {
    "resnet-18-imagenet": torchvision.models.resnet18,
    "resnet-34": torchvision.models.resnet34,
    "resnet-50": torchvision.models.resnet50,
    "mobilenet-v2": torchvision.models.mobilenet_v2,
}
# Parameters as torchvision publishes them, and MMACs at 224 x 224; weights of ResNet-50 as STR's budgets have them.
PARAMETERS = {
    "resnet-18-imagenet": 11_689_512,
    "resnet-34": 21_797_672,
    "resnet-50": 25_557_032,
    "mobilenet-v2": 3_504_872,
}


def on_meta(name, **settings):
    with torch.device("meta"):
        return NETWORKS[name]((3, 224, 224), 1000, **settings)


def costs_at_224(name):
    return costs(on_meta(name), torch.empty(1, 3, 224, 224, device="meta"))


# -- published counts -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", PARAMETERS)
def test_parameters_are_those_that_torchvision_publishes(name):
    weights = {
        "resnet-18-imagenet": torchvision.models.ResNet18_Weights,
        "resnet-34": torchvision.models.ResNet34_Weights,
        "resnet-50": torchvision.models.ResNet50_Weights,
        "mobilenet-v2": torchvision.models.MobileNet_V2_Weights,
    }[name]
    found = costs_at_224(name)
    assert found.parameters == PARAMETERS[name] == weights.DEFAULT.meta["num_params"]
    assert round(found.dense_macs / 1e9, 3) == weights.DEFAULT.meta["_ops"]


def test_resnet_50_has_the_weights_and_macs_that_the_budgets_of_str_count():
    found = costs_at_224("resnet-50")
    pooling = 2048 * 7 * 7  # additions before the last layer, which `costs` does not count and STR does
    assert found.weights == 25_502_912
    assert found.dense_macs + pooling == 4_089_284_608
    assert len(weight_names(on_meta("resnet-50"))) == 54


def mobilenet_v1_by_hand(side=224):
    """Weights and MACs of convolutions and linear layer, from table 1 of Howard et al. 2017; and all parameters."""
    side //= 2
    weights, macs, normalised = 9 * 3 * 32, 9 * 3 * 32 * side**2, 32
    blocks = [(32, 64, 1), (64, 128, 2), (128, 128, 1), (128, 256, 2), (256, 256, 1), (256, 512, 2)]
    blocks += 5 * [(512, 512, 1)] + [(512, 1024, 2), (1024, 1024, 1)]
    for before, after, stride in blocks:
        side //= stride
        weights += 9 * before + before * after
        macs += (9 * before + before * after) * side**2
        normalised += before + after
    assert side == 7
    return weights + 1024 * 1000, macs + 1024 * 1000, weights + 1024 * 1000 + 1000 + 2 * normalised


def test_mobilenet_v1_has_4_21_million_weights_and_569_million_macs():
    """STR's 4.21 M are weights, Howard's 4.2 M parameters; 569 M are multiply-adds with the pooling or without."""
    found = costs_at_224("mobilenet-v1")
    assert (found.weights, found.dense_macs, found.parameters) == mobilenet_v1_by_hand()
    assert (found.weights, found.dense_macs, found.parameters) == (4_209_088, 568_740_352, 4_231_976)
    pooling = 1024 * 7 * 7
    assert round(found.dense_macs / 1e6) == round((found.dense_macs + pooling) / 1e6) == 569
    # Weights that are not zero in STR's two published networks, 75.28 % and 89.01 % sparse: 1.04 M and 0.46 M.
    assert [round(found.weights * (1 - sparsity) / 1e6, 2) for sparsity in (0.7528, 0.8901)] == [1.04, 0.46]


@pytest.mark.parametrize("name", LARGE)
def test_macs_by_layer_are_those_of_its_formula(name):
    network, example = on_meta(name), torch.empty(1, 3, 224, 224, device="meta")
    found = {layer: row.dense_macs for layer, row in costs(network, example).layers.items() if row.dense_macs}
    assert found == macs_by_hooks(network, example)


# -- what they compute ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OF_TORCHVISION)
def test_by_default_they_are_torchvisions_to_the_bit(name):
    torch.manual_seed(0)
    theirs = OF_TORCHVISION[name](weights=None)
    torch.manual_seed(0)
    ours = NETWORKS[name]((3, 64, 64), 1000)
    expected, found = theirs.state_dict(), ours.state_dict()
    assert list(found) == list(expected) and all(torch.equal(found[key], expected[key]) for key in expected)
    x = torch.randn(2, 3, 64, 64)
    assert torch.equal(ours.eval()(x), theirs.eval()(x))
    with torch.no_grad():  # control: running statistics are of use
        next(m for m in ours.modules() if isinstance(m, nn.BatchNorm2d)).running_mean += 0.1
    assert not torch.equal(ours(x), theirs(x))


def test_mobilenet_v1_is_that_of_the_paper():
    torch.manual_seed(0)
    network = mobilenet_v1(classes=7, width=0.25).double().eval()
    for norm in (m for m in network.modules() if isinstance(m, nn.BatchNorm2d)):
        for tensor in (norm.weight.data, norm.running_var):
            tensor.uniform_(0.5, 1.5)
        for tensor in (norm.bias.data, norm.running_mean):
            tensor.normal_(0.0, 0.3)

    def normalised(h, norm):
        mean, sd = norm.running_mean.view(1, -1, 1, 1), (norm.running_var.view(1, -1, 1, 1) + norm.eps).sqrt()
        return ((h - mean) / sd * norm.weight.view(1, -1, 1, 1) + norm.bias.view(1, -1, 1, 1)).clamp(min=0.0)

    def by_hand(x, strides):
        h = normalised(F.conv2d(x, network.conv1.weight, stride=2, padding=1), network.bn1)
        for place, stride in enumerate(strides, start=1):
            block = network.get_submodule(f"block{place}")
            # A channel at a time, so that nothing is taken from `groups=`.
            kernels = block.depthwise.weight
            alone = [F.conv2d(h[:, [c]], kernels[[c]], stride=stride, padding=1) for c in range(h.shape[1])]
            h = normalised(torch.cat(alone, dim=1), block.bn1)
            mixed = torch.einsum("oi,nihw->nohw", block.pointwise.weight[:, :, 0, 0], h)
            h = normalised(mixed, block.bn2)
        return h.mean(dim=(2, 3)) @ network.fc.weight.T + network.fc.bias

    x, strides = torch.randn(2, 3, 64, 64, dtype=torch.float64), [1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1]
    with torch.no_grad():
        torch.testing.assert_close(network(x), by_hand(x, strides), rtol=1e-10, atol=1e-10)
        later = by_hand(x, [*strides[:-2], 1, 2])  # control: the stride that the table has in the wrong row
        assert float((network(x) - later).abs().max()) > 1e-6


def test_mobilenet_v1_starts_by_fan_in_which_is_nine_for_depthwise_convolutions():
    torch.manual_seed(0)
    for name, layer in mobilenet_v1().named_modules():
        if isinstance(layer, nn.Conv2d):
            fan_in = layer.weight[0].numel()
            assert float(layer.weight.detach().std()) == pytest.approx((2 / fan_in) ** 0.5, rel=0.15), name
            assert layer.bias is None and (fan_in == 9) == (layer.groups > 1 and layer.groups == layer.in_channels)


def test_mobilenet_v2_draws_nothing_at_random_in_training():
    network = mobilenet_v2(classes=4, width=0.1)
    torch.manual_seed(0)
    x, state = torch.randn(3, 3, 32, 32), torch.get_rng_state()
    network.train()(x)
    assert torch.equal(torch.get_rng_state(), state)
    torchvision.models.mobilenet_v2(num_classes=4, width_mult=0.1).train()(x)  # control: torchvision's dropout does
    assert not torch.equal(torch.get_rng_state(), state)


# -- sizes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_they_are_built_by_name_traced_and_built_again(name):
    shape = (1, 40, 33)
    network = make_ready(name, shape, 4, 0.1).eval()
    assert network.config == {"name": name, "input_shape": [1, 40, 33], "classes": 4, "width": 0.1}
    x = torch.randn(2, *shape)
    assert network(x).shape == (2, 4)
    torch.testing.assert_close(torch.fx.symbolic_trace(network)(x), network(x))
    again = network_from_config(network.config).eval()
    again.load_state_dict(network.state_dict())
    assert torch.equal(again(x), network(x))


@pytest.mark.parametrize("name", LARGE)
def test_they_refuse_small_images_and_what_is_no_image_and_sizes_below_one(name):
    with pytest.raises(ValueError, match=r"28 x 28 pixels, .* at least 32 x 32: use resnet-18"):
        NETWORKS[name]((1, 28, 28), 10)
    with pytest.raises(ValueError, match="it needs images"):
        NETWORKS[name]((784,), 10)
    with pytest.raises(ValueError, match="classes is 0"):
        NETWORKS[name]((3, 32, 32), 0)
    with pytest.raises(ValueError, match="in_channels is 0"):
        NETWORKS[name]((0, 32, 32), 10)


def test_the_two_forms_of_resnet_18_differ_in_their_first_layers_alone():
    small, large = resnet_18(), resnet_18_imagenet(classes=10)
    assert small.conv1.weight.shape == (64, 3, 3, 3) and large.conv1.weight.shape == (64, 3, 7, 7)
    assert isinstance(small.maxpool, nn.Identity) and isinstance(large.maxpool, nn.MaxPool2d)
    shapes = [{key: value.shape for key, value in one.state_dict().items()} for one in (small, large)]
    assert {key for key in shapes[0] if shapes[0][key] != shapes[1][key]} == {"conv1.weight"}
    sides = []
    for network in (small, large):
        network.layer1.register_forward_hook(lambda _, __, found: sides.append(found.shape[-1]))
        network.eval()(torch.zeros(1, 3, 64, 64))
    assert sides == [64, 16]


@pytest.mark.parametrize("width", [0.01, 0.3, 2.0])
def test_a_block_of_resnet_50_puts_out_four_times_what_it_has_inside(width):
    with torch.device("meta"):
        network = resnet_50(in_channels=1, classes=7, width=width)
    inside = [max(1, round(width * own)) for own in (64, 128, 256, 512)]
    assert network.conv1.weight.shape[:2] == (inside[0], 1)
    for stage, (own, blocks) in enumerate(zip(inside, (3, 4, 6, 3), strict=True), start=1):
        layer = network.get_submodule(f"layer{stage}")
        assert len(layer) == blocks
        for block in layer:
            assert [len(block.get_submodule(f"conv{i}").weight) for i in (1, 2, 3)] == [own, own, 4 * own]
        assert layer[0].conv2.stride == ((1, 1) if stage == 1 else (2, 2))
    assert network.fc.weight.shape == (7, 4 * inside[-1])


def test_narrow_residual_networks_start_by_the_same_rule():
    torch.manual_seed(0)
    for make in (resnet_18_imagenet, resnet_34, resnet_50):
        for name, module in make(width=0.5).named_modules():
            if isinstance(module, nn.Conv2d):
                fan_out = module.out_channels * module.kernel_size[0] ** 2
                assert float(module.weight.detach().std()) == pytest.approx((2 / fan_out) ** 0.5, rel=0.2), name


@pytest.mark.parametrize("width", [0.1, 0.5, 1.4])
def test_the_width_of_mobilenet_v2_is_torchvisions(width):
    with torch.device("meta"):
        ours, theirs = mobilenet_v2(width=width), torchvision.models.mobilenet_v2(width_mult=width)
    assert {k: v.shape for k, v in ours.state_dict().items()} == {k: v.shape for k, v in theirs.state_dict().items()}


# -- with soft thresholds ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LARGE)
def test_two_steps_move_every_threshold_and_leave_weights_in_every_layer(name):
    torch.manual_seed(0)
    network = NETWORKS[name]((3, 32, 32), 3, 0.1)
    names = weight_names(network)
    model = BayesianNetwork(network, dict.fromkeys(names, SoftThreshold()), data_size=8)
    assert set(model.point_estimates) == {key for key, value in network.named_parameters() if value.ndim == 1}
    before = Guide(model).means()
    result = fit(model, (torch.randn(8, 3, 32, 32), torch.arange(8) % 3), epochs=1, batch_size=4, seed=0)
    after, weights = result.restarts[0].guide.means(), result.included_weights()
    assert set(weights) == set(names)
    assert [name for name in names if after[f"{name}.s"] == before[f"{name}.s"]] == []
    assert [name for name in names if not weights[name].any()] == []


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet-50", "mobilenet-v1"])
def test_ten_steps_at_full_width_move_every_threshold_alike_in_both_executions(name):
    """As `benchmarks.large_networks` at 224 x 224, here at 64 x 64; the prior weighs as for ImageNet."""
    plain, fused, other = (
        take_steps(name, execution, side=64, seed=seed)
        for execution, seed in (("plain", 0), ("fused", 0), ("plain", 1))
    )
    count = len(weight_names(on_meta(name)))
    for found in (plain, fused):
        assert found["moved"] == len(found["density"]) == count
        assert min(found["density"].values()) > 0.9  # no layer collapses

    def gone(found):
        """How far each threshold went, as a share of where it started."""
        return torch.tensor([found["ends"][key] / found["starts"][key] - 1.0 for key in found["starts"]])

    assert float((gone(plain) - gone(fused)).abs().max()) < 1e-3
    assert float((gone(plain) - gone(other)).abs().max()) > 1e-2  # control: on other images they go elsewhere
