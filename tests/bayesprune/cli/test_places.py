"""`~` on the command line: the home folder wherever a path is given, and a name like another where it is not first."""

from __future__ import annotations

import json
import os
import shutil

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

import bayesprune as bp
from bayesprune.models.files.places import expanded
from bayesprune.runs.declaration import Declaration, make_network
from bayesprune.runs.run_folder import load_run, read_summary, run_data


@pytest.fixture(scope="module")
def run(made, networks_file, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    more = ("--network", f"{networks_file}:small", "--prior", "gaussian", "--epochs", 1, "--quiet")
    made("fit", "--data", "digits", *more, "--out", folder)
    return folder


@pytest.fixture
def home(run, tmp_path, monkeypatch):
    home = tmp_path / "home"
    home.mkdir()
    shutil.copytree(run, home / "run")
    (tmp_path / "here").mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    return home


def test_paths_are_expanded_once(home, monkeypatch):
    assert expanded("~/x") == home / "x" and expanded("~") == home
    assert str(expanded("a/~/x")) == "a/~/x" and str(expanded("x")) == "x"
    literal = home.parent / "here" / "~x"
    for path in ("./~x", "~x", literal):  # there is no user x here
        assert expanded(path) == literal == expanded(expanded(path))
    assert expanded("./~/x") == expanded(expanded("./~/x")) == home.parent / "here" / "~" / "x" != expanded("~/x")
    with pytest.raises(ValueError, match="is no path, it holds a zero byte"):
        expanded("a\0b")


def test_the_home_folder_is_meant_at_every_door_of_the_command_line(command, home):
    np.save(home / "x.npy", np.zeros((3, 1, 8, 8)))
    calls = [
        ("prune", "~/run", "--sparsity", 0.5, "--compact", "--out", "~/pruned", "--quiet"),
        ("predict", "~/pruned", "--input", "~/x.npy", "--out", "~/p.npz", "--quiet"),
        ("predict", "~/run", "--input", "~/x.npy", "--out", "~/sub.csv", "--quiet"),
        ("compare", "~/run", "~/run"),
        ("show", "~/run", "--plots"),
    ]
    for arguments in calls:
        assert command(*arguments)[::2] == (0, ""), arguments
    assert sorted(os.listdir(home)) == ["p.npz", "pruned", "run", "sub.csv", "x.npy"]
    assert (home / "run" / "plots" / "pruning_trace.png").is_file() and os.listdir() == []
    assert read_summary("~/run") and load_run("~/run", trust_code=True) and run_data("~/run")


def test_figures_exports_and_data_may_lie_in_the_home_folder(home):
    fit = load_run("~/run", trust_code=True)
    bp.plot_pruning_trace(fit, path="~/trace.svg")
    bp.plot_pruning_trace(fit, path="./~trace.svg")
    bp.export_network(make_network("lenet-300-100", (64,), 10), np_inputs(), "~/export")
    np.savez(home / "data.npz", x=np.eye(20), y=np.arange(20) % 2)
    assert bp.load_data("~/data.npz").classes == 2
    assert {"trace.svg", "export", "data.npz", "run"} == set(os.listdir(home)) and os.listdir() == ["~trace.svg"]


def np_inputs():
    import torch

    return torch.zeros(1, 64)


def test_weights_may_lie_in_the_home_folder_and_have_to_be_finite(home):
    declared = Declaration("lenet-300-100", "gaussian", (64,), 10, 20, "categorical")
    state = declared.model(seed=3).network.state_dict()
    save_file(state, home / "w.safetensors")
    assert declared.model(weights="~/w.safetensors").network.state_dict()["fc1.weight"].equal(state["fc1.weight"])
    state["fc2.bias"][0] = float("nan")
    save_file(state, home / "w.safetensors")
    with pytest.raises(ValueError, match="w.safetensors holds NaN or infinity in fc2.bias: give trained weights"):
        declared.model(weights="~/w.safetensors")
    (home / "w.safetensors").write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="w.safetensors is damaged"):
        declared.model(weights="~/w.safetensors")


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data", 3), ("input_shape", 64), ("input_shape", ["a"]), ("seeds", "0"), ("seeds", [0.5]), ("kinds", [1]),
        ("prior_settings", []), ("likelihood", {}), ("likelihood", "categorical"), ("sparsity", None), ("nll", "x"),
        ("tempered", 1), ("weights", 1.5), ("units", [1]), ("units", {"a": 3}), ("units", {"a": {"of": 1}}),
        ("execution", 3), ("epochs", True), ("point_estimates", None), ("width", "1"),
    ],
)  # fmt: skip
def test_wrongly_typed_values_of_a_summary_are_told(refused, home, key, value):
    file = home / "run" / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), key: value}))
    for arguments in (("show", home / "run"), ("compare", home / "run")):
        refused(arguments, "summary.json is damaged", "fit again, or restore the file")


def test_wrongly_typed_values_inside_a_key_are_told(refused, home):
    file = home / "run" / "summary.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "execution": {"name": 3, "other": []}}))
    refused(("show", home / "run"), "summary.json is damaged", "fit again, or restore the file")


def test_pruned_tensors_have_digests_and_the_users_permissions(command, home):
    assert command("prune", home / "run", "--sparsity", 0.5, "--compact", "--quiet", "--out", home / "p")[0] == 0
    found = json.loads((home / "p" / "summary.json").read_text())["digests"]
    assert found.keys() == {path.name for path in (home / "p").glob("*.safetensors")} and len(set(found.values())) == 3
    mask = os.umask(0)
    os.umask(mask)
    assert {path.stat().st_mode & 0o777 for path in (home / "p").iterdir()} == {0o666 & ~mask}
    assert all(bool(value.isfinite().all()) for value in load_file(home / "p" / "weights.safetensors").values())
