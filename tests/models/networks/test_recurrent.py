"""Recurrent networks: torch's own GRU and LSTM, FastGRNN by a loop in numpy, rows of images, both executions, units."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn

import bayesprune as bp
from bayesprune.models.costs.macs import count_macs
from bayesprune.models.networks.fast_grnn import FastGRNN, fast_grnn
from bayesprune.models.networks.recurrent import GRU, LSTM, RecurrentNetwork, gru, lstm
from bayesprune.models.ready_networks import NETWORKS
from bayesprune.models.units.compact import compact

DOUBLE = torch.float64
READY = {"gru": gru, "lstm": lstm, "fast-grnn": fast_grnn}
CELLS = {"gru": GRU, "lstm": LSTM, "fast-grnn": FastGRNN}
EACH = pytest.mark.parametrize("name", READY)


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=DOUBLE)


def small(name, shape=(1, 8, 8), width=0.25):
    torch.manual_seed(0)
    return NETWORKS[name](shape, 10, width).double()


# -- oracles ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cell", "torchs"), [(GRU, nn.GRU), (LSTM, nn.LSTM)])
def test_a_cell_gives_what_torch_s_layer_gives_at_the_same_weights(cell, torchs):
    torch.manual_seed(0)
    network = RecurrentNetwork(cell(5, 7), 6, 3).double()
    other = torchs(5, 7, batch_first=True).double()
    own = {"weight_ih_l0": "input.weight", "weight_hh_l0": "recurrent.weight"}
    own |= {"bias_ih_l0": "input.bias", "bias_hh_l0": "recurrent.bias"}
    other.load_state_dict({key: network.cell.get_parameter(name).detach() for key, name in own.items()})
    x = random(4, 6, 5)
    with torch.no_grad():
        found, wanted = network(x), network.head(other(x)[0][:, -1])
        torch.testing.assert_close(found, wanted, rtol=0, atol=1e-12)
        rows = network.cell.recurrent.weight.view(-1, 7, 7)
        rows[[0, 1]] = rows[[1, 0]]  # control: gates in another order
        assert float((network(x) - wanted).abs().max()) > 1e-3


def test_fast_grnn_is_the_loop_of_its_equations():
    torch.manual_seed(0)
    network = RecurrentNetwork(FastGRNN(5, 7), 6, 3).double()
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    x = random(4, 6, 5)
    at = {name: value.detach().numpy() for name, value in network.named_parameters()}

    def outputs(zeta, nu):
        h = np.zeros((4, 7))
        for t in range(6):
            p = x[:, t].numpy() @ at["cell.input.weight"].T + h @ at["cell.recurrent.weight"].T
            z, c = 1 / (1 + np.exp(-(p + at["cell.gate_bias"]))), np.tanh(p + at["cell.update_bias"])
            h = z * h + (zeta * (1 - z) + nu) * c
        return h @ at["head.weight"].T + at["head.bias"]

    zeta, nu = (1 / (1 + np.exp(-at[f"cell.{name}"])) for name in ("zeta", "nu"))
    np.testing.assert_allclose(network(x).detach().numpy(), outputs(zeta, nu), rtol=0, atol=1e-12)
    assert abs(network(x).detach().numpy() - outputs(zeta, 0.0)).max() > 1e-3  # control


@torch.no_grad()
def test_weights_start_as_published():
    torch.manual_seed(0)
    cell = FastGRNN(300, 200)
    for layer in (cell.input, cell.recurrent):
        assert float(layer.weight.mean()) == pytest.approx(0.0, abs=2e-3) and layer.bias is None
        assert float(layer.weight.std()) == pytest.approx(0.1, rel=0.02)
    assert (cell.gate_bias == 1).all() and (cell.update_bias == 1).all()
    assert (float(cell.zeta), float(cell.nu)) == (1.0, -4.0)
    for kind in (GRU, LSTM):
        for parameter in kind(30, 50).parameters():
            assert 0.9 / math.sqrt(50) < float(parameter.abs().max()) <= 1 / math.sqrt(50)


@pytest.mark.parametrize(("make", "parameters"), [(gru, 18_698), (lstm, 24_714), (fast_grnn, 6_668)])
def test_parameters_are_as_many_as_the_docstrings_say(make, parameters):
    assert sum(p.numel() for p in make().parameters()) == parameters
    assert make(width=0.5).cell.hidden == 32


# -- inputs -----------------------------------------------------------------------------------------------------------


@EACH
@torch.no_grad()
def test_images_are_read_row_by_row_with_all_channels(name):
    torch.manual_seed(0)
    network = READY[name]((3, 4, 5), 2).double()
    sequences = RecurrentNetwork(network.cell, 4, 2)
    sequences.head = network.head
    x = random(2, 3, 4, 5)
    rows = torch.stack([torch.cat([x[:, channel, at] for channel in range(3)], 1) for at in range(4)], 1)
    torch.testing.assert_close(network(x), sequences(rows), rtol=0, atol=1e-15)
    assert float((network(x) - network(x.flip(2))).abs().max()) > 1e-6  # the order of the rows matters


@EACH
def test_other_inputs_are_refused(name):
    with pytest.raises(ValueError, match=r"inputs of shape \(13,\), but it needs sequences \(steps, features\)"):
        NETWORKS[name]((13,), 10)
    network = READY[name]((6, 5), 2)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        network(torch.zeros(2, 7, 5))
    with pytest.raises(ValueError, match="width is 0"):
        READY[name](width=0)
    with pytest.raises(ValueError, match="classes is 0"):
        READY[name](classes=0)


# -- what they go with ------------------------------------------------------------------------------------------------

PIXELS, LABELS = load_digits(return_X_y=True)
X, Y = torch.tensor(PIXELS[:600] / 16.0).reshape(-1, 1, 8, 8), torch.tensor(LABELS[:600])


@EACH
def test_both_executions_take_the_same_steps(name):
    def fitted(execution, prior=None):
        prior = bp.LowRank(1.0) if prior is None else prior
        model = bp.BayesianNetwork(small(name), {"cell.*.weight": prior}, data_size=len(X))
        how = {"epochs": 2, "batch_size": 100, "learning_rate": 0.3, "precision": "float64", "seed": 0}
        return bp.fit(model, (X, Y), execution=execution, **how)

    plain, fused = fitted("plain"), fitted("fused")
    assert fused.settings["execution"]["fused_steps"] >= 8
    start = bp.BayesianNetwork(small(name), {"cell.*.weight": bp.LowRank(1.0)}, data_size=len(X))
    before = {name: start.network.get_parameter(name) for name in start.priors}
    after = plain.included_weights()
    for tensor, weight in fused.included_weights().items():
        torch.testing.assert_close(weight, after[tensor], rtol=0, atol=1e-10)
        assert float((weight - before[tensor]).abs().max()) > 1e-3  # control: steps were taken


@EACH
def test_hidden_units_that_nothing_reads_are_removed_from_all_steps(name):
    network = small(name)
    dead = [1, 5, 9]
    with torch.no_grad():
        network.head.weight[:, dead] = 0.0
        network.cell.recurrent.weight[:, dead] = 0.0
    result = compact(network, X[:2])
    assert result.report.units_after["cell.input"] == 13 and result.report.max_relative_difference < 1e-10
    torch.testing.assert_close(result.network(X), network(X), rtol=0, atol=1e-12)
    kept = small(name)
    with torch.no_grad():
        kept.head.weight[:, dead] = 0.0  # they still speak to the next step
    assert compact(kept, X[:2]).report.units_after["cell.input"] == 16


@EACH
def test_cut_networks_are_exported(name, tmp_path):
    network = small(name).float()
    with torch.no_grad():
        network.head.weight[:, 3] = 0.0
        network.cell.recurrent.weight[:, 3] = 0.0
    made = compact(network, X[:2].float()).network
    bp.export_network(made, X[:2].float(), tmp_path / "net")
    space = {"__name__": "network", "__file__": str(tmp_path / "net" / "network.py")}
    exec((tmp_path / "net" / "network.py").read_text(), space)
    torch.testing.assert_close(space["load"]()(X.float()), made(X.float()), rtol=0, atol=1e-6)


@EACH
def test_macs_are_those_of_the_two_matrices_at_every_step(name):
    network = small(name)
    counted = count_macs(network, X[:3])
    assert counted["cell.input"].dense == 8 * network.cell.input.weight.numel()
    assert counted["cell.recurrent"].dense == 8 * network.cell.recurrent.weight.numel()
    assert counted["head"].dense == network.head.weight.numel()
