"""How long a fit is that was told neither epochs nor steps.

Passes over the data are the usual unit, and a poor one for small data: 30 passes over 1,300 images are 330 steps of
Adam, in which a posterior does not even find the weights. So the length has a floor in steps.
"""

from __future__ import annotations

from bayesprune.inference.data.batches import Batches

__all__ = ["LEAST_STEPS", "PASSES", "default_epochs"]

PASSES = 30
"""Passes over the data, where these are steps enough."""
LEAST_STEPS = 2500
"""Steps of a fit at least; most ready priors gain nothing by more on networks of some 1e5 weights (docs/results.md)."""


def default_epochs(batches: Batches, share: float = 1.0) -> int:
    """Passes over the data by default: 30, or as many as 2,500 steps take.

    Args:
        batches: The training data.
        share: Of that length, for a fit that begins at another one; default 1.

    Raises:
        ValueError: If the data do not tell how many steps a pass has.
    """
    return max(1, round(share * PASSES), -(-round(share * LEAST_STEPS) // batches.steps_in(1)))
