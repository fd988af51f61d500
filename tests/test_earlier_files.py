"""What earlier versions wrote is read, and says what it said then; or is refused in one sentence.

Files and expected numbers were written by the earlier version itself: see tests/earlier/6f6d170/README.md. Only public
names and the command line are used, but where an order of the data is put back.
"""

from __future__ import annotations

import hashlib
import json
import re
import runpy
import shutil
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.inference.data.batches import Batches
from tests.earlier import fits

STORED = Path(__file__).with_name("earlier") / "6f6d170"
EXPECTED = json.loads((STORED / "expected.json").read_text(encoding="utf-8"))
SINGLE, DOUBLE = 1e-5, 1e-9  # of fits in float32 and float64, on another processor
PATH = (
    "path --data digits --prior spike-and-slab --knob expected_density --values 0.3,0.1,0.05 --width 0.02 "
    "--first-epochs 4 --epochs 2 --learning-rate 0.01 --restarts 1 --device cpu --out path"
)


def content(folder):
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in folder.rglob("*") if file.is_file()}


@pytest.fixture(autouse=True)
def stored_files_stay():
    """No test changes them."""
    before = content(STORED)
    yield
    assert content(STORED) == before


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder; called with names, it takes copies of what is stored."""
    monkeypatch.chdir(tmp_path)

    def take(*names):
        for name in names:
            shutil.copytree(STORED / name, tmp_path / name)
        return tmp_path

    return take


@pytest.fixture
def command(monkeypatch, capfd):
    """Runs `python -m bayesprune ...` in this process: (exit code, out, err)."""

    def call(line):
        monkeypatch.setattr(sys, "argv", ["bayesprune", *line.split()])
        with pytest.raises(SystemExit) as ended:
            runpy.run_module("bayesprune", run_name="__main__")
        out, err = capfd.readouterr()
        return ended.value.code or 0, out, err

    return call


def differences(before, now, tolerance, where=""):
    """Where two nests of dicts, lists and numbers differ, a line each; numbers as shares of an array's largest."""
    if isinstance(before, dict):
        if before.keys() != now.keys():
            return [f"{where}: {sorted(before)} and {sorted(now)}"]
        return [line for key in before for line in differences(before[key], now[key], tolerance, f"{where}/{key}")]
    ours, theirs = np.asarray(now), np.asarray(before)
    if theirs.dtype.kind not in "fiu":
        return [] if before == now else [f"{where}: {before} and {now}"]
    if ours.shape != theirs.shape or ours.dtype.kind not in "fiu":
        return [f"{where}: {before} and {now}"]
    off = np.max(np.abs(ours - theirs), initial=0.0)
    return [] if off <= tolerance * np.max(np.abs(theirs), initial=0.0) else [f"{where}: off by {off:.3g}"]


def answers(fit, name):
    """What a fit says today, as expected.json has it."""
    x = torch.as_tensor(fits.digits()) if name in ("run", "units") else fits.waves()[0]
    return json.loads(json.dumps(fits.answers(fit, fits.patients()[0] if name == "regression" else x)))


# -- fits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "units"])
def test_the_fit_in_a_run_folder_says_what_it_said(name, here):
    fit = bp.Fit.load(here(name) / name)
    assert differences(EXPECTED["fits"][name], answers(fit, name), SINGLE) == []


@pytest.mark.parametrize("name", ["halo", "gates"])
def test_a_saved_fit_says_what_it_said(name, here):
    fit = bp.Fit.load(here(name) / name, fits.model(name))
    assert differences(EXPECTED["fits"][name], answers(fit, name), DOUBLE) == []
    if name == "gates":
        assert fit.model.network.fc1.out_features < 8  # units were removed during the fit


@pytest.mark.parametrize("name", ["regression", "own"])
def test_a_saved_fit_of_a_scale_mixture_says_what_it_said_but_for_shrinkage(name, here):
    """Shrinkage factors in networks were by the Fisher information then: a rule that was changed on purpose since."""
    fit = bp.Fit.load(here(name) / name, fits.model(name))
    off = differences(EXPECTED["fits"][name], answers(fit, name), DOUBLE)
    assert off and {line.split(":")[0].rpartition("/")[0] for line in off} <= {"/inclusion 0", "/inclusion 1"}


@pytest.mark.parametrize(
    ("name", "own"), [("own", "the prior on *.weight"), ("halo", "the network"), ("regression", "the network")]
)
def test_a_saved_fit_with_code_of_ones_own_asks_for_the_model_in_a_sentence(name, own, here):
    folder = here(name) / name
    said = f"{folder} was fitted with code of your own ({own}), which is not stored: pass the model, "
    with pytest.raises(ValueError, match=re.escape(said + "Fit.load(path, model=bnn)") + "$"):
        bp.Fit.load(folder)


def test_a_saved_fit_is_refused_for_another_declaration(here):
    folder = here("own") / "own"
    other = bp.BayesianNetwork(fits.network(6, 8, 3), {"*.weight": bp.Horseshoe()}, data_size=60)
    with pytest.raises(ValueError, match="own"):
        bp.Fit.load(folder, other)


@pytest.mark.parametrize("name", ["run", "halo", "gates"])
def test_numbers_of_another_fit_are_seen(name, here):
    """The control of all equalities above: parameters off by a ten-thousandth are seen."""
    fit = bp.Fit.load(here(name) / name, None if name == "run" else fits.model(name))
    with torch.no_grad():
        for one in fit.restarts:
            for parameter in (*one.guide.parameters(), *one.model.network.parameters()):
                parameter.mul_(0.9999)
    assert differences(EXPECTED["fits"][name], answers(fit, name), SINGLE if name == "run" else DOUBLE) != []


# -- going on -----------------------------------------------------------------------------------------------------


def test_an_interrupted_fit_goes_on_to_the_numbers_of_one_that_was_not(here):
    folder = here("checkpoint") / "checkpoint"
    fit = bp.fit(fits.model("checkpoint"), fits.waves(), **fits.options("checkpoint"), checkpoint=folder)
    assert fit.settings["resumed_at_epoch"] == 12
    assert differences(EXPECTED["fits"]["checkpoint"], answers(fit, "checkpoint"), DOUBLE) == []


def without_fade_in(folder):
    """As if the earlier fit had been told no fade-in, and had taken that of then."""
    file = folder / "checkpoint.json"
    kept = json.loads(file.read_text(encoding="utf-8"))
    kept["asked"]["kl_warmup"] = None
    file.write_text(json.dumps(kept), encoding="utf-8")
    return folder


def test_an_interrupted_fit_with_defaults_of_then_is_told_which_they_were_and_goes_on_with_them(here):
    folder = without_fade_in(here("checkpoint") / "checkpoint")
    given = {**fits.options("checkpoint"), "checkpoint": folder}
    said = (
        f"{folder} holds a fit of an earlier version, which had other defaults of kl_warmup: give these as they were "
        "then (a fade-in of 0.2, or 0 for points), or choose another folder"
    )
    with pytest.raises(ValueError, match=re.escape(said) + "$"):
        bp.fit(fits.model("checkpoint"), fits.waves(), **{**given, "kl_warmup": None})
    with pytest.raises(ValueError, match="holds a fit with kl_warmup None, but now it is 0.3: call it with the arg"):
        bp.fit(fits.model("checkpoint"), fits.waves(), **{**given, "kl_warmup": 0.3})
    fit = bp.fit(fits.model("checkpoint"), fits.waves(), **given)
    assert differences(EXPECTED["fits"]["checkpoint"], answers(fit, "checkpoint"), DOUBLE) == []


@pytest.mark.parametrize("ordered", ["as then", "as now"])
def test_a_path_is_told_the_defaults_of_then_and_goes_on_with_them_to_the_numbers_of_then(
    ordered, here, command, monkeypatch
):
    """The order of the data has a generator of its own since: with torch's, as then, the next fit is that of then."""
    if ordered == "as then":
        monkeypatch.setattr("bayesprune.inference.training.fit.Batches", lambda *given: Batches(*given[:-1]))
    folder = here("path") / "path"
    before = content(folder)
    code, _, err = command(PATH)
    assert (code, err) == (
        2,
        "error: path holds a path of an earlier version, whose fits had other defaults of kl_weight and kl_warmup: "
        "give these as they were then (1, and 0.2 or for points 0), or choose another folder\n",
    )
    code, _, err = command(f"{PATH} --kl-weight 1 --kl-warmup 0.3")
    assert code == 2 and "holds a path with kl_warmup None, but now it is 0.3: call it with the arguments of" in err
    assert content(folder) == before
    assert command(f"{PATH} --kl-weight 1 --kl-warmup 0.2 --quiet")[0] == 0
    third = json.loads((folder / "path.json").read_text(encoding="utf-8"))["points"][2]
    for key, value in EXPECTED["path continued"].items():
        (now,), (then,) = (np.ravel(each) for each in (third[key], value))
        is_same = differences(then, {name: now[name] for name in then}, SINGLE) == []
        assert is_same == (ordered == "as then"), key


# -- the command line ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["run", "units"])
def test_show_prints_the_lines_of_then(name, here, command):
    here(name)
    code, out, _ = command(f"show {name}")
    assert code == 0
    now = {" ".join(line.split()) for line in out.splitlines()}
    then = [" ".join(line.split()) for line in EXPECTED["printed"][f"show {name}"].splitlines()]
    kept = [line for line in then if re.match(r"(data|network|prior|guide|test|points|gates|architecture|fc\d) ", line)]
    assert len(kept) >= 6
    assert [line for line in kept if not any(_starts_alike(line, other) for other in now)] == []


def _starts_alike(then, now):
    """Whether a line begins with what a line of then said; a table's later columns may have changed since."""
    return now.startswith(then.split(" atom ")[0])


def test_show_says_how_far_a_killed_fit_is(here, command):
    here("killed.part")
    code, out, _ = command("show killed")
    assert code == 0
    progress = json.loads((STORED / "killed.part" / "progress.json").read_text(encoding="utf-8"))
    assert "process 1 on elsewhere" in out and f"epoch {progress['epoch']} of 2000" in out


def test_a_killed_fit_of_another_machine_is_replaced_when_it_has_been_silent_for_long(here, command):
    folder = here("killed.part") / "killed.part"
    file = folder / "progress.json"
    line = "fit --data digits --prior halo --width 0.03 --epochs 1 --device cpu --out killed"
    stored = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(stored | {"updated": time.time()}), encoding="utf-8")
    code, _, err = command(line)
    assert code == 2 and err.startswith("error: ") and err.count("\n") == 1 and "--fresh" in err
    file.write_text(json.dumps(stored | {"updated": time.time() - 86400.0}), encoding="utf-8")
    assert command(f"{line} --quiet")[0] == 0
    assert (folder.with_name("killed") / "summary.json").is_file() and not folder.exists()


@pytest.mark.parametrize("name", ["run", "units", "pruned", "compact"])
def test_predictions_are_those_of_then(name, here, command):
    folder = here(name)
    np.save(folder / "digits.npy", fits.digits())
    assert command(f"predict {name} --input digits.npy --out found.npz --quiet")[0] == 0
    with np.load(folder / "found.npz") as found:
        now = {key: value.tolist() for key, value in found.items()}
    assert differences(EXPECTED["predicted"][name], now, SINGLE) == []


@pytest.mark.parametrize(
    ("what", "line", "taken"),
    [
        ("pruned", "prune run --sparsity 0.9 --out found", "run"),
        ("compact", "prune units --min-inclusion 0.5 --compact --out found", "units"),
        ("of the path", "prune path --sparsity 0.5 --out found", "path"),
    ],
)
def test_pruning_comes_to_what_it_came_to_then(what, line, taken, here, command):
    here(taken)
    code, out, _ = command(line)
    assert code == 0
    then = EXPECTED["printed"][what].splitlines()
    kept = [said for said in then if re.match(r"(.*, by inclusion: |fc\d|test |compact: |units left)", said)]
    assert len(kept) >= 5 and [said for said in kept if said not in out.splitlines()] == []
