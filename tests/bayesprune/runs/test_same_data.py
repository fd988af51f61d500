"""Changed data of the same shape are not taken for those of a fit; seeds and devices are checked where they come in."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from bayesprune.data.sets import DataSplits, load_data
from bayesprune.inference.data.data_sketch import data_sketch
from bayesprune.runs.run_folder import SUMMARY_FILE, run_data
from bayesprune.runs.same_data import check_same_data, scaling_sketch


def write(file, shift=0.0, scale=1.0):
    generator = np.random.default_rng(3)
    x = generator.normal(size=(80, 64))
    y = (x[:, 0] > 0).astype(np.int64)
    x[:, 3] += shift * x[:, 4]
    np.savez(file, x=x * scale, y=y)


@pytest.fixture
def run(tmp_path, made, networks_file):
    """A fit to a file of numbers."""
    write(tmp_path / "data.npz")
    made(
        "fit", "--data", tmp_path / "data.npz", "--network", f"{networks_file}:small", "--prior", "gaussian",
        "--epochs", 1, "--quiet", "--out", tmp_path / "run",
    )  # fmt: skip
    return tmp_path / "run"


def test_changed_data_are_refused_by_what_reads_them(run, tmp_path, command, refused):
    kept = json.loads((run / SUMMARY_FILE).read_text())["data_sketch"]
    assert kept == data_sketch(run_data(run).train)
    np.save(tmp_path / "new.npy", np.zeros((2, 64), np.float32))
    prune = ["prune", run, "--sparsity", 0.5, "--quiet", "--out", tmp_path / "pruned"]
    predict = ["predict", run, "--input", tmp_path / "new.npy", "--raw", "--quiet", "--out", tmp_path / "out.npz"]
    for changed in ({"shift": 1.0}, {"scale": 2.54}):  # the second: once standardised the same, but in other units
        write(tmp_path / "data.npz", **changed)
        for arguments in (prune, predict):
            refused(arguments, "have changed since", "their shape is the same, but not their content")
    write(tmp_path / "data.npz", scale=1.0 + 1e-13)  # a rounding error
    for arguments in (prune, predict):
        code, _, err = command(*arguments)
        assert code == 0, err


def test_runs_of_earlier_versions_are_not_compared(run, tmp_path):
    file = run / SUMMARY_FILE
    found = json.loads(file.read_text())
    del found["data_sketch"], found["scaling_sketch"]
    file.write_text(json.dumps(found))
    write(tmp_path / "data.npz", shift=1.0)
    run_data(run)


def test_it_is_the_training_data_that_are_compared():
    splits = load_data("digits")
    check_same_data({"data_sketch": data_sketch(splits.train)}, splits, "RUN")
    check_same_data({"data_sketch": None}, splits, "RUN")
    x, y = splits.train
    other = DataSplits(**{**vars(splits), "train": (x, torch.roll(y, 1))})
    with pytest.raises(ValueError, match="the data digits have changed since RUN was fitted"):
        check_same_data({"data_sketch": data_sketch(splits.train)}, other, "RUN")


def test_a_path_refuses_changed_data_too(tmp_path, made, refused, networks_file):
    write(tmp_path / "data.npz")
    made(
        "path", "--data", tmp_path / "data.npz", "--network", f"{networks_file}:small", "--prior", "halo",
        "--knob", "kappa", "--values", "1,2", "--epochs", 1, "--restarts", 1, "--quiet", "--out", tmp_path / "path",
    )  # fmt: skip
    write(tmp_path / "data.npz", shift=1.0)
    refused(["prune", tmp_path / "path", "--sparsity", 0.5, "--out", tmp_path / "pruned"], "have changed since")


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--seed", 2**70, "seed is 1180591620717411303424, but an integer from 0 up and below 2**62"),
        ("--seed", -1, "seed is -1"),
        ("--device", "meta", "device 'meta' is not available here"),
    ],
)
def test_a_seed_or_a_device_of_no_use_is_refused_in_a_sentence(option, value, message, tmp_path, refused):
    arguments = ["fit", "--data", "digits", "--network", "lenet-300-100", "--prior", "gaussian", option, value]
    refused([*arguments, "--quiet", "--out", tmp_path / "run"], message)
    assert list(tmp_path.iterdir()) == []


def test_means_that_are_rounding_errors_are_no_change():
    splits = load_data("digits")
    sketch = {"scaling_sketch": scaling_sketch(DataSplits(**{**vars(splits), "mean": 0 * splits.mean + 1e-17}))}
    other = DataSplits(**{**vars(splits), "mean": 0 * splits.mean - 3e-17})
    check_same_data(sketch, other, "RUN")
    with pytest.raises(ValueError, match="have changed"):
        check_same_data(sketch, splits, "RUN")
