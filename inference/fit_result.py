"""The result of a fit: draws, predictions, inclusion probabilities, shrinkage, summary."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference import combined, own_loop
from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.kept_inputs import inputs_of
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.posterior import fit_transport
from bayesprune.inference.posterior.axis_names import axis_names
from bayesprune.inference.posterior.shrinkage import (
    shrinkage_at,
    shrinkage_draws,
    shrinkage_form,
)
from bayesprune.inference.predictions import predictive
from bayesprune.inference.predictions.predictive import Prediction
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import restart_number
from bayesprune.models.language.scale_mixture import is_scale_mixture
from bayesprune.models.language.tensor_prior import TensorPrior


@dataclass
class Restart:
    """One of several independent fits.

    Attributes:
        model: The model with its fitted point estimates and buffers.
        guide: The fitted guide.
        seed: Its random seed.
        fisher: Diagonal Fisher information by tensor, where an inclusion event needs it.
    """

    model: BayesianNetwork
    guide: Guide
    seed: int
    fisher: dict[str, Tensor] | None = None


@dataclass
class Fit:
    """The result of `fit`; weight-level results are those of one restart and are never averaged over restarts.

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

    __copy__, __deepcopy__ = fit_transport.copied, fit_transport.deeply_copied
    __reduce_ex__ = fit_transport.reduced

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
        _positive("n", n)
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

    def included_at(self, draw: dict[str, Tensor], restart: int = 0) -> dict[str, Tensor]:
        """Which weights are included at one draw of `map_draws`, by each prior's own event.

        Where the event has a probability given the draw (membership, reduction), it is drawn with that.

        Returns:
            True and False by name of tensor, `(out, in, ...)`.

        Raises:
            ValueError: If a prior declares no event, or one that cannot be evaluated.
        """
        one = self.restart(restart)
        with torch.no_grad():
            return {name: self._included(one, prior, draw, draw[name]) for name, prior in one.model.priors.items()}

    def predict(
        self,
        x: Tensor,
        draws: int = 32,
        restart: int = 0,
        batch_size: int = 1024,
        seed: int | None = None,
        data: Data | None = None,
        statistics: str | None = None,
    ) -> Prediction:
        """Predicts with the network averaged over draws of its weights (one for a MAP).

        Statistics of batch normalisation belong to a draw, and are estimated again for each on training inputs: one
        forward pass over at most 2,000 of them a draw, besides the pass over `x` (docs/posteriors.md).

        Args:
            x: Inputs, `(n, ...)`.
            draws: Draws of the weights; default 32.
            restart: Which restart; default the first.
            batch_size: Examples a forward pass; default 1024.
            seed: As for `draws`: by default the draws are the same at every call.
            data: Training data, for the statistics of batch normalisation; default None: the inputs that the fit
                keeps. A fit that was loaded keeps none, and predicts with the running statistics, as the prediction's
                attribute ``statistics`` then says.
            statistics: ``"each draw"``; ``"centre"``: estimated once, at the guide's centre, which is cheaper, and
                wrong where draws differ much from it; or ``"running"``: those that training has left. Default None:
                each draw where there are training inputs, else running. Without batch normalisation, or where it is
                held in evaluation mode, there is nothing to choose.

        Raises:
            ValueError: If the network does not take the inputs, or `statistics` is unknown, or needs `data`.
        """
        return predictive.predict(self, x, draws, restart, batch_size, seed, data, statistics)

    def score(
        self,
        x: Tensor,
        y: Tensor,
        draws: int = 32,
        restart: int = 0,
        seed: int | None = None,
        data: Data | None = None,
        statistics: str | None = None,
    ) -> dict[str, float]:
        """Scores of the averaged prediction on held-out data.

        Args:
            x: Inputs, `(n, ...)`.
            y: Targets.
            draws: Draws of the weights; default 32.
            restart: Which restart; default the first.
            seed: As for `draws`.
            data: Training data, as for `predict`.
            statistics: As for `predict`; ``summary()["batch_normalisation"]`` says which they are by default.

        Returns:
            The likelihood's scores (accuracy, or rmse), ``nll`` (minus the log of the mean predictive density, nats
            per example), for classes ``ece`` (15 bins), for numbers ``coverage_50`` and ``coverage_90``.

        Raises:
            ValueError: As `predict`.
        """
        return predictive.score(self, x, y, draws, restart, seed, data, statistics)

    def negative_log_likelihood(
        self,
        x: Tensor,
        y: Tensor,
        draws: int = 32,
        restart: int = 0,
        seed: int | None = None,
        data: Data | None = None,
        statistics: str | None = None,
    ) -> float:
        """Minus the mean log posterior predictive density, log of the mean density over draws, in nats per example.

        Arguments and errors are those of `score`.
        """
        return predictive.negative_log_likelihood(self, x, y, draws, restart, seed, data, statistics)

    def keep_inputs(self, data: Data | Tensor) -> Fit:
        """Keeps some of the training inputs, at most 2,000, for statistics of batch normalisation; not written to disk.

        `fit` does so itself; a fit that was loaded has none until it is given them. Nothing is kept where the network
        tracks no such statistics.

        Args:
            data: The training data, or their inputs `(n, ...)` alone.

        Returns:
            The fit itself.

        Raises:
            ValueError: If the data are none.
        """
        if any(tracked_layers(one.model.network) for one in self.restarts):  # units may have left with their layers
            self.inputs = inputs_of(data, next(self.model.network.parameters()))
        return self

    predictive_intervals = predictive.predictive_intervals
    combined = combined.combined
    of = staticmethod(own_loop.fit_of)

    def inclusion_probabilities(self, restart: int = 0, draws: int = 200, units: bool = True) -> xr.Dataset:
        """Posterior inclusion probability of every weight of every tensor with a prior.

        With gates of units it is the probability that the weight's own event holds and the units that make and read it
        are open. Weights of units that were removed during the fit are not among them.

        Args:
            restart: Which restart; default the first.
            draws: Draws of the latents where the probability has no closed form; default 200.
            units: Whether gates of units count; default True.

        Returns:
            One variable a tensor, `(out, in, ...)`, in [0, 1]; its attribute ``kind`` is the kind of the event
            (see `bayesprune.models.language.inclusion`), ``event`` its text.

        Raises:
            ValueError: For a MAP, which has no probabilities but those of membership at its point, or a prior that
                declares no event.
        """
        from bayesprune.inference.inclusion.weight_inclusion import weight_inclusion

        return weight_inclusion(self, restart, draws, units)

    def unit_inclusion(self, restart: int = 0) -> xr.Dataset:
        """Posterior probability theta that the gate of each unit is open, as the network was declared.

        Args:
            restart: Which restart; default the first.

        Returns:
            One variable a set of units (layers' gates under the branch's name), `(units,)`, in [0, 1]: zero for units
            that were removed. ``unit_number`` counts a set's units; those that may not be removed have no gate.

        Raises:
            ValueError: If the model has no gates of units.
        """
        from bayesprune.inference.inclusion.weight_inclusion import unit_inclusion

        return unit_inclusion(self, restart)

    def shrinkage_factors(self, restart: int = 0, draws: int = 200) -> xr.Dataset:
        """Posterior mean of the shrinkage factor of every weight.

        0 is a weight that the data decide, 1 one that the prior does. By the Fisher information it is the textbook's
        kappa_j = 1 / (1 + data_size F_j s_j^2), the fraction by which the estimate is pulled to zero; by the posterior,
        as for networks, exp(-2 I_j), I_j the nats that the data give about the weight given its scale: see
        `shrinkage_below`, which says when it is which.

        Args:
            restart: Which restart; default the first.
            draws: Draws of the scales; default 200 (one for a MAP).

        Returns:
            One variable a tensor whose prior is a scale mixture, `(out, in, ...)`; its attribute ``by`` is ``"fisher"``
            or ``"posterior"``.

        Raises:
            ValueError: If no prior is a scale mixture with random scales, or what the factor needs is not there.
        """
        one = self.restart(restart)
        mixtures = [prior for prior in one.model.priors.values() if is_scale_mixture(prior)]
        if not mixtures:
            raise ValueError(
                "no prior of this fit is a scale mixture with random scales, so there are no shrinkage factors: "
                "use inclusion_probabilities()"
            )
        means = {prior.name: torch.zeros(prior.shape) for prior in mixtures}
        count = 1 if one.guide.is_map else draws
        for _, factors in shrinkage_draws(one, mixtures, count):
            for name, kappa in factors.items():
                means[name] += kappa.cpu() / count
        attrs = {prior.name: {"by": shrinkage_form(one, prior)} for prior in mixtures}
        return xr.Dataset({p.name: (dimensions(p.name, p), means[p.name].numpy(), attrs[p.name]) for p in mixtures})

    def effective_parameters(self, restart: int = 0, draws: int = 200, probability: float = 0.89) -> xr.Dataset:
        """Number of weights that are in the network, with its posterior interval.

        The sum over a tensor of 1 - kappa_j for a scale mixture, unless it declares an event of another kind; else the
        number of included weights.

        Args:
            restart: Which restart; default the first.
            draws: Draws of the latents; default 200.
            probability: Of the equal-tailed interval; default 0.89.

        Returns:
            Variables ``mean``, ``lower``, ``upper`` and ``weights`` (how many there are) over ``tensor``.

        Raises:
            ValueError: For a MAP, or a prior that declares no event.
        """
        from bayesprune.inference.inclusion.effective_parameters import effective_parameters

        return effective_parameters(self, restart, draws, probability)

    def included_weights(self, restart: int = 0) -> dict[str, Tensor]:
        """E[weight | included] at the guide's locations: the weights that a pruned network keeps.

        For a gated prior the gates are one, those of units too; a scale's location is its median. For membership
        it is E[weight]: a guide's Normal does not know of the slab.

        Returns:
            Weights by name of tensor, `(out, in, ...)`.
        """
        one = self.restart(restart)
        values = one.guide.means()
        for site in one.model.sites.values():
            if site.support == "boolean":
                values[site.name] = torch.ones_like(values[site.name])
        with torch.no_grad():
            return {name: weight.detach().clone() for name, weight in one.model.ungated_weights_at(values).items()}

    def summary(self) -> dict[str, Any]:
        """What the fit was and came to, as plain numbers and strings."""
        from bayesprune.inference.notes.summary import summarise

        return summarise(self)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the fit to a folder, all of it or nothing: JSON, safetensors and netCDF, nothing pickled.

        Raises:
            ValueError: If the folder exists (unless `overwrite`, and it holds a saved fit and nothing else) or cannot
                be written to; or the fit holds NaN or infinity.
            OSError: If the disk is full; what was there stays.
        """
        from bayesprune.inference.posterior.storage import save_fit

        return save_fit(self, path, overwrite)

    @staticmethod
    def load(path: str | Path, model: BayesianNetwork | None = None, data: Data | None = None) -> Fit:
        """Reads a fit back.

        Args:
            path: The folder.
            model: The model as it was declared; needed for networks and priors of your own, whose code is not
                stored. Its declaration is compared with the saved one by fingerprint.
            data: Training data, of which `keep_inputs` keeps some; default None: none.

        Raises:
            ValueError: If the folder is no fit, a file is damaged, or the model differs from the saved one.
        """
        from bayesprune.inference.posterior.storage import load_fit

        found = load_fit(path, model)
        return found if data is None else found.keep_inputs(data)

    # -- inside ----------------------------------------------------------------------------------------------

    def _refuse_map(self, one: Restart) -> None:
        if one.guide.gates is not None:
            return  # whether a unit is there has a probability
        families = one.guide.family_of
        for name, prior in one.model.priors.items():
            event = prior.hierarchy.included
            if event is not None and event.kind == "membership":
                continue  # its probability is known given the weight
            if all(families[site.name] == "delta" for site in prior.sites.values()):
                what = "this fit is a MAP" if one.guide.is_map else f"this fit is a MAP of {name}"
                raise ValueError(
                    f"{what}: points have no inclusion probabilities; fit with guide='meanfield' or 'paired', "
                    "or prune by sparsity"
                )

    def _inclusion_draws(self, one: Restart, priors: list[TensorPrior], draws: int, units: bool = True) -> Any:
        """Yields, a draw at a time, which weights are included; `units`: whether gates of units count."""
        with torch.no_grad(), seeded(one.guide, one.seed):
            for _ in range(draws):
                values = one.guide.sample()
                weights = one.model.weights_at(values) if units else one.model.ungated_weights_at(values)
                yield {prior.name: self._included(one, prior, values, weights[prior.name]) for prior in priors}

    def _included(self, one: Restart, prior: TensorPrior, values: dict[str, Tensor], weight: Tensor) -> Tensor:
        event = prior.hierarchy.included
        if event is None:
            raise ValueError(f"the prior on {prior.name} declares no inclusion event: add included=...")
        if event.kind == "shrinkage":
            if not is_scale_mixture(prior):
                raise ValueError(f"the prior on {prior.name} is no scale mixture: use another event")
            return shrinkage_at(one, prior, values) < event.threshold
        if event.kind == "reduction":  # under a mean-field guide the models' probabilities multiply
            from bayesprune.inference.inclusion.reduction import drawn_event

            return drawn_event(one, prior)
        if event.kind == "membership":
            from bayesprune.inference.inclusion.membership import log_odds_at

            return torch.bernoulli(log_odds_at(prior, values).sigmoid()).bool()
        if event.kind == "relative":
            return weight.abs() > event.threshold * weight.square().mean().sqrt()
        return weight != 0

    def _inclusion_by_draws(self, one: Restart, priors: list[TensorPrior], draws: int) -> dict[str, Tensor]:
        _positive("draws", draws)
        sums: dict[str, Tensor] = {}
        for included in self._inclusion_draws(one, priors, draws, units=False):
            for name, indicator in included.items():
                sums[name] = sums.get(name, torch.zeros_like(indicator, dtype=torch.float32)) + indicator
        return {name: total / draws for name, total in sums.items()}


def dimensions(name: str, prior: TensorPrior) -> tuple[str, ...]:
    """Names of a tensor's dimensions."""
    return axis_names(name, len(prior.shape))


def _positive(name: str, value: int) -> None:
    if value < 1:
        raise ValueError(f"{name} must be at least 1, not {value}")


__all__ = ["Fit", "Prediction", "Restart"]
