"""Batch normalisation: what a fit is said to be worth by running statistics, and by those of each draw.

Run ``python -m benchmarks.batch_normalisation``; it prints two tables. A CNN of two 3 x 3 convolutions of 16 channels
with batch normalisation is fitted to scikit-learn's digits (1,294 images, 40 epochs), and the same draws are scored
with several statistics. Then: how many training inputs their estimation needs, on 10,000 images of clothes of half
size (the error of a prediction is the largest of its probabilities, root mean square over images). Cost: five fits of a
tenth of a minute, one of half a minute, and scores: about two processor minutes.
"""

from __future__ import annotations

import argparse
import copy
import time
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.data.kept_inputs import evenly_spaced
from bayesprune.inference.predictions.plain_scores import plain_scores

CASES: dict[str, tuple[Any, float]] = {
    "horseshoe": (bp.Horseshoe, 1.0),
    "spike and slab by weight": (bp.SpikeAndSlab, 1.0),
    "spike and slab by output": (lambda: bp.SpikeAndSlab(level="output"), 1.0),
    "spike and slab by output, KL weight .1": (lambda: bp.SpikeAndSlab(level="output"), 0.1),
    "gaussian": (bp.Gaussian, 1.0),
}
NUMBERS = (64, 128, 256, 512, 1000, 2000, 5000)
CLOTHES = 10_000
DRAWS, FEW_DRAWS = 32, 8


def cnn(side: int) -> nn.Module:
    """The CNN, on images `(1, side, side)`."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.Conv2d(16, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(),
        nn.MaxPool2d(2), nn.Flatten(), nn.Linear(4 * side * side, 10),
    )  # fmt: skip


def mlp(side: int) -> nn.Module:
    """Two hidden layers of 100, whose batch normalisation sees one value of an image."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Flatten(), nn.Linear(side * side, 100), nn.BatchNorm1d(100), nn.ReLU(),
        nn.Linear(100, 100), nn.BatchNorm1d(100), nn.ReLU(), nn.Linear(100, 10),
    )  # fmt: skip


def fitted(prior: Any, train: Any, kl_weight: float, epochs: int, make: Any = cnn) -> bp.Fit:
    """A fit of a network with a prior on all its weights but those of batch normalisation."""
    net = make(train[0].shape[-1])
    patterns = {name: prior() for name, parameter in net.named_parameters() if parameter.ndim > 1}
    bnn = bp.BayesianNetwork(net, patterns, data_size=len(train[0]))
    return bp.fit(bnn, train, epochs=epochs, kl_weight=kl_weight, kl_warmup=0.2, device="cpu")


def by_plain_copies(fit: bp.Fit, data: Any) -> dict[str, float]:
    """The score of the same draws by plain networks, statistics re-estimated on all training data."""
    x, y = data.test
    net, probabilities = copy.deepcopy(fit.model.network), torch.zeros(len(x), 10)

    def add(draw: dict[str, torch.Tensor]) -> None:
        for name in fit.model.priors:
            net.get_parameter(name).copy_(draw[name])
        bp.reestimate_statistics(net, data.train)
        probabilities.add_(net.eval()(x).softmax(dim=1) / DRAWS)

    fit.map_draws(add, DRAWS)
    nll = -float(probabilities[torch.arange(len(y)), y].log().mean())
    return {"accuracy": float((probabilities.argmax(dim=1) == y).float().mean()), "nll": nll}


def digits() -> None:
    """Scores of the same draws with running statistics, with those of the centre, and with those of each draw."""
    data = bp.load_data("digits")
    print("test accuracy and nll; pruned: accuracy of the network pruned by its own rule, else to 50 %")
    print(
        f"{'digits':<40}{'running':>14}{'centre':>14}{'each draw':>14}{'all data':>14}"
        "   pruned: running  kept inputs  data="
    )
    for name, (prior, kl_weight) in CASES.items():
        fit = fitted(prior, data.train, kl_weight, epochs=40)
        found = [fit.score(*data.test, draws=DRAWS, statistics=which) for which in ("running", "centre", None)]
        found.append(by_plain_copies(fit, data))
        cells = "".join(f"{one['accuracy']:>7.3f}{one['nll']:>7.3f}" for one in found)
        rule = {"min_inclusion": 0.5} if name.startswith("spike") else {"sparsity": 0.5}
        kept = fit.inputs
        pruned = []
        for inputs, given in ((None, None), (kept, None), (None, data.train)):
            fit.inputs = inputs
            result = bp.prune(fit, **rule, data=given)
            pruned.append(plain_scores(result.network, result.likelihood, *data.test)["accuracy"])
        print(f"{name:<40}{cells}{pruned[0]:>18.3f}{pruned[1]:>13.3f}{pruned[2]:>7.3f}", flush=True)


def numbers() -> None:
    """How far the predictions of the same draws are from those with statistics of all training inputs."""
    data = bp.load_data("fashion-mnist")
    x, y = nn.functional.avg_pool2d(data.train[0][:CLOTHES], 2), data.train[1][:CLOTHES]
    new, labels = nn.functional.avg_pool2d(data.test[0][:1000], 2), data.test[1][:1000]
    for make in (cnn, mlp):
        fit = fitted(bp.SpikeAndSlab, (x, y), 1.0, epochs=4, make=make)
        print(f"{make.__name__} on {CLOTHES:,} images of clothes, {FEW_DRAWS} draws")
        by_number(fit, x, new, labels)


def by_number(fit: bp.Fit, x: torch.Tensor, new: torch.Tensor, labels: torch.Tensor) -> None:
    """A line for each number of training inputs."""
    fit.inputs = x
    predicted = fit.predict(new, FEW_DRAWS)
    print(
        f"{'inputs':>10}{'accuracy':>10}{'nll':>10}{'error of a draw':>17}{'of their mean':>15}{'seconds a draw':>16}"
    )
    for number in (0, *NUMBERS, CLOTHES):
        fit.inputs = evenly_spaced(x, number) if number else None
        began = time.perf_counter()
        found = fit.predict(new, FEW_DRAWS)
        seconds = (time.perf_counter() - began) / FEW_DRAWS
        errors = [
            float((mine - own).abs().amax(dim=-1).square().mean().sqrt())
            for mine, own in ((found.draws, predicted.draws), (found.mean, predicted.mean))
        ]
        accuracy = float((found.mean.argmax(dim=1) == labels).float().mean())
        nll = -float(found.mean[torch.arange(len(labels)), labels].log().mean())
        row = f"{number or 'running':>10}{accuracy:>10.4f}{nll:>10.4f}{errors[0]:>17.4f}{errors[1]:>15.4f}"
        print(f"{row}{seconds:>16.3f}", flush=True)


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", choices=["digits", "numbers"], help="one of the two tables")
    only = parser.parse_args().only
    began = time.process_time()
    if only in (None, "digits"):
        digits()
    if only in (None, "numbers"):
        numbers()
    print(f"{(time.process_time() - began) / 60:.1f} processor minutes")


if __name__ == "__main__":
    main()
