"""NUTS on the Pyro model itself, for declarations without gates: chains from dispersed starts, one after the other.

What is sampled has parameters without a prior as sites of density one. Its log joint is held to that of the model as
it was declared, at random points, before the first step (`check_same_density`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyro
import pyro.distributions as dist
import torch
from pyro import poutine
from pyro.infer import MCMC, NUTS
from pyro.infer.autoguide.initialization import init_to_uniform
from pyro.poutine.util import site_is_subsample
from torch import Tensor
from torch.distributions import transform_to
from torch.func import functional_call

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.inclusion.events import included_at
from bayesprune.inference.reference.linear_model import placed
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.inclusion import ShrinkageBelow
from bayesprune.models.likelihoods.normal import Normal

__all__ = ["FlatJoint", "NutsDraws", "check_continuous", "check_same_density", "nuts"]

Array = np.ndarray
_NOISE = "noise"
_POINTS, _SAME = 3, 1e-9


@dataclass(frozen=True)
class NutsDraws:
    """Draws of all weights, and what was seen while they were made.

    Attributes:
        weights: By name of tensor, parameters without a prior that are integrated out among them, `(chains, draws,
            out, in, ...)`.
        noise: Draws of a learned scale of the noise, `(chains, draws)`; None where it is not learned.
        sites: Draws of all sites of the priors, by name, `(chains, draws, ...)`.
        inclusion: Share of draws in which each weight is included, by name of tensor; empty where no prior declares an
            event.
        divergences: How many draws came of trajectories whose energy diverged.
        left_out: Why inclusion probabilities are not there, by name of tensor.
    """

    weights: dict[str, Array] = field(repr=False)
    noise: Array | None = field(repr=False)
    sites: dict[str, Array] = field(repr=False)
    inclusion: dict[str, Array] = field(repr=False)
    divergences: int
    left_out: dict[str, str]


def check_continuous(model: BayesianNetwork) -> None:
    """Refuses a declaration that NUTS cannot sample.

    Raises:
        ValueError: If it has gates, in tensors or of units, or a prior that is not normalised.
    """
    for name, prior in model.priors.items():
        if prior.hierarchy.improper and prior.hierarchy.factor is None:
            raise ValueError(f"the prior on {name} is improper ({prior.hierarchy.improper}), so it has no reference")
        if any(site.support == "boolean" for site in prior.sites.values()):
            raise ValueError(
                f"the prior on {name} has gates, which NUTS does not move, and this model is none of which they are "
                "enumerated or drawn: linear, with Normal slabs, and normal noise or two classes"
            )
    if model.way_sites:
        raise ValueError("gates of units are not moved by NUTS: a reference is of weights alone")


def nuts(
    model: BayesianNetwork,
    x: Tensor,
    y: Tensor,
    draws: int = 1000,
    warmup: int = 500,
    chains: int = 4,
    seed: int = 0,
    flat: bool = True,
    target_acceptance: float = 0.9,
    fisher: Callable[[dict[str, Tensor], float], dict[str, Tensor]] | None = None,
) -> NutsDraws:
    """Samples the posterior of a model without gates, in float64.

    Args:
        model: The model; left as it is.
        x: Inputs, all of them.
        y: Targets.
        draws: Draws a chain that are kept; default 1,000.
        warmup: Draws before, with which step size and metric are adapted; default 500.
        chains: How many; default 4, each from a start of its own.
        seed: Of all of it.
        flat: Whether parameters without a prior are integrated over under a flat prior; default True.
        target_acceptance: Mean acceptance that step sizes are adapted to; default 0.9: hierarchies have narrow necks.
        fisher: Fisher information of one datum by tensor at weights and a noise, for shrinkage factors; default None.

    Raises:
        ValueError: If the declaration cannot be sampled, or what would be sampled is another one.
    """
    check_continuous(model)
    declared = model
    model, x, y = placed(model, x, y)
    joint = FlatJoint(model, flat)
    check_same_density(joint, declared, x, y, seed)
    found: list[dict[str, Tensor]] = []
    divergences = 0
    with torch.random.fork_rng(devices=[]):
        for chain in range(chains):
            pyro.set_rng_seed(seed + 1000 * chain)
            kernel = NUTS(joint, target_accept_prob=target_acceptance, init_strategy=_start)
            run = MCMC(kernel, num_samples=draws, warmup_steps=warmup, disable_progbar=True)
            run.run(x, y)
            found.append(run.get_samples())
            divergences += sum(map(len, run.diagnostics().get("divergences", {}).values()))
    sites = {name: torch.stack([one[name] for one in found]) for name in found[0]}
    noise = sites.pop(_NOISE, None)
    points = {name: sites.pop(_site_of(name)) for name in joint.points}
    weights = _weights(model, sites, chains, draws) | points
    inclusion, left_out = _included(model, sites, weights, noise, fisher, seed)
    return NutsDraws(
        {name: value.numpy() for name, value in weights.items()},
        None if noise is None else noise.exp().numpy(),
        {name: value.numpy() for name, value in sites.items()},
        inclusion,
        divergences,
        left_out,
    )


class FlatJoint:
    """The Pyro model with its parameters without a prior as sites of density one.

    Args:
        model: The model; a learned scale of the noise becomes a plain attribute of its likelihood, IN PLACE.
        flat: Whether there are such sites.
    """

    def __init__(self, model: BayesianNetwork, flat: bool) -> None:
        self.model, likelihood = model, model.likelihood
        parameters = dict(model.network.named_parameters())
        free = [name for name in model.point_estimates if parameters[name].requires_grad]
        self.points = {name: parameters[name].detach().clone() for name in free if flat}
        self.noise: Tensor | None = None
        if flat and isinstance(likelihood, Normal) and likelihood.learns_noise:
            self.noise = likelihood.get_parameter("log_scale").detach().clone()
            del likelihood._parameters["log_scale"]
            likelihood.log_scale = self.noise  # type: ignore[assignment]
        for parameter in model.parameters():
            parameter.requires_grad_(False)

    def __call__(self, x: Tensor, y: Tensor) -> None:
        """Runs it: sites of the priors, flat sites, and the data.

        Args:
            x: Inputs.
            y: Targets.
        """
        weights = self.model.sample_weights()
        for name, start in self.points.items():
            weights[name] = pyro.sample(_site_of(name), _flat(start))
        if self.noise is not None:
            self.model.likelihood.log_scale = pyro.sample(_NOISE, _flat(self.noise))
        self.model.observe(functional_call(self.model.network, weights, (x,)), y)


def check_same_density(joint: FlatJoint, declared: BayesianNetwork, x: Tensor, y: Tensor, seed: int = 0) -> float:
    """Compares the log joint that is sampled with that of the model as it was declared, at random points.

    Args:
        joint: What is sampled.
        declared: The model, its parameters without a prior where they are; left as it is.
        x: Inputs, all of them.
        y: Targets.
        seed: Of the points: within half a unit or so of zero, in the coordinates that are sampled.

    Returns:
        The largest difference in nats, over the size of the log joint.

    Raises:
        ValueError: If it is above 1e-9.
    """
    theirs, x, y = placed(declared, x, y)
    worst = 0.0
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        pyro.set_rng_seed(seed)
        sites = poutine.trace(joint).get_trace(x, y)
        for _ in range(_POINTS):
            values = {}
            for name in sites.stochastic_nodes:
                site: Any = sites.nodes[name]
                if site_is_subsample(site):  # the plate of the data
                    continue
                values[name] = transform_to(site["fn"].support)(0.5 * torch.randn_like(site["value"]))
            ours = _log_joint(joint, values, x, y)
            for name in joint.points:
                theirs.network.get_parameter(name).copy_(values.pop(_site_of(name)))
            if joint.noise is not None:
                theirs.likelihood.get_parameter("log_scale").copy_(values.pop(_NOISE))
            expected = _log_joint(theirs, values, x, y)
            worst = max(worst, abs(ours - expected) / max(1.0, abs(expected)))
    if not worst <= _SAME:
        raise ValueError(
            f"the log joint that NUTS would sample differs from the model's by {worst:.1g} of its size, so this is no "
            "reference of it: declare parameters of its likelihood as numbers"
        )
    return worst


def _log_joint(model: Callable[..., Any], values: dict[str, Tensor], x: Tensor, y: Tensor) -> float:
    """Log joint of a Pyro model at values of its sites."""
    return float(poutine.trace(poutine.condition(model, data=values)).get_trace(x, y).log_prob_sum())


def _site_of(name: str) -> str:
    """Name of the site of a parameter without a prior."""
    return f"point.{name}"


def _flat(start: Tensor) -> Any:
    """A density of one everywhere, whose draws are near a start."""
    return dist.Normal(start, torch.ones_like(start)).to_event(start.ndim).mask(False)


def _start(site: dict[str, Any]) -> Any:
    """Where a chain starts: flat sites near their values, others anywhere within two units of their transforms."""
    if site["name"] == _NOISE or str(site["name"]).startswith("point."):
        return site["fn"].sample().detach()
    return init_to_uniform(site)


@torch.no_grad()
def _weights(model: BayesianNetwork, sites: dict[str, Tensor], chains: int, draws: int) -> dict[str, Tensor]:
    """Weights at every draw, `(chains, draws, ...)`."""
    found: dict[str, list[Tensor]] = {name: [] for name in model.priors}
    for chain in range(chains):
        for draw in range(draws):
            at = model.weights_at({name: value[chain, draw] for name, value in sites.items()})
            for name in found:
                found[name].append(at[name])
    return {name: torch.stack(values).unflatten(0, (chains, draws)) for name, values in found.items()}


@torch.no_grad()
def _included(
    model: BayesianNetwork,
    sites: dict[str, Tensor],
    weights: dict[str, Tensor],
    noise: Tensor | None,
    fisher: Callable[[dict[str, Tensor], float], dict[str, Tensor]] | None,
    seed: int,
) -> tuple[dict[str, Array], dict[str, str]]:
    """Inclusion probabilities by the events that the priors declare, and why some are not there."""
    one = Restart(model, Guide(model, "meanfield"), seed)
    if fisher is not None:
        centre = {name: value.mean((0, 1)) for name, value in weights.items()}
        one.fisher = fisher(centre, 1.0 if noise is None else float(noise.exp().mean()))
    found, left_out = dict[str, Array](), dict[str, str]()
    for name, prior in model.priors.items():
        if prior.hierarchy.included is None:
            left_out[name] = "its prior declares no inclusion event"
            continue
        if isinstance(prior.hierarchy.included, ShrinkageBelow) and fisher is None:
            left_out[name] = "shrinkage factors of weights that are not identified are those of a guide"
            continue
        total = torch.zeros(prior.shape, dtype=torch.float64)
        chains, draws = weights[name].shape[:2]
        for chain in range(chains):
            for draw in range(draws):
                at = {site: value[chain, draw] for site, value in sites.items()}
                total += included_at(one, prior, at, weights[name][chain, draw])
        found[name] = (total / (chains * draws)).numpy()
    return found, left_out
