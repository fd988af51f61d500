from __future__ import annotations

import copy
import pickle
import subprocess
import sys
import warnings

import pytest
import torch
from torch import fx, nn

from bayesprune.models.deployment.export import export_network
from bayesprune.models.networks.lenet import lenet_5, lenet_300_100
from bayesprune.models.networks.standardisation import UNITS, put_in_units, units_of
from bayesprune.models.units.compact import compact


class Own(nn.Module):
    """A network with code of its own, whose outputs have no column."""

    def __init__(self):
        super().__init__()
        self.first, self.last = nn.Linear(6, 9), nn.Linear(9, 1)

    def forward(self, x):
        return self.last(torch.relu(self.first(x))).squeeze(-1)


class Series(nn.Module):
    """A recurrent network."""

    def __init__(self):
        super().__init__()
        self.cell, self.last = nn.GRU(4, 5, batch_first=True), nn.Linear(5, 1)

    def forward(self, x):
        return self.last(self.cell(x)[0][:, -1])


NETWORKS = {
    "sequential": (lambda: lenet_300_100(6, 1, (9, 5)), (6,), (6,)),
    "own code": (Own, (6,), (6,)),
    "one layer": (lambda: nn.Linear(6, 1), (6,), (6,)),
    "graph": (lambda: fx.symbolic_trace(Own()), (6,), (6,)),
    "series": (Series, (3, 4), (4,)),
    "images": (lambda: lenet_5(2, 28, 1, width=0.1), (2, 28, 28), (2, 1, 1)),
}


def standardised(name):
    """A network in units, the same one without them, inputs, and what it has to give for them."""
    make, shape, units = NETWORKS[name]
    torch.manual_seed(0)
    plain = make().double().eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            if len(parameter) > 4 and name != "series":
                parameter[1] = 0.0  # a dead unit
    x = 5.0 * torch.randn(7, *shape, dtype=torch.float64) + 3.0
    mean, sd = 3.0 + torch.randn(units, dtype=torch.float64), 4.0 + torch.rand(units, dtype=torch.float64)
    shift, factor = torch.tensor(152.0).double(), torch.tensor(77.0).double()
    made = copy.deepcopy(plain)
    put_in_units(made, dict(zip(UNITS, (mean, sd, shift, factor), strict=True)))
    return made, plain, x, plain((x - mean) / sd) * factor + shift


def near(found, wanted):
    return torch.allclose(found, wanted, rtol=1e-10, atol=0.0)


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_in_units_takes_raw_numbers_and_gives_raw_ones(name):
    made, plain, x, wanted = standardised(name)
    assert near(made(x), wanted) and not near(plain(x), wanted)
    assert type(made).__name__ == type(copy.deepcopy(plain)).__name__
    assert [n for n, _ in made.named_parameters()] == [n for n, _ in plain.named_parameters()]
    assert [n for n, _ in made.named_modules()] == [n for n, _ in plain.named_modules()]
    assert set(units_of(made)) == set(UNITS) and not units_of(plain)


@pytest.mark.parametrize("name", NETWORKS)
def test_copies_and_functional_calls_keep_the_units(name):
    made, _, x, wanted = standardised(name)
    again = copy.deepcopy(copy.deepcopy(made))
    assert near(again(x), wanted)
    weights = {n: torch.zeros_like(p) for n, p in made.named_parameters()}
    assert near(torch.func.functional_call(made, weights, (x,)), torch.full_like(wanted, 152.0))
    with torch.no_grad():
        again.data_output_shift += 1.0
    assert near(again(x), wanted + 1.0) and near(made(x), wanted)
    rows = torch.vmap(lambda one: made(one.unsqueeze(0)).squeeze(0))(x) if name != "series" else wanted
    assert near(rows, wanted)


@pytest.mark.parametrize("name", ["sequential", "own code", "images"])
def test_pickled_networks_come_back_in_their_units(name):
    made, _, x, wanted = standardised(name)
    again = pickle.loads(pickle.dumps(made))
    assert near(again(x), wanted) and type(again).__name__ == type(made).__name__


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "one layer"])  # which has no units to remove
def test_compact_networks_keep_the_units(name):
    made, plain, x, wanted = standardised(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        result = compact(made, x)
        unit_less = compact(plain, x)
    assert near(result.network(x), wanted)
    assert result.report.parameters_after == unit_less.report.parameters_after
    if name != "series":
        assert result.report.parameters_after < result.report.parameters_before


@pytest.mark.parametrize("name", NETWORKS)
def test_exported_networks_are_in_units(name, tmp_path):
    made, _, x, wanted = standardised(name)
    export_network(made, x, tmp_path / "out")
    file = tmp_path / "out" / "network.py"
    space = {"__name__": "network", "__file__": str(file)}
    exec(compile(file.read_text(), str(file), "exec"), space)
    assert near(space["load"]()(x), wanted)


def test_exported_networks_run_without_bayesprune(tmp_path):
    made, _, x, wanted = standardised("own code")
    export_network(made, x, tmp_path / "out")
    torch.save(x, tmp_path / "x.pt")
    code = (
        "import sys, torch; sys.path.insert(0, 'out'); from network import load\n"
        "torch.save(load()(torch.load('x.pt')), 'y.pt'); assert 'bayesprune' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, env={"OMP_NUM_THREADS": "1"})
    assert near(torch.load(tmp_path / "y.pt"), wanted)


def test_inputs_or_outputs_alone_can_be_in_units():
    network, x = Own(), torch.randn(4, 6)
    for names, wanted in ((UNITS[:2], network((x - 1.0) / 2.0)), (UNITS[2:], 1.0 + 2.0 * network(x))):
        made = copy.deepcopy(network)
        put_in_units(made, dict(zip(names, (torch.tensor(1.0), torch.tensor(2.0)), strict=True)))
        torch.testing.assert_close(made(x), wanted)


def test_part_of_a_sequential_is_as_it_was():
    made, plain, x, _ = standardised("sequential")
    assert near(made[:2](x), plain[:2](x))


class Compiled(Own):
    """A network whose forward belongs to the instance."""

    def __init__(self):
        super().__init__()
        self.forward = super().forward


def test_what_cannot_be_put_in_units_is_refused():
    units = dict(zip(UNITS[2:], (torch.tensor(1.0), torch.tensor(2.0)), strict=True))
    network = Own()
    put_in_units(network, units)
    with pytest.raises(ValueError, match="has data_output_shift already"):
        put_in_units(network, units)
    with pytest.raises(ValueError, match="go together"):
        put_in_units(Own(), {UNITS[0]: torch.tensor(1.0)})
    with pytest.raises(ValueError, match="an attribute of its own"):
        put_in_units(Compiled(), units)
