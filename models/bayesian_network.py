"""A network with priors: an ordinary Pyro model."""

from __future__ import annotations

import copy
import functools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

import pyro
import torch
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.knobs import Knobs, MovingNumber
from bayesprune.models.language.pyro_parameters import name_parameters
from bayesprune.models.language.tensor_prior import Site, TensorPrior
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.placing import zeros_for
from bayesprune.models.ways.way import Way, Ways, WaySites

OBSERVED = "obs"
UNDER_PRIOR = "_parameters_under_a_prior"
"""Attribute of a layer with the names of its parameters that a prior has frozen, rather than the user."""


@dataclass(frozen=True)
class Declaration:
    """What was declared of a model, which stays what it is whatever units are removed from its network.

    Attributes:
        data_size: Number of data.
        patterns: The hierarchies by pattern, as they were given.
        chosen: Pattern and hierarchy of every tensor with a prior, by name, in the order of the tensors.
        shapes: Shapes of all tensors of the network, by name.
        left_to_gates: Names of the weights whose prior is the one that the gates declare.
        example_input: An input to trace the network with; empty where there are no gates.
    """

    data_size: int
    patterns: dict[str, Hierarchy]
    chosen: dict[str, tuple[str, Hierarchy]]
    shapes: dict[str, tuple[int, ...]]
    left_to_gates: tuple[str, ...]
    example_input: Tensor


class BayesianNetwork(nn.Module):
    """A network, priors on its parameter tensors, and a likelihood, as one Pyro model ``bnn(x, y)``.

    The log joint is in full-data nats: the log-likelihood of a batch is scaled by `data_size` / batch size. It
    works wherever Pyro takes a model (`Predictive`, `NUTS`, `pyro.render_model`, `Trace_ELBO`).

    Parameters without a prior are point estimates, kept as the parameters of this module. The user's network is
    copied, never changed.

    Args:
        network: Any `nn.Module` whose forward takes one tensor of inputs.
        priors: Hierarchies by pattern of parameter names, e.g. ``{"fc*.weight": Horseshoe()}``; patterns as in
            a shell. May be empty where there are gates. Frozen parameters have none.
        likelihood: What the network's outputs mean; default `Categorical()`.
        data_size: Number of data of the whole training set; required.
        gates: `UnitGates`, a Bernoulli gate on every unit; default None. Weights of the gated layers that have no prior
            of their own get the one that it declares.
        example_input: An input, `(n, ...)`, with which units are traced; default None: zeros of the shape that one of
            this package's networks was built for.

    Attributes:
        network: The copy; its parameters with a prior hold the starting weights and do not require gradients.
        priors: The bound hierarchies by name of parameter tensor.
        data_size: Number of data.
        progress: Share of a fit's steps that are done, where a prior asks for it; else None.
        knobs: Numbers of the declarations that a rule may move, by name: ``model.knobs["kappa"].set(2.0)``.
        ways: What lies between drawn weights and the network, in order: gates on its units, masks. Appended to before
            a guide is made.
        left_to_gates: Names of the weights as they were declared whose prior is the one that the gates declare.
        declared_shapes: Shape of each tensor with a prior as it was declared, by name.
        declared_sizes: Number of its weights.
        plan: What of it is left, as `CompactResult.plan` has it; None where nothing was removed.

    Raises:
        ValueError: If a pattern matches no parameter, two match the same, a parameter with a prior is frozen,
            `data_size` is not positive, or the network's units cannot be found where they get gates.
    """

    network: nn.Module
    likelihood: Likelihood
    progress: MovingNumber | None
    knobs: Knobs

    def __init__(
        self,
        network: nn.Module,
        priors: Mapping[str, Hierarchy],
        likelihood: Likelihood | None = None,
        data_size: int | None = None,
        gates: UnitGates | None = None,
        example_input: Tensor | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(gates, UnitGates | None):
            raise ValueError(
                f"gates= takes UnitGates(...), not {type(gates).__name__}: write gates=UnitGates(kappa=2e-4)"
            )
        if data_size is None or data_size < 1:
            raise ValueError(
                f"data_size must be the number of training data (at least 1), not {data_size}: it scales the likelihood"
            )
        patterns, size, copied = dict(priors), int(data_size), copy.deepcopy(network)
        example = _example(copied, example_input) if gates else torch.empty(0)
        ways = [NetworkGates(one, copied, example, size) for one in (gates,) if one]
        tensors = dict(copied.named_parameters())
        chosen: dict[str, tuple[str, Hierarchy]] = {}
        if priors or not ways:
            for name, pattern in match_patterns(patterns, tensors).items():
                if not isinstance(patterns[pattern], Hierarchy):
                    raise ValueError(
                        f"the prior on {name} must be a Hierarchy, not {patterns[pattern]!r}: write e.g. "
                        "Gaussian() or Hierarchy(weight=dist.Normal(0.0, 1.0))"
                    )
                chosen[name] = (pattern, patterns[pattern])
        left_to_gates: tuple[str, ...] = ()
        for bound in ways:
            own = bound.declaration.weight_prior()
            left_to_gates = tuple(name for name in bound.tensors if name not in chosen)
            chosen |= {name: (name, own) for name in left_to_gates}
        for name in chosen:
            _check_not_frozen(copied, name, name in left_to_gates)
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        for name, (_, hierarchy) in chosen.items():
            hierarchy.check_tensor(name, shapes[name])
        in_order = {name: chosen[name] for name in tensors if name in chosen}
        declaration = Declaration(size, patterns, in_order, shapes, left_to_gates, example)
        self._make(declaration, likelihood if likelihood is not None else Categorical(), copied, ways)

    def _make(
        self,
        declaration: Declaration,
        likelihood: Likelihood,
        network: nn.Module,
        ways: Sequence[Way],
        whole: nn.Module | None = None,
        plan: dict[str, Any] | None = None,
    ) -> None:
        """Makes all that a model has, of what was declared and what is left of the network; nothing else sets anything.

        Args:
            declaration: What was declared; sizes and fan-ins that hierarchies are told are those of its shapes.
            likelihood: The likelihood.
            network: The network, whose tensors with a prior no longer require gradients afterwards.
            ways: Its ways, of this network.
            whole: The network as it was declared, where units have been removed since.
            plan: What is left of it.
        """
        self._declaration = declaration
        self._whole = () if whole is None else (whole,)  # in a tuple: its parameters are not the model's
        self.plan = plan
        self.data_size, self.patterns = declaration.data_size, declaration.patterns
        self.left_to_gates, self.example_input = declaration.left_to_gates, declaration.example_input
        self.declared_shapes = {name: declaration.shapes[name] for name in declaration.chosen}
        self.declared_sizes = {name: math.prod(shape) for name, shape in self.declared_shapes.items()}
        self.likelihood = likelihood
        self.network = network
        self.ways = Ways(ways)
        tensors, progress = dict(network.named_parameters()), MovingNumber()
        self.knobs = Knobs()
        for pattern, hierarchy in dict(declaration.chosen.values()).items():
            for name, knob in hierarchy.knobs.items():
                self.knobs.add(pattern, name, MovingNumber(knob.value))
        for way in ways:
            for name, number in way.knobs.items():
                self.knobs.add(way.name, name, number)
        self.priors: dict[str, TensorPrior] = {}
        for name, (pattern, hierarchy) in declaration.chosen.items():
            if name not in tensors:
                continue
            shape = tuple(tensors[name].shape)
            self.priors[name] = TensorPrior(
                name, hierarchy, shape, self.data_size, pattern, progress, declaration.shapes[name],
                self.knobs.of(pattern),
            )  # fmt: skip
            tensors[name].requires_grad_(False)
            layer, key = _owner(network, name)
            layer.__dict__[UNDER_PRIOR] = {*layer.__dict__.get(UNDER_PRIOR, ()), key}
        self.progress = progress if any(one.hierarchy.is_annealed for one in self.priors.values()) else None

    def with_network(self, network: nn.Module, plan: dict[str, Any]) -> BayesianNetwork:
        """The same model of the network with units removed; the likelihood is shared, all else is new.

        Args:
            network: The network without them.
            plan: What is left of the network as it was declared, as `CompactResult.plan` has it.
        """
        ways = [way.on(network, self.example_input) for way in self.ways]
        made: BayesianNetwork = BayesianNetwork.__new__(BayesianNetwork)
        nn.Module.__init__(made)
        whole = self.network if self.declared is None else self.declared
        made._make(self._declaration, self.likelihood, network, ways, whole, plan)
        made.knobs.go_on_from(self.knobs.moved())
        made.training = self.training  # layers keep the modes of the network that is handed in
        return made

    @property
    def sites(self) -> dict[str, Site]:
        """Every sample site that the priors on tensors declare, by name, in the order in which they are drawn.

        What ways draw is not among them: see `way_sites`.
        """
        return {site.name: site for prior in self.priors.values() for site in prior.sites.values()}

    @property
    def gates(self) -> NetworkGates | None:
        """The gates of units among the ways, or None."""
        return next((way for way in self.ways if isinstance(way, NetworkGates)), None)

    @property
    def way_sites(self) -> dict[str, WaySites]:
        """What the ways draw, by site, in that order."""
        return {site: one for way in self.ways for site, one in way.sets.items()}

    @property
    def closes_units(self) -> bool:
        """Whether a way opens and closes units of the network."""
        return any(way.closes_units for way in self.ways)

    @property
    def states_price(self) -> bool:
        """Whether the part of a way in the KL term is a price that is stated by itself."""
        return any(way.states_price for way in self.ways)

    @property
    def way_defaults(self) -> dict[str, float | None]:
        """What stands for numbers that the declarations of ways leave out, by name."""
        return {name: value for way in self.ways for name, value in way.defaults.items()}

    @property
    def way_configs(self) -> dict[str, Mapping[str, Any] | None]:
        """What was declared of each way, by its name."""
        return {way.name: way.config for way in self.ways}

    @property
    def declared(self) -> nn.Module | None:
        """The network as it was declared, where units have been removed since, else None."""
        return self._whole[0] if self._whole else None

    @functools.cached_property
    def has_tied_weights(self) -> bool:
        """Whether one parameter of the network stands under several names; `functional_call` is slower then."""
        return len(list(self.network.named_parameters(remove_duplicate=False))) > len(list(self.network.parameters()))

    @property
    def point_estimates(self) -> tuple[str, ...]:
        """Names of the network's parameters without a prior."""
        return tuple(name for name, _ in self.network.named_parameters() if name not in self.priors)

    @property
    def matrices(self) -> tuple[str, ...]:
        """Names of the tensors of two dimensions or more with a prior: one alone is a regression, biases or not."""
        return tuple(name for name, prior in self.priors.items() if len(prior.shape) >= 2)

    def starting_weights(self, name: str) -> Tensor:
        """The weights that the network had when it was handed in, `(out, in, ...)`."""
        return self.network.get_parameter(name).detach()

    def sample_weights(self) -> dict[str, Tensor]:
        """Runs the priors as Pyro statements.

        Returns:
            Weights by name of parameter tensor.
        """
        shared: dict[str, Tensor] = {}
        weights = {}
        for name, prior in self.priors.items():
            weights[name] = prior.sample(self.network.get_parameter(name), shared)
        like, values = next(self.network.parameters()), dict[str, Tensor]()
        for way in self.ways:
            values |= way.sample(like)
        return self._through_ways(weights, values)

    def weights_at(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the priors at given values of the sites, without Pyro.

        Args:
            values: Values by name of site, those of ways among them.

        Returns:
            Weights by name of parameter tensor; with all others that ways change.
        """
        return self._through_ways(self.ungated_weights_at(values), values)

    def ungated_weights_at(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """As `weights_at`, without the ways: as if the gates of all units were open."""
        shared: dict[str, Tensor] = {}
        return {
            name: prior.run(lambda site, _: values[site], self.network.get_parameter(name), shared)[0]
            for name, prior in self.priors.items()
        }

    def open_at(self, values: Mapping[str, Tensor], units: bool = True) -> dict[str, Tensor]:
        """Which weights the ways leave in, at values of their sites or at probabilities of these.

        Args:
            values: Values or probabilities by name of site.
            units: Whether ways that close units count; default True.

        Returns:
            Ones and zeros, or probabilities, by name of tensor, `(out, in, ...)`, of the tensors that ways change.
        """
        found: dict[str, Tensor] = {}
        for way in self.ways:
            if units or not way.closes_units:
                for name, there in way.open(values, self.network).items():
                    found[name] = found[name] * there if name in found else there
        return found

    def _through_ways(self, weights: dict[str, Tensor], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for way in self.ways:
            weights = way.closed(weights, values, self.network)
        return weights

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The Pyro model: draws weights, runs the network, observes or draws the data.

        Args:
            x: Inputs, `(batch, ...)`.
            y: Targets, `(batch,)` or `(batch, d)`; None draws them.

        Returns:
            The observed or drawn targets.
        """
        name_parameters(self, self.network, self.likelihood)
        outputs = functional_call(self.network, self.sample_weights(), (x,))
        return self.observe(outputs, y)

    def observe(self, outputs: Tensor, y: Tensor | None) -> Tensor:
        """Pyro statement of the likelihood, scaled to all the data."""
        fn = self.likelihood.distribution(outputs)
        with poutine.scale(scale=self.data_size / len(outputs)), pyro.plate("data", len(outputs), dim=-1):
            return pyro.sample(OBSERVED, fn, obs=y)

    def __str__(self) -> str:
        parts = [f"likelihood {self.likelihood.name}, {self.data_size} data"]
        parts += [f"{name} {tuple(prior.shape)}: {prior.hierarchy!r}" for name, prior in self.priors.items()]
        parts += [f"{way.name}: {way}" for way in self.ways]
        parts.append(f"point estimates: {', '.join(self.point_estimates) or 'none'}")
        return "\n".join(parts)


def _owner(network: nn.Module, name: str) -> tuple[nn.Module, str]:
    """The module that holds a parameter, and its name there."""
    path, _, key = name.rpartition(".")
    return network.get_submodule(path), key


def _check_not_frozen(network: nn.Module, name: str, by_gates: bool) -> None:
    """Refuses a prior on a parameter that the user has frozen: the posterior of a weight is learned.

    Args:
        network: The network.
        name: Name of the parameter.
        by_gates: Whether its prior is the one that gates of units declare.
    """
    layer, key = _owner(network, name)
    if not network.get_parameter(name).requires_grad and key not in layer.__dict__.get(UNDER_PRIOR, ()):
        who, else_ = "a prior", "leave it out of the patterns of priors="
        if by_gates:
            who, else_ = (
                "gates of the units that it makes or reads",
                "leave out gates= and give priors= on other weights",
            )
        raise ValueError(
            f"{name} is frozen (requires_grad is False), but {who} would have it trained: call requires_grad_(True) "
            f"on it, or {else_}"
        )


def _example(network: nn.Module, given: Tensor | None) -> Tensor:
    """An input to trace the network with."""
    if given is not None:
        return given.detach()[:1].cpu()
    config = getattr(network, "config", None)
    if not isinstance(config, dict) or "input_shape" not in config:
        raise ValueError(
            "gates= needs an input of the network, with which its units are found: pass example_input=, e.g. x[:1]"
        )
    return zeros_for(network, config["input_shape"])


def match_patterns(patterns: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Returns the pattern of every parameter tensor that has one, in the order of the tensors.

    Raises:
        ValueError: If a pattern matches nothing, or two match one tensor; both list the parameters.
    """
    listed = ", ".join(tensors)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise ValueError(
                f"the pattern {pattern!r} matches no parameter: the network has {listed}, so give one of these names"
            )
    matched = {}
    for name in tensors:
        found = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if len(found) > 1:
            raise ValueError(
                f"the patterns {' and '.join(map(repr, found))} both match {name}: narrow one of them "
                f"(the network has {listed})"
            )
        if found:
            matched[name] = found[0]
    if not matched:
        raise ValueError(f"no parameter has a prior: give priors={{pattern: hierarchy}} (the network has {listed})")
    return matched
