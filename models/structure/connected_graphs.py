"""How probable it is that a random graph is of one part: exact, by the part that vertex 0 is in."""

from __future__ import annotations

import decimal
import math

__all__ = ["connected_probability"]

_DIGITS = 60  # beyond those that the differences below lose


def connected_probability(vertices: int, probability: float) -> tuple[float, float]:
    """Of a graph with each edge by itself: log P(connected), and its derivative by the probability of an edge.

    The part with vertex 0 has k of n vertices with probability C(n - 1, k - 1) P_k (1 - p)^(k (n - k)), and these sum
    to 1 (Gilbert 1959). It takes time as the square of the vertices.

    Args:
        vertices: Number of vertices.
        probability: p of each edge, above 0 and below 1.

    Returns:
        The logarithm in nats, and its derivative.
    """
    with decimal.localcontext() as context:
        # P_n is at least that of the path through all vertices, so that so many digits may be lost to the difference.
        context.prec = _DIGITS + math.ceil(-vertices * math.log10(probability))
        p = decimal.Decimal(probability)
        q, found, slopes = 1 - p, [decimal.Decimal(0)], [decimal.Decimal(0)]
        powers = [decimal.Decimal(1)]
        for _ in range(vertices * vertices // 4):
            powers.append(powers[-1] * q)
        for n in range(1, vertices + 1):
            left, slope = decimal.Decimal(1), decimal.Decimal(0)
            for k in range(1, n):
                cut, ways = k * (n - k), math.comb(n - 1, k - 1)
                left -= ways * found[k] * powers[cut]
                slope -= ways * (slopes[k] * powers[cut] - found[k] * cut * powers[cut - 1])
            found.append(left)
            slopes.append(slope)
        return float(found[-1].ln()), float(slopes[-1] / found[-1])
