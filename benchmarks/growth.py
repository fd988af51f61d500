"""How a step's cost and memory grow with the number of weights: networks 784-h-h-10 of 1e5 to 1e8 parameters.

Memory is measured in a process of its own for each path and size: the most that the process holds while it trains, less
what it held before the network was built. `python -m benchmarks.step_cost --growth` runs all of it.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch

from benchmarks.alternation import alternate, best, summarise, synchronize
from benchmarks.contenders import make_multilayer, steps_of

PATHS = ("sgd", "hand-written", "bayesprune", "fused")
SMALL = 2_000
"""Parameters of the network on which a path is warmed up, so that libraries are loaded before memory is measured."""


class Peak:
    """The most memory this process holds, in bytes: of the GPU if that is the device, else resident.

    The resident peak is Linux's VmHWM, which unlike `ru_maxrss` can be set back and does not count what the parent
    process held.

    Args:
        device: Where the training runs.
    """

    def __init__(self, device: str) -> None:
        self.device = torch.device(device)
        self.reset()
        self.base = self.now()

    def now(self) -> int:
        """Bytes held now."""
        return torch.cuda.memory_allocated() if self.device.type == "cuda" else _status("VmRSS")

    def reset(self) -> None:
        """Forgets the peak so far."""
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")

    def above_base(self) -> int:
        """The peak since the last reset, less what was held at the start."""
        peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else _status("VmHWM")
        return peak - self.base


def _status(key: str) -> int:
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{key}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {key}: memory can be measured on Linux only")


def measure_peak(weights: int, model: str, path: str, batch: int, device: str, steps: int = 3) -> dict[str, Any]:
    """Peak memory of building and of training, in bytes for each parameter; for a process of its own.

    Args:
        weights: Parameters of the network.
        model: One of `benchmarks.contenders.LOOPS`.
        path: One of `PATHS`.
        batch: Examples a step.
        device: Where it runs.
        steps: Training steps.

    Returns:
        ``"weights"``, ``"build"`` and ``"train"``; or ``"absent"``, why the path does not run.
    """
    small, absent = steps_of(make_multilayer(SMALL, model, batch, device), (path,))
    if absent:
        return {"absent": next(iter(absent.values()))}
    for step in small.values():
        for _ in range(3):
            step()
    small.clear()
    synchronize(device)
    peak = Peak(device)
    case = make_multilayer(weights, model, batch, device)
    count = case.weights
    made, _ = steps_of(case, (path,))
    (step,) = made.values()
    # A user's network is theirs to keep or not: every path has made its own copy of what it needs.
    case.network = torch.nn.Identity()
    built = peak.above_base()
    peak.reset()
    for _ in range(steps):
        step()
    synchronize(device)
    return {"weights": count, "build": built / count, "train": peak.above_base() / count}


def peak_in_child(weights: int, model: str, path: str, batch: int, device: str, threads: int) -> dict[str, Any]:
    """`measure_peak` in a process of its own."""
    arguments = [str(weights), model, path, "--batch", str(batch), "--device", device, "--threads", str(threads)]
    finished = subprocess.run(
        [sys.executable, "-m", "benchmarks.growth", *arguments], capture_output=True, text=True, check=False
    )
    if finished.returncode != 0:
        return {"absent": f"the process ended with {finished.returncode}: {finished.stderr.strip()[-300:]}"}
    result: dict[str, Any] = json.loads(finished.stdout.splitlines()[-1])
    return result


def measure_size(
    weights: int, model: str, batch: int, device: str, threads: int, blocks: int, block_seconds: float
) -> dict[str, Any]:
    """Cost of a step of every path on one size, by turns in this process, and peaks in processes of their own.

    Args:
        weights: Parameters of the network.
        model: One of `benchmarks.contenders.LOOPS`.
        batch: Examples a step.
        device: Where it runs.
        threads: PyTorch's threads.
        blocks: Timed blocks.
        block_seconds: About how long each path runs in a block.

    Returns:
        ``"weights"``, ``"peaks"`` by path, ``"costs"`` by name of step, ``"absent"`` by name.
    """
    peaks = {path: peak_in_child(weights, model, path, batch, device, threads) for path in PATHS}
    absent = {path: peak["absent"] for path, peak in peaks.items() if "absent" in peak}
    needed = sum(max(peak["build"], peak["train"]) * peak["weights"] for peak in peaks.values() if "train" in peak)
    room = free_memory(device)
    result: dict[str, Any] = {"weights": weights, "peaks": peaks, "absent": absent, "costs": {}}
    if needed > 0.9 * room:
        note = f"needs {needed / 2**30:.1f} GiB for all paths at once, and {room / 2**30:.1f} GiB are free"
        result["absent"]["timing"] = note
        return result
    case = make_multilayer(weights, model, batch, device)
    steps, missing = steps_of(case, [path for path in PATHS if path not in absent])
    result["absent"] |= missing
    warm_up = 3 if weights < 2e7 else 1
    times = alternate(steps, blocks if weights < 2e7 else min(blocks, 5), block_seconds, warm_up, device)
    costs = summarise(times, best(times, "hand-written"))
    result["costs"] = {name: cost.as_json() for name, cost in costs.items()}
    return result


def free_memory(device: str) -> float:
    """Bytes that can still be taken."""
    if torch.device(device).type == "cuda":
        return float(torch.cuda.mem_get_info()[0])
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemAvailable:"):
            return 1024.0 * int(line.split()[1])
    return float(os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))


def main() -> None:
    """Measures one peak and prints it as a line of JSON; what `peak_in_child` starts."""
    parser = argparse.ArgumentParser(description="Peak memory of training on one path.")
    parser.add_argument("weights", type=int)
    parser.add_argument("model")
    parser.add_argument("path", choices=PATHS)
    parser.add_argument("--batch", type=int, default=128, help="examples a step (default 128)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(json.dumps(measure_peak(options.weights, options.model, options.path, options.batch, options.device)))


if __name__ == "__main__":
    main()
