"""MACs are exact: against sums of ones, formulas and published figures; the network is left as it was."""

from __future__ import annotations

import copy
import math

import pytest
import torch
import torchvision
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from bayesprune.models.costs.costs import costs
from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.networks.lenet import lenet_5
from bayesprune.models.networks.vgg import vgg_16_bn


def zeros_in_place(network, fraction=0.7, seed=0):
    """Sets a random part of every weight to zero, and none of the others."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim >= 2:
                parameter.mul_(torch.rand(parameter.shape, generator=generator) > fraction)
    return network


LAYERS = {
    "linear": (nn.Linear(7, 5), (7,)),
    "linear over a sequence": (nn.Linear(7, 5), (4, 7)),
    "convolution": (nn.Conv2d(3, 8, (3, 2)), (3, 9, 7)),
    "grouped": (nn.Conv2d(6, 8, 3, groups=2), (6, 8, 8)),
    "depthwise": (nn.Conv2d(6, 12, 3, groups=6), (6, 8, 8)),
    "strided": (nn.Conv2d(3, 4, 3, stride=(2, 3)), (3, 11, 10)),
    "dilated": (nn.Conv2d(3, 4, 3, dilation=2), (3, 11, 10)),
    "1d": (nn.Conv1d(5, 6, 4, stride=2, dilation=2), (5, 21)),
    "3d": (nn.Conv3d(2, 3, 2), (2, 4, 5, 3)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2, groups=2), (4, 5, 5)),
}


@pytest.mark.parametrize("name", LAYERS)
def test_macs_are_the_sum_of_the_output_where_all_numbers_are_one(name):
    layer, shape = LAYERS[name]
    layer = copy.deepcopy(layer).double()
    ones = torch.ones(1, *shape, dtype=torch.float64)
    with torch.no_grad():
        layer.bias.zero_()
        layer.weight.fill_(1.0)
        dense = layer(ones).sum().item()
        layer.weight.copy_(torch.rand_like(layer.weight) < 0.3)
        sparse = layer(ones).sum().item()
    found = costs(nn.Sequential(layer), torch.randn(3, *shape)).layers["0"]
    assert (found.dense_macs, found.sparse_macs) == (dense, sparse)
    assert 0 < sparse < dense


def macs_by_hooks(network, example):
    """Conv2d and Linear by formula: every output number is a sum over the inputs of its group and the kernel."""
    found = {}

    def note(name):
        def hook(module, inputs, output):
            if isinstance(module, nn.Conv2d):
                each = module.in_channels // module.groups * math.prod(module.kernel_size)
            else:
                each = module.in_features
            found[name] = found.get(name, 0) + output[0].numel() * each

        return hook

    handles = [
        module.register_forward_hook(note(name))
        for name, module in network.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    network.eval()(example)
    for handle in handles:
        handle.remove()
    return found


def vgg_16_bn_with_a_hidden_layer():
    network = vgg_16_bn()
    network.classifier = nn.Sequential(nn.Linear(512, 512), nn.ReLU(), nn.Linear(512, 10))
    return network


NETWORKS = {
    "vgg_16_bn, one linear layer": (vgg_16_bn, 32, 313.202),
    "vgg_16_bn, two linear layers": (vgg_16_bn_with_a_hidden_layer, 32, 313.464),
    "resnet18": (lambda: torchvision.models.resnet18(weights=None), 224, 1814.07),
    "mobilenet_v2": (lambda: torchvision.models.mobilenet_v2(weights=None), 224, 300.77),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_macs_of_known_networks(name):
    build, side, expected = NETWORKS[name]
    with torch.device("meta"):
        network, example = build(), torch.empty(2, 3, side, side)
    found = costs(network, example)
    assert found.dense_macs / 1e6 == pytest.approx(expected, abs=0.005 if side == 224 else 0.0005)
    by_layer = {layer: row.dense_macs for layer, row in found.layers.items() if row.dense_macs}
    assert by_layer == macs_by_hooks(network, example)


@pytest.mark.parametrize("name", ["ViT_B_16", "Swin_T", "ConvNeXt_Tiny"])
def test_macs_agree_with_the_figures_that_torchvision_publishes(name):
    published = getattr(torchvision.models, f"{name}_Weights").DEFAULT.meta
    with torch.device("meta"):
        network = torchvision.models.get_model(name.lower(), weights=None)
        found = costs(network, torch.empty(1, 3, 224, 224))
    assert round(found.dense_macs / 1e9, 3) == published["_ops"]
    assert found.parameters == published["num_params"]


def test_a_batch_costs_one_example_and_dtypes_cost_the_same():
    network = zeros_in_place(lenet_5())
    one = costs(network, torch.randn(1, 1, 28, 28))
    assert costs(network, torch.randn(5, 1, 28, 28)) == one
    double = costs(copy.deepcopy(network).double(), torch.randn(1, 1, 28, 28))  # the example is cast
    assert (double.dense_macs, double.sparse_macs) == (one.dense_macs, one.sparse_macs)
    assert double.dense_bytes == 2 * one.dense_bytes


class Encoder(nn.Module):
    """Self-attention through the module whose fast path hides it."""

    def __init__(self, norm_first=False):
        super().__init__()
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True, norm_first=norm_first)

    def forward(self, x):
        return self.layer(x)


ENCODER_MACS = {  # 8 features, 16 inside, 5 positions
    "layer.self_attn": 3 * 8 * 8 * 5 + 2 * 5 * 5 * 8,
    "layer.self_attn.out_proj": 8 * 8 * 5,
    "layer.linear1": 8 * 16 * 5,
    "layer.linear2": 8 * 16 * 5,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_attention_is_counted_although_its_kernels_are_fused(dtype):
    network, example = Encoder().to(dtype).eval(), torch.randn(2, 5, 8, dtype=dtype)
    found = costs(network, example)
    assert {name: row.dense_macs for name, row in found.layers.items() if row.dense_macs} == ENCODER_MACS
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        network(example)
    assert counter.get_total_flops() / 2 / 2 < 0.8 * sum(ENCODER_MACS.values())  # control: as PyTorch runs it


def test_only_products_with_weights_get_sparser():
    network = Encoder()
    attention = network.layer.self_attn
    with torch.no_grad():
        attention.in_proj_weight[:8] = 0.0  # the queries
        attention.out_proj.weight[:, 2:] = 0.0
    rows = costs(network, torch.randn(1, 5, 8)).layers
    assert rows["layer.self_attn"].sparse_macs == 2 * 8 * 8 * 5 + 2 * 5 * 5 * 8
    assert rows["layer.self_attn.out_proj"].sparse_macs == 2 * 8 * 5
    assert rows["layer.linear1"].sparse_macs == rows["layer.linear1"].dense_macs


def test_queries_and_keys_of_unlike_lengths_weigh_their_own_weights():
    class Cross(nn.Module):
        def __init__(self):
            super().__init__()
            self.attention = nn.MultiheadAttention(4, 1, batch_first=True)

        def forward(self, x, y):
            return self.attention(x, y, y)[0]

    network = Cross()
    with torch.no_grad():
        network.attention.in_proj_weight[4:] = 0.0  # keys and values
    found = costs(network, (torch.randn(2, 3, 4), torch.randn(2, 7, 4))).layers["attention"]
    products = 2 * 3 * 7 * 4
    assert found.dense_macs == 16 * 3 + 2 * 16 * 7 + products
    assert found.sparse_macs == 16 * 3 + products


@pytest.mark.parametrize(("cell", "gates"), [(nn.LSTM, 4), (nn.GRU, 3), (nn.RNN, 1)])
def test_recurrent_cells_are_counted_although_their_kernels_are_fused(cell, gates):
    network = nn.Sequential(cell(5, 7, num_layers=2, bidirectional=True, batch_first=True))
    zeros_in_place(network)
    found = costs(network, torch.randn(3, 4, 5))
    each = gates * 7 * ((5 + 7) + (14 + 7))
    assert found.dense_macs == found.weights * 4 == 2 * each * 4
    assert found.sparse_macs == found.nonzero * 4


class Functional(nn.Module):
    """Weights used by functions, and a product without weights in the network itself."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.inside = nn.ModuleDict({"second": nn.Linear(6, 3, bias=False)})

    def forward(self, x):
        hidden = F.linear(self.first(x), self.inside["second"].weight)
        return hidden @ hidden.transpose(1, 2)


def test_functional_operations_belong_to_their_weights_or_to_where_they_happen():
    network = Functional()
    with torch.no_grad():
        network.inside["second"].weight[0] = 0.0
    found = costs(network, torch.randn(2, 5, 4))
    assert {name: (row.dense_macs, row.sparse_macs) for name, row in found.layers.items()} == {
        "first": (4 * 6 * 5, 4 * 6 * 5),
        "inside.second": (6 * 3 * 5, 6 * 2 * 5),
        "(functions)": (5 * 5 * 3, 5 * 5 * 3),
    }
    assert found.dense_macs == sum(row.dense_macs for row in found.layers.values())


def test_a_forward_in_inference_mode_is_counted():
    class Inference(Functional):
        @torch.inference_mode()
        def forward(self, x):
            return super().forward(x)

    network = Functional()
    inference = Inference()
    inference.load_state_dict(network.state_dict())
    assert costs(inference, torch.randn(2, 5, 4)) == costs(network, torch.randn(2, 5, 4))


def test_an_input_that_is_a_parameter_is_not_taken_for_weights():
    class Queries(nn.Module):
        def __init__(self):
            super().__init__()
            self.queries = nn.Parameter(torch.ones(5, 4))
            self.layer = nn.Linear(4, 3)

        def forward(self, x):
            return x @ self.layer(self.queries).t()

    network = Queries()
    with torch.no_grad():
        network.queries[0] = 0.0
        network.layer.weight[0] = 0.0
    rows = costs(network, torch.randn(1, 2, 3)).layers
    assert (rows["layer"].dense_macs, rows["layer"].sparse_macs) == (60, 40)
    assert rows["(network)"].dense_macs == rows["(network)"].sparse_macs == 2 * 3 * 5


def test_a_layer_that_fails_and_is_caught_does_not_take_the_macs_of_others():
    class Refuses(nn.Module):
        def forward(self, x):
            raise KeyError

    class Tries(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer, self.refuses = nn.Linear(4, 3), Refuses()

        def forward(self, x):
            try:
                return self.refuses(x)
            except KeyError:
                return (hidden := self.layer(x)) @ hidden.transpose(1, 2)

    found = costs(Tries(), torch.randn(1, 5, 4))
    assert {name: row.dense_macs for name, row in found.layers.items()} == {
        "layer": 5 * 4 * 3,
        "(functions)": 5 * 5 * 3,
    }


def test_a_layer_called_twice_costs_twice():
    layer = nn.Linear(6, 6)
    found = costs(nn.Sequential(layer, nn.ReLU(), layer), torch.randn(1, 6))
    assert (found.dense_macs, found.weights, list(found.layers)) == (72, 36, ["0"])


def test_layers_whose_weights_share_one_vector_keep_their_own_macs():
    network = nn.Sequential(nn.Linear(4, 6), nn.Linear(6, 3), nn.Linear(3, 9))
    zeros_in_place(network)
    before = costs(network, torch.randn(1, 4))
    vector = nn.utils.parameters_to_vector(network.parameters()).detach()
    nn.utils.vector_to_parameters(vector, network.parameters())
    functional = nn.ModuleList(network)
    functional.forward = lambda x: F.linear(
        F.linear(F.linear(x, network[0].weight), network[1].weight), network[2].weight
    )
    for same in (network, functional):
        assert costs(same, torch.randn(1, 4)) == before


def test_the_order_of_rows_is_the_networks_and_its_own_row_is_last():
    class Root(Functional):
        def __init__(self):
            super().__init__()
            self.scale = nn.Parameter(torch.ones(1))

    assert list(costs(Root(), torch.randn(1, 5, 4)).layers) == ["first", "inside.second", "(network)"]


@pytest.mark.gpu
def test_costs_on_cuda_are_those_on_the_cpu():
    recurrent = nn.LSTM(5, 7, num_layers=2, batch_first=True)
    for network, example in (
        (lenet_5(), torch.randn(2, 1, 28, 28)),
        (Encoder(), torch.randn(2, 5, 8)),
        (nn.Sequential(recurrent), torch.randn(2, 4, 5)),
    ):
        expected = costs(zeros_in_place(network), example)
        assert costs(network.cuda(), example) == expected


# ---------------------------------------------------------------------------------- nothing is left behind


class Fails(nn.Module):
    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(3, 3)

    def forward(self, x):
        self.layer(x)
        raise RuntimeError("not today\nnor tomorrow")


def settings():
    return (
        torch.backends.mha.get_fastpath_enabled(),
        torch.backends.mkldnn.enabled,
        torch.backends.cudnn.enabled,
        torch.backends.cuda.flash_sdp_enabled(),
        torch.backends.cuda.mem_efficient_sdp_enabled(),
        torch.is_grad_enabled(),
        torch.utils._python_dispatch._get_current_dispatch_mode(),
        len(torch.nn.modules.module._global_forward_hooks),
        len(torch.nn.modules.module._global_forward_pre_hooks),
    )


def test_network_and_settings_are_put_back():
    network = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2)).train()
    network[1].eval()  # held, as in fine-tuning
    before = copy.deepcopy(network.state_dict())
    modes, others = [module.training for module in network.modules()], settings()
    costs(network, torch.randn(8, 3))
    assert [module.training for module in network.modules()] == modes == [True, True, False, True, True]
    assert settings() == others
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(not module._forward_hooks and not module._forward_pre_hooks for module in network.modules())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in network.parameters())
    network(torch.randn(8, 3)).sum().backward()  # no inference tensors were left either


def test_network_and_settings_are_put_back_after_an_error():
    network, others = Fails().train(), settings()
    with pytest.raises(
        ValueError, match=r"^the network does not take an example input of shape \(1, 3\) \(not today\)"
    ):
        costs(network, torch.randn(1, 3))
    assert network.training and network.layer.training
    assert settings() == others


def test_settings_that_were_off_stay_off():
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        costs(Encoder(), torch.randn(1, 5, 8))
        assert not torch.backends.mha.get_fastpath_enabled()
    finally:
        torch.backends.mha.set_fastpath_enabled(True)


def test_evaluation_mode_is_for_every_module_and_only_for_a_while():
    network = nn.Sequential(nn.Linear(2, 2), nn.Dropout())
    network[1].eval()
    with pytest.raises(KeyError), evaluation_mode(network):
        assert not any(module.training for module in network.modules())
        raise KeyError
    assert [module.training for module in network.modules()] == [True, True, False]
