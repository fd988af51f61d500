"""What one evaluation of the negative ELBO comes to: its terms, with or without the graph to differentiate."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

__all__ = ["Evaluation", "Terms"]


@dataclass
class Terms:
    """The negative ELBO of one evaluation and its parts, in full-data nats.

    Attributes:
        loss: kl_weight x kl - log_likelihood, with the graph to differentiate.
        log_likelihood: Estimate of E_q[log p(all data | weights)].
        kl: Estimate of KL(q || prior); for points minus the log prior, with which it is no KL divergence.
        kl_of: Its part for each site.
        outputs: The network's outputs on the batch, `(batch, ...)`.
        weights: The weights that the network ran with, after the model's ways, by name of tensor, in the graph of
            `loss`, so that a dense gradient can be taken at them; empty where the network ran more than once, and in
            the fused execution.
    """

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor
    kl_of: dict[str, Tensor] = field(default_factory=dict)
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))
    weights: dict[str, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the negative ELBO, looked back on: the numbers of `Terms`, in full-data nats, without a graph.

    Attributes:
        loss: kl_weight x kl - log_likelihood.
        log_likelihood: As in `Terms`.
        kl: As in `Terms`.
        kl_of: Its part for each site.
        kl_weight: The factor on the KL term.
    """

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor
    kl_of: dict[str, Tensor]
    kl_weight: float
