"""Gate estimators: the gradient of an expected loss with respect to the probabilities of Bernoulli gates.

The extension point ``GateEstimator``: a callable ``(loss, gates) -> surrogate`` where ``loss`` maps values of the
gates, by site, to the negative ELBO given them, ``gates`` are the guide's factors, and the surrogate is a scalar
whose value is an estimate of the expected loss and whose gradient is the estimate of its gradient.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.inference.guides.factors import BernoulliFactor
from bayesprune.models.bayesian_network import BayesianNetwork

Loss = Callable[[dict[str, Tensor]], Tensor]
GateEstimator = Callable[[Loss, Mapping[str, BernoulliFactor]], Tensor]


def moment_matched(loss: Loss, gates: Mapping[str, BernoulliFactor]) -> Tensor:
    """Draws every gate from a Normal of the Bernoulli's mean a and variance a (1 - a), reparameterised.

    One evaluation. Products of such gates with independent slabs have the first two moments of spike and slab,
    groups' correlations included, so the gradient is exact in expectation where the expected log-likelihood is
    quadratic in the weights (linear regression); in a network it is an approximation that the central limit
    theorem makes good for fan-ins above about 20. Predictions and inclusion probabilities use real Bernoullis.
    """
    values = {}
    for name, gate in gates.items():
        spread = (gate.probability * (1.0 - gate.probability)).clamp_min(1e-12).sqrt()
        values[name] = torch.addcmul(gate.probability, spread, torch.randn_like(spread))
    return loss(values)


def antithetic(loss: Loss, gates: Mapping[str, BernoulliFactor]) -> Tensor:
    """`moment_matched` with a pair of opposite draws of the gates: the same mean, less noise, two evaluations."""
    noise = {}
    for name, gate in gates.items():
        spread = (gate.probability * (1.0 - gate.probability)).clamp_min(1e-12).sqrt()
        noise[name] = spread * torch.randn_like(spread)
    up = loss({name: gate.probability + noise[name] for name, gate in gates.items()})
    down = loss({name: gate.probability - noise[name] for name, gate in gates.items()})
    return 0.5 * (up + down)


def default_estimator(model: BayesianNetwork) -> GateEstimator:
    """`moment_matched`, or `ScoreFunction` for a model in which a gate is a parameter of another distribution.

    A gate between zero and one makes sense as a factor of a weight, not as, say, a part of a scale.
    """
    for prior in model.priors.values():
        gates = {latent for latent, site in prior.sites.items() if site.support == "boolean"}
        for child, parents in prior.hierarchy.parents.items():
            is_drawn = child in prior.sites
            if is_drawn and gates.intersection(parents):
                return ScoreFunction()
    return moment_matched


@dataclass(frozen=True)
class ScoreFunction:
    """REINFORCE with the leave-one-out mean as baseline: unbiased for any loss, noisy for many gates.

    Kool, van Hoof & Welling 2019.

    Attributes:
        particles: Evaluations of the loss; at least 2, default 4.
    """

    particles: int = 4

    def __post_init__(self) -> None:
        if self.particles < 2:
            raise ValueError(f"ScoreFunction needs at least 2 particles for its baseline, not {self.particles}")

    def __call__(self, loss: Loss, gates: Mapping[str, BernoulliFactor]) -> Tensor:
        """Returns the surrogate; see the module."""
        losses, log_probabilities = [], []
        for _ in range(self.particles):
            # Not by `torch.bernoulli`, which a compiler writes anew, with other draws from the same random state.
            values = {name: _bernoulli(gate.probability.detach()) for name, gate in gates.items()}
            losses.append(loss(values))
            log_probabilities.append(
                sum((gates[name].log_prob(v) for name, v in values.items()), losses[-1].new_zeros(()))
            )
        stacked, scores = torch.stack(losses), torch.stack(log_probabilities)
        detached = stacked.detach()
        advantage = (detached - detached.mean()) * (self.particles / (self.particles - 1))
        score_term = (advantage * scores).mean()
        return stacked.mean() + score_term - score_term.detach()


def _bernoulli(probability: Tensor) -> Tensor:
    """Ones with the given probabilities, else zeros."""
    return (torch.rand_like(probability) < probability).to(probability.dtype)
