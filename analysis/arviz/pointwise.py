"""What the draws say of each example: its log-likelihood, and observations drawn where the draw puts it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.analysis.arviz.draw_summaries import Draw
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.predictions.draw_statistics import DrawStatistics
from bayesprune.inference.restart import Restart
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.outputs import BATCH, outputs_at
from bayesprune.models.networks.placing import like

MOST = 10_000_000
"""Numbers that a group holds unless it is asked for: 500 draws of 20,000 examples."""
PROBED = 8
"""Examples on which the likelihood is tried before the first draw."""
DENSITIES, DRAWN = "log_likelihood", "posterior_predictive"
VARIABLE, EXAMPLE, TARGET = "y", "example", "target"


class Pointwise:
    """The data at every draw: groups ``log_likelihood``, ``posterior_predictive`` and ``observed_data`` of ArviZ.

    Each is one variable ``y`` over ``example``, for observations of several numbers over ``target`` as well, in the
    units of the targets; log-likelihoods are one number an example, in nats. Labels and counts are 32-bit integers.
    Log-likelihoods are in double precision: in single precision a draw 90 nats off the others has ArviZ's smoothing
    divide by weights that are zero, and its leave-one-out is NaN.

    What cannot be had, or would mislead, is left out: log-likelihoods of draws that are all alike (a MAP), which
    leave-one-out would take for certainty; observations of a likelihood that cannot draw them; and both where they
    would hold more than `MOST` numbers, unless they are asked for.

    Args:
        one: The restart.
        data: All training data, `(x, y)`.
        draws: How many observations are drawn of each example: one a draw of the weights, of a MAP all at the point.
        statistics: Those of batch normalisation.
        wanted: Whether the groups are kept; None: unless they are too large.

    Attributes:
        left_out: Why a group is left out, by its name.

    Raises:
        ValueError: If the likelihood does not take the data, or the groups are asked for and there is neither.
    """

    def __init__(
        self, one: Restart, data: tuple[Tensor, Tensor], draws: int, statistics: DrawStatistics, wanted: bool | None
    ) -> None:
        self.one, self.statistics = one, statistics
        self.x, self.y = data
        self.each = draws if one.guide.is_map else 1
        self.left_out: dict[str, str] = {}
        self._densities: list[np.ndarray] = []
        self._drawn: list[np.ndarray] = []
        self._whole = not self.y.is_floating_point()
        undrawable = self._tried()
        if one.guide.is_certain:
            self.left_out[DENSITIES] = "all draws of this fit are alike: they say nothing of a point left out"
        if undrawable is not None:
            if wanted and DENSITIES in self.left_out:
                raise ValueError(
                    f"pointwise=True has nothing to keep: all draws of this fit are alike, and {undrawable}; leave it "
                    "out"
                )
            self.left_out[DRAWN] = undrawable
        drawn = 8 if self.y.dtype == torch.float64 else 4
        for name, numbers, each in ((DENSITIES, len(self.y), 8), (DRAWN, self.y.numel(), drawn)):
            if wanted is False:
                self.left_out.setdefault(name, "pointwise=False")
            elif wanted is None and draws * numbers > MOST:
                size = f"{draws * numbers * each / 1e6:,.0f} MB"
                self.left_out.setdefault(
                    name, f"{draws} draws of {len(self.y):,} examples take {size} and more: pointwise=True keeps them"
                )

    def at(self, draw: Draw) -> float:
        """Keeps of one draw what is kept.

        Args:
            draw: Values of all sites, and the weights, by name.

        Returns:
            The log-likelihood of all the data, in nats.
        """
        likelihood = self.one.model.likelihood
        total = 0.0
        densities, drawn = [], []
        for outputs, y in self._outputs(draw, self.x, self.y):
            density = likelihood.log_prob(outputs, y)
            total += float(density.sum())
            if DENSITIES not in self.left_out:
                densities.append(_array(density).astype(np.float64))
            if DRAWN not in self.left_out:
                drawn.append(self._numbers(likelihood.distribution(outputs).sample(torch.Size([self.each]))))
        if densities:
            self._densities.append(np.concatenate(densities))
        if drawn:
            self._drawn.append(np.concatenate(drawn, axis=1))
        return total

    def groups(self, sample_dims: Sequence[str]) -> dict[str, xr.Dataset]:
        """The groups by name.

        Args:
            sample_dims: The dimensions of draws: ``sample``, or ``chain`` (of one) and ``draw``.
        """
        found = {"observed_data": xr.Dataset({VARIABLE: (self._dims(), self._numbers(self.y))})}
        if self._densities:
            found[DENSITIES] = _over_draws(np.stack(self._densities), sample_dims, (EXAMPLE,))
        if self._drawn:
            found[DRAWN] = _over_draws(np.concatenate(self._drawn), sample_dims, self._dims())
        return found

    def _dims(self) -> tuple[str, ...]:
        """Names of the dimensions of the observations."""
        return (EXAMPLE, TARGET, *(f"{TARGET}_{axis}" for axis in range(2, self.y.ndim)))[: self.y.ndim]

    def _outputs(self, draw: Draw, x: Tensor, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Outputs of the network at a draw, and the observations, a batch at a time."""
        network = self.one.model.network
        reference = next(network.parameters())
        weights = {name: draw[name] for name, _ in network.named_parameters() if name in draw}  # those of gates too
        buffers = self.statistics.at(weights)
        for part_x, part_y in zip(x.split(BATCH), y.split(BATCH), strict=True):
            yield outputs_at(network, weights, part_x, BATCH, buffers), like(part_y, reference)

    def _tried(self) -> str | None:
        """Refuses data that the likelihood does not take; why it cannot draw observations, None where it can."""
        guide, model = self.one.guide, self.one.model
        with torch.no_grad(), seeded(guide, self.one.seed):
            means = guide.means()
            centre = {**means, **model.weights_at(means)}
            ((outputs, y),) = self._outputs(centre, self.x[:PROBED], self.y[:PROBED])
            model.likelihood.check(outputs, y)
            what = f"the likelihood {model.likelihood.name}"
            try:
                distribution = model.likelihood.distribution(outputs)
                found = distribution.sample(torch.Size([2]))
            except Exception as problem:  # whatever a likelihood of one's own raises
                return f"{what} cannot ({first_line(problem)})"
            with suppress(Exception):  # one that does not say its support is taken for what the targets are
                self._whole = self._whole or bool(distribution.support.is_discrete)
        if tuple(found.shape) != (2, *y.shape):
            return f"{what} draws shape {tuple(found.shape[1:])} where observations have {tuple(y.shape)}"
        return None

    def _numbers(self, values: Tensor) -> np.ndarray:
        """Observations as ArviZ takes them: it tells labels and counts by their integers, and subtracts no booleans."""
        return _array(values.to(torch.int32) if self._whole else values)


def _array(values: Tensor) -> np.ndarray:
    """Numbers on the CPU, in single precision at least: half has too little for densities."""
    values = values.detach().cpu()
    return (values.float() if values.dtype in (torch.bfloat16, torch.float16) else values).numpy()


def _over_draws(values: np.ndarray, sample_dims: Sequence[str], dims: Sequence[str]) -> xr.Dataset:
    """A group of one variable, `(draws, ...)`, with the coordinates that ArviZ gives draws."""
    if len(sample_dims) == 2:
        values = values[None]
    coords = {name: np.arange(values.shape[axis]) for axis, name in enumerate(sample_dims)}
    return xr.Dataset(
        {VARIABLE: ((*sample_dims, *dims), values)}, coords=coords, attrs={"sample_dims": list(sample_dims)}
    )
