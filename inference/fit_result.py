"""The result of a fit: draws, predictions, inclusion probabilities, shrinkage, summary."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import xarray as xr
from torch import Tensor

from bayesprune.inference import combined, own_loop
from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.kept_inputs import inputs_of
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.inclusion.deployed_weights import deployed_weights
from bayesprune.inference.inclusion.effective_parameters import effective_parameters
from bayesprune.inference.inclusion.events import included_at
from bayesprune.inference.inclusion.weight_inclusion import unit_inclusion, weight_inclusion
from bayesprune.inference.notes.summary import summarise
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.posterior import fit_transport
from bayesprune.inference.posterior.shrinkage_factors import shrinkage_factors
from bayesprune.inference.posterior.storage import load_fit, save_fit
from bayesprune.inference.predictions import predictive
from bayesprune.inference.predictions.predictive import Prediction
from bayesprune.inference.rules.budget_count import weights_left
from bayesprune.inference.watching.record import Record
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.costs.layer_budgets import LayerBudget

__all__ = ["Fit", "Prediction"]


@dataclass
class Fit(Fitted):
    """The result of `fit`; weight-level results are those of one restart and are never averaged over restarts.

    Attributes:
        restarts: The independent fits.
        trace: The pruning trace; see `bayesprune.inference.watching.pruning_trace.trace_dataset`.
        settings: How it was fitted: guide, epochs, steps, seed, seconds, tempered, ...
        inputs: Training inputs `(n, ...)` for statistics of batch normalisation, where the network tracks any and they
            are known; they stay in memory.
        examples: A few training examples with their targets, of data in memory; they stay there, for `prune`.
    """

    __copy__, __deepcopy__ = fit_transport.copied, fit_transport.deeply_copied
    __reduce_ex__ = fit_transport.reduced

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
            return {name: included_at(one, prior, draw, draw[name]) for name, prior in one.model.priors.items()}

    def layer_budget(self, restart: int = 0) -> LayerBudget:
        """How many weights each tensor with a prior is left with, by the rule of its prior that `Budget` counts by.

        What one fit has learned can so be asked of another: ``Budget(density=fit.layer_budget())``,
        ``prune(other, budget=fit.layer_budget())``.

        Args:
            restart: Which restart; default the first.
        """
        one = self.restart(restart)
        left = {name: int(there.sum()) for name, there in weights_left(one.guide).items()}
        sizes = one.model.declared_sizes
        return LayerBudget.of_counts({name: left.get(name, 0) for name in sizes}, sizes)

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

    @classmethod
    def of(
        cls,
        objective: Objective | Sequence[Objective],
        data: Data,
        record: Record | Sequence[Record] | None = None,
    ) -> Fit:
        """Makes a fit of what a loop of one's own has trained: plain torch, or Pyro's `SVI` on ``loss.guide``.

        The model and the guide are copied: train on, and the fit stays what it is. The copies are in evaluation mode;
        the objective's own modules keep the modes they have. Nothing is trained, standardised or moved to another
        device.

        What nobody has told is None in the settings (optimizer, learning rate, batch size, seed, and without a record
        the number of steps and the seconds too); the seeds of the restarts are 0, 1, ..., and number draws only.
        ``"own_loop"`` is True there.

        Args:
            objective: What `bp.objective` made, trained. Several are restarts: of the same priors, guide and number of
                data.
            data: The training data, as `fit` takes them: what pruning, statistics of batch normalisation and Fisher
                information look at.
            record: A `Record` of the training, or as many as there are objectives; default None: there is none. The
                trace has then one row, of an evaluation of the objective on at most 2,000 examples, and `convergence`
                cannot tell.

        Returns:
            The fit: it predicts, prunes, is saved and read as one of `fit`.

        Raises:
            ValueError: If these are no such objectives, they do not go together or belong to another record, the data
                do not fit, a parameter is not finite, or the model has gates of units, which only `fit` can train.
        """
        return own_loop.fit_of(cls, objective, data, record)

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
        return shrinkage_factors(self, restart, draws)

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
        return effective_parameters(self, restart, draws, probability)

    def included_weights(self, restart: int = 0) -> dict[str, Tensor]:
        """E[weight | included] at the guide's locations: the weights that a pruned network keeps.

        For a gated prior the gates are one, those of units too; a scale's location is its median. For membership
        it is E[weight]: a guide's Normal does not know of the slab. For soft thresholds of Normals it is the mean
        itself, which is not zero where the weight at the locations is.

        Returns:
            Weights by name of tensor, `(out, in, ...)`.
        """
        return deployed_weights(self.restart(restart))

    def summary(self) -> dict[str, Any]:
        """What the fit was and came to, as plain numbers and strings."""
        return summarise(self)

    def save(self, path: str | Path, overwrite: bool = False) -> Path:
        """Writes the fit to a folder, all of it or nothing: JSON, safetensors and netCDF, nothing pickled.

        Raises:
            ValueError: If the folder exists (unless `overwrite`, and it holds a saved fit and nothing else) or cannot
                be written to; or the fit holds NaN or infinity.
            OSError: If the disk is full; what was there stays.
        """
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
        found = load_fit(Fit, path, model)
        return found if data is None else found.keep_inputs(data)
