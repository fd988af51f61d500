"""A declaration as the regression that it is: a design, gates, Normal slabs, and a likelihood of affine outputs.

The declaration itself is run, and the network itself is asked for its outputs: nothing is read off their names. What
comes out is held to the Pyro model at random points before anything is calculated with it (`check_same_joint`), so
that a reference is one of this declaration and not of another.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import pyro.distributions as dist
import torch
from pyro import poutine
from scipy.special import gammaln
from torch import Tensor, nn

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli, Categorical
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.networks.outputs import outputs_at

__all__ = [
    "Array", "HiddenUnitsError", "LinearModel", "NotLinearError", "affine_outputs", "check_same_joint", "full_data",
    "linear_model", "placed",
]  # fmt: skip

Array = np.ndarray
COLUMNS = 2000
"""Numbers that are learned, at most: a posterior of more is no small model's."""
_POINTS, _AFFINE, _JOINT = 3, 1e-9, 1e-9
_NORMALS = (dist.Normal, torch.distributions.Normal)
_BERNOULLIS = (dist.Bernoulli, torch.distributions.Bernoulli)
_LOG_2PI = float(np.log(2.0 * np.pi))


class NotLinearError(ValueError):
    """The declaration is no regression with gates and Normal slabs; its message is what is in the way, as a clause."""


class HiddenUnitsError(NotLinearError):
    """Outputs are not linear in the weights: single weights of two draws are not the same quantities."""


@dataclass(frozen=True)
class LinearModel:
    """A regression with gates and Normal slabs, in float64; K numbers are learned, G gates switch some of them.

    Rows are observations, those of several outputs one after the other within an example.

    Attributes:
        design: `(rows, K)`: outputs are `offset + design @ coefficients`.
        offset: `(rows,)`.
        y: Observations, `(rows,)`.
        likelihood: ``"normal"``, ``"bernoulli"`` or ``"poisson"``.
        unit: Standard deviation of the noise of each row, `(rows,)`; where it is learned, what multiplies it. Ones for
            other likelihoods.
        learns_noise: Whether the noise is learned, under a flat prior on the log of its scale.
        gate: Number of the gate of each coefficient, `(K,)`; -1 where it is always in.
        log_odds: Prior log odds of each gate, `(G,)`.
        mean: Prior mean of each coefficient given that it is in, `(K,)`.
        sd: Prior standard deviation, `(K,)`; infinite under a flat prior, whose density is one.
        tensors: Columns of each tensor with a prior, by name.
        points: Columns of each parameter without a prior that is integrated out, by name.
        shapes: Shapes of all of these.
        gates: Gates of each Bernoulli site, by name.
        gate_shapes: Shapes of these sites.
        latents: By name of tensor: the Normal site, and intercept and slope `(K,)` of the weights in it.
    """

    design: Array
    offset: Array
    y: Array
    likelihood: str
    unit: Array
    learns_noise: bool
    gate: Array
    log_odds: Array
    mean: Array
    sd: Array
    tensors: dict[str, slice]
    points: dict[str, slice]
    shapes: dict[str, tuple[int, ...]]
    gates: dict[str, slice]
    gate_shapes: dict[str, tuple[int, ...]]
    latents: dict[str, tuple[str, Array, Array]] = field(repr=False)

    @property
    def flat(self) -> Array:
        """Which coefficients have a flat prior, `(K,)`."""
        return np.isinf(self.sd)

    def open_at(self, gates: Array) -> Array:
        """Which coefficients are in, `(..., K)`, at gates `(..., G)` of 0 and 1."""
        always = np.ones((*gates.shape[:-1], 1), dtype=bool)
        found: Array = np.concatenate([gates.astype(bool), always], axis=-1)[..., self.gate]
        return found

    def columns_of(self, gate: int) -> Array:
        """Columns that a gate switches."""
        return np.flatnonzero(self.gate == gate)

    def log_likelihood(self, coefficients: Array, noise: float = 1.0) -> float:
        """Log likelihood of all the data in nats at coefficients `(K,)` as the network has them, closed ones zero."""
        outputs = self.offset + self.design @ coefficients
        if self.likelihood == "normal":
            scale = noise * self.unit
            return float((-0.5 * ((self.y - outputs) / scale) ** 2 - np.log(scale) - 0.5 * _LOG_2PI).sum())
        if self.likelihood == "bernoulli":
            return float((self.y * outputs - np.logaddexp(0.0, outputs)).sum())
        return float((self.y * outputs - np.exp(outputs) - gammaln(self.y + 1.0)).sum())

    def log_prior(self, gates: Array, slabs: Array) -> float:
        """Log prior of gates `(G,)` and of all slabs `(K,)`, those of closed gates too; that of a flat one is zero."""
        of_gates = np.where(gates.astype(bool), -np.logaddexp(0.0, -self.log_odds), -np.logaddexp(0.0, self.log_odds))
        proper = ~self.flat
        standard = (slabs[proper] - self.mean[proper]) / self.sd[proper]
        of_slabs = -0.5 * standard**2 - np.log(self.sd[proper]) - 0.5 * _LOG_2PI
        return float(of_gates.sum() + of_slabs.sum())


def full_data(model: BayesianNetwork, data: object) -> tuple[Tensor, Tensor]:
    """All training data as tensors, checked against a model.

    Args:
        model: The model.
        data: `(x, y)`.

    Raises:
        ValueError: If they are no two tensors, or not as many as the model's `data_size`.
    """
    if not (isinstance(data, (tuple, list)) and len(data) == 2 and all(torch.is_tensor(part) for part in data)):
        raise ValueError(f"a reference takes all the data as a tuple (x, y) of tensors, not {type(data).__name__}")
    x, y = data
    if len(x) != len(y) or len(x) != model.data_size:
        raise ValueError(
            f"a reference takes all the data: the model was declared for {model.data_size:,}, and these are {len(x):,} "
            f"inputs and {len(y):,} targets"
        )
    return x, y


def linear_model(model: BayesianNetwork, x: Tensor, y: Tensor, flat: bool = True) -> LinearModel:
    """The regression that a model declares, in float64, on the CPU.

    Args:
        model: The model; left as it is.
        x: Inputs, `(n, ...)`, all of them.
        y: Targets.
        flat: Whether parameters without a prior, biases and the scale of the noise, are integrated over under a flat
            prior (on the log of a scale); False: they stay at the model's values. Default True.

    Raises:
        NotLinearError: If it is none, with the reason.
        ValueError: If data and likelihood do not fit each other.
    """
    model, x, y = placed(model, x, y)
    network, likelihood = model.network, model.likelihood
    if any(True for _ in model.ways):
        raise NotLinearError("gates of units, masks or the structure of a graph lie between its weights and outputs")
    parameters = dict(network.named_parameters())
    points = [name for name in model.point_estimates if flat and parameters[name].requires_grad]
    names = [*model.priors, *points]
    design, offset = affine_outputs(network, names, x, likelihood, y)
    columns, start = dict[str, slice](), 0
    for name in names:
        columns[name] = slice(start, start := start + parameters[name].numel())
    kind, design, offset, target, unit = _as_rows(likelihood, design, offset, y)
    mean, sd = np.zeros(start), np.full(start, np.inf)
    gate, log_odds = np.full(start, -1), list[Array]()
    gates, gate_shapes = dict[str, slice](), dict[str, tuple[int, ...]]()
    latents: dict[str, tuple[str, Array, Array]] = {}
    for name, prior in model.priors.items():
        own, (site, intercept, slope, loc, scale), switch = columns[name], *_declared(prior, parameters[name])
        mean[own], sd[own] = intercept + slope * loc, np.abs(slope) * scale
        latents[name] = (site, intercept, slope)
        if switch is not None:
            gate_site, odds, numbers = switch
            if gate_site in gates:
                raise NotLinearError(f"the gates {gate_site} are those of several tensors")
            first = sum(map(len, log_odds))
            gates[gate_site] = slice(first, first + odds.size)
            gate_shapes[gate_site] = odds.shape
            log_odds.append(odds.ravel())
            gate[own] = first + numbers
    learned = isinstance(likelihood, Normal) and likelihood.learns_noise and flat
    if learned:  # what a learned scale multiplies
        unit = unit / float(likelihood.get_parameter("log_scale").detach().exp())
    return LinearModel(
        design, offset, target, kind, unit, learned, gate, np.concatenate([*log_odds, np.zeros(0)]), mean, sd,
        {name: columns[name] for name in model.priors}, {name: columns[name] for name in points},
        {name: tuple(parameters[name].shape) for name in names}, gates, gate_shapes, latents,
    )  # fmt: skip


def check_same_joint(linear: LinearModel, model: BayesianNetwork, x: Tensor, y: Tensor, seed: int = 0) -> float:
    """Compares the log joint with that of the Pyro model at random points; a reference is of the same declaration.

    Args:
        linear: The regression.
        model: The model.
        x: Inputs.
        y: Targets.
        seed: Of the points.

    Returns:
        The largest difference, over the size of the log joint.

    Raises:
        NotLinearError: If it is above 1e-9.
    """
    rng, (model, x, y) = np.random.default_rng(seed), placed(model, x, y)
    worst = 0.0
    for _ in range(_POINTS):
        gates = rng.random(len(linear.log_odds)) < 0.5
        width = np.where(linear.flat, 1.0, linear.sd)
        slabs = np.where(linear.flat, 0.0, linear.mean) + width * rng.standard_normal(len(width))
        slabs /= max(1.0, float(np.abs(linear.design @ slabs).max()) / 5.0)  # exp of a Poisson's outputs stays finite
        noise = float(np.exp(rng.normal())) if linear.learns_noise else 1.0
        ours = linear.log_prior(gates, slabs) + linear.log_likelihood(slabs * linear.open_at(gates), noise)
        theirs = _pyro_joint(linear, model, gates, slabs, noise, x, y)
        # The density of a slab is that of the weight: slopes of latents other than one are a change of variables.
        theirs -= sum(float(np.log(np.abs(slope)).sum()) for _, _, slope in linear.latents.values())
        worst = max(worst, abs(ours - theirs) / max(1.0, abs(theirs)))
    if not worst <= _JOINT:
        raise NotLinearError(f"its log joint differs from that of a regression by {worst:.1g} of its size")
    return worst


def _pyro_joint(
    linear: LinearModel, model: BayesianNetwork, gates: Array, slabs: Array, noise: float, x: Tensor, y: Tensor
) -> float:
    """Log joint of the Pyro model at these values; its parameters without a prior are set to them, IN PLACE."""
    values = {}
    for name, own in linear.tensors.items():
        site, intercept, slope = linear.latents[name]
        values[site] = torch.tensor((slabs[own] - intercept) / slope).reshape(linear.shapes[name])
    for site, own in linear.gates.items():
        values[site] = torch.tensor(gates[own], dtype=torch.float64).reshape(linear.gate_shapes[site])
    with torch.no_grad():
        for name, own in linear.points.items():
            model.network.get_parameter(name).copy_(torch.tensor(slabs[own]).reshape(linear.shapes[name]))
        if linear.learns_noise:
            model.likelihood.get_parameter("log_scale").fill_(np.log(noise))
        trace = poutine.trace(poutine.condition(model, data=values)).get_trace(x, y)
        return float(trace.log_prob_sum())


def placed(model: BayesianNetwork, x: Tensor, y: Tensor) -> tuple[BayesianNetwork, Tensor, Tensor]:
    """A copy of a model, its network in evaluation mode, and data, in float64 on the CPU; tokens and labels stay so."""
    copied = copy.deepcopy(model).cpu().double()
    copied.network.eval()
    x, y = (part.detach().cpu().double() if part.is_floating_point() else part.detach().cpu() for part in (x, y))
    return copied, x, y


def affine_outputs(
    network: nn.Module, names: list[str], x: Tensor, likelihood: Likelihood, y: Tensor
) -> tuple[Array, Array]:
    """Outputs of a network as an affine function of parameters.

    Args:
        network: The network, in float64.
        names: The parameters, whose entries are the K coefficients in that order.
        x: Inputs, `(n, ...)`.
        likelihood: Says whether outputs and targets fit each other.
        y: Targets.

    Returns:
        Design `(n, outputs, K)` and offset `(n, outputs)`.

    Raises:
        HiddenUnitsError: If they are none.
        NotLinearError: If there are too many.
        ValueError: If outputs and targets do not fit each other.
    """
    shapes = {name: network.get_parameter(name).shape for name in names}
    sizes = [shapes[name].numel() for name in names]
    count = sum(sizes)
    if count > COLUMNS:
        raise NotLinearError(f"{count:,} numbers are learned, and a reference is for at most {COLUMNS:,}")

    def outputs(vector: Tensor) -> Array:
        parts = vector.split(sizes)
        given = {name: part.reshape(shapes[name]) for name, part in zip(names, parts, strict=True)}
        found = outputs_at(network, given, x, len(x))
        likelihood.check(found, y)
        values: Array = found.reshape(len(x), -1).numpy()
        return values

    offset = outputs(torch.zeros(count, dtype=torch.float64))
    design = np.stack([outputs(one) - offset for one in torch.eye(count, dtype=torch.float64)], axis=-1)
    generator = torch.Generator().manual_seed(0)
    for scale in (0.1, 1.0, 10.0):
        at = scale * torch.randn(count, generator=generator, dtype=torch.float64)
        found, expected = outputs(at), offset + design @ at.numpy()
        if not np.abs(found - expected).max() <= _AFFINE * max(1.0, np.abs(expected).max()):
            raise HiddenUnitsError("its outputs are not linear in its weights, as where there are hidden layers")
    return design, offset


def _as_rows(likelihood: Likelihood, design: Array, offset: Array, y: Tensor) -> tuple[str, Array, Array, Array, Array]:
    """Kind of likelihood, and design, offset, observations and unit of the noise by row."""
    n, width, count = design.shape
    target = np.asarray(y.numpy(), dtype=np.float64).reshape(n, -1)
    if type(likelihood) is Categorical:
        if likelihood.label_smoothing or width != 2:
            raise NotLinearError(
                "of labels, two classes have a reference, without smoothing (Bernoulli, or Categorical of two outputs)"
            )
        design, offset, width = design[:, 1:] - design[:, :1], offset[:, 1:] - offset[:, :1], 1
        kind = "bernoulli"
    else:
        kinds: Mapping[type, str] = {Normal: "normal", Bernoulli: "bernoulli", Poisson: "poisson"}
        if type(likelihood) not in kinds:
            raise NotLinearError(f"its likelihood is {likelihood.name}, and references are for normal and bernoulli")
        kind = kinds[type(likelihood)]
    unit = np.ones((n, width))
    if isinstance(likelihood, Normal):
        unit = unit * torch.as_tensor(likelihood.scale, dtype=torch.float64).detach().numpy()
    rows = n * width
    return kind, design.reshape(rows, count), offset.reshape(rows), target.reshape(rows), unit.reshape(rows)


Switch = tuple[str, Array, Array]
_Slab = tuple[str, Array, Array, Array, Array]


def _declared(prior: TensorPrior, like: Tensor) -> tuple[_Slab, Switch | None]:
    """What a prior declares: its Normal site with the weights' line in it and its moments, and its gates.

    Returns:
        Name of the Normal site, intercept and slope of the weights in it, its mean and sd, each `(K,)`; and name of the
        Bernoulli site, its log odds in its own shape, and the number of each weight's gate among them, `(K,)`.
    """
    clause = f"the prior on {prior.name} is no Normal slab with or without Bernoulli gates"
    if prior.hierarchy.factor is not None or prior.hierarchy.improper:
        raise NotLinearError(f"the prior on {prior.name} is not normalised")
    found: dict[str, Iid] = {}
    generator = torch.Generator().manual_seed(0)

    def run(values: Mapping[str, Tensor]) -> Tensor:
        def draw(site: str, fn: Iid) -> Tensor:
            latent = prior.latent_of(site)
            found[latent] = fn
            if latent in values:
                return values[latent]
            return torch.ones(prior.sites[latent].shape, dtype=torch.float64)

        return prior.run(draw, like, {})[0].detach()

    run({})
    switches = [name for name, site in prior.sites.items() if site.support == "boolean"]
    reals = [name for name in prior.sites if name not in switches]
    parents = {parent for name in prior.sites for parent in prior.hierarchy.parents.get(name, ())}
    bases = {name: found[name].base_dist for name in found}
    if len(reals) != 1 or len(switches) > 1 or type(bases[reals[0]]) not in _NORMALS:
        raise NotLinearError(clause)
    real, shape = reals[0], prior.shape
    own = prior.sites[real]
    if own.shape != shape or parents & set(prior.hierarchy.nodes) or (real == WEIGHT and switches):
        raise NotLinearError(clause)
    intercept = run({real: torch.zeros(shape, dtype=torch.float64)})
    slope = run({real: torch.ones(shape, dtype=torch.float64)}) - intercept
    switch: Switch | None = None
    numbers = torch.zeros(shape, dtype=torch.float64)
    if switches:
        gate = switches[0]
        if type(bases[gate]) not in _BERNOULLIS:
            raise NotLinearError(clause)
        gate_shape = prior.sites[gate].shape
        odds = bases[gate].logits.double().expand(gate_shape).detach().numpy().copy()
        numbers = prior.spread(gate, torch.arange(odds.size, dtype=torch.float64).reshape(gate_shape))
        switch = (prior.sites[gate].name, odds, numbers.reshape(-1).numpy().astype(int))
    for _ in range(_POINTS):
        at = {real: torch.randn(shape, generator=generator, dtype=torch.float64)}
        line = intercept + slope * at[real]
        if switches:
            states = (torch.rand(odds.size, generator=generator) < 0.5).double()
            at[gate] = states.reshape(gate_shape)
            line = line * states[numbers.long()].reshape(shape)
        if not torch.allclose(run(at), line, rtol=1e-12, atol=1e-12):
            raise NotLinearError(clause)
    if bool((slope == 0).any()):
        raise NotLinearError(clause)
    flat = [part.double().expand(shape).detach().numpy().ravel() for part in (intercept, slope)]
    moments = [bases[real].loc.double().expand(shape), bases[real].scale.double().expand(shape)]
    return (own.name, *flat, *(part.detach().numpy().ravel() for part in moments)), switch
