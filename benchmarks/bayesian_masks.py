"""What sparse training costs that is read as inference: steps, updates of masks by each score, and memory.

Steps of one network are taken by turns in one process: points and mean-field, dense and on a support of five percent,
and with an update of the masks in every step, whose cost in steps is the difference. Run
``python -m benchmarks.bayesian_masks``, about two processor minutes a network; ``--network resnet-20`` is a
convolutional one, whose curvature is taken example by example.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.models.priors.continuous_spike_and_slab import ScheduledSpikeAndSlab
from benchmarks.alternation import alternate, summarise

NETWORKS: Mapping[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "lenet-300-100": (lambda: bp.lenet_300_100(784), (784,)),
    "resnet-20": (lambda: bp.resnet_20(1), (1, 28, 28)),
}
DENSITY, LONG = 0.05, 10**7
CASES: Mapping[str, tuple[str, str, Mapping[str, Any] | None]] = {
    "points, dense": ("gaussian", "map", None),
    "points, sparse": ("gaussian", "map", {}),
    "  update: magnitude, gradient": ("gaussian", "map", {"every": 1}),
    "  update: magnitude, bayes-factor": ("gaussian", "map", {"every": 1, "grow": "bayes-factor"}),
    "spike and slab, sparse": ("spike", "map", {}),
    "  update: inclusion, bayes-factor": ("spike", "map", {"every": 1, "drop": "inclusion", "grow": "bayes-factor"}),
    "mean-field, dense": ("gaussian", "meanfield", None),
    "mean-field, sparse": ("gaussian", "meanfield", {"drop": "signal-to-noise"}),
    "  update: signal-to-noise, gradient": ("gaussian", "meanfield", {"every": 1, "drop": "signal-to-noise"}),
}


class Begun(Callback):
    """Leaves a fit after its third step, and keeps what it was in the middle of."""

    run: Any = None

    def on_step(self, state: FitState) -> None:
        """Keeps the restart."""
        if state.step == 3:
            self.run = state
            raise KeyboardInterrupt


def begun(network: str, case: str, x: Tensor, y: Tensor) -> Any:
    """A restart that takes steps when it is told to."""
    prior, guide, rule = CASES[case]
    torch.manual_seed(0)
    make, _ = NETWORKS[network]
    hierarchy = bp.Gaussian() if prior == "gaussian" else ScheduledSpikeAndSlab(DENSITY)
    model = bp.BayesianNetwork(make(), {"*.weight": hierarchy}, data_size=len(x))
    rules = [] if rule is None else [DynamicMasks(**{"density": DENSITY, "every": LONG, "until": 1.0, **rule})]
    watcher = Begun()
    how: dict[str, Any] = {"steps": LONG, "batch_size": 128, "execution": "plain", "device": "cpu"}
    try:
        bp.fit(model, (x, y), guide, rules=rules, callbacks=[watcher], **how)
    except KeyboardInterrupt:
        return watcher.run
    raise RuntimeError("a fit of ten million steps has ended after three")


def held(run: Any) -> dict[str, float]:
    """Bytes a weight that training holds: parameters with gradients, the optimizer's state, and masks."""
    weights = sum(prior.shape.numel() if isinstance(prior.shape, torch.Size) else torch.Size(prior.shape).numel()
                  for prior in run.objective.model.priors.values())  # fmt: skip
    learned = [p for p in run.objective.guide.parameters()]
    parameters = sum(2 * p.numel() * p.element_size() for p in learned)
    states = [s for p in learned for s in run.optimizer.state[p].values() if torch.is_tensor(s) and s.numel() > 1]
    state = sum(s.numel() * s.element_size() for s in states)
    masks = sum(b.numel() * b.element_size() for way in run.objective.model.ways for b in way.buffers())
    return {"parameters and gradients": parameters / weights, "optimizer": state / weights, "masks": masks / weights}


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Prints a table, and returns costs by case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--network", default="lenet-300-100", choices=NETWORKS)
    parser.add_argument("--blocks", type=int, default=11)
    parser.add_argument("--block-seconds", type=float, default=0.2)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=CASES)
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    clock, random = time.process_time(), torch.Generator().manual_seed(0)
    x = torch.randn(1280, *NETWORKS[options.network][1], generator=random)
    y = torch.randint(10, (1280,), generator=random)
    runs = {case: begun(options.network, case, x, y) for case in options.cases}
    steps = {case: lambda run=run: run.take_step(x[:128], y[:128]) for case, run in runs.items()}
    costs = summarise(alternate(steps, options.blocks, options.block_seconds), options.cases[0])
    print(f"{options.network}, plain execution, batch 128, density {DENSITY}, one thread")
    print(f"{'':38}{'ms':>8}{'x first':>9}{'quartiles':>16}{'in steps':>10}   bytes a weight")
    base = costs[options.cases[0]].ms
    for case, cost in costs.items():
        base = base if case.startswith(" ") else cost.ms
        extra = f"{(cost.ms - base) / base:.2f}" if case.startswith(" ") else ""
        low, high = cost.ratio_quartiles
        memory = " + ".join(f"{size:.1f}" for size in held(runs[case]).values())
        print(f"{case:38}{cost.ms:8.2f}{cost.ratio:9.2f}{f'{low:.2f} to {high:.2f}':>16}{extra:>10}   {memory}")
    print(f"{(time.process_time() - clock) / 60:.1f} processor minutes")
    return {case: cost.as_json() for case, cost in costs.items()}


if __name__ == "__main__":
    main()
