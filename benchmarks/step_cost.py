"""What a training step costs: plain SGD, the best hand-written loops, `bayesprune` plain and fused, and two peers.

All run by turns in one process, on three networks and four models; costs are medians over blocks, ratios are taken
within blocks, to the best hand-written loop. The peers fit one of the models (mean-field Normal) and are no
dependencies: see `benchmarks.peers` for how to install them and for what differs. `--growth` measures networks of 1e5
to 1e8 weights instead, with their memory.

    python -m benchmarks.step_cost --threads 1
    python -m benchmarks.step_cost --growth
    python -m benchmarks.step_cost --device cuda
    python -m benchmarks.step_cost --paths hand-written fused --blocks 11 --block-seconds 0.1 --seconds 470

The last one is that of the promise alone, fused over the best hand-written loop, in less than eight minutes: what the
time does not suffice for is named, and measured when the command is given again. Results are kept in a ledger, so that
a run that was broken off goes on; `--fresh` measures anew (do so after installing a peer). Cost on one core: a LeNet
takes about half a processor minute, compiling included, ResNet-20 several minutes; the growth takes two to three
minutes a size up to 1e7, most of it in processes of its own, which the ledger's processor minutes leave out.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.alternation import alternate, best, summarise
from benchmarks.contenders import LOOPS, NETWORKS, make_case, steps_of
from benchmarks.growth import measure_size
from benchmarks.ledger import Ledger

PATHS = ("sgd", "hand-written", "bayesprune", "fused", "peers")
SIZES = (100_000, 1_000_000, 10_000_000, 100_000_000)


def measure(
    network: str, model: str, paths: Sequence[str], batch: int, device: str, blocks: int, block_seconds: float
) -> dict[str, Any]:
    """Costs of a step on one case.

    Args:
        network: One of `benchmarks.contenders.NETWORKS`.
        model: One of `benchmarks.contenders.LOOPS`.
        paths: Of `PATHS`.
        batch: Examples a step.
        device: Where it runs.
        blocks: Timed blocks.
        block_seconds: About how long each runs in a block.

    Returns:
        ``"costs"`` by name, ``"best"`` (name of the best hand-written loop) and ``"absent"`` (reasons by name).
    """
    case = make_case(network, model, batch, device)
    steps, absent = steps_of(case, paths)
    times = alternate(steps, blocks, block_seconds, device=device)
    reference = best(times, "hand-written") if "hand-written" in paths else next(iter(times))
    costs = {name: cost.as_json() for name, cost in summarise(times, reference).items()}
    return {"costs": costs, "best": reference, "absent": absent}


def show(title: str, result: dict[str, Any]) -> str:
    """A table of one case: milliseconds a step and ratios to the best hand-written loop, with quartiles."""
    lines = [f"\n{title:38}{'ms/step':>10}{'quartiles':>20}{'x best by hand':>16}{'quartiles':>16}"]
    for name, cost in result["costs"].items():
        low, high = cost["ms_quartiles"]
        under, over = cost["ratio_quartiles"]
        mark = "  <- best by hand" if name == result.get("best") else ""
        lines.append(
            f"  {name:36}{cost['ms']:10.2f}{f'{low:.2f} to {high:.2f}':>20}{cost['ratio']:16.2f}"
            f"{f'{under:.2f} to {over:.2f}':>16}{mark}"
        )
    for path, peak in result.get("peaks", {}).items():
        if "train" in peak:
            lines.append(f"  {path:36}{peak['train']:10.1f} bytes a weight in training, {peak['build']:.1f} to build")
    lines += [f"  {name}: {reason}" for name, reason in result["absent"].items()]
    return "\n".join(lines)


def machine(device: str, threads: int) -> str:
    """What the figures belong to."""
    if torch.device(device).type == "cuda":
        return f"{torch.cuda.get_device_name()}, PyTorch {torch.__version__}"
    return f"{platform.machine()}, {threads} threads, PyTorch {torch.__version__}"


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables, the cost of it all and one line of JSON; returns results by name."""
    parser = argparse.ArgumentParser(description="What a training step costs, by turns in one process.")
    parser.add_argument("--networks", nargs="+", default=list(NETWORKS), choices=NETWORKS)
    parser.add_argument("--models", nargs="+", choices=LOOPS, help="default: all; for --growth normal and halo")
    parser.add_argument("--paths", nargs="+", default=list(PATHS), choices=PATHS)
    parser.add_argument("--growth", action="store_true", help="networks by size instead, with their memory")
    parser.add_argument("--sizes", nargs="+", type=float, default=list(SIZES), help="weights for --growth")
    parser.add_argument("--batch", type=int, default=128, help="examples a step (default 128)")
    parser.add_argument("--device", default="cpu", help="cpu (default) or cuda")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads (default 1)")
    parser.add_argument("--blocks", type=int, default=21, help="timed blocks (default 21)")
    parser.add_argument("--block-seconds", type=float, default=0.2, help="of each in a block (default 0.2)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/step_cost.json"), help="the ledger")
    parser.add_argument("--seconds", type=float, help="begin no further case after so many; default: all are measured")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.fresh:
        options.out.unlink(missing_ok=True)
    ledger = Ledger(options.out)
    where = machine(options.device, options.threads)
    sampling = (options.batch, options.device)
    results, left, begun = {}, list[str](), time.perf_counter()

    def has_time(name: str, case: str) -> bool:
        """Whether a case is known or may still begin; notes it where not."""
        spent = time.perf_counter() - begun
        longest = max((60 * ledger.runs[done]["wall_minutes"] for done in results), default=0.0)
        known = name in ledger.runs or options.seconds is None
        if not known and spent + longest > options.seconds:
            left.append(case)
            return False
        return True

    if options.growth:
        for model in options.models or ("normal", "halo"):
            for size in map(int, options.sizes):
                name = f"growth, {model}, {size:.0e} weights, batch {options.batch}, {where}"
                if not has_time(name, f"{model} at {size:.0e}"):
                    continue
                results[name] = ledger.run(
                    name,
                    lambda model=model, size=size: measure_size(  # type: ignore[misc]
                        size, model, *sampling, options.threads, options.blocks, options.block_seconds
                    ),
                )
                print(show(name.removesuffix(f", {where}"), results[name]), flush=True)
    else:
        for network in options.networks:
            for model in options.models or LOOPS:
                name = f"{network}, {model}, {'+'.join(options.paths)}, batch {options.batch}, {where}"
                if not has_time(name, f"{network}, {model}"):
                    continue
                results[name] = ledger.run(
                    name,
                    lambda network=network, model=model: measure(  # type: ignore[misc]
                        network, model, options.paths, *sampling, options.blocks, options.block_seconds
                    ),
                )
                print(show(f"{network}, {model}", results[name]), flush=True)
    if left:
        print(f"\nnot run, because {options.seconds:.0f} s do not suffice (repeat the command): {'; '.join(left)}")
    print(f"\n{where}\ncost: {ledger.cost() if ledger.runs else 'nothing was run'}")
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
