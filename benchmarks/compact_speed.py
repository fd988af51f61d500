"""What removal is worth: speed-up of compact networks beside the ratio of their MACs.

VGG-16-BN and ResNet-18 in their CIFAR forms, untrained, with 50, 80 and 95 % of the filters of every layer removed at
random: this is about speed only, no accuracy is implied. Batch 1 and 128, PyTorch and onnxruntime, one thread, in
one process by turns. Beside them a network with 80 % of its filters set to zero and nothing removed, which should
be as slow as the dense one. Run ``python -m benchmarks.compact_speed``; about 15 minutes, goes on where it stopped.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.data.batch_normalisation import reestimate_statistics
from bayesprune.models.costs.latency import latency, ratio
from bayesprune.models.networks.resnet import resnet_18
from bayesprune.models.networks.vgg import vgg_16_bn
from benchmarks.ledger import Ledger

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {"vgg-16-bn": vgg_16_bn, "resnet-18": resnet_18}
FRACTIONS = (0.5, 0.8, 0.95)
BATCHES = (1, 128)
RUNTIMES = ("torch", "onnxruntime")


def with_dead_filters(network: nn.Module, fraction: float, seed: int) -> nn.Module:
    """A copy in which this fraction of the removable units of every set is zero."""
    groups = bp.ChannelGroups(network, torch.zeros(1, 3, 32, 32))
    generator = torch.Generator().manual_seed(seed)
    dead = {}
    for name, units in groups.sets.items():
        removable = units.removable.nonzero().squeeze(1)
        chosen = torch.randperm(len(removable), generator=generator)[: round(fraction * len(removable))]
        dead[name] = removable[chosen]
    masked = copy.deepcopy(network).eval()
    groups.zero(masked, dead)
    return masked


def variants(name: str) -> tuple[dict[str, nn.Module], dict[str, dict[str, float]]]:
    """The networks to time, and what the removal came to."""
    torch.manual_seed(0)
    dense = NETWORKS[name]().eval()
    x = torch.randn(64, 3, 32, 32)
    reestimate_statistics(dense, (x, torch.zeros(64)), batch_size=64)
    networks, figures = {"dense": dense}, {}
    macs = bp.costs(dense, x[:1]).dense_macs
    for fraction in FRACTIONS:
        masked = with_dead_filters(dense, fraction, seed=1)
        reestimate_statistics(masked, (x, torch.zeros(64)), batch_size=64)
        if fraction == 0.8:
            networks["masked 0.8"] = masked
        result = bp.compact(masked, x[:2])
        networks[f"compact {fraction}"] = result.network
        figures[f"compact {fraction}"] = {
            "mac_ratio": macs / bp.costs(result.network, x[:1]).dense_macs,
            "parameter_ratio": result.report.parameters_before / result.report.parameters_after,
            "difference": result.report.max_output_difference / result.report.output_sd,
        }
    return networks, figures


def in_onnxruntime(network: nn.Module, example_input: torch.Tensor) -> Callable[[torch.Tensor], Any]:
    """The network as a function that onnxruntime runs on one thread."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "network.onnx"
        bp.export_onnx(network, example_input, file)
        session = onnxruntime.InferenceSession(file.read_bytes(), options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    return lambda x: session.run(None, {name: x.numpy()})


def timed(networks: Mapping[str, nn.Module], runtime: str, batch: int, rounds: int) -> dict[str, Any]:
    """Speed-ups over the dense network, medians and quartiles of ratios within rounds."""
    ready: dict[str, Callable[..., Any]] = dict(networks)
    if runtime == "onnxruntime":
        ready = {name: in_onnxruntime(network, torch.zeros(2, 3, 32, 32)) for name, network in networks.items()}
    x = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    found = latency(ready, x, repeats=rounds, threads=1, seconds=60)
    speed = {name: ratio(found["dense"], one) for name, one in found.items() if name != "dense"}
    return {
        "dense_ms": 1e3 * found["dense"].median,
        "speed_up": {name: [one.lower, one.median, one.upper] for name, one in speed.items()},
    }


def main() -> None:
    """Times what is missing and prints the table."""
    parser = argparse.ArgumentParser(description="Speed-up of compact networks beside the ratio of their MACs.")
    parser.add_argument("--rounds", type=int, default=9, help="rounds at batch 128; five times as many at batch 1")
    parser.add_argument("--out", default="runs/benchmarks/compact_speed.json", help="ledger of finished runs")
    options = parser.parse_args()
    torch.set_num_threads(1)
    ledger = Ledger(options.out)
    for name in NETWORKS:
        networks, figures = variants(name)
        removed = ledger.run(f"{name} removal", lambda figures=figures: figures)  # type: ignore[misc]
        print(
            f"\n{name}: MACs " + ", ".join(f"{k} 1/{v['mac_ratio']:.1f}" for k, v in removed.items() if "compact" in k)
        )
        for runtime in RUNTIMES:
            for batch in BATCHES:
                rounds = options.rounds * (5 if batch == 1 else 1)
                row = ledger.run(
                    f"{name} {runtime} batch {batch}",
                    lambda r=runtime, b=batch, n=rounds, nets=networks: timed(nets, r, b, n),  # type: ignore[misc]
                )
                cells = [f"{k} {v[1]:.2f} ({v[0]:.2f} to {v[2]:.2f})" for k, v in row["speed_up"].items()]
                print(f"{runtime:12} batch {batch:3}: dense {row['dense_ms']:.1f} ms; " + "; ".join(cells), flush=True)
    print(f"\ncost {ledger.cost()}")


if __name__ == "__main__":
    main()
