"""Small networks whose units have gates, each beside a forward pass written by hand that multiplies activations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy import optimize
from torch import Tensor, nn
from torch.nn import functional as F

import bayesprune as bp
from bayesprune.models.gates.gate_pressures import GatePressure
from bayesprune.models.networks.lenet import lenet_5
from tests.oracles.units_reference import Net

Gates = Mapping[str, Tensor]


@dataclass(frozen=True)
class Gated:
    """A network and what its gates do.

    Attributes:
        make: Makes the network.
        shape: Shape of one input.
        by_hand: Outputs of the network, an input and gates by site, `(units,)` or `(batch, units)`.
        gates: Number of gates, by site.
        per_example: Whether examples may have gates of their own.
        layers: Whether residual branches have gates.
    """

    make: Callable[[], nn.Module]
    shape: tuple[int, ...]
    by_hand: Callable[..., Tensor]
    gates: dict[str, int]
    per_example: bool = True
    layers: bool = False

    def model(self, **options: object) -> bp.BayesianNetwork:
        """A model in float64 with normalisations that do something, and gates at a price of 2 nats."""
        torch.manual_seed(0)
        network = uneven(self.make().double())
        gates = bp.UnitGates(**{"log_gamma": 2.0, "weight_scale": 0.3, "layers": self.layers, **options})
        example = torch.zeros(1, *self.shape, dtype=torch.float64)
        return bp.BayesianNetwork(network, {}, data_size=50, gates=gates, example_input=example)

    def inputs(self, count: int = 4, seed: int = 1) -> Tensor:
        """Inputs, `(count, ...)`."""
        generator = torch.Generator().manual_seed(seed)
        return torch.randn(count, *self.shape, generator=generator, dtype=torch.float64)

    def values(self, batch: int | None = None, seed: int = 2) -> dict[str, Tensor]:
        """Gates by site, numbers from 0 to 1 with some exact zeros; `(units,)`, or `(batch, units)`."""
        generator = torch.Generator().manual_seed(seed)
        found = {}
        for site, count in self.gates.items():
            shape = (count,) if batch is None else (batch, count)
            drawn = torch.rand(shape, generator=generator, dtype=torch.float64)
            found[site] = torch.where(drawn < 0.3, 0.0, drawn)
        return found


def uneven(network: nn.Module) -> nn.Module:
    """Gives batch normalisation scales, shifts and statistics that are all different, in place."""
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, nn.BatchNorm2d):
                for tensor in (layer.weight, layer.running_var):
                    tensor.uniform_(0.5, 1.5)
                for tensor in (layer.bias, layer.running_mean):
                    tensor.normal_(0.0, 0.3)
    return network


def times(x: Tensor, gates: Tensor) -> Tensor:
    """Activations `(batch, channels, ...)` times gates of channels, `(channels,)` or `(batch, channels)`."""
    return x * gates.reshape(*gates.shape, *[1] * (x.ndim - 2))


def perceptron() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2))


def _perceptron(net: nn.Module, x: Tensor, gates: Gates) -> Tensor:
    hidden = torch.tanh(net[0](x)) * gates["0.gate"]
    return net[4](torch.tanh(net[2](hidden)) * gates["2.gate"])


def _lenet(net: nn.Module, x: Tensor, gates: Gates) -> Tensor:
    h = times(F.max_pool2d(F.relu(net.conv1(x)), 2), gates["conv1.gate"])
    h = times(F.max_pool2d(F.relu(net.conv2(h)), 2), gates["conv2.gate"])
    h = F.relu(net.fc1(h.flatten(1))) * gates["fc1.gate"]
    return net.fc2(h)


def convolutional() -> nn.Module:
    return Net(
        lambda net, x: _convolutional(net, x, None),
        first=nn.Conv2d(2, 8, 3, padding=1),
        one=nn.BatchNorm2d(8),
        depth=nn.Conv2d(8, 8, 3, padding=1, groups=8),
        two=nn.BatchNorm2d(8),
        grouped=nn.Conv2d(8, 6, 1, groups=2),
        three=nn.BatchNorm2d(6),
        up=nn.ConvTranspose2d(6, 3, 2),
        fc=nn.Linear(3 * 25, 2),
    )


def _convolutional(net: nn.Module, x: Tensor, gates: Gates | None) -> Tensor:
    """Units of the two groups of `grouped` go together by position, what it reads and what it makes."""

    def gated(h: Tensor, site: str, groups: int) -> Tensor:
        return h if gates is None else times(h, torch.cat([gates[site]] * groups, dim=-1))

    h = F.relu(net.one(net.first(x)))
    h = gated(F.relu(net.two(net.depth(h))), "first.gate", 2)
    h = gated(torch.sigmoid(net.three(net.grouped(F.max_pool2d(h, 2)))), "grouped.gate", 2)
    h = gated(F.elu(net.up(h)), "up.gate", 1)
    return net.fc(h.flatten(1))


def residual() -> nn.Module:
    return Net(
        lambda net, x: _residual(net, x, None),
        stem=nn.Conv2d(1, 5, 3, padding=1, bias=False),
        norm=nn.BatchNorm2d(5),
        **{f"a{key}": layer for key, layer in _branch(5, 3).items()},
        **{f"b{key}": layer for key, layer in _branch(5, 4).items()},
        fc=nn.Linear(5, 2),
    )


def _branch(outer: int, inner: int) -> dict[str, nn.Module]:
    return {
        "_in": nn.Conv2d(outer, inner, 3, padding=1),
        "_one": nn.BatchNorm2d(inner),
        "_out": nn.Conv2d(inner, outer, 3, padding=1, bias=False),
        "_two": nn.BatchNorm2d(outer),
    }


def _residual(net: nn.Module, x: Tensor, gates: Gates | None) -> Tensor:
    def gated(h: Tensor, site: str) -> Tensor:
        return h if gates is None else times(h, gates[site])

    stream = F.relu(net.norm(net.stem(x)))
    for name, one, two in (("a", net.a_one, net.a_two), ("b", net.b_one, net.b_two)):
        inner = getattr(net, f"{name}_in")(gated(stream, "stem.gate"))
        inner = gated(F.relu(one(inner)), f"{name}_in.gate")
        branch = gated(two(getattr(net, f"{name}_out")(inner)), f"{name}_two.layer_gate")
        stream = F.relu(branch + stream)
    return net.fc(gated(stream, "stem.gate").mean(dim=(2, 3)))


class Recurrent(nn.Module):
    """Three steps of a cell, whose hidden units it reads itself."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(2, 3)
        self.fc = nn.Linear(3, 2)

    def forward(self, x: Tensor) -> Tensor:
        h = self.cell(x[:, 0])
        h = self.cell(x[:, 1], h)
        return self.fc(self.cell(x[:, 2], h))


def _recurrent(net: nn.Module, x: Tensor, gates: Gates) -> Tensor:
    """The cell's matrix reads gated units; its leaky memory of a unit is no reader."""
    cell, gate = net.cell, gates["cell.gate"]
    h = torch.zeros(len(x), 3, dtype=x.dtype)
    for step in range(3):
        own = F.linear(x[:, step], cell.weight_ih, cell.bias_ih).chunk(3, dim=1)
        back = F.linear(h * gate, cell.weight_hh, cell.bias_hh).chunk(3, dim=1)
        r, z = torch.sigmoid(own[0] + back[0]), torch.sigmoid(own[1] + back[1])
        h = (1 - z) * torch.tanh(own[2] + r * back[2]) + z * h
    return net.fc(h * gate)


PERCEPTRON = Gated(perceptron, (3,), _perceptron, {"0.gate": 4, "2.gate": 3})
CASES = {
    "perceptron": PERCEPTRON,
    "lenet": Gated(
        lambda: lenet_5(image_size=16, classes=3, width=0.1),
        (1, 16, 16),
        _lenet,
        {"conv1.gate": 2, "conv2.gate": 5, "fc1.gate": 50},
    ),
    "convolutional": Gated(
        convolutional, (2, 8, 8), _convolutional, {"first.gate": 4, "grouped.gate": 3, "up.gate": 3}
    ),
    "residual": Gated(
        residual,
        (1, 6, 6),
        _residual,
        {"stem.gate": 5, "a_in.gate": 3, "b_in.gate": 4, "a_two.layer_gate": 1, "b_two.layer_gate": 1},
        layers=True,
    ),
    "recurrent": Gated(Recurrent, (3, 2), _recurrent, {"cell.gate": 3}, per_example=False),
}
"""Networks by what is special about them."""


def numerical_minimum(pressure: GatePressure, theta: float) -> tuple[float, float]:
    """The smallest KL(Bernoulli(theta) || Bernoulli(pi)) - log p(pi), by search over pi, and that pi."""
    at = torch.tensor(theta, dtype=torch.float64)

    def cost(log_odds: float) -> float:
        odds = torch.tensor(log_odds, dtype=torch.float64)
        expected = at * F.logsigmoid(odds) + (1.0 - at) * F.logsigmoid(-odds)
        return float(-F.binary_cross_entropy(at, at) - expected - pressure.prior(at).log_prob(odds.sigmoid()))

    found = optimize.minimize_scalar(cost, bounds=(-40.0, 40.0), method="bounded", options={"xatol": 1e-9})
    return float(found.fun), float(1.0 / (1.0 + np.exp(-found.x)))
