"""A fit beside the reference of its model: inclusion probabilities, means and spreads, weight by weight."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from bayesprune.analysis.reference.reference import NOISE, Reference
from bayesprune.inference.combined import Combined, shared_out
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.fitted import Fitted
from bayesprune.models.checks.given_numbers import whole_number
from bayesprune.models.networks.standardisation import units_of

__all__ = ["AgainstReference", "against_reference"]

Array = np.ndarray
_SHOWN = 24


@dataclass(frozen=True)
class AgainstReference:
    """A fit beside a reference; print it for a table.

    Attributes:
        weights: Over ``weight`` (names with their places): ``inclusion``, ``mean`` and ``sd`` of the fit, and
            ``reference_inclusion``, ``reference_mean`` and ``reference_sd``; probabilities are NaN where a prior has no
            event of the kind.
        draws: Weights drawn from the fit, `(draws, weights)`.
        largest: Largest absolute difference of an inclusion probability; NaN where there are none.
        mean_difference: Their mean absolute difference.
        log_score: Mean over weights of what a weight's state in the reference scores under the fit's probability, in
            nats: p log q + (1 - p) log(1 - q) with p the reference's and q the fit's.
        best_log_score: The same of the reference itself, which no probabilities exceed.
        sd_ratio: Geometric mean over weights of sd in the fit over sd in the reference, of those that move in both.
        mean_error: Largest difference of a mean, in sds of the reference.
        method: That of the reference.
        notes: Where the two are not of the same thing, and what is known of the reference.
    """

    weights: xr.Dataset
    draws: Array = field(repr=False)
    largest: float
    mean_difference: float
    log_score: float
    best_log_score: float
    sd_ratio: float
    mean_error: float
    method: str
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        lines = [
            f"inclusion probabilities: largest difference {self.largest:.3f}, mean {self.mean_difference:.3f}; log "
            f"score {self.log_score:.4f} of at most {self.best_log_score:.4f} nats a weight",
            f"weights: sd of the fit over that of the reference {self.sd_ratio:.2f}, largest difference of a mean "
            f"{self.mean_error:.2f} of the reference's sd",
            f"{'':<24}{'inclusion':>18}{'mean':>22}{'sd':>20}",
            f"{'weight':<24}{'fit':>9}{self.method[:8]:>9}{'fit':>11}{self.method[:8]:>11}{'fit':>10}"
            f"{self.method[:8]:>10}",
        ]
        for place in range(min(_SHOWN, self.weights.sizes["weight"])):
            row = self.weights.isel(weight=place)
            lines.append(
                f"{str(row.weight.values):<24}{float(row.inclusion):9.3f}{float(row.reference_inclusion):9.3f}"
                f"{float(row['mean']):11.3g}{float(row.reference_mean):11.3g}{float(row.sd):10.3g}"
                f"{float(row.reference_sd):10.3g}"
            )
        if self.weights.sizes["weight"] > _SHOWN:
            lines.append(f"and {self.weights.sizes['weight'] - _SHOWN:,} more")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def against_reference(
    fit: Fit | Combined, reference: Reference, restart: int = 0, draws: int = 2000
) -> AgainstReference:
    """Compares a fit with the reference of its model, weight by weight.

    Args:
        fit: The fit, or its restarts combined, ``fit.combined()``.
        reference: That of its model; of a regression that was standardised ``bp.reference(fit, data)``.
        restart: Which restart of a fit; default the first.
        draws: Draws of the fit behind its means and sds; default 2,000.

    Returns:
        The comparison.

    Raises:
        ValueError: If they are not of the same weights, or one is of a standardised regression and the other is not.
    """
    whole = fit.fit if isinstance(fit, Combined) else fit
    draws = whole_number("draws", draws, least=2)
    model = whole.restart(restart).model
    names = [name for name in model.priors if name in reference.mean]
    shapes = {name: reference.mean[name].shape for name in names}
    unknown = {str(name) for name in reference.mean} - {NOISE} - {name for name, _ in model.network.named_parameters()}
    if unknown or set(names) != set(model.priors) or any(model.priors[name].shape != shapes[name] for name in names):
        raise ValueError("the reference is of another model: its weights are not those of the fit")
    if model.data_size != reference.data_size:
        raise ValueError(f"the reference is of {reference.data_size:,} data, the fit of {model.data_size:,}")
    if bool(units_of(model.network)) != reference.standardised:
        raise ValueError(
            "weights of a fit that standardises inside are in other units than those of its model as it was declared: "
            "take the reference of the fit, bp.reference(fit, data), or fit with standardise=False"
        )
    drawn = _drawn(fit, names, restart, draws)
    found = _inclusion(fit, restart)
    columns = {"inclusion": found, "reference_inclusion": reference.probabilities}
    probabilities = {
        column: np.concatenate([
            values[name].values.astype(np.float64).ravel() if name in values else np.full(_size(shapes[name]), np.nan)
            for name in names
        ])
        for column, values in columns.items()
    }  # fmt: skip
    q, p = probabilities["inclusion"], probabilities["reference_inclusion"]
    moments = {
        f"reference_{what}": np.concatenate([values[name].values.ravel() for name in names])
        for what, values in (("mean", reference.mean), ("sd", reference.sd))
    }
    mean, sd = drawn.mean(0), drawn.std(0)
    moves = (moments["reference_sd"] > 0) & (sd > 0)
    ratio = np.exp(np.log(sd[moves] / moments["reference_sd"][moves]).mean()) if moves.any() else np.nan
    error = np.abs(mean - moments["reference_mean"])[moves] / moments["reference_sd"][moves]
    labels = [f"{name}[{','.join(map(str, place))}]" for name in names for place in np.ndindex(shapes[name])]
    known = np.isfinite(p) & np.isfinite(q)
    differences = np.abs(p - q)[known]
    table = xr.Dataset(
        {name: ("weight", values) for name, values in (probabilities | {"mean": mean, "sd": sd} | moments).items()},
        {"weight": labels},
    )
    return AgainstReference(
        table,
        drawn,
        float(differences.max(initial=-np.inf)) if known.any() else float("nan"),
        float(differences.mean()) if known.any() else float("nan"),
        _log_score(p[known], q[known]),
        _log_score(p[known], p[known]),
        float(ratio),
        float(error.max()) if moves.any() else float("nan"),
        reference.method,
        _notes(whole, reference),
    )


def _size(shape: tuple[int, ...]) -> int:
    return int(np.prod(shape))


def _inclusion(fit: Fit | Combined, restart: int) -> xr.Dataset:
    """Inclusion probabilities of a fit; none where it has none, as a MAP."""
    try:
        return fit.inclusion_probabilities() if isinstance(fit, Combined) else fit.inclusion_probabilities(restart)
    except ValueError:
        return xr.Dataset()


def _drawn(fit: Fit | Combined, names: list[str], restart: int, draws: int) -> Array:
    """Weights drawn, `(draws, weights)`; of a mixture each restart's by its weight."""

    def of(one: Fitted, number: int, count: int) -> Tensor:
        found = one.draws(count, number, sites=lambda name: name in names)
        return torch.cat([found[name].double().reshape(count, -1) for name in names], dim=1)

    if isinstance(fit, Combined):
        shares = enumerate(shared_out(fit.weights, draws))
        rows: Array = torch.cat([of(fit.fit, number, count) for number, count in shares if count]).numpy()
        return rows
    alone: Array = of(fit, restart, draws).numpy()
    return alone


def _log_score(p: Array, q: Array) -> float:
    """Mean of p log q + (1 - p) log(1 - q), q kept away from 0 and 1 by what single precision resolves."""
    if not len(p):
        return float("nan")
    q = np.clip(q, 1e-7, 1.0 - 1e-7)
    return float((p * np.log(q) + (1.0 - p) * np.log1p(-q)).mean())


def _notes(fit: Fitted, reference: Reference) -> tuple[str, ...]:
    notes = []
    tempered = float(fit.settings.get("kl_weight") or 1.0)
    if tempered != reference.kl_weight:
        notes.append(
            f"the fit has KL weight {tempered:g}, and the reference {reference.kl_weight:g}: they aim at different "
            "posteriors"
        )
    if reference.points == "flat" and (fit.model.point_estimates or fit.model.likelihood.learns_noise):
        notes.append(
            "the fit has points for parameters without a prior, and the reference integrates them out: "
            "bp.reference(fit, data, points='fixed') holds them where the fit has them"
        )
    return (*notes, *(note for note in reference.notes if "not mixed" in note))
