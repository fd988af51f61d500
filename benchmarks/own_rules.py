"""What a prior's own rule costs: `prune(fit, min_inclusion=0.5)` against the fit, LeNet-300-100, one seed.

Digits (200 epochs) and 5,000 images of Fashion-MNIST (60 epochs, 5,000 test images), at two KL weights; mean-field
where the prior has an event of shrinkage. Run ``python -m benchmarks.own_rules``: about 10 processor minutes for the
defaults; ``--priors gaussian vib --data digits`` for others.
"""

from __future__ import annotations

import argparse
from typing import Any

import torch

import bayesprune as bp
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.models.priors.ready import make_prior

SHRINKAGE = ("horseshoe", "regularised-horseshoe", "halo")
EPOCHS = {"digits": 200, "fashion-mnist": 60}
IMAGES = 5000


def parts(name: str) -> tuple[Any, Any]:
    """Training and test data; of Fashion-MNIST 5,000 of each."""
    splits = bp.load_data(name, seed=0)
    if name == "digits":
        return splits.train, splits.test
    chosen = torch.randperm(len(splits.train[0]), generator=torch.Generator().manual_seed(0))[:IMAGES]
    return tuple(part[chosen] for part in splits.train), tuple(part[:IMAGES] for part in splits.test)


def measured(name: str, prior: str, kl_weight: float) -> str:
    """One line of the table."""
    train, test = parts(name)
    torch.manual_seed(0)
    network = bp.lenet_300_100(train[0][0].numel())
    model = bp.BayesianNetwork(network, {"*.weight": make_prior(prior)}, data_size=len(train[0]))
    guide = "meanfield" if prior in SHRINKAGE else None
    fit = bp.fit(model, train, guide, epochs=EPOCHS[name], kl_warmup=0.6, kl_weight=kl_weight)
    own = bp.prune(fit, min_inclusion=0.5, data=train)
    figures = [fit.score(*test)["accuracy"], _accuracy(own, test), own.report.sparsity]
    try:
        figures.append(_accuracy(bp.prune(fit, sparsity=own.report.sparsity, criterion="magnitude"), test))
    except ValueError:  # the fit has more zeros than that
        figures.append(float("nan"))
    row = " | ".join(f"{100.0 * figure:.1f}" for figure in figures)
    lines = [f"| {name} | {prior} | {kl_weight:g} | {row} |", *own.report.notes]
    for tensor in fit.model.priors.values() if prior in SHRINKAGE else ():
        tensor.hierarchy.included = bp.shrinkage_below(0.5, by="fisher")
    if prior in SHRINKAGE:
        textbook = bp.prune(fit, min_inclusion=0.5)
        lines.append(f"by the Fisher information {_accuracy(textbook, test):.3f} at {textbook.report.sparsity:.3f}")
    return "\n  ".join(lines)


def _accuracy(result: bp.PruneResult, test: Any) -> float:
    return plain_scores(result.network, result.likelihood, *test)["accuracy"]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", nargs="+", default=list(EPOCHS))
    parser.add_argument("--priors", nargs="+", default=list(SHRINKAGE))
    parser.add_argument("--kl-weights", nargs="+", type=float, default=[0.1, 1.0])
    options = parser.parse_args()
    print("| data | prior | KL weight | fit | pruned by its own rule | sparsity | magnitude |")
    for name in options.data:
        for prior in options.priors:
            for kl_weight in options.kl_weights:
                print(measured(name, prior, kl_weight), flush=True)


if __name__ == "__main__":
    main()
