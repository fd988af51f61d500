"""One row a tensor: how many weights there are, how many are in the network, and what they cost."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.inclusion.inclusion_notes import inclusion_notes, meaning_of
from bayesprune.inference.restart import Restart
from bayesprune.inference.watching.pruning_trace import inclusion_record
from bayesprune.models.checks.given_numbers import restart_number
from bayesprune.models.language.learned_threshold import learned_thresholds

TITLES = {
    "tensor": "tensor",
    "shape": "shape",
    "weights": "weights",
    "kind": "event",
    "included": "included",
    "sparsity": "sparsity",
    "near_zero": "near zero",
    "effective": "effective",
    "rms": "rms weight",
    "threshold": "threshold",
    "kl": "KL [nats]",
}
_NOTHING = "-"


@dataclass(frozen=True)
class LayerTable:
    """The table that `layer_table` makes; print it, or read `rows`.

    Attributes:
        rows: One dict a tensor, the last one the total; see `layer_table` for its keys. None where the fit
            has no such number.
        notes: What the columns mean for this fit, a sentence each.
    """

    rows: list[dict[str, Any]]
    notes: list[str]

    def __str__(self) -> str:
        columns = [key for key in TITLES if any(row.get(key) is not None for row in self.rows)]
        cells = [[TITLES[key] for key in columns]] + [[_cell(row, key) for key in columns] for row in self.rows]
        widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
        left = {"tensor", "shape", "kind"}
        lines = [
            "  ".join(
                f"{text:{'<' if key in left else '>'}{w}}" for text, w, key in zip(line, widths, columns, strict=True)
            )
            for line in cells
        ]
        rule = "-" * len(lines[0])
        return "\n".join([line.rstrip() for line in (lines[0], rule, *lines[1:-1], rule, lines[-1])] + self.notes)


def layer_table(fit: Fit, restart: int = 0, draws: int = 200) -> LayerTable:
    """Tabulates the tensors with a prior.

    Keys of a row: ``tensor``; ``shape``; ``weights`` (how many, those of removed units too); ``kind`` of the
    inclusion event; ``included`` (sum of the inclusion probabilities); ``sparsity`` (fraction of zeros, for gates the
    share of inclusion probabilities of at most 1/2); ``near_zero`` (of a prior without an atom, the share of weights
    below a tenth of their layer's root mean square, else None); ``effective`` with ``effective_lower`` and
    ``effective_upper`` (effective number of weights, 89 % interval); ``rms`` (root mean square of the weights at the
    guide's centre); ``threshold`` (learned, the median of several; None without); ``kl`` (the tensor's share of the KL
    term in nats after the last epoch; of a MAP minus its log prior). A MAP has no ``included`` and ``effective``.

    Args:
        fit: The fit.
        restart: Which restart; default the first.
        draws: Draws behind what has no closed form; default 200.

    Raises:
        ValueError: If there is no such restart.
    """
    restart = restart_number(restart, len(fit.restarts))
    one = fit.restarts[restart]
    record = inclusion_record(one.guide)
    included, effective, notes = _posterior_counts(fit, restart, draws)
    kl = _last_kl(fit, restart)
    rms = _rms(one)
    thresholds = _thresholds(one)
    rows: list[dict[str, Any]] = []
    for name, prior in one.model.priors.items():
        event = prior.hierarchy.included
        rows.append(
            {
                "tensor": name,
                "shape": tuple(prior.shape),
                "weights": one.model.declared_sizes[name],
                "kind": event.kind if event is not None else None,
                "included": included.get(name),
                "sparsity": record["sparsity"][name],
                "near_zero": record["near_zero"].get(name),
                **dict(
                    zip(
                        ("effective", "effective_lower", "effective_upper"),
                        effective.get(name, (None, None, None)),
                        strict=True,
                    )
                ),
                "rms": rms[name],
                "threshold": thresholds.get(name),
                "kl": kl.get(name),
            }
        )
    weights = sum(row["weights"] for row in rows)
    left = [math.prod(prior.shape) for prior in one.model.priors.values()]
    one_kind = len({row["kind"] for row in rows}) == 1  # counts of unlike events do not add up
    rows.append(
        {
            "tensor": "total",
            "shape": None,
            "weights": weights,
            "kind": None,
            "included": _sum(row["included"] for row in rows) if one_kind else None,
            "sparsity": record["network_sparsity"],
            "near_zero": record["network_near_zero"] if record["near_zero"] else None,
            "effective": _sum(row["effective"] for row in rows) if one_kind else None,
            "effective_lower": None,
            "effective_upper": None,
            "rms": math.sqrt(sum(row["rms"] ** 2 * n for row, n in zip(rows, left, strict=True)) / sum(left)),
            "threshold": None,
            "kl": _sum(row["kl"] for row in rows),
        }
    )
    return LayerTable(rows, notes + [_sparsity_note(one, record)] + _on_inclusion(fit, restart, included))


def _posterior_counts(
    fit: Fit, restart: int, draws: int
) -> tuple[dict[str, float], dict[str, tuple[float, float, float]], list[str]]:
    """Included and effective weights by tensor, with the sentence that says why there are none."""
    try:
        probabilities = fit.inclusion_probabilities(restart, draws)
        effective = fit.effective_parameters(restart, draws)
    except ValueError as reason:
        return {}, {}, [f"no inclusion: {reason}"]
    included = {str(name): float(values.sum()) for name, values in probabilities.items()}
    intervals = {
        str(name): (float(row["mean"]), float(row["lower"]), float(row["upper"]))
        for name, row in ((name, effective.sel(tensor=name)) for name in effective.tensor.values)
    }
    return included, intervals, [f"effective: mean and {effective.attrs['probability']:.0%} interval"]


def _on_inclusion(fit: Fit, restart: int, included: dict[str, float]) -> list[str]:
    """What inclusion probabilities are not, and how far they can be trusted, where the table has any."""
    if not included:
        return []
    one = fit.restarts[restart]
    drawn = [prior for prior in one.model.priors.values() if not one.guide.are_points(prior)]
    meanings = {meaning_of(prior.hierarchy): None for prior in drawn}
    said = [f"included: {meaning}" for meaning in meanings if meaning is not None]
    return said + [f"note: {note}" for note in inclusion_notes(fit, restart)]


def _last_kl(fit: Fit, restart: int) -> dict[str, float]:
    values = fit.trace["kl_of"].isel(restart=restart).dropna("epoch", how="all")
    if not values.sizes["epoch"]:
        return {}
    return {str(name): float(values.isel(epoch=-1).sel(tensor=name)) for name in values.tensor.values}


@torch.no_grad()
def _rms(one: Restart) -> dict[str, float]:
    weights = one.model.weights_at(one.guide.means())
    return {name: float(weight.square().mean().sqrt()) for name, weight in weights.items()}


@torch.no_grad()
def _thresholds(one: Restart) -> dict[str, float]:
    """Learned thresholds at the guide's centre, of several of a tensor the median."""
    known = learned_thresholds(one.model.priors)
    values = one.guide.means() if known else {}
    return {name: float(each.at(values[each.site.name]).median()) for name, each in known.items()}


def _sparsity_note(one: Restart, record: dict[str, Any]) -> str:
    """What the shares are of."""
    said = ["sparsity: fraction of zeros"]
    if record["histogram"]:
        said[0] += ", which are weights with an inclusion probability of at most 1/2"
    if record["near_zero"]:
        said.append("near zero: share of weights below a tenth of their layer's root mean square")
    if one.guide.is_map:
        said.append("KL: minus the log prior, as this fit is a MAP")
    return "; ".join(said)


def _sum(values: Any) -> float | None:
    known = list(values)
    return None if any(value is None for value in known) else float(sum(known))


def _cell(row: dict[str, Any], key: str) -> str:
    value = row[key]
    if value is None:
        return "" if row["tensor"] == "total" else _NOTHING
    if key == "shape":
        return " x ".join(map(str, value))
    if key == "effective" and row["effective_lower"] is not None:
        return f"{value:,.0f} ({row['effective_lower']:,.0f} to {row['effective_upper']:,.0f})"
    formats = {
        "weights": ",",
        "included": ",.0f",
        "effective": ",.0f",
        "sparsity": ".1%",
        "near_zero": ".1%",
        "rms": ".3g",
        "threshold": ".3g",
        "kl": ",.0f",
    }
    return format(value, formats.get(key, ""))
