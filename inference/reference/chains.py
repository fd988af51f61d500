"""What a method of reference leaves: moments, draws by chain, and the evidence where it is known."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

__all__ = ["Chains"]

Array = np.ndarray


@dataclass(frozen=True)
class Chains:
    """The posterior of a regression of K coefficients and G gates.

    Attributes:
        inclusion: Probability of each gate, `(G,)`: exact, or the mean over draws of its probability given all else.
        mean: Posterior mean of each coefficient, `(K,)`, zeros of closed gates included.
        sd: Its posterior standard deviation, `(K,)`.
        gates: Draws of the gates, `(chains, draws, G)`, 0 and 1.
        conditional: Probability of each gate given all else at each draw, `(chains, draws, G)`, whose R-hat and
            effective number of draws say how far `inclusion` is to be trusted; None where that is exact.
        coefficients: Draws of the coefficients, `(chains, draws, K)`.
        noise: Draws of the noise, in units of `LinearModel.unit`, `(chains, draws)`; None where it is not learned.
        noise_moments: Mean and standard deviation of the noise; None where it is not learned.
        log_evidence: Log of the marginal likelihood in nats, under flat priors of density one; None where unknown.
    """

    inclusion: Array
    mean: Array
    sd: Array
    gates: Array = field(repr=False)
    conditional: Array | None = field(repr=False)
    coefficients: Array = field(repr=False)
    noise: Array | None = field(repr=False)
    noise_moments: tuple[float, float] | None
    log_evidence: float | None
