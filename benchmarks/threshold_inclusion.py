"""Inclusion probabilities of soft thresholds under a mean-field guide: are they to be trusted, and to prune by?

* ``deletion``: LeNet-300-100 on digits (three seeds) and Fashion-MNIST (one, 10 epochs) at the prior's defaults; single
  weights are deleted, stratified by inclusion probability, and the change of the held-out loss is ranked beside the
  probability, magnitude, |mean| / sd and the probability of the likelier sign.
* ``equal counts``: the same fits pruned to the same numbers of weights by each score; what is deployed is
  E[weight | included], once the weights at the guide's centre. Beside them the fit's own count and that of
  probabilities above 1/2, and the MAP at its defaults.
* ``budget``: digits at densities asked for, mean-field and MAP.
* ``regression``: 200 data, 50 inputs, noise known, weights of which 10 are Normal(0, .5^2) and the others zero, or that
  are drawn from the prior itself: probabilities beside the truth and beside the exact ones (a Gibbs sampler, 1,500
  sweeps), with spike and slab of density .2 under its paired guide for reference.

Run ``python -m benchmarks.threshold_inclusion``; it resumes, prints tables and what it cost.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from scipy.special import expit
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.guide import normals
from bayesprune.inference.guides.left_in import included_weights, left_in
from bayesprune.inference.pruning.criteria import CRITERIA
from bayesprune.inference.pruning.masks import masked_network
from benchmarks.deletion_study import correlations
from benchmarks.ledger import Ledger
from benchmarks.magnitude import accuracy
from tests.oracles.soft_threshold_reference import ThresholdProblem, gibbs_inclusion

LEVELS = (0.1, 0.05, 0.02, 0.01)
BINS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9, 1.0)
DATA, INPUTS, NONZERO = 200, 50, 10


def network_fit(data: str, guide: str, seed: int, density: float | None = None) -> tuple[bp.Fit, Any]:
    """A fit of LeNet-300-100 at the prior's defaults, or at a density."""
    splits = bp.load_data(data)
    torch.manual_seed(seed)
    network = bp.lenet_300_100(64 if data == "digits" else 784)
    model = bp.BayesianNetwork(network, {"*.weight": bp.SoftThreshold()}, data_size=len(splits.train[0]))
    rules = [] if density is None else [bp.Budget(density=density)]
    return bp.fit(model, splits.train, guide, epochs=None if data == "digits" else 10, seed=seed, rules=rules), splits


def scores_of(fit: bp.Fit) -> dict[str, dict[str, torch.Tensor]]:
    """Scores by weight, by name."""
    named = {"PIP": CRITERIA["inclusion"], "magnitude": CRITERIA["magnitude"]}
    named |= {"|mean| / sd": CRITERIA["signal-to-noise"], "sign": CRITERIA["sign"]}
    return {name: dict(criterion(fit, 0)) for name, criterion in named.items()}


def pruned_accuracy(fit: bp.Fit, weights: Mapping[str, torch.Tensor], masks: Any, split: Any) -> float:
    """Accuracy of the plain network with these weights where the masks are true."""
    return accuracy(masked_network(fit.model.network, dict(weights), masks), *split)


def network_study(data: str, seed: int, deletions: int) -> dict[str, Any]:
    """One mean-field fit: its deletions, and its networks at equal counts."""
    fit, splits = network_fit(data, "meanfield", seed)
    scores, own = scores_of(fit), left_in(fit.guide)
    total = sum(mask.numel() for mask in own.values())
    density = sum(int(mask.sum()) for mask in own.values()) / total
    means, centre = fit.included_weights(), included_weights(fit.guide)
    likely = {name: score > 0 for name, score in scores["PIP"].items()}
    found: dict[str, Any] = {
        "averaged": fit.score(*splits.test),
        "density": density,
        "likely": sum(int(mask.sum()) for mask in likely.values()) / total,
        "pruned": {
            "own count, E[w | in]": pruned_accuracy(fit, means, own, splits.test),
            "own count, centre": pruned_accuracy(fit, centre, own, splits.test),
            "PIP > 1/2, E[w | in]": pruned_accuracy(fit, means, likely, splits.test),
            "PIP > 1/2, centre": pruned_accuracy(fit, centre, likely, splits.test),
        },
        "layers": {
            name: {
                "left": float(own[name].float().mean()),
                "likely": float(likely[name].float().mean()),
                "undecided": float((scores["PIP"][name].abs() < np.log(19)).float().mean()),
            }
            for name in own
        },
    }
    for level in (density, *(level for level in LEVELS if level < density)):
        row = {}
        for name, score in scores.items():
            result = bp.prune(fit, sparsity=1.0 - level, criterion=lambda *_, score=score: score)
            row[name] = accuracy(result.network, *splits.test)
            if name == "magnitude":
                row["magnitude, centre"] = pruned_accuracy(fit, centre, result.masks, splits.test)
        found["pruned"][f"{level:.4f}"] = row
    held_out = splits.validation if data != "digits" else tuple(
        torch.cat(parts) for parts in zip(splits.validation, splits.test, strict=True)
    )  # fmt: skip
    held_out = tuple(part[:3000] for part in held_out)
    calibration = bp.deletion_calibration(fit, held_out, n=deletions)
    found["loss"], found["text"] = calibration.loss, str(calibration)
    curve = calibration.curve
    found["curve"] = {str(name): curve[name].values.tolist() for name in curve.data_vars if curve[name].ndim == 1}
    found["rank"] = {
        name: correlations(calibration.deletions, {n: s.numpy() for n, s in score.items()})
        for name, score in scores.items()
    }
    return found


def map_study(data: str, seed: int) -> dict[str, Any]:
    """The MAP at its defaults."""
    fit, splits = network_fit(data, "map", seed)
    own = left_in(fit.guide)
    density = sum(int(mask.sum()) for mask in own.values()) / sum(mask.numel() for mask in own.values())
    return {"density": density, "accuracy": fit.score(*splits.test)["accuracy"]}


def budget_study(guide: str, density: float, seed: int) -> dict[str, Any]:
    """A fit to digits at a density that was asked for."""
    fit, splits = network_fit("digits", guide, seed, density)
    own, report = left_in(fit.guide), fit.settings["budget"][0]
    return {
        "averaged": fit.score(*splits.test)["accuracy"],
        "pruned": pruned_accuracy(fit, fit.included_weights(), own, splits.test),
        "centre": pruned_accuracy(fit, included_weights(fit.guide), own, splits.test),
        "count": report["reached_count"],
        "before landing": report["landing"]["before"],
        "whole": report["whole"],
    }


def show_budgets(ledger: Ledger, seeds: int) -> None:
    """Runs and prints fits at densities that were asked for."""
    for density in (0.05, 0.02):
        for guide in ("meanfield", "map"):
            rows = [
                ledger.run(f"budget {density} {guide} {seed}", functools.partial(budget_study, guide, density, seed))
                for seed in range(seeds)
            ]
            cells = "  ".join(
                f"{key} " + " ".join(f"{row[key]:.4f}" for row in rows) for key in ("averaged", "pruned", "centre")
            )
            counts = " ".join(f"{row['before landing']:.0f} to {row['count']:.0f}" for row in rows)
            print(f"density {density} {guide}: {cells}; landed from {counts}")


def problem_of(design: str, seed: int) -> ThresholdProblem:
    """A regression; ``"sparse"``: ten weights are Normal(0, .5^2); ``"prior"``: drawn from the prior on weights."""
    rng = np.random.default_rng(seed)
    raw_sd, s_sd = (10 / INPUTS) ** 0.5, 1.0
    if design == "sparse":
        weights = np.where(np.arange(INPUTS) < NONZERO, 0.5 * rng.standard_normal(INPUTS), 0.0)
    else:
        raw, g = raw_sd * rng.standard_normal(INPUTS), expit(s_sd * rng.standard_normal())
        weights = np.sign(raw) * np.maximum(np.abs(raw) - g, 0.0)
    x = rng.standard_normal((DATA, INPUTS))
    return ThresholdProblem(x, x @ weights + rng.standard_normal(DATA), weights, 1.0, raw_sd, s_sd)


def regression_study(design: str, seed: int) -> dict[str, Any]:
    """Inclusion probabilities of one regression by the guides and by the sampler."""
    problem = problem_of(design, seed)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    pips = {"exact": gibbs_inclusion(problem, 1500, 300, seed)}
    priors = {
        "soft threshold": (bp.SoftThreshold(pressure=1.0, g="sigmoid"), "meanfield"),
        "spike and slab": (bp.SpikeAndSlab(0.2), "paired"),
    }
    for name, (prior, guide) in priors.items():
        line = nn.Linear(INPUTS, 1, bias=False).double()
        with torch.no_grad():
            line.weight.copy_(torch.linalg.lstsq(x, y[:, None]).solution.T)
        model = bp.BayesianNetwork(line, {"weight": prior}, bp.Normal(problem.noise_sd), DATA)
        fit = bp.fit(
            model,
            (x, y),
            guide,
            steps=3000,
            batch_size=DATA,
            learning_rate=5e-3,
            schedule="cosine",
            kl_warmup=0.0,
            precision="float64",
            device="cpu",
            seed=seed,
        )
        pips[name] = fit.inclusion_probabilities()["weight"].values[0]
        if name == "soft threshold":
            _, sd = normals(fit.guide)["weight.raw"]
            threshold = float(torch.sigmoid(normals(fit.guide)["weight.s"][0]))
            found_threshold, sds = threshold, float(sd.median())
    return {
        "truth": (problem.weights != 0).tolist(),
        "pips": {name: np.asarray(value).tolist() for name, value in pips.items()},
        "threshold": found_threshold,
        "sd of raw": sds,
    }


def reliability(rows: list[dict[str, Any]]) -> None:
    """Prints bins, Brier and log scores of several regressions."""
    truth = np.concatenate([row["truth"] for row in rows]).astype(float)
    print(f"{'':16}" + "".join(f"{low:.1f}-{high:.1f}".rjust(16) for low, high in zip(BINS, BINS[1:], strict=False)))
    for name in ("exact", "soft threshold", "spike and slab"):
        pip = np.concatenate([row["pips"][name] for row in rows])
        cells = []
        for low, high in zip(BINS, BINS[1:], strict=False):
            at = (pip >= low) & ((pip < high) | (high == 1.0))
            cells.append(f"{pip[at].mean():.2f} {truth[at].mean():.2f} ({at.sum()})" if at.any() else "-")
        print(f"{name:16}" + "".join(cell.rjust(16) for cell in cells))
    exact = np.concatenate([row["pips"]["exact"] for row in rows])
    for name in ("exact", "soft threshold", "spike and slab"):
        pip = np.clip(np.concatenate([row["pips"][name] for row in rows]), 1e-6, 1 - 1e-6)
        score = -(truth * np.log(pip) + (1 - truth) * np.log1p(-pip)).mean()
        ranks = pip[truth == 1][:, None] - pip[truth == 0][None]
        auc = float((ranks > 0).mean() + 0.5 * (ranks == 0).mean())
        off = np.abs(pip - exact)
        print(
            f"{name:16} Brier {((pip - truth) ** 2).mean():.4f}, log score {score:.3f}, sum {pip.sum():.0f} of "
            f"{truth.sum():.0f}, AUC {auc:.3f}, from exact {off.mean():.3f} (largest {off.max():.2f})"
        )


def show_network(name: str, found: dict[str, Any]) -> None:
    """Prints the tables of one network."""
    print(f"\n{name}: averaged {found['averaged']['accuracy']:.4f} (nll {found['averaged']['nll']:.3f}), "
          f"left in {found['density']:.4f}, PIP > 1/2 {found['likely']:.4f}")  # fmt: skip
    for key, row in found["pruned"].items():
        cells = row if isinstance(row, dict) else {"": row}
        print(f"  {key:>22}  " + "  ".join(f"{score} {value:.4f}" for score, value in cells.items()))
    for layer, values in found["layers"].items():
        print(f"  {layer:>22}  " + "  ".join(f"{key} {value:.3f}" for key, value in values.items()))
    for score, values in found["rank"].items():
        print(f"  {score:>22}  " + "  ".join(f"{layer} {value:+.2f}" for layer, value in values.items()))
    print(found["text"])


def main() -> None:
    """Fits, measures and prints."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3, help="Of digits.")
    parser.add_argument("--regressions", type=int, default=6, help="Of each design.")
    parser.add_argument("--deletions", type=int, default=300)
    parser.add_argument("--out", default="runs/benchmarks")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(f"{options.out}/threshold_inclusion.json")
    cases = [("digits", seed) for seed in range(options.seeds)] + [("fashion-mnist", 0)]
    for data, seed in cases:
        run = functools.partial(network_study, data, seed, options.deletions)
        show_network(f"{data} {seed}", ledger.run(f"{data} {seed}", run))
        found = ledger.run(f"{data} {seed} MAP", functools.partial(map_study, data, seed))
        print(f"  MAP: {found['accuracy']:.4f} at {found['density']:.4f}", flush=True)
    show_budgets(ledger, options.seeds)
    for design in ("sparse", "prior"):
        rows = [
            ledger.run(f"{design} {seed}", functools.partial(regression_study, design, seed))
            for seed in range(options.regressions)
        ]
        print(f"\nregressions, {design}: mean probability, true share (number); thresholds "
              + " ".join(f"{row['threshold']:.2f}" for row in rows))  # fmt: skip
        if rows:
            reliability(rows)
    print(f"\ncost: {ledger.cost()}")


if __name__ == "__main__":
    main()
