"""Which layers of a network draw their outputs in place of their weights, and runs of the network that do so."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from torch import Tensor
from torch.func import functional_call
from torch.overrides import TorchFunctionMode

from bayesprune.inference.guides.factors import Factor
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.functional import apart_from_noise
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.local_reparameterisation import (
    LocalReparameterisation,
    OutputMoments,
    UsesOfWeights,
)
from bayesprune.inference.objective.weight_moments import WeightForm, forms_of
from bayesprune.models.networks.running_statistics import frozen_statistics
from bayesprune.models.ways.masking import Masking

__all__ = ["Moments", "OutputsDrawn"]

Moments = Mapping[str, tuple[Tensor | None, Tensor]]
"""Means and variances of weights by name of tensor; no means where the weights that the network is given are these."""


class OutputsDrawn:
    """Looks once for each shape of inputs how the network uses its weights, and remembers what it found.

    A tensor's layer draws its outputs where its weights have a mean and a variance in closed form (`forms_of`), the
    network uses it as the weight of one such layer and for nothing else, and nothing between the draw and the network
    changes it but masks of ones and zeros.

    Args:
        guide: The guide.
        gradient: How the objective is estimated.
        own_estimator: Whether an estimator of the gates' gradient was asked for, which then has all the gates.
        once: Whether the network runs once at a draw. Where it runs several times, as with gates of units, drawn
            outputs are left to who asks for them.

    Attributes:
        names: Names of the tensors whose layers drew their outputs in the latest evaluation.
    """

    def __init__(self, guide: Guide, gradient: Gradient, own_estimator: bool, once: bool) -> None:
        self._guide, self._model, self._gradient = guide, guide.model, gradient
        self._own_estimator, self._once = own_estimator, once
        self._known: tuple[WeightForm, ...] | None = None
        self._found: dict[tuple[tuple[int, ...], bool], tuple[WeightForm, ...]] = {}
        self._draws_weights = False
        self._latest: tuple[WeightForm, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """See the class."""
        return tuple(form.tensor for form in self._latest)

    def forms(self, x: Tensor) -> tuple[WeightForm, ...]:
        """The tensors whose layers draw their outputs on such inputs.

        Args:
            x: Inputs, `(batch, ...)`.
        """
        asked = self._gradient.local_reparameterisation
        if self._draws_weights or asked is False or (asked is None and not self._once):
            return ()
        key = (tuple(x.shape[1:]), self._model.network.training)
        if key not in self._found:
            devices = [x.device] if x.is_cuda else []
            with torch.random.fork_rng(devices), torch.no_grad(), fast_distributions(), apart_from_noise():
                self._found[key] = self._look(x)
        self._latest = self._found[key]
        return self._latest

    def draw(self, forms: Sequence[WeightForm] | None = None) -> dict[str, Factor]:
        """The guide's draw, without what need not be drawn.

        Args:
            forms: The tensors whose layers draw their outputs; default None: those of the latest evaluation.
        """
        at_centre = [site for form in (self._latest if forms is None else forms) for site in form.at_centre]
        return self._guide.draw(at_centre) if at_centre else self._guide.draw()

    def leave_out(self, names: Sequence[str]) -> None:
        """Lets tensors draw their weights for good.

        Args:
            names: Names of the tensors.
        """
        self._known = tuple(form for form in self._known or () if form.tensor not in names)
        self._found = {
            key: tuple(form for form in forms if form.tensor not in names) for key, forms in self._found.items()
        }
        self._latest = tuple(form for form in self._latest if form.tensor not in names)

    @contextmanager
    def draws_of_weights(self) -> Iterator[None]:
        """Lets all layers draw their weights inside."""
        before, self._draws_weights = self._draws_weights, True
        try:
            yield
        finally:
            self._draws_weights = before

    def moments(
        self,
        forms: Sequence[WeightForm],
        factors: Mapping[str, Factor],
        values: Mapping[str, Tensor],
        weights: Mapping[str, Tensor],
    ) -> Moments:
        """Moments of weights at a draw of the guide.

        Args:
            forms: Of which tensors.
            factors: The draw, by site.
            values: Values by site.
            weights: Weights by name of tensor.
        """
        found: dict[str, tuple[Tensor | None, Tensor]] = {}
        for form in forms:
            prior = self._model.priors[form.tensor]
            mean = form.mean(prior, factors, values) if form.is_drawn else None
            centre = weights[form.tensor] if mean is None else mean
            found[form.tensor] = (mean, form.variance(prior, factors, values, centre))
        return found

    def run_network(
        self, x: Tensor, weights: dict[str, Tensor], moments: Moments, values: Mapping[str, Tensor]
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """The network's outputs at drawn weights and values of what the ways draw, and the weights that it ran with.

        Args:
            x: Inputs, `(batch, ...)`.
            weights: Weights by name of tensor, before the model's ways.
            moments: Of the weights whose layers draw their outputs.
            values: Values of what the ways draw, by site.
        """
        weights, moments, _ = self._through_ways(weights, moments, values)
        of_layers = [
            OutputMoments(name, weights[name], weights[name] if mean is None else mean, variance)
            for name, (mean, variance) in moments.items()
        ]
        return self._run(x, weights, values, LocalReparameterisation(of_layers) if of_layers else None), weights

    # -- inside ----------------------------------------------------------------------------------------------

    def _run(
        self, x: Tensor, weights: dict[str, Tensor], values: Mapping[str, Tensor], mode: TorchFunctionMode | None
    ) -> Tensor:
        model, autocast = self._model, self._gradient.autocast
        with ExitStack() as stack:
            if autocast:
                stack.enter_context(torch.autocast(x.device.type, autocast))
            for way in model.ways:
                if way.acts_inside:
                    stack.enter_context(way.inside(model.network, values))
            if mode is not None:
                stack.enter_context(mode)
            outputs: Tensor = functional_call(model.network, weights, (x,), tie_weights=model.has_tied_weights)
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs

    def _through_ways(
        self, weights: dict[str, Tensor], moments: Moments, values: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Moments, set[str]]:
        """Weights and moments behind the model's ways, and names of the tensors that a way changes otherwise."""
        changed: set[str] = set()
        for way in self._model.ways:
            if way.acts_inside:
                continue
            before, weights = weights, way.weights(weights, values, self._model.network)
            if isinstance(way, Masking) and type(way).weights is Masking.weights:
                masks = way.factors
                moments = {
                    name: (mean if mean is None else mean * masks[name], variance * masks[name])
                    if name in masks
                    else (mean, variance)
                    for name, (mean, variance) in moments.items()
                }
            else:
                changed |= {name for name, weight in before.items() if weights[name] is not weight}
        return weights, moments, changed

    def _look(self, x: Tensor) -> tuple[WeightForm, ...]:
        """Runs the network once, and sees what it does with the weights that have a form."""
        asked = self._gradient.local_reparameterisation
        if self._known is None:
            self._known = forms_of(self._guide, self._gradient, asked is not None, self._own_estimator)
        if not self._known:
            return ()
        model = self._model
        factors = self._guide.draw()
        shared: dict[str, Tensor] = {}
        drawn = {
            name: prior.run(lambda site, _: factors[site].value, model.network.get_parameter(name), shared)[0].clone()
            for name, prior in model.priors.items()
        }
        weights, _, changed = self._through_ways(drawn, {}, {})
        names = [form.tensor for form in self._known if form.tensor not in changed]
        uses = UsesOfWeights([(name, weights[name]) for name in names], len(x))
        with frozen_statistics(model.network):
            self._run(x, weights, {}, uses)
        found = uses.draw_outputs(asked == "approximate")
        return tuple(form for form in self._known if form.tensor in found)
