"""Sparse variational dropout: a log-uniform prior on every weight."""

from __future__ import annotations

from bayesprune.models.distributions.log_uniform import IMPROPER, LogUniform
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.language.inclusion import relative_threshold
from bayesprune.models.language.latent import WEIGHT, Latent
from bayesprune.models.language.ready_registry import ready


@ready("sparse-variational-dropout", "log-uniform weights: a dropout rate a weight")
class SparseVariationalDropout(Hierarchy):
    """weight ~ LogUniform, with q(weight) = Normal(m, alpha m^2) (Molchanov, Ashukha & Vetrov 2017).

    Nothing is to be set: the prior has no scale. A weight whose dropout rate alpha = sd^2 / m^2 is large is noise; the
    paper removes those of log alpha >= 3, by ``criterion="dropout-rate"``. Improper: no simulation, and no MAP (its
    density is infinite at zero), so the guide is a Normal whatever the fit asks for.
    """

    noise = WEIGHT

    def __init__(self) -> None:
        super().__init__(
            weight=Latent(LogUniform(), guide="normal"), included=relative_threshold(0.1), improper=IMPROPER
        )
