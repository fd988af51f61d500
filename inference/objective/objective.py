"""The negative ELBO of a Bayesian network under a guide, as an `nn.Module`.

It runs the declaration itself with the guide's draws: the same functions that the Pyro model runs, without Pyro's
message passing, with analytic terms where a pair of families is registered. `Trace_ELBO()(model, guide)` is the
reference that the tests hold it to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.factors import BernoulliFactor, Factor, GivenGateFactor
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.evaluation import Evaluation, Terms
from bayesprune.inference.objective.expectation import Expectation, Once
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import Loss, default_estimator
from bayesprune.inference.objective.outputs_drawn import OutputsDrawn
from bayesprune.inference.objective.ready_expectations import expectation_for
from bayesprune.inference.objective.site_terms import run_priors, sites_from_draw
from bayesprune.inference.objective.weight_moments import WeightForm
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.networks.running_statistics import frozen_statistics

__all__ = ["Evaluation", "Objective", "Terms", "objective"]

DEFAULT = Gradient()


class Objective(nn.Module):
    """``objective(x, y)``: the negative ELBO in full-data nats.

    Args:
        model: The model.
        guide: The guide; its parameters and the model's point estimates are this module's parameters.
        gradient: How it is estimated; default `Gradient()`.
        expectation: How the data term is averaged over what the guide's draw leaves open; default None: as the
            model's ways ask for, else `Once`.

    Attributes:
        outputs_drawn: Which layers draw their outputs in place of their weights.
        latest: What the last call of ``objective(x, y)`` with gradients came to, without its graph; None before the
            first one. A call without gradients looks on, and is no part of the training.
    """

    def __init__(
        self,
        model: BayesianNetwork,
        guide: Guide,
        gradient: Gradient = DEFAULT,
        expectation: Expectation | None = None,
    ) -> None:
        super().__init__()
        if guide.model is not model:
            raise ValueError("the guide was made for another model: build it with Guide(model, ...)")
        self.model = model
        self.guide = guide
        self.gradient = replace(gradient, latent_gates=gradient.latent_gates or default_estimator(model))
        self.expectation = expectation or expectation_for(model, guide)
        own = gradient.latent_gates is not None
        self.outputs_drawn = OutputsDrawn(guide, self.gradient, own, isinstance(self.expectation, Once))
        self.latest: Evaluation | None = None

    def forward(self, x: Tensor, y: Tensor, kl_weight: float = 1.0) -> Tensor:
        """The negative ELBO of a batch, scaled to all the data, in nats.

        Args:
            x: Inputs, `(batch, ...)`.
            y: Targets, `(batch,)` or `(batch, d)`.
            kl_weight: Factor on the KL term; anything but 1 is a tempered objective. Default 1.
        """
        found = self.terms(x, y, kl_weight)
        if torch.is_grad_enabled():
            parts = {site: term.detach() for site, term in found.kl_of.items()}
            self.latest = Evaluation(found.loss.detach(), found.log_likelihood, found.kl, parts, float(kl_weight))
        return found.loss

    def terms(
        self, x: Tensor, y: Tensor, kl_weight: float | Tensor = 1.0, given: Mapping[str, Tensor] | None = None
    ) -> Terms:
        """As `forward`, with the parts apart.

        Args:
            x: As for `forward`.
            y: As for `forward`.
            kl_weight: As for `forward`.
            given: Weights of parameter tensors whose priors are evaluated elsewhere (`prior_terms`), by name; their
                part of the KL term is left out. Default none.
        """
        evaluated: list[Terms] = []
        losses = [self._particle(x, y, kl_weight, evaluated, given or {}) for _ in range(self.gradient.particles)]
        if len(evaluated) == 1:
            # An estimator's surrogate may have a gradient of its own, whatever it evaluated.
            return replace(evaluated[0], loss=losses[0])
        count = len(evaluated)
        return Terms(
            loss=torch.stack(losses).mean(),
            log_likelihood=torch.stack([t.log_likelihood for t in evaluated]).mean(),
            kl=torch.stack([t.kl for t in evaluated]).mean(),
            kl_of={
                site: sum((t.kl_of[site] for t in evaluated), torch.zeros_like(term)) / count
                for site, term in evaluated[0].kl_of.items()
            },
            outputs=evaluated[0].outputs,
        )

    def prior_terms(self, names: Sequence[str]) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Weights of some parameter tensors at one draw of the guide, and their parts of the KL term.

        Args:
            names: Names of parameter tensors whose priors have no gates.

        Returns:
            The weights in that order, `(out, in, ...)`, and the terms in nats by site.
        """
        with fast_distributions():
            kl_of = dict[str, Tensor]()
            weights = run_priors(self.model, self.outputs_drawn.draw(), self.gradient, kl_of, names=names)
            return list(weights.values()), kl_of

    @torch.no_grad()
    def kl_terms(self) -> dict[str, Tensor]:
        """The parts of the KL term by site at one draw of the guide, in nats, without any data.

        Without what the expectation of the data term adds to them.
        """
        found: list[dict[str, Tensor]] = []

        def price(values: dict[str, Tensor]) -> Tensor:
            found.append({})
            run_priors(self.model, factors, self.gradient, found[-1], values)
            return torch.stack(list(found[-1].values())).sum()

        with fast_distributions():
            factors = self.guide.draw()
            self._over_latent_gates(price, factors, ())
        return {site: torch.stack([one[site] for one in found]).mean() for site in found[0]}

    def estimated_from_draw(self) -> list[str]:
        """Names of the sites whose term has no registered form, so that it is estimated from the draw."""
        return sites_from_draw(self.guide, self.gradient)

    def _particle(
        self,
        x: Tensor,
        y: Tensor,
        kl_weight: float | Tensor,
        evaluated: list[Terms],
        given: Mapping[str, Tensor],
    ) -> Tensor:
        with fast_distributions():
            forms = self.outputs_drawn.forms(x)
            factors = self.outputs_drawn.draw(forms)

            def loss(values: dict[str, Tensor]) -> Tensor:
                # Batch normalisation takes its running statistics from the step's first forward pass only.
                context = frozen_statistics(self.model.network) if evaluated else nullcontext()
                with context:
                    evaluated.append(self._evaluate(x, y, kl_weight, factors, values, given, forms))
                return evaluated[-1].loss

            return self._over_latent_gates(loss, factors, forms)

    def _over_latent_gates(self, loss: Loss, factors: Mapping[str, Factor], forms: Sequence[WeightForm]) -> Tensor:
        """The surrogate of the expected loss over Bernoulli latents that are drawn; the loss itself without any."""
        known = {form.gate for form in forms}
        gates = {
            name: factor
            for name, factor in factors.items()
            if isinstance(factor, BernoulliFactor) and not isinstance(factor, GivenGateFactor) and name not in known
        }
        estimator = self.gradient.latent_gates
        return estimator(loss, gates) if gates and estimator else loss({})

    def _evaluate(
        self,
        x: Tensor,
        y: Tensor,
        kl_weight: float | Tensor,
        factors: dict[str, Factor],
        gates: dict[str, Tensor],
        given: Mapping[str, Tensor],
        forms: Sequence[WeightForm],
    ) -> Terms:
        """The terms at one draw of everything, gates included."""
        network, kl_of, drawn = self.model.network, dict[str, Tensor](), dict[str, Tensor]()
        weights = run_priors(self.model, factors, self.gradient, kl_of, gates, given, values=drawn)
        moments = self.outputs_drawn.moments(forms, factors, drawn, weights)
        ran: list[tuple[Tensor, dict[str, Tensor]]] = []

        def nll(values: Mapping[str, Tensor]) -> Tensor:
            """Negative log-likelihood of each example at values of what the ways draw."""
            # Batch normalisation takes its running statistics from the first run only.
            with frozen_statistics(network) if ran else nullcontext():
                ran.append(self.outputs_drawn.run_network(x, weights, moments, values))
            return -self.model.likelihood.log_prob(ran[-1][0], y)

        expected = self.expectation(nll, len(x), self.model.data_size)
        kl_of |= expected.terms
        log_likelihood = -expected.nll
        kl = torch.stack(list(kl_of.values())).sum() if kl_of else log_likelihood.new_zeros(())
        untempered = isinstance(kl_weight, float) and kl_weight == 1.0
        loss = (kl if untempered else kl_weight * kl) - log_likelihood
        outputs, effective = ran[0]
        effective = effective if len(ran) == 1 else {}
        return Terms(loss, log_likelihood.detach(), kl.detach(), kl_of, outputs.detach(), effective)


def objective(model: BayesianNetwork, guide: Guide | str | None = None, gradient: Gradient = DEFAULT) -> Objective:
    """Returns the negative ELBO for a training loop of one's own, which `Fit.of` makes a fit of.

    Write ``loss = bp.objective(bnn, "meanfield")`` once, then ``loss(x, y).backward()`` for every batch.

    Args:
        model: The model.
        guide: A `Guide`, or what `Guide` takes as its choice; default None: each prior's default.
        gradient: How it is estimated; default `Gradient()`.

    Returns:
        An `nn.Module`; its parameters are the guide's and the model's point estimates.
    """
    return Objective(model, guide if isinstance(guide, Guide) else Guide(model, guide), gradient)
