"""Soft thresholds at their bare defaults, without a budget: what the first command of a user comes to.

LeNet-300-100 on digits and on Fashion-MNIST (10 epochs), ResNet-20 on digits (20 epochs), and a regression: diabetes,
350 examples to train and 92 to test, one hidden layer of 50, noise learned, beside other settings and priors. One seed.
Stated are the score on the test split (of the regression, on the 92), and the density that the fit came to.

Run ``python -m benchmarks.soft_threshold_bare``; 8 runs x 0.25 processor minutes.
"""

from __future__ import annotations

from typing import Any

import torch
from sklearn.datasets import load_diabetes
from torch import nn

import bayesprune as bp

CLASSES: tuple[tuple[str, str, int | None], ...] = (
    ("digits", "lenet-300-100", None),
    ("digits", "resnet-20", 20),
    ("fashion-mnist", "lenet-300-100", 10),
)
REGRESSIONS: dict[str, tuple[Any, str | None]] = {
    "SoftThreshold()": (bp.SoftThreshold, None),
    "SoftThreshold(pressure=4 n)": (lambda: bp.SoftThreshold(pressure=4.0 * 350), None),
    "SoftThreshold(), mean-field": (bp.SoftThreshold, "meanfield"),
    "HALO()": (bp.HALO, None),
    "SpikeAndSlab()": (bp.SpikeAndSlab, None),
}


def classified(data: str, network: str, epochs: int | None) -> str:
    """One fit of a classification."""
    splits = bp.load_data(data)
    x, y = splits.train
    torch.manual_seed(0)
    made = bp.resnet_20(1) if network == "resnet-20" else bp.lenet_300_100(x[0].numel())
    model = bp.BayesianNetwork(made, dict.fromkeys(bp.weight_names(made), bp.SoftThreshold()), data_size=len(x))
    fit = bp.fit(model, (x, y), epochs=epochs, seed=0)
    densities = [float((weight != 0).double().mean()) for weight in fit.included_weights().values()]
    left = 1.0 - fit.summary()["sparsity"]
    accuracy = fit.score(*splits.test)["accuracy"]
    return f"| {data}, {network} | {100 * accuracy:.1f} % | {100 * left:.1f} % | least {100 * min(densities):.2g} % |"


def regressed(name: str) -> str:
    """One fit of diabetes."""
    data, (prior, guide) = load_diabetes(), REGRESSIONS[name]
    x, y = torch.tensor(data.data, dtype=torch.float32), torch.tensor(data.target, dtype=torch.float32)
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(0))
    train, test = order[:350], order[350:]
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(10, 50), nn.ReLU(), nn.Linear(50, 1))
    model = bp.BayesianNetwork(network, {"*.weight": prior()}, bp.Normal(), data_size=len(train))
    fit = bp.fit(model, (x[train], y[train]), guide)
    rmse, left = fit.score(x[test], y[test])["rmse"], 1.0 - fit.summary()["sparsity"]
    return f"| diabetes, {name} | rmse {rmse:.1f} | {100 * left:.1f} % | |"


def main() -> None:
    """Prints a row for each."""
    torch.set_num_threads(1)
    print("| fit | test | left | by layer |\n|---|---|---|---|", flush=True)
    for case in CLASSES:
        print(classified(*case), flush=True)
    for name in REGRESSIONS:
        print(regressed(name), flush=True)


if __name__ == "__main__":
    main()
