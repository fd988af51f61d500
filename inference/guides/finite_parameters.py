"""Whether a step has left parameters and outputs that are numbers: the loss that follows may never be evaluated."""

from __future__ import annotations

import torch
from torch import Tensor

from bayesprune.inference.guides.guide import Guide

__all__ = ["NonFiniteLossError", "check_finite_outputs", "check_finite_parameters"]


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the message names the step and the site."""


@torch.no_grad()
def check_finite_parameters(guide: Guide) -> None:
    """Refuses a guide whose last step took it to NaN or infinity: its next loss would not be finite.

    Args:
        guide: The guide.

    Raises:
        NonFiniteLossError: If a parameter is not finite; names a site.
    """
    if all(bool(torch.isfinite(parameter).all()) for parameter in guide.parameters()):
        return
    sites = guide.means()
    first = next((name for name, value in sites.items() if not bool(torch.isfinite(value).all())), next(iter(sites)))
    raise NonFiniteLossError(
        f"the parameters of the guide became non-finite in the last step, first those of {first}: lower "
        "learning_rate, or look at the prior of that site"
    )


def check_finite_outputs(outputs: Tensor) -> None:
    """Refuses outputs of which a likelihood makes no distribution.

    Args:
        outputs: Outputs of the network at the guide's centre, `(batch, ...)`.

    Raises:
        NonFiniteLossError: If one is NaN.
    """
    if not bool(torch.isnan(outputs).any()):
        return
    raise NonFiniteLossError(
        "the network gives NaN at the guide's centre after the last step: lower learning_rate, or look at the priors"
    )
