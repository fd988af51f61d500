"""From a trained ResNet-18 to a smaller one: the example, and the same from the command line, at a small size."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torchvision.models import resnet18

from bayesprune.runs.run_folder import SUMMARY_FILE

RESNET = "torchvision.models:resnet18"
EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "trained_network.py"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning"),  # a short fit
    pytest.mark.filterwarnings("ignore:(all units of|.*units are dead):UserWarning"),
]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("trained_network", EXAMPLE)
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


def test_the_example_ends_with_a_smaller_network_that_is_exported_and_timed(example, tmp_path, capsys):
    given = ["--data", "digits", "--images", "96", "--epochs", "1", "4", "1", "--batches", "1"]
    given += ["--kappa", "0.05", "--travel", "1.5", "--out"]  # so that some gates close in a few steps, and not all
    rows = {row["stage"]: row for row in example.main([*given, str(tmp_path / "small")])}
    stages = ["trained", "fit, averaged", "pruned", "compact", "fine-tuned"]
    assert list(rows)[: len(stages)] == stages
    assert rows["pruned"]["MACs"] == rows["trained"]["MACs"] > rows["compact"]["MACs"] == rows["fine-tuned"]["MACs"]
    assert rows["pruned"]["test"] == rows["compact"]["test"]  # removal changes no output
    assert rows["trained"]["faster at 1"] == 1.0 and rows["fine-tuned"]["faster at 1"] > 0.0
    assert {path.name for path in (tmp_path / "small").iterdir()} >= {"network.py", "compact.safetensors", "plan.json"}
    if "ONNX" in rows:
        assert rows["ONNX"]["test"] == rows["fine-tuned"]["test"] and (tmp_path / "small" / "network.onnx").is_file()
    assert "units left: conv1 " in capsys.readouterr().out


def test_grey_images_are_to_the_changed_layer_what_they_were_in_three_colours(example):
    torch.manual_seed(0)
    network, x = resnet18(num_classes=10).eval(), torch.randn(2, 1, 16, 16)
    expected = network(x.repeat(1, 3, 1, 1))
    torch.testing.assert_close(example.for_grey_images(network)(x), expected, rtol=1e-4, atol=1e-4)


def test_the_command_line_goes_the_same_way(command, tmp_path):
    torch.manual_seed(0)
    generator = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = generator.integers(0, 120, (80, 8, 8), dtype=np.uint8)
    x[y == 1, :4] += 120
    np.savez(tmp_path / "pictures.npz", x=x, y=y)
    torch.save({"state_dict": resnet18().state_dict()}, tmp_path / "resnet18.pth")
    small, onnx = tmp_path / "small", tmp_path / "small.onnx"
    code, _, error = command(
        "fit", "--data", tmp_path / "pictures.npz", "--network", RESNET, "--weights", tmp_path / "resnet18.pth",
        "--new-head", "--prior", "unit-gates", "--set", "kappa=0.05", "--gating", "step=0.5", "--epochs", 4,
        "--batch-size", 16, "--out", tmp_path / "run",
    )  # fmt: skip
    assert code == 0, error
    code, printed, error = command(
        "prune", tmp_path / "run", "--min-inclusion", 0.5, "--finetune", 2, "--compact", "--latency", "--onnx", onnx,
        "--out", small,
    )  # fmt: skip
    assert code == 0, error
    assert "fine-tuned" in printed and "times as fast" in printed
    found = json.loads((small / SUMMARY_FILE).read_text())
    assert found["compact_macs"] < found["dense_macs"] and found["latency_ratio"]["1"] > 0
    assert found["test_accuracy_finetuned"] is not None and onnx.is_file()
    state, masks = (load_file(small / f"{name}.safetensors") for name in ("weights", "masks"))
    assert state["conv1.weight"].shape == (64, 1, 7, 7) and state["fc.weight"].shape == (2, 512)
    assert all(bool((state[name][mask == 0] == 0).all()) for name, mask in masks.items())
    np.save(tmp_path / "x.npy", x[:5])
    given = ("predict", small, "--input", tmp_path / "x.npy", "--out", tmp_path / "p.npz")
    assert command(*given)[0] == 0 and np.load(tmp_path / "p.npz")["class"].shape == (5,)
