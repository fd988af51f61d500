"""The code in README and docs runs as it stands, with fewer epochs."""

from __future__ import annotations

import json
import math
import pkgutil
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_diabetes
from torch import nn

import bayesprune as bp
from bayesprune.inference.defaults import length
from bayesprune.models.language.levels import LEVELS
from bayesprune.models.networks.placing import zeros_for
from bayesprune.models.ready_networks import NETWORKS
from bayesprune.models.structure.ready_graphs import READY_GRAPHS

ROOT = Path(__file__).resolve().parents[1]


def code_blocks(name, epochs=1):
    """Python blocks of a page, with fits cut to few epochs."""
    text = (ROOT / name).read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, flags=re.DOTALL)
    return [re.sub(r"epochs=\d+", f"epochs={epochs}", block) for block in blocks]


@pytest.fixture(autouse=True)
def short_by_default(monkeypatch):
    """Fits that are told no length have a few steps."""
    monkeypatch.setattr(length, "PASSES", 3)
    monkeypatch.setattr(length, "LEAST_STEPS", 30)


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")  # a short fit
@pytest.mark.filterwarnings("ignore:(all units of|.*units are dead):UserWarning")
def test_the_readme_runs_from_top_to_bottom():
    blocks = code_blocks("README.md", epochs=3)
    assert len(blocks) == 3
    space = {}
    for block in blocks:
        exec(compile(block, "README.md", "exec"), space)
    assert isinstance(space["result"].network, nn.Module)
    assert 0.0 <= space["result"].report.sparsity <= 1.0
    assert space["student"].latents["scale"].per == "output"
    assert space["learned"].model.gates.declared_count == 800


def test_the_readme_s_prior_is_the_one_in_the_examples():
    from bayesprune.runs.prior_files import load_prior

    space = {}
    exec(code_blocks("README.md")[1], space)
    example = load_prior(f"{ROOT / 'examples' / 'own_prior.py'}:student")
    assert example.fingerprint() == space["student"].fingerprint()


@pytest.fixture
def declared():
    """What the pages on extending take as given."""
    torch.manual_seed(0)
    x, y = torch.randn(40, 6), torch.randint(3, (40,))
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.RegularisedHorseshoe()}, data_size=40)
    return {"bp": bp, "bnn": bnn, "data": (x, y), "fit": bp.fit(bnn, (x, y), epochs=1, device="cpu")}


def test_the_page_on_extending_runs(declared):
    for block in code_blocks("docs/extending.md"):
        exec(compile(block, "docs/extending.md", "exec"), declared)
    low_rank = bp.BayesianNetwork(nn.Linear(6, 3), {"weight": declared["low_rank"]}, data_size=40)
    assert low_rank.priors["weight"].sites["u"].shape == (3, 4)
    cycled, (told,) = declared["cycled"], declared["cycled"].settings["cycles"]
    assert told["clipped"] == float(cycled.trace["clipped"][0, -1]) > 0
    locations = torch.cat([family.location.detach() for family in cycled.guide.families])
    assert float(locations.abs().max()) == pytest.approx(0.05)
    rises = [min(1.0, 2.0 * (4 * step / 20 % 1.0)) for step in range(20)]  # a step an epoch
    assert cycled.trace["kl_weight"].values[0].tolist() == rises
    with pytest.raises(ValueError, match="Cycles says the KL weight itself"):
        bp.fit(declared["bnn"], declared["data"], steps=1, kl_warmup=0.5, rules=[declared["Cycles"]()])


def test_an_event_of_one_s_own_says_what_the_page_on_extending_says(declared):
    (block,) = [block for block in code_blocks("docs/extending.md") if "bp.event_rule" in block]
    declared["dist"] = dist
    exec(compile(block, "docs/extending.md", "exec"), declared)
    assert declared["tail"].mean == pytest.approx(1.0 - math.exp(-0.5), abs=0.02)
    shares, one = declared["shares"], declared["large"].restarts[0]
    assert shares.attrs == {"kind": "absolute", "event": "|weight| > 0.05 (absolute)"}
    q = one.guide.draw()["0.weight"]
    normal = torch.distributions.Normal(q.location.detach(), q.scale.detach())
    exact = 1.0 - (normal.cdf(torch.tensor(0.05)) - normal.cdf(torch.tensor(-0.05)))
    assert np.abs(shares.values - exact.numpy()).max() < 0.15  # 200 draws, of sd 0.035 at most
    of_another_size = 1.0 - (normal.cdf(torch.tensor(0.2)) - normal.cdf(torch.tensor(-0.2)))
    assert np.abs(shares.values - of_another_size.numpy()).max() > 0.15  # the control
    zeros = declared["kept"].network[0].weight == 0
    assert bool((zeros == torch.as_tensor(shares.values <= 0.5)).all())


def test_the_page_on_smaller_networks_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in code_blocks("docs/smaller.md"):
        exec(compile(block, "docs/smaller.md", "exec"), space)
    assert space["small"].report.max_output_difference < 1e-5 * space["small"].report.output_sd
    assert (tmp_path / "runs" / "small" / "network.py").is_file()


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")  # a short fit
def test_the_page_on_unit_gates_runs():
    space = {}
    for block in code_blocks("docs/unit_gates.md", epochs=15):
        exec(compile(block, "docs/unit_gates.md", "exec"), space)
    left = int((space["fit"].unit_inclusion()["fc1"] > 0.5).sum())
    assert 0 < space["small"].network.fc1.out_features == left < 300
    assert space["inside"].priors["fc2.weight"].hierarchy.config["name"] == "HALO"
    assert space["gates"].cost.layers == 0.3


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")
def test_the_page_on_edge_gates_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in code_blocks("docs/edge_gates.md"):
        exec(compile(block, "docs/edge_gates.md", "exec"), space)
    assert space["graph"].number_of_edges() == 12 * 8 + 8
    assert {path.name for path in tmp_path.iterdir()} == {"structure.svg", "pruned.svg", "small_world.svg"}
    assert len(space["fit"].model.network.graph.layers) > 2


def test_the_page_on_gate_estimators_runs(declared):
    x, _ = declared["data"]
    network = declared["bnn"].network
    gates = bp.UnitGates(kappa=1e-3)
    declared["bnn"] = bp.BayesianNetwork(network, {}, gates=gates, data_size=40, example_input=x[:1])
    reported = []
    for block in code_blocks("docs/gate_estimators.md"):
        exec(compile(block, "docs/gate_estimators.md", "exec"), declared)
        reported.append(declared["fit"].settings["gating"][0]["estimator"])
    assert reported[0] == "ExactToggle(units=32, chunk=4096)" and "straight" in reported[-1]


def test_the_page_on_convergence_runs(declared):
    for block in code_blocks("docs/convergence.md"):
        exec(compile(block, "docs/convergence.md", "exec"), declared)
    assert len(declared["fit"].restarts) == 2
    assert any("not averaged" in note for note in declared["fit"].summary()["notes"])  # one epoch is too few


def test_the_page_on_the_kl_weight_runs():
    space = {}
    for block in code_blocks("docs/kl_weight.md"):
        exec(compile(block, "docs/kl_weight.md", "exec"), space)
    assert space["fit"].settings["kl_weight"] == 0.1 and space["fit"].settings["tempered"] is True
    assert space["elbo"].settings["kl_weight"] == 1.0 and space["elbo"].settings["tempered"] is False


def test_the_page_on_structure_runs():
    blocks, space = code_blocks("docs/structure.md", epochs=2), {}
    for block in blocks:
        exec(compile(block, "docs/structure.md", "exec"), space)
    assert space["result"].report.sparsity == pytest.approx(0.9, abs=1e-3) and space["drawn"].shape == (4, 12, 12)


def test_the_page_on_bayesian_sparse_training_runs():
    blocks, space = code_blocks("docs/bayesian_sparse_training.md"), {}
    exec(blocks[0], space)
    assert set(space["bp"].implied_densities(space["fit"].guide)) == set(space["fit"].model.matrices)
    exec(blocks[1], space)
    assert space["fit"].settings["masks"][0]["reached_count"] == round(0.05 * (64 * 300 + 300 * 100 + 100 * 10))


def test_the_page_on_sparse_training_runs(monkeypatch):
    for table in ("bayesprune.inference.recipes.ready_recipes.RECIPES", "bayesprune.inference.masks.scores.GROW"):
        monkeypatch.setattr(table, type(pkgutil.resolve_name(table))(pkgutil.resolve_name(table)))
    monkeypatch.setattr("bayesprune.inference.masks.dynamic_masks.GROW", pkgutil.resolve_name(table))
    space = {}
    for block in code_blocks("docs/sparse_training.md", epochs=2):
        exec(compile(block, "docs/sparse_training.md", "exec"), space)
    left = space["fit"].settings["masks"][0]["reached_count"]
    assert left == round(0.05 * (300 * 64 + 100 * 300 + 10 * 100)) and space["result"].report.nonzero <= left
    assert space["by_layer"].masks.across == "layer" and space["other"].settings["masks"][0]["exchanged"] > 0
    assert space["by_mine"].settings["masks"][0]["exchanged"] > 0 and space["residual"].data_size == 1000


def test_the_page_on_halo_runs():
    space = {}
    for block in code_blocks("docs/priors/halo.md"):
        exec(compile(block, "docs/priors/halo.md", "exec"), space)
    assert space["fit"].guide.is_map and space["fit"].settings["schedule"] == "constant"
    masks = space["result"].masks
    assert all(bool(mask.all()) == name.endswith("bias") for name, mask in masks.items())


@pytest.mark.filterwarnings("ignore:thresholds of .* will be asleep to the end")  # of a fit that is as short here
def test_the_page_on_soft_thresholds_runs():
    space = {}
    for block in code_blocks("docs/priors/soft-threshold.md", epochs=6):
        exec(compile(block, "docs/priors/soft-threshold.md", "exec"), space)
    assert space["result"].report.sparsity == pytest.approx(0.9, abs=1e-4)
    assert space["published"].settings["schedule"] == "warmup-cosine"
    assert space["deployed"].network.fc1.weight.shape == (300, 64)


def test_the_page_on_sparse_variational_dropout_runs(declared):
    declared |= {"network": declared["bnn"].network, "x": declared["data"][0], "y": declared["data"][1]}
    for block in code_blocks("docs/priors/sparse-variational-dropout.md"):
        exec(compile(block, "docs/priors/sparse-variational-dropout.md", "exec"), declared)
    assert declared["result"].report.rule == "score > -3"


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")  # a short fit
@pytest.mark.filterwarnings("ignore:(all units of|.*units are dead):UserWarning")
def test_the_page_on_trained_networks_runs(tmp_path, monkeypatch):
    from torchvision.models import resnet18

    digits = bp.load_data("digits")
    few = replace(digits, train=tuple(part[:96] for part in digits.train))
    monkeypatch.setattr(bp, "load_data", lambda name: few)
    monkeypatch.chdir(tmp_path)
    trained = resnet18(num_classes=10)
    torch.save(trained.state_dict(), "resnet18.pth")
    space = {}
    for block in code_blocks("docs/trained.md"):
        exec(compile(block, "docs/trained.md", "exec"), space)
    grey, copy = space["x"][:4], trained.train()
    network = space["network"].train()
    torch.testing.assert_close(network(grey), copy(grey.repeat(1, 3, 1, 1)), rtol=1e-3, atol=1e-3)
    assert "1 epoch, adam" in space["tuned"].report.finetuned
    assert (tmp_path / "runs" / "resnet-18-small" / "network.py").is_file()


def test_the_page_on_speed_runs():
    space = {}
    for block in code_blocks("docs/speed.md"):
        exec(compile(block, "docs/speed.md", "exec"), space)
    assert space["fit"].settings["execution"]["name"] == "fused"
    report = space["stepper"].report
    assert (report.name, report.fused_steps, report.plain_steps) == ("fused", 20, 0)


def test_the_page_on_the_front_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in code_blocks("docs/front.md"):
        exec(compile(block, "docs/front.md", "exec"), space)
    assert space["result"].report.sparsity >= 0.9
    assert (tmp_path / "front.png").is_file() and (tmp_path / "runs" / "front" / "path.json").is_file()


def test_the_page_on_tuning_runs():
    space = {}
    for block in code_blocks("docs/tuning.md"):
        exec(compile(block, "docs/tuning.md", "exec"), space)
    assert space["tuned"].trials and space["fit"].settings["kl_weight"] == space["tuned"].values["kl_weight"]


def test_the_page_on_search_runs():
    space = {}
    for block in code_blocks("docs/search.md"):
        exec(compile(block, "docs/search.md", "exec"), space)
    assert len(space["found"].trainings) == 8 and space["found"].trainings[7].predicted is not None
    assert space["fit"].model.network.genome == space["found"].genome


def test_the_page_on_regression_runs():
    space = {}
    for block in code_blocks("docs/regression.md", epochs=60):
        exec(compile(block, "docs/regression.md", "exec"), space)
    assert space["fit"].score(space["x"][:0].new_tensor(load_diabetes(scaled=False).data), raw_targets())["rmse"] < 70
    assert 20.0 < float(space["noise"].detach()) < 110.0
    x, counts, labels = space["x"], space["counts"], space["labels"]
    assert space["of_counts"].score(x, counts)["coverage_90"] > 0.85
    assert space["of_labels"].score(x, labels)["accuracy"] > 0.8
    torch.testing.assert_close(space["plain"].state_dict(), space["state"])


def test_the_page_on_loops_of_one_s_own_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in code_blocks("docs/own_loops.md"):
        exec(compile(block, "docs/own_loops.md", "exec"), space)
    assert (space["by_pyro"].state.step, space["by_pyro"].state.epoch) == (160, 20)
    assert isinstance(space["small"], nn.Module)
    assert {path.name for path in (tmp_path / "runs").iterdir()} == {"tb", "tb-own"}


def test_the_page_on_declaring_runs_and_its_table_of_levels_is_right():
    space = {}
    for block in code_blocks("docs/declaring.md"):
        exec(compile(block, "docs/declaring.md", "exec"), space)
    assert set(space["fits"]) == {"poisson", "negative-binomial"}
    assert space["shapes"] == {
        "weight": [(8, 3, 5, 5), (2, 8)],
        "output": [(8, 1, 1, 1), (2, 1)],
        "input": [(1, 3, 1, 1), (1, 8)],
        "kernel": [(8, 3, 1, 1), (2, 8)],
        "block": [(2, 2, 1, 1), (1, 4)],
        "edge": [(8, 3, 1, 1), (2, 8)],
        "layer": [(), ()],
        "network": [(), ()],
    }
    assert tuple(space["levels"]) == LEVELS
    assert (len(space["names"]), len(space["inner"])) == (28, 13)


def test_the_table_of_networks_has_all_of_them_with_what_they_count():
    """Names, parameters and multiply-adds of docs/declaring.md."""
    text = (ROOT / "docs" / "declaring.md").read_text(encoding="utf-8").split("## Networks by name", 1)[1]
    rows = [
        [cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("| `")
    ]
    found, large = {}, set()
    for name, _, images, parameters, macs in rows:
        first, *more = re.findall(r"`(.*?)`", name)
        names = [first, *(first.rpartition("-")[0] + end for end in more)]
        for one, count, each in zip(names, parameters.split(", "), macs.split(", "), strict=True):
            found[one] = (int(count.replace(",", "")), float(each.removesuffix(" M").replace(",", "")))
            large |= {one} if images.startswith("64") else set()
    shapes = {"lenet-300-100": (1, 28, 28), "lenet-5": (1, 28, 28)}
    counted = {}
    for name, build in NETWORKS.items():
        if name in READY_GRAPHS:  # each is of another size
            continue
        shape = (3, 224, 224) if name in large else (32,) if name.endswith("-stack") else shapes.get(name, (3, 32, 32))
        with torch.device("meta"):
            network = build(shape, 1000 if name in large else 10)
            costs = bp.costs(network, zeros_for(network, shape))
        counted[name] = (costs.parameters, round(costs.dense_macs / 1e6, 2))
    assert found == counted


@pytest.mark.filterwarnings("ignore:Estimated shape parameter of Pareto distribution:UserWarning")  # a short fit
@pytest.mark.filterwarnings("ignore:Your data appears to have a single value:UserWarning")
@pytest.mark.filterwarnings("ignore:invalid value encountered in:RuntimeWarning")
def test_the_page_on_arviz_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    space = {}
    for block in code_blocks("docs/arviz.md", epochs=60):
        exec(compile(block, "docs/arviz.md", "exec"), space)
    assert set(space["again"]["posterior"].data_vars) == set(space["tree"]["posterior"].data_vars)
    assert space["tree"]["posterior_predictive"]["y"].shape == (1, 500, 442)


def raw_targets():
    """Targets of the diabetes data."""
    return torch.tensor(load_diabetes(scaled=False).target, dtype=torch.float32)


@pytest.mark.filterwarnings("ignore:at step 1 nothing is left of")  # of a budget that has one epoch here
def test_the_page_on_plots_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    y = torch.arange(60) % 3
    x = torch.randn(60, 6) + 3.0 * torch.eye(3, 6)[y]
    network = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.RegularisedHorseshoe()}, data_size=60)
    fit = bp.fit(bnn, (x, y), epochs=120, learning_rate=0.02, device="cpu")
    data = SimpleNamespace(test=(x, y), validation=(x, y))
    space = {"bp": bp, "bnn": bnn, "x": x, "y": y, "fit": fit, "data": data}
    (tmp_path / "runs").mkdir()
    blocks = code_blocks("docs/plots.md")
    for block in blocks:
        exec(compile(block, "docs/plots.md", "exec"), space)
    written = {path for block in blocks for path in re.findall(r'path="(.+?)"', block)}
    assert {path.name for path in tmp_path.iterdir() if path.is_file()} == written


def test_the_page_on_the_reference_runs():
    (block,) = code_blocks("docs/reference.md")
    space = {}
    exec(compile(block, "docs/reference.md", "exec"), space)
    assert space["exact"].is_exact and "1,024 states" in space["exact"].reason
    assert len(space["figure"].axes) == 2


def test_the_page_on_budgets_runs_by_layer(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (block,) = [block for block in code_blocks("docs/budget.md", epochs=3) if "LayerBudget" in block]
    space = {}
    exec(compile(block, "docs/budget.md", "exec"), space)
    assert space["as_learned"].layer_budget().left == space["learned"].left == space["erk"].left
    found = space["bp"].LayerBudget.of(space["pruned"])
    assert found.layers[1].left == 90 and found["fc3.weight"] == space["learned"]["fc3.weight"]


def test_the_page_on_magnitude_classes_runs():
    space = {}
    for block in code_blocks("docs/magnitude_classes.md"):
        exec(compile(block, "docs/magnitude_classes.md", "exec"), space)
    assert (
        space["result"].report.nonzero == round(0.1 * 7400)
        and space["hidden"].report.per_tensor["3.weight"]["sparsity"] == 0.0
    )
    assert bp.prune(space["sparse"]).report.nonzero == 740


def test_the_page_on_local_reparameterisation_runs():
    space = {}
    for block in code_blocks("docs/local_reparameterisation.md"):
        exec(compile(block, "docs/local_reparameterisation.md", "exec"), space)
    assert space["fit"].settings["outputs_drawn"] == ["0.weight", "2.weight"]


@pytest.mark.slow
def test_the_page_on_deletion_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    data, network = bp.load_data("digits"), bp.lenet_300_100(64, hidden=(12, 8))
    model = bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab(0.3)}, data_size=len(data.train[0]))
    space = {"bp": bp, "data": data, "fit": bp.fit(model, data.train, epochs=20)}
    space["mask"] = torch.zeros(12, 64, dtype=torch.bool).index_fill_(1, torch.tensor([30]), True)
    for block in code_blocks("docs/deletion.md"):
        exec(compile(block, "docs/deletion.md", "exec"), space)
    assert space["fewer"].report.nonzero == round(0.02 * 944) and space["pair"].change.shape == (1,)
    assert [str(one) for one in space["first_inputs"].comparison.predictor.values][-1] == "ceiling"


def test_the_page_on_posteriors_runs():
    x, y = (torch.tensor(part, dtype=torch.float32) for part in load_diabetes(return_X_y=True))
    mixture, low = code_blocks("docs/posteriors.md")
    fits = []
    for prior, blocks in ((bp.SpikeAndSlab(0.5), [mixture]), (bp.Gaussian(1.0), [low])):
        bnn = bp.BayesianNetwork(nn.Linear(10, 1), {"weight": prior}, bp.Normal(), data_size=len(x))
        space = {"bp": bp, "bnn": bnn, "x": x, "y": y}
        for block in blocks:
            exec(compile(block, "docs/posteriors.md", "exec"), space)
            fits.append(space["fit"])
    assert len(fits[0].restarts) == 8
    assert [fit.guide.family_of["weight"] for fit in fits[1:]] == ["lowrank"]


def test_links_between_the_pages_lead_somewhere():
    for page in (*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}, which is not there"


def test_the_page_on_cyclical_sampling_runs():
    space = {}
    for block in code_blocks("docs/cyclical_sampling.md", epochs=12):
        exec(compile(block, "docs/cyclical_sampling.md", "exec"), space)
    assert len(space["fit"].restarts) == 12
    assert set(space["inclusion"]) == {"fc1.weight", "fc2.weight", "fc3.weight"}


def test_the_page_on_refits_runs():
    space = {}
    for block in code_blocks("docs/refit.md"):
        exec(compile(block, "docs/refit.md", "exec"), space)
    assert space["given"].settings["refit"][0]["of"] == sum(space["bnn"].declared_sizes.values())


def test_the_page_on_many_processes_runs_in_two(tmp_path):
    (block,) = code_blocks("docs/many.md")
    block = block.replace("FabricRuntime()", 'FabricRuntime(device="cpu")')
    (tmp_path / "train.py").write_text(block)
    launcher = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "train.py"]
    found = subprocess.run(launcher, cwd=tmp_path, capture_output=True, text=True, timeout=200)
    assert found.returncode == 0, found.stderr[-2000:]
    assert json.loads((tmp_path / "runs" / "fit" / "fit.json").read_text())["settings"]["processes"] == 2
