"""HALO as its authors train it: our fit follows an independent loop written from the formulas."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.priors.halo import HALO
from tests.oracles import halo_reference as halo

STEPS, BATCH, SIZE = 200, 8, 40
XI, PSI, DECAY, RATE, MOMENTUM = 1e-3, 1e-2, 1e-2, 0.05, 0.9


def network():
    torch.manual_seed(7)
    return nn.Sequential(nn.Linear(5, 6), nn.Tanh(), nn.Linear(6, 3)).double()


def batches():
    """Five batches, the same in the same order each epoch."""
    torch.manual_seed(8)
    x, y = torch.randn(SIZE, 5, dtype=torch.float64), torch.randint(3, (SIZE,))
    return list(zip(x.split(BATCH), y.split(BATCH), strict=True))


def reference(decay=DECAY, xi=XI, momentum=MOMENTUM):
    plain, data = network(), batches()
    names = [name for name, _ in plain.named_parameters()]

    def loss(parameters, step):
        x, y = data[step % len(data)]
        outputs = torch.func.functional_call(plain, dict(zip(names, parameters, strict=True)), (x,))
        return nn.functional.cross_entropy(outputs, y)

    start = [p.detach() for p in plain.parameters()]
    return names, halo.halo_training_loop(start, loss, xi, PSI, decay, RATE, momentum, STEPS)


class Path:
    """Records the weights and lambdas after each step."""

    def __init__(self):
        self.points = []

    def on_fit_start(self, state):
        """Nothing yet."""

    def on_step(self, state):
        """Copies where the guide stands."""
        self.points.append({name: value.clone() for name, value in state.objective.guide.means().items()})

    on_epoch = on_fit_end = on_fit_start


@pytest.fixture(scope="module")
def fitted():
    bnn = BayesianNetwork(network(), {"*": HALO.from_paper(XI, PSI, DECAY, SIZE)}, data_size=SIZE)
    path = Path()
    result = fit(
        bnn,
        batches(),
        "map",
        steps=STEPS,
        optimizer="sgd",
        learning_rate=RATE,
        schedule="constant",
        precision="float64",
        device="cpu",
        callbacks=[path],
    )
    return result, path.points


def distance(points, names, oracle):
    """Largest difference of any weight or lambda after any step."""
    worst = 0.0
    for point, weights, lambdas in zip(points, oracle.weight_path, oracle.lambda_path, strict=True):
        for name, weight, lam in zip(names, weights, lambdas, strict=True):
            worst = max(worst, float((point[name] - weight).abs().max()))
            worst = max(worst, float((point[f"{name}.lam"] - lam).abs().max()))
    return worst


def test_the_fit_follows_the_authors_loop_for_200_steps(fitted):
    result, points = fitted
    names, oracle = reference()
    assert len(points) == STEPS
    assert distance(points, names, oracle) < 1e-10
    start = [p.detach() for p in network().parameters()]
    moved = max(float((w - p).abs().max()) for w, p in zip(oracle.weights, start, strict=True))
    assert moved > 0.1  # it did go somewhere
    assert max(float((lam - 1.0).abs().max()) for lam in oracle.lambdas) > 0.1
    final = result.guide.means()
    assert all(torch.allclose(final[n], w, atol=1e-10) for n, w in zip(names, oracle.weights, strict=True))


@pytest.mark.parametrize("wrong", [{"decay": 0.0}, {"xi": 1.01 * XI}, {"momentum": 0.89}])
def test_a_loop_that_differs_is_told_apart(fitted, wrong):
    _, points = fitted
    names, oracle = reference(**wrong)
    assert distance(points, names, oracle) > 1e-6


def test_the_reported_loss_is_the_authors_objective_up_to_the_constant(fitted):
    result, _ = fitted
    _, oracle = reference()
    per_epoch = [sum(s.objective for s in oracle.steps[i : i + 5]) / 5 for i in range(0, STEPS, 5)]
    ours = result.trace["loss"].values[0] / SIZE
    # Weight decay is an optimizer flag of the authors, part of the objective here: only its own change is left.
    assert len(ours) == len(per_epoch)
    decay = [
        0.5 * DECAY * sum(float((v**2).sum()) for v in (*w, *lam))
        for w, lam in zip(oracle.weight_path, oracle.lambda_path, strict=True)
    ]
    start = 0.5 * DECAY * sum(float((p.detach() ** 2).sum()) + p.numel() for p in network().parameters())
    before = [start, *decay[:-1]]
    shares = [sum(before[i : i + 5]) / 5 for i in range(0, STEPS, 5)]
    constants = [a - b - c for a, b, c in zip(ours, per_epoch, shares, strict=True)]
    assert max(constants) - min(constants) < 1e-10
