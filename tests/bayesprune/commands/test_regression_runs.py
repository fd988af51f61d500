"""Regressions on the command line: standardised inside, with intervals, by several likelihoods."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bayesprune.commands.pruned_folder import load_pruned
from bayesprune.runs.run_folder import load_run, run_data


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    """Targets in units far from 1."""
    folder = tmp_path_factory.mktemp("numbers")
    generator = np.random.default_rng(0)
    x = generator.normal(size=(200, 3))
    np.savez(folder / "numbers.npz", x=x, y=500.0 + 80.0 * x[:, 0] + 20.0 * generator.normal(size=200))
    np.save(folder / "x.npy", x[:7])
    return folder / "numbers.npz"


def arguments(file, networks_file, out, *more):
    network = f"{networks_file}:regression"
    return (
        "fit", "--data", file, "--network", network, "--prior", "gaussian", "--epochs", 30, "--learning-rate", 0.01,
        "--batch-size", 32, "--device", "cpu", "--out", out, *more,
    )  # fmt: skip


@pytest.fixture(scope="module")
def run(made, file, networks_file, tmp_path_factory):
    """A run at the defaults of a regression."""
    out = tmp_path_factory.mktemp("runs") / "run"
    made(*arguments(file, networks_file, out, "--quiet"))
    return out


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_a_run_is_standardised_inside_and_scored_in_the_units_of_the_file(run, command):
    found = summary(run)
    assert found["standardised"]["targets"] is True
    assert found["test_rmse"] < 40.0 and found["nll"] < 5.5 and 10.0 < found["learned_likelihood"]["scale"] < 60.0
    assert 0.7 <= found["test_coverage_90"] <= 1.0 and found["test_coverage_50"] < found["test_coverage_90"]
    assert found["per_restart"][0]["test_coverage_90"] == found["test_coverage_90"]
    assert found["validation_coverage_50"] is not None
    code, out, _ = command("show", run)
    assert code == 0 and "targets standardised inside" in out and "intervals of 50 and 90 % cover" in out
    scale = found["learned_likelihood"]["scale"]
    assert f"normal likelihood (scale {scale:.4g})" in out


def test_the_switch_leaves_the_units_alone(file, networks_file, tmp_path, command):
    code, out, err = command(*arguments(file, networks_file, tmp_path / "plain", "--no-standardise"))
    assert code == 0, err
    found = summary(tmp_path / "plain")
    assert found["standardised"]["targets"] is False and found["test_rmse"] > 100.0  # the control: what it was
    assert not any("data_output" in name for name in load_file(tmp_path / "plain" / "restart-0.safetensors"))


def test_predictions_of_runs_and_of_pruned_networks_have_intervals(run, file, command, refused, tmp_path):
    inputs = file.parent / "x.npy"
    assert command("prune", run, "--sparsity", 0.3, "--compact", "--out", tmp_path / "small")[0] == 0
    for source, keys in ((run, {"mean", "sd", "lower", "upper"}), (tmp_path / "small", {"mean", "lower", "upper"})):
        out = tmp_path / f"{source.name}.npz"
        assert command("predict", source, "--input", inputs, "--raw", "--out", out)[0] == 0
        found = dict(np.load(out))
        assert set(found) == keys
        width = found["upper"] - found["lower"]
        assert (width > 3.2 * summary(run)["learned_likelihood"]["scale"]).all() and (
            abs(found["mean"] - 500) < 400
        ).all()
        narrow = tmp_path / f"{source.name}.csv"
        more = ("--interval", 0.5, "--out", narrow)
        assert command("predict", source, "--input", inputs, "--raw", *more)[0] == 0
        columns = narrow.read_text().splitlines()[0].split(",")
        assert columns[-2:] == ["lower_0", "upper_0"]
        rows = np.loadtxt(narrow, delimiter=",", skiprows=1)
        assert (rows[:, -1] - rows[:, -2] < 0.6 * width).all()
    given = ("predict", run, "--input", inputs, "--raw", "--out", tmp_path / "no.npz")
    refused([*given, "--interval", 90], "--interval is the probability of an interval, in (0, 1), not 90")
    fit = load_run(run, trust_code=True)
    x, _ = run_data(run).test
    network, likelihood = load_pruned(tmp_path / "small", trust_code=True)
    assert likelihood.config() == fit.model.likelihood.learned_config()
    apart = (network(x)[:, 0] - fit.predict(x).mean).detach().square().mean().sqrt()
    assert apart.item() < 40.0
    before = summary(tmp_path / "small")
    assert before["test_coverage_90_before"] == summary(run)["test_coverage_90"] and "test_coverage_90_after" in before


@pytest.mark.parametrize("name", ["student-t", "heteroscedastic-normal"])
def test_other_noise_is_chosen_by_its_name(name, file, networks_file, tmp_path, command):
    code, _, err = command(*arguments(file, networks_file, tmp_path / "run", "--likelihood", name))
    assert code == 0, err
    found = summary(tmp_path / "run")
    assert found["likelihood"]["name"] == name and found["outputs"] == (2 if name.startswith("hetero") else 1)
    assert found["test_rmse"] < 45.0
    assert type(load_run(tmp_path / "run", trust_code=True).model.likelihood).name == name


def test_trained_weights_stay_as_they_are(run, file, networks_file, tmp_path, command):
    state = {
        name.removeprefix("network."): value
        for name, value in load_file(run / "restart-0.safetensors").items()
        if name.startswith("network.") and "data_" not in name
    }
    save_file(state, tmp_path / "weights.safetensors")
    given = arguments(file, networks_file, tmp_path / "run", "--weights", tmp_path / "weights.safetensors")
    assert command(*given)[0] == 0
    done = summary(tmp_path / "run")["standardised"]
    assert done["reason"] == "the network stays as it is" and done["targets"] is False
    assert done["noise"] > 400.0  # for standardised numbers the network was made: it is off by about 500
    given = arguments(file, networks_file, tmp_path / "again", "--weights", tmp_path / "weights.safetensors")
    assert command(*given, "--standardise")[0] == 0
    assert summary(tmp_path / "again")["standardised"]["targets"] is True


def test_weights_of_a_pruned_run_begin_another_one_with_their_units_and_the_noise_of_their_error(
    run, file, networks_file, tmp_path, command, refused
):
    assert command("prune", run, "--sparsity", 0.2, "--out", tmp_path / "pruned")[0] == 0
    weights = tmp_path / "pruned" / "weights.safetensors"
    given = arguments(file, networks_file, tmp_path / "run", "--weights", weights)
    assert command(*given)[0] == 0
    done = summary(tmp_path / "run")["standardised"]
    assert done["reason"] == "the network came with it" and done["targets"] is True
    assert 10.0 < done["noise"] < 60.0 and summary(tmp_path / "run")["test_rmse"] < 40.0
    given = arguments(file, networks_file, tmp_path / "off", "--weights", weights, "--no-standardise")
    assert command(*given)[0] == 0
    done = summary(tmp_path / "off")["standardised"]
    assert done["targets"] is True and done["noise"] is None  # what it came with stays, and nothing is done besides
    damaged = {name: value for name, value in load_file(weights).items() if name != "data_output_factor"}
    save_file(damaged, tmp_path / "damaged.safetensors")
    given = arguments(file, networks_file, tmp_path / "no", "--weights", tmp_path / "damaged.safetensors")
    refused(given, "damaged.safetensors does not fit the network: data_output_shift and data_output_factor go together")


def test_each_of_several_targets_has_its_noise_on_screen_and_in_folders(networks_file, tmp_path, command, refused):
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 3))
    y = x[:, :1] * [80.0, 0.001] + generator.normal(size=(300, 2)) * [20.0, 0.0005] + [500.0, 0.0]
    np.savez(tmp_path / "two.npz", x=x, y=y)
    np.save(tmp_path / "x.npy", x)
    assert command(*arguments(tmp_path / "two.npz", networks_file, tmp_path / "run"))[0] == 0
    wide, narrow = summary(tmp_path / "run")["learned_likelihood"]["scale"]
    assert 10.0 < wide < 60.0 and 1e-4 < narrow < 1e-3
    assert f"(scale {wide:.4g} and {narrow:.4g})" in command("show", tmp_path / "run")[1]
    assert command("prune", tmp_path / "run", "--sparsity", 0.2, "--out", tmp_path / "pruned")[0] == 0
    for folder in ("run", "pruned"):
        out = tmp_path / f"{folder}.npz"
        assert command("predict", tmp_path / folder, "--input", tmp_path / "x.npy", "--raw", "--out", out)[0] == 0
        found = np.load(out)
        inside = ((y >= found["lower"]) & (y <= found["upper"])).mean(axis=0)
        assert ((inside > 0.8) & (inside < 0.99)).all()  # with one noise for both, one of them has them all
    pruned = summary(tmp_path / "pruned")
    for damaged in ([1.0, 2.0, 3.0], [1.0, "a"], [[1.0, 2.0], 3.0], [1.0, -1.0], []):
        pruned["likelihood"]["scale"] = damaged
        (tmp_path / "pruned" / "summary.json").write_text(json.dumps(pruned))
        again = ("predict", tmp_path / "pruned", "--input", tmp_path / "x.npy", "--raw", "--out", tmp_path / "o.npz")
        refused(again, "do not fit each other")


def test_a_damaged_unit_is_told_in_a_sentence(run, tmp_path, refused):
    shutil.copytree(run, tmp_path / "run")
    file = tmp_path / "run" / "restart-0.safetensors"
    state = load_file(file)
    fit = json.loads((tmp_path / "run" / "fit.json").read_text())
    fit["digests"] = {}
    (tmp_path / "run" / "fit.json").write_text(json.dumps(fit))
    for value, words in (
        (None, "go together"),
        (torch.tensor(float("nan")), "holds NaN or infinity in network.data_output_factor"),
    ):
        name = "network.data_output_factor"
        changed = {key: each for key, each in state.items() if key != name}
        save_file(changed if value is None else {**changed, name: value}, file)
        refused(("show", tmp_path / "run"), words)
