"""What it costs a fit to keep its state so that it can go on: LeNet-300-100, with `checkpoint=` and without, in turns.

Run ``python -m benchmarks.state_cost``; it prints seconds, their ratio, how many states were written, and the share of
the wall time that writing took, for a fit of a second and for one of half a minute or so. About 3 processor minutes.
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
from bayesprune.inference.checkpoint import Checkpoint


def measure(data: Any, epochs: int, folder: str | None) -> dict[str, float]:
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

    began = time.perf_counter()
    with patch.object(Checkpoint, "write", timed):
        bp.fit(model, (x, y), epochs=epochs, batch_size=64, path="plain", checkpoint=folder)
    return {"seconds": time.perf_counter() - began, **found}


def main() -> None:
    """Alternates the two, and prints medians."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, nargs="+", default=[4, 100])
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    data, began = bp.load_data("digits"), time.process_time()
    for epochs in options.epochs:
        with_state, without = [], []
        for _ in range(options.rounds):
            without.append(measure(data, epochs, None)["seconds"])
            with tempfile.TemporaryDirectory() as folder:
                with_state.append(measure(data, epochs, f"{folder}/state"))
        ratios = [one["seconds"] / other for one, other in zip(with_state, without, strict=True)]
        shares = [one["writing"] / one["seconds"] for one in with_state]
        states = statistics.median(one["states"] for one in with_state)
        print(
            f"{epochs} epochs, {statistics.median(without):.1f} s without: {states:.0f} states, writing takes "
            f"{100 * statistics.median(shares):.2f} % of the time (at most {100 * max(shares):.2f} %), "
            f"ratio of seconds {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})"
        )
    minutes = (time.process_time() - began) / 60
    print(f"{2 * options.rounds} x {len(options.epochs)} fits, {minutes:.1f} processor minutes")


if __name__ == "__main__":
    main()
