"""The negative ELBO of a Bayesian network under a guide, as an `nn.Module`.

It runs the declaration itself with the guide's draws: the same functions that the Pyro model runs, without Pyro's
message passing, with analytic terms where a pair of families is registered. `Trace_ELBO()(model, guide)` is the
reference that the tests hold it to.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.inference.guides.factors import BernoulliFactor, Factor
from bayesprune.inference.guides.fast_distributions import fast_distributions
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.latent_gate_estimators import GateEstimator, default_estimator
from bayesprune.inference.objective.local_reparameterisation import LocalReparameterisation, reparameterisable
from bayesprune.inference.objective.sticking_the_landing import landing_term
from bayesprune.inference.objective.unit_gate_estimators import Estimate, Gates, UnitGateEstimator, estimator_named
from bayesprune.inference.terms.registry import only_by_term, registered_term, site_term
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.iid import Iid
from bayesprune.models.networks.running_statistics import frozen_statistics

GATES = "gates"
"""What the part of the KL term that belongs to gates of units is called."""


@dataclass
class Terms:
    """The negative ELBO of one evaluation and its parts, in full-data nats.

    Attributes:
        loss: kl_weight x kl - log_likelihood, with the graph to differentiate.
        log_likelihood: Estimate of E_q[log p(all data | weights)].
        kl: Estimate of KL(q || prior); for points minus the log prior, with which it is no KL divergence.
        kl_of: Its part for each site.
        outputs: The network's outputs on the batch, `(batch, ...)`.
    """

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor
    kl_of: dict[str, Tensor] = field(default_factory=dict)
    outputs: Tensor = field(default_factory=lambda: torch.empty(0))


@dataclass(frozen=True)
class Evaluation:
    """One evaluation of the negative ELBO, looked back on: the numbers of `Terms`, in full-data nats, without a graph.

    Attributes:
        loss: kl_weight x kl - log_likelihood.
        log_likelihood: As in `Terms`.
        kl: As in `Terms`.
        kl_of: Its part for each site.
        kl_weight: The factor on the KL term.
    """

    loss: Tensor
    log_likelihood: Tensor
    kl: Tensor
    kl_of: dict[str, Tensor]
    kl_weight: float


class Objective(nn.Module):
    """``objective(x, y)``: the negative ELBO in full-data nats.

    Args:
        model: The model.
        guide: The guide; its parameters and the model's point estimates are this module's parameters.
        gate_estimator: How gradients pass gates; default None: `default_estimator` of the model.
        particles: Draws of the guide an evaluation averages; default 1.
        analytic: Whether registered terms replace draws; default True.
        autocast: dtype in which the network runs (`torch.bfloat16`), or None (default) for its own.
        sticking_the_landing: Whether terms of drawn sites are estimated from the draw with the parameters of log q
            held fixed, in place of registered terms (see `sticking_the_landing`); default False.
        local_reparameterisation: Whether linear layers on inputs `(batch, in)` draw their outputs in place of their
            weights where that is exact: weights that are a latent with a Normal guide; default False.
        unit_gate_estimator: How theta of gates of units gets its gradient; default None: as these declare.

    Attributes:
        latest: What the last call of ``objective(x, y)`` with gradients came to, without its graph; None before the
            first one. A call without gradients looks on, and is no part of the training.
    """

    def __init__(
        self,
        model: BayesianNetwork,
        guide: Guide,
        gate_estimator: GateEstimator | None = None,
        particles: int = 1,
        analytic: bool = True,
        autocast: torch.dtype | None = None,
        sticking_the_landing: bool = False,
        local_reparameterisation: bool = False,
        unit_gate_estimator: UnitGateEstimator | None = None,
    ) -> None:
        super().__init__()
        if guide.model is not model:
            raise ValueError("the guide was made for another model: build it with Guide(model, ...)")
        if particles < 1:
            raise ValueError(f"particles must be at least 1, not {particles}")
        self.model = model
        self.guide = guide
        self.gate_estimator = gate_estimator or default_estimator(model)
        self.particles = particles
        self.analytic = analytic
        self.autocast = autocast
        self.sticking_the_landing = sticking_the_landing
        self.local_reparameterisation = local_reparameterisation
        self.unit_gate_estimator = unit_gate_estimator
        self.latest: Evaluation | None = None
        self._removed = _cost_of_removed_weights(model, guide)
        if unit_gate_estimator is None and model.gates is not None:
            self.unit_gate_estimator = estimator_named(model.gates.declaration.estimator)

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
        losses = [self._particle(x, y, kl_weight, evaluated, given or {}) for _ in range(self.particles)]
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
            factors, kl_of = self.guide.draw(), dict[str, Tensor]()
            shared: dict[str, Tensor] = {}
            return [self._run_prior(name, factors, {}, shared, kl_of) for name in names], kl_of

    @torch.no_grad()
    def kl_terms(self) -> dict[str, Tensor]:
        """The parts of the KL term by site at one draw of the guide, in nats, without any data.

        Of a model without gates of units.
        """
        found: list[dict[str, Tensor]] = []

        def price(values: dict[str, Tensor]) -> Tensor:
            kl_of, shared = dict[str, Tensor](), dict[str, Tensor]()
            for name in self.model.priors:
                self._run_prior(name, factors, values, shared, kl_of)
            found.append(kl_of)
            return torch.stack(list(kl_of.values())).sum()

        with fast_distributions():
            factors = self.guide.draw()
            gates = {name: factor for name, factor in factors.items() if isinstance(factor, BernoulliFactor)}
            self.gate_estimator(price, gates) if gates else price({})
        return {site: torch.stack([one[site] for one in found]).mean() for site in found[0]}

    def estimated_from_draw(self) -> list[str]:
        """Names of the sites whose term has no registered form, so that it is estimated from the draw."""
        found: list[str] = []
        with torch.random.fork_rng(devices=[]), torch.no_grad(), fast_distributions():
            factors = self.guide.draw()

            def visit(site: str, fn: Iid) -> Tensor:
                factor = factors[site]
                form = registered_term(type(fn.base_dist), type(factor))
                landing = self.sticking_the_landing and factor.has_landing_term
                known = form is not None and (only_by_term(fn) or self.analytic and not landing)
                if factor.has_density and not known:
                    found.append(site)
                return factor.value

            shared: dict[str, Tensor] = {}
            for name, prior in self.model.priors.items():
                prior.run(visit, self.model.network.get_parameter(name), shared)
        return found

    def _particle(
        self,
        x: Tensor,
        y: Tensor,
        kl_weight: float | Tensor,
        evaluated: list[Terms],
        given: Mapping[str, Tensor],
    ) -> Tensor:
        with fast_distributions():
            factors = self.guide.draw()
            gates = {name: factor for name, factor in factors.items() if isinstance(factor, BernoulliFactor)}

            def loss(values: dict[str, Tensor]) -> Tensor:
                # Batch normalisation takes its running statistics from the step's first forward pass only.
                context = frozen_statistics(self.model.network) if evaluated else nullcontext()
                with context:
                    evaluated.append(self._evaluate(x, y, kl_weight, factors, values, given))
                return evaluated[-1].loss

            return self.gate_estimator(loss, gates) if gates else loss({})

    def _evaluate(
        self,
        x: Tensor,
        y: Tensor,
        kl_weight: float | Tensor,
        factors: dict[str, Factor],
        gates: dict[str, Tensor],
        given: Mapping[str, Tensor],
    ) -> Terms:
        """The terms at one draw of everything, gates included."""
        network, kl_of = self.model.network, dict[str, Tensor]()
        shared: dict[str, Tensor] = {}
        weights = {
            name: given[name] if name in given else self._run_prior(name, factors, gates, shared, kl_of)
            for name in self.model.priors
        }
        ran: list[Tensor] = []

        def nll(values: Mapping[str, Tensor]) -> Tensor:
            """Negative log-likelihood of each example at values of the gates of units."""
            # Batch normalisation takes its running statistics from the first run only.
            with frozen_statistics(network) if ran else nullcontext():
                outputs = self._run_network(x, weights, factors, values)
            ran.append(outputs)
            return -self.model.likelihood.log_prob(outputs, y)

        if self.guide.gates is None:
            log_likelihood = -nll({}).sum() * (self.model.data_size / len(x))
        else:
            estimate = self._through_gates(nll, len(x))
            log_likelihood = -estimate.surrogate * self.model.data_size
            kl_of[GATES] = self._gate_cost(estimate)
        kl = torch.stack(list(kl_of.values())).sum() if kl_of else log_likelihood.new_zeros(())
        untempered = isinstance(kl_weight, float) and kl_weight == 1.0
        loss = (kl if untempered else kl_weight * kl) - log_likelihood
        return Terms(loss, log_likelihood.detach(), kl.detach(), kl_of, ran[0].detach())

    def _run_network(
        self, x: Tensor, weights: dict[str, Tensor], factors: dict[str, Factor], values: Mapping[str, Tensor]
    ) -> Tensor:
        """The network's outputs at drawn weights, and at values of the gates of units where there are any."""
        model, gates = self.model, self.model.gates
        with ExitStack() as stack:
            if self.local_reparameterisation:
                own = reparameterisable(model, factors, weights)
                stack.enter_context(LocalReparameterisation(own))
            if self.autocast:
                stack.enter_context(torch.autocast(x.device.type, self.autocast))
            if values and gates is not None:
                if gates.per_example:
                    stack.enter_context(gates.gated(model.network, values))
                else:
                    weights = gates.multiply(weights, values, model.network)
            outputs: Tensor = functional_call(model.network, weights, (x,), tie_weights=model.has_tied_weights)
        return outputs.float() if outputs.dtype in (torch.bfloat16, torch.float16) else outputs

    def _through_gates(self, nll: Callable[[Mapping[str, Tensor]], Tensor], batch: int) -> Estimate:
        """The expected loss over the gates of units, nats per example; at theta once that is settled."""
        q, gates = self.guide.gates, self.model.gates
        assert q is not None and gates is not None and self.unit_gate_estimator is not None
        if bool(q.settled):
            is_open = bool((q.theta == 1).all())
            return Estimate(nll({} if is_open else q.probabilities()).mean())
        live = q.by_site(~q.absorbed)
        estimate = self.unit_gate_estimator(nll, Gates(q.by_site(q.theta), live, batch, gates.per_example))
        q.touched = None if estimate.weight is None else torch.cat([estimate.weight[site] for site in gates.sets]) > 0
        return estimate

    def _gate_cost(self, estimate: Estimate) -> Tensor:
        """What the gates cost in nats; its gradient in the measure in which the estimator has moved each of them."""
        q, gates = self.guide.gates, self.model.gates
        assert q is not None and gates is not None
        theta = q.by_site(q.theta.detach() if bool(q.settled) else q.theta)
        if estimate.weight is not None:
            theta = {site: at.detach() + estimate.weight[site] * (at - at.detach()) for site, at in theta.items()}
        return gates.cost(theta) + self._removed

    def _run_prior(
        self,
        name: str,
        factors: dict[str, Factor],
        gates: dict[str, Tensor],
        shared: dict[str, Tensor],
        kl_of: dict[str, Tensor],
    ) -> Tensor:
        """Weights of one parameter tensor; adds its terms to `kl_of` and latents of the whole network to `shared`."""
        prior = self.model.priors[name]

        def draw(site: str, fn: Iid) -> Tensor:
            factor = factors[site]
            value = gates[site] if site in gates else factor.value
            term = landing_term(fn, factor, value) if self.sticking_the_landing else None
            kl_of[site] = term if term is not None else site_term(fn, factor, value, self.analytic)
            return value

        weight, values = prior.run(draw, self.model.network.get_parameter(name), shared)
        if prior.hierarchy.factor is not None:
            kl_of[f"{name}.factor"] = -prior.factor(values, weight)
        return weight


def _cost_of_removed_weights(model: BayesianNetwork, guide: Guide) -> float:
    """Minus the log prior, in nats, of weights that left with their units, where gates declare it and they are points.

    They count as if they were there, at zero, where they were going: the objective does not jump when they leave.
    """
    if model.gates is None or not guide.is_point_but_for_gates:
        return 0.0
    gone = sum(
        model.declared_sizes[name] - (math.prod(model.priors[name].shape) if name in model.priors else 0)
        for name in model.left_to_gates
    )
    return gone * (0.5 * math.log(2.0 * math.pi) + math.log(model.gates.declaration.weight_scale))


def objective(model: BayesianNetwork, guide: Guide | str | None = None) -> Objective:
    """Returns the negative ELBO for a training loop of one's own, which `Fit.of` makes a fit of.

    Write ``loss = bp.objective(bnn, "meanfield")`` once, then ``loss(x, y).backward()`` for every batch.

    Args:
        model: The model.
        guide: A `Guide`, or what `Guide` takes as its choice; default None: each prior's default.

    Returns:
        An `nn.Module`; its parameters are the guide's and the model's point estimates.
    """
    return Objective(model, guide if isinstance(guide, Guide) else Guide(model, guide))
