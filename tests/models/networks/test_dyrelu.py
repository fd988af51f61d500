"""DyReLU-B beside its formula written out by loops, PyTorch's own layers, and ReLU."""

from __future__ import annotations

import copy
import math
from fnmatch import fnmatchcase

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.networks.dyrelu import DyReLU

C = 12


@pytest.fixture
def layer():
    torch.manual_seed(0)
    return DyReLU(C).double()


def images(seed=1):
    return torch.randn(3, C, 4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_hand(layer, x, beta, order=lambda channel, kind: 4 * channel + kind):
    """Section 2.1 of the specification, number by number: coefficients are v + beta lambda theta."""
    w1, b1, w2, b2 = (p.tolist() for p in (layer.squeeze, layer.squeeze_shift, layer.excite, layer.excite_shift))
    result = torch.empty_like(x)
    for n in range(len(x)):
        z = [float(x[n, c].mean()) for c in range(C)]
        h = [max(0.0, sum(w * v for w, v in zip(row, z, strict=True)) + b) for row, b in zip(w1, b1, strict=True)]
        out = [sum(w * v for w, v in zip(row, h, strict=True)) + b for row, b in zip(w2, b2, strict=True)]
        theta = [2.0 / (1.0 + math.exp(-value)) - 1.0 for value in out]
        for c in range(C):
            scale, start = (1.0, 1.0, 0.5, 0.5), (1.0, 0.0, 0.0, 0.0)
            dynamic = [s * theta[order(c, kind)] + v for kind, (s, v) in enumerate(zip(scale, start, strict=True))]
            a1, a2, c1, c2 = (beta * d + (1.0 - beta) * v for d, v in zip(dynamic, start, strict=True))
            for at in range(20):
                value = float(x[n, c].flatten()[at])
                result[n, c].view(-1)[at] = max(a1 * value + c1, a2 * value + c2)
    return result


@pytest.mark.parametrize("beta", [1.0, 0.7, 0.25, 0.0])
def test_it_is_the_formula_with_blended_coefficients(layer, beta):
    x = images()
    layer.put(beta)
    torch.testing.assert_close(layer(x), by_hand(layer, x, beta), rtol=0.0, atol=1e-13)
    if beta == 0.0:
        return
    by_kind = by_hand(layer, x, beta, lambda channel, kind: kind * C + channel)  # control: rows laid out otherwise
    assert float((layer(x) - by_kind).detach().abs().max()) > 0.01


def test_coefficients_are_blended_and_not_outputs(layer):
    x = images()
    dynamic = layer(x).detach()
    layer.put(0.5)
    outputs = 0.5 * dynamic + 0.5 * F.relu(x)  # what another project does
    assert float((layer(x) - outputs).detach().abs().max()) > 0.01
    layer.put(1.0)
    torch.testing.assert_close(layer(x).detach(), dynamic, rtol=0.0, atol=0.0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_faded_it_is_relu_bit_by_bit_and_calculates_nothing_else(layer, dtype, monkeypatch):
    layer = layer.to(dtype)
    x = images().to(dtype).requires_grad_()
    bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[x.element_size()]
    by_formula = layer.blended(x, layer.residuals(x), 0.0)
    assert torch.equal(by_formula, F.relu(x))
    assert not torch.equal(layer(x), F.relu(x))  # control: it was not faded
    layer.put(0.0)

    def not_asked(*_):
        raise AssertionError("the hyper-network was calculated")

    monkeypatch.setattr(layer, "residuals", not_asked)
    got = layer(x)
    assert torch.equal(got.detach().view(bits), F.relu(x).detach().view(bits))
    mine, plain = (torch.autograd.grad(out.sum(), x)[0] for out in (got, F.relu(x)))
    assert torch.equal(mine, plain)


def test_it_starts_as_two_linear_layers_of_pytorch_do():
    torch.manual_seed(7)
    made = DyReLU(16)
    torch.manual_seed(7)
    first, second = nn.Linear(16, 4), nn.Linear(4, 64)
    for own, theirs in zip(made.parameters(), [*first.parameters(), *second.parameters()], strict=True):
        assert torch.equal(own, theirs)


def test_with_a_start_at_zero_it_starts_as_relu_and_learns_from_there():
    torch.manual_seed(0)
    made, x = DyReLU(C, zero_start=True).double(), images()
    assert torch.equal(made(x), F.relu(x))
    assert not torch.equal(DyReLU(C).double()(x), F.relu(x))  # control
    made(x).square().sum().backward()
    assert float(made.excite.grad.abs().max()) > 0.0


@pytest.mark.parametrize("channels", [16, 64, 512])
def test_it_has_as_many_parameters_as_the_specification_says(channels):
    count = sum(parameter.numel() for parameter in DyReLU(channels).parameters())
    assert count == 1.25 * channels**2 + 4.25 * channels
    assert sum(p.numel() for p in DyReLU(3).parameters()) == 3 + 1 + 12 + 12  # one hidden unit at least


def test_vectors_are_images_of_one_position(layer):
    x = images()[:, :, 0, 0]
    assert torch.equal(layer(x), layer(x[:, :, None, None])[:, :, 0, 0])


def test_what_it_is_not_made_for_is_refused(layer):
    for shape in [(2, C, 4), (2, C + 1, 3, 3), (2, C + 1)]:
        with pytest.raises(ValueError, match=rf"for inputs \(N, {C}, height, width\) or .* not of shape"):
            layer(torch.zeros(shape, dtype=torch.float64))
    for wrong in (0, -1, 2.5, True):
        with pytest.raises(ValueError, match="is a whole number, at least 1"):
            DyReLU(wrong)
        with pytest.raises(ValueError, match="is a whole number, at least 1"):
            DyReLU(4, wrong)


def test_frozen_its_hyper_network_gets_no_gradient_and_its_inputs_the_same(layer):
    x = images().requires_grad_()
    layer(x).square().sum().backward()
    whole, own = x.grad.clone(), [p.grad.clone() for p in layer.parameters()]
    assert all(float(g.abs().max()) > 0 for g in own)  # control
    x.grad = None
    layer.zero_grad()
    layer.freeze()
    layer(x).square().sum().backward()
    assert all(p.grad is None for p in layer.parameters())
    assert torch.equal(x.grad, whole)
    layer.freeze(False)
    layer(x).square().sum().backward()
    assert all(torch.equal(p.grad, g) for p, g in zip(layer.parameters(), own, strict=True))


def test_where_it_stands_is_moved_in_place_kept_and_copied(layer):
    beta, frozen = layer.beta, layer.frozen
    layer.put(0.25)
    layer.freeze()
    assert layer.beta is beta and layer.frozen is frozen and float(beta) == 0.25
    other = DyReLU(C).double()
    assert not other.is_faded
    other(images())  # has asked already
    layer.put(0.0)
    other.load_state_dict(layer.state_dict())
    assert other.is_faded and torch.equal(other(images()), F.relu(images()))
    copied = copy.deepcopy(layer)
    layer.put(1.0)
    assert copied.is_faded and not layer.is_faded
    with torch.no_grad():
        layer.beta.zero_()  # by whom it may be
    assert layer.is_faded


def test_no_usual_pattern_of_weights_matches_its_parameters():
    network = nn.Sequential(nn.Linear(4, 8), DyReLU(8), nn.Linear(8, 2))
    assert weight_names(network) == ("0.weight", "2.weight")
    own = [name for name, _ in network.named_parameters() if name.startswith("1.")]
    assert len(own) == 4
    patterns = ("*weight", "*.weight", "*weight*", "*bias", "*.bias", "*bias*")
    assert not [name for name in own for pattern in patterns if fnmatchcase(name, pattern)]
    assert fnmatchcase("0.weight", "*weight")  # control
