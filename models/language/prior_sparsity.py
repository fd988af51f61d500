"""Prior sparsity: what a prior says about sparsity before any data."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.tensor_prior import TensorPrior


@dataclass(frozen=True)
class PriorSparsity:
    """Sparsity (fraction of zeros, i.e. of weights not included) of draws from a prior.

    Attributes:
        sparsity: One fraction a draw, sorted.
        kind: Kind of the inclusion event.
        event: The event in words.
    """

    sparsity: torch.Tensor
    kind: str
    event: str

    @property
    def mean(self) -> float:
        """Mean sparsity over draws."""
        return float(self.sparsity.mean())

    def interval(self, probability: float = 0.89) -> tuple[float, float]:
        """Equal-tailed interval of the sparsity."""
        tail = (1.0 - probability) / 2.0
        low, high = torch.quantile(self.sparsity, torch.tensor([tail, 1.0 - tail], dtype=self.sparsity.dtype)).tolist()
        return low, high

    def __str__(self) -> str:
        low, high = self.interval()
        return f"prior sparsity {self.mean:.3f}, 89 % of draws in [{low:.3f}, {high:.3f}] ({self.event})"


def prior_sparsity(
    hierarchy: Hierarchy,
    shape: tuple[int, ...],
    draws: int = 200,
    information: float | None = None,
    data_size: int = 60_000,
    seed: int = 0,
) -> PriorSparsity:
    """Simulates a prior on one tensor and applies its inclusion event.

    Args:
        hierarchy: The prior.
        shape: Shape of the tensor, `(out, in, ...)`.
        draws: Draws; default 200.
        information: For a shrinkage event: data_size x F, the data's precision of one weight, of which nothing is
            known before fitting. Default None: fan_in, at which a weight of sd 1 / sqrt(fan_in) is shrunk by half.
        data_size: For priors that ask for it; default 60,000.
        seed: Random seed; the global random state is left as it was.

    Raises:
        ValueError: If the prior declares no event or cannot be simulated.
    """
    event = hierarchy.included
    if event is None:
        raise ValueError("the prior declares no inclusion event: add included=... to its hierarchy")
    prior = TensorPrior("tensor", hierarchy, shape, data_size)
    precision = float(prior.reserved["fan_in"]) if information is None else information
    shares = []
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for _ in range(draws):
            values = prior.simulate()
            included = event.at_prior(prior, values, precision)
            shares.append(1.0 - float(included.double().mean()))
    return PriorSparsity(torch.tensor(sorted(shares), dtype=torch.float64), event.kind, str(event))
