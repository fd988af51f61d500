"""Where sparse layouts break even: one Linear layer dense, in CSR and in BSR of 16 x 16 blocks, by density.

Single weights are zero for CSR, whole blocks for BSR: the same density, but different networks, so that their columns
are not two ways to run one thing. All three are timed by turns, on one thread, input and output row by row as a network
passes them. Run ``python -m benchmarks.sparse_break_even``. Cost: one run of about three minutes.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprune.models.costs.latency import latency, ratio
from bayesprune.models.deployment.sparse_linear import SparseLinear

BLOCK = 16
DENSITIES = (0.5, 0.2, 0.1, 0.05, 0.01)
BATCHES = (1, 128)
# (rows, columns) for CSR; BSR takes the next multiples of 16: LeNet-300-100's first two layers, and a wide one.
SHAPES = ((300, 784), (100, 300), (4096, 4096))


def masked(rows: int, columns: int, density: float, block: int) -> nn.Linear:
    """A layer of which this fraction of blocks is left, exactly up to one block; at least one."""
    linear = nn.Linear(columns, rows)
    tiles = (rows // block) * (columns // block)
    keep = torch.zeros(tiles, dtype=torch.bool)
    keep[torch.randperm(tiles)[: max(1, round(density * tiles))]] = True
    mask = keep.view(rows // block, columns // block).repeat_interleave(block, 0).repeat_interleave(block, 1)
    with torch.no_grad():
        linear.weight.mul_(mask)
    return linear


def measure(shape: tuple[int, int], batch: int, density: float, repeats: int, seconds: float) -> dict[str, Any]:
    """Times dense, CSR and BSR layers of one density; a second dense layer says how far the clock is off."""
    rows, columns = shape
    blocked = tuple(math.ceil(size / BLOCK) * BLOCK for size in shape)
    csr, bsr = masked(rows, columns, density, 1), masked(*blocked, density, BLOCK)
    x = torch.randn(batch, columns)
    wide = nn.functional.pad(x, (0, blocked[1] - columns))
    sparse = {"csr": SparseLinear(csr), "bsr": SparseLinear(bsr, (BLOCK, BLOCK))}
    for layer, dense, given in ((sparse["csr"], csr, x), (sparse["bsr"], bsr, wide)):
        torch.testing.assert_close(layer(given), dense(given), rtol=1e-4, atol=1e-4)
    found = latency(
        {
            "dense": lambda _: csr(x),
            "dense again": lambda _: csr(x),
            "dense of BSR's shape": lambda _: bsr(wide),
            "csr": lambda _: sparse["csr"](x),
            "bsr": lambda _: sparse["bsr"](wide),
        },
        x,
        repeats=repeats,
        seconds=seconds,
    )
    gains = {
        "control": ratio(found["dense"], found["dense again"]),
        "csr": ratio(found["dense"], found["csr"]),
        "bsr": ratio(found["dense of BSR's shape"], found["bsr"]),
    }
    return {
        "shape": list(shape),
        "bsr_shape": list(blocked),
        "batch": batch,
        "density": density,
        "dense_ms": 1e3 * found["dense"].median,
        "rounds": found["dense"].samples,
        **{name: {"speed_up": gain.median, "lower": gain.lower, "upper": gain.upper} for name, gain in gains.items()},
    }


def break_even(densities: Sequence[float], speed_ups: Sequence[float]) -> float | None:
    """The sparsity from which on the sparse layer is faster, between two densities by straight lines in logarithms.

    Returns:
        The sparsity; 0 where all densities gain, None where none does.
    """
    pairs = sorted(zip(densities, speed_ups, strict=True), reverse=True)
    if all(speed_up >= 1 for _, speed_up in pairs):
        return 0.0
    for (more, slower), (less, faster) in reversed(list(zip(pairs[:-1], pairs[1:], strict=True))):
        if slower < 1 <= faster:
            share = -math.log(slower) / (math.log(faster) - math.log(slower))
            return 1 - math.exp(math.log(more) + share * (math.log(less) - math.log(more)))
    return None


def row(one: dict[str, Any]) -> str:
    """One line of the table."""
    cells = [f"{one[k]['speed_up']:>6.2f} ({one[k]['lower']:.2f} to {one[k]['upper']:.2f})" for k in ("csr", "bsr")]
    size, control = f"{one['shape'][0]} x {one['shape'][1]}", one["control"]["speed_up"]
    begin = f"{size:>12}{one['batch']:>7}{1 - one['density']:>10.2f}{one['dense_ms']:>11.4g}{control:>9.2f}"
    return f"{begin}{cells[0]:>25}{cells[1]:>25}"


def main() -> None:
    """Times, prints tables, and writes all figures to a file."""
    parser = argparse.ArgumentParser(description="Dense, CSR and BSR layers by density.")
    parser.add_argument("--repeats", type=int, default=120, help="rounds (default 120)")
    parser.add_argument(
        "--seconds", type=float, default=1.5, help="time for each of the five layers timed (default 1.5)"
    )
    parser.add_argument("--out", default="runs/benchmarks/sparse_break_even.json", help="file of all figures")
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    began, busy = time.perf_counter(), time.process_time()
    print(f"{'shape':>12}{'batch':>7}{'sparsity':>10}{'dense ms':>11}{'control':>9}{'CSR':>25}{'BSR 16 x 16':>25}")
    results = []
    with torch.inference_mode():
        for shape in SHAPES:
            for batch in BATCHES:
                for density in DENSITIES:
                    results.append(measure(shape, batch, density, options.repeats, options.seconds))
                    print(row(results[-1]), flush=True)
    points = []
    print("break-even sparsity, interpolated:")
    for shape in SHAPES:
        for batch in BATCHES:
            mine = [one for one in results if one["shape"] == list(shape) and one["batch"] == batch]
            point: dict[str, Any] = {"shape": list(shape), "batch": batch}
            for kind in ("csr", "bsr"):
                point[kind] = break_even([one["density"] for one in mine], [one[kind]["speed_up"] for one in mine])
            points.append(point)
            said = {k: f"above {1 - min(DENSITIES)}" if point[k] is None else f"{point[k]:.2f}" for k in ("csr", "bsr")}
            said = {k: f"below {1 - max(DENSITIES)}" if point[k] == 0 else v for k, v in said.items()}
            print(f"{shape[0]} x {shape[1]}, batch {batch}: CSR {said['csr']}, BSR {said['bsr']}")
    minutes, work = (time.perf_counter() - began) / 60, (time.process_time() - busy) / 60
    cost = f"1 run x {work:.1f} processor minutes ({minutes:.1f} minutes by the clock)"
    print(cost)
    out = Path(options.out)
    out.parent.mkdir(parents=True, exist_ok=True)
    staging = out.with_suffix(".part")
    staging.write_text(json.dumps({"results": results, "break_even": points, "cost": cost}, indent=1))
    os.replace(staging, out)


if __name__ == "__main__":
    main()
