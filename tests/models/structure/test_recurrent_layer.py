"""Masked recurrent layers: torch's own at all-ones masks, gradients in every gate, and a plain loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap

from bayesprune.models.networks.recurrent import step_by_step
from bayesprune.models.structure.masked_linear import MaskedLinear, masks_of
from bayesprune.models.structure.recurrent_layer import KINDS, RecurrentLayer
from bayesprune.models.structure.recurrent_steps import through_time

DOUBLE = torch.float64
TORCHS = {
    "rnn-tanh": lambda *sizes, **named: nn.RNN(*sizes, nonlinearity="tanh", **named),
    "rnn-relu": lambda *sizes, **named: nn.RNN(*sizes, nonlinearity="relu", **named),
    "gru": nn.GRU,
    "lstm": nn.LSTM,
}
EACH = pytest.mark.parametrize("kind", KINDS)
INPUTS, HIDDEN, STEPS, N = 5, 4, 6, 3


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def numbers(kind, seed=1):
    gates = KINDS[kind]
    shapes = [(N, STEPS, INPUTS), (gates * HIDDEN, INPUTS), (gates * HIDDEN, HIDDEN), *[(gates * HIDDEN,)] * 2]
    return [0.7 * random(*shape, seed=seed + place) for place, shape in enumerate(shapes)]


# -- against torch's layers -------------------------------------------------------------------------------------------


@EACH
@pytest.mark.parametrize(("dtype", "close"), [(torch.float32, 1e-6), (DOUBLE, 1e-12)])
@pytest.mark.parametrize("masked", [False, True])
def test_all_ones_masks_give_what_torchs_layer_gives(kind, dtype, close, masked):
    torch.manual_seed(0)
    other = TORCHS[kind](INPUTS, HIDDEN, batch_first=True).to(dtype)
    ones = (torch.ones(HIDDEN, INPUTS), torch.ones(HIDDEN, HIDDEN)) if masked else (None, None)
    layer = RecurrentLayer(kind, INPUTS, HIDDEN, *ones).to(dtype)
    layer.load_state_dict(RecurrentLayer.from_torch(other).state_dict(), strict=False)  # the masks stay
    assert len(masks_of(layer)) == 2 * masked
    x = random(N, STEPS, INPUTS).to(dtype)
    with torch.no_grad():
        wanted = other(x)[0]
        for found in (layer(x), layer.step_by_step(x)):
            torch.testing.assert_close(found, wanted, rtol=0, atol=close)
        layer.recurrent.weight[0] *= 1.5  # control
        assert float((layer(x) - wanted).abs().max()) > 1e-3


@EACH
def test_any_layer_of_torchs_stack_is_taken_over(kind):
    torch.manual_seed(0)
    other = TORCHS[kind](INPUTS, HIDDEN, num_layers=3, bias=False).double()
    x = random(N, STEPS, INPUTS)
    found = x
    for number in range(3):
        found = RecurrentLayer.from_torch(other, number)(found)
    torch.testing.assert_close(found, other(x.transpose(0, 1))[0].transpose(0, 1), rtol=0, atol=1e-12)
    with pytest.raises(ValueError, match="layer number 3 is asked for, but there are 3"):
        RecurrentLayer.from_torch(other, 3)
    with pytest.raises(ValueError, match="both directions"):
        RecurrentLayer.from_torch(TORCHS[kind](2, 3, bidirectional=True))


# -- masks in every gate ----------------------------------------------------------------------------------------------


def slopes(layer, x):
    """Largest slopes of any output with respect to each weight, by kind of weight: `(gates, units, in)`."""
    found = {}
    for name in ("input", "recurrent"):
        weight = layer.get_submodule(name).weight
        each = torch.autograd.grad(layer(x).square().sum(), weight, retain_graph=False)[0].abs()
        found[name] = each.reshape(-1, layer.hidden, weight.shape[1])
    return found


@EACH
def test_a_masked_edge_has_no_slope_in_any_gate_and_one_that_exists_has(kind):
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    masks = [torch.from_numpy(generator.random(shape) < 0.5) for shape in ((HIDDEN, INPUTS), (HIDDEN, HIDDEN))]
    layer = RecurrentLayer(kind, INPUTS, HIDDEN, *masks).double()
    with torch.no_grad():
        for parameter in layer.parameters():  # also where masks are false; relu stays open
            parameter.copy_(parameter.abs() + 0.3)
    found = slopes(layer, random(N, STEPS, INPUTS).abs())
    for name, mask in zip(("input", "recurrent"), masks, strict=True):
        for gate, each in enumerate(found[name]):
            assert torch.equal(each != 0.0, mask), f"{kind}, {name}, gate {gate}"


@pytest.mark.parametrize("kind", ["gru", "lstm"])
def test_masks_repeated_row_by_row_are_seen_to_be_wrong(kind):
    mask = torch.tensor([[True, False], [False, True], [True, True]])
    layer = RecurrentLayer(kind, 2, 3, mask).double()
    x = random(N, STEPS, 2)
    right = slopes(layer, x)["input"] != 0.0
    assert all(torch.equal(gate, mask) for gate in right)
    layer.input = MaskedLinear(torch.from_numpy(np.repeat(mask.numpy(), KINDS[kind], 0))).double()  # the published bug
    wrong = slopes(layer, x)["input"] != 0.0
    assert not all(torch.equal(gate, mask) for gate in wrong)
    assert wrong.sum() == right.sum()  # as many connections as before, of other units


@EACH
def test_numbers_start_as_torchs_do_with_the_connections_that_there_are(kind):
    torch.manual_seed(0)
    eye = torch.eye(40, dtype=torch.bool)
    dense, diagonal = RecurrentLayer(kind, 30, 40), RecurrentLayer(kind, 30, 40, None, eye)
    for layer, most in ((dense, 1 / math.sqrt(40)), (diagonal, 1.0)):
        for parameter in layer.parameters():
            assert 0.85 * most < float(parameter.detach().abs().max()) <= most + 1e-6
    assert bool((diagonal.recurrent.weight[~diagonal.recurrent.mask] == 0).all())


def test_bad_masks_and_kinds_are_refused():
    with pytest.raises(ValueError, match="kind 'GRU' is unknown: expected one of rnn-tanh, rnn-relu, gru, lstm"):
        RecurrentLayer("GRU", 2, 3)
    with pytest.raises(ValueError, match=r"input_mask has the shape \(9, 2\), but \(3, 2\) is expected"):
        RecurrentLayer("gru", 2, 3, torch.ones(9, 2))
    with pytest.raises(ValueError, match="hidden is 0"):
        RecurrentLayer("gru", 2, 0)


# -- the plain loop ---------------------------------------------------------------------------------------------------


@EACH
def test_torchs_steps_and_their_first_and_second_slopes_are_those_of_the_loop(kind):
    given = [part.requires_grad_() for part in numbers(kind)]
    slope = random(N, STEPS, HIDDEN, seed=9)
    results = []
    for run in (through_time, step_by_step):
        outputs = run(kind, *given)
        first = torch.autograd.grad(outputs, given, slope, create_graph=True)
        second = torch.autograd.grad(sum(part.square().sum() for part in first), given)
        results.append((outputs, *torch.autograd.grad(run(kind, *given), given, slope), *first, *second))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11)
    wrong = step_by_step(kind, given[0], *given[1:3], given[4], given[3] + 0.1)  # control
    assert float((results[0][0] - wrong).detach().abs().max()) > 1e-3


@EACH
def test_examples_side_by_side_are_those_one_by_one(kind):
    layer = RecurrentLayer(kind, INPUTS, HIDDEN).double()
    at = {name: value.detach() for name, value in layer.named_parameters()}

    def loss(values, one):
        return functional_call(layer, values, (one.unsqueeze(0),)).square().sum()

    x = random(N, STEPS, INPUTS)
    found = vmap(grad(loss), in_dims=(None, 0))(at, x)
    for place in range(N):
        wanted = torch.autograd.grad(layer(x[place : place + 1]).square().sum(), list(layer.parameters()))
        for (name, value), one in zip(found.items(), wanted, strict=True):
            torch.testing.assert_close(value[place], one, rtol=1e-10, atol=1e-12, msg=name)
