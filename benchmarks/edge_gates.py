"""Edge gates: is a planted graph found, and are the probabilities of its edges frequencies?

Run ``python -m benchmarks.edge_gates linear``, ``exact`` or ``hidden``; each prints its tables in markdown and keeps
its runs in ``--out``, so that a second call goes on where the first has stopped. ``--shard 0/2`` makes every second
run, in a file of its own; a call without it prints the tables of all files.

* ``linear``: y = (M * W) x + noise with 20 inputs and 20 outputs, x standard normal, weights Normal(0, 1) where the
  planted mask M has an edge: Erdos-Renyi of density .2, or a small world of four neighbours, a tenth rewired. Fitted
  with the graph that it is of as prior, and with others; beside it the sizes of least-squares, ridge (a Gaussian MAP)
  and lasso coefficients (scikit-learn, penalties by cross-validation), which are no probabilities. Noise sd is learned.
* ``exact``: the same with 10 inputs that correlate as an autoregression does and noise that is known, where the exact
  posterior of the 1,024 graphs of each output is enumerated: how far a product of Bernoullis is from it.
* ``hidden``: a teacher of 10 tanh units with a planted first layer, 200 edges. Hidden units have no order, so
  that edges are compared before and after units were matched (Hungarian assignment of correlations of their activations
  on other inputs, which know no mask), and with the mask of another teacher, to which chance would match as well.

AUC: probability that an edge ranks before a missing one. Brier: mean squared error of probabilities. ECE: mean distance
of probability and frequency over ten bins, weighted by their edges. Intervals are of means of paired differences over
seeds (Student). Cost: about six processor minutes in all.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy import stats
from scipy.optimize import linear_sum_assignment
from sklearn.linear_model import LassoCV, RidgeCV
from sklearn.metrics import roc_auc_score
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.models.structure.edge_probabilities import ring_layer
from benchmarks.ledger import Ledger
from tests.oracles.spike_and_slab_reference import RegressionProblem, enumerate_posterior

SIDE, DENSITY, NEIGHBOURS, REWIRING = 20, 0.2, 4, 0.1
PLANTED = ("erdos-renyi", "watts-strogatz")
SETTINGS = ((40, 4.0), (160, 1.0))
"""Data, and variance of the signal by that of the noise."""
PRIORS: dict[str, dict[str, Any]] = {
    "erdos-renyi .2": {"density": DENSITY},
    "watts-strogatz": {"graph": "watts-strogatz", "neighbours": NEIGHBOURS, "rewiring": REWIRING},
    "erdos-renyi .5": {"density": 0.5},
    "erdos-renyi .5 worth 10 edges": {"density": 0.5, "evidence": 10.0},
}
RIGHT = {"erdos-renyi": "erdos-renyi .2", "watts-strogatz": "watts-strogatz"}
SIZES = ("least squares", "ridge", "lasso")
INPUTS, CORRELATIONS = 10, (0.0, 0.5, 0.9)
HIDDEN, OUTPUTS = 10, 5
TEACHERS = ((2000, 0.1), (300, 0.5))
"""Data, and noise sd, of what a network of hidden units teaches."""
UNITS = {
    "before": ("as they stand", ""),
    "after": ("matched", "correlation"),
    "other teacher": ("matched to another teacher", "other correlation"),
}
"""Label of a row, and where the correlation of the units that it compares is kept."""
BINS = 10
STEPS = {"linear": 1200, "exact": 2000, "hidden": 3000}


# -- what is measured --------------------------------------------------------------------------------------------------


def scores(mask: np.ndarray, probability: np.ndarray) -> dict[str, Any]:
    """AUC, Brier, ECE, log loss in nats an edge, and by bins: edges, sum of probabilities, edges that are there."""
    truth, p = mask.ravel().astype(float), probability.ravel()
    place = np.minimum((p * BINS).astype(int), BINS - 1)
    bins = [[int((place == k).sum()), float(p[place == k].sum()), float(truth[place == k].sum())] for k in range(BINS)]
    inside = np.clip(p, 1e-6, 1.0 - 1e-6)
    return {
        "auc": float(roc_auc_score(truth, p)),
        "brier": float(((p - truth) ** 2).mean()),
        "ece": sum(abs(q - t) for _, q, t in bins) / len(p),
        "log loss": float(-np.where(truth == 1.0, np.log(inside), np.log1p(-inside)).mean()),
        "bins": bins,
    }


def seeded(*parts: Any) -> np.random.Generator:
    """Random numbers of a name."""
    return np.random.default_rng([sum(map(ord, str(part))) if isinstance(part, str) else int(part) for part in parts])


def fitted(network: nn.Module, priors: Any, likelihood: Any, x: Tensor, y: Tensor, steps: int, batch: int) -> bp.Fit:
    """A fit in the units of the data."""
    model = bp.BayesianNetwork(network, priors, likelihood, data_size=len(x))
    return bp.fit(
        model, (x, y), steps=steps, batch_size=batch, learning_rate=1e-2, device="cpu", standardise=False
    )  # fmt: skip


# -- linear ------------------------------------------------------------------------------------------------------------


def planted(kind: str, data: int, signal: float, seed: int) -> tuple[np.ndarray, Tensor, Tensor]:
    """Mask `(out, in)`, inputs and outputs."""
    random = seeded(kind, data, 10 * signal, seed)
    known = ring_layer(SIDE, SIDE, NEIGHBOURS, REWIRING).numpy() if kind == "watts-strogatz" else DENSITY
    mask = random.random((SIDE, SIDE)) < known
    weights = random.standard_normal((SIDE, SIDE)) * mask
    x = random.standard_normal((data, SIDE))
    noise = np.sqrt(NEIGHBOURS / signal) * random.standard_normal((data, SIDE))
    return mask, torch.tensor(x).float(), torch.tensor(x @ weights.T + noise).float()


def by_gates(kind: str, prior: str, data: int, signal: float, seed: int) -> dict[str, Any]:
    """Probabilities of edge gates."""
    mask, x, y = planted(kind, data, signal, seed)
    torch.manual_seed(seed)
    gates = bp.EdgeGates(**PRIORS[prior], slab_sd=1.0)
    fit = fitted(nn.Linear(SIDE, SIDE, bias=False), {"weight": gates}, bp.Normal(), x, y, STEPS["linear"], data)
    return scores(mask, fit.inclusion_probabilities()["weight"].values)


def by_size(kind: str, method: str, data: int, signal: float, seed: int) -> dict[str, Any]:
    """AUC of the sizes of coefficients."""
    mask, x, y = planted(kind, data, signal, seed)
    if method == "least squares":
        found = np.linalg.lstsq(x.numpy(), y.numpy(), rcond=None)[0].T
    elif method == "ridge":
        found = RidgeCV(np.logspace(-2, 3, 16), fit_intercept=False).fit(x.numpy(), y.numpy()).coef_
    else:
        found = np.stack([LassoCV(fit_intercept=False, cv=5).fit(x.numpy(), one).coef_ for one in y.numpy().T])
    return {"auc": float(roc_auc_score(mask.ravel(), np.abs(found).ravel()))}


def linear_runs(seeds: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and function of every run."""
    for kind in PLANTED:
        for data, signal in SETTINGS:
            for seed in range(seeds):
                for prior in PRIORS:
                    yield (
                        f"linear {kind} | {prior} | {data} {signal} | {seed}",
                        lambda a=(kind, prior, data, signal, seed): by_gates(*a),
                    )
                for method in SIZES:
                    yield (
                        f"linear {kind} | {method} | {data} {signal} | {seed}",
                        lambda a=(kind, method, data, signal, seed): by_size(*a),
                    )


def linear_tables(runs: dict[str, Any], seeds: int) -> None:
    """The tables of `linear`."""
    for kind in PLANTED:
        print(f"\nPlanted {kind}, {seeds} seeds: mean and sd\n")
        print("| data, signal / noise | prior or size of | AUC | Brier | ECE | log loss | AUC less the right prior's |")
        print("|---|---|---|---|---|---|---|")
        for data, signal in SETTINGS:
            right = _column(runs, f"linear {kind} | {RIGHT[kind]} | {data} {signal}", "auc", seeds)
            for name in (*PRIORS, *SIZES):
                key = f"linear {kind} | {name} | {data} {signal}"
                cells = [_spread(_column(runs, key, what, seeds)) for what in ("auc", "brier", "ece", "log loss")]
                apart = _interval(_column(runs, key, "auc", seeds), right)
                marked = f"**{name}** (right)" if name == RIGHT[kind] else name
                print(f"| {data}, {signal:g} | {marked} | {' | '.join(cells)} | {apart} |")
    print("\nReliability, over all settings and seeds: edges, mean probability and share that is there, by bin\n")
    print("| planted | prior | " + " | ".join(f"{k / BINS:.1f}-{(k + 1) / BINS:.1f}" for k in range(BINS)) + " |")
    print("|---|---|" + "---|" * BINS)
    for kind in PLANTED:
        for name in PRIORS:
            keys = [f"linear {kind} | {name} | {d} {s} | {seed}" for d, s in SETTINGS for seed in range(seeds)]
            print(f"| {kind} | {name} | {' | '.join(_reliability(runs, keys))} |")


# -- exact -------------------------------------------------------------------------------------------------------------


def against_enumeration(correlation: float, seed: int) -> dict[str, Any]:
    """Mean-field against exact probabilities of the same regression, one for each output."""
    random = seeded("exact", 10 * correlation, seed)
    data, noise = 60, 1.5
    mask = random.random((SIDE, INPUTS)) < DENSITY
    weights = random.standard_normal((SIDE, INPUTS)) * mask
    apart = np.abs(np.subtract.outer(np.arange(INPUTS), np.arange(INPUTS)))
    x = random.multivariate_normal(np.zeros(INPUTS), correlation**apart, data)
    y = x @ weights.T + noise * random.standard_normal((data, SIDE))
    exact = np.stack([enumerate_posterior(RegressionProblem(x, one, noise, 1.0, DENSITY)).pips for one in y.T])
    torch.manual_seed(seed)
    gates = bp.EdgeGates(density=DENSITY, slab_sd=1.0)
    layer = nn.Linear(INPUTS, SIDE, bias=False)
    one, other = torch.tensor(x).float(), torch.tensor(y).float()
    fit = fitted(layer, {"weight": gates}, bp.Normal(noise), one, other, STEPS["exact"], data)
    found = fit.inclusion_probabilities()["weight"].values
    unsure = (exact > 0.1) & (exact < 0.9)
    extreme = unsure & ((found < 0.05) | (found > 0.95))
    return {
        "mean error": float(np.abs(found - exact).mean()),
        "largest error": float(np.abs(found - exact).max()),
        "error where unsure": float(np.abs(found - exact)[unsure].mean()),
        "unsure": int(unsure.sum()),
        "unsure but sure in the guide": int(extreme.sum()),
        "entropy exact": _entropy(exact),
        "entropy found": _entropy(found),
        "found": scores(mask, found),
        "exact": scores(mask, exact),
    }


def exact_runs(seeds: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and function of every run."""
    for correlation in CORRELATIONS:
        for seed in range(seeds):
            yield f"exact {correlation} | {seed}", lambda a=(correlation, seed): against_enumeration(*a)


def exact_tables(runs: dict[str, Any], seeds: int) -> None:
    """The table of `exact`."""
    print(f"\nAgainst enumeration: 20 outputs of 10 inputs, 60 data, {seeds} seeds: means\n")
    print(
        "| correlation of neighbours | mean error of a probability | largest | mean where the exact one is in (.1, .9) "
        "| of these edges below .05 or above .95 | entropy an edge, exact / guide [nats] | AUC exact / guide | "
        "Brier exact / guide | log loss exact / guide |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for correlation in CORRELATIONS:
        mine = [runs[key] for seed in range(seeds) if (key := f"exact {correlation} | {seed}") in runs]
        if not mine:
            continue

        def mean(what: str, mine: list[Any] = mine) -> float:
            return statistics.mean(one[what] for one in mine)

        both = [
            " / ".join(f"{statistics.mean(one[which][what] for one in mine):.3f}" for which in ("exact", "found"))
            for what in ("auc", "brier", "log loss")
        ]
        sure = sum(one["unsure but sure in the guide"] for one in mine), sum(one["unsure"] for one in mine)
        print(
            f"| {correlation:g} | {mean('mean error'):.3f} | {max(one['largest error'] for one in mine):.2f} | "
            f"{mean('error where unsure'):.3f} | {sure[0]} of {sure[1]} | {mean('entropy exact'):.3f} / "
            f"{mean('entropy found'):.3f} | {' | '.join(both)} |"
        )


# -- hidden ------------------------------------------------------------------------------------------------------------


def teacher(seed: int) -> tuple[np.ndarray, Callable[[Tensor], Tensor], Tensor]:
    """First mask `(hidden, in)`, its hidden units as a function of inputs, and the second layer's weights."""
    random = seeded("hidden", seed)
    mask = random.random((HIDDEN, SIDE)) < DENSITY
    mask[np.arange(HIDDEN), random.integers(0, SIDE, HIDDEN)] = True  # no unit is constant
    first = torch.tensor(random.standard_normal((HIDDEN, SIDE)) * mask).float()
    second = torch.tensor(random.standard_normal((OUTPUTS, HIDDEN))).float()
    return mask, lambda x: torch.tanh(x @ first.T), second


def by_hidden_gates(data: int, noise: float, seed: int) -> dict[str, Any]:
    """AUC and calibration of the first layer before and after its units were matched."""
    mask, units, second = teacher(seed)
    random = torch.Generator().manual_seed(seed)
    x = torch.randn(data, SIDE, generator=random)
    y = units(x) @ second.T + noise * torch.randn(data, OUTPUTS, generator=random)
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(SIDE, HIDDEN, bias=False), nn.Tanh(), nn.Linear(HIDDEN, OUTPUTS, bias=False))
    gates = {"0.weight": bp.EdgeGates(density=DENSITY, slab_sd=1.0), "2.weight": bp.Gaussian(1.0)}
    fit = fitted(network, gates, bp.Normal(), x, y, STEPS["hidden"], min(data, 500))
    found = fit.inclusion_probabilities()["0.weight"].values
    fresh = torch.randn(4000, SIDE, generator=random)
    activations = torch.tanh(fresh @ _mean_of(fit, "0.weight").T)
    other_mask, other_units, _ = teacher(seed + 1000)
    ours, theirs = _matched(activations, units(fresh)), _matched(activations, other_units(fresh))
    return {
        "before": scores(mask, found),
        "after": scores(mask, found[ours[0]]),
        "other teacher": scores(other_mask, found[theirs[0]]),
        "correlation": ours[1],
        "other correlation": theirs[1],
        "rmse": float((network_outputs(fit, fresh) - units(fresh) @ second.T).square().mean().sqrt()),
    }


def network_outputs(fit: bp.Fit, x: Tensor) -> Tensor:
    """Outputs at the posterior means of the weights."""
    return torch.tanh(x @ _mean_of(fit, "0.weight").T) @ _mean_of(fit, "2.weight").T


def _mean_of(fit: bp.Fit, name: str) -> Tensor:
    """Mean of a weight over draws."""
    drawn = fit.map_draws(lambda draw: draw[name].detach().clone(), 200)
    return torch.stack(list(drawn)).mean(0)


def _matched(ours: Tensor, theirs: Tensor) -> tuple[np.ndarray, float]:
    """Which of our units stands for each of theirs, and the mean of the correlations."""
    both = np.corrcoef(ours.T.numpy(), theirs.T.numpy() + 0.0)[: ours.shape[1], ours.shape[1] :]
    alike = np.nan_to_num(np.abs(both))
    rows, columns = linear_sum_assignment(-alike)
    return rows[np.argsort(columns)], float(alike[rows, columns].mean())


def hidden_runs(seeds: int) -> Iterator[tuple[str, Callable[[], dict[str, Any]]]]:
    """Name and function of every run."""
    for data, noise in TEACHERS:
        for seed in range(seeds):
            yield f"hidden {data} {noise} | {seed}", lambda a=(data, noise, seed): by_hidden_gates(*a)


def hidden_tables(runs: dict[str, Any], seeds: int) -> None:
    """The table of `hidden`."""
    print(f"\nFirst layer of a network with {HIDDEN} hidden units, {seeds} seeds: mean and sd\n")
    print("| data, noise sd | hidden units | correlation of matched units | AUC | Brier | ECE | error of outputs |")
    print("|---|---|---|---|---|---|---|")
    for data, noise in TEACHERS:
        keys = [f"hidden {data} {noise} | {seed}" for seed in range(seeds)]
        mine = [runs[key] for key in keys if key in runs]
        error = _spread([one["rmse"] for one in mine])
        for which, (label, correlation) in UNITS.items():
            cells = [_spread([one[which][what] for one in mine]) for what in ("auc", "brier", "ece")]
            alike = _spread([one[correlation] for one in mine]) if correlation else ""
            print(f"| {data}, {noise:g} | {label} | {alike} | {' | '.join(cells)} | {error} |")
    print("\nMatched, by seed: edges above .9, share of them that is not there, AUC, error of outputs\n")
    for data, noise in TEACHERS:
        for seed in range(seeds):
            if one := runs.get(f"hidden {data} {noise} | {seed}"):
                edges, _, there = one["after"]["bins"][-1]
                print(f"{data}, {noise:g}, seed {seed}: {edges}, {1.0 - there / max(edges, 1):.2f}, ", end="")
                print(f"{one['after']['auc']:.3f}, {one['rmse']:.3f}")


# -- tables ------------------------------------------------------------------------------------------------------------


def _entropy(p: np.ndarray) -> float:
    inside = np.clip(p, 1e-12, 1.0 - 1e-12)
    return float(-(inside * np.log(inside) + (1.0 - inside) * np.log1p(-inside)).mean())


def _column(runs: dict[str, Any], key: str, what: str, seeds: int) -> list[float]:
    return [runs[one][what] for seed in range(seeds) if what in runs.get(one := f"{key} | {seed}", {})]


def _spread(values: list[float]) -> str:
    if not values:
        return ""
    sd = f" +- {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.3f}{sd}"


def _interval(one: list[float], other: list[float]) -> str:
    """Mean of paired differences with its 95 % interval."""
    if one == other or len(one) != len(other) or len(one) < 2:
        return ""
    apart = np.subtract(one, other)
    half = stats.t.ppf(0.975, len(apart) - 1) * apart.std(ddof=1) / np.sqrt(len(apart))
    return f"{apart.mean():+.3f} [{apart.mean() - half:+.3f}, {apart.mean() + half:+.3f}]"


def _reliability(runs: dict[str, Any], keys: list[str]) -> list[str]:
    total = np.sum([runs[key]["bins"] for key in keys if key in runs] or np.zeros((1, BINS, 3)), axis=0)
    return [f"{n:.0f}: {p / n:.2f} {t / n:.2f}" if n else "" for n, p, t in total]


PARTS = {
    "linear": (linear_runs, linear_tables),
    "exact": (exact_runs, exact_tables),
    "hidden": (hidden_runs, hidden_tables),
}


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=PARTS)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=Path("edge_gates.json"))
    parser.add_argument("--shard", default="0/1", help="i/n: every n-th run, from the i-th on")
    given = parser.parse_args()
    torch.set_num_threads(1)
    runs, tables = PARTS[given.part]
    number, of = map(int, given.shard.split("/"))
    ledger = Ledger(given.out if of == 1 else given.out.with_suffix(f".{number}-{of}.json"))
    files = sorted(given.out.parent.glob(f"{given.out.stem}*.json"))
    known = {name: run for file in files for name, run in json.loads(file.read_text()).items()}
    for place, (name, run) in enumerate(runs(given.seeds)):
        if place % of == number and name not in known:
            ledger.run(name, run)
    known |= ledger.runs
    tables(known, given.seeds)
    minutes = [run["minutes"] for name, run in known.items() if name.startswith(given.part)]
    print(f"\n{len(minutes)} runs x {statistics.mean(minutes):.3f} processor minutes = {sum(minutes):.1f} minutes")


if __name__ == "__main__":
    main()
