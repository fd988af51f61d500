"""Inclusion events: what it means, under a prior, that a weight is in the network.

Every event has a kind, and probabilities of unlike kinds are never compared:

* ``"atom"``: the weight is exactly zero with positive probability (spike and slab, soft thresholds, gates).
* ``"shrinkage"``: the data, not the prior, decide the weight: its shrinkage factor is below a threshold.
* ``"relative"``: the weight is larger than a share of its layer's root mean square.
* ``"membership"``: the weight belongs to the slab of a mixture prior, not to its spike; it is never exactly zero.
* ``"reduction"``: the model that has the weight is the better one, the others staying in (Bayesian model reduction).

An event is a class: a frozen dataclass derived from `InclusionEvent`. What it means under the prior alone is said here;
what a fit makes of it, by a rule that is registered for the class (`bayesprune.inference.inclusion.event_rule`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal, Protocol, cast

import torch
from torch import Tensor

from bayesprune.models.language.levels import level_shape

__all__ = [
    "UNDECIDED",
    "BeyondThreshold",
    "ExactZero",
    "InclusionEvent",
    "ReducedToZero",
    "RelativeThreshold",
    "ShrinkageBelow",
    "SlabMembership",
    "SomeComponent",
    "beyond_threshold",
    "exact_zero",
    "is_undecided",
    "reduced_to_zero",
    "relative_threshold",
    "shrinkage_below",
    "slab_membership",
    "some_component",
]

UNDECIDED = (0.05, 0.95)
"""Strictly between these an inclusion probability decides nothing."""
ShrinkageForm = Literal["fisher", "posterior"]
_BY = {None: "", "fisher": " by the Fisher information", "posterior": " by the posterior"}


def is_undecided(probability: Any) -> Any:
    """Whether inclusion probabilities are neither nearly 0 nor nearly 1: strictly between the two of `UNDECIDED`.

    Args:
        probability: Probabilities of any shape, a tensor or an array.

    Returns:
        Booleans of that shape and kind.
    """
    low, high = UNDECIDED
    return (probability > low) & (probability < high)


class BoundPrior(Protocol):
    """What an event asks of a prior that is bound to a tensor."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the tensor, `(out, in, ...)`."""

    @property
    def sites(self) -> Mapping[str, Any]:
        """Sites by name of latent, with their ``shape`` and ``support``."""

    def conditional_sd(self, values: dict[str, Tensor]) -> Tensor:
        """Standard deviation of each weight given the scales, `(out, in, ...)`."""

    def membership_log_odds(self, values: dict[str, Tensor]) -> Tensor:
        """Log odds of the slab for each weight, `(out, in, ...)`."""


@dataclass(frozen=True)
class InclusionEvent:
    """Base of inclusion events; those that are ready are made by `exact_zero`, `shrinkage_below` and the others below.

    Attributes:
        kind: What events it may be compared with.
        is_exact: Whether a weight that is not included is exactly zero.
        gate: Name of the Bernoulli latent that switches the weight, if there is one.
        slab: Name of the latent whose value the weight has where the gate is one.
    """

    kind: ClassVar[str] = ""
    is_exact: ClassVar[bool] = False
    gate: ClassVar[str | None] = None
    slab: ClassVar[str | None] = None

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Which weights are included at a draw of the prior; drawn itself where it has a probability given the draw.

        Args:
            prior: The prior.
            values: The draw, by latent, with the weights as ``"weight"``, `(out, in, ...)`.
            precision: data_size x F, the data's precision of one weight.

        Returns:
            Zeros and ones, or booleans, `(out, in, ...)`.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what it means under the prior alone")

    def chooses_inputs(self, prior: BoundPrior) -> bool:
        """Whether it leaves some inputs of a layer in and others out, each for itself."""
        return True

    def check(self, name: str, shape: tuple[int, ...], weight: Any) -> None:
        """Refuses a tensor that the event cannot be one of.

        Args:
            name: Name of the tensor.
            shape: Its shape, `(out, in, ...)`.
            weight: The weights' distribution under the prior; None where they are a function of the latents.

        Raises:
            ValueError: If it cannot.
        """


@dataclass(frozen=True)
class ExactZero(InclusionEvent):
    """The weight is not exactly zero; see `exact_zero`."""

    kind: ClassVar[str] = "atom"
    is_exact: ClassVar[bool] = True
    gate: str | None = None  # type: ignore[misc]  # a field of this class, a constant of those without one
    slab: str | None = None  # type: ignore[misc]

    def __str__(self) -> str:
        return f"{self.gate} = 1 (atom)" if self.gate else "weight != 0 (atom)"

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Where the drawn weight is not zero."""
        return values["weight"] != 0

    def chooses_inputs(self, prior: BoundPrior) -> bool:
        """Where the gate, if there is one, is not shared by all inputs."""
        return self.gate is None or _has_inputs(prior.sites[self.gate].shape)


@dataclass(frozen=True)
class BeyondThreshold(InclusionEvent):
    """A latent exceeds a threshold in size; see `beyond_threshold`."""

    kind: ClassVar[str] = "atom"
    is_exact: ClassVar[bool] = True
    raw: str = "raw"
    threshold: str = "threshold"

    def __str__(self) -> str:
        return f"|{self.raw}| > {self.threshold} (atom)"

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Where the drawn weight is not zero."""
        return values["weight"] != 0


@dataclass(frozen=True)
class SomeComponent(InclusionEvent):
    """A component of the weights' matrix is not zero; see `some_component`."""

    kind: ClassVar[str] = "atom"
    is_exact: ClassVar[bool] = True
    raw: str = "m"
    threshold: str = "threshold"

    def __str__(self) -> str:
        return f"some |{self.raw}| > {self.threshold} (atom)"

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Where the drawn weight is not zero."""
        return values["weight"] != 0

    def chooses_inputs(self, prior: BoundPrior) -> bool:
        """No: components have weights for all inputs."""
        return False


@dataclass(frozen=True)
class ShrinkageBelow(InclusionEvent):
    """The shrinkage factor is below a threshold; see `shrinkage_below`."""

    kind: ClassVar[str] = "shrinkage"
    threshold: float = 0.5
    by: ShrinkageForm | None = None

    def __str__(self) -> str:
        return f"shrinkage factor{_BY[self.by]} < {self.threshold:g} (shrinkage)"

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Where the factor of the drawn scales is below the threshold, for data of that precision."""
        kappa = 1.0 / (1.0 + precision * prior.conditional_sd(values).square())
        return kappa < self.threshold

    def chooses_inputs(self, prior: BoundPrior) -> bool:
        """Where a scale is not shared by all inputs."""
        return any(site.support == "positive" and _has_inputs(site.shape) for site in prior.sites.values())


@dataclass(frozen=True)
class RelativeThreshold(InclusionEvent):
    """The weight exceeds a share of its layer's root mean square; see `relative_threshold`."""

    kind: ClassVar[str] = "relative"
    threshold: float = 0.1

    def __str__(self) -> str:
        return f"|weight| > {self.threshold:g} x rms of the layer (relative)"

    def holds(self, weight: Tensor) -> Tensor:
        """Where weights, `(out, in, ...)`, exceed the share."""
        return weight.abs() > self.threshold * weight.square().mean().sqrt()

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Where the drawn weights exceed it."""
        return self.holds(values["weight"])

    def chooses_inputs(self, prior: BoundPrior) -> bool:
        """No: the prior shrinks all alike."""
        return False


@dataclass(frozen=True)
class SlabMembership(InclusionEvent):
    """The weight belongs to the slab of its mixture prior; see `slab_membership`."""

    kind: ClassVar[str] = "membership"

    def __str__(self) -> str:
        return "the weight belongs to the slab (membership)"

    def check(self, name: str, shape: tuple[int, ...], weight: Any) -> None:
        """Refuses weights whose distribution knows no slab."""
        if not hasattr(weight, "log_odds"):
            raise ValueError(
                "included=slab_membership() needs weights whose distribution has a slab, a method log_odds(value): "
                "use SpikeSlabMixture, or another event"
            )

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Drawn with the probability that the drawn weight has."""
        return torch.bernoulli(prior.membership_log_odds(values).sigmoid())


@dataclass(frozen=True)
class ReducedToZero(InclusionEvent):
    """The evidence prefers the model that has the weight; see `reduced_to_zero`."""

    kind: ClassVar[str] = "reduction"
    expected_density: float = 0.5
    level: str = "weight"

    def __str__(self) -> str:
        return f"evidence for the {self.level}, {self.expected_density:g} of them before the data (reduction)"

    def check(self, name: str, shape: tuple[int, ...], weight: Any) -> None:
        """Refuses a level that the tensor lacks."""
        level_shape(self.level, shape, tensor=name)

    def at_prior(self, prior: BoundPrior, values: dict[str, Tensor], precision: float) -> Tensor:
        """Drawn with the expected density, a group at a time."""
        groups = level_shape(self.level, prior.shape)
        return (torch.rand(groups) < self.expected_density).expand(prior.shape)


def _has_inputs(shape: tuple[int, ...]) -> bool:
    """Whether a site of that shape has an entry for each input."""
    return len(shape) > 1 and shape[1] > 1


def exact_zero(gate: str | None = None, slab: str | None = None) -> ExactZero:
    """The weight is exactly zero unless included (Mitchell & Beauchamp 1988).

    Args:
        gate: Name of the Bernoulli latent that multiplies the weight; the inclusion probability is then the
            guide's probability of a one. Default None: the event is that a drawn weight is not zero.
        slab: Name of the latent multiplied by the gate; names the pair for ``guide="paired"``.

    Raises:
        ValueError: If a slab is named without a gate.
    """
    if slab is not None and gate is None:
        raise ValueError("exact_zero(slab=...) needs gate=... as well: name the Bernoulli latent of the pair")
    return ExactZero(gate, slab)


def beyond_threshold(raw: str = "raw", threshold: str = "threshold") -> BeyondThreshold:
    """The weight is exactly zero unless |raw| > threshold, as in soft thresholding (Kusupati et al. 2020).

    Args:
        raw: Name of the real latent, one a weight, that is thresholded; default ``"raw"``.
        threshold: Name of the deterministic node, a function of one latent, whose value |raw| has to exceed; default
            ``"threshold"``.
    """
    return BeyondThreshold(raw, threshold)


def some_component(raw: str = "m", threshold: str = "threshold") -> SomeComponent:
    """The weight is exactly zero unless |raw| > threshold for one of the components that its matrix is the sum of.

    Of a single weight that says little: all weights of a matrix are in, or the whole matrix is out. How many
    components there are is what `bayesprune.ranks` says.

    Args:
        raw: Name of the real latent, one a component, that is thresholded; default ``"m"``.
        threshold: Name of the deterministic node, a function of one latent, whose value |raw| has to exceed; default
            ``"threshold"``.
    """
    return SomeComponent(raw, threshold)


def shrinkage_below(threshold: float = 0.5, by: str | None = None) -> ShrinkageBelow:
    """The shrinkage factor is below `threshold`: the data decide the weight.

    There are two factors, of the same meaning in a conjugate Normal model:

    * ``"fisher"``, the textbook's: kappa_j = 1 / (1 + data_size F_j s_j^2), F_j the diagonal Fisher information of one
      datum at the fit, s_j the prior standard deviation of the weight given its scales (Piironen & Vehtari 2017,
      eq. 2.4; Carvalho, Polson & Scott 2010). In a network that fits its data F vanishes, and all weights count as
      shrunk.
    * ``"posterior"``: exp(-2 I_j), I_j the nats that the data give about the weight given its scale, the KL divergence
      of its posterior from its prior as the guide has them: more than 0.35 nats for the threshold 0.5. With precise
      data it is kappa_j on average; a weight that the data hold away from zero without curvature counts too.

    Args:
        threshold: Strictly between 0 and 1; default 0.5.
        by: Which; default None: ``"fisher"`` where the model is linear (its network has one matrix, which has a prior)
            and where the guide holds the weights as points, else ``"posterior"``.

    Raises:
        ValueError: If the threshold is out of range or the name unknown.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"shrinkage_below needs a threshold strictly between 0 and 1, not {threshold}")
    if by not in _BY:
        raise ValueError(f"shrinkage_below(by=...) takes 'fisher', 'posterior' or None, not {by!r}")
    return ShrinkageBelow(float(threshold), cast("ShrinkageForm | None", by))


def relative_threshold(threshold: float = 0.1) -> RelativeThreshold:
    """|weight| is larger than `threshold` times the root mean square of its layer's weights.

    Raises:
        ValueError: If the threshold is not positive.
    """
    if not threshold > 0.0:
        raise ValueError(f"relative_threshold needs a positive threshold, not {threshold}")
    return RelativeThreshold(float(threshold))


def slab_membership() -> SlabMembership:
    """The weight belongs to the slab of its mixture prior (George & McCulloch 1993).

    The component z is integrated out of the prior, and p(z = 1 | w, data) = p(z = 1 | w), so that the inclusion
    probability is E_q(w)[p(z = 1 | w)]: probabilities are averaged over draws of the weight, not draws of z. Of a MAP
    it is the probability at the point. The weights' distribution has to have a method ``log_odds(value)``, as
    `SpikeSlabMixture` has.
    """
    return SlabMembership()


REDUCED_LEVELS = ("weight", "kernel", "output", "input")


def reduced_to_zero(expected_density: float = 0.1, level: str = "weight") -> ReducedToZero:
    """The evidence prefers the model that has the weight to the one that lacks it (Bayesian model reduction).

    Its probability is closed-form for weights ~ Normal(0, sd) under a mean-field guide: see
    `bayesprune.inference.inclusion.reduction`.

    Args:
        expected_density: Prior probability of the model that has it; default 0.1.
        level: What is taken out as one: ``"weight"`` (default), ``"kernel"``, ``"output"`` or ``"input"``.

    Raises:
        ValueError: If an argument is out of range.
    """
    if not 0.0 < expected_density < 1.0:
        raise ValueError(f"reduced_to_zero needs an expected_density strictly between 0 and 1, not {expected_density}")
    if level not in REDUCED_LEVELS:
        raise ValueError(f"reduced_to_zero(level=...) takes one of {', '.join(REDUCED_LEVELS)}, not {level!r}")
    return ReducedToZero(float(expected_density), level)
