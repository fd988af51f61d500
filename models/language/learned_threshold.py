"""A learned threshold of weights, as a function of the one latent behind it."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from bayesprune.models.language.deterministic_nodes import as_node
from bayesprune.models.language.tensor_prior import Site, TensorPrior

__all__ = ["LearnedThreshold", "learned_thresholds"]


@dataclass(frozen=True)
class LearnedThreshold:
    """The threshold of one tensor, a function of one latent (s, or the threshold itself).

    Args:
        prior: The prior.
        compared: Name of the latent that its event compares with the threshold.
        threshold: Name of the threshold.
        latent: Name of the latent behind that.
    """

    prior: TensorPrior
    compared: str
    threshold: str
    latent: str

    @property
    def site(self) -> Site:
        """Site of the latent."""
        return self.prior.sites[self.latent]

    @property
    def raw(self) -> Site:
        """Site of what is compared with the threshold."""
        return self.prior.sites[self.compared]

    @functools.cached_property
    def knobs(self) -> tuple[str, ...]:
        """Names of the knobs that the latent's own prior depends on."""
        return tuple(name for name in self._parents.get(self.latent, ()) if name in self.prior.hierarchy.knobs)

    def at(self, value: Tensor) -> Tensor:
        """The threshold at a value of the latent, of a shape that broadcasts to the latent's.

        Args:
            value: Of the latent's shape.
        """
        return self._node(self.threshold, value)

    @torch.enable_grad()
    def pull(self, values: Mapping[str, Tensor], factor: float = 1.0) -> Tensor:
        """Gradient of the log prior of the latent in nats, of its shape: what moves it while nothing else does.

        Args:
            values: By site, such as a guide's centre.
            factor: What the latent's value is multiplied by before; default 1.
        """
        given = {latent: values[site.name].detach() for latent, site in self.prior.sites.items()}
        given[self.latent] = (factor * given[self.latent]).requires_grad_()
        _, terms = self.prior.evaluate(given, given[self.latent])
        return torch.autograd.grad(terms[self.latent].sum(), given[self.latent])[0]

    @functools.cached_property
    def _parents(self) -> dict[str, tuple[str, ...]]:
        return self.prior.hierarchy.parents

    def _node(self, name: str, value: Tensor) -> Tensor:
        if name == self.latent:
            return value
        given = {
            parent: self.prior.moving[parent].like(value)
            if parent in self.prior.moving
            else self.prior.reserved[parent]
            if parent in self.prior.reserved
            else self._node(parent, value)
            for parent in self._parents.get(name, ())
        }
        found = as_node(self.prior.hierarchy.nodes[name].distribution(**given), value)
        assert found is not None  # it was run when the hierarchy was declared
        return found


def learned_thresholds(priors: Mapping[str, TensorPrior]) -> dict[str, LearnedThreshold]:
    """The learned thresholds of priors whose event names a latent, ``raw``, and a ``threshold``, by name of tensor.

    But for thresholds that are functions of several latents, which have no one number behind them.

    Args:
        priors: The priors, `BayesianNetwork.priors`.
    """
    found = {}
    for name, prior in priors.items():
        raw, threshold = (getattr(prior.hierarchy.included, role, None) for role in ("raw", "threshold"))
        if isinstance(raw, str) and isinstance(threshold, str) and raw in prior.sites:
            behind = _latents_behind(prior, threshold)
            if len(behind) == 1:
                found[name] = LearnedThreshold(prior, raw, threshold, behind.pop())
    return found


def _latents_behind(prior: TensorPrior, node: str) -> set[str]:
    """Names of the latents that a node is a function of, itself if it is one."""
    if node in prior.sites:
        return {node}
    parents = prior.hierarchy.parents.get(node, ())
    return set().union(*(_latents_behind(prior, parent) for parent in parents if parent in prior.hierarchy.nodes))
