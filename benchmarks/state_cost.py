"""What it costs a fit to keep its state so that it can go on: LeNet-300-100, with and without, in turns.

Three fits by turns: alone, with `checkpoint=`, and with the trace of `WriteTrace` besides, as the command line
does it. Run ``python -m benchmarks.state_cost``; it prints seconds, their ratios, how many states were written, and the
share of the wall time that writing them took. About 4 processor minutes.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from typing import Any
from unittest.mock import patch

import torch

import bayesprune as bp
from bayesprune.inference.training.checkpoint import Checkpoint


def measure(data: Any, epochs: int, folder: str | None, traced: bool = False) -> dict[str, float]:
    """Seconds of one fit; of those, seconds that writing states took, and their number."""
    torch.manual_seed(0)
    x, y = data.train
    model = bp.BayesianNetwork(bp.lenet_300_100(64), {"*.weight": bp.SpikeAndSlab(0.05, slab_sd=0.5)}, data_size=len(x))
    write, found = Checkpoint.write, {"writing": 0.0, "states": 0.0}

    def timed(point: Checkpoint, *arguments: Any, **more: Any) -> None:
        began, before = time.perf_counter(), point._due
        write(point, *arguments, **more)
        found["writing"] += time.perf_counter() - began
        found["states"] += point._due != before

    watchers = [bp.WriteTrace(f"{folder}/trace")] if traced else []
    state = None if folder is None else f"{folder}/state"
    began = time.perf_counter()
    with patch.object(Checkpoint, "write", timed):
        bp.fit(model, (x, y), epochs=epochs, batch_size=64, execution="plain", checkpoint=state, callbacks=watchers)
    return {"seconds": time.perf_counter() - began, **found}


def ratio(found: list[dict[str, float]], alone: list[float]) -> str:
    """Median and range of the ratios of seconds within rounds."""
    ratios = [one["seconds"] / other for one, other in zip(found, alone, strict=True)]
    return f"{statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"


def main() -> None:
    """Alternates the two, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 100])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, began = bp.load_data("digits"), time.process_time()
    for epochs in options.epochs:
        alone, kept, traced = [], [], []
        for _ in range(options.rounds):
            alone.append(measure(data, epochs, None)["seconds"])
            for found, with_trace in ((kept, False), (traced, True)):
                with tempfile.TemporaryDirectory() as folder:
                    found.append(measure(data, epochs, folder, with_trace))
        shares = [one["writing"] / one["seconds"] for one in kept]
        print(
            f"{epochs} epochs, {statistics.median(alone):.1f} s alone: "
            f"{statistics.median(one['states'] for one in kept):.0f} states, writing them takes "
            f"{100 * statistics.median(shares):.2f} % of the time (at most {100 * max(shares):.2f} %); "
            f"ratio of seconds {ratio(kept, alone)}, with the trace {ratio(traced, alone)}"
        )
    minutes = (time.process_time() - began) / 60
    print(f"{3 * options.rounds} x {len(options.epochs)} fits, {minutes:.1f} processor minutes")


if __name__ == "__main__":
    main()
