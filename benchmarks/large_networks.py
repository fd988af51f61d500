"""ResNet-50 and MobileNetV1 at 224 x 224 with `SoftThreshold` on every weight: ten real steps of a fit.

Images are generated (a pattern for each of ten classes, and noise), and as many are stated as ImageNet has, so that the
prior weighs as there. Printed for each network and execution: seconds a step (the median, without the first two), peak
memory of its process, which of the thresholds moved, and the density of every layer, which should not have gone far in
ten steps. Run ``python -m benchmarks.large_networks``; about 3 processor minutes, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.models.ready_networks import NETWORKS
from benchmarks.ledger import Ledger

CASES = [(name, execution) for name in ("mobilenet-v1", "resnet-50") for execution in ("plain", "fused")]
IMAGENET = 1_281_167
CLASSES = 10
EARLY = 2  # steps that trace the graph and fill caches


class GeneratedImages(IterableDataset[tuple[Tensor, int]]):
    """Endless images: the pattern of a class, 7 x 7 random colours, and as much noise again.

    Args:
        side: Pixels of a side.
        seed: Of patterns and noise.
    """

    def __init__(self, side: int = 224, seed: int = 0) -> None:
        self.side, self.seed = side, seed

    def __iter__(self) -> Any:
        generator = torch.Generator().manual_seed(self.seed)
        coarse = torch.randn(CLASSES, 3, 7, 7, generator=generator)
        patterns = torch.nn.functional.interpolate(coarse, size=self.side, mode="bilinear")
        while True:
            label = int(torch.randint(CLASSES, (), generator=generator))
            yield patterns[label] + torch.randn(3, self.side, self.side, generator=generator), label


class Clock(bp.Callback):
    """Reads a clock after every step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step(self, state: Any) -> None:
        """Notes the time."""
        self.times.append(time.perf_counter())


def take_steps(
    name: str,
    execution: str,
    steps: int = 10,
    batch: int = 4,
    side: int = 224,
    width: float = 1.0,
    total: int = IMAGENET,
    seed: int = 0,
) -> dict[str, Any]:
    """Fits one network for so many steps.

    Args:
        name: A name in `NETWORKS`.
        execution: ``"plain"`` or ``"fused"``.
        steps: How many steps.
        batch: Images a step.
        side: Pixels of a side.
        width: Multiplies the widths.
        total: Of how many images the model is told.
        seed: Of the images; the network always starts alike.

    Returns:
        Seconds a step, peak memory, how many thresholds moved, and by layer where they started and ended, the density
        and the root mean square of the weights.
    """
    torch.manual_seed(0)
    network = NETWORKS[name]((3, side, side), CLASSES, width)
    priors = dict.fromkeys(bp.weight_names(network), bp.SoftThreshold())
    model = bp.BayesianNetwork(network, priors, data_size=total)
    before, clock = Guide(model).means(), Clock()
    # Not compiled, which would take minutes and be repaid by thousands of steps alone.
    fit = bp.fit(
        model, DataLoader(GeneratedImages(side, seed), batch_size=batch), steps=steps, execution=execution,
        compiled=False, callbacks=[clock], seed=0,
    )  # fmt: skip
    after, weights = fit.restarts[0].guide.means(), fit.included_weights()
    took = [later - earlier for earlier, later in zip(clock.times, clock.times[1:], strict=False)]
    return {
        "seconds": statistics.median(took[EARLY - 1 :]),
        "gigabytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20,
        "execution": fit.settings["execution"]["name"],
        "processor_minutes": time.process_time() / 60,  # of this process, where the ledger sees its own
        "moved": sum(bool(after[f"{name}.s"] != before[f"{name}.s"]) for name in weights),
        "starts": {name: float(before[f"{name}.s"].sigmoid()) for name in weights},
        "ends": {name: float(after[f"{name}.s"].sigmoid()) for name in weights},
        "density": {name: float((weight != 0).float().mean()) for name, weight in weights.items()},
        "rms": {name: float(weight.square().mean().sqrt()) for name, weight in weights.items()},
    }


def main() -> None:
    """Runs what is missing, each in a process of its own, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ledger", default="runs/large_networks.json")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--layers", action="store_true", help="print every layer")
    options = parser.parse_args()
    ledger, spawning = Ledger(options.ledger), multiprocessing.get_context("spawn")
    print("network       execution  s a step  GiB   thresholds moved  density of layers, least, median, most")
    for name, execution in CASES:

        def alone(name: str = name, execution: str = execution) -> dict[str, Any]:
            with ProcessPoolExecutor(1, spawning, torch.set_num_threads, (1,)) as pool:
                return pool.submit(take_steps, name, execution, batch=options.batch).result()

        found = ledger.run(f"{name} {execution} {options.batch}", alone)
        density = sorted(found["density"].values())
        print(
            f"{name:13} {found['execution']:9} {found['seconds']:9.2f} {found['gigabytes']:5.2f}  "
            f"{found['moved']:3} of {len(density):3}       "
            f"{density[0]:.4f}  {statistics.median(density):.4f}  {density[-1]:.4f}"
        )
        for layer in found["density"] if options.layers else ():
            print(
                f"    {layer:32} threshold {found['starts'][layer]:.2e} -> {found['ends'][layer]:.2e}, "
                f"density {found['density'][layer]:.4f}"
            )
    minutes = [run["processor_minutes"] for run in ledger.runs.values()]
    print(f"{len(minutes)} runs x {statistics.mean(minutes):.2f} processor minutes = {sum(minutes):.1f} minutes")


if __name__ == "__main__":
    main()
