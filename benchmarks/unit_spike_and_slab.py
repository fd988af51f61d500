"""From a prior on units to a small network that runs without this package.

LeNet-5 on Fashion-MNIST, one seed: trained dense, then fitted with spike and slab at the level of outputs (one gate a
filter or row) on all layers but the last, pruned by the median-probability model, fine-tuned with its zeros held,
compacted and exported. The generated network.py runs in a fresh process that cannot import bayesprune, Pyro or
safetensors, the ONNX file in onnxruntime; outputs are compared with those of the pruned network, and times by turns.
Run ``python -m benchmarks.unit_spike_and_slab``; it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import bayesprune as bp
from bayesprune.inference.predictions.metrics import accuracy
from bayesprune.models.costs.latency import latency, ratio
from benchmarks.compact_speed import in_onnxruntime
from benchmarks.ledger import Ledger

# Run by a fresh Python: blocks this package and what it stands on, so that torch alone is left.
ELSEWHERE = """
import sys
for name in ("bayesprune", "pyro", "safetensors"):
    sys.modules[name] = None
sys.path.insert(0, sys.argv[1])
import torch
from network import load
torch.set_num_threads(1)
with torch.no_grad():
    torch.save(load()(torch.load(sys.argv[2], weights_only=True)), sys.argv[3])
"""


def trained_dense(x: Tensor, y: Tensor, epochs: int) -> nn.Module:
    """LeNet-5 trained by Adam."""
    torch.manual_seed(0)
    network = bp.lenet_5()
    optimizer = torch.optim.Adam(network.parameters(), 1e-3)
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(128):
            optimizer.zero_grad()
            torch.nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
    return network.eval()


def declared(network: nn.Module, data_size: int) -> bp.BayesianNetwork:
    """Gates on every filter and row but those of the classes."""
    gated = ("conv1.weight", "conv2.weight", "fc1.weight")
    return bp.BayesianNetwork(
        network, {name: bp.SpikeAndSlab(0.5, level="output") for name in gated}, data_size=data_size
    )


def fitted(network: nn.Module, splits: Any, options: argparse.Namespace) -> bp.Fit:
    """The fit, from the dense network's weights."""
    how = {"learning_rate": 2e-3, "kl_weight": options.kl_weight, "kl_warmup": 0.1, "seed": 0}
    return bp.fit(declared(network, len(splits.train[0])), splits.train, epochs=options.epochs, **how)


@torch.no_grad()
def scored(network: nn.Module, x: Tensor, y: Tensor) -> float:
    """Accuracy."""
    return accuracy(torch.cat([network(part) for part in x.split(1000)]).softmax(dim=1), y)


def away(small: bp.CompactResult, pruned: nn.Module, x: Tensor, folder: Path) -> dict[str, float]:
    """Exports, runs elsewhere, and compares outputs on test images, relative to their sd."""
    bp.export_network(small.network, x[:2], folder / "small", plan=small.plan)
    inputs, outputs, script = folder / "inputs.pt", folder / "outputs.pt", folder / "elsewhere.py"
    torch.save(x, inputs)
    script.write_text(ELSEWHERE)
    command = [sys.executable, "-I", str(script), str(folder / "small"), str(inputs), str(outputs)]
    subprocess.run(command, check=True, cwd=folder)
    with torch.no_grad():
        expected, wrong = pruned(x), pruned(x.flip(0))  # the second is what a difference that matters looks like
    alone = torch.load(outputs, weights_only=True)
    by_onnx = torch.as_tensor(in_onnxruntime(small.network, x[:2])(x)[0])
    sd = float(expected.std(dim=0).mean())
    return {
        "sd": sd,
        "torch_alone": float((alone - expected).abs().max()) / sd,
        "onnxruntime": float((by_onnx - expected).abs().max()) / sd,
        "control": float((wrong - expected).abs().max()) / sd,
    }


def speed(dense: nn.Module, small: nn.Module, x: Tensor) -> dict[str, Any]:
    """Speed-ups over the dense network, medians and quartiles."""
    found: dict[str, Any] = {}
    for batch in (1, 128):
        part = x[:batch]
        torch_times = latency({"dense": dense, "compact": small}, part, repeats=200, seconds=15)
        onnx = {"dense": in_onnxruntime(dense, part), "compact": in_onnxruntime(small, part)}
        onnx_times = latency(onnx, part, repeats=200, seconds=15)
        for name, times in (("torch", torch_times), ("onnxruntime", onnx_times)):
            one = ratio(times["dense"], times["compact"])
            found[f"{name}, batch {batch}"] = [one.lower, one.median, one.upper, 1e3 * times["dense"].median]
    return found


def main() -> None:
    """Fits, prunes, exports, compares, times."""
    parser = argparse.ArgumentParser(description="From a prior on units to a small network.")
    parser.add_argument("--epochs", type=int, default=8, help="of the fit (default 8)")
    parser.add_argument("--dense-epochs", type=int, default=3, help="of the network it starts from (default 3)")
    parser.add_argument("--tuning-epochs", type=int, default=2, help="of fine-tuning (default 2)")
    parser.add_argument("--kl-weight", type=float, default=0.1, help="weight of the KL term (default 0.1: tempered)")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/benchmarks/unit_spike_and_slab"), help="folder of results"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(options.out / "ledger.json")
    splits = bp.load_data("fashion-mnist")
    test = splits.test
    dense_file = options.out / "dense.safetensors"

    def train() -> dict[str, Any]:
        network = trained_dense(*splits.train, options.dense_epochs)
        save_file(network.state_dict(), dense_file)
        return {"test_accuracy": scored(network, *test)}

    ledger.run("dense", train)
    dense = bp.lenet_5().eval()
    dense.load_state_dict(load_file(dense_file))
    bnn_folder = options.out / "fit"

    def fit() -> dict[str, Any]:
        found = fitted(dense, splits, options)
        found.save(bnn_folder, overwrite=True)
        scores = found.score(*test)
        probabilities = {
            k: torch.as_tensor(v.values).flatten(1)[:, 0] for k, v in found.inclusion_probabilities().items()
        }
        units = {
            str(k): [int((p > 0.5).sum()), int(((p > 0.05) & (p < 0.95)).sum()), len(p)]
            for k, p in probabilities.items()
        }
        return {**scores, "units": units, "kl_weight": options.kl_weight}

    print(ledger.run("fit", fit))
    result = bp.prune(bp.Fit.load(bnn_folder, model=declared(dense, len(splits.train[0]))), min_inclusion=0.5)
    tuned = bp.finetune(result, splits.train, options.tuning_epochs, seed=0)
    small = tuned.compact(test[0][:2])
    print(small.report)
    print(bp.costs(tuned.network, test[0][:1], small.network))
    found = {
        "pruned": scored(result.network, *test),
        "tuned": scored(tuned.network, *test),
        "compact": scored(small.network, *test),
        **away(small, tuned.network, test[0][:1000], options.out),
    }
    print(found)
    for name, row in speed(dense, small.network, test[0]).items():
        print(f"{name}: {row[1]:.2f} times as fast ({row[0]:.2f} to {row[2]:.2f}), dense {row[3]:.3f} ms")
    print(f"cost of training {ledger.cost()}, and fine-tuning")


if __name__ == "__main__":
    main()
