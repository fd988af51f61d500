"""Which statistics of batch normalisation a network has at given weights: they belong to the draw."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from bayesprune.inference.data.batch_normalisation import statistics_at, tracked_layers
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.guide import Guide
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["CENTRE", "EACH", "RUNNING", "DrawStatistics", "statistics_in_words"]

EACH, CENTRE, RUNNING = "each draw", "centre", "running"


class DrawStatistics:
    """Statistics of batch normalisation for weights drawn from a guide.

    Args:
        model: The model.
        guide: Its guide.
        inputs: Training inputs, `(n, ...)`, or None where there are none at hand.
        which: ``"each draw"``: estimated again on the inputs for every draw, one forward pass over them each;
            ``"centre"``: once, for the weights at the guide's centre; ``"running"``: those that training has left.
            Default None: each draw where there are inputs, else running.

    Attributes:
        which: What they are, in these words; None for a network that tracks no statistics. Inputs that turn out to give
            none, such as a single example, leave it at ``"running"``.

    Raises:
        ValueError: If `which` is unknown, or needs inputs that are not there.
    """

    def __init__(
        self, model: BayesianNetwork, guide: Guide, inputs: Tensor | None = None, which: str | None = None
    ) -> None:
        if which not in (None, EACH, CENTRE, RUNNING):
            raise ValueError(f"statistics= takes '{EACH}', '{CENTRE}' or '{RUNNING}', not {which!r}")
        self._model, self._guide, self._inputs = model, guide, inputs
        self.which: str | None = None
        if tracked_layers(model.network):
            self.which = which or (RUNNING if inputs is None else EACH)
            if inputs is None and self.which != RUNNING:
                raise ValueError(
                    f"statistics={self.which!r} needs training inputs, and this fit holds none: pass data=, the "
                    "training data"
                )
        self._of_centre: dict[str, Tensor] | None = None

    def at(self, weights: Mapping[str, Tensor]) -> dict[str, Tensor] | None:
        """Values of buffers by name for weights by name of tensor, as `outputs_at` takes them; None: its own."""
        if self.which in (None, RUNNING) or self._inputs is None:
            return None
        if self.which == EACH:
            return self._known(statistics_at(self._model.network, weights, self._inputs))
        if self._of_centre is None:
            centre = self._model.weights_at(self._guide.means())
            self._of_centre = statistics_at(self._model.network, centre, self._inputs)
        return self._known(self._of_centre)

    def _known(self, found: dict[str, Tensor]) -> dict[str, Tensor] | None:
        """None, and said so, where the inputs give no statistics: one example has no variance."""
        if not found:
            self.which = RUNNING
        return found or None


def statistics_in_words(fit: Fitted) -> str | None:
    """Whose statistics the predictions of a fit have by default; None where its network tracks none."""
    if not tracked_layers(fit.model.network):
        return None
    if fit.inputs is None:
        return (
            "running statistics, which are not those of a draw: pass data=, or give the fit its training data by "
            "keep_inputs"
        )
    return f"statistics of each draw, estimated on {len(fit.inputs):,} training inputs"
