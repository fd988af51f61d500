"""The gates of a network, as a way: which gates there are, what each multiplies, and their Pyro sites."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, cast

import pyro
import pyro.distributions as dist
import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.models.costs.expected_costs import ExpectedCosts
from bayesprune.models.gates.gate_masks import masked, take_masks
from bayesprune.models.gates.gate_pressures import Flattening, GatePressure
from bayesprune.models.gates.gate_sets import GateSet, GateSlice, along, branch_gate_sets, find_slices, unit_gate_sets
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.knobs import MovingNumber
from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.tracing.not_followed import NotFollowedError
from bayesprune.models.units.channel_groups import ChannelGroups, Units
from bayesprune.models.units.residual_branches import ResidualBranch, residual_branches
from bayesprune.models.ways.buffer_dict import BufferDict
from bayesprune.models.ways.way import Way

__all__ = ["NetworkGates"]

_PROBED = 3
"""Examples on which masks for each of them are tried."""


class NetworkGates(Way):
    """A `UnitGates` bound to a network.

    Args:
        declaration: What was declared.
        network: The network.
        example_input: A tensor of inputs, `(n, ...)`, to trace it with.
        data_size: Number of data.
        before: The gates of the network before units were removed, whose units alone have a gate, and whose costs stand
            for the whole network; default None: this is the network as it was declared.

    Attributes:
        groups: The units of the network.
        branches: Residual branches with a gate.
        sets: The gates, by site.
        tensors: Names of the weights (not biases) that make or read a unit with a gate.
        costs: Expected costs of the network.
        whole: MACs of one example and parameters with all gates open, of the network as it was declared.
        declared_count: How many gates were declared.
        per_example: Whether every example of a batch can have gates of its own (readers are linear layers and
            convolutions, called as modules).
        is_pressed_by_cost: Whether the price is the expected cost of the network.
        price: A knob of the model: a factor on the declared price, 1 until a rule moves it; set before a step is
            traced.

    Raises:
        ValueError: If the network cannot be traced, or no unit may be removed.
    """

    name = "gates"
    closes_units = True
    states_price = True
    follows_removal = True
    sets: Mapping[str, GateSet]

    def __init__(
        self,
        declaration: UnitGates,
        network: nn.Module,
        example_input: Tensor,
        data_size: int,
        before: NetworkGates | None = None,
    ) -> None:
        super().__init__()
        self.declaration, self.data_size = declaration, data_size
        self.price = MovingNumber()
        if before is not None and before.price.is_moved:
            self.price.set(float(before.price.value))
        like = next(network.parameters())
        example_input = example_input.to(like.device, like.dtype if example_input.is_floating_point() else None)
        self.whole: tuple[float, float]
        self.declared_count: int
        self.groups = _groups(network, example_input)
        self.branches = _branches(declaration, network, example_input, before)
        units = unit_gate_sets(self.groups, lambda units: before is None or before.has_gates(units))
        if not units and before is None:
            reasons = "; ".join(f"{u.name}: {u.refused}" for u in self.groups.sets.values())
            raise ValueError(f"no unit of the network may be removed, so that there is nothing to gate ({reasons})")
        self.sets = {**units, **branch_gate_sets(self.branches)}
        readers, makers = find_slices(self.sets, self.groups)
        self._readers, self._makers = nn.ModuleList(readers), nn.ModuleList(makers)
        self._numbers = BufferDict({site: gates.numbers for site, gates in units.items()}, persistent=False)
        self.costs = ExpectedCosts(
            network, example_input, self.groups, {name: branch.layers for name, branch in self.branches.items()}
        )
        self._cost_tables = self.costs.tables  # which move with the other ones
        self.to(like.device)
        self.whole = self.costs.whole if before is None else before.whole
        count = sum(gates.count for gates in self.sets.values())
        self.declared_count = count if before is None else before.declared_count
        parameters = dict(network.named_parameters())
        touched = dict.fromkeys(part.tensor for part in [*makers, *readers])
        self.tensors = tuple(name for name in touched if parameters[name].ndim >= 2)
        self.per_example = take_masks(network, readers) and self._takes_masks(network, example_input)
        self.acts_inside = self.per_example
        self._declared_pressure = pressure = declaration.pressure(data_size)
        self.is_pressed_by_cost = pressure is None
        self._pressures: dict[str, GatePressure] = {}
        if pressure is not None:
            self._pressures = dict.fromkeys(self.sets, pressure)
        else:
            self.press({site: torch.full((gates.count,), declaration.start) for site, gates in self.sets.items()})

    @classmethod
    def among(cls, ways: Iterable[nn.Module]) -> NetworkGates:
        """The gates among the ways of a model.

        Raises:
            ValueError: If it has none.
        """
        found = next((way for way in ways if isinstance(way, NetworkGates)), None)
        if found is None:
            raise ValueError("the model has no gates of units: declare gates=UnitGates(...)")
        return found

    @property
    def config(self) -> Mapping[str, Any]:
        """What was declared, by name and arguments."""
        return self.declaration.config

    @property
    def knobs(self) -> Mapping[str, MovingNumber]:
        """The price, where it is paid for every open gate."""
        return {"price": self.price} if self.declaration.has_straight_price else {}

    @property
    def settings(self) -> Mapping[str, Any]:
        """The arguments of `UnitGates`; of a cost its strength."""
        cost = self.declaration.cost
        return {**self.declaration.config["arguments"], "cost": None if cost is None else cost.strength}

    @property
    def defaults(self) -> Mapping[str, float | None]:
        """The price of a unit in nats, where it is one number."""
        return {"log_gamma": self.declaration.price(self.data_size)}

    def __repr__(self) -> str:
        counts = ", ".join(f"{one.count} of {one.owner}" for one in self.sets.values())
        return f"{self.declaration!r} on {counts}"

    def on(self, network: nn.Module, example_input: Tensor) -> NetworkGates:
        """The gates of the units that are left."""
        return NetworkGates(self.declaration, network, example_input, self.data_size, self)

    def has_gates(self, units: Units) -> bool:
        """Whether units have gates here; those of a smaller network too, whose first layer may have been removed."""
        return any(f"{self.groups[layer].name}.gate" in self.sets for layer in units.layers)

    def pressure(self, site: str) -> GatePressure:
        """What presses the gates of a site to zero."""
        return self._priced(self._pressures[site])

    def press(self, theta: Mapping[str, Tensor]) -> None:
        """Sets the price of every gate to its marginal expected cost at `theta`, where cost is the price."""
        if self.is_pressed_by_cost:
            self._pressures = {site: Flattening(price) for site, price in self.prices(theta).items()}

    def prices(self, theta: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What opening each gate a little more costs at `theta`, nats for each unit of probability, by site."""
        with torch.enable_grad():
            at = {site: value.detach().requires_grad_(True) for site, value in theta.items()}
            return dict(zip(at, torch.autograd.grad(self.cost(at), list(at.values())), strict=True))

    def cost(self, theta: Mapping[str, Tensor]) -> Tensor:
        """What the gates cost in nats at posterior probabilities `theta`, by site; a constant less under a cost."""
        if self.declaration.cost is not None:
            cost = self.data_size * self.declaration.cost.penalty(self.costs, *self.by_owner(theta), self.whole)
            return cost * self.price.like(cost) if self.price.is_moved else cost
        assert self._declared_pressure is not None
        pressure = self._priced(self._declared_pressure)
        removed = self.declared_count - sum(gates.count for gates in self.sets.values())
        like = next(iter(theta.values())) if theta else torch.zeros(1)
        costs = [pressure.cost(value).sum() for value in theta.values()]
        return torch.stack([*costs, removed * pressure.cost(like.new_zeros(()))]).sum()

    def _priced(self, pressure: GatePressure) -> GatePressure:
        """The pressure at the price of now; a cost's are marginal costs already, which `press` has taken at it."""
        if not self.price.is_moved or self.is_pressed_by_cost or not isinstance(pressure, Flattening):
            return pressure
        return pressure.priced(self.price.value)

    def by_owner(self, theta: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Probabilities by set of units, `(units,)` with ones for those without a gate, and by residual branch."""
        units, layers = {}, {}
        for site, gates in self.sets.items():
            if gates.is_layer:
                layers[gates.owner] = theta[site].squeeze(0)
            else:
                all_open = torch.ones(
                    self.groups[gates.owner].count, dtype=theta[site].dtype, device=theta[site].device
                )
                units[gates.owner] = all_open.index_copy(0, self._numbers[site], theta[site])
        return units, layers

    def sample(self, like: Tensor) -> dict[str, Tensor]:
        """Draws pi and gates as Pyro statements; returns the gates by site."""
        values = {}
        for site, gates in self.sets.items():
            pressure = self.pressure(site)
            prior = pressure.prior(like)
            if prior is None:
                pi = pressure.best(like.new_ones(gates.count))
            else:
                pi = pyro.sample(gates.probability_site, prior.expand((gates.count,)).to_event(1))
            values[site] = pyro.sample(site, Iid(dist.Bernoulli(pi), (gates.count,)))
        return values

    def weights(
        self, weights: Mapping[str, Tensor], values: Mapping[str, Tensor], network: nn.Module
    ) -> dict[str, Tensor]:
        """Puts gates into weights: what reads a unit is multiplied by its gate, and what a branch puts out by its own.

        Args:
            weights: Weights by name of tensor; what is not among them is taken from the network.
            values: Gates by site, `(count,)`; without them all are open.
            network: The network.

        Returns:
            The given weights and all others that gates multiply, by name.
        """
        gated = dict(weights)
        if not self._are_given(values):
            return gated
        for reader in self._slices(self._readers):
            weight = gated.get(reader.tensor, network.get_parameter(reader.tensor))
            gated[reader.tensor] = weight * along(reader.mask(values), reader.dim, weight.ndim)
        for name, branch in self.branches.items():
            for tensor in branch.output:
                gated[tensor] = gated.get(tensor, network.get_parameter(tensor)) * values[f"{name}.layer_gate"]
        return gated

    def closed(
        self, weights: Mapping[str, Tensor], values: Mapping[str, Tensor], network: nn.Module
    ) -> dict[str, Tensor]:
        """As `weights`; what makes a unit whose gate is exactly zero is zero too, which changes no output."""
        gated = self.weights(weights, values, network)
        if not self._are_given(values):
            return gated
        for maker in self._slices(self._makers):
            if maker.tensor in weights:
                is_open = (maker.mask(values) != 0).to(gated[maker.tensor].dtype)
                gated[maker.tensor] = gated[maker.tensor] * along(is_open, maker.dim, gated[maker.tensor].ndim)
        for name, branch in self.branches.items():
            for tensor in weights:
                if tensor.rpartition(".")[0] in branch.layers:
                    gated[tensor] = torch.where(values[f"{name}.layer_gate"] != 0, gated[tensor], 0.0)
        return gated

    def open(self, values: Mapping[str, Tensor], network: nn.Module) -> dict[str, Tensor]:
        """Probability that all gates of a weight are open: of its row, its column and its branch.

        Args:
            values: Probabilities of the gates by site, `(count,)`, or gates.
            network: The network.

        Returns:
            Probabilities by name of tensor, `(out, in, ...)`, for `tensors` and all other weights inside branches.
        """
        found: dict[str, Tensor] = {}
        for name in self.tensors:
            ndim = network.get_parameter(name).ndim
            every = (*self._slices(self._makers), *self._slices(self._readers))
            parts = [part for part in every if part.tensor == name]
            open_ = [along(part.mask(values), part.dim, ndim) for part in parts]
            together = open_[0] if len(open_) == 1 else open_[0] * open_[1]
            if len(parts) == 2:  # a gate that a weight meets twice, as rows and columns of a residual sum, is still one
                row, column = (along(part.gate_number(self.sets), part.dim, ndim) for part in parts)
                together = torch.where((row == column) & (row >= 0), open_[0].expand_as(together), together)
            found[name] = together.expand_as(network.get_parameter(name)).clone()
        for branch in self.branches.values():
            for name, parameter in network.named_parameters():
                if name.rpartition(".")[0] in branch.layers and parameter.ndim >= 2:
                    there = values[f"{branch.name}.layer_gate"]
                    found[name] = found.get(name, torch.ones_like(parameter)) * there
        return found

    @contextmanager
    def inside(self, network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Lets the network run with gates on what its layers read: `(count,)`, or `(batch, count)` for each example.

        The same as with `weights`, where all examples share their gates.
        """
        if not self._are_given(values):
            yield
            return
        branches = [
            (branch.output[0].rpartition(".")[0], values[f"{name}.layer_gate"])
            for name, branch in self.branches.items()
        ]
        with masked(network, self._slices(self._readers), values, branches):
            yield

    def _are_given(self, values: Mapping[str, Tensor]) -> bool:
        """Whether there are values of the gates; without them all are open."""
        return any(site in values for site in self.sets)

    @staticmethod
    def _slices(slices: nn.ModuleList) -> Iterable[GateSlice]:
        return cast(Iterable[GateSlice], slices)

    def _takes_masks(self, network: nn.Module, example_input: Tensor) -> bool:
        """Whether masks for each example do what gates in weights do, example by example: layers may mix dimensions."""
        generator = torch.Generator().manual_seed(0)
        x = example_input[:1].repeat(_PROBED, *[1] * (example_input.ndim - 1))
        if x.is_floating_point():
            x = torch.randn(x.shape, generator=generator).to(x)
        like = next(network.parameters())
        masks = {
            site: (torch.rand(_PROBED, one.count, generator=generator) < 0.5).to(like)
            for site, one in self.sets.items()
        }
        try:
            with evaluation_mode(network), torch.no_grad():
                with self.inside(network, masks):
                    together = network(x)
                alone = [
                    functional_call(network, self.weights({}, {s: m[row] for s, m in masks.items()}, network), (part,))
                    for row, part in enumerate(x.split(1))
                ]
        except (RuntimeError, ValueError, IndexError):
            return False
        expected = torch.cat(alone)
        scale = 1e-3 * float(expected.abs().max())
        return together.shape == expected.shape and torch.allclose(together, expected, rtol=1e-3, atol=scale)


def _groups(network: nn.Module, example_input: Tensor) -> ChannelGroups:
    """The units of a network that is to have gates."""
    try:
        return ChannelGroups(network, example_input)
    except NotFollowedError as problem:
        raise problem.otherwise("leave out gates= and give priors= on its weights") from problem


def _branches(
    declaration: UnitGates, network: nn.Module, example_input: Tensor, before: NetworkGates | None
) -> dict[str, ResidualBranch]:
    """The residual branches that have a gate, by name."""
    branches = residual_branches(network, example_input) if declaration.layers else {}
    if before is not None:  # what a removal has made removable, or a branch, has no gate
        outputs = {branch.output for branch in before.branches.values()}
        return {name: branch for name, branch in branches.items() if branch.output in outputs}
    if declaration.layers and not branches:
        raise ValueError(
            "layers=True puts gates on residual branches, but the network has none: leave it out, or use a network "
            "with residual sums"
        )
    return branches
