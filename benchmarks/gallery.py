"""The pictures of docs/plots.md: every plot, of fits to scikit-learn's digits.

    python -m benchmarks.gallery

8 x 8 images: LeNet-300-100 with spike and slab by the paired guide, and a smaller network with a horseshoe, two
restarts; unit gates on LeNet-300-100; learned thresholds on it with a budget; masks on it, in two
cycles of density; gates on the edges of a small world. Writes docs/images, or --out. 65 s on one core.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch

import bayesprune as bp
from bayesprune.models.structure.graph_network import graph_network
from bayesprune.models.structure.random_graphs import WattsStrogatz
from benchmarks.earlier_defaults import EARLIER

DPI = 80
LARGEST = 100_000
"""Bytes of a picture."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs", "images"))
    options = parser.parse_args()
    torch.set_num_threads(1)
    began = time.perf_counter()
    data = bp.load_data("digits")

    def fitted(prior, hidden=(300, 100), **how):
        torch.manual_seed(0)
        network = bp.lenet_300_100(64, 10, hidden)
        bnn = bp.BayesianNetwork(network, {"fc*.weight": prior}, data_size=len(data.train[0]))
        # execution="auto" would go by the speed of the machine, and the pictures with it.
        how = {"learning_rate": 3e-3, "batch_size": 64, "execution": "plain", **EARLIER} | how
        return bp.fit(bnn, data.train, validation=data.validation, **how)

    spike = fitted(bp.SpikeAndSlab(0.05, slab_sd=1.0), guide="paired", kl_warmup=0.5, epochs=60)
    horseshoe = fitted(bp.Horseshoe(), (50, 20), guide="meanfield", restarts=2, epochs=80)
    torch.manual_seed(0)
    network, (x, _) = bp.lenet_300_100(64, 10), data.train
    gates = bp.UnitGates(kappa=2e-3)
    gated = bp.BayesianNetwork(network, {}, gates=gates, data_size=len(x), example_input=x[:1])
    learned = bp.fit(gated, data.train, validation=data.validation, learning_rate=3e-3, batch_size=64, epochs=60)
    torch.manual_seed(0)
    soft = bp.BayesianNetwork(bp.lenet_300_100(64, 10), {"fc*.weight": bp.SoftThreshold()}, data_size=len(x))
    how = {"rules": [bp.Budget(density=0.05)], "batch_size": 64, "epochs": 60, "execution": "plain"}
    thresholded = bp.fit(soft, data.train, validation=data.validation, **how)
    torch.manual_seed(0)
    decay = bp.Gaussian.from_weight_decay(1e-4, data_size=len(x))
    bnn = bp.BayesianNetwork(bp.lenet_300_100(64, 10), {"fc*.weight": decay}, data_size=len(x))
    how = {
        "rules": [bp.DynamicMasks(density=0.05, schedule=bp.CyclicDensity(), every=20)],
        "batch_size": 64,
        "epochs": 60,
    }
    masked = bp.fit(bnn, data.train, "map", execution="plain", **how)
    torch.manual_seed(0)
    graphs = WattsStrogatz(24, 6, 0.5)
    network = graph_network(graphs, (64,), 10, activation="tanh")
    bnn = bp.BayesianNetwork(network, bp.edge_gates(network, graphs), data_size=len(x))
    edges = bp.fit(bnn, data.train, learning_rate=1e-2, batch_size=64, epochs=40, execution="plain")
    calibration = bp.deletion_calibration(spike, data.validation, n=200)
    figures = {
        "inclusion": bp.plot_inclusion(spike, maps="all"),
        "pruning_trace": bp.plot_pruning_trace(spike),
        "trajectories": bp.plot_trajectories(spike),
        "scales": bp.plot_scales(horseshoe),
        "shrinkage": bp.plot_shrinkage(horseshoe),
        "prior_posterior": bp.plot_prior_posterior(horseshoe, ["*.tau", "*.weight.rms", "*.included", "*.effective"]),
        "r_hat": bp.plot_r_hat(bp.convergence(horseshoe)),
        "calibration": bp.plot_calibration(spike, data.test),
        "deletion_calibration": bp.plot_deletion_calibration(calibration),
        "gates": bp.plot_gates(learned),
        "units": bp.plot_units(learned),
        "thresholds": bp.plot_thresholds(thresholded),
        "masks": bp.plot_masks(masked),
        "structure": bp.plot_structure(edges),
        "architecture": bp.plot_architecture(bp.prune(spike, min_inclusion=0.5)),
    }
    for name, figure in figures.items():
        file = options.out / f"plot_{name}.png"
        figure.savefig(file, dpi=DPI)
        size = file.stat().st_size
        print(f"{file} {size:,} bytes" + (", too large" if size > LARGEST else ""))
    print(f"{time.perf_counter() - began:.0f} s, {time.process_time():.0f} s of them computing")


if __name__ == "__main__":
    main()
