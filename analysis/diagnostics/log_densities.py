"""Log densities of a posterior approximation at given values of its sites, in float64."""

from __future__ import annotations

import copy
from collections.abc import Collection, Mapping
from typing import Any, cast

import torch
from torch import Tensor

from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Data
from bayesprune.inference.data.kept_inputs import inputs_of
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.registry import has_density
from bayesprune.inference.predictions.draw_statistics import DrawStatistics
from bayesprune.inference.restart import Restart
from bayesprune.models.language.iid import Iid
from bayesprune.models.networks.outputs import BATCH, outputs_at
from bayesprune.models.networks.placing import like


class LogDensities:
    """Log densities under one restart of a fit, on a copy in float64.

    Sums of as many log densities as a network has weights differ by less than float32 resolves. The tests hold them to
    Pyro's traces of model and guide, which are slower.

    Where statistics of batch normalisation follow the training, the likelihood at given weights is with the statistics
    that belong to them.

    Args:
        fit: The fit.
        restart: Which restart.
        data: Training data for those statistics, where the fit keeps none; default None: the running ones then.

    Attributes:
        fit: The copy, a fit of that restart alone, its network in evaluation mode.
        one: The copied restart.

    Raises:
        ValueError: If there is no such restart.
    """

    def __init__(self, fit: Fit, restart: int, data: Data | None = None) -> None:
        one = fit.restart(restart)
        model, guide = copy.deepcopy((one.model, one.guide))
        model.double().network.eval()
        self.one = Restart(model, guide.double(), one.seed)
        inputs = fit.inputs
        if inputs is None and data is not None and tracked_layers(model.network):
            inputs = inputs_of(data, next(model.network.parameters()))
        if inputs is not None and inputs.is_floating_point():
            inputs = inputs.double()
        self.fit = Fit([self.one], fit.trace, fit.settings, inputs)
        self._statistics = DrawStatistics(model, self.one.guide, inputs)
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            self._factors = guide.draw()  # for their parameters: what they drew is not looked at

    @torch.no_grad()
    def at(
        self, values: Mapping[str, Tensor], among: Collection[str] | None = None
    ) -> tuple[dict[str, Tensor], float, float]:
        """The weights and both densities at values of all sites.

        Args:
            values: Values by name of site.
            among: Sites whose density under the guide is wanted; default None: all. Points of the guide have none.

        Returns:
            Weights by name of tensor; log prior density, and log density under the guide, in nats.
        """
        log_prior = log_guide = 0.0

        def visit(site: str, fn: Iid) -> Tensor:
            nonlocal log_prior, log_guide
            value, factor = values[site], self._factors[site]
            log_prior += float(fn.log_prob(value))
            if factor.has_density and (among is None or site in among):
                log_guide += float(factor.conditioned(values, fn).log_prob(value).sum())
            return value

        shared: dict[str, Tensor] = {}
        weights = {}
        for name, prior in self.one.model.priors.items():
            weights[name], drawn = prior.run(visit, self.one.model.network.get_parameter(name), shared)
            if prior.hierarchy.factor is not None:
                log_prior += float(prior.factor(drawn, weights[name]))
        return weights, log_prior, log_guide

    @torch.no_grad()
    def likelihoods(self, weights: Mapping[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        """Log-likelihood of each example at given weights by name of tensor, `(n,)`, in nats."""
        network, likelihood = self.one.model.network, cast(Any, self.one.model.likelihood)
        reference = next(network.parameters())
        own = {name: weights[name] for name in self.one.model.priors}
        statistics = self._statistics.at(own)
        parts = []
        for part_x, part_y in zip(x.split(BATCH), y.split(BATCH), strict=True):
            outputs = outputs_at(network, own, part_x, BATCH, statistics)
            parts.append(likelihood.log_prob(outputs, like(part_y, reference)))
        return torch.cat(parts)


def check_density(one: Restart, what: str) -> None:
    """Refuses a guide that has no density at some site, where the density of all sites is needed.

    Args:
        one: The restart.
        what: What it is needed for.

    Raises:
        ValueError: If a site is a point, or its family has no density.
    """
    without = [f"{name} ({family})" for name, family in one.guide.family_of.items() if not has_density(family)]
    if without:
        raise ValueError(f"{what} needs a guide with a density at every site, but {without[0]} has none: leave it out")
