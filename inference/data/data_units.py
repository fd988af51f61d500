"""What a fit standardises by: means and standard deviations of its training data, and whether it standardises at all.

Weights start, and have their priors, on the scale of numbers of about the size of one; targets of 150 +- 77 are out of
their reach for thousands of steps, and a noise of 1 beside them makes a likelihood of nothing but misfit. So where the
targets are real numbers with a noise to learn, `fit` standardises inputs and targets inside of the network
(`bayesprune.models.networks.standardisation`), and starts the noise at the standard deviation of the targets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, IterableDataset

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.raw_inputs import ASKED, NO_NOISE
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.networks.placing import looks_up
from bayesprune.models.networks.standardisation import UNITS, put_in_units, units_of

__all__ = ["ONLY_NOISE", "Moments", "in_data_units", "moments_of"]

ONLY_NOISE = "noise"
"""What `fit`'s `standardise` is where a network was trained: inputs and targets stay, and the noise starts from it."""
EXAMPLES = 1000
"""Training examples on which a network is looked at as it was handed in."""
EXPLAINED = 0.1
"""Share of the targets' variance that a network has to explain as it was handed in, to count as trained.

That of one with random weights is about 2 r s, with s its sd over that of the targets and r a correlation by chance.
"""
NEAR = (0.1, 0.8, 1.25)
"""Means up to this, in sds, and sds between these need no standardising: numbers were standardised before."""
_CHUNK = 2**20
"""Numbers that are looked at together."""
_SEED = 0


@dataclass
class Moments:
    """Count, mean, sum of squared deviations, least and largest of every feature, in float64.

    A feature is a place in an example, but for images `(channels, height, width)`, which have one for each channel.
    """

    count: int
    mean: Tensor
    deviations: Tensor
    least: Tensor
    largest: Tensor

    @staticmethod
    def of(values: Tensor, features: int | None) -> Moments:
        """Those of `(n, ...)`.

        Args:
            values: The numbers.
            features: The dimension that tells features apart; all others are averaged over. None: all but the first.
        """
        values = values.detach().double()
        axes = (0,) if features is None else tuple(d for d in range(values.ndim) if d != features % values.ndim)
        mean = values.mean(dim=axes, keepdim=True)
        deviations = (values - mean).square().sum(dim=axes)
        count = values.numel() // max(mean.numel(), 1)
        return Moments(count, mean.reshape(deviations.shape), deviations, values.amin(axes), values.amax(axes))

    def __add__(self, other: Moments) -> Moments:
        """Those of both together (Chan, Golub & LeVeque 1983)."""
        count, apart = self.count + other.count, other.mean - self.mean
        return Moments(
            count,
            self.mean + apart * (other.count / count),
            self.deviations + other.deviations + apart.square() * (self.count * other.count / count),
            torch.minimum(self.least, other.least),
            torch.maximum(self.largest, other.largest),
        )

    @property
    def sd(self) -> Tensor:
        """Standard deviation of each feature, over all numbers; 0 for one that is constant."""
        return torch.where(self.least == self.largest, 0.0, (self.deviations / self.count).sqrt())

    @property
    def finite(self) -> bool:
        """Whether all of them are finite."""
        return bool((self.mean.isfinite() & self.deviations.isfinite()).all())

    def units(self, dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
        """What to take off and to divide by; a constant feature keeps its place, scaled if it is larger than one.

        Args:
            dtype: The number format of the network, in which a sd may be no number to divide by.

        Returns:
            The two, or None where the numbers are about standardised as they are.
        """
        constant = self.sd <= torch.finfo(dtype).tiny ** 0.5
        mean = torch.where(constant, 0.0, self.mean)
        sd = torch.where(constant, self.mean.abs().clamp_min(1.0), self.sd)
        middle, low, high = NEAR
        if bool((((mean / sd).abs() <= middle) & (sd >= low) & (sd <= high)).all()):
            return None
        return mean, sd


def moments_of(batches: Batches, features: int | None) -> tuple[Moments | None, Moments, tuple[Tensor, Tensor]]:
    """Moments of inputs and targets in one pass over the data, and the first examples, at most `EXAMPLES`.

    Args:
        batches: The data; the random state of torch is left as it was.
        features: As `Moments.of` takes it for inputs.

    Returns:
        Those of the inputs, None where they are no floating-point numbers but, say, indices; those of the targets; the
        examples.
    """
    inputs: Moments | None = None
    targets: Moments | None = None
    kept: list[tuple[Tensor, Tensor]] = []
    seen = 0
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        for x, y in _parts(batches):
            if x.is_floating_point():
                inputs = Moments.of(x, features) if inputs is None else inputs + Moments.of(x, features)
            targets = Moments.of(y, None) if targets is None else targets + Moments.of(y, None)
            if seen < EXAMPLES:
                kept.append((x[: EXAMPLES - seen], y[: EXAMPLES - seen]))
            seen += len(x)
    if targets is None:
        raise IndexError("no batches")
    return inputs, targets, (torch.cat([x for x, _ in kept]).cpu(), torch.cat([y for _, y in kept]).cpu())


def _parts(batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
    if batches.tensors is None:
        yield from islice(batches, batches.length)  # some loaders go on without an end
        return
    x, y = batches.tensors
    many = max(1, _CHUNK // max(1, x[0].numel()))
    yield from zip(x.split(many), y.split(many), strict=True)


def is_read_again(batches: Batches) -> bool:
    """Whether a pass over the data takes nothing away from the passes of the training."""
    loader = batches.loader
    if loader is None:
        return True
    if batches.length is None or (isinstance(loader, DataLoader) and isinstance(loader.dataset, IterableDataset)):
        return False
    return isinstance(loader, DataLoader) or iter(loader) is not loader  # a loader's iterator takes random numbers


def in_data_units(
    model: BayesianNetwork, batches: Batches, asked: bool | str | None, start: BayesianNetwork | None
) -> tuple[BayesianNetwork, dict[str, Any]]:
    """The model that is trained: a copy whose network is standardised and whose noise starts from the data, or itself.

    Args:
        model: The model as it was handed in; it is left as it was.
        batches: The training data.
        asked: `fit`'s `standardise`.
        start: The model of the earlier fit, of a warm start, whose units are taken.

    Returns:
        The model; and for the settings: whether ``inputs`` and ``targets`` are standardised inside, the ``noise`` that
        a learned scale starts at, or None, and the ``reason``.

    Raises:
        ValueError: If the contrary of what the earlier fit did is asked for, or what is asked for cannot be done.
    """
    if start is not None:
        return _as_before(model, start, None if asked == ONLY_NOISE else asked)
    has_units = bool(units_of(model.network))
    if has_units or asked == ONLY_NOISE:
        reason = "the network came with it" if has_units else "the network stays as it is"
        if asked is False or not model.likelihood.learns_noise:
            return model, _record(units_of(model.network), reason)
        return _with_its_noise(model, batches, reason)
    if asked is False:
        return model, _record({}, ASKED)
    if asked is None and not model.likelihood.learns_noise:
        return model, _record({}, NO_NOISE)
    if not is_read_again(batches):
        return _undone(model, bool(asked), "the data can be read only once, and standardising takes a pass over them")
    try:
        inputs, targets, examples = moments_of(batches, _feature_dimension(model.network, batches))
    except (RuntimeError, IndexError) as problem:  # inputs of several sizes, or what `check_data` will refuse
        return _undone(model, bool(asked), f"the inputs have no common features ({first_line(problem)})")
    if not targets.finite or not (inputs is None or inputs.finite):
        return model, _record({}, "the data are not finite")  # `check_data` says so
    return _standardised(copy.deepcopy(model).to(batches.dtype), inputs, targets, examples, bool(asked))


def _with_its_noise(model: BayesianNetwork, batches: Batches, reason: str) -> tuple[BayesianNetwork, dict[str, Any]]:
    """A copy of a model whose network stays as it is: its noise starts at the network's error, or the targets' sd."""
    units = units_of(model.network)
    if not is_read_again(batches):
        return model, _record(units, reason)
    try:
        _, targets, examples = moments_of(batches, _feature_dimension(model.network, batches))
    except (RuntimeError, IndexError):  # as above: the noise starts where it was declared
        return model, _record(units, reason)
    made = copy.deepcopy(model).to(batches.dtype)
    error = _error(copy.deepcopy(made).cpu(), *examples)
    error = targets.sd if error is None else error
    factor = units.get(UNITS[3])
    one = factor.detach().cpu().double() if factor is not None and factor.shape == error.shape else targets.sd
    return made, _record(units, reason, _begin_in(made, error, one if factor is not None else None))


def _standardised(
    model: BayesianNetwork,
    inputs: Moments | None,
    targets: Moments,
    examples: tuple[Tensor, Tensor],
    asked: bool,
) -> tuple[BayesianNetwork, dict[str, Any]]:
    """As `in_data_units`, IN PLACE, for data that have been read."""
    looked_at = copy.deepcopy(model).cpu()
    each = _error(looked_at, *examples)
    error = None if each is None else _together(each)
    if not asked and error is not None and error <= (1.0 - EXPLAINED) ** 0.5 * _spread(examples[1]):
        return model, _record({}, "the network was trained already, and stays as it is", _begin(model, error))
    units = _units(looked_at, inputs, targets, examples[0].ndim)
    sd = _together(targets.sd)
    if not units:
        return model, _record({}, _why_nothing(looked_at, inputs, targets), _begin(model, sd))
    left = ""
    for chosen in (units, {name: value for name, value in units.items() if name in UNITS[2:]}):
        try:
            _check(looked_at.network, chosen, examples[0][:64])
        except ValueError as problem:
            left = left or str(problem)
            continue
        put_in_units(model.network, chosen)
        noise = _begin_in(model, targets.sd, _sizes(targets, model)) if UNITS[2] in chosen else _begin(model, sd)
        done = _record(chosen, ASKED if asked else "the noise is to be learned", noise)
        return model, done | ({"note": f"inputs are not standardised: {left}"} if left else {})
    return model, _undone(model, asked, left)[1] | {"noise": _begin(model, sd)}


def _units(model: BayesianNetwork, inputs: Moments | None, targets: Moments, ndim: int) -> dict[str, Tensor]:
    """What to standardise by, in the shapes in which it broadcasts to inputs `(n, ...)` of `ndim` dimensions."""
    dtype, units = next(model.network.parameters()).dtype, dict[str, Tensor]()
    found = None if inputs is None or looks_up(model.network) else inputs.units(dtype)
    if found is not None:
        shape = (-1,) + (1,) * (ndim - 2) if _is_channel_first(model.network, ndim) else found[0].shape
        units |= dict(zip(UNITS[:2], (part.reshape(shape) for part in found), strict=True))
    found = targets.units(dtype)
    back = None if found is None else model.likelihood.in_units(*found)
    return units if back is None else units | dict(zip(UNITS[2:], back, strict=True))


def _sizes(targets: Moments, model: BayesianNetwork) -> Tensor | None:
    """What each target is divided by, `(d,)`."""
    found = targets.units(next(model.network.parameters()).dtype)
    return None if found is None else found[1]


def _why_nothing(model: BayesianNetwork, inputs: Moments | None, targets: Moments) -> str:
    """Why there is nothing to standardise, which is true of inputs and targets."""
    dtype = next(model.network.parameters()).dtype
    looked_up = inputs is None or looks_up(model.network)
    one = "inputs are no measurements, but whole numbers or looked up" if looked_up else ""
    other = "" if targets.units(dtype) is None else "targets have no units"
    if model.likelihood.in_units(targets.mean, torch.ones_like(targets.mean)) is None:
        other = "targets have no units"
    if not one and not other:
        return "inputs and targets are standardised as they are"
    return f"{one or 'inputs are standardised as they are'}, and {other or 'targets are standardised as they are'}"


def _as_before(
    model: BayesianNetwork, earlier: BayesianNetwork, asked: bool | str | None
) -> tuple[BayesianNetwork, dict[str, Any]]:
    """The model with the units of the one of an earlier fit."""
    units = units_of(earlier.network)
    if asked is not None and asked != bool(units):
        raise ValueError(
            f"standardise={asked} is not what the fit of start= did, which says it for all that begin there: leave "
            "standardise= out, or start= out"
        )
    if units and not units_of(model.network):
        model = copy.deepcopy(model)
        put_in_units(model.network, units)
    if isinstance(model.likelihood, Normal) and isinstance(earlier.likelihood, Normal):
        model = copy.deepcopy(model)
        model.likelihood.noise_in(earlier.likelihood.unit)
    return model, _record(units, "as in the fit of start=")


def _undone(model: BayesianNetwork, asked: bool, why: str) -> tuple[BayesianNetwork, dict[str, Any]]:
    if asked:
        raise ValueError(f"standardise=True cannot be done: {why}; standardise the data yourself, or leave it out")
    return model, _record({}, why) | {"note": f"nothing is standardised: {why}"}


def _record(units: dict[str, Tensor], reason: str, noise: float | None = None) -> dict[str, Any]:
    return {"inputs": UNITS[0] in units, "targets": UNITS[2] in units, "noise": noise, "reason": reason}


def _begin(model: BayesianNetwork, sd: float) -> float | None:
    """Starts a learned scale of the noise, IN PLACE; says where, unless there is none or the user had started it."""
    if not 0.0 < sd < float("inf"):
        return None
    before = [parameter.clone() for parameter in model.likelihood.parameters()]
    model.likelihood.begin_noise(sd)
    moved = any(not torch.equal(a, b) for a, b in zip(before, model.likelihood.parameters(), strict=True))
    return sd if moved else None


def _begin_in(model: BayesianNetwork, sd: Tensor, sizes: Tensor | None) -> float | None:
    """As `_begin`, with the noise of each of several targets in its own unit.

    Args:
        model: The model.
        sd: Where the noise of each target is to start, `()` or `(d,)`.
        sizes: The targets' sizes, of that shape; None: the noise is of one size.
    """
    if sizes is None or sizes.numel() < 2:
        return _begin(model, _together(sd))
    unit = sizes / sizes.square().mean().sqrt()
    if getattr(model.likelihood, "unit", None) is None:  # as it was learned by an earlier fit
        model.likelihood.noise_in(unit)
    # A constant target has the noise that its unit says.
    return _begin(model, _together(torch.where(sd > 0.0, sd, sizes) / unit))


def _together(sds: Tensor) -> float:
    """Root mean square of standard deviations, one a target."""
    return float(sds.square().mean().sqrt())


@torch.no_grad()
def _error(model: BayesianNetwork, x: Tensor, y: Tensor) -> Tensor | None:
    """Root mean squared error of a network as it was handed in, of each target; None where it takes no such inputs."""
    dtype = next(model.network.parameters()).dtype
    try:
        mean = model.likelihood.predict(_run(model.network, x.to(dtype) if x.is_floating_point() else x))
    except Exception:  # forward is the user's code, and `check_data` says what is wrong
        return None
    if mean.shape != y.shape or not bool(mean.isfinite().all()):
        return None
    return (mean.double() - y.double()).square().mean(dim=0).sqrt()


def _spread(y: Tensor) -> float:
    """Root mean squared error of the targets' mean."""
    y = y.double()
    return float((y - y.mean(dim=0)).square().mean().sqrt())


@torch.no_grad()
def _run(network: nn.Module, x: Tensor) -> Tensor:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)  # of a forward that draws random numbers
        return outputs_at(network, {}, x, len(x))


def _check(network: nn.Module, units: dict[str, Tensor], x: Tensor) -> None:
    """Refuses units with which a network would not do what it does with standardised numbers, on a few examples.

    Raises:
        ValueError: In words that go on after "because".
    """
    made = copy.deepcopy(network)
    put_in_units(made, units)
    buffers = units_of(made)
    inside = (x - buffers[UNITS[0]]) / buffers[UNITS[1]] if UNITS[0] in buffers else x
    try:
        wanted, found = _run(network, inside), _run(made, x)
    except Exception as problem:  # a forward may take logarithms, or look things up by number
        raise ValueError("the network does not take standardised ones") from problem
    if UNITS[2] in buffers:
        if torch.broadcast_shapes(wanted.shape, buffers[UNITS[2]].shape) != wanted.shape:
            raise ValueError("the outputs are not one for each target")
        wanted = wanted * buffers[UNITS[3]] + buffers[UNITS[2]]
    if not bool(wanted.isfinite().all()):
        raise ValueError("the network gives nothing finite for standardised ones")
    if not torch.allclose(found, wanted, rtol=1e-4, atol=1e-4 * float(wanted.abs().max())):
        raise ValueError("the network's forward cannot be put in another's place")


def _is_channel_first(network: nn.Module, ndim: int) -> bool:
    """Whether features are told apart by the second dimension, as channels of images are, and of series for Conv1d."""
    layers = [module for module in network.modules() if any(True for _ in module.parameters(recurse=False))]
    return ndim > 3 or (ndim == 3 and bool(layers) and isinstance(layers[0], nn.Conv1d))


def _feature_dimension(network: nn.Module, batches: Batches) -> int | None:
    """The dimension of the inputs that tells features apart; None: every place is one."""
    x = batches.tensors[0] if batches.tensors is not None else batches.first()[0]
    if x.ndim < 3:
        return None
    return 1 if _is_channel_first(network, x.ndim) else -1  # the last one of series (n, time, features)
