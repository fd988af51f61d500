"""`--prior unit-gates` on the command line: fitted, shown, pruned, compared; and `--width`."""

from __future__ import annotations

import inspect
import json
import re
import shutil
import warnings
from pathlib import Path

import numpy as np
import pytest

import bayesprune as bp
from bayesprune.cli import app as cli
from bayesprune.inference.watching import trace_file
from bayesprune.inference.watching.trace_file import read_trace
from bayesprune.models.priors.ready import PRIORS
from bayesprune.runs import run_folder
from bayesprune.runs.declaration import Declaration, resolve_prior
from bayesprune.runs.run_folder import load_run, read_summary, run_data

ROOT = Path(__file__).parents[3]
WIDTH = 0.1  # 30 and 10 units
RESIDUAL = """
from torch import nn

class Residual(nn.Module):
    def __init__(self, input_shape, outputs):
        super().__init__()
        self.first, self.last = nn.Linear(input_shape[0], 8), nn.Linear(8, outputs)
        self.branch = nn.Sequential(nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 8))

    def forward(self, x):
        x = self.first(x).relu()
        return self.last(x + self.branch(x))
"""


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Three classes that depend on three of six inputs: a few units are enough."""
    generator = np.random.default_rng(0)
    y = np.arange(150) % 3
    file = tmp_path_factory.mktemp("data") / "labels.npz"
    np.savez(file, x=generator.normal(size=(150, 6)) + 3.0 * np.eye(3, 6)[y], y=y)
    return file


@pytest.fixture(autouse=True)
def few_draws(monkeypatch):
    monkeypatch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 2)


def fit_arguments(data, out, *more, settings=("kappa=0.015",), epochs=2):
    arguments = ["fit", "--data", data, "--prior", "unit-gates", "--width", WIDTH, "--epochs", epochs, "--out", out]
    given = [part for pair in settings for part in ("--set", pair)]
    return [*arguments, *given, "--batch-size", 32, "--learning-rate", 0.01, "--device", "cpu", "--quiet", *more]


@pytest.fixture(scope="module")
def run(data, made, tmp_path_factory):
    """A run with two restarts, made once; nothing may change it."""
    out = tmp_path_factory.mktemp("runs") / "units"
    gating = ("--gating", "step=1.2", "--gating", "patience=2", "--gating", "round_at=0.9", "--gating", "delay=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # that a layer of the second restart may have closed altogether
        of_gates = ("kappa=0.015", "weight_scale=0.3")
        made(*fit_arguments(data, out, "--restarts", 2, *gating, settings=of_gates, epochs=20))
    return out


SLOW_GATES = ("--gating", "step=0.001", "--gating", "round_at=null")
"""So that no gate closes in a fit of a few steps."""


# ------------------------------------------------------------------------------------------------ fit


def test_the_summary_counts_units_and_weights_of_the_network_as_it_was_declared(run):
    found, fit = read_summary(run), load_run(run, trust_code=True)
    assert found["width"] == WIDTH and found["on"] == [] and found["guide"] == "map" and found["branches"] == {}
    assert (
        found["gating_settings"] == {"step": 1.2, "patience": 2, "round_at": 0.9, "delay": 0}
        and len(found["gating"]) == 2
    )
    assert {name: row["of"] for name, row in found["units"].items()} == {"fc1": 30, "fc2": 10}
    for name, row in found["units"].items():
        module = fit.model.network.get_submodule(name)
        assert row["left"] == len(module.weight) == int((fit.unit_inclusion()[name] > 0.5).sum())
        assert 0 < row["left"] < row["of"]  # something went, not everything
    one, two = (row["left"] for row in found["units"].values())
    assert found["weights"] == 6 * 30 + 30 * 10 + 10 * 3
    assert found["nonzero"] == found["median_probability_nonzero"] == 6 * one + one * two + two * 3
    assert found["median_probability_sparsity"] == found["sparsity"] == 1 - found["nonzero"] / found["weights"] > 0
    assert found["undecided"] == 0.0


def test_every_key_of_its_summary_is_documented(run):
    documented = set(re.findall(r"`([a-z_0-9]+)`", (ROOT / "docs" / "run_folder.md").read_text()))
    found = read_summary(run)
    assert {*found, *found["gating"][0], *found["units"]["fc1"]} <= documented
    assert set(found) <= set(re.findall(r"[a-z_0-9]+", run_folder.__doc__))
    assert "no_such_key" not in documented  # control


def test_a_run_is_read_back_as_the_same_fit(run):
    fit, found, (x, y) = load_run(run, trust_code=True), read_summary(run), run_data(run).test
    for number, row in enumerate(found["per_restart"]):
        assert fit.score(x, y, restart=number)["nll"] == pytest.approx(row["test_nll"], rel=1e-6)
    assert found["per_restart"][0]["test_nll"] != found["per_restart"][1]["test_nll"]  # control


def test_its_settings_are_those_of_unit_gates():
    by_name = {**inspect.signature(bp.UnitGates).parameters, **inspect.signature(bp.CostPressure).parameters}
    by_name |= {"cost_macs": by_name["macs"], "cost_layers": inspect.signature(bp.CostPressure).parameters["layers"]}
    by_name["layers"] = inspect.signature(bp.UnitGates).parameters["layers"]
    settings = PRIORS["unit-gates"].settings
    assert set(inspect.signature(bp.UnitGates).parameters) <= set(settings)
    assert {name: by_name[name].default for name in settings} == settings
    given = {"cost": 0.2, "cost_macs": 0.5, "cost_layers": 0.3, "layers": True, "start": 0.5, "weight_scale": 0.7}
    expected = bp.UnitGates(cost=bp.CostPressure(0.2, 0.5, 0.3), layers=True, start=0.5, weight_scale=0.7)
    assert resolve_prior("unit-gates", given, data_size=1).config == expected.config
    assert resolve_prior("unit-gates", {**given, "cost_macs": 0.6}, data_size=1).config != expected.config  # control


@pytest.mark.parametrize(
    "settings",
    [("log_gamma=2", "estimator=exact-toggle"), ("cost=1", "cost_macs=0.5"), ("probability=0.2",), ("beta=[1, 5]",)],
)
def test_every_price_of_a_unit_can_be_given(data, command, tmp_path, settings):
    assert command(*fit_arguments(data, tmp_path / "run", *SLOW_GATES, settings=settings)) == (0, "", "")
    key, _, value = settings[0].partition("=")
    assert read_summary(tmp_path / "run")["prior_settings"][key] == json.loads(value)
    assert load_run(tmp_path / "run", trust_code=True).model.gates is not None


def test_another_guide_of_the_weights_is_named(data, command, tmp_path):
    assert command(*fit_arguments(data, tmp_path / "run", "--guide", "meanfield", *SLOW_GATES))[0] == 0
    assert read_summary(tmp_path / "run")["guide"] == "meanfield"


def test_the_fused_execution_ends_as_the_plain_one(data, command, tmp_path):
    ends = {}
    for execution, seed in (("plain", 0), ("fused", 0), ("plain", 1)):
        out = tmp_path / f"{execution}-{seed}"
        more = ("--execution", execution, "--seed", seed, *SLOW_GATES)
        assert command(*fit_arguments(data, out, *more)) == (0, "", "")
        ends[execution, seed] = read_summary(out)["execution"], read_summary(out)["per_restart"][0]["test_nll"]
    assert [end[0]["fused_steps"] for end in ends.values()] == [0, 6, 0]  # of 8: the rest of an epoch is no full batch
    assert ends["fused", 0][1] == pytest.approx(ends["plain", 0][1], rel=1e-5)
    assert ends["plain", 1][1] != pytest.approx(ends["plain", 0][1], rel=1e-2)  # the control


def test_layer_gates_are_counted_beside_units(data, command, tmp_path):
    (tmp_path / "residual.py").write_text(RESIDUAL)
    arguments = ["fit", "--data", data, "--prior", "unit-gates", "--set", "kappa=0.001", "--set", "layers=true"]
    arguments += [
        "--network",
        f"{tmp_path / 'residual.py'}:Residual",
        "--epochs",
        1,
        "--quiet",
        "--out",
        tmp_path / "run",
    ]
    assert command(*arguments, *SLOW_GATES)[0] == 0
    found = read_summary(tmp_path / "run")
    assert found["branches"] == {"branch": {"of": 1, "left": 1}}
    assert {name: row["of"] for name, row in found["units"].items()} == {"first": 8, "branch.0": 4}
    code, out, _ = command("show", tmp_path / "run")
    assert code == 0 and "residual branches left: 1 of 1" in out
    assert re.search(r"^rounding +never$", out, flags=re.MULTILINE)


# ------------------------------------------------------------------------------------------------ what comes after


def test_show_says_what_is_left_and_draws_it(run, command, tmp_path):
    copied = shutil.copytree(run, tmp_path / "run")
    code, out, err = command("show", copied, "--plots")
    assert (code, err) == (0, "")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines() if " " in line)
    found, fit = read_summary(run), load_run(run, trust_code=True)
    one, two = (row["left"] for row in found["units"].values())
    assert lines["gates"] == f"units left: fc1 {one} of 30, fc2 {two} of 10"
    assert lines["architecture"] == f"6-30-10-3 -> 6-{one}-{two}-3"
    report = found["gating"][0]
    assert lines["rounding"].startswith(f"at step {report['rounding_step']} of {found['steps']}: {report['interior']} ")
    gone = 40 - one - two
    assert lines["removal"].startswith(f"{gone} gates in {len(report['removals'])} removals, ")
    assert f"{100 * bp.training_costs(fit).ratio:.1f} % of what the whole network" in lines["training"]
    assert lines["restarts"].startswith(f"units 30-10-3 -> {one}-{two}-3; 30-10-3 -> ")
    plots = {path.stem for path in (copied / "plots").iterdir()}
    assert {"gates", "units", "pruning_trace"} <= plots and "inclusion" not in plots


def test_prune_writes_the_network_that_was_left(run, command, tmp_path):
    found, out = read_summary(run), tmp_path / "pruned"
    assert command("prune", run, "--min-inclusion", 0.5, "--compact", "--quiet", "--out", out)[0] == 0
    pruned = json.loads((out / "summary.json").read_text())
    assert pruned["compact_units"] == {
        **found["units"],
        **{k: v for k, v in pruned["compact_units"].items() if k == "fc3"},
    }
    assert pruned["test_nll_after"] == pytest.approx(found["per_restart"][0]["test_nll"], rel=1e-5)
    x = run_data(run).test[0][:5]
    np.save(tmp_path / "x.npy", x.numpy())
    for source in (run, out):
        assert (
            command("predict", source, "--input", tmp_path / "x.npy", "--out", tmp_path / f"{source.name}.npz")[0] == 0
        )
    by_run, by_network = (np.load(tmp_path / f"{source.name}.npz")["mean"] for source in (run, out))
    np.testing.assert_allclose(by_run, by_network, atol=1e-6)
    assert np.ptp(by_network, axis=0).max() > 0.1  # control: predictions differ between examples


def test_compare_has_a_column_of_units(run, data, command, tmp_path):
    other = tmp_path / "dense"
    assert command("fit", "--data", data, "--prior", "gaussian", "--epochs", 1, "--quiet", "--out", other)[0] == 0
    code, out, err = command("compare", run, other)
    assert (code, err) == (0, "")
    left = "-".join(str(row["left"]) for row in read_summary(run)["units"].values())
    rows = [re.split(r" {2,}", line.strip()) for line in out.splitlines()]
    column = rows[0].index("units")
    assert [row[column] for row in rows[2:4]] == [left, "-"]


def test_a_run_in_progress_shows_its_gates(data, command, tmp_path, monkeypatch):
    seen, write = [], trace_file.WriteTrace.on_epoch
    monkeypatch.setattr(trace_file, "SHARE", 1.0)  # every epoch is written

    def on_epoch(watcher, state):
        write(watcher, state)
        if (state.restart, state.epoch) == (1, 2):
            plots = (
                command("show", tmp_path / "run", "--plots"),
                {path.name for path in (watcher.folder / "plots").iterdir()},
            )
            seen.append((plots, read_trace(watcher.folder)))

    monkeypatch.setattr(trace_file.WriteTrace, "on_epoch", on_epoch)
    assert command(*fit_arguments(data, tmp_path / "run", "--restarts", 2, *SLOW_GATES, epochs=3))[0] == 0
    (((code, out, err), plots), trace), final = seen[0], load_run(tmp_path / "run", trust_code=True).trace
    assert (code, err) == (0, "") and {"gates.png", "units.png"} <= plots
    left = trace["units_left"][1].dropna("gate_record", how="all")
    known = left.sizes["gate_record"]
    np.testing.assert_array_equal(left, final["units_left"][1, :known])
    np.testing.assert_array_equal(trace["theta"][1, :known], final["theta"][1, :known])
    assert known < final.sizes["gate_record"]  # control: it was really in progress
    assert "gates        units in the network: fc1 30 of 30, fc2 10 of 10, fc3 3 of 3; 100.0 % of the MACs" in out
    assert "gates lie in (0.02, 0.98)" in out
    assert trace.attrs["dense_macs"] == final.attrs["dense_macs"] == 6 * 30 + 30 * 10 + 10 * 3


# ------------------------------------------------------------------------------------------------ width


def test_the_width_is_kept_with_the_run_and_left_out_by_older_ones(run):
    declared = read_summary(run)
    network = Declaration.from_dict(declared).model().network
    assert network.fc1.weight.shape == (30, 6)
    declared.pop("width")
    assert Declaration.from_dict(declared).model().network.fc1.weight.shape == (300, 6)


def test_a_width_for_a_network_of_ones_own_is_refused(refused, networks_file, tmp_path):
    arguments = ["fit", "--data", "digits", "--prior", "gaussian", "--network", f"{networks_file}:small"]
    refused([*arguments, "--width", 2, "--out", tmp_path / "run"], "--width is for networks that are known by name")


# ------------------------------------------------------------------------------------------------ refusals


@pytest.mark.parametrize(
    ("settings", "more", "sentence"),
    [
        (("kappa=1", "log_gamma=1"), (), "UnitGates takes one of"),
        (("kappa=0",), (), "must be positive, not 0"),
        (("kappa=1", "layers=True"), (), "layers of the prior unit-gates takes true or false, not 'True'"),
        (("kappa=1", "layers=true"), (), "the network has none"),
        (("cost_macs=0.5", "kappa=1"), (), "give its strength too, cost=0.1"),
        (("kapa=1",), (), "did you mean 'kappa'?"),
        (("kappa=1", "estimator=exact"), (), "'exact' is not an estimator"),
        (("kappa=1",), ("--on", "*.weight"), "leave out --on"),
        (
            ("kappa=1", "estimator=exact-toggle"),
            ("--execution", "fused"),
            "that repeat random numbers are no operation",
        ),
        (("kappa=1",), ("--gating", "speed=1"), "--gating knows no 'speed': its settings are travel, "),
        (("kappa=1",), ("--gating", "travel=fast"), "the setting travel of Gating takes a number"),
        (("kappa=1",), ("--gating", "remove=never"), "takes 'epoch', a number of steps or None, not 'never'"),
        (("kappa=1",), ("--gating", "remove"), "--gating takes KEY=VALUE, not 'remove'"),
        (("kappa=1",), ("--prior", "gaussian"), "the prior gaussian has no setting 'kappa'"),
    ],
)
def test_what_cannot_be_is_refused_in_one_line(refused, data, tmp_path, settings, more, sentence):
    refused(fit_arguments(data, tmp_path / "run", *more, settings=settings), sentence)
    assert list(tmp_path.iterdir()) == []


def test_gating_is_refused_for_priors_on_weights(refused, data, tmp_path):
    arguments = ["fit", "--data", data, "--prior", "gaussian", "--gating", "travel=0.1", "--out", tmp_path / "run"]
    refused(arguments, "--gating is about the gates of --prior unit-gates, which gaussian has not")


def test_a_path_is_refused(refused, data, tmp_path):
    arguments = ["path", "--data", data, "--prior", "unit-gates", "--knob", "kappa", "--values", "0.001,0.01"]
    refused([*arguments, "--out", tmp_path / "path"], "networks of different sizes", "--set kappa=0.001")
    assert list(tmp_path.iterdir()) == []


def test_the_list_of_priors_says_how_gates_are_trained(command):
    code, out, _ = command("priors")
    assert code == 0
    assert all(part in out for part in ("unit-gates", "cost_layers=null", "--gating with travel=0.25", "remove=epoch"))
    assert cli.run(["fit", "--help"]) == 0
