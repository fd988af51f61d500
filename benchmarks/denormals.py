"""What denormal numbers cost a fit: VIB on LeNet-300-100 and Fashion-MNIST, with them and without, in turns.

`bayesprune.fit` lets them be zero while it runs. Run ``python -m benchmarks.denormals``; it prints processor seconds.
"""

from __future__ import annotations

import argparse
import statistics
import time
from contextlib import nullcontext
from importlib import import_module
from typing import Any
from unittest.mock import patch

import torch

import bayesprune as bp


def seconds(splits: Any, epochs: int, flushed: bool) -> float:
    """Processor seconds of one fit, plain execution."""
    torch.manual_seed(0)
    x, y = splits.train
    model = bp.BayesianNetwork(bp.lenet_300_100(), {"*.weight": bp.VIB(30.0, per="input")}, data_size=len(x))
    home = import_module("bayesprune.inference.training.fit")
    began = time.process_time()
    with nullcontext() if flushed else patch.object(home, "flushed_denormals", nullcontext):
        bp.fit(model, (x, y), epochs=epochs, learning_rate=2e-3, execution="plain")
    return time.process_time() - began


def main() -> None:
    """Alternates the two, and prints medians and their ratio."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(1)
    splits = bp.load_data("fashion-mnist")
    times: dict[bool, list[float]] = {True: [], False: []}
    for _ in range(options.rounds):
        for flushed in times:
            times[flushed].append(seconds(splits, options.epochs, flushed))
    zero, kept = (statistics.median(times[flushed]) for flushed in (True, False))
    print(f"flushed {zero:.1f} s {times[True]}, kept {kept:.1f} s {times[False]}: ratio {kept / zero:.2f}")


if __name__ == "__main__":
    main()
