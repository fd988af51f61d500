"""Preferential attachment: the probability of the vertices that a new one is joined to."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["MOST_EDGES_EACH", "log_attachment"]

MOST_EDGES_EACH = 12
"""Edges of a new vertex up to which its probability is summed over the orders of its draws: 2^12 sets a vertex."""


def log_attachment(adjacency: Tensor, edges_each: int) -> Tensor:
    """Log probability of the edges of every vertex after the first `edges_each` + 1, to those before it.

    A vertex is drawn in proportion to its degree, again and again until so many different ones have come: the set of
    them has the probability of all orders in which it may have come, each without the ones before. It is summed over
    subsets in place of orders, g(A) = sum over i in A of g(A without i) d_i / (D - d(A without i)).

    Args:
        adjacency: Ones at [i, j], i < j, `(vertices, vertices)`; the first `edges_each` + 1 vertices are the star.
        edges_each: Edges of each new vertex.

    Returns:
        Nats, float64, a scalar; minus infinity where a new vertex has another number of edges.
    """
    there = adjacency.to(torch.float64)
    first, vertices = edges_each + 1, len(there)
    if vertices == first:
        return there.new_zeros(())
    if bool((there[:, first:].sum(0) != edges_each).any()):
        return there.new_tensor(-torch.inf)
    # The degree of i before vertex t comes: edges among 0 .. t - 1.
    both = there + there.T
    before = torch.cumsum(both, 1) - both
    news = torch.arange(first, vertices)
    chosen = torch.stack([there[:, new].nonzero()[:, 0] for new in news.tolist()])  # (news, edges_each)
    degrees = before[chosen, news[:, None]]
    whole = 2.0 * edges_each * (1.0 + torch.arange(len(news), dtype=torch.float64))
    sums, found = {0: torch.zeros_like(whole)}, {0: torch.ones_like(whole)}
    for subset in range(1, 2**edges_each):
        members = [i for i in range(edges_each) if subset >> i & 1]
        without = {i: subset & ~(1 << i) for i in members}
        sums[subset] = sums[without[members[0]]] + degrees[:, members[0]]
        parts = [found[w] * degrees[:, i] / (whole - sums[w]) for i, w in without.items()]
        found[subset] = torch.stack(parts).sum(0)
    return found[2**edges_each - 1].log().sum()
