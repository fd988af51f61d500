"""The support of gates, and the sentence for who asks to move them as if they were real numbers."""

from __future__ import annotations

from typing import Any, NoReturn

from torch.distributions import biject_to, constraints, transform_to

__all__ = ["GateSupport", "GatesNotDrawnError"]


class GatesNotDrawnError(ValueError):
    """Gates under inference that moves real numbers, or that enumerates them; it says the same whatever is added.

    Pyro's trace makes an error anew, of its own words and a table of shapes; a sentence is enough.
    """

    def __init__(self, *given: Any) -> None:
        super().__init__(
            "NUTS, HMC and Pyro's automatic guides move real numbers, and a network runs at one set of weights at a "
            "time, so that gates can be neither drawn in this way nor enumerated in parallel: fit them with bp.fit, or "
            "use a prior whose gates are integrated out, such as bp.ContinuousSpikeAndSlab, or one of scales, such as "
            "bp.Horseshoe"
        )


class GateSupport(type(constraints.independent(constraints.boolean, 0))):  # type: ignore[misc]
    """0 or 1 in every entry, like `constraints.independent(constraints.boolean, n)`.

    Whatever moves real numbers asks for the transform of a site's support first, and is refused there.
    """


@biject_to.register(GateSupport)
@transform_to.register(GateSupport)
def _refuse(support: GateSupport) -> NoReturn:
    raise GatesNotDrawnError
