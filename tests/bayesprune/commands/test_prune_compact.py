"""`bayesprune prune --compact`: the network it writes, its summary, what it refuses."""

from __future__ import annotations

import importlib.util
import json
import shutil
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn import functional as F

from bayesprune.runs.run_folder import SUMMARY_FILE, load_run, run_data

PLAIN = {"weights.safetensors", "masks.safetensors", "budget.json", "summary.json"}
COMPACT = PLAIN | {"compact.safetensors", "network.py", "plan.json"}


@pytest.fixture(scope="module")
def run(made, networks_file, tmp_path_factory):
    """Digits by a prior on rows, which leaves some units of the hidden layer dead."""
    out = tmp_path_factory.mktemp("runs") / "rows"
    made(
        "fit", "--data", "digits", "--network", f"{networks_file}:small", "--prior", "spike-and-slab",
        "--set", "level=output", "--set", "expected_density=0.3", "--on", "1.weight", "--epochs", 4,
        "--learning-rate", 0.01, "--quiet", "--out", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def normalised(made, networks_file, tmp_path_factory):
    """Digits by a network with batch normalisation."""
    out = tmp_path_factory.mktemp("runs") / "normalised"
    made(
        "fit", "--data", "digits", "--network", f"{networks_file}:normalised", "--prior", "gaussian",
        "--on", "0.weight", "--epochs", 2, "--learning-rate", 0.01, "--quiet", "--out", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def folder(made, run, tmp_path_factory):
    """The run pruned by the median-probability model, and compacted."""
    out = tmp_path_factory.mktemp("pruned") / "rows"
    made("prune", run, "--min-inclusion", 0.5, "--compact", "--quiet", "--out", out)
    return out


def summary(folder):
    return json.loads((folder / SUMMARY_FILE).read_text())


def dense_outputs(folder, x):
    """Outputs of the network with zeros, by its state dict alone."""
    weights = {name: value.double() for name, value in load_file(folder / "weights.safetensors").items()}
    hidden = torch.relu(x.double().flatten(1) @ weights["1.weight"].T + weights["1.bias"])
    return hidden @ weights["3.weight"].T + weights["3.bias"]


def zero_rows(folder):
    return int((load_file(folder / "weights.safetensors")["1.weight"] == 0).all(dim=1).sum())


def test_the_folder_holds_a_smaller_network_that_says_the_same(folder, run):
    assert {path.name for path in folder.iterdir()} == COMPACT
    x = run_data(run).test[0]
    spec = importlib.util.spec_from_file_location("exported", folder / "network.py")
    exported = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(exported)
    small, left = exported.load().double(), 20 - zero_rows(folder)
    assert 0 < left < 20
    assert [tuple(p.shape) for p in small.parameters()] == [(left, 64), (left,), (10, left), (10,)]
    with torch.no_grad():
        found, expected = small(x.double()), dense_outputs(folder, x)
        sd = float(expected.std(dim=0).mean())
        assert sd > 0.1 and float((found - expected).abs().max()) < 1e-5 * sd  # biases are folded in float32
        next(small.parameters())[0] = 0.0  # control: one unit less is not the same
        assert float((small(x.double()) - expected).abs().max()) > 0.01 * sd


def test_the_plan_gives_original_indices(folder):
    weight = load_file(folder / "weights.safetensors")["1.weight"]
    alive = (weight != 0).any(dim=1).nonzero().squeeze(1).tolist()
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["units"]["1"] == {"of": 20, "kept": alive}
    assert plan["tensors"]["1.weight"] == {"shape": [20, 64], "kept": {"0": alive}}


def test_the_summary_counts_parameters_macs_and_units(folder, run):
    found, left = summary(folder), 20 - zero_rows(folder)
    weights = load_file(folder / "weights.safetensors")
    assert found["parameters"] == 64 * 20 + 20 + 20 * 10 + 10
    assert found["compact_parameters"] == 64 * left + left + left * 10 + 10
    assert found["dense_macs"] == 64 * 20 + 20 * 10 and found["compact_macs"] == 64 * left + left * 10
    assert found["sparse_macs"] == sum(int((weights[name] != 0).sum()) for name in ("1.weight", "3.weight"))
    assert found["compact_units"] == {"1": {"of": 20, "left": left}, "3": {"of": 10, "left": 10}}
    assert 0 <= found["max_output_difference"] < 1e-6 < 0.1 < found["output_sd"]  # biases are rounded to float32
    assert found["kept_dead_units"] == {} and found["idle_layers"] == [] and found["round_to"] == 1
    assert found["latency_ratio"] is None and found["onnx"] is None and found["batch_normalisation"] is None
    assert found["likelihood"] == {"name": "categorical"}
    splits = run_data(run)
    assert found["input_scaling"] == {"divisor": 16, "mean": splits.mean.tolist(), "sd": splits.sd.tolist()}
    x, y = splits.test
    accuracy = float((dense_outputs(folder, x).argmax(dim=1) == y).double().mean())
    assert found["test_accuracy_after"] == pytest.approx(accuracy)


def test_without_compact_the_keys_are_null_and_the_weights_the_same(command, folder, run, tmp_path):
    out = tmp_path / "pruned"
    assert command("prune", run, "--min-inclusion", 0.5, "--out", out)[::2] == (0, "")
    assert {path.name for path in out.iterdir()} == PLAIN
    plain, compact = summary(out), summary(folder)
    keys = {
        "parameters", "compact_parameters", "dense_macs", "sparse_macs", "compact_macs", "max_output_difference",
        "output_sd", "latency_ratio", "compact_units", "kept_dead_units", "idle_layers", "not_compared", "round_to",
        "folded_layers", "not_folded", "csr_speed_ups",
    }  # fmt: skip
    assert plain.keys() == compact.keys() and all(plain[key] is None for key in keys | {"onnx"})
    assert compact["digests"].items() - plain["digests"].items() == {
        ("compact.safetensors", compact["digests"]["compact.safetensors"])
    }
    keys |= {"digests"}
    assert {key: plain[key] for key in plain.keys() - keys} == {key: compact[key] for key in compact.keys() - keys}
    for name in ("weights", "masks"):
        one, other = (load_file(place / f"{name}.safetensors") for place in (out, folder))
        assert all(torch.equal(one[key], other[key]) for key in one)


def test_it_is_printed(command, run, tmp_path):
    code, out, err = command(
        "prune", run, "--min-inclusion", 0.5, "--compact", "--round-to", 4, "--out", tmp_path / "p"
    )
    assert (code, err) == (0, "")
    found = summary(tmp_path / "p")
    assert f"compact: {found['compact_parameters']:,} of 1,510 parameters" in out
    assert (
        f"{found['compact_macs']:,} compact" in out
        and f"units left of 1: {found['compact_units']['1']['left']} of 20" in out
    )
    assert "network.py, compact.safetensors, plan.json" in out and "times as fast" not in out


def test_widths_are_rounded_up(command, run, tmp_path):
    arguments = ("prune", run, "--min-inclusion", 0.5, "--compact", "--round-to", 8, "--quiet", "--out", tmp_path / "p")
    assert command(*arguments) == (0, "", "")
    exact, found = 20 - zero_rows(tmp_path / "p"), summary(tmp_path / "p")
    assert found["round_to"] == 8 and found["compact_units"]["1"]["left"] == min(-(-exact // 8) * 8, 20)


def test_latency_is_the_median_of_paired_ratios(command, run, tmp_path, monkeypatch):
    from bayesprune.models.costs import latency as module

    batches = []

    def short(networks, example_input):
        batches.append(len(example_input))
        sizes = {name: sum(p.numel() for p in network.parameters()) for name, network in networks.items()}
        assert sizes["compact"] < sizes["dense"]
        return module.latency(networks, example_input, repeats=5, seconds=0.2)

    monkeypatch.setattr("bayesprune.commands.compacting.latency", short)
    code, out, err = command("prune", run, "--min-inclusion", 0.5, "--compact", "--latency", "--out", tmp_path / "p")
    assert (code, err) == (0, "") and batches == [1, 128]
    ratios = summary(tmp_path / "p")["latency_ratio"]
    assert set(ratios) == {"1", "128"} and all(0.1 < value < 50 for value in ratios.values())
    assert f"{ratios['1']:.2f} at batch 1 and {ratios['128']:.2f} at batch 128" in out


@pytest.mark.parametrize("compact", [True, False])
def test_batch_normalisation_is_estimated_again_and_the_summary_says_so(command, normalised, tmp_path, compact):
    more = ["--compact"] if compact else []
    code, out, err = command("prune", normalised, "--sparsity", 0.5, *more, "--out", tmp_path / "p")
    assert (code, err) == (0, "")
    found = summary(tmp_path / "p")
    assert "of 1 layer" in found["batch_normalisation"] and "training data" in found["batch_normalisation"]
    assert found["batch_normalisation"] in out
    weights, splits = load_file(tmp_path / "p" / "weights.safetensors"), run_data(normalised)
    values = F.conv2d(splits.train[0].double(), weights["0.weight"].double(), weights["0.bias"].double())
    flat = values.movedim(1, 0).flatten(1)
    torch.testing.assert_close(weights["1.running_mean"].double(), flat.mean(1), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(weights["1.running_var"].double(), flat.var(1), rtol=1e-4, atol=1e-4)
    # Control: those of the fit are others; and the scores are those of the new ones.
    old = load_run(normalised, trust_code=True).model.network[1].running_var
    assert float((old - weights["1.running_var"]).abs().max()) > 0.01
    network = nn.Sequential(
        nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(54, 10)
    ).eval()
    network.load_state_dict(weights)
    x, y = splits.test
    with torch.no_grad():
        assert found["test_accuracy_after"] == pytest.approx(float((network(x).argmax(1) == y).double().mean()))


@pytest.mark.parametrize("inside", [True, False])
def test_the_onnx_file_may_lie_in_the_folder_or_elsewhere(command, run, tmp_path, monkeypatch, inside):
    monkeypatch.setattr("bayesprune.commands.compacting.require_extra", lambda: None)
    monkeypatch.setattr("bayesprune.commands.compacting.export_onnx", lambda n, x, file: file.write_text(str(len(x))))
    out = tmp_path / "p"
    file = out / "small.onnx" if inside else tmp_path / "small.onnx"
    code, said, err = command("prune", run, "--min-inclusion", 0.5, "--compact", "--onnx", file, "--out", out)
    assert (code, err) == (0, "") and str(file) in said
    assert {path.name for path in out.iterdir()} == COMPACT | ({"small.onnx"} if inside else set())
    assert {path.name for path in tmp_path.iterdir()} == {"p"} | (set() if inside else {"small.onnx"})
    assert summary(out)["onnx"] == str(file) and file.read_text() == "2"


@pytest.mark.slow
def test_onnx_gives_the_same_outputs(command, run, tmp_path):
    runtime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    file, out = tmp_path / "small.onnx", tmp_path / "p"
    assert command("prune", run, "--min-inclusion", 0.5, "--compact", "--onnx", file, "--out", out)[::2] == (0, "")
    session = runtime.InferenceSession(file, providers=["CPUExecutionProvider"])
    x = run_data(run).test[0][:7]  # another batch size than that of the export
    found = session.run(None, {session.get_inputs()[0].name: x.numpy()})[0]
    expected = dense_outputs(out, x).numpy()
    assert np.abs(found - expected).max() < 1e-5 * expected.std(axis=0).mean() < np.abs(found).max()


# ---------------------------------------------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("--onnx", "x.onnx"), ("--onnx", "add --compact")),
        (("--latency",), ("--latency", "add --compact")),
        (("--round-to", 8), ("--round-to", "add --compact")),
        (("--compact", "--round-to", 0), ("--round-to must be at least 1",)),
        (("--compact", "--onnx", "net.pt"), ("takes a file .onnx, not net.pt",)),
    ],
)
def test_options_that_do_not_go_together_are_told(refused, run, tmp_path, more, parts):
    refused(("prune", run, "--min-inclusion", 0.5, *more, "--out", tmp_path / "p"), *parts)
    assert list(tmp_path.iterdir()) == []


def test_onnx_is_refused_before_any_work(refused, run, tmp_path, monkeypatch):
    def fail(*_, **__):
        raise AssertionError("work has begun")

    monkeypatch.setattr("bayesprune.commands.pruning.load_run", fail)
    (tmp_path / "there.onnx").write_text("mine")
    arguments = ("prune", run, "--min-inclusion", 0.5, "--compact", "--out", tmp_path / "p", "--onnx")
    refused((*arguments, tmp_path / "there.onnx"), "there.onnx exists already", "--onnx")
    refused((*arguments, tmp_path / "none" / "x.onnx"), "there is no folder")
    refused((*arguments, "/proc/x.onnx"), "cannot be written")

    monkeypatch.setitem(sys.modules, "onnx", None)  # as if it were not installed
    refused((*arguments, tmp_path / "x.onnx"), "onnx", "bayesprune[export]")
    assert (tmp_path / "there.onnx").read_text() == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]


@pytest.mark.parametrize("name", ["export_network", "export_onnx"])
def test_an_export_that_fails_leaves_nothing(command, run, tmp_path, monkeypatch, name):
    pytest.importorskip("onnxscript")

    def fail(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"bayesprune.commands.compacting.{name}", fail)
    more = ("--compact", "--onnx", tmp_path / "x.onnx", "--out", tmp_path / "p")
    code, _, err = command("prune", run, "--min-inclusion", 0.5, *more)
    assert code == 1 and "No space left on device" in err
    assert list(tmp_path.iterdir()) == []


def test_a_network_that_cannot_be_traced_is_refused_and_nothing_is_written(made, refused, networks_file, tmp_path):
    branching = (
        "from torch import nn\n"
        "class Branching(nn.Module):\n"
        "    def __init__(self):\n"
        "        super().__init__()\n"
        "        self.fc = nn.Linear(64, 10)\n"
        "    def forward(self, x):\n"
        "        return self.fc(x.flatten(1)) if x.sum() > 0 else self.fc(-x.flatten(1))\n"
    )
    (tmp_path / "own.py").write_text(branching)
    network = f"{tmp_path / 'own.py'}:Branching"
    more = ("--prior", "gaussian", "--epochs", 1, "--quiet", "--out", tmp_path / "run")
    made("fit", "--data", "digits", "--network", network, *more)
    made("prune", tmp_path / "run", "--sparsity", 0.5, "--quiet", "--out", tmp_path / "plain")  # control
    refused(("prune", tmp_path / "run", "--sparsity", 0.5, "--compact", "--out", tmp_path / "p"))
    assert not (tmp_path / "p").exists()


def test_the_run_is_left_as_it_was(command, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    assert command("prune", copied, "--min-inclusion", 0.5, "--compact", "--out", tmp_path / "p")[0] == 0
    for path in run.iterdir():
        assert (copied / path.name).read_bytes() == path.read_bytes()
