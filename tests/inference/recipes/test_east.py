"""The recipe of EAST: its three tricks by separate switches, from Python and from the command line."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.cli import app as cli
from bayesprune.commands.pruned_folder import load_pruned
from bayesprune.models.networks.shared_blocks import SharedBlock

SWITCHES = ({}, {"dyrelu": False}, {"shared": None}, {"cyclic": False}, {"clip": None})


def made_of(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize("off", SWITCHES, ids=str)
def test_each_trick_has_a_switch_of_its_own(off):
    made = bp.recipe("east", density=0.02, **off)
    torch.manual_seed(0)
    given = bp.resnet_20(1, 10, width=0.25)
    network = made.network(given, torch.zeros(2, 1, 8, 8))
    assert made_of(network, bp.DyReLU) == (0 if "dyrelu" in off else 19) and made_of(given, bp.DyReLU) == 0
    assert made_of(network, SharedBlock) == (0 if "shared" in off else 3)
    has_cycles = isinstance(made.masks.schedule, bp.CyclicDensity)
    assert has_cycles == ("cyclic" not in off) and made.clip == (None if "clip" in off else 1.0)
    itop = bp.recipe("rigl-itop", density=0.02).masks
    assert all(getattr(made.masks, name) == getattr(itop, name) for name in ("share", "last_share", "until", "every"))


def test_all_off_is_rigl_itop_on_the_network_itself():
    made = bp.recipe("east", density=0.1, dyrelu=False, shared=None, cyclic=False)
    network = nn.Linear(3, 2)
    assert made.network(network) is network and made.rules == bp.recipe("rigl-itop", density=0.1).rules
    assert made.rules != bp.recipe("cyclic", density=0.1).rules  # control


def test_synflow_is_not_trained_by_masks_that_move():
    torch.manual_seed(0)
    x, y = torch.randn(64, 6), torch.arange(64) % 3
    made = bp.recipe("synflow", density=0.2)
    network = nn.Sequential(nn.Linear(6, 10), nn.ReLU(), nn.Linear(10, 3))
    fit = bp.fit(made.model(network, 64), (x, y), rules=made.rules, steps=6, device="cpu", execution="plain")
    (told,) = fit.settings["masks"]
    assert (told["reached_count"], told["updates"], told["exchanged"]) == (18, 0, 0)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    out = tmp_path_factory.mktemp("east") / "run"
    command = ["fit", "--data", "digits", "--network", "resnet-20", "--width", "0.25", "--recipe", "east", "--steps",
               "22", "--budget", "density=0.1", "--execution", "plain", "--quiet", "--out", str(out)]  # fmt: skip
    assert cli.run(command) == 0
    return out


def test_a_run_keeps_what_was_changed_of_the_network_and_is_loaded_again(run):
    found = bp.read_summary(run)
    assert found["network_parts"] == {"shared_blocks": 2, "dyrelu": True} and found["clip"] == 1.0
    (told,) = found["masks"]
    assert told["virtual"] - told["whole"] == 3 * 0 + 2 * 9 * (4**2 + 8**2 + 16**2)  # one shared block a stage
    assert told["reached_count"] == round(0.1 * told["virtual"])
    fit = bp.load_run(run)
    assert made_of(fit.model.network, SharedBlock) == 3 and set(fit.model.priors) == set(found["on"])


def test_what_is_pruned_has_plain_activations_and_is_read_back(run, tmp_path):
    assert cli.run(["prune", str(run), "--quiet", "--out", str(tmp_path / "p")]) == 0
    summary = json.loads((tmp_path / "p" / "summary.json").read_text())
    assert summary["network_parts"] == {"shared_blocks": 2}
    network, _ = load_pruned(tmp_path / "p")
    assert made_of(network, bp.DyReLU) == 0 and made_of(network, nn.ReLU) == 19
    x = torch.randn(3, 1, 8, 8)
    expected = bp.prune(bp.load_run(run)).network
    with torch.no_grad():  # statistics of batch normalisation are estimated again by the command alone
        for module in (network, expected):
            module.train()
        torch.testing.assert_close(network(x), expected(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        (("--network", "lenet-300-100"), "no residual stages that could share blocks"),
        (("--recipe-set", "shared=3"), "no stage has more than 3 blocks"),
        (("--recipe-set", "shared=0"), "a whole number from 1"),
        (("--recipe-set", "shared=true"), "takes a whole number or null"),
        (("--recipe-set", "dyrelu=maybe"), "takes true or false"),
        (("--budget", "density=0.99"), "N_u / (N_u + N_s)"),
    ],
)
def test_what_cannot_be_is_refused(more, says, tmp_path, capsys):
    budget = () if "--budget" in more else ("--budget", "density=0.1")
    fixed = ("fit", "--data", "digits", "--network", "resnet-20", "--width", "0.25", "--recipe", "east", "--quiet")
    assert cli.run([*fixed, *budget, *more, "--steps", "22", "--out", str(tmp_path / "r")]) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1 and list(tmp_path.iterdir()) == []
