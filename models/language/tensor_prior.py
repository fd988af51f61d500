"""A hierarchy bound to one parameter tensor: its Pyro sites, their shapes, and how to run it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import pyro
import torch
from torch import Tensor
from torch.distributions import Distribution, constraints

from bayesprune.models.language.declaration_errors import DeclarationError, WrongShapeError
from bayesprune.models.language.declared_constants import moved, python_numbers_as
from bayesprune.models.language.deterministic_nodes import as_node, check_node
from bayesprune.models.language.gate_support import GatesNotDrawnError
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.knobs import MovingNumber
from bayesprune.models.language.latent import PROGRESS, WEIGHT, Declared, Latent, is_distribution
from bayesprune.models.language.levels import level_shape
from bayesprune.models.language.scale_mixture import conditional_sd
from bayesprune.models.language.site_checks import check_distribution, declaration_run_on, validated
from bayesprune.models.language.supports import fixed_values, interval_bounds, shuffled, support_name

Draw = Callable[[str, Iid], Tensor]


@dataclass(frozen=True)
class Site:
    """One Pyro sample site that a prior declares.

    Attributes:
        name: Name of the site: ``"fc1.weight.lam"``, ``"fc1.weight"`` for the weights themselves, and the
            pattern in place of the tensor for a latent of the whole network: ``"fc*.weight.tau"``.
        latent: Name of the latent in its hierarchy.
        tensor: Name of the parameter tensor; the pattern for a latent of the whole network.
        shape: Shape of a draw.
        support: ``"real"``, ``"positive"``, ``"unit"``, ``"boolean"``, ``"interval"`` (between positive numbers) or
            ``"other"``.
        per: Level of the latent.
        guide: The guide family that the latent insists on, or None.
        spread: Standard deviation with which the guide starts, or None: see `Latent`.
        bounds: Ends of an interval.
    """

    name: str
    latent: str
    tensor: str
    shape: tuple[int, ...]
    support: str
    per: str
    guide: str | None
    spread: float | None = None
    bounds: tuple[float, float] | None = None


class TensorPrior:
    """A hierarchy bound to the parameter tensor `name`.

    Args:
        name: Name of the parameter tensor, e.g. ``"fc1.weight"``.
        hierarchy: The hierarchy.
        shape: Shape of the tensor, `(out, in, ...)`.
        data_size: Number of data, for callables that ask for it.
        pattern: The pattern that matched the tensor; names latents of the whole network. Default `name`.
        progress: The model's progress, for callables that ask for it; default None: one of its own.
        declared_shape: The shape whose size and fan-in callables are told, that of the tensor before units were
            removed: the prior stays the same. Default None: `shape`.
        knobs: The model's knobs of this hierarchy by name; default None: of its own, where they were declared.

    Attributes:
        deterministic: Names of the nodes that are functions of others, whose callables return a tensor.
        sites: The sample sites by name of latent; with ``"weight"`` among them if the weights are a latent.
        weight_is_latent: Whether the weights are sampled rather than a function of the latents.
        progress: The progress that callables are given.
        moving: The numbers that callables are given as tensors, by name: progress and the knobs.

    Raises:
        ValueError: If a level does not fit the tensor, a distribution does not broadcast to its level, or a
            parameter falls outside its constraint.
    """

    def __init__(
        self,
        name: str,
        hierarchy: Declared,
        shape: tuple[int, ...],
        data_size: int,
        pattern: str | None = None,
        progress: MovingNumber | None = None,
        declared_shape: tuple[int, ...] | None = None,
        knobs: Mapping[str, MovingNumber] | None = None,
    ) -> None:
        self.name = name
        self.hierarchy = hierarchy
        self.shape = tuple(shape)
        self.pattern = pattern or name
        shape = self.shape if declared_shape is None else declared_shape
        size = int(torch.Size(shape).numel())
        self.reserved = {
            "size": size,
            "fan_in": size // shape[0] if len(shape) > 1 else 1,
            "inputs": shape[1] if len(shape) > 1 else 1,
            "data_size": data_size,
        }
        self.progress = progress or MovingNumber()
        own = {name: MovingNumber(knob.value) for name, knob in hierarchy.knobs.items()} if knobs is None else knobs
        self.moving = {PROGRESS: self.progress, **own}
        self._constants: dict[tuple[str, torch.dtype, torch.device], Distribution] = {}
        self._arguments = {key: parents for key, parents in hierarchy.parents.items()}
        self.sites: dict[str, Site] = {}
        self.deterministic: set[str] = set()
        self.weight_is_latent = False
        self._shapes = {node: self._shape_of(node, spec) for node, spec in hierarchy.nodes.items()}
        self._discover()

    # -- running ---------------------------------------------------------------------------------------------

    def sample(self, like: Tensor, shared: dict[str, Tensor]) -> Tensor:
        """Runs the hierarchy as Pyro statements and returns the weights.

        Args:
            like: A tensor whose dtype and device the draws take.
            shared: Values of latents of the whole network that were drawn already, by site; added to.

        Returns:
            Weights of the tensor's shape.
        """
        weight, values = self.run(_sampled, like, shared)
        for node in sorted(self.deterministic):
            pyro.deterministic(f"{self.name}.{node}", values[node])
        if not self.weight_is_latent:
            pyro.deterministic(self.name, weight)
        if self.hierarchy.factor is not None:
            pyro.factor(f"{self.name}.factor", self.factor(values, weight))
        return weight

    def simulate(self, like: Tensor | None = None) -> dict[str, Tensor]:
        """Draws every latent and the weights from the prior, outside Pyro, validated.

        Returns:
            Values by name of latent, ``"weight"`` among them.

        Raises:
            ValueError: If the prior cannot be simulated, or a parameter falls outside its constraint.
        """
        if self.hierarchy.improper:
            raise ValueError(f"this prior cannot be simulated: {self.hierarchy.improper}")
        with validated():
            weight, values = self.run(lambda _, fn: fn.sample(), _like(like), {})
        return {**values, WEIGHT: weight}

    def evaluate(self, values: dict[str, Tensor], like: Tensor | None = None) -> tuple[Tensor, dict[str, Tensor]]:
        """Returns the weights and each latent's log density in nats at given values of the latents.

        Args:
            values: Values by name of latent (``"weight"`` too where it is one), of the sites' shapes.
            like: A tensor whose dtype and device the constants take; default float32 on the CPU.

        Returns:
            The weights, and log densities by name of latent, with ``"factor"`` where the hierarchy has one.
        """
        terms: dict[str, Tensor] = {}

        def given(site: str, fn: Iid) -> Tensor:
            latent = self.latent_of(site)
            terms[latent] = fn.log_prob(values[latent])
            return values[latent]

        weight, drawn = self.run(given, _like(like), {})
        if self.hierarchy.factor is not None:
            terms["factor"] = self.factor(drawn, weight)
        return weight, terms

    def conditional_sd(self, values: dict[str, Tensor]) -> Tensor:
        """Standard deviation of the weights given their scales, `(out, in, ...)`, at given values of the latents.

        Raises:
            ValueError: If the prior is no scale mixture.
        """
        return conditional_sd(self, values)

    def membership_log_odds(self, values: dict[str, Tensor]) -> Tensor:
        """Log odds that the weights belong to the slab of their mixture prior, at given values of the latents.

        Returns:
            `(out, in, ...)`.
        """
        fn: Any = self.weight_distribution(values).base_dist
        return fn.log_odds(values[WEIGHT])

    def spread(self, latent: str, value: Tensor) -> Tensor:
        """Expands one entry a group to the tensor's shape: `level_shape(...)` to `(out, in, ...)`."""
        return self._expanded({latent: value})[latent].expand(self.shape)

    @property
    def one_a_weight(self) -> list[Site]:
        """Sites of single weights, but those of a shape of their own, which is a weight's by chance alone."""
        own = {name for name, node in self.hierarchy.nodes.items() if node.dims}
        return [site for name, site in self.sites.items() if site.shape == self.shape and name not in own]

    @property
    def scales(self) -> tuple[str, ...]:
        """Names of the random scales: positive latents on which the weights' prior sd depends."""
        return tuple(name for name, site in self.sites.items() if site.support == "positive" and name != WEIGHT)

    @property
    def standard_normal(self) -> str | None:
        """Name of the latent per weight that the weights multiply by their scale, if there is just one."""
        real = [site.latent for site in self.one_a_weight if site.support == "real"]
        return real[0] if len(real) == 1 and not self.weight_is_latent else None

    def probe(self) -> list[float]:
        """Log densities and weights at fixed values of the latents, in float64: a fingerprint of the declaration."""
        terms: list[float] = []

        def visit(site: str, fn: Iid) -> Tensor:
            known = self.sites[self.latent_of(site)]
            value = fixed_values(known.shape, known.support, fn.base_dist.support).double()
            if self.deterministic:  # one that sorts is another than one that does not
                value = shuffled(value)
            terms.append(float(fn.log_prob(value)))
            return value

        with torch.no_grad():
            weight, values = self.run(visit, torch.empty(0, dtype=torch.float64), {})
            if self.hierarchy.factor is not None:
                terms.append(float(self.factor(values, weight)))
        return [*terms, *weight.expand(self.shape).flatten().tolist()]

    # -- inside ----------------------------------------------------------------------------------------------

    def run(self, draw: Any, like: Tensor, shared: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        """Runs the declaration with `draw(site, distribution) -> value` in place of `pyro.sample`.

        Args:
            draw: Called for every latent, parents first, and for the weights where they are a latent.
            like: A tensor whose dtype and device the constants of the declaration take.
            shared: Values of latents of the whole network that were drawn already, by site; added to.

        Returns:
            The weights, `(out, in, ...)`, and the values of the latents and deterministic nodes by name.
        """
        values: dict[str, Tensor] = {}
        for latent, spec in self.hierarchy.nodes.items():
            key = self._site_name(latent, spec)
            if spec.per == "network" and not spec.dims and key in shared:
                values[latent] = shared[key]
                continue
            fn = self._distribution(latent, spec, values, like)
            node = as_node(fn, like)
            if node is not None:
                values[latent] = self._settled(latent, spec, node)
                continue
            if not is_distribution(fn):
                raise DeclarationError(
                    f"{latent} must return a Pyro distribution, or a tensor for a deterministic node, but returned "
                    f"{type(fn).__name__}"
                )
            values[latent] = draw(key, Iid(fn, self._shapes[latent]))
            if spec.per == "network" and not spec.dims:
                shared[key] = values[latent]
        weight = self._weight(values, like)
        if is_distribution(weight):
            return draw(self.name, Iid(weight, self.shape)), values
        return weight.expand(self.shape), values

    def factor(self, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        """Returns the hierarchy's further log factor in nats, at drawn values of the latents and the weights."""
        assert self.hierarchy.factor is not None
        return self.hierarchy.factor(**self._given("factor", {**values, WEIGHT: weight}, weight))

    def weight_distribution(self, values: dict[str, Tensor]) -> Iid:
        """The weights' own distribution at given values of the latents."""
        found: list[Iid] = []

        def look(site: str, fn: Iid) -> Tensor:
            latent = self.latent_of(site)
            if latent == WEIGHT:
                found.append(fn)
            return values[latent]

        self.run(look, next(iter(values.values())), {})
        return found[0]

    def _distribution(self, latent: str, spec: Latent, values: dict[str, Tensor], like: Tensor) -> Any:
        parents = self._arguments.get(latent, ())
        if all(p in self.reserved for p in parents):
            return self._constant(latent, spec.distribution, parents, like)
        given = {p: self._value_for(spec, p, values, like) for p in parents}
        return spec.distribution(**given)

    def _weight(self, values: dict[str, Tensor], like: Tensor) -> Any:
        value = self.hierarchy.weight_value
        parents = self._arguments.get(WEIGHT, ())
        if all(p in self.reserved for p in parents):
            return self._constant(WEIGHT, value, parents, like)
        return value(**self._given(WEIGHT, values, like))

    def _given(self, key: str, values: dict[str, Tensor], like: Tensor) -> dict[str, Any]:
        """The arguments of ``weight`` or ``factor``, expanded to the tensor's rows and columns."""
        available = {**self._expanded(values), **self.reserved}
        return {p: self.moving[p].like(like) if p in self.moving else available[p] for p in self._arguments[key]}

    def _constant(self, latent: str, value: Any, parents: tuple[str, ...], like: Tensor) -> Any:
        """A distribution that depends on no latent, made once for each dtype and device."""
        key = (latent, like.dtype, like.device)
        if key not in self._constants:
            with python_numbers_as(like):
                made = value if isinstance(value, Distribution) else value(**{p: self.reserved[p] for p in parents})
            self._constants[key] = moved(made, like)
        return self._constants[key]

    def _settled(self, node: str, spec: Latent, value: Tensor) -> Tensor:
        """The value of a deterministic node, whose shape is checked the first time."""
        if node not in self.deterministic:
            above = self._latents_above(node)
            free = not spec.dims and any(self.hierarchy.nodes[latent].dims for latent in above)
            check_node(node, value, None if free else self._shapes[node], self.name)
            self.deterministic.add(node)
        # What is repeated over rows and columns has to have one entry of each.
        return value.expand(self._shapes[node]) if spec.is_repeated else value

    def _latents_above(self, node: str) -> list[str]:
        """Names of the latents that a node depends on, by itself or through deterministic nodes."""
        found: list[str] = []
        for parent in self._arguments.get(node, ()):
            if parent in self.hierarchy.nodes:
                found += self._latents_above(parent) if parent in self.deterministic else [parent]
        return found

    def _value_for(self, child: Latent, parent: str, values: dict[str, Tensor], like: Tensor) -> Any:
        if parent in self.moving:
            return self.moving[parent].like(like)
        if parent in self.reserved:
            return self.reserved[parent]
        spec = self.hierarchy.nodes[parent]
        return spec.repeated(values[parent], self.shape) if child.per != spec.per else values[parent]

    def _expanded(self, values: dict[str, Tensor]) -> dict[str, Tensor]:
        nodes = self.hierarchy.nodes
        return {
            name: nodes[name].repeated(value, self.shape) if name in nodes else value for name, value in values.items()
        }

    def _shape_of(self, latent: str, spec: Latent) -> tuple[int, ...]:
        if not spec.dims:
            return level_shape(spec.per, self.shape, spec.block, self.name, spec.gates)
        columns = self.shape[1] if len(self.shape) > 1 else None
        own = {"output": self.shape[0], "input": columns, "rank": columns and min(self.shape[:2])}
        shape = tuple(own[name] if extent is None else extent for name, extent in spec.dims.items())
        if None in shape:
            name = next(name for name, extent in spec.dims.items() if extent is None and own[name] is None)
            raise ValueError(f"{latent}: dims[{name!r}] needs a tensor with inputs, but {self.name} is {self.shape}")
        return tuple(int(extent) for extent in shape if extent is not None)

    def _site_name(self, latent: str, spec: Latent) -> str:
        owner = self.pattern if spec.per == "network" and not spec.dims else self.name
        return f"{owner}.{latent}"

    def latent_of(self, site: str) -> str:
        """Name of the latent of a site of this tensor, ``"weight"`` for the weights themselves."""
        return WEIGHT if site == self.name else site.rsplit(".", 1)[1]

    def _discover(self) -> None:
        """Runs the hierarchy once at fixed values to learn supports and to check shapes."""
        priors: dict[str, Distribution] = {}

        def visit(site: str, fn: Iid) -> Tensor:
            latent = self.latent_of(site)
            spec = self.hierarchy.nodes.get(latent) or self.hierarchy.weight
            self._check_of_network(latent)
            shape = self.shape if latent == WEIGHT else self._shapes[latent]
            check_distribution(latent, fn.base_dist, shape, self.name)
            priors[latent] = fn.base_dist
            support = support_name(fn.base_dist.support)
            owner = self.pattern if spec and spec.per == "network" and not spec.dims else self.name
            per, guide, spread = (spec.per, spec.guide, spec.spread) if spec else (WEIGHT, None, None)
            bounds = interval_bounds(fn.base_dist.support) if support == "interval" else None
            self.sites[latent] = Site(site, latent, owner, shape, support, per, guide, spread, bounds)
            return fixed_values(shape, support, fn.base_dist.support)

        with declaration_run_on(self.name, self.shape), validated(), torch.no_grad():
            weight, _ = self.run(visit, _like(None), {})
        self.weight_is_latent = WEIGHT in self.sites
        event = self.hierarchy.included
        if event is not None:
            event.check(self.name, self.shape, priors.get(WEIGHT))
        if weight.shape != self.shape:  # expand() would have refused; kept for callables returning odd tensors
            raise WrongShapeError(f"weight= has shape {tuple(weight.shape)}, but {self.name} has shape {self.shape}")

    def _check_of_network(self, latent: str) -> None:
        """Refuses a number for the whole network that depends on what each tensor has for itself."""
        spec = self.hierarchy.nodes.get(latent)
        if spec is None or spec.per != "network" or spec.dims:
            return
        for parent in self._latents_above(latent):
            level = self.hierarchy.nodes[parent].per
            if level != "network":
                raise DeclarationError(
                    f"{latent} is one number for the whole network but depends on {parent}, which is per "
                    f"{level}: declare {latent} per='layer' or {parent} per='network'"
                )


def _sampled(site: str, fn: Iid) -> Tensor:
    """Pyro's sample; gates that it enumerates in parallel, by a further dimension, would pass for other weights."""
    value: Tensor = pyro.sample(site, fn)
    if value.ndim > len(fn.event_shape) and fn.base_dist.support is constraints.boolean:
        raise GatesNotDrawnError
    return value


def _like(like: Tensor | None) -> Tensor:
    return torch.empty(0) if like is None else like
