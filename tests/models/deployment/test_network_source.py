from __future__ import annotations

import operator
import re
import runpy

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

from bayesprune.models.deployment.export import export_network


def load(folder):
    return runpy.run_path(str(folder / "network.py"))["load"]()


class Program(nn.Module):
    """A random program: each line reads values made at any time before it, some work in place, some read sizes."""

    def __init__(self, seed, lines=25):
        super().__init__()
        generator = torch.Generator().manual_seed(seed)
        self.layers = nn.ModuleList(nn.Linear(4, 4) for _ in range(3))
        self.lines = torch.randint(0, 10**6, (lines, 4), generator=generator).tolist()

    def forward(self, x):
        values, sizes = [x * 1], [x.shape[0]]
        for kind, one, other, number in self.lines:
            a, b = values[one % len(values)], values[other % len(values)]
            kind %= 9
            if kind == 0:
                a.add_(b)
            elif kind == 1:
                values.append(a.mul_(0.5))
            elif kind == 2:
                sizes.append(a.shape[number % 2])
            elif kind == 3:
                values.append(a.reshape(-1, 4))
            elif kind == 4:
                values.append(torch.cat([a, b, a], dim=1)[:, 2:6])
            elif kind == 5:
                values.append(self.layers[number % 3](a))
            elif kind == 6:
                values.append(torch.tanh(a) - b * sizes[number % len(sizes)] / 4)
            elif kind == 7:
                values.append(F.relu(a, inplace=bool(number % 2)))
            else:
                values.append(a.view(sizes[0], 4))
        return values[-1], sum(torch.tanh(value) for value in values[::4]), sizes[-1]


@pytest.mark.parametrize("seed", range(20))
def test_a_variable_is_never_read_after_its_name_was_given_away(seed, tmp_path):
    network = Program(seed).double()
    exported = load(export_network(network, torch.randn(2, 4), tmp_path))
    x = torch.randn(3, 4, dtype=torch.float64)
    with torch.no_grad():
        found, expected = exported(x.clone()), network(x.clone())
    assert found[2] == expected[2]
    torch.testing.assert_close(found[:2], expected[:2], rtol=1e-12, atol=1e-12)
    body = (tmp_path / "network.py").read_text().split("def forward")[1].split("\ndef ")[0]
    given = re.findall(r"^        (\w+) = ", body, flags=re.MULTILINE)
    assert len(given) > len(set(given)) + 2  # names are given again


class Rebound(nn.Module):
    def forward(self, x):
        y = x * 1
        before, rows = y, x.shape[0]
        y += 1
        rows += 1
        y *= y + before
        return before, before + y, rows, x.shape[0]


def test_a_tensor_changed_in_place_is_changed_under_every_name(tmp_path):
    x = torch.randn(2, 3)
    found = load(export_network(Rebound(), x, tmp_path))(x)
    assert found[2:] == (3, 2)
    torch.testing.assert_close(found[:2], Rebound()(x)[:2], rtol=0, atol=0)
    assert not torch.allclose(found[0], x)  # control: what torch.fx's own trace gives
    torch.testing.assert_close(fx.symbolic_trace(Rebound())(x)[0], x, rtol=0, atol=0)


def test_operators_in_place_stay_in_place(tmp_path):
    graph = fx.Graph()
    x = graph.placeholder("x")
    y = graph.call_function(operator.mul, (x, 2))
    z = graph.call_function(operator.iadd, (y, 1))  # y is read again: it has to have changed
    w = graph.call_function(operator.imul, (z, x))
    graph.output((graph.call_function(operator.add, (y, w)), z))
    network, x = fx.GraphModule(nn.Module(), graph), torch.randn(2, 3)
    found = load(export_network(network, x, tmp_path))(x)
    torch.testing.assert_close(found, network(x), rtol=0, atol=0)
    torch.testing.assert_close(found[0], 2 * x * (2 * x + 1), rtol=1e-6, atol=1e-6)
