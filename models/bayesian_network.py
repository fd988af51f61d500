"""A network with priors: an ordinary Pyro model."""

from __future__ import annotations

import copy
import functools
from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Any

import pyro
from pyro import poutine
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.models.fit_progress import FitProgress
from bayesprune.models.hierarchy import Hierarchy
from bayesprune.models.likelihoods import Categorical, Likelihood
from bayesprune.models.tensor_prior import Site, TensorPrior

OBSERVED = "obs"


class BayesianNetwork(nn.Module):
    """A network, priors on its parameter tensors, and a likelihood, as one Pyro model ``bnn(x, y)``.

    The log joint is in full-data nats: the log-likelihood of a batch is scaled by `data_size` / batch size. It
    works wherever Pyro takes a model (`Predictive`, `NUTS`, `pyro.render_model`, `Trace_ELBO`).

    Parameters without a prior are point estimates, kept as the parameters of this module. The user's network is
    copied, never changed.

    Args:
        network: Any `nn.Module` whose forward takes one tensor of inputs.
        priors: Hierarchies by pattern of parameter names, e.g. ``{"fc*.weight": Horseshoe()}``; patterns as in
            a shell.
        likelihood: What the network's outputs mean; default `Categorical()`.
        data_size: Number of data of the whole training set; required.
        gates: Hierarchies of gates by pattern of module names, e.g. ``{"relu*": Hierarchy(gate=...)}``. Not
            available before units are traced: anything but None is refused.

    Attributes:
        network: The copy; its parameters with a prior hold the starting weights and do not require gradients.
        priors: The bound hierarchies by name of parameter tensor.
        data_size: Number of data.
        progress: Share of a fit's steps that are done, where a prior asks for it; else None.

    Raises:
        ValueError: If a pattern matches no parameter, two match the same, or `data_size` is not positive.
    """

    network: nn.Module
    likelihood: Likelihood
    progress: FitProgress | None

    def __init__(
        self,
        network: nn.Module,
        priors: Mapping[str, Hierarchy],
        likelihood: Likelihood | None = None,
        data_size: int | None = None,
        gates: Mapping[str, Hierarchy] | None = None,
    ) -> None:
        super().__init__()
        if gates is not None:
            raise ValueError(
                "gates= is not available in this version: put a Bernoulli latent into a weight prior instead, "
                "e.g. SpikeAndSlab(level='output')"
            )
        if data_size is None or data_size < 1:
            raise ValueError(
                f"data_size must be the number of training data (at least 1), not {data_size}: it scales the likelihood"
            )
        self.network = copy.deepcopy(network)
        self.likelihood = likelihood if likelihood is not None else Categorical()
        self.data_size = int(data_size)
        self.patterns = dict(priors)
        self.priors: dict[str, TensorPrior] = {}
        tensors = dict(self.network.named_parameters())
        progress = FitProgress()
        for name, pattern in match_patterns(self.patterns, tensors).items():
            hierarchy = self.patterns[pattern]
            if not isinstance(hierarchy, Hierarchy):
                raise ValueError(
                    f"the prior on {name} must be a Hierarchy, not {hierarchy!r}: write e.g. Gaussian() or "
                    "Hierarchy(weight=dist.Normal(0.0, 1.0))"
                )
            shape = tuple(tensors[name].shape)
            self.priors[name] = TensorPrior(name, hierarchy, shape, self.data_size, pattern, progress)
            tensors[name].requires_grad_(False)
        self.progress = progress if any(one.hierarchy.is_annealed for one in self.priors.values()) else None

    @property
    def sites(self) -> dict[str, Site]:
        """Every sample site that the priors declare, by name, in the order in which they are drawn."""
        return {site.name: site for prior in self.priors.values() for site in prior.sites.values()}

    @functools.cached_property
    def has_tied_weights(self) -> bool:
        """Whether one parameter of the network stands under several names; `functional_call` is slower then."""
        return len(list(self.network.named_parameters(remove_duplicate=False))) > len(list(self.network.parameters()))

    @property
    def point_estimates(self) -> tuple[str, ...]:
        """Names of the network's parameters without a prior."""
        return tuple(name for name, _ in self.network.named_parameters() if name not in self.priors)

    def starting_weights(self, name: str) -> Tensor:
        """The weights that the network had when it was handed in, `(out, in, ...)`."""
        return self.network.get_parameter(name).detach()

    def sample_weights(self) -> dict[str, Tensor]:
        """Runs the priors as Pyro statements.

        Returns:
            Weights by name of parameter tensor.
        """
        shared: dict[str, Tensor] = {}
        weights = {}
        for name, prior in self.priors.items():
            weights[name] = prior.sample(self.network.get_parameter(name), shared)
        return weights

    def weights_at(self, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Runs the priors at given values of the sites, without Pyro.

        Args:
            values: Values by name of site.

        Returns:
            Weights by name of parameter tensor.
        """
        shared: dict[str, Tensor] = {}
        return {
            name: prior.run(lambda site, _: values[site], self.network.get_parameter(name), shared)[0]
            for name, prior in self.priors.items()
        }

    def forward(self, x: Tensor, y: Tensor | None = None) -> Tensor:
        """The Pyro model: draws weights, runs the network, observes or draws the data.

        Args:
            x: Inputs, `(batch, ...)`.
            y: Targets, `(batch,)` or `(batch, d)`; None draws them.

        Returns:
            The observed or drawn targets.
        """
        outputs = functional_call(self.network, self.sample_weights(), (x,))
        return self.observe(outputs, y)

    def observe(self, outputs: Tensor, y: Tensor | None) -> Tensor:
        """Pyro statement of the likelihood, scaled to all the data."""
        fn = self.likelihood.distribution(outputs)
        with poutine.scale(scale=self.data_size / len(outputs)), pyro.plate("data", len(outputs), dim=-1):
            return pyro.sample(OBSERVED, fn, obs=y)

    def __str__(self) -> str:
        parts = [f"likelihood {self.likelihood.name}, {self.data_size} data"]
        parts += [f"{name} {tuple(prior.shape)}: {prior.hierarchy!r}" for name, prior in self.priors.items()]
        parts.append(f"point estimates: {', '.join(self.point_estimates) or 'none'}")
        return "\n".join(parts)


def match_patterns(patterns: Mapping[str, Any], tensors: Mapping[str, Any]) -> dict[str, str]:
    """Returns the pattern of every parameter tensor that has one, in the order of the tensors.

    Raises:
        ValueError: If a pattern matches nothing, or two match one tensor; both list the parameters.
    """
    listed = ", ".join(tensors)
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in tensors):
            raise ValueError(f"the pattern {pattern!r} matches no parameter: the network has {listed}")
    matched = {}
    for name in tensors:
        found = [pattern for pattern in patterns if fnmatchcase(name, pattern)]
        if len(found) > 1:
            raise ValueError(
                f"the patterns {' and '.join(map(repr, found))} both match {name}: narrow one of them "
                f"(the network has {listed})"
            )
        if found:
            matched[name] = found[0]
    if not matched:
        raise ValueError(f"no parameter has a prior: give priors={{pattern: hierarchy}} (the network has {listed})")
    return matched
