"""`bayesprune predict`: what it writes for runs and for pruned networks, and what it refuses."""

from __future__ import annotations

import csv
import json
import shutil
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits

from bayesprune.cli import app as cli
from bayesprune.commands.input_scaling import input_scaling, scaled_like_training
from bayesprune.commands.pruned_folder import load_pruned
from bayesprune.data.sets import load_data
from bayesprune.runs.run_folder import SUMMARY_FILE, load_run, run_data


@pytest.fixture(scope="module")
def run(made, networks_file, tmp_path_factory):
    """Digits by a prior on rows, which leaves some units of the hidden layer dead."""
    out = tmp_path_factory.mktemp("runs") / "rows"
    made(
        "fit", "--data", "digits", "--network", f"{networks_file}:small", "--prior", "spike-and-slab",
        "--set", "level=output", "--set", "expected_density=0.3", "--on", "1.weight", "--epochs", 3, "--restarts", 2,
        "--learning-rate", 0.01, "--quiet", "--out", out,
    )  # fmt: skip
    return out


@pytest.fixture(scope="module")
def pruned(made, run, tmp_path_factory):
    """The run pruned, with zeros in place."""
    out = tmp_path_factory.mktemp("pruned") / "zeros"
    made("prune", run, "--min-inclusion", 0.5, "--quiet", "--out", out)
    return out


@pytest.fixture(scope="module")
def compact(made, run, tmp_path_factory):
    """The run pruned in the same way, and compacted."""
    out = tmp_path_factory.mktemp("pruned") / "compact"
    made("prune", run, "--min-inclusion", 0.5, "--compact", "--quiet", "--out", out)
    return out


@pytest.fixture(scope="module")
def regression(made, networks_file, tmp_path_factory):
    """A regression on four features of unlike units, in a file of data."""
    folder = tmp_path_factory.mktemp("regression")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(120, 4)) * np.array([1.0, 10.0, 100.0, 0.1]) + np.array([0.0, 5.0, 1000.0, 0.0])
    np.savez(folder / "numbers.npz", x=x, y=x[:, 0] + 0.1 * x[:, 1])
    made(
        "fit", "--data", folder / "numbers.npz", "--network", f"{networks_file}:regression", "--prior", "gaussian",
        "--epochs", 3, "--quiet", "--out", folder / "run",
    )  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def inputs(run, tmp_path_factory):
    """A file of standardised inputs: the test data of the run."""
    file = tmp_path_factory.mktemp("inputs") / "test.npy"
    np.save(file, run_data(run).test[0].numpy())
    return file


def expected(run, restart=0, draws=32):
    return load_run(run, trust_code=True).predict(run_data(run).test[0], draws, restart)


def dense_probabilities(folder, x):
    """Those of the network with zeros, by its state dict alone."""
    weights = load_file(folder / "weights.safetensors")
    hidden = torch.relu(x.flatten(1) @ weights["1.weight"].T + weights["1.bias"])
    return (hidden @ weights["3.weight"].T + weights["3.bias"]).softmax(1).numpy()


# -- what works ------------------------------------------------------------------------------------------------


def test_a_run_predicts_by_its_draws(command, run, inputs, tmp_path):
    out = tmp_path / "p.npz"
    code, said, err = command("predict", run, "--input", inputs, "--out", out)
    assert (code, err) == (0, "")
    assert said.count("\n") == 1 and "359 predictions by 32 draws of the weights" in said
    assert "taken as standardised" in said and f"written to {out}: mean, sd, class" in said
    found, prediction = np.load(out), expected(run)
    assert set(found) == {"mean", "sd", "class"} and found["class"].dtype == np.int64
    np.testing.assert_allclose(found["mean"], prediction.mean.numpy(), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(found["sd"], prediction.sd.numpy(), rtol=1e-4, atol=1e-6)
    np.testing.assert_array_equal(found["class"], found["mean"].argmax(axis=1))
    np.testing.assert_allclose(found["mean"].sum(axis=1), 1.0, rtol=1e-5)
    accuracy = float((found["class"] == run_data(run).test[1].numpy()).mean())
    assert accuracy == json.loads((run / SUMMARY_FILE).read_text())["per_restart"][0]["test_accuracy"]
    assert found["sd"].max() > 1e-3


def test_draws_restart_and_batch_size_are_passed_on(command, run, inputs, tmp_path):
    arguments = ("predict", run, "--input", inputs, "--draws", 3, "--restart", 1, "--batch-size", 7, "--quiet")
    assert command(*arguments, "--out", tmp_path / "p.npz") == (0, "", "")
    found = np.load(tmp_path / "p.npz")["mean"]
    np.testing.assert_allclose(found, expected(run, 1, 3).mean.numpy(), rtol=1e-5, atol=1e-6)
    assert np.abs(found - expected(run, 0, 3).mean.numpy()).max() > 1e-3  # control


def test_a_csv_file_has_the_same_numbers(command, run, inputs, tmp_path):
    for name in ("p.csv", "p.npz"):
        assert command("predict", run, "--input", inputs, "--draws", 2, "--out", tmp_path / name)[0] == 0
    with (tmp_path / "p.csv").open(newline="") as stream:
        header, *rows = csv.reader(stream)
    numbers = range(10)
    assert header == ["class", *(f"mean_{i}" for i in numbers), *(f"sd_{i}" for i in numbers)]
    arrays = np.load(tmp_path / "p.npz")
    table = np.array(rows, dtype=np.float32)
    np.testing.assert_array_equal(table[:, 0], arrays["class"])
    np.testing.assert_array_equal(table[:, 1:], np.concatenate([arrays["mean"], arrays["sd"]], axis=1))


def test_a_pruned_network_predicts_without_a_spread(command, pruned, inputs, run, tmp_path):
    code, said, err = command("predict", pruned, "--input", inputs, "--out", tmp_path / "p.npz")
    assert (code, err) == (0, "") and "by the pruned network" in said and said.endswith("mean, class\n")
    found = np.load(tmp_path / "p.npz")
    assert set(found) == {"mean", "class"}
    x = run_data(run).test[0]
    np.testing.assert_allclose(found["mean"], dense_probabilities(pruned, x), rtol=1e-4, atol=1e-6)
    assert np.abs(found["mean"] - expected(run).mean.numpy()).max() > 1e-3  # control: the run says something else


def test_a_compact_network_predicts_as_the_one_with_zeros(command, compact, inputs, run, tmp_path, monkeypatch):
    monkeypatch.setattr("bayesprune.commands.pruned_folder.WEIGHTS_FILE", "none")  # the one with zeros is not read
    code, said, err = command("predict", compact, "--input", inputs, "--out", tmp_path / "p.npz")
    assert (code, err) == (0, "") and "by the compact network" in said
    found = np.load(tmp_path / "p.npz")["mean"]
    np.testing.assert_allclose(found, dense_probabilities(compact, run_data(run).test[0]), rtol=1e-4, atol=1e-6)
    network, likelihood = load_pruned(compact, trust_code=True)
    left = json.loads((compact / SUMMARY_FILE).read_text())["compact_units"]["1"]["left"]
    assert tuple(network[1].weight.shape) == (left, 64) and left < 20 and likelihood.name == "categorical"


def test_code_in_the_folder_is_not_run(command, compact, inputs, tmp_path, capsys):
    copied = shutil.copytree(compact, tmp_path / "p")
    (copied / "network.py").write_text(f"open({str(tmp_path / 'was run')!r}, 'w')\n")
    assert command("predict", copied, "--input", inputs, "--out", tmp_path / "p.npz")[0] == 0
    summary = json.loads((copied / SUMMARY_FILE).read_text())
    summary["network"] = f"{copied / 'network.py'}:Network"
    (copied / SUMMARY_FILE).write_text(json.dumps(summary))
    assert cli.run(["predict", str(copied), "--input", str(inputs), "--out", str(tmp_path / "q.npz")]) == 2
    assert f"'Network' of the file {copied / 'network.py'}, code that would be run" in capsys.readouterr().err
    assert not (tmp_path / "was run").exists()


def test_bytes_are_scaled_as_the_training_data_were(command, run, pruned, inputs, tmp_path):
    images = load_digits().images.astype(np.uint8)[:50]  # (50, 8, 8), from 0 to 16
    np.save(tmp_path / "bytes.npy", images)
    np.save(tmp_path / "raw.npy", images[:, None].astype(np.float64))
    splits = run_data(run)
    scaled = (torch.from_numpy(images[:, None] / 16.0) - splits.mean.double()) / splits.sd.double()
    reference = load_run(run, trust_code=True).predict(scaled).mean.numpy()
    for name, more in (("bytes", ()), ("raw", ("--raw",))):
        code, said, err = command(
            "predict", run, "--input", tmp_path / f"{name}.npy", *more, "--out", tmp_path / f"{name}.npz"
        )
        assert (code, err) == (0, "") and "scaled as the training data were" in said
        np.testing.assert_allclose(np.load(tmp_path / f"{name}.npz")["mean"], reference, rtol=1e-4, atol=1e-6)
    code, said, _ = command("predict", pruned, "--input", tmp_path / "bytes.npy", "--out", tmp_path / "p.npz")
    probabilities = dense_probabilities(pruned, scaled.float())
    np.testing.assert_allclose(np.load(tmp_path / "p.npz")["mean"], probabilities, rtol=1e-4, atol=1e-6)
    # Control: taken as standardised they give something else, and a note says that they do not look it.
    code, said, _ = command("predict", run, "--input", tmp_path / "raw.npy", "--out", tmp_path / "unscaled.npz")
    assert code == 0 and "note: the root mean square of the inputs is 7." in said and "--raw" in said
    assert np.abs(np.load(tmp_path / "unscaled.npz")["mean"] - reference).max() > 0.1


def test_a_regression_has_no_class(command, regression, tmp_path, made):
    data = np.load(regression / "numbers.npz")
    np.save(tmp_path / "x.npy", data["x"])
    splits = load_data(regression / "numbers.npz")
    x = (torch.from_numpy(data["x"]) - splits.mean.double()) / splits.sd.double()
    reference = load_run(regression / "run", trust_code=True).predict(x)
    for name in ("p.npz", "p.csv"):
        code, _, err = command(
            "predict", regression / "run", "--input", tmp_path / "x.npy", "--raw", "--out", tmp_path / name
        )
        assert (code, err) == (0, "")
    found = np.load(tmp_path / "p.npz")
    assert set(found) == {"mean", "sd", "lower", "upper"} and found["mean"].shape == (120,)
    np.testing.assert_allclose(found["mean"], reference.mean.numpy(), rtol=1e-4, atol=1e-4)
    assert (tmp_path / "p.csv").read_text().splitlines()[0] == "mean_0,sd_0,lower_0,upper_0"
    made("prune", regression / "run", "--sparsity", 0.5, "--compact", "--quiet", "--out", tmp_path / "pruned")
    made("predict", tmp_path / "pruned", "--input", tmp_path / "x.npy", "--raw", "--quiet", "--out", tmp_path / "q.csv")
    assert (tmp_path / "q.csv").read_text().splitlines()[0] == "mean_0,lower_0,upper_0"


@pytest.mark.parametrize("kind", ["digits", "bytes", "features"])
def test_scaling_gives_the_inputs_that_training_had(tmp_path, kind):
    generator = np.random.default_rng(1)
    if kind == "digits":
        raw, name = load_digits().images[:, None], "digits"
    else:
        raw = generator.integers(0, 256, size=(40, 3, 5, 5), dtype=np.uint8) if kind == "bytes" else None
        raw = generator.normal(size=(40, 4)) * [1, 5, 9, 0] + 3 if raw is None else raw
        name = str(tmp_path / "data.npz")
        np.savez(name, x=raw, y=np.arange(40) % 2)
    splits = load_data(name)
    scaled = scaled_like_training(raw, json.loads(json.dumps(input_scaling(splits)))).astype(np.float32)
    rows = {row.tobytes() for row in scaled.round(3) + 0.0}
    trained = np.concatenate([part[0].numpy() for part in (splits.train, splits.validation, splits.test)])
    assert len(trained) == len(raw) and all(row.tobytes() in rows for row in trained.round(3) + 0.0)


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("array", "parts"),
    [
        (np.zeros((4, 1, 8, 9)), ("shape (4, 1, 8, 9)", "(n, 1, 8, 8) is expected")),
        (np.zeros((1, 8, 8)), ("x[None]",)),
        (np.zeros((0, 1, 8, 8)), ("n at least 1",)),
        (np.full((2, 1, 8, 8), np.nan), ("128 NaN or infinite",)),
        (np.zeros((2, 1, 8, 8), dtype=complex), ("complex128", "real numbers")),
        (np.full((2, 1, 8, 8), "a"), ("real numbers are expected",)),
    ],
)
def test_arrays_that_do_not_fit_are_told(refused, run, tmp_path, array, parts):
    np.save(tmp_path / "x.npy", array)
    refused(("predict", run, "--input", tmp_path / "x.npy", "--out", tmp_path / "p.npz"), "x.npy", *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["x.npy"]


def test_files_that_are_no_arrays_are_told(refused, run, inputs, tmp_path):
    np.savez(tmp_path / "several.npy", x=np.zeros(3))
    shutil.move(tmp_path / "several.npy.npz", tmp_path / "several.npy")
    (tmp_path / "text.npy").write_text("1, 2, 3")
    (tmp_path / "cut.npy").write_bytes(inputs.read_bytes()[:500])
    (tmp_path / "empty.npy").write_bytes(b"")
    np.save(tmp_path / "objects.npy", np.array([{}, {}], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(tmp_path / "zip.npy", "w") as archive:
        archive.writestr("x", "y")
    names = sorted(path.name for path in tmp_path.iterdir())
    assert len(names) == 6
    for name in names:
        message = ("predict", run, "--input", tmp_path / name, "--out", tmp_path / "p.npz")
        refused(message, name, "cannot be read as a .npy file of numbers")
    refused(("predict", run, "--input", tmp_path / "none.npy", "--out", tmp_path / "p.npz"), "there is no file")
    assert sorted(path.name for path in tmp_path.iterdir()) == names


def test_wrong_usage_is_told(refused, run, pruned, regression, inputs, tmp_path):
    out = tmp_path / "p.npz"
    refused(("predict", run, "--input", inputs, "--out", tmp_path / "p.txt"), "takes a file .npz or .csv, not p.txt")
    refused(("predict", run, "--input", inputs, "--out", inputs), "takes a file .npz or .csv")
    refused(("predict", run, "--input", inputs, "--out", tmp_path / "none" / "p.npz"), "there is no folder")
    refused(("predict", run, "--input", inputs, "--out", out, "--draws", 0), "draws must be at least 1")
    refused(("predict", run, "--input", inputs, "--out", out, "--batch-size", 0), "--batch-size must be at least 1")
    refused(("predict", run, "--input", inputs, "--out", out, "--restart", 2), "there is no restart 2")
    for option in ("--draws", "--restart"):
        refused(("predict", pruned, "--input", inputs, "--out", out, option, 1), "leave --draws and --restart out")
    refused(("predict", tmp_path / "none", "--input", inputs, "--out", out), "there is no folder")
    refused(("predict", tmp_path, "--input", inputs, "--out", out), "neither a run folder nor one of a pruned network")
    np.save(tmp_path / "bytes.npy", np.zeros((3, 4), dtype=np.uint8))
    message = ("predict", regression / "run", "--input", tmp_path / "bytes.npy", "--out", out)
    refused(message, "were no images of bytes", "--raw")
    out.write_text("mine")
    refused(("predict", run, "--input", inputs, "--out", out), "exists already", "--out")
    assert out.read_text() == "mine" and len(list(tmp_path.iterdir())) == 2


@pytest.mark.parametrize("name", ["summary.json", "plan.json", "compact.safetensors"])
def test_a_damaged_folder_is_told(refused, compact, inputs, tmp_path, name):
    copied = shutil.copytree(compact, tmp_path / "p")
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    refused(("predict", copied, "--input", inputs, "--out", tmp_path / "p.npz"), name, "damaged")
    (copied / name).unlink()
    refused(("predict", copied, "--input", inputs, "--out", tmp_path / "p.npz"), name)


def without_digests(folder):
    """As a folder of an earlier version."""
    found = json.loads((folder / "summary.json").read_text())
    del found["digests"]
    (folder / "summary.json").write_text(json.dumps(found))
    return folder


def test_a_file_that_was_written_over_is_told(command, refused, compact, inputs, tmp_path):
    other = shutil.copytree(compact, tmp_path / "p")
    state = load_file(other / "compact.safetensors")
    save_file({key: value + 1 for key, value in state.items()}, other / "compact.safetensors")
    arguments = ("predict", other, "--input", inputs, "--out", tmp_path / "p.npz")
    refused(arguments, "compact.safetensors", "not what was written")
    assert command(*map(str, ("predict", without_digests(other), *arguments[2:])))[0] == 0  # as in earlier versions


@pytest.mark.parametrize("compacted", [False, True])
def test_weights_that_are_not_finite_are_refused_with_the_files_name(refused, compact, inputs, tmp_path, compacted):
    other = without_digests(shutil.copytree(compact, tmp_path / "p"))
    if not compacted:
        found = json.loads((other / "summary.json").read_text())
        (other / "summary.json").write_text(json.dumps(found | {"compact_parameters": None}))
    file = other / ("compact.safetensors" if compacted else "weights.safetensors")
    for wrong in (float("nan"), float("inf")):
        state = load_file(file)
        next(iter(state.values())).view(-1)[0] = wrong
        save_file(state, file)
        refused(("predict", other, "--input", inputs, "--out", tmp_path / "p.npz"), str(file), "holds NaN or infinity")
    assert not (tmp_path / "p.npz").exists()


def test_predictions_that_are_not_finite_are_refused(refused, pruned, inputs, tmp_path):
    x = np.load(inputs).astype(np.float64)
    x[2] = 1e300  # finite, but not in the dtype of the network
    np.save(tmp_path / "x.npy", x)
    arguments = ("predict", pruned, "--input", tmp_path / "x.npy", "--out", tmp_path / "p.npz")
    refused(arguments, "NaN or infinity for 1 of", "x.npy")
    assert not (tmp_path / "p.npz").exists()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("rule", 3), ("network", None), ("input_shape", 64), ("input_shape", ["a"]), ("outputs", "10"),
        ("likelihood", []), ("input_scaling", 1), ("compact_parameters", "x"), ("width", []), ("digests", 3),
    ],
)  # fmt: skip
def test_wrongly_typed_values_are_told(refused, compact, inputs, tmp_path, key, value):
    other = shutil.copytree(compact, tmp_path / "p")
    found = json.loads((other / "summary.json").read_text())
    (other / "summary.json").write_text(json.dumps(found | {key: value}))
    arguments = ("predict", other, "--input", inputs, "--raw", "--out", tmp_path / "p.npz")
    refused(arguments, "summary.json is damaged", key)


def test_files_that_do_not_fit_each_other_are_told(refused, compact, pruned, inputs, tmp_path):
    other = without_digests(shutil.copytree(compact, tmp_path / "p"))
    state = load_file(other / "compact.safetensors")
    name = next(key for key in state if state[key].ndim == 2)
    save_file({**state, name: state[name][:, :-1].contiguous()}, other / "compact.safetensors")
    refused(("predict", other, "--input", inputs, "--out", tmp_path / "p.npz"), name, "do not fit each other")
    save_file({key: value for key, value in state.items() if key != name}, other / "compact.safetensors")
    refused(("predict", other, "--input", inputs, "--out", tmp_path / "p.npz"), name, "do not fit each other")
    plan = json.loads((other / "plan.json").read_text())
    plan["tensors"]["1.weight"]["shape"] = [21, 64]
    (other / "plan.json").write_text(json.dumps(plan))
    refused(("predict", other, "--input", inputs, "--out", tmp_path / "p.npz"), "plan is of another network")
    half = without_digests(shutil.copytree(pruned, tmp_path / "q"))
    save_file({"1.weight": torch.zeros(3)}, half / "weights.safetensors")
    refused(("predict", half, "--input", inputs, "--out", tmp_path / "p.npz"), "do not fit each other")


def test_a_disk_that_is_full_leaves_nothing(command, run, inputs, tmp_path, monkeypatch):
    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bayesprune.commands.predicting._write_csv", fail)
    code, _, err = command("predict", run, "--input", inputs, "--draws", 1, "--out", tmp_path / "p.csv")
    assert code == 1 and "No space left on device" in err and list(tmp_path.iterdir()) == []


def test_help_has_an_example_and_says_how_inputs_are_scaled(command):
    code, out, err = command("predict", "--help")
    assert (code, err) == (0, "")
    assert "Example:\n    bayesprune predict" in out and "standardised" in " ".join(out.split())


# ---------------------------------------------------------------------------------------- predictions that are numbers


@pytest.mark.parametrize("kind", ["run", "pruned", "compact"])
def test_predictions_that_are_no_numbers_are_refused(request, command, refused, inputs, tmp_path, kind):
    # Finite inputs whose products are beyond float32: the classes of NaN would all be 0.
    folder = request.getfixturevalue(kind)
    x = np.load(inputs).astype(np.float64)[:5]
    np.save(tmp_path / "good.npy", x)
    x[3] = 3e38 * np.sign(x[3] + 0.5)
    np.save(tmp_path / "x.npy", x)
    out = tmp_path / "o.npz"
    file = {"run": "restart-0.safetensors", "pruned": "weights.safetensors", "compact": "compact.safetensors"}[kind]
    given = ("predict", folder, "--input", tmp_path / "x.npy", "--out", out)
    refused(given, str(folder / file), "NaN or infinity for 1 of 5 inputs, the first at index 3", "x.npy")
    assert not out.exists()
    assert command("predict", folder, "--input", tmp_path / "good.npy", "--out", out)[0] == 0  # control


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_damaged_weights_predict_nothing(pruned, refused, inputs, tmp_path, value):
    copied = shutil.copytree(pruned, tmp_path / "p")
    state = load_file(copied / "weights.safetensors")
    next(iter(state.values())).view(-1)[0] = value
    save_file(state, copied / "weights.safetensors")
    refused(("predict", copied, "--input", inputs, "--out", tmp_path / "o.npz"), str(copied / "weights.safetensors"))
    assert not (tmp_path / "o.npz").exists()


@pytest.mark.parametrize(
    "scaling", [None, {}, {"divisor": 0, "mean": [0.0], "sd": [1.0]}, {"divisor": 1, "mean": [0.0], "sd": [0.0]},
                {"divisor": 1, "mean": ["x"], "sd": [1.0]}, {"divisor": 1, "mean": [0.0, 1.0], "sd": [1.0, 1.0]},
                {"divisor": 10**400, "mean": [0.0], "sd": [1.0]}]
)  # fmt: skip
def test_a_damaged_scaling_of_inputs_is_told(pruned, refused, inputs, tmp_path, scaling):
    copied = shutil.copytree(pruned, tmp_path / "p")
    summary = json.loads((copied / SUMMARY_FILE).read_text())
    (copied / SUMMARY_FILE).write_text(json.dumps({**summary, "input_scaling": scaling}))
    given = ("predict", copied, "--raw", "--input", inputs, "--out", tmp_path / "o.npz")
    refused(given, SUMMARY_FILE, "input_scaling", "make the folder again")
