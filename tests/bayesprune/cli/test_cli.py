"""The command line: what it writes, what it says, how it ends."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from bayesprune.cli import app as cli
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.runs.run_folder import SUMMARY_FILE, load_run

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "examples" / "own_prior.py"
TINY = "tiny_network.py"  # in the folder of the test's files


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A folder with a small data set of 3 classes, a regression, and a small network."""
    folder = tmp_path_factory.mktemp("files")
    generator = np.random.default_rng(0)
    y = np.arange(150) % 3
    x = generator.normal(size=(150, 6)) + 3.0 * np.eye(3, 6)[y]
    np.savez(folder / "labels.npz", x=x, y=y)
    np.savez(folder / "numbers.npz", x=x, y=x[:, 0] - x[:, 1] + 0.1 * generator.normal(size=150))
    (folder / TINY).write_text(
        "from bayesprune.models.networks.lenet import lenet_300_100\n"
        "def tiny(input_shape, outputs):\n"
        "    return lenet_300_100(input_shape[0], outputs, hidden=(8,))\n"
        "wrong = lenet_300_100(5, 3, hidden=(8,))\n"
    )
    return folder


@pytest.fixture
def bayesprune(capsys, monkeypatch):
    """Runs the command line in this process, trusting the runs' code: (exit code, standard output, standard error)."""
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 10)  # most tests look at something else

    def call(*arguments):
        trust = ["--trust-code"] if arguments and arguments[0] in ("show", "prune", "predict") else []
        code = cli.run([*(str(argument) for argument in arguments), *trust])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def fit_arguments(files, out, *more, data="labels.npz", prior="spike-and-slab", network="tiny", epochs=2):
    arguments = ["fit", "--data", files / data, "--prior", prior, "--network", f"{files / TINY}:{network}"]
    return [*arguments, "--epochs", epochs, "--batch-size", 32, "--quiet", "--out", out, *more]


@pytest.fixture(scope="module")
def run(files, tmp_path_factory):
    """A run of spike and slab, made once; tests read it, or change a copy."""
    out = tmp_path_factory.mktemp("runs") / "spike"
    arguments = fit_arguments(files, out, "--learning-rate", 0.01, "--set", "slab_sd=0.5", epochs=20)
    assert cli.run([str(argument) for argument in (*arguments, "--kl-warmup", 0.2)]) == 0
    return out


def refused(result, *parts, code=2):
    """Asserts an exit code and one line on standard error that says all of the parts."""
    found, out, err = result
    assert found == code, err
    assert err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1, err
    assert "Traceback" not in out + err
    for part in parts:
        assert part in err
    return err


# ------------------------------------------------------------------------------------------------ what works


def test_a_fit_writes_a_run_folder_and_nothing_else(run):
    names = {"summary.json", "fit.json", "restart-0.safetensors", "trace.nc", "arviz.nc"}
    assert {path.name for path in run.iterdir()} == names
    assert [path.name for path in run.parent.iterdir()] == [run.name]
    found = json.loads((run / SUMMARY_FILE).read_text())
    assert found["prior"] == "spike-and-slab" and found["prior_settings"] == {"slab_sd": 0.5}
    assert found["guide"] == "paired" and found["epochs"] == 20 and found["seeds"] == [0]
    assert found["weights"] == 6 * 8 + 8 * 3
    assert found["test_accuracy"] > 0.8


def test_fit_says_what_it_came_to_and_what_comes_next(bayesprune, files, tmp_path):
    arguments = [a for a in fit_arguments(files, tmp_path / "run", prior="gaussian") if a != "--quiet"]
    code, out, _ = bayesprune(*arguments)
    assert code == 0
    assert "test accuracy" in out and f"next: bayesprune show {tmp_path / 'run'}" in out


def test_quiet_is_quiet(bayesprune, files, tmp_path):
    assert bayesprune(*fit_arguments(files, tmp_path / "run", prior="laplace")) == (0, "", "")


def test_show_prints_the_scores_and_the_layers(bayesprune, run):
    code, out, err = bayesprune("show", run)
    assert (code, err) == (0, "")
    found = json.loads((run / SUMMARY_FILE).read_text())
    for part in ("fc1.weight", "fc2.weight", "spike-and-slab (slab_sd=0.5)", found["converged"]):
        assert part in out
    assert f"accuracy {100 * found['test_accuracy']:.1f} %" in out


def test_show_writes_plots(bayesprune, run, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    code, out, err = bayesprune("show", copied, "--plots")
    assert (code, err) == (0, "")
    plots = {path.name for path in (copied / "plots").iterdir()}
    names = ("pruning_trace", "trajectories", "r_hat", "inclusion", "scales", "prior_posterior", "calibration")
    assert plots == {f"{name}.png" for name in names}
    assert all(path.stat().st_size > 5000 for path in (copied / "plots").iterdir())


def test_prune_to_a_sparsity_writes_a_plain_network(bayesprune, run, files, tmp_path):
    code, out, err = bayesprune("prune", run, "--sparsity", 0.9, "--out", tmp_path / "pruned")
    assert (code, err) == (0, "")
    found = json.loads((tmp_path / "pruned" / SUMMARY_FILE).read_text())
    assert found["nonzero"] == 7 and found["sparsity"] == pytest.approx(65 / 72)
    weights, masks = (load_file(tmp_path / "pruned" / f"{name}.safetensors") for name in ("weights", "masks"))
    assert sum(int(mask.sum()) for mask in masks.values()) == 7
    assert all(bool(((weights[name] != 0) <= (mask == 1)).all()) for name, mask in masks.items())
    plain = lenet_300_100(6, 3, hidden=(8,))
    plain.load_state_dict(weights)  # a plain state dict by parameter names
    from bayesprune.runs.run_folder import run_data

    x, y = run_data(run).test
    with torch.no_grad():
        assert float((plain(x).argmax(1) == y).float().mean()) == pytest.approx(found["test_accuracy_after"])
    assert found["test_accuracy_before"] == json.loads((run / SUMMARY_FILE).read_text())["test_accuracy"]


def test_prune_by_inclusion_gives_the_median_probability_model(bayesprune, run, tmp_path):
    assert bayesprune("prune", run, "--min-inclusion", 0.5, "--out", tmp_path / "pruned")[0] == 0
    found, whole = (json.loads((folder / SUMMARY_FILE).read_text()) for folder in (tmp_path / "pruned", run))
    assert found["nonzero"] == whole["median_probability_nonzero"] == whole["nonzero"]
    assert found["kind"] == "atom"


def test_prune_per_layer_with_a_criterion(bayesprune, run, tmp_path):
    arguments = ("--sparsity", 0.9, "--per", "layer", "--criterion", "magnitude", "--quiet")
    assert bayesprune("prune", run, *arguments, "--out", tmp_path / "pruned") == (0, "", "")
    found = json.loads((tmp_path / "pruned" / SUMMARY_FILE).read_text())
    assert {name: row["nonzero"] for name, row in found["per_tensor"].items()} == {
        "fc1.weight": 5,
        "fc2.weight": 2,
    }


def test_compare_prints_a_row_a_run_and_once_what_is_the_same_in_all(bayesprune, run, files, tmp_path):
    other = tmp_path / "laplace"
    assert bayesprune(*fit_arguments(files, other, prior="laplace"))[0] == 0
    code, out, err = bayesprune("compare", run, other)
    assert (code, err) == (0, "")
    header, rows = out.splitlines()[0].split(), out.splitlines()[2:4]  # a rule between them
    assert header[:2] == ["run", "prior"] and "data" not in header and "rmse" not in header
    assert [row.split()[:2] for row in rows] == [[str(run), "spike-and-slab"], [str(other), "laplace"]]
    assert "in all: data labels.npz, network tiny_network.py:tiny" in out
    assert "unlike kinds (atom, relative) are not comparable" in out


def test_priors_lists_every_prior_with_its_settings(bayesprune):
    from bayesprune.models.priors.ready import PRIORS

    code, out, err = bayesprune("priors")
    assert (code, err) == (0, "")
    for name, entry in PRIORS.items():
        assert name in out
        assert all(setting in out for setting in entry.settings)


def test_data_lists_every_data_set(bayesprune, tmp_path, monkeypatch):
    from bayesprune.data.named_sets import DATASETS

    monkeypatch.setenv("HOME", str(tmp_path))
    code, out, err = bayesprune("data", "--data-root", tmp_path)
    assert (code, err) == (0, "")
    assert all(name in out for name in DATASETS)
    assert "here" in next(line for line in out.splitlines() if "digits, 8 x 8" in line)
    assert "needs a download" in next(line for line in out.splitlines() if "cifar100" in line)


def test_the_prior_of_ones_own_is_fitted_shown_loaded_and_pruned(bayesprune, files, tmp_path):
    out = tmp_path / "student"
    assert bayesprune(*fit_arguments(files, out, prior=f"{EXAMPLE}:student", epochs=10))[0] == 0
    code, text, err = bayesprune("show", out)
    assert (code, err) == (0, "")
    assert "own_prior.py:student" in text
    fit = load_run(out, trust_code=True)
    assert fit.inclusion_probabilities()["fc1.weight"].shape == (8, 6)
    assert bayesprune("prune", out, "--sparsity", 0.8, "--out", tmp_path / "pruned")[0] == 0
    assert json.loads((tmp_path / "pruned" / SUMMARY_FILE).read_text())["nonzero"] == 14  # 72 - round(57.6)


def test_a_regression_takes_a_normal_likelihood(bayesprune, files, tmp_path):
    out = tmp_path / "run"
    assert bayesprune(*fit_arguments(files, out, data="numbers.npz", prior="horseshoe"))[0] == 0
    found = json.loads((out / SUMMARY_FILE).read_text())
    assert found["likelihood"]["name"] == "normal" and found["outputs"] == 1
    assert found["test_rmse"] > 0 and found["test_accuracy"] is None and found["ece"] is None
    assert bayesprune("show", out)[0] == 0
    assert bayesprune("prune", out, "--sparsity", 0.5, "--out", tmp_path / "pruned")[0] == 0
    assert json.loads((tmp_path / "pruned" / SUMMARY_FILE).read_text())["test_rmse_after"] > 0


def test_a_map_counts_exact_zeros_only(bayesprune, files, tmp_path):
    assert bayesprune(*fit_arguments(files, tmp_path / "run", "--guide", "map", prior="halo"))[0] == 0
    found = json.loads((tmp_path / "run" / SUMMARY_FILE).read_text())
    assert found["guide"] == "map" and found["nonzero"] == found["weights"] and found["sparsity"] == 0.0
    assert found["median_probability_sparsity"] is None and found["elbo"] is None


def test_the_constants_of_halos_paper_get_the_size_of_the_data(bayesprune, files, tmp_path):
    settings = ("--set", "xi=1e-5", "--set", "psi=1e-4", "--set", "weight_decay=1e-4", "--optimizer", "sgd")
    assert bayesprune(*fit_arguments(files, tmp_path / "run", *settings, prior="halo-paper"))[0] == 0
    fit = load_run(tmp_path / "run", trust_code=True)
    assert fit.model.patterns["*.weight"].config["arguments"]["data_size"] == fit.model.data_size == 108


def test_restarts_are_scored_one_by_one(bayesprune, files, tmp_path):
    assert bayesprune(*fit_arguments(files, tmp_path / "run", "--restarts", 2, "--seed", 5, prior="gaussian"))[0] == 0
    found = json.loads((tmp_path / "run" / SUMMARY_FILE).read_text())
    assert found["seeds"] == [row["seed"] for row in found["per_restart"]] == [5, 6]
    scores = [row["test_accuracy"] for row in found["per_restart"]]
    assert found["test_accuracy"] == pytest.approx(sum(scores) / 2)
    assert (
        bayesprune("prune", tmp_path / "run", "--sparsity", 0.5, "--restart", 1, "--out", tmp_path / "pruned")[0] == 0
    )
    found = json.loads((tmp_path / "pruned" / SUMMARY_FILE).read_text())
    assert found["test_accuracy_before"] == scores[1]


def test_a_trained_network_is_where_the_fit_starts(bayesprune, files, tmp_path):
    torch.manual_seed(7)
    network = lenet_300_100(6, 3, hidden=(8,))
    save_file(network.state_dict(), tmp_path / "trained.safetensors")
    more = ("--weights", tmp_path / "trained.safetensors", "--learning-rate", 1e-12)
    assert bayesprune(*fit_arguments(files, tmp_path / "run", *more, prior="gaussian", epochs=1))[0] == 0
    kept = load_run(tmp_path / "run", trust_code=True).included_weights()
    for name in ("fc1.weight", "fc2.weight"):
        assert torch.allclose(kept[name], network.get_parameter(name), atol=1e-6)


def test_the_same_seed_gives_the_same_fit(bayesprune, files, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert bayesprune(*fit_arguments(files, tmp_path / name, "--seed", seed, prior="laplace"))[0] == 0
    a, b, c = (load_file(tmp_path / name / "restart-0.safetensors") for name in "abc")
    assert all(torch.equal(a[key], b[key]) for key in a)
    assert not all(torch.equal(a[key], c[key]) for key in a)


def test_settings_are_json_and_then_text():
    from bayesprune.commands.fitting import parse_settings

    given = ["a=0.5", "b=null", "c=weight", "d=[8, 8]", "e=x=y", "f=true"]
    assert parse_settings(given) == {"a": 0.5, "b": None, "c": "weight", "d": [8, 8], "e": "x=y", "f": True}


# ------------------------------------------------------------------------------------------------ bad input


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("--on", "conv*.weight"), ("'conv*.weight' matches no parameter", "fc1.weight")),
        (("--on", "fc1.weight", "--on", "fc?.weight"), ("both match fc1.weight",)),
        (("--prior", "spike-and-slob"), ("did you mean 'spike-and-slab'?", "horseshoe")),
        (
            ("--set", "expected_densty=0.2"),
            ("no setting 'expected_densty'", "did you mean 'expected_density'?", "slab_sd"),
        ),
        (("--set", "expected_density=2"), ("strictly between 0 and 1",)),
        (("--set", "expected_density"), ("--set takes KEY=VALUE",)),
        (("--guide", "map"), ("Bernoulli, which has no delta guide",)),
        (("--guide", "full"), ("guide 'full' is unknown", "meanfield")),
        (("--prior", "gaussian", "--guide", "paired"), ("needs a prior with a gate",)),
        (("--network", "lenet-300"), ("network 'lenet-300' is unknown", "lenet-300-100")),
        (("--network", "lenet-5"), ("needs square images",)),
        (("--network", "no_such_module:net"), ("module no_such_module cannot be imported",)),
        (("--data", "digitz"), ("unknown data", "digits")),
        (("--epochs", 0), ("needs a trained network",)),
        (("--epochs", -1), ("at least 1",)),
        (("--batch-size", 0), ("batch_size must be at least 1",)),
        (("--learning-rate", -1), ("learning_rate must be positive",)),
        (("--optimizer", "adamw"), ("optimizer 'adamw' is unknown",)),
        (("--schedule", "linear"), ("schedule 'linear' is unknown",)),
        (("--precision", "float16"), ("precision 'float16' is unknown",)),
        (("--device", "abacus"), ("device 'abacus' is not available",)),
        (("--likelihood", "cauchy"), ("likelihood 'cauchy' is unknown",)),
        (("--weights", "none.safetensors"), ("there is no file none.safetensors",)),
        (("--seed", -1), ("seed is -1",)),
        (("--epochs", "many"), ("'--epochs'", "See: bayesprune --help")),
        (("--sparsity", 0.5), ("--sparsity",)),
    ],
)
def test_wrong_usage_of_fit_is_told_in_one_line(bayesprune, files, tmp_path, more, parts):
    refused(bayesprune(*fit_arguments(files, tmp_path / "out" / "run", *more)), *parts)
    assert list(tmp_path.iterdir()) == []  # nothing half-written is left, and no folder above it


@pytest.mark.parametrize(
    ("arrays", "parts"),
    [
        (lambda x, y: {"x": np.where(np.arange(6) == 2, np.nan, x), "y": y}, ("NaN",)),
        (lambda x, y: {"x": x, "y": y - 1}, ("labels in y are out of range",)),
        (lambda x, y: {"x": x, "y": y, "x_test": x, "y_test": y + 5}, ("out of range", "0..2")),
        (lambda x, y: {"x": x[:, :5], "y": y[:-1]}, ("150 examples", "149")),
    ],
)
def test_bad_data_is_told_before_training(bayesprune, files, tmp_path, arrays, parts):
    with np.load(files / "labels.npz") as good:
        np.savez(tmp_path / "bad.npz", **arrays(good["x"], good["y"]))
    arguments = fit_arguments(files, tmp_path / "run", "--data", tmp_path / "bad.npz")
    refused(bayesprune(*arguments), "bad.npz", *parts)
    assert [path.name for path in tmp_path.iterdir()] == ["bad.npz"]


def test_a_network_of_another_input_size_is_told(bayesprune, files, tmp_path):
    result = bayesprune(*fit_arguments(files, tmp_path / "run", network="wrong"))
    refused(result, "does not take inputs of shape (6,)")


def test_a_map_that_does_not_exist_is_refused_with_the_remedy(bayesprune, files, tmp_path):
    centred = (
        "import pyro.distributions as dist\nimport bayesprune as bp\n"
        "centred = bp.Hierarchy(lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Normal(0.0, lam))\n"
    )
    (tmp_path / "centred.py").write_text(centred)
    more = ("--guide", "map", "--prior", f"{tmp_path / 'centred.py'}:centred")
    refused(bayesprune(*fit_arguments(files, tmp_path / "run", *more)), "has no MAP", "guide='meanfield'")


def test_an_existing_run_folder_is_left_alone(bayesprune, files, run):
    before = (run / SUMMARY_FILE).read_bytes()
    refused(bayesprune(*fit_arguments(files, run)), "exists already")
    refused(bayesprune("prune", run, "--sparsity", 0.9, "--out", run), "exists already")
    assert (run / SUMMARY_FILE).read_bytes() == before


@pytest.mark.parametrize("place", ["under a file", "/proc/bayesprune"])
def test_a_folder_that_cannot_be_written_is_told_before_training(bayesprune, files, run, tmp_path, place):
    (tmp_path / "file").write_text("")
    out = tmp_path / "file" / "run" if place == "under a file" else Path(place) / "run"
    refused(bayesprune(*fit_arguments(files, out)), str(out), "cannot be written")
    refused(bayesprune("prune", run, "--sparsity", 0.9, "--out", out), str(out), "cannot be written")


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (("--sparsity", 1.5), ("fraction of zeros in [0, 1)",)),
        (("--sparsity", 0.999), ("leaves none of the 72 weights",)),
        (("--sparsity", 0.0), ("already has sparsity", "min_inclusion")),
        (("--min-inclusion", 1.0), ("probability in [0, 1)",)),
        (("--criterion", "magnitude"), ("how weights are ranked", "leave per=, criterion= and")),
        (("--sparsity", 0.9, "--min-inclusion", 0.5), ("one of --sparsity, --share, ",)),
        (("--sparsity", 0.9, "--criterion", "magnitud"), ("criterion 'magnitud' is unknown",)),
        (("--sparsity", 0.9, "--per", "unit"), ("'layer' or 'distribution'",)),
        (("--sparsity", 0.9, "--restart", 3), ("there is no restart 3",)),
    ],
)
def test_wrong_usage_of_prune_is_told_in_one_line(bayesprune, run, tmp_path, more, parts):
    refused(bayesprune("prune", run, *more, "--out", tmp_path / "pruned"), *parts)
    assert list(tmp_path.iterdir()) == []


def test_inclusion_of_a_map_and_the_zeros_that_it_has_not_are_refused(bayesprune, files, tmp_path):
    assert bayesprune(*fit_arguments(files, tmp_path / "run", prior="halo"))[0] == 0
    refused(bayesprune("prune", tmp_path / "run", "--min-inclusion", 0.5, "--out", tmp_path / "pruned"), "a MAP")
    refused(bayesprune("prune", tmp_path / "run", "--out", tmp_path / "pruned"), "none of its 72 weights at zero")


def test_what_is_no_run_folder_is_told(bayesprune, tmp_path):
    for command in (("show",), ("compare",), ("prune", "--sparsity", 0.9, "--out", tmp_path / "pruned")):
        refused(bayesprune(command[0], tmp_path / "none", *command[1:]), "there is no run folder")
        refused(bayesprune(command[0], tmp_path, *command[1:]), "is no run folder: it has no summary.json")


@pytest.mark.parametrize("name", ["summary.json", "fit.json", "restart-0.safetensors", "trace.nc"])
def test_a_truncated_file_is_told(bayesprune, run, tmp_path, name):
    copied = shutil.copytree(run, tmp_path / "run")
    content = (copied / name).read_bytes()
    (copied / name).write_bytes(content[: len(content) // 2])
    refused(bayesprune("show", copied), name, "damaged")


def test_a_custom_prior_that_changed_is_told_on_loading(bayesprune, files, tmp_path):
    file = tmp_path / "own.py"
    file.write_text(EXAMPLE.read_text())
    assert bayesprune(*fit_arguments(files, tmp_path / "run", prior=f"{file}:student"))[0] == 0
    assert bayesprune("show", tmp_path / "run")[0] == 0  # control: unchanged, it loads
    file.write_text(EXAMPLE.read_text().replace("0.01", "0.02"))
    refused(bayesprune("show", tmp_path / "run"), "has changed since", "InverseGamma")
    file.unlink()
    refused(bayesprune("show", tmp_path / "run"), "there is no file")


def test_data_that_changed_since_are_told(bayesprune, files, tmp_path):
    shutil.copy(files / "labels.npz", tmp_path / "data.npz")
    arguments = fit_arguments(files, tmp_path / "run", "--data", tmp_path / "data.npz", prior="gaussian")
    assert bayesprune(*arguments)[0] == 0
    with np.load(tmp_path / "data.npz") as good:
        np.savez(tmp_path / "data.npz", x=good["x"][:-30], y=good["y"][:-30])
    result = bayesprune("prune", tmp_path / "run", "--sparsity", 0.9, "--out", tmp_path / "pruned")
    refused(result, "have changed since", "108")


def test_weights_of_another_network_are_told(bayesprune, files, tmp_path):
    save_file(lenet_300_100(6, 3, hidden=(9,)).state_dict(), tmp_path / "other.safetensors")
    result = bayesprune(*fit_arguments(files, tmp_path / "run", "--weights", tmp_path / "other.safetensors"))
    refused(result, "fc1.weight has shape (9, 6) in the file and (8, 6) in the network")


# ------------------------------------------------------------------------------------------------ failed runs


def test_a_loss_that_is_not_finite_ends_with_1_and_leaves_nothing(bayesprune, files, tmp_path):
    result = bayesprune(*fit_arguments(files, tmp_path / "run", "--learning-rate", 1e30, prior="gaussian"))
    refused(result, "non-finite at step", "lower learning_rate", code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_fails_in_mid_run_ends_with_1_and_the_same_command_goes_on(
    bayesprune, files, tmp_path, monkeypatch
):
    def fail(*_):
        raise OSError(28, "No space left on device")

    arguments = fit_arguments(files, tmp_path / "run", prior="gaussian", epochs=1)
    with monkeypatch.context() as patched:
        patched.setattr("bayesprune.commands.fitting.write_fit", fail)
        result = bayesprune(*arguments)
    refused(
        result, f"{tmp_path / 'run.part' / 'run'} cannot be written (No space left on device)", "make room",
        "keeps the state after epoch 1: the same command goes on there", code=1,
    )  # fmt: skip
    assert [path.name for path in tmp_path.iterdir()] == ["run.part"]
    assert bayesprune(*arguments)[0] == 0
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_an_error_of_the_program_is_one_line_and_debug_shows_where(bayesprune, run, monkeypatch):
    def fail(*_):
        raise ZeroDivisionError("two\nlines")

    monkeypatch.setattr("bayesprune.runs.run_folder.read_summary", fail)
    monkeypatch.setattr("bayesprune.commands.tables.read_summary", fail)
    refused(bayesprune("compare", run), "ZeroDivisionError: two lines", "--debug shows where", code=1)
    for arguments in (("--debug", "compare", run), ("compare", run, "--debug")):
        code, _, err = bayesprune(*arguments)
        assert code == 1
        assert "Traceback" in err and err.rstrip().splitlines()[-1].startswith("error: ZeroDivisionError")


# -------------------------------------------------------------------------------------- help, exit codes


@pytest.mark.parametrize("command", ["fit", "show", "prune", "compare", "priors", "data"])
def test_every_command_has_help_with_an_example(bayesprune, command):
    code, out, err = bayesprune(command, "--help")
    assert (code, err) == (0, "")
    assert f"Example:\n    bayesprune {command}" in out


def test_no_arguments_show_the_help_and_a_wrong_command_is_told(bayesprune):
    assert bayesprune() == bayesprune("--help")
    refused(bayesprune("fitt"), "fitt")
    refused(bayesprune("fit"), "--data")


def test_the_version_is_printed(bayesprune):
    from bayesprune import __version__

    assert bayesprune("--version") == (0, f"bayesprune {__version__}\n", "")


def test_a_process_ends_with_the_code_and_one_line(tmp_path):
    def process(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "bayesprune", *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout, done.stderr

    assert process("compare", "--help")[0] == 0
    refused(process("compare", "none"), "there is no run folder none")
