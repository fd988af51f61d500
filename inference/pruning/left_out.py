"""How many weights a fit has left out itself, and the refusal to put them back."""

from __future__ import annotations

import math

from torch import Tensor

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.left_in import left_in

__all__ = ["left_out", "refuse_less", "refuse_less_in_layers"]


def left_out(fit: Fit, restart: int = 0) -> tuple[int, int]:
    """How many weights the fit itself has left out, of how many: exact zeros, gates of at most 1/2, removed units.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
    """
    one = fit.restarts[restart]
    left = sum(int(there.sum()) for there in left_in(one.guide).values())
    total = sum(one.model.declared_sizes.values())
    return total - left, total


def refuse_less(fit: Fit, restart: int, sparsity: float, least: float | None) -> None:
    """Refuses to put weights back that the fit has left out; `least` is the score that gave the sparsity, or None."""
    zeros, total = left_out(fit, restart)
    if round(sparsity * total) < zeros:
        already = math.ceil(zeros / total * 1e4) / 1e4
        if least is not None:
            raise ValueError(
                f"the fit already has sparsity {already:.4f} ({total - zeros} of {total} weights are left), more than "
                f"the {sparsity:.4f} that min_score={least:g} leaves: raise it"
            )
        raise ValueError(
            f"the fit already has sparsity {already:.4f} ({total - zeros} of {total} weights are left), more than the "
            f"{sparsity:g} asked for: ask for at least that, or use min_inclusion="
        )


def refuse_less_in_layers(scores: dict[str, Tensor], sparsity: float) -> None:
    """The same for each tensor, whose closed and removed weights have the lowest score of all."""
    lowest = min(float(score.min()) for score in scores.values())
    for name, score in scores.items():
        closed = int((score == lowest).sum())
        if closed > 1 and closed > round(sparsity * score.numel()):
            raise ValueError(
                f"units that the fit has closed hold {closed} of the {score.numel()} weights of {name}, more than the "
                f"{sparsity:g} asked for in each layer: use per='network', or min_inclusion="
            )
