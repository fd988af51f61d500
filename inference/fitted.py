"""What a fit holds: its restarts, and what was recorded of their training.

`Fit` adds what can be asked as methods. A function that answers one takes a `Fitted`, so that it stands below `Fit`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import restart_number

__all__ = ["SAMPLES", "Fitted"]

SAMPLES = "samples"
"""Where the settings say of which run and step each restart is, if the restarts are networks that a rule collected."""


@dataclass
class Fitted:
    """The independent fits of one model, with what they were made of.

    Attributes:
        restarts: The independent fits.
        trace: The pruning trace; see `bayesprune.inference.watching.pruning_trace.trace_dataset`.
        settings: How it was fitted: guide, epochs, steps, seed, seconds, tempered, ...
        inputs: Training inputs `(n, ...)` for statistics of batch normalisation, where the network tracks any and they
            are known; they stay in memory.
        examples: A few training examples with their targets, of data in memory; they stay there, for `prune`.
    """

    restarts: list[Restart]
    trace: xr.Dataset
    settings: dict[str, Any] = field(default_factory=dict)
    inputs: Tensor | None = field(default=None, repr=False, compare=False)
    examples: tuple[Tensor, Tensor] | None = field(default=None, repr=False, compare=False)

    @property
    def model(self) -> BayesianNetwork:
        """The fitted model of the first restart."""
        return self.restarts[0].model

    @property
    def guide(self) -> Guide:
        """The fitted guide of the first restart."""
        return self.restarts[0].guide

    def restart(self, number: int) -> Restart:
        """One of the restarts: its model, guide, seed and Fisher information.

        Args:
            number: Which, from 0; numpy integers are taken as well.

        Raises:
            ValueError: If there is none of that number.
        """
        return self.restarts[restart_number(number, len(self.restarts))]

    def draws(
        self, n: int = 100, restart: int = 0, sites: Callable[[str], bool] | None = None, seed: int | None = None
    ) -> dict[str, Tensor]:
        """Draws from the posterior approximation, the same at every call with the same seed.

        Args:
            n: Number of draws; default 100.
            restart: Which restart; default the first.
            sites: Says by name which sites to keep; default all. The weights themselves are drawn too, under the
                name of their tensor, where they are a function of the latents.
            seed: Of the draws, from 0 up; default None: the restart's own, with which ``draws(1)`` is the first of
                ``draws(100)`` and all that a fit says is the same each time. Give others for independent draws.

        Returns:
            Values by name, `(n, ...)`, on the CPU.
        """
        kept: dict[str, list[Tensor]] = {}

        def keep(draw: dict[str, Tensor]) -> None:
            for name, value in draw.items():
                if sites is None or sites(name):
                    kept.setdefault(name, []).append(value.cpu())

        self.map_draws(keep, n, restart, seed)
        return {name: torch.stack(values) for name, values in kept.items()}

    def map_draws(
        self, function: Callable[[dict[str, Tensor]], Any], n: int = 100, restart: int = 0, seed: int | None = None
    ) -> list[Any]:
        """Calls a function on the draws of `draws`, one at a time: for summaries of what would not fit in memory.

        Args:
            function: Gets values of every site, and the weights, by name, on the fit's device.
            n: Number of draws; default 100.
            restart: Which restart; default the first.
            seed: As for `draws`.

        Returns:
            What the function returned, draw by draw.
        """
        if n < 1:
            raise ValueError(f"n must be at least 1, not {n}")
        one = self.restart(restart)
        results = []
        with torch.no_grad(), seeded(one.guide, one.seed, seed):
            for number in range(n):
                values = one.guide.sample()
                draw = {**values, **one.model.weights_at(values)}
                # The next draw is the same, whatever random numbers the function takes.
                with seeded(one.guide, one.seed, seed, 1 + number):
                    results.append(function(draw))
        return results
