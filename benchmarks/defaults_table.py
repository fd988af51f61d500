"""The tables of `benchmarks.defaults`: a row a prior, and marks where a default is not what a user may expect."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from typing import Any

Record = dict[str, Any]
PLAIN = "plain"
POINTS, SHARE = 0.03, 0.05
"""What a fit may be worse by: three points of accuracy, a twentieth of rmse."""
AT_CHANCE = 0.02
"""Nearness to the constant predictor that counts as no better: two points of accuracy, a fiftieth of rmse."""
LEGEND = (
    "Marks: (1) more than three points, or 5 % of rmse, worse than the plain network of equal steps; (2) no better "
    "than the constant predictor, without a note; (3) pruned by its own rule it loses more than three points, or 5 % "
    "of rmse, without a warning; (4) a fit raised. In brackets the standard deviation over seeds."
)


def table(records: Sequence[Record]) -> str:
    """The Markdown tables of all data sets that there are records of, with their legend."""
    names = list(dict.fromkeys(record["data"] for record in records))
    parts = [_of_data(name, [record for record in records if record["data"] == name]) for name in names]
    return "\n\n".join([*parts, LEGEND])


def marks(fits: Sequence[Record], plain: Sequence[Record]) -> list[int]:
    """Which marks a prior gets on a data set, in order.

    Args:
        fits: Its records, one a seed.
        plain: Those of the plain network.
    """
    done = [one for one in fits if "error" not in one]
    equal = _of_equal_steps(done, plain)
    found = {
        1: bool(done and equal) and is_worse(_mean(done), _mean(equal)),
        2: any(is_at_chance(one) and not one["notes"] for one in done),
        3: any(_loses_silently(one, one.get(rule, {})) for one in done for rule in ("own", "own_with_data")),
        4: len(done) < len(fits),
    }
    return [number for number, holds in found.items() if holds]


def is_worse(scores: dict[str, float], than: dict[str, float]) -> bool:
    """Whether scores are worse by more than three points of accuracy, or a twentieth of rmse."""
    if "rmse" in scores:
        return scores["rmse"] > (1 + SHARE) * than["rmse"]
    return scores["accuracy"] < than["accuracy"] - POINTS


def is_at_chance(record: Record) -> bool:
    """Whether a fit is about as good as the constant predictor, or worse."""
    scores, constant = record["test"], record["constant"]
    if "rmse" in scores:
        return bool(scores["rmse"] >= (1 - AT_CHANCE) * constant["rmse"])
    return bool(scores["accuracy"] <= constant["accuracy"] + AT_CHANCE)


def _loses_silently(record: Record, pruned: Record) -> bool:
    return "test" in pruned and not pruned["warnings"] and is_worse(pruned["test"], record["test"])


def _of_data(name: str, records: Sequence[Record]) -> str:
    plain = [record for record in records if record["prior"] == PLAIN and "error" not in record]
    fits = [record for record in records if record["prior"] != PLAIN]
    measure = "rmse" if any("rmse" in record.get("test", {}) for record in records) else "accuracy"
    constants = [record["constant"][measure] for record in records if "constant" in record]
    steps = sorted({record["steps"] for record in fits if "steps" in record})
    head = f"**{name}**: {', '.join(f'{count:,}' for count in steps) or 'no'} steps"
    head += f"; the constant predictor has {_figure(measure, statistics.mean(constants))}" if constants else ""
    calibration = "ece" if measure == "accuracy" else "90 % intervals cover %"
    columns = [
        "prior", measure, "nll", calibration, "plain", "difference", "own rule: zeros %", f"its {measure}",
        f"at 95 %: {measure}", "undecided %", "KL weight", "notes", "marks",
    ]  # fmt: skip
    rows = ["| " + " | ".join(columns) + " |", "|" + "---|" * len(columns)]
    for prior in dict.fromkeys(record["prior"] for record in fits):
        cells = _row([record for record in fits if record["prior"] == prior], plain, measure)
        rows.append(f"| {prior} | " + " | ".join(cells) + " |")
    return "\n".join([head, "", *rows])


def _row(fits: Sequence[Record], plain: Sequence[Record], measure: str) -> list[str]:
    marked = " ".join(f"({number})" for number in marks(fits, plain))
    done = [one for one in fits if "error" not in one]
    if not done:
        return [fits[0]["error"], *[""] * 10, marked]
    equal = _of_equal_steps(done, plain)
    difference = _mean(done)[measure] - _mean(equal)[measure] if equal else None
    own = [one["own"] for one in done if "test" in one["own"]]
    sparse = [one["sparse"] for one in done if "test" in one["sparse"]]
    undecided = [100 * one["undecided"] for one in done if one["undecided"] is not None]
    weights = {one["kl_weight"] for one in done}
    noted = sum(bool(one["notes"]) for one in done)

    def over(results: Sequence[Record], score: str) -> str:
        return _spread([one["test"][score] for one in results if score in one["test"]], lambda v: _figure(score, v))

    return [
        over(done, measure),
        over(done, "nll"),
        over(done, "ece" if measure == "accuracy" else "coverage_90"),
        over(equal, measure),
        "" if difference is None else ("+" if difference >= 0 else "") + _figure(measure, difference),
        _spread([100 * one["sparsity"] for one in own], lambda v: f"{v:.1f}") if own else "none",
        over(own, measure) if own else "",
        over(sparse, measure) if sparse else "sparser",
        _spread(undecided, lambda v: f"{v:.1f}"),
        ", ".join(f"{weight:g}" for weight in sorted(weights)),
        "no" if noted == 0 else "yes" if noted == len(done) else f"{noted} of {len(done)}",
        marked,
    ]


def _of_equal_steps(fits: Sequence[Record], plain: Sequence[Record]) -> list[Record]:
    return [record for record in plain if record["steps"] in {one["steps"] for one in fits}]


def _mean(records: Sequence[Record]) -> dict[str, float]:
    return {name: statistics.mean(one["test"][name] for one in records) for name in records[0]["test"]}


def _figure(score: str, value: float) -> str:
    """A score as text: accuracy and coverage in %, others with three figures."""
    return f"{100 * value:.1f}" if score in ("accuracy", "coverage_90") else f"{value:.3g}"


def _spread(values: Sequence[float], shown: Callable[[float], str]) -> str:
    """Mean and, of several, standard deviation over seeds; empty without values."""
    if not values:
        return ""
    mean = shown(statistics.mean(values))
    return mean if len(values) == 1 else f"{mean} ({shown(statistics.stdev(values))})"
