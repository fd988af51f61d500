"""`bayesprune fit --recipe`: sparse training by name, kept with the run, shown, and pruned as it is left."""

from __future__ import annotations

import json

import pytest
from safetensors.torch import load_file

import bayesprune as bp
from bayesprune.inference.recipes.ready_recipes import RECIPES

WHOLE = 64 * 20 + 20 * 3


@pytest.fixture(scope="session")
def given(data, networks_file):
    """Arguments of a fit by a recipe, less the recipe."""

    def make(out, *more, budget="density=0.1"):
        network = ["--network", f"{networks_file}:small", "--batch-size", 30, "--execution", "plain"]
        asked = [] if budget is None else ["--budget", budget]
        return ["fit", "--data", data, *network, "--epochs", 6, *asked, "--out", out, *more]

    return make


@pytest.fixture(scope="session")
def run(given, made, tmp_path_factory):
    """A run by RigL."""
    out = tmp_path_factory.mktemp("runs") / "rigl"
    made(*given(out, "--recipe", "rigl", "--recipe-set", "every=2", "--recipe-set", "layout=uniform", "--quiet"))
    return out


def test_a_run_keeps_what_was_asked_and_what_came_of_it(run):
    found = bp.read_summary(run)
    assert (found["recipe"], found["recipe_settings"]) == ("rigl", {"every": 2, "layout": "uniform"})
    assert found["budget_settings"] == {"density": 0.1} and found["budget"] is None
    assert (found["prior"], found["prior_settings"], found["guide"]) == ("weight-decay", {"weight_decay": 1e-4}, "map")
    assert (found["optimizer"], found["learning_rate"]) == ("sgd", 0.1)
    (told,) = found["masks"]
    assert told["reached_count"] == told["asked_count"] == round(0.1 * WHOLE) and told["whole"] == WHOLE
    assert told["updates"] == 6 and told["exchanged"] > 0  # every second of 18 steps, to three quarters of them
    assert told["layers"] == {"1.weight": 128, "3.weight": 6}


def test_show_says_how_dense_it_is_and_how_much_has_moved(command, run):
    code, out, err = command("show", run)
    assert (code, err) == (0, "")
    told = bp.read_summary(run)["masks"][0]
    (recipe,) = [line for line in out.splitlines() if line.startswith("recipe")]
    assert recipe.split(maxsplit=1)[1] == "rigl (every=2, layout=uniform)"
    (masks,) = [line for line in out.splitlines() if line.startswith("masks")]
    moved = f"{told['exchanged']:,} weights exchanged, 6 updates"
    assert masks.split(maxsplit=1)[1] == f"density 10.00 %: 134 of 1,340 weights in; {moved}"


def test_it_is_pruned_as_it_is_left(command, run, tmp_path):
    out = tmp_path / "pruned"
    code, text, err = command("prune", run, "--out", out)
    assert (code, err) == (0, "")
    assert "as the fit leaves it, by its own zeros:" in text and "so that this network is no faster" in text
    weights, masks = load_file(out / "weights.safetensors"), load_file(out / "masks.safetensors")
    nonzero = {name: int((weights[name] != 0).sum()) for name in masks}
    assert nonzero == {name: int(mask.sum()) for name, mask in masks.items()}
    assert all(0 <= wanted - nonzero[name] <= 6 for name, wanted in (("1.weight", 128), ("3.weight", 6)))
    summary = json.loads((out / "summary.json").read_text())
    assert summary["test_accuracy_after"] == pytest.approx(bp.read_summary(run)["test_accuracy"])
    assert summary["csr_speed_ups"] is None


def test_compact_with_latency_says_which_layers_csr_makes_faster(command, run, tmp_path, monkeypatch):
    class Layer:
        def __init__(self, gain):
            self.converted, self.speed_up = gain > 1.0, gain

    def measured(network, x):
        if len(x) == 128:
            raise ValueError("no Linear layer is faster in csr at batch 128")
        layers = {"1": Layer(3.214), "3": Layer(0.5)}
        return type("R", (), {"report": type("P", (), {"layers": layers})})

    monkeypatch.setattr("bayesprune.commands.compacting.to_sparse", measured)  # a time is no test
    monkeypatch.setattr("bayesprune.commands.compacting._ratios", lambda *_: {"1": 1.0, "128": 1.0})
    code, text, err = command("prune", run, "--compact", "--latency", "--out", tmp_path / "small")
    assert (code, err) == (0, "")
    assert "layers that CSR makes faster, in times of the dense one: at batch 1 1 3.21; at batch 128 none" in text
    assert json.loads((tmp_path / "small" / "summary.json").read_text())["csr_speed_ups"] == {
        "1": {"1": 3.214},
        "128": {},
    }


def test_the_next_command_is_printed_without_a_rule(command, given, tmp_path):
    code, text, err = command(*given(tmp_path / "r", "--recipe", "static"))
    assert code == 0
    assert f"bayesprune prune {tmp_path / 'r'} --network" in text and "--sparsity" not in text


def test_a_budget_file_is_the_layout(command, given, tmp_path):
    (tmp_path / "layers.csv").write_text("tensor,density\n1.weight,0.05\n3.weight,0.5\n")
    arguments = given(tmp_path / "r", "--recipe", "granet", "--quiet", budget=tmp_path / "layers.csv")
    assert command(*arguments)[0] == 0
    found = bp.read_summary(tmp_path / "r")
    assert found["masks"][0]["layers"] == {"1.weight": 64, "3.weight": 30}
    assert [row["tensor"] for row in found["budget_settings"]["density"]] == ["1.weight", "3.weight"]


def test_another_recipe_is_another_fit(command, given, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(
        "bayesprune.runs.run_processes.writing_part", lambda out, given, *rest: asked.append(given) or 1 / 0
    )
    for more in (("rigl",), ("rigl", "--recipe-set", "every=3"), ("set",)):
        assert command(*given(tmp_path / "r", "--recipe", *more))[0] == 1
    assert command(*given(tmp_path / "r", "--prior", "halo"))[0] == 1
    kept = [(one["recipe"], one["recipe_settings"], one["budget"]) for one in asked]
    budget = {"density": 0.1}
    assert kept == [("rigl", {}, budget), ("rigl", {"every": 3}, budget), ("set", {}, budget), (None, None, budget)]
    json.dumps(asked, allow_nan=False)


def test_with_gates_of_weights_both_have_to_be_open(command, given, tmp_path):
    more = ("--recipe", "rigl", "--prior", "spike-and-slab", "--quiet")
    assert command(*given(tmp_path / "r", *more))[0] == 0
    found = bp.read_summary(tmp_path / "r")
    assert found["masks"][0]["reached_count"] == 134 and found["nonzero"] <= 134
    assert found["optimizer"] == "adam" and found["guide"] != "map"


def test_recipes_lists_every_recipe_with_its_settings(command):
    code, out, err = command("recipes")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line.strip()}
    assert set(RECIPES) <= set(rows)
    assert "cycles=2, top=3.0, ends=0.4" in out and "grow of random, gradient" in out
    assert "share=" in rows["rigl"] and "share=" not in rows["static"]


@pytest.mark.parametrize(
    ("more", "budget", "says"),
    [
        (("--recipe", "rigle"), "density=0.1", "did you mean 'rigl'?"),
        (("--recipe", "rigl"), None, "needs to know how dense the network ends: give --budget density=0.01"),
        (("--recipe", "rigl"), "macs=0.1", "--budget macs=... does not go with --recipe"),
        (("--recipe", "rigl"), "parameters=0.1", "--budget parameters=... does not go with --recipe"),
        (("--recipe", "rigl"), "density=0.0001", "0 weights do not go into 2 tensors"),
        (("--recipe", "rigl"), "density=x", "a share in"),
        (("--recipe", "rigl"), 'density={"fc9.weight": 0.5}', "'fc9.weight', which matches no tensor"),
        (("--recipe", "rigl", "--gating", "travel=0.5"), "density=0.1", "--gating does not go with --recipe"),
        (("--recipe", "rigl", "--epochs", 0), "density=0.1", "--epochs 0 does not go with --recipe"),
        (("--recipe", "rigl", "--tune", "kl_weight"), "density=0.1", "--tune does not go with --recipe"),
        (("--recipe", "rigl", "--prior", "unit-gates"), "density=0.1", "--prior unit-gates about units"),
        (("--recipe", "rigl", "--recipe-set", "evry=3"), "density=0.1", "did you mean 'every'?"),
        (("--recipe", "rigl", "--recipe-set", "every"), "density=0.1", "--recipe-set takes KEY=VALUE"),
        (("--recipe", "rigl", "--recipe-set", "density=0.2"), "density=0.1", "--recipe-set takes no density"),
        (("--recipe", "rigl", "--recipe-set", "schedule=x"), "density=0.1", "--recipe-set takes no schedule"),
        (("--recipe", "rigl", "--recipe-set", "layout=erk"), 'density={"*": 0.5}', "so does layout="),
        (("--recipe", "cyclic", "--recipe-set", "ends=1.5"), "density=0.1", "cannot be longer than the training"),
        (("--recipe-set", "every=3", "--prior", "halo"), None, "add --recipe NAME"),
        ((), None, "say which prior: --prior NAME"),
    ],
)
def test_what_cannot_be_is_refused(refused, given, tmp_path, more, budget, says):
    refused(given(tmp_path / "r", *more, budget=budget), says)
    assert list(tmp_path.iterdir()) == []
