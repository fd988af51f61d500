"""The course of a fit: what the trace of one restart says about how the loss, the likelihood and the scores moved."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from bayesprune.inference.fitted import Fitted

__all__ = ["Course", "Quarters", "course_of"]

Array = np.ndarray
FEWEST = 8
"""Epochs at the final KL weight below which nothing is said of the loss: two a quarter."""
FEWEST_ITERATES = 40
"""Recorded iterates that take their place where the epochs are fewer."""
ERRORS = 4.0
"""Standard errors within which a difference of quarters is noise."""
SMOOTHED = 20
"""Scores are averaged over a share of the epochs of one in so many before their best is taken."""


@dataclass(frozen=True)
class Quarters:
    """The loss after the KL weight had stopped rising, in nats per example.

    Attributes:
        means: Of the four quarters, in order.
        noise: By how much two of them may differ by chance: 4 standard errors.
        misfit: Minus the expected log-likelihood, likewise; None where only the loss is recorded.
    """

    means: Array
    noise: float
    misfit: Array | None = None

    @property
    def rise(self) -> float:
        """By how much the last quarter's mean exceeds the lowest of the others; negative where it is the lowest."""
        return float(self.means[-1] - self.means[:-1].min())

    @property
    def fall(self) -> float:
        """By how much it is lower than that of the quarter before."""
        return float(self.means[-2] - self.means[-1])

    @property
    def misfit_fall(self) -> float:
        """The same of the misfit alone; the loss's where that is not known."""
        return self.fall if self.misfit is None else float(self.misfit[-2] - self.misfit[-1])


@dataclass(frozen=True)
class Course:
    """One restart, epoch by epoch, in nats per training example.

    Attributes:
        log_likelihood: Expected log-likelihood, `(epochs,)`.
        steps_an_epoch: Steps of an epoch.
        quarters: The loss at the end; None where there are too few epochs, or the objective itself changed.
        zeros: Share of zeros among weights whose gates are latents, `(epochs,)`; None without such gates.
        units_left: Gates of units that were left, with the step of each record; None without them.
        validation: Scores after each epoch by name, such as ``"nll"``.
    """

    log_likelihood: Array
    steps_an_epoch: float
    quarters: Quarters | None
    zeros: Array | None
    units_left: tuple[Array, Array] | None
    validation: dict[str, Array]

    def best_of_validation(self) -> tuple[float, float] | None:
        """The lowest nll on validation data, averaged over a twentieth of the epochs, and the last one."""
        nll = self.validation.get("nll")
        if nll is None or len(nll) == 0 or not np.isfinite(nll).all():
            return None
        window = max(1, len(nll) // SMOOTHED)
        smooth = np.convolve(nll, np.ones(window) / window, "valid")
        return float(smooth.min()), float(smooth[-1])


def course_of(fit: Fitted, restart: int = 0) -> Course:
    """Reads the course of a restart off the trace.

    Args:
        fit: The fit.
        restart: Which; default the first.
    """
    trace = fit.trace.isel(restart=restart).dropna("epoch", how="all", subset=["loss"])
    n = float(fit.model.data_size)
    epochs = trace.sizes["epoch"]
    steps = float(trace["iterate_step"].max())
    gated = [p for p in fit.model.priors.values() if p.hierarchy.included is not None and p.hierarchy.included.gate]
    units = None
    if "units_left" in trace:
        kept = np.isfinite(trace["gate_step"].values)
        units = trace["gate_step"].values[kept], trace["units_left"].sum("unit_group").values[kept]
    return Course(
        trace["expected_log_likelihood"].values / n,
        steps / epochs,
        _quarters(fit, trace, n, steps / epochs),
        trace["sparsity"].sel(tensor=[p.name for p in gated]).mean("tensor").values if gated else None,
        units,
        {
            str(name).removeprefix("validation_"): trace[name].values
            for name in trace.data_vars
            if str(name).startswith("validation_")
        },
    )


def _quarters(fit: Fitted, trace: xr.Dataset, n: float, steps_an_epoch: float) -> Quarters | None:
    if fit.model.progress is not None:
        return None  # a prior that changes while it is fitted changes the loss
    if not np.isfinite(steps_an_epoch):
        return None  # of a loop of one's own that nobody recorded
    weight = trace["kl_weight"].values
    late = np.isclose(weight, weight[-1], rtol=1e-6)
    first = float(np.argmax(late)) * steps_an_epoch
    rounding = float(fit.trace.attrs.get("gate_rounding_step", -1))
    if rounding > 0:
        first = max(first, rounding)  # theta jumps there
    kept = np.arange(1, len(late) + 1) * steps_an_epoch > first + steps_an_epoch
    loss = trace["loss"].values[kept] / n
    misfit: Array | None = -trace["expected_log_likelihood"].values[kept] / n
    if len(loss) < FEWEST:
        if weight[-1] != 1.0:
            return None  # what is recorded step by step is the ELBO, not the tempered loss
        iterates, at = trace["negative_elbo"].values, trace["iterate_step"].values
        loss = iterates[np.isfinite(at) & (at > max(first, (fit.settings.get("kl_warmup") or 0.0) * np.nanmax(at)))] / n
        misfit = None
        if len(loss) < FEWEST_ITERATES:
            return None
    if not np.isfinite(loss).all():
        return None
    quarters = [np.array([part.mean() for part in np.array_split(one, 4)]) for one in (loss, misfit) if one is not None]
    # Second differences know nothing of a trend, and their median of a jump: both would pass for noise.
    sd = float(1.4826 * np.median(np.abs(np.diff(loss, 2))) / np.sqrt(6.0))
    return Quarters(
        quarters[0], ERRORS * sd * np.sqrt(2.0 / (len(loss) // 4)), quarters[1] if misfit is not None else None
    )
