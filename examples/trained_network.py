"""A trained ResNet-18 made smaller: gates around its weights, pruned, compact, fine-tuned, exported, timed.

    python examples/trained_network.py                             # trains the network first, on Fashion-MNIST
    python examples/trained_network.py --weights resnet18.pth      # or begins with a state dict of yours

The weights file is a state dict of `torchvision.models.resnet18(num_classes=10)`. Without one the example trains the
network itself, as nothing is downloaded. It writes the compact network to --out (network.py, compact.safetensors and
plan.json, network.onnx where bayesprune[export] is installed), and prints what each stage costs and how often it is
right.
"""

from __future__ import annotations

import argparse
import importlib.util
from pathlib import Path

import torch
from torch import nn
from torchvision.models import resnet18

import bayesprune as bp
from bayesprune.models.costs.latency import ratio

Examples = tuple[torch.Tensor, torch.Tensor]


def for_grey_images(network: nn.Module) -> nn.Module:
    """Gives a ResNet a first layer of one channel that does what the old one does to a grey image in all three."""
    colour = network.conv1
    network.conv1 = nn.Conv2d(1, colour.out_channels, colour.kernel_size, colour.stride, colour.padding, bias=False)
    with torch.no_grad():
        network.conv1.weight.copy_(colour.weight.sum(dim=1, keepdim=True))
    return network


def train(network: nn.Module, x: torch.Tensor, y: torch.Tensor, epochs: int, batch_size: int = 64) -> None:
    """A plain loop: Adam, with the learning rate going to zero."""
    optimizer = torch.optim.Adam(network.parameters(), lr=1e-3)
    steps = epochs * -(-len(x) // batch_size)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    network.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch_size):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(x[rows]), y[rows]).backward()
            optimizer.step()
            schedule.step()
    network.eval()


@torch.no_grad()
def accuracy(network: nn.Module, examples: Examples) -> float:
    """Share of the examples whose most probable class is the label."""
    x, y = examples
    predicted = torch.cat([network.eval()(rows).argmax(dim=1) for rows in x.split(256)])
    return float((predicted == y).double().mean())


def make_smaller(
    network: nn.Module, train_data: Examples, kappa: float | None, travel: float, epochs: int
) -> tuple[bp.Fit, bp.PruneResult, bp.CompactResult]:
    """Fits gates around trained weights, and takes the units away whose gate has closed."""
    x, _ = train_data
    gates = bp.UnitGates(kappa=kappa)  # a unit stays if the mean loss would rise by more than kappa without it
    model = bp.BayesianNetwork(network, {}, gates=gates, data_size=len(x), example_input=x[:1])
    fit = bp.fit(model, train_data, epochs=epochs, batch_size=64, rules=[bp.Gating(travel=travel)])
    pruned = bp.prune(fit, min_inclusion=0.5, data=train_data)  # statistics of batch normalisation come anew from data
    return fit, pruned, pruned.compact()


def outputs_by_onnx(file: Path, x: torch.Tensor) -> torch.Tensor | None:
    """Outputs of the exported network; None where onnxruntime is not installed."""
    if importlib.util.find_spec("onnxruntime") is None:
        return None
    import onnxruntime

    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    return torch.from_numpy(session.run(None, {session.get_inputs()[0].name: x.numpy()})[0])


def main(arguments: list[str] | None = None) -> list[dict[str, float | str]]:
    """Runs the stages and prints a table; returns its rows."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="fashion-mnist", help="a name, a folder of images or a file .npz")
    parser.add_argument("--weights", type=Path, help="a state dict of resnet18(num_classes=10)")
    parser.add_argument("--images", type=int, default=4000, help="for training; as many are scored, at most")
    parser.add_argument("--epochs", type=int, nargs=3, default=(4, 10, 4), help="of training, the fit, fine-tuning")
    parser.add_argument("--kappa", type=float, help="price of a unit, nats per example; default log(N) / N")
    parser.add_argument("--travel", type=float, default=0.25, help="share of the fit that closing a useless gate takes")
    parser.add_argument("--batches", type=int, nargs="+", default=(1, 64), help="batch sizes that are timed")
    parser.add_argument("--out", type=Path, default=Path("runs/resnet-18-small"))
    given = parser.parse_args(arguments)

    torch.manual_seed(0)
    data = bp.load_data(given.data)
    parts = (data.train, data.validation, data.test)
    training, validation, test = ((x[: given.images], y[: given.images]) for x, y in parts)
    network = resnet18(num_classes=data.classes)
    if given.weights is not None:
        network.load_state_dict(torch.load(given.weights, weights_only=True))
    if data.input_shape[0] == 1:
        network = for_grey_images(network)
    if given.weights is None:
        train(network, *training, given.epochs[0])

    fit, pruned, compact = make_smaller(network, training, given.kappa, given.travel, given.epochs[1])
    tuned = bp.finetune(compact, training, given.epochs[2], batch_size=64, validation=validation)

    x = training[0]
    bp.export_network(tuned.network, x[:2], given.out, plan=tuned.plan)
    networks = {
        "trained": network.eval(),
        "pruned": pruned.network,
        "compact": compact.network,
        "fine-tuned": tuned.network,
    }
    rows = [row(name, one, x, validation, test) for name, one in networks.items()]
    averaged = {part: fit.score(*examples)["accuracy"] for part, examples in (("val", validation), ("test", test))}
    rows.insert(1, {**rows[1], "stage": "fit, averaged", **averaged})
    for size in given.batches:  # all by turns, and compared within rounds
        batch = x[torch.arange(size) % len(x)]
        times = bp.latency(networks, batch)
        for one in rows:
            if one["stage"] in networks:
                one[f"faster at {size}"] = ratio(times["trained"], times[one["stage"]]).median
    if importlib.util.find_spec("onnx") is not None:
        bp.export_onnx(tuned.network, x[:2], given.out / "network.onnx")
        found = outputs_by_onnx(given.out / "network.onnx", test[0])
        if found is not None:
            right = float((found.argmax(dim=1) == test[1]).double().mean())
            counted = {name: rows[-1][name] for name in ("MACs", "parameters")}
            rows.append({"stage": "ONNX", **counted, "test": right})
            with torch.no_grad():
                print(f"ONNX: outputs differ by at most {float((found - tuned.network(test[0])).abs().max()):.1e}")
    show(rows)
    print(f"units left: {', '.join(f'{name} {left}' for name, left in compact.report.units_after.items())}")
    print(f"fine-tuned: {tuned.report.finetuned}")
    print(f"written to {given.out}")
    return rows


def row(name: str, network: nn.Module, x: torch.Tensor, validation: Examples, test: Examples) -> dict[str, float | str]:
    """What a stage's network costs and how often it is right."""
    counted = bp.costs(network, x[:1])
    return {
        "stage": name,
        "MACs": counted.dense_macs,
        "parameters": counted.parameters,
        "val": accuracy(network, validation),
        "test": accuracy(network, test),
    }


def show(rows: list[dict[str, float | str]]) -> None:
    """Prints the rows as a table."""
    columns = list(dict.fromkeys(name for one in rows for name in one))
    print(" | ".join(columns))
    for one in rows:
        print(" | ".join(shown(one.get(name, "")) for name in columns))


def shown(value: float | str) -> str:
    """A number as a person reads it."""
    if isinstance(value, str):
        return value
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}"


if __name__ == "__main__":
    main()
