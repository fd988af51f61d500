"""Inclusion events: what it means, under a prior, that a weight is in the network.

Every event has a kind, and probabilities of unlike kinds are never compared:

* ``"atom"``: the weight is exactly zero with positive probability (spike and slab, soft thresholds, gates).
* ``"shrinkage"``: the data, not the prior, decide the weight: its shrinkage factor kappa_j is below a threshold.
* ``"relative"``: the weight is larger than a share of its layer's root mean square.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Kind = Literal["atom", "shrinkage", "relative"]


@dataclass(frozen=True)
class InclusionEvent:
    """An inclusion event and its kind; made by `exact_zero`, `shrinkage_below` and `relative_threshold`.

    Attributes:
        kind: ``"atom"``, ``"shrinkage"`` or ``"relative"``.
        threshold: The threshold of the last two kinds; zero for an atom.
        gate: Name of the Bernoulli latent that switches the weight, if there is one.
        slab: Name of the latent whose value the weight has where the gate is one.
    """

    kind: Kind
    threshold: float = 0.0
    gate: str | None = None
    slab: str | None = None

    def __str__(self) -> str:
        if self.kind == "atom":
            return f"{self.gate} = 1 (atom)" if self.gate else "weight != 0 (atom)"
        if self.kind == "shrinkage":
            return f"shrinkage factor < {self.threshold:g} (shrinkage)"
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


def shrinkage_below(threshold: float = 0.5) -> InclusionEvent:
    """The shrinkage factor kappa_j = 1 / (1 + data_size F_j s_j^2) is below `threshold`.

    F_j is the diagonal Fisher information of one datum, s_j the prior standard deviation of the weight given
    its scales (Piironen & Vehtari 2017, eq. 2.4; Carvalho, Polson & Scott 2010).

    Raises:
        ValueError: If the threshold is not strictly between 0 and 1.
    """
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"shrinkage_below needs a threshold strictly between 0 and 1, not {threshold}")
    return InclusionEvent("shrinkage", threshold=float(threshold))


def relative_threshold(threshold: float = 0.1) -> InclusionEvent:
    """|weight| is larger than `threshold` times the root mean square of its layer's weights.

    Raises:
        ValueError: If the threshold is not positive.
    """
    if not threshold > 0.0:
        raise ValueError(f"relative_threshold needs a positive threshold, not {threshold}")
    return InclusionEvent("relative", threshold=float(threshold))
