"""Weights on a path from input to output: against boolean products written out, and against derivatives."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call

from bayesprune.models.masks.effective_masks import effective_masks
from bayesprune.models.ready_networks import make_ready
from tests.oracles.reachability import on_paths, reached, unrolled, weights_on_paths

SIZES = (9, 12, 10, 6)


def mlp(activation=nn.Tanh):
    layers = [
        layer for one, other in zip(SIZES, SIZES[1:], strict=False) for layer in (nn.Linear(one, other), activation())
    ]
    return nn.Sequential(*layers[:-1])


def convolutions(pool=None):
    middle = [nn.Tanh()] if pool is None else [nn.Tanh(), pool]
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1), *middle, nn.Conv2d(4, 3, 3, padding=1), nn.Tanh(), nn.Flatten(),
        nn.Linear(3 * 3 * 4 if pool is None else 3 * 2 * 3, 5),
    )  # fmt: skip


def random_masks(network, density, seed):
    random = torch.Generator().manual_seed(seed)
    weights = {name: p for name, p in network.named_parameters() if p.ndim > 1}
    return {name: torch.rand(p.shape, generator=random) < density for name, p in weights.items()}


def masked(network, masks, seed):
    """Random weights times masks, and random biases, in float64."""
    random = torch.Generator().manual_seed(seed)
    draws = {n: torch.randn(p.shape, generator=random, dtype=torch.float64) for n, p in network.named_parameters()}
    return {name: value * masks[name] if name in masks else value for name, value in draws.items()}


def jacobian(network, masks, x, seed=0):
    """d outputs / d inputs, `(outputs, inputs)`."""
    weights = masked(network, masks, seed)
    found = torch.autograd.functional.jacobian(lambda value: functional_call(network, weights, (value[None],))[0], x)
    return found.reshape(len(found), -1).numpy()


def matrices_of_convolutions(masks):
    """Of `convolutions` on images of 5 x 7, without pooling, and which weight each entry is of."""
    first, whose_first, rows, columns = unrolled(masks["0.weight"], 5, 7, stride=2, padding=1)
    second, whose_second, _, _ = unrolled(masks["2.weight"], rows, columns, padding=1)
    return [first, second, masks["5.weight"].numpy()], [whose_first, whose_second]


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("activation", [nn.Tanh, nn.Identity, nn.GELU])
def test_the_jacobian_of_an_mlp_is_non_zero_where_masks_reach(activation, seed):
    network = mlp(activation)
    masks = random_masks(network, 0.15, seed)
    x = torch.randn(SIZES[0], generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = reached([mask.numpy() for mask in masks.values()])
    np.testing.assert_array_equal(jacobian(network, masks, x) != 0.0, expected)
    assert 0 < expected.sum() < expected.size


@pytest.mark.parametrize("seed", range(3))
def test_the_jacobian_of_convolutions_is_non_zero_where_masks_reach(seed):
    network = convolutions()
    masks = random_masks(network, 0.15, seed)
    x = torch.randn(2, 5, 7, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    expected = reached(matrices_of_convolutions(masks)[0])
    np.testing.assert_array_equal(jacobian(network, masks, x) != 0.0, expected)
    assert 0 < expected.sum() < expected.size


def test_one_weight_less_is_seen_by_the_jacobian():
    """Control: the only weight that leads to an output is taken out of the masks and left in the product."""
    network = mlp()
    masks = random_masks(network, 0.15, 0)
    expected = reached([mask.numpy() for mask in masks.values()])
    alive = int(np.flatnonzero(expected.any(1))[0])
    fewer = masks | {"4.weight": masks["4.weight"].clone()}
    fewer["4.weight"][alive] = False
    x = torch.randn(SIZES[0], dtype=torch.float64)
    found = jacobian(network, fewer, x) != 0.0
    assert not np.array_equal(found, expected) and (found != expected).any(1).nonzero()[0].tolist() == [alive]


@pytest.mark.parametrize("density", [0.05, 0.12, 0.3, 1.0])
@pytest.mark.parametrize("seed", range(5))
def test_weights_of_an_mlp_lie_on_paths_of_the_boolean_product(density, seed):
    network = mlp(nn.ReLU)
    masks = random_masks(network, density, seed)
    found = effective_masks(network, masks, (SIZES[0],))
    for one, expected in zip(found.values(), on_paths([mask.numpy() for mask in masks.values()]), strict=True):
        np.testing.assert_array_equal(one.numpy(), expected)


@pytest.mark.parametrize("density", [0.06, 0.15, 1.0])
@pytest.mark.parametrize("seed", range(4))
def test_weights_of_convolutions_lie_on_paths_of_the_boolean_product(density, seed):
    network = convolutions()
    masks = random_masks(network, density, seed)
    found = effective_masks(network, masks, (2, 5, 7))
    matrices, whose = matrices_of_convolutions(masks)
    entries = on_paths(matrices)
    for name, on, which in zip(("0.weight", "2.weight"), entries, whose, strict=False):
        np.testing.assert_array_equal(found[name].numpy(), weights_on_paths(on, which, masks[name]))
    np.testing.assert_array_equal(found["5.weight"].numpy(), entries[2])


def slopes(network, masks, x):
    """Which weights the outputs depend on, without biases and with activations that are smooth, and zero at zero."""
    weights = {name: value.requires_grad_() for name, value in masked(network, masks, 1).items()}
    for name, value in weights.items():
        if name.endswith("bias"):
            weights[name] = torch.zeros_like(value)
    outputs = functional_call(network, weights, (x,))
    random = torch.randn(outputs.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    found = torch.autograd.grad((outputs * random).sum(), [weights[name] for name in masks])
    return {name: (slope != 0.0) & masks[name] for name, slope in zip(masks, found, strict=True)}


@pytest.mark.parametrize("density", [0.01, 0.03, 0.2])
def test_a_residual_network_has_its_paths_where_derivatives_are_not_zero(density):
    """With batch normalisation, shortcuts and pooling; its activations are made smooth for the derivatives alone."""
    network = make_ready("resnet-20", (3, 32, 32), 10, 0.5).double().eval()
    masks = random_masks(network, density, 0)
    found = effective_masks(network, masks, (3, 32, 32))
    smooth = make_ready("resnet-20", (3, 32, 32), 10, 0.5).double().eval()
    for module in smooth.modules():
        for name, child in module.named_children():
            if isinstance(child, nn.ReLU):
                setattr(module, name, nn.Softsign())  # tanh is flat in float64 where numbers are large
    x = torch.randn(1, 3, 32, 32, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    expected = slopes(smooth, masks, x)
    assert all(torch.equal(found[name], expected[name]) for name in masks)
    effective, active = (sum(int(one.sum()) for one in many.values()) for many in (found, masks))
    assert 0 < effective < active  # control: some lie on none


def test_one_path_through_many_layers_is_seen_and_nothing_overflows():
    layers = [nn.Linear(40, 40, bias=False) for _ in range(300)]
    network = nn.Sequential(*layers)
    dense = {name: torch.ones(40, 40, dtype=torch.bool) for name, _ in network.named_parameters()}
    assert all(bool(one.all()) for one in effective_masks(network, dense, (40,)).values())  # 40^300 paths
    one = {name: torch.zeros(40, 40, dtype=torch.bool) for name in dense}
    for number, mask in enumerate(one.values()):
        mask[(number + 1) % 40, number % 40] = True
    assert all(torch.equal(effective_masks(network, one, (40,))[name], mask) for name, mask in one.items())
    one["150.weight"].zero_()
    one["150.weight"][0, 1] = True
    assert not any(bool(mask.any()) for mask in effective_masks(network, one, (40,)).values())


def test_max_pooling_passes_on_all_that_it_pools():
    """The largest entry alone, which a gradient would follow, is one place of four."""
    network = nn.Sequential(nn.Conv2d(1, 1, 2, stride=2, bias=False), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(1, 1))
    masks = {"0.weight": torch.ones(1, 1, 2, 2, dtype=torch.bool)}
    assert bool(effective_masks(network, masks, (1, 4, 4))["0.weight"].all())
    pooled = convolutions(nn.MaxPool2d(2, stride=1))
    averaged = convolutions(nn.AvgPool2d(2, stride=1))
    masks = random_masks(pooled, 0.2, 1)
    found, expected = (effective_masks(network, masks, (2, 5, 7)) for network in (pooled, averaged))
    assert all(torch.equal(found[name], expected[name]) for name in masks)


class Shared(nn.Module):
    """One weight in two layers, the second with a gain and an activation that a sigmoid of the input gates."""

    def __init__(self):
        super().__init__()
        self.own, self.gate, self.out = nn.Linear(3, 3), nn.Linear(3, 3), nn.Linear(3, 1)
        self.gain = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        h = self.own(x).relu()
        h = self.gain * self.own(h) + 0.0
        return self.out(h * torch.sigmoid(self.gate(x)))


def test_a_shared_weight_is_on_a_path_where_it_is_in_any_layer_and_gates_stay_open():
    network = Shared()
    masks = {name: torch.zeros_like(p, dtype=torch.bool) for name, p in network.named_parameters() if p.ndim > 1}
    masks["own.weight"][1, 0] = masks["own.weight"][2, 1] = True  # 0 -> 1 in its first use, 1 -> 2 in its second
    masks["own.weight"][0, 2] = True  # 2 -> 0, which nothing reads
    masks["out.weight"][0, 2] = True
    found = effective_masks(network, masks, (3,))
    assert found["own.weight"].nonzero().tolist() == [[1, 0], [2, 1]]
    assert found["out.weight"].nonzero().tolist() == [[0, 2]] and not bool(found["gate.weight"].any())


def test_nothing_of_the_network_changes_and_what_cannot_be_run_is_refused_in_one_sentence():
    network = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Dropout(), nn.Linear(4, 2)).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    masks = {"0.weight": torch.ones(4, 4, dtype=torch.bool)}
    assert bool(effective_masks(network, masks, (4,))["0.weight"].all())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert all(module.training for module in network.modules())
    with pytest.raises(ValueError, match=r"paths through Sequential cannot be followed .* input of ones of \(1, 7\)"):
        effective_masks(network, masks, (7,))
