"""The posterior of a small model without a guide: by enumeration, a Gibbs sampler or NUTS, with what says how good."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import xarray as xr
from torch import Tensor

from bayesprune.analysis.arviz.shim import arviz, for_top_level
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.posterior.axis_names import axis_names
from bayesprune.inference.reference.chains import Chains
from bayesprune.inference.reference.enumeration import enumerated
from bayesprune.inference.reference.gibbs import gibbs
from bayesprune.inference.reference.linear_model import LinearModel, full_data
from bayesprune.inference.reference.methods import Chosen, chosen_method, fisher_of
from bayesprune.inference.reference.nuts import nuts
from bayesprune.inference.reference.quadrature import integrated
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.networks.standardisation import units_of

__all__ = ["NOISE", "R_HAT", "Reference", "reference"]

Array = np.ndarray
NOISE = "noise"
"""Name of a learned scale of the noise among the draws."""
R_HAT, ESS = 1.01, 400
"""R-hat up to which, and effective draws from which on, chains are taken to have mixed (Vehtari et al. 2021)."""
POINTS = ("flat", "fixed")
_DRAWS = {"enumeration": 2000, "gibbs": 2000, "nuts": 500}
_SHOWN = 24


@dataclass(frozen=True)
class Reference:
    """The posterior of a small model; print it for a table.

    Attributes:
        method: ``"enumeration"`` (exact to rounding), ``"gibbs"`` or ``"nuts"``.
        reason: Why that one, in words.
        probabilities: Inclusion probabilities, as `inclusion_probabilities` returns them.
        mean: Posterior mean of every weight, `(out, in, ...)` by tensor, of parameters without a prior that were
            integrated out, and of the noise; zeros of closed gates count.
        sd: Posterior standard deviations, alike.
        posterior: Draws over ``chain`` and ``draw`` of all of these, and of the gates by their site; those of
            enumeration are exact and independent, in one chain.
        log_evidence: Log of the marginal likelihood in nats, where the method has it; under flat priors of density one.
        r_hat: Largest rank-normalised R-hat (by ArviZ) of weights, gates' probabilities and noise; NaN where draws are
            exact, or where no chain ever moves.
        ess: Least effective number of draws of them, alike.
        divergences: Divergent transitions of NUTS; None elsewhere.
        points: ``"flat"`` where parameters without a prior were integrated out, ``"fixed"`` where they were held.
        kl_weight: The likelihood counted to the power of one over it.
        data_size: Number of data.
        standardised: Whether weights are those of a network that standardises inside.
        seconds: What it took.
        seed: Of the draws.
        notes: What to know besides.
    """

    method: str
    reason: str
    probabilities: xr.Dataset = field(repr=False)
    mean: xr.Dataset = field(repr=False)
    sd: xr.Dataset = field(repr=False)
    posterior: xr.Dataset = field(repr=False)
    log_evidence: float | None
    r_hat: float
    ess: float
    divergences: int | None
    points: str
    kl_weight: float
    data_size: int
    standardised: bool
    seconds: float
    seed: int
    notes: tuple[str, ...] = ()

    def inclusion_probabilities(self) -> xr.Dataset:
        """Posterior inclusion probability of every weight of every tensor whose prior declares an event.

        Returns:
            As `Fit.inclusion_probabilities`: one variable a tensor, `(out, in, ...)`, with the event's ``kind``.

        Raises:
            ValueError: If there are none.
        """
        if not len(self.probabilities):
            raise ValueError("no prior of this model declares an inclusion event whose probability is known here")
        return self.probabilities

    def to_arviz(self) -> Any:
        """The draws as what the installed ArviZ takes: a data tree, or for ArviZ 0.23 an `arviz.InferenceData`."""
        tree = xr.DataTree.from_dict({"posterior": self.posterior})
        tree.attrs = {"inference_library": "bayesprune", "method": self.method, "reason": self.reason}
        return for_top_level(tree)

    @property
    def is_exact(self) -> bool:
        """Whether its probabilities are exact to rounding."""
        return self.method == "enumeration"

    @property
    def has_mixed(self) -> bool:
        """Whether it is exact, or R-hat is at most 1.01 with 400 effective draws and no divergence."""
        return self.is_exact or (self.r_hat <= R_HAT and self.ess >= ESS and not self.divergences)

    def __str__(self) -> str:
        lines = [f"{self.method}: {self.reason}; {self.data_size:,} data, {self.seconds:.1f} s"]
        if self.log_evidence is not None:
            lines.append(f"log evidence {self.log_evidence:.4f} nats")
        if not self.is_exact:
            chains, draws = self.posterior.sizes["chain"], self.posterior.sizes["draw"]
            said = f"{chains} chains of {draws:,} draws: R-hat {self.r_hat:.3f}, effective draws {self.ess:,.0f}"
            lines.append(said + ("" if self.divergences is None else f", divergences {self.divergences}"))
        lines.append(f"{'weight':<28}{'inclusion':>10}{'mean':>11}{'sd':>10}")
        rows = list(_rows(self))
        lines += [f"{name:<28}{inclusion:>10}{mean:11.4g}{sd:10.3g}" for name, inclusion, mean, sd in rows[:_SHOWN]]
        if len(rows) > _SHOWN:
            lines.append(f"and {len(rows) - _SHOWN:,} more")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def reference(
    model: BayesianNetwork | Fit,
    data: tuple[Tensor, Tensor],
    method: str | None = None,
    *,
    draws: int | None = None,
    warmup: int = 500,
    chains: int = 4,
    seed: int = 0,
    points: str = "flat",
    kl_weight: float = 1.0,
    restart: int = 0,
) -> Reference:
    """The posterior of a small model, on the declaration that `fit` takes, by a method that needs no guide.

    For linear and generalised linear models: a network whose outputs are linear in its weights, such as one `Linear`.
    The declaration is run, and compared with the Pyro model's log joint at random points before anything else.

    * ``"enumeration"``: all states of up to 14 gates of `SpikeAndSlab` or any prior of Bernoulli gates and Normal
      slabs, each with its marginal likelihood in closed form (Normal noise); a learned noise by quadrature. Of labels
      and counts it integrates over at most three coefficients by quadrature: no Laplace approximation is made.
    * ``"gibbs"``: more gates, and labels of two classes (by Polya-Gamma variables): several chains from dispersed
      starts.
    * ``"nuts"``: any declaration without gates, such as `Gaussian` beside classes, `Laplace`, `Horseshoe`.

    Args:
        model: The model as it was declared. A fit stands for the model of one of its restarts, in the units in which it
            was trained: `fit` standardises regressions whose noise is learned. The references of the two differ then.
        data: All training data `(x, y)`, tensors.
        method: One of these; default None: the first that applies.
        draws: Draws a chain that are kept; default None: 2,000, of NUTS 500. Those of enumeration are exact, in one.
        warmup: Draws of a chain before; default 500.
        chains: Chains of a sampler; default 4.
        seed: Of the draws; default 0.
        points: What becomes of parameters without a prior, which a fit estimates as points: ``"flat"`` (default)
            integrates them out under a flat prior, biases as they are, the scale of the noise on its logarithm;
            ``"fixed"`` holds them at the model's values, which of a fit are those that it has found.
        kl_weight: Temperature, as of a fit with that KL weight: the likelihood counts to the power of one over it;
            default 1. Not for NUTS and the Gibbs sampler of labels.
        restart: Of a fit, whose model, and where ``"fixed"`` holds points; default the first.

    Returns:
        The reference.

    Raises:
        ValueError: If no method applies (hidden layers, gates beside a likelihood that has none), the data are not all,
            a posterior cannot be normalised, or an argument is out of range.
    """
    began = time.perf_counter()
    fit, model = (model, model.restart(restart).model) if isinstance(model, Fit) else (None, model)
    if not isinstance(model, BayesianNetwork):
        raise ValueError(f"a reference is of a BayesianNetwork or a fit of one, not of a {type(model).__name__}")
    if points not in POINTS:
        raise ValueError(f"points= takes 'flat' or 'fixed', not {points!r}")
    if not 0.0 < kl_weight < float("inf"):
        raise ValueError(f"kl_weight= is positive and finite, not {kl_weight}")
    warmup, chains = whole_number("warmup", warmup, least=1), whole_number("chains", chains)
    seed = whole_number("seed", seed, least=0)
    x, y = full_data(model, data)
    chosen = chosen_method(model, x, y, method, points == "flat")
    count = whole_number("draws", _DRAWS[chosen.method] if draws is None else draws, least=4)
    if kl_weight != 1.0 and (chosen.linear is None or (chosen.method == "gibbs" and _is_labels(chosen.linear))):
        raise ValueError(
            f"kl_weight={kl_weight:g} is for Normal slabs beside Normal noise, and this reference is by "
            f"{chosen.method} of another model: leave it out"
        )
    notes = _notes(chosen, model, fit, points, kl_weight)
    if chosen.linear is None:
        found = _by_nuts(chosen, model, x, y, count, warmup, chains, seed, points == "flat", notes)
    else:
        found = _of_chains(chosen, model, _run(chosen, count, warmup, chains, seed, kl_weight))
    means, sds, probabilities, posterior, conditional, evidence, divergences = found
    r_hat, ess = (float("nan"),) * 2 if chosen.method == "enumeration" else _mixing(posterior, conditional)
    made = Reference(
        chosen.method, chosen.reason, probabilities, means, sds, posterior, evidence, r_hat, ess, divergences, points,
        float(kl_weight), model.data_size, bool(units_of(model.network)), time.perf_counter() - began, seed,
        tuple(notes),
    )  # fmt: skip
    if not made.has_mixed:
        notes.append(
            f"the chains have not mixed well (R-hat {r_hat:.3f}, {ess:,.0f} effective draws"
            + (f", {divergences} divergences" if divergences else "")
            + "): take more draws before you compare with it"
        )
        made = Reference(**{**made.__dict__, "notes": tuple(notes)})
    return made


Found = tuple[xr.Dataset, xr.Dataset, xr.Dataset, xr.Dataset, "Array | None", "float | None", "int | None"]


def _is_labels(linear: LinearModel) -> bool:
    return linear.likelihood == "bernoulli"


def _run(chosen: Chosen, draws: int, warmup: int, chains: int, seed: int, kl_weight: float) -> Chains:
    """What the method leaves of a regression."""
    assert chosen.linear is not None
    if chosen.method == "gibbs":
        return gibbs(chosen.linear, draws, warmup, chains, seed, kl_weight)
    exact = enumerated if chosen.linear.likelihood == "normal" else integrated
    return exact(chosen.linear, draws, seed, kl_weight)


def _notes(chosen: Chosen, model: BayesianNetwork, fit: Fit | None, points: str, kl_weight: float) -> list[str]:
    """What to know besides."""
    notes = []
    if fit is None and model.likelihood.learns_noise and not units_of(model.network):
        notes.append(
            "weights are those of the data as they are; a fit of this model standardises inside where it has not been "
            "told otherwise: give the fit in place of the model for the reference in its units"
        )
    if not chosen.is_identified:
        notes.append("hidden units may change places, so that means and probabilities of single weights mean little")
    if points == "fixed" and (model.point_estimates or model.likelihood.learns_noise):
        notes.append("parameters without a prior are held at the model's values")
    if kl_weight != 1.0:
        notes.append(f"tempered: the likelihood counts to the power {1.0 / kl_weight:g}")
    return notes


def _of_chains(chosen: Chosen, model: BayesianNetwork, found: Chains) -> Found:
    """A regression's chains by tensor."""
    linear = chosen.linear
    assert linear is not None
    places = linear.tensors | linear.points
    dims = {name: axis_names(name, len(linear.shapes[name])) for name in places}

    def by_tensor(values: Array, names: Mapping[str, slice], leading: tuple[str, ...] = ()) -> dict[str, Any]:
        return {
            name: ((*leading, *dims[name]), values[..., own].reshape(*values.shape[:-1], *linear.shapes[name]))
            for name, own in names.items()
        }

    means, sds = by_tensor(found.mean, places), by_tensor(found.sd, places)
    posterior = by_tensor(found.coefficients, places, ("chain", "draw"))
    for site, own in linear.gates.items():
        shape = linear.gate_shapes[site]
        values = found.gates[..., own].reshape(*found.gates.shape[:-1], *shape)
        posterior[site] = (("chain", "draw", *axis_names(site, len(shape))), values)
    if found.noise is not None and found.noise_moments is not None:
        posterior[NOISE] = (("chain", "draw"), found.noise)
        means[NOISE], sds[NOISE] = ((), found.noise_moments[0]), ((), found.noise_moments[1])
    inclusion = np.append(found.inclusion, 1.0)[linear.gate]
    variables = {}
    for name, value in by_tensor(inclusion, linear.tensors).items():
        event = model.priors[name].hierarchy.included
        if event is None or not (event.is_exact and event.gate):
            continue
        variables[name] = (*value, {"kind": event.kind, "event": str(event)})
    return (
        xr.Dataset(means), xr.Dataset(sds), xr.Dataset(variables), xr.Dataset(posterior), found.conditional,
        found.log_evidence, None,
    )  # fmt: skip


def _by_nuts(
    chosen: Chosen, model: BayesianNetwork, x: Tensor, y: Tensor, draws: int, warmup: int, chains: int, seed: int,
    flat: bool, notes: list[str],
) -> Found:  # fmt: skip
    """NUTS by tensor; adds to the notes why probabilities are left out."""
    fisher = fisher_of(model, x, y) if chosen.is_identified else None
    found = nuts(model, x, y, draws, warmup, chains, seed, flat, fisher=fisher)
    posterior, means, sds = dict[str, Any](), dict[str, Any](), dict[str, Any]()
    for name, value in found.weights.items():
        dims = axis_names(name, value.ndim - 2)
        posterior[name] = (("chain", "draw", *dims), value)
        means[name], sds[name] = (dims, value.mean((0, 1))), (dims, value.std((0, 1)))
    for site, value in found.sites.items():
        if site not in posterior:
            posterior[site] = (("chain", "draw", *axis_names(site, value.ndim - 2)), value)
    if found.noise is not None:
        posterior[NOISE] = (("chain", "draw"), found.noise)
        means[NOISE], sds[NOISE] = ((), found.noise.mean()), ((), found.noise.std())
    variables = {}
    for name, value in found.inclusion.items():
        event = model.priors[name].hierarchy.included
        attrs = {"kind": event.kind, "event": str(event)} if event is not None else {}
        variables[name] = (axis_names(name, value.ndim), value, attrs)
    notes += [f"no inclusion probabilities of {name}: {why}" for name, why in found.left_out.items()]
    return (
        xr.Dataset(means), xr.Dataset(sds), xr.Dataset(variables), xr.Dataset(posterior), None, None, found.divergences,
    )  # fmt: skip


def _mixing(posterior: xr.Dataset, conditional: Array | None) -> tuple[float, float]:
    """Largest R-hat and least number of effective draws, by ArviZ.

    NaN where nothing moves; chains that stand still at different values have an infinite R-hat.
    """
    r_hats, counts = [], []
    weights = [one.values for one in posterior.values() if one.dtype.kind == "f"]
    for value, is_weight in [*((one, True) for one in weights), (conditional, False)]:
        if value is None:
            continue
        wide = value.reshape(*value.shape[:2], -1)
        for column in range(wide.shape[-1]):
            chains = wide[..., column]
            still = np.ptp(chains, axis=1) < 1e-12
            if np.ptp(chains) < 1e-12:
                continue
            if still.all():
                r_hats.append(float("inf"))
                counts.append(1.0)
                continue
            if still.any() and is_weight and conditional is not None:
                continue  # a zero all along in one chain: the probability of its gate says more
            counts.append(float(arviz().ess(chains)))
            if len(chains) > 1:
                r_hats.append(float(arviz().rhat(chains)))
    return max(r_hats, default=float("nan")), min(counts, default=float("nan"))


def _rows(found: Reference) -> list[tuple[str, str, float, float]]:
    """Name, inclusion probability, mean and sd of every weight."""
    rows = []
    for name, mean in found.mean.items():
        inclusion = found.probabilities[name].values if name in found.probabilities else None
        for place in np.ndindex(mean.shape):
            label = f"{name}[{','.join(map(str, place))}]" if place else str(name)
            shown = "" if inclusion is None else f"{inclusion[place]:.4f}"
            rows.append((label, shown, float(mean.values[place]), float(found.sd[name].values[place])))
    return rows
