"""Run folders: written whole or not at all, read back as the same fit, and told when they are damaged."""

from __future__ import annotations

import json
import re
import shutil
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import bayesprune.runs.run_folder
from bayesprune.commands.fitting import fit_run
from bayesprune.inference.fit_result import Fit
from bayesprune.models.files.json_file import write_json
from bayesprune.models.files.new_folder import check_new_folder, new_folder
from bayesprune.runs.declaration import Declaration, declare, make_network
from bayesprune.runs.run_folder import (
    SUMMARY_FILE,
    load_run,
    read_summary,
    run_data,
)

ROOT = Path(__file__).parents[3]
NETWORK = (
    "import torch\ndef small(shape, outputs):\n    return torch.nn.Sequential(torch.nn.Linear(shape[0], outputs))\n"
)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    y = np.arange(120) % 3
    np.savez(folder / "data.npz", x=generator.normal(size=(120, 4)) + 2.0 * np.eye(3, 4)[y], y=y)
    (folder / "network.py").write_text(NETWORK)
    return folder


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 10)


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A run with two restarts under a prior whose events are shrinkage, made once."""
    out = tmp_path_factory.mktemp("runs") / "run"
    how = {"epochs": 3, "batch_size": 32, "learning_rate": 0.01, "restarts": 2, "seed": 4}
    fit_run(out, str(files / "data.npz"), f"{files / 'network.py'}:small", "horseshoe", {"tau0": 0.3}, **how)
    return out


def test_every_key_of_the_summary_is_documented(run):
    documentation = (ROOT / "docs" / "run_folder.md").read_text()
    documented = set(re.findall(r"`([a-z0-9_]+)`", documentation))
    in_module = set(re.findall(r"[a-z0-9_]+", bayesprune.runs.run_folder.__doc__))
    keys = set(read_summary(run))
    assert keys <= documented
    assert keys <= in_module
    assert not {"no_such_key"} <= documented | in_module  # control


def test_the_summary_has_the_keys_that_were_promised(run):
    promised = "test_accuracy nll ece weights nonzero sparsity epochs seconds seeds prior guide network data tempered"
    found = read_summary(run)
    assert set(promised.split()) | {"converged", "version"} <= set(found)
    assert found["converged"] in ("converged", "not converged", "cannot tell")
    assert found["seeds"] == [4, 5] and found["kinds"] == ["shrinkage"] and found["tempered"] is False
    assert 0.0 <= found["undecided"] <= 1.0
    assert found["median_probability_sparsity"] == 1 - found["median_probability_nonzero"] / found["weights"]


def test_a_run_is_read_back_as_the_same_fit(run):
    fit, found = load_run(run, trust_code=True), read_summary(run)
    splits = run_data(run)
    for number, row in enumerate(found["per_restart"]):
        scores = fit.score(*splits.test, restart=number)
        assert scores["accuracy"] == row["test_accuracy"]
        assert scores["nll"] == pytest.approx(row["test_nll"], rel=1e-6)
    assert found["nll"] == pytest.approx(np.mean([row["test_nll"] for row in found["per_restart"]]))
    probabilities = fit.inclusion_probabilities()["0.weight"].values
    assert int((probabilities > 0.5).sum()) == found["median_probability_nonzero"]
    assert fit.summary()["weights"] == found["weights"] == 12


def test_loading_leaves_the_random_state_alone(run):
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    load_run(run, trust_code=True)
    assert torch.equal(torch.rand(3), expected)


def test_a_run_of_ready_names_is_a_saved_fit_too(files, tmp_path):
    fit_run(tmp_path / "run", str(files / "data.npz"), "lenet-300-100", "laplace", epochs=1)
    declaration = Declaration.from_dict(read_summary(tmp_path / "run"))
    assert len(Fit.load(tmp_path / "run", model=declaration.model()).restarts) == 1


def test_arviz_reads_its_file(run):
    with xr.open_datatree(run / "arviz.nc", engine="h5netcdf") as tree:
        assert tree["posterior"].sizes["chain"] == 1
    az = import_module("arviz")
    table = az.summary(az.from_netcdf(run / "arviz.nc"), var_names=[".rms"], filter_vars="like")
    assert len(table) and table["r_hat"].astype(float).isna().all()


def test_paths_are_found_from_any_folder(run, files, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = read_summary(run)
    assert Path(found["data"]).is_absolute() and Path(found["network"].rpartition(":")[0]).is_absolute()
    load_run(run, trust_code=True)
    run_data(run)


def test_a_network_that_changed_is_told(run, files, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    (tmp_path / "network.py").write_text(NETWORK)
    write_json(copied / SUMMARY_FILE, {**read_summary(run), "network": f"{tmp_path / 'network.py'}:small"})
    load_run(copied, trust_code=True)  # control: the same network from another file
    (tmp_path / "network.py").write_text(NETWORK.replace("outputs))", "outputs, bias=False))"))
    with pytest.raises(ValueError, match="network of other parameters"):
        load_run(copied, trust_code=True)


# ------------------------------------------------------------------------------------------- whole or not at all


def test_a_folder_gets_its_name_only_when_it_is_full(tmp_path):
    with new_folder(tmp_path / "above" / "new") as folder:
        (folder / "file").write_text("x")
        assert not (tmp_path / "above" / "new").exists()
    assert [path.name for path in (tmp_path / "above").iterdir()] == ["new"]
    assert (tmp_path / "above" / "new" / "file").read_text() == "x"
    assert (tmp_path / "above" / "new").stat().st_mode & 0o777 == (tmp_path / "above").stat().st_mode & 0o777


@pytest.mark.parametrize("problem", [OSError("disk full"), KeyboardInterrupt()])
def test_a_folder_that_is_not_filled_leaves_nothing(tmp_path, problem):
    with pytest.raises(type(problem)), new_folder(tmp_path / "above" / "new") as folder:
        (folder / "file").write_text("x")
        raise problem
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_exists_is_refused_and_left_alone(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for name in ("file", "link", "."):
        with pytest.raises(ValueError, match="exists already"):
            check_new_folder(tmp_path / name)
    with pytest.raises(ValueError, match="exists already"), new_folder(tmp_path / "file"):
        pass
    assert (tmp_path / "file").read_text() == "x"


def test_asking_whether_a_folder_can_be_made_makes_none(tmp_path):
    check_new_folder(tmp_path / "a" / "b" / "c")
    assert list(tmp_path.iterdir()) == []


def test_a_json_file_is_replaced_as_a_whole(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1})
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": 1}
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]


# ------------------------------------------------------------------------------------------------------- damage


@pytest.mark.parametrize("content", ["", "{", "[1, 2]", '{"version": "0.1"}', "\xff\xfe"])
def test_a_damaged_summary_is_told(tmp_path, content):
    (tmp_path / SUMMARY_FILE).write_text(content, encoding="latin-1")
    with pytest.raises(ValueError, match=r"is damaged|no summary of a run") as problem:
        read_summary(tmp_path)
    assert "\n" not in str(problem.value)


def test_a_pruned_folder_is_not_taken_for_a_run(run, tmp_path):
    from bayesprune.commands.pruning import prune_run

    prune_run(run, tmp_path / "pruned", sparsity=0.5, trust_code=True)
    with pytest.raises(ValueError, match="no summary of a run"):
        load_run(tmp_path / "pruned", trust_code=True)


@pytest.mark.parametrize("name", ["fit.json", "restart-1.safetensors", "trace.nc"])
def test_a_file_that_is_gone_is_told(run, tmp_path, name):
    copied = shutil.copytree(run, tmp_path / "run")
    (copied / name).unlink()
    with pytest.raises(ValueError, match=name) as problem:
        load_run(copied, trust_code=True)
    assert "\n" not in str(problem.value)


# -------------------------------------------------------------------------------------------------- declarations


def test_a_declaration_survives_json(files):
    from bayesprune.data.sets import load_data

    made = declare(load_data(files / "data.npz"), "lenet-300-100", "laplace", {"scale": 0.1}, ("fc1.weight",))
    assert Declaration.from_dict(json.loads(json.dumps(made.as_dict()))) == made
    assert list(made.model().priors) == ["fc1.weight"]


def test_the_seed_decides_the_starting_weights(files):
    from bayesprune.data.sets import load_data

    made = declare(load_data(files / "data.npz"), "lenet-300-100", "laplace")
    first, same, other = (made.model(seed).network.fc1.weight for seed in (0, 0, 1))
    assert torch.equal(first, same) and not torch.equal(first, other)


def test_networks_are_made_by_two_arguments_or_none(tmp_path):
    source = "import torch\ndef none():\n    return torch.nn.Linear(2, 2)\nready = none()\nnumber = 3\n"
    source += "def fails(shape, outputs):\n    raise TypeError('no')\n"
    (tmp_path / "net.py").write_text(source)
    for name in ("none", "ready"):
        assert make_network(f"{tmp_path / 'net.py'}:{name}", (2,), 2).out_features == 2
    with pytest.raises(ValueError, match="is of type int"):
        make_network(f"{tmp_path / 'net.py'}:number", (2,), 2)
    with pytest.raises(ValueError, match="cannot be made .TypeError: no"):
        make_network(f"{tmp_path / 'net.py'}:fails", (2,), 2)


def test_labels_and_numbers_ask_for_their_likelihood(files, tmp_path):
    from bayesprune.data.sets import load_data

    np.savez(tmp_path / "numbers.npz", x=np.eye(20), y=np.linspace(0.0, 1.0, 40).reshape(20, 2))
    numbers = load_data(tmp_path / "numbers.npz")
    assert declare(numbers, "lenet-300-100", "laplace").outputs == 2
    with pytest.raises(ValueError, match="numbers, which have no classes: use likelihood 'normal'"):
        declare(numbers, "lenet-300-100", "laplace", likelihood="categorical")
    assert declare(load_data(files / "data.npz"), "lenet-300-100", "laplace").likelihood == "categorical"
