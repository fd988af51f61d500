"""Inclusion events: what it means, under a prior, that a weight is in the network.

Every event has a kind, and probabilities of unlike kinds are never compared:

* ``"atom"``: the weight is exactly zero with positive probability (spike and slab, soft thresholds, gates).
* ``"shrinkage"``: the data, not the prior, decide the weight: its shrinkage factor is below a threshold.
* ``"relative"``: the weight is larger than a share of its layer's root mean square.
* ``"membership"``: the weight belongs to the slab of a mixture prior, not to its spike; it is never exactly zero.
* ``"reduction"``: the model that has the weight is the better one, the others staying in (Bayesian model reduction).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, cast

Kind = Literal["atom", "shrinkage", "relative", "membership", "reduction"]
ShrinkageForm = Literal["fisher", "posterior"]


_BY = {None: "", "fisher": " by the Fisher information", "posterior": " by the posterior"}


@dataclass(frozen=True)
class InclusionEvent:
    """An inclusion event and its kind; made by `exact_zero`, `shrinkage_below` and the other functions below.

    Attributes:
        kind: ``"atom"``, ``"shrinkage"``, ``"relative"``, ``"membership"`` or ``"reduction"``.
        threshold: The threshold of a shrinkage or relative event; zero for the others.
        gate: Name of the Bernoulli latent that switches the weight, if there is one.
        slab: Name of the latent whose value the weight has where the gate is one.
        expected_density: For a reduction: prior probability that a weight, or a group, is in the network.
        level: For a reduction: what is taken out as one.
        by: For a shrinkage event: which of the two factors, ``"fisher"`` or ``"posterior"``; None: by the model.
    """

    kind: Kind
    threshold: float = 0.0
    gate: str | None = None
    slab: str | None = None
    expected_density: float = 0.5
    level: str = "weight"
    by: ShrinkageForm | None = None

    def __str__(self) -> str:
        if self.kind == "atom":
            return f"{self.gate} = 1 (atom)" if self.gate else "weight != 0 (atom)"
        if self.kind == "shrinkage":
            return f"shrinkage factor{_BY[self.by]} < {self.threshold:g} (shrinkage)"
        if self.kind == "membership":
            return "the weight belongs to the slab (membership)"
        if self.kind == "reduction":
            return f"evidence for the {self.level}, {self.expected_density:g} of them before the data (reduction)"
        return f"|weight| > {self.threshold:g} x rms of the layer (relative)"


def exact_zero(gate: str | None = None, slab: str | None = None) -> InclusionEvent:
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
    return InclusionEvent("atom", gate=gate, slab=slab)


def shrinkage_below(threshold: float = 0.5, by: str | None = None) -> InclusionEvent:
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
    return InclusionEvent("shrinkage", threshold=float(threshold), by=cast("ShrinkageForm | None", by))


def relative_threshold(threshold: float = 0.1) -> InclusionEvent:
    """|weight| is larger than `threshold` times the root mean square of its layer's weights.

    Raises:
        ValueError: If the threshold is not positive.
    """
    if not threshold > 0.0:
        raise ValueError(f"relative_threshold needs a positive threshold, not {threshold}")
    return InclusionEvent("relative", threshold=float(threshold))


def slab_membership() -> InclusionEvent:
    """The weight belongs to the slab of its mixture prior (George & McCulloch 1993).

    The component z is integrated out of the prior, and p(z = 1 | w, data) = p(z = 1 | w), so that the inclusion
    probability is E_q(w)[p(z = 1 | w)]: probabilities are averaged over draws of the weight, not draws of z. Of a MAP
    it is the probability at the point. The weights' distribution has to have a method ``log_odds(value)``, as
    `SpikeSlabMixture` has.
    """
    return InclusionEvent("membership")


REDUCED_LEVELS = ("weight", "kernel", "output", "input")


def reduced_to_zero(expected_density: float = 0.1, level: str = "weight") -> InclusionEvent:
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
    return InclusionEvent("reduction", expected_density=float(expected_density), level=level)
