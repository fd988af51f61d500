"""Cost pressure: the network's expected MACs and parameters as the price of its gates."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from bayesprune.models.costs.expected_costs import ExpectedCosts

__all__ = ["CostPressure"]


@dataclass(frozen=True)
class CostPressure:
    """A price on the expected cost of the network, in place of one price for all gates.

    The penalty in nats per datum, with the costs of the whole network below, is

        strength * (macs * E[MACs] / MACs_0 + (1 - macs) * E[parameters] / parameters_0).

    Its derivative is the price of each gate, its marginal cost, which falls as others close: it takes the place of
    log_gamma / data_size and must not be multiplied by the probability again. The three knobs are those that Guenter
    & Sideris, "Complexity-Aware Training of Deep Neural Networks for Optimal Structure Discovery" (arXiv 2411.09127),
    name in their abstract; the formula is ours.

    Args:
        strength: Nats per datum for the whole network, positive.
        macs: Share of MACs, the rest being parameters, in [0, 1]; default 1.
        layers: Share b of removing branches, the rest being removing units, in [0, 1]: (1 - b) times the cost with
            all branches there, and b times that with all units open. Default None: the expected cost itself, with
            both at random.

    Raises:
        ValueError: If an argument is out of range.
    """

    strength: float
    macs: float = 1.0
    layers: float | None = None

    def __post_init__(self) -> None:
        if not 0.0 < self.strength < math.inf:
            raise ValueError(f"CostPressure(strength=...) must be positive nats per datum, not {self.strength}")
        for name, share in (("macs", self.macs), ("layers", self.layers)):
            if share is not None and not 0.0 <= share <= 1.0:
                raise ValueError(f"CostPressure({name}=...) is a share and must lie in [0, 1], not {share}")

    def penalty(
        self,
        costs: ExpectedCosts,
        theta: Mapping[str, Tensor],
        layers: Mapping[str, Tensor] | None,
        whole: tuple[float, float],
    ) -> Tensor:
        """The penalty in nats per datum.

        Args:
            costs: Costs of the network as it is now.
            theta: Probabilities that units are open, as for `ExpectedCosts.macs`.
            layers: Probabilities that branches are there, likewise, or None.
            whole: MACs_0 and parameters_0: `ExpectedCosts.whole` of the network before anything was removed from it.

        Returns:
            A scalar of the dtype of the probabilities.

        Raises:
            ValueError: If a cost of the whole network is not positive, or as `ExpectedCosts.macs` does.
        """
        if not min(whole) > 0.0:
            raise ValueError(f"MACs and parameters of the whole network must be positive, not {whole}")
        if self.layers is None:
            expected = costs.expected(theta, layers)
        else:  # a closed gate counts as gone, so that nothing changes when its unit leaves
            units, branches = ({n: (v > 0).to(v.dtype) for n, v in g.items()} for g in (theta, layers or {}))
            expected = (1.0 - self.layers) * costs.expected(theta, branches)
            expected = expected + self.layers * costs.expected(units, layers)
        share = self.macs * expected[0] / whole[0] + (1.0 - self.macs) * expected[1] / whole[1]
        given = [*theta.values(), *(layers or {}).values()]
        return self.strength * (share.to(given[0].dtype) if given else share)
