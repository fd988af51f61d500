"""The promise on real data: sparsity priors on scikit-learn's digits, fitted, inspected, pruned and made smaller.

    python benchmarks/demo.py        (or: make demo)

LeNet-300-100 on 8 x 8 images of digits, 1,294 of them for training: spike and slab with the paired guide, which
gives inclusion probabilities, HALO by MAP, which gives a network that stands pruning, and spike and slab with one
gate a unit (its KL term weighted by 0.1: a tempered objective), whose dead units are removed. Nothing is fine-tuned.
The settings were chosen by the nll of the validation images (mean of two splits and seeds); what is printed is
measured on the 359 test images, by one seed. Writes runs/demo, which it replaces. One to two minutes.
"""

from __future__ import annotations

import shutil
import sys
import time
from pathlib import Path

import torch

from bayesprune.commands.console import percent, stdout, table
from bayesprune.commands.fitting import fit_run
from bayesprune.commands.pruning import prune_run
from bayesprune.commands.showing import write_plots
from bayesprune.runs.run_folder import PLOTS_FOLDER, load_run

OUT = Path("runs", "demo")
TARGET = 0.95
RUNS = {
    "spike-and-slab": {
        "prior": "spike-and-slab", "settings": {"expected_density": 0.05, "slab_sd": 1.0}, "guide": "paired",
        "epochs": 100, "learning_rate": 3e-3, "kl_warmup": 0.5,
    },
    "halo": {"prior": "halo", "settings": {"kappa": 0.3}, "guide": "map", "epochs": 60, "learning_rate": 2e-3},
    "units": {
        "prior": "spike-and-slab", "settings": {"expected_density": 0.5, "level": "output"}, "guide": "paired",
        "on": ("fc1.weight", "fc2.weight"), "epochs": 40, "learning_rate": 3e-3, "kl_weight": 0.1,
    },
}  # fmt: skip


def main() -> None:
    began = time.perf_counter()
    # Matrices this small gain nothing from a second thread, and lose much where the machine is busy.
    torch.set_num_threads(1)
    console = stdout()
    if OUT.exists():
        shutil.rmtree(OUT)
    shown = table("prior, guide", "accuracy", "median-probability sparsity", "pruned to", "accuracy then", "fit")
    for name, how in RUNS.items():
        console.print(f"{name}, guide {how['guide']}: {how['epochs']} epochs ...")
        run = OUT / name
        summary = fit_run(
            run, data="digits", network="lenet-300-100", batch_size=64, progress=sys.stderr.isatty(), **how
        )
        write_plots(load_run(run), run / PLOTS_FOLDER, summary["input_shape"])
        # A fit that is sparser than the target already keeps its own sparsity: pruning puts no weight back.
        median = summary["median_probability_sparsity"]
        own = name == "units" or (median is not None and median >= TARGET)
        by = {"min_inclusion": 0.5} if own else {"sparsity": TARGET}
        pruned = prune_run(run, OUT / f"{name}-pruned", **by, compact=name == "units", latency=name == "units")
        shown.add_row(
            f"{name}, {how['guide']}",
            percent(summary["test_accuracy"]),
            "none: a MAP has no probabilities" if median is None else percent(median, 2),
            percent(pruned["sparsity"], 2) + (" (its own)" if own else ""),
            percent(pruned["test_accuracy_after"]),
            f"{summary['seconds']:.0f} s",
        )
    console.print()
    console.print("LeNet-300-100 on digits; 359 test images, no fine-tuning:")
    console.print(shown)
    left = ", ".join(f"{row['left']} of {row['of']}" for row in pruned["compact_units"].values())
    faster = pruned["latency_ratio"]
    console.print(
        f"units: {left} units are left; the compact network has {pruned['compact_parameters']:,} of "
        f"{pruned['parameters']:,} parameters, 1/{pruned['dense_macs'] / pruned['compact_macs']:.1f} of the MACs, and "
        f"is {faster['1']:.1f} times as fast at batch 1, {faster['128']:.1f} times at batch 128 (PyTorch, one thread)"
    )
    console.print(f"{time.perf_counter() - began:.0f} s in all; run folders, netCDF and plots are in {OUT}. Next:")
    console.print(f"  bayesprune show {OUT}/spike-and-slab --plots")
    console.print(f"  bayesprune prune {OUT}/halo --sparsity 0.98 --out {OUT}/halo-98")
    console.print(f"  python {OUT}/units-pruned/network.py")
    console.print(f"  bayesprune compare {OUT}/spike-and-slab {OUT}/halo")


if __name__ == "__main__":
    main()
