"""Guides beyond independent Normals, one row each: low rank plus diagonal, and mixtures of restarts.

Run ``python -m benchmarks.guides --out FOLDER``; it goes on where it stopped, prints the tables and what they cost.

* regression: linear regressions with known noise under a Gaussian prior, whose posterior is a Normal that is known:
  KL(q || posterior) in nats and standard deviations beside the posterior's.
* ranks: how near the best Normal of 0, 2, 4 and 8 columns comes to the same posteriors.
* logistic: breast cancer, 30 correlated features: the ELBO of the training data, and nll of held-out data.
* network: LeNet-300-100 on Fashion-MNIST (or ``--data digits --epochs 60``) under a Gaussian prior: the ELBO, and
  scores of validation data.
* mixture: restarts of spike and slab, one against all: of a regression the largest error of inclusion probabilities
  beside enumeration, of LeNet-300-100 on digits scores of validation data, weighted by the ELBO and equally.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide, normals
from bayesprune.inference.guides.low_rank_normal import LowRankNormalFamily
from benchmarks.correlated_inclusion import compared, fitted
from benchmarks.ledger import interval, shard_of, sharded
from tests.oracles.conjugate_regression import ConjugateRegression
from tests.oracles.correlated_normals import divergence, least_divergence
from tests.oracles.correlated_regressions import correlated_problems

GUIDES = ("normal", "lowrank")
MIXED = ("diabetes", "a column twice", "a block of .95")
TABLES = ("regression", "ranks", "logistic", "network", "mixture")
RANKS = (0, 2, 4, 8)
LINEAR = {"learning_rate": 0.01, "schedule": "cosine", "kl_warmup": 0.0, "kl_weight": 1.0, "device": "cpu"}
Run = dict[str, Any]


# -- regressions whose posterior is known -------------------------------------------------------------------------


def designs() -> dict[str, ConjugateRegression]:
    """Standardised data sets with all their columns, and a chain of correlation .9; noise as the residuals have it."""
    rng = np.random.default_rng(0)
    chain = rng.standard_normal((200, 20))
    for j in range(1, 20):
        chain[:, j] = 0.9 * chain[:, j - 1] + 0.19**0.5 * chain[:, j]
    raw = {
        "diabetes (10)": load_diabetes(return_X_y=True),
        "wine (13)": load_wine(return_X_y=True),
        "breast cancer (30)": load_breast_cancer(return_X_y=True),
        "AR(1) .9 (20)": (chain, chain @ rng.standard_normal(20) + rng.standard_normal(200)),
    }
    found = {}
    for name, (x, y) in raw.items():
        x, y = (x - x.mean(0)) / x.std(0), (y - y.mean()) / y.std()
        residual = y - x @ np.linalg.lstsq(x, y, rcond=None)[0]
        noise_sd = float(np.sqrt(residual @ residual / (len(y) - x.shape[1] - 1)))
        found[name] = ConjugateRegression(x, y, prior_sd=1.0, noise_sd=noise_sd)
    return found


def covariance_of(guide: Guide) -> np.ndarray:
    """The covariance of a guide with one family of Normals."""
    (one,) = guide.families
    diagonal = np.diag(np.exp(2.0 * one.log_scale.detach().double().numpy()))
    if not isinstance(one, LowRankNormalFamily):
        return diagonal
    loading = one.loading.detach().double().view(-1, one.rank).numpy()
    return np.asarray(loading @ loading.T + diagonal)


def regression(problem: ConjugateRegression, guide: str, seed: int) -> Run:
    """One fit beside the posterior."""
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)
    torch.manual_seed(seed)
    line = nn.Linear(x.shape[1], 1, bias=False).double()
    bnn = bp.BayesianNetwork(line, {"weight": bp.Gaussian(problem.prior_sd)}, bp.Normal(problem.noise_sd), len(x))
    fit = bp.fit(
        bnn, (x, y), {"weight": guide}, steps=4000, batch_size=len(x), precision="float64", seed=seed, **LINEAR
    )
    q, covariance = fit.restarts[0].guide, np.linalg.inv(problem.precision)
    mean, sd = (part.reshape(-1).numpy() for part in normals(q)["weight"])
    ratio = sd / np.sqrt(np.diag(covariance))
    return {
        "kl": divergence(mean, covariance_of(q), problem.mean, covariance),
        "least_ratio": float(ratio.min()),
        "median_ratio": float(np.median(ratio)),
        "best": least_divergence(problem.precision, 8 if guide == "lowrank" else 0, starts=1),
        "seconds": fit.settings["seconds"],
    }


def least_by_rank(problem: ConjugateRegression) -> Run:
    """What the best Normal of each number of columns is away from the posterior, in nats; 0: independent Normals."""
    return {str(rank): least_divergence(problem.precision, rank) for rank in RANKS}


# -- models without a known posterior ---------------------------------------------------------------------------------


def elbo(fit: bp.Fit, data: tuple[Tensor, Tensor], draws: int) -> dict[str, float]:
    """The ELBO of all the training data in nats, at KL weight 1, by draws of the guide, in batches."""
    combined = fit.combined(data, draws=draws)
    return {"elbo": float(combined.elbo[0]), "elbo_error": float(combined.error[0])}


def logistic(guide: str, seed: int) -> Run:
    """Breast cancer by a linear classifier; two of three examples to train."""
    x, y = load_breast_cancer(return_X_y=True)
    order = np.random.default_rng(seed).permutation(len(y))
    train, held = order[:380], order[380:]
    x = torch.tensor((x - x[train].mean(0)) / x[train].std(0), dtype=torch.float32)
    labels = torch.tensor(y)
    torch.manual_seed(seed)
    bnn = bp.BayesianNetwork(nn.Linear(30, 2), {"weight": bp.Gaussian(1.0)}, bp.Categorical(), len(train))
    data = x[train], labels[train]
    fit = bp.fit(bnn, data, {"weight": guide}, steps=4000, batch_size=len(train), seed=seed, **LINEAR)
    scores = fit.score(x[held], labels[held], draws=500, seed=seed)
    return elbo(fit, data, 2000) | {"nll": scores["nll"], "seconds": fit.settings["seconds"]}


def lenet(inputs: int) -> nn.Module:
    """LeNet-300-100."""
    sizes = (inputs, 300, 100, 10)
    layers = [nn.Linear(a, b) for a, b in zip(sizes[:-1], sizes[1:], strict=True)]
    return nn.Sequential(nn.Flatten(), layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def network(name: str, guide: str, kl_weight: float, seed: int, epochs: int) -> Run:
    """LeNet-300-100 on a data set."""
    data = bp.load_data(name)
    torch.manual_seed(seed)
    bnn = bp.BayesianNetwork(lenet(data.train[0][0].numel()), {"*.weight": bp.Gaussian()}, data_size=len(data.train[0]))
    fit = bp.fit(
        bnn,
        data.train,
        {"weight": guide},
        epochs=epochs,
        kl_weight=kl_weight,
        learning_rate=2e-3,
        seed=seed,
        device="cpu",
    )
    scores = fit.score(*data.validation, draws=32, seed=seed)
    found = {"nll": scores["nll"], "accuracy": 100.0 * scores["accuracy"], "ece": scores["ece"]}
    return elbo(fit, data.train, max(4, 100_000 // len(data.train[0]))) | found | {"seconds": fit.settings["seconds"]}


# -- mixtures of restarts ---------------------------------------------------------------------------------------------


def mixture_of_regressions(name: str, restarts: int) -> Run:
    """Errors of inclusion probabilities beside enumeration."""
    problem = correlated_problems()[name]
    found = compared(problem, fitted(problem, restarts))
    return {
        "single": float(np.mean(found["single"])),
        "best_single": float(found["single"].min()),
        "mixture": found["combined"],
        "solutions": found["solutions"],
    }


def mixture_of_networks(seed: int, restarts: int, epochs: int) -> Run:
    """Scores of one restart, of all by their ELBO, and of all equally, with as many draws each."""
    data = bp.load_data("digits", seed=seed)
    torch.manual_seed(seed)
    prior = bp.SpikeAndSlab()
    bnn = bp.BayesianNetwork(lenet(64), {"*.weight": prior}, data_size=len(data.train[0]))
    fit = bp.fit(bnn, data.train, epochs=epochs, restarts=restarts, seed=seed, device="cpu")
    found: Run = {"seconds": fit.settings["seconds"]}
    singles = [fit.score(*data.validation, draws=120, restart=number, seed=seed) for number in range(restarts)]
    by_elbo = fit.combined(data.train, draws=50)
    rows = {"by_elbo": by_elbo, "equal": fit.combined(weights="equal")}
    for score in ("nll", "accuracy", "ece"):
        found[f"single_{score}"] = statistics.mean(one[score] for one in singles)
    for name, one in rows.items():
        scores = one.score(*data.validation, draws=120, seed=seed)
        found |= {f"{name}_{score}": scores[score] for score in ("nll", "accuracy", "ece")}
    return found | {"largest_weight": float(by_elbo.weights.max())}


# -- tables -----------------------------------------------------------------------------------------------------------


def spread(values: list[float], digits: int) -> str:
    """Mean over seeds, and their standard deviation."""
    sd = f" +- {statistics.stdev(values):.{digits}f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.{digits}f}{sd}"


def table(head: list[str], rows: list[list[str]]) -> None:
    """Prints a table in markdown."""
    print("\n| " + " | ".join(head) + " |\n|" + "---|" * len(head))
    for row in rows:
        print("| " + " | ".join(row) + " |")


def print_compared(name: str, runs: dict[str, list[Run]], digits: dict[str, int]) -> None:
    """Prints the guides below each other, and the paired difference."""
    rows = [
        [guide, *(spread([one[key] for one in found], d) for key, d in digits.items())] for guide, found in runs.items()
    ]
    first, second = (runs[guide] for guide in GUIDES)
    apart = [interval([a[key] - b[key] for a, b in zip(second, first, strict=True)], d) for key, d in digits.items()]
    table([name, *digits], [*rows, ["difference", *apart]])


def main() -> None:
    """Runs what is missing and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("guides"), help="folder of the results")
    parser.add_argument("--tables", nargs="+", choices=TABLES, default=list(TABLES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--epochs", type=int, default=6, help="of LeNet-300-100 under a Gaussian prior")
    parser.add_argument("--data", default="fashion-mnist", help="of LeNet-300-100 under a Gaussian prior")
    parser.add_argument("--restarts", type=int, default=4)
    parser.add_argument("--kl-weights", type=float, nargs="+", default=[1.0, 0.1], help="of LeNet-300-100")
    parser.add_argument("--shard", type=shard_of, default=(1, 1), help="I/N: every N-th run, from the I-th on")
    given = parser.parse_args()
    number, shards = given.shard
    ledger = sharded(given.out, "runs", given.shard)
    wanted: dict[str, Callable[[], Run]] = {}
    seeds, at = range(given.seeds), "network/{data}/{weight:g}/{guide}/{seed}/{epochs}".format
    for guide in GUIDES:
        if "regression" in given.tables:
            for name, problem in designs().items():
                wanted[f"regression/{name}/{guide}"] = partial(regression, problem, guide, 0)
    if "ranks" in given.tables:
        for name, problem in designs().items():
            wanted[f"ranks/{name}"] = partial(least_by_rank, problem)
    for guide in GUIDES:
        for seed in seeds:
            if "logistic" in given.tables:
                wanted[f"logistic/{guide}/{seed}"] = partial(logistic, guide, seed)
            for weight in given.kl_weights if "network" in given.tables else []:
                name = at(data=given.data, weight=weight, guide=guide, seed=seed, epochs=given.epochs)
                wanted[name] = partial(network, given.data, guide, weight, seed, given.epochs)
    if "mixture" in given.tables:
        for name in MIXED:
            wanted[f"mixture/{name}"] = partial(mixture_of_regressions, name, given.restarts)
        for seed in seeds:
            wanted[f"mixture/network/{seed}"] = partial(mixture_of_networks, seed, given.restarts, 60)
    found = {name: ledger.run(name, wanted[name]) for name in list(wanted)[number - 1 :: shards]}
    if shards > 1:
        print(ledger.cost())
        return

    if "regression" in given.tables:
        rows = []
        for name in designs():
            one, low = (found[f"regression/{name}/{guide}"] for guide in GUIDES)
            kls = [one["best"], one["kl"], low["best"], low["kl"]]
            ratios = [f"{q['median_ratio']:.2f}, {q['least_ratio']:.2f}" for q in (one, low)]
            rows.append([name, *(f"{kl:.2f}" for kl in kls), *ratios])
        head = ["regression", "best of `normal`", "`normal`", "best of `lowrank`", "`lowrank`"]
        head += ["sds of `normal`: median, least", "sds of `lowrank`"]
        table(head, rows)
    if "ranks" in given.tables:
        rows = [[name, *(f"{found[f'ranks/{name}'][str(rank)]:.2f}" for rank in RANKS)] for name in designs()]
        table(["least KL(q || posterior), nats", *(f"{rank} columns" for rank in RANKS)], rows)
    if "logistic" in given.tables:
        runs = {guide: [found[f"logistic/{guide}/{seed}"] for seed in seeds] for guide in GUIDES}
        print_compared("logistic", runs, {"elbo": 2, "nll": 4, "seconds": 1})
    if "network" in given.tables:
        digits = {"elbo": 0, "nll": 4, "accuracy": 2, "ece": 4, "seconds": 0}
        for weight in given.kl_weights:
            runs = {
                guide: [
                    found[at(data=given.data, weight=weight, guide=guide, seed=seed, epochs=given.epochs)]
                    for seed in seeds
                ]
                for guide in GUIDES
            }
            print_compared(f"LeNet-300-100, {given.data}, KL weight {weight:g}", runs, digits)
    if "mixture" in given.tables:
        rows = [[n, *(f"{found[f'mixture/{n}'][k]:.3f}" for k in ("single", "best_single", "mixture"))] for n in MIXED]
        table(["largest error of a PIP", "one restart", "best restart", "mixture"], rows)
        all_of = [found[f"mixture/network/{seed}"] for seed in seeds]
        rows = [
            [kind, *(spread([one[f"{kind}_{score}"] for one in all_of], 4) for score in ("nll", "accuracy", "ece"))]
            for kind in ("single", "by_elbo", "equal")
        ]
        table(["LeNet-300-100, digits", "nll", "accuracy", "ece"], rows)
    print(f"\n{ledger.cost()}")


if __name__ == "__main__":
    main()
