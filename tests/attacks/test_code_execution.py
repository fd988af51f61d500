"""A data file never runs code: attacks by names, pickles and shapes, each through every command that reads them."""

from __future__ import annotations

import json
import os
import pickle
import shlex
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from bayesprune import cli
from bayesprune.code_trust import CodeNotTrusted
from bayesprune.commands.following_path import load_path
from bayesprune.commands.predicting import load_pruned
from bayesprune.data import load_data
from bayesprune.inference.result import Fit
from bayesprune.run_folder import load_run

OWN = """
from pathlib import Path
import pyro.distributions as dist
from torch import nn
import bayesprune as bp

Path({sentinel!r}).touch()

def net(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[0], 5), nn.ReLU(), nn.Linear(5, outputs))

prior = bp.Hierarchy(weight=dist.Laplace(0.0, 0.1))

def by_scale(scale):
    return bp.Hierarchy(weight=dist.Laplace(0.0, scale))
"""
MODULES = ("evilmod", "evil", "victim", "victim.evil")


def commands(*arguments):
    return cli.run([str(argument) for argument in arguments])


class Attack:
    """A copy of the folders in a place of its own, with code in and beside them that leaves a mark where it is run."""

    def __init__(self, made, place, capsys, monkeypatch):
        self.place, self.sentinel, self.capsys, self.monkeypatch = place, place / "PWNED", capsys, monkeypatch
        for name in ("run", "pruned", "compact", "path"):
            shutil.copytree(made / name, place / name)
        self.run = shutil.copytree(made / "run", place / "victim")
        self.inputs = shutil.copy(made / "x.npy", place / "x.npy")
        mark = (
            OWN.format(sentinel=str(self.sentinel)) + f"\ndef f(*_, **__):\n    Path({str(self.sentinel)!r}).touch()\n"
        )
        for folder in (place, self.run, place / "pruned", place / "compact", place / "path"):
            for file in ("evil.py", "evilmod.py", "weights.txt"):
                (folder / file).write_text(mark)
        monkeypatch.setenv("HOME", str(place))

    def pickled(self):
        """Bytes that leave the mark where they are unpickled."""
        return pickle.dumps(Leaves(self.sentinel))

    def edit(self, file, **changes):
        found = json.loads(file.read_text())
        (found["declaration"] if file.name == "path.json" else found).update(changes)
        file.write_text(json.dumps(found))

    def withstood(self, *arguments, codes=(2,)):
        """Runs a command; nothing may be executed, and a refusal is one sentence."""
        before = set(sys.modules)
        code = commands(*arguments)
        out, err = self.capsys.readouterr()
        assert code in codes, (arguments, out, err)
        assert "Traceback" not in out + err
        assert err == "" if code == 0 else (err.startswith("error: ") and err.count("\n") == 1), err
        assert not self.sentinel.exists(), arguments
        assert not set(MODULES) & (set(sys.modules) - before), arguments
        assert not [name for name in set(sys.modules) - before if name.startswith("bayesprune_file_")], arguments
        return out + err

    def everywhere(self, changes, shown=(0, 2), also=()):
        """The changes in every JSON that is read back, through every command that reads it."""
        place = self.place
        for file in (self.run / "summary.json", *(place / name / "summary.json" for name in ("pruned", "compact"))):
            self.edit(file, **changes)
        self.edit(place / "path" / "path.json", **changes)
        said = [
            self.withstood("show", self.run, codes=shown),
            self.withstood("show", self.run, "--plots"),
            self.withstood("prune", self.run, "--sparsity", 0.5, "--out", place / "out"),
            self.withstood("prune", place / "path", "--sparsity", 0.5, "--out", place / "out"),
            self.withstood("predict", self.run, "--input", self.inputs, "--out", place / "out.npz"),
        ]
        for name in also:
            said.append(self.withstood("predict", place / name, "--input", self.inputs, "--out", place / "out.npz"))
        self.withstood("compare", self.run, place / "run", codes=(0, 2))
        assert not (place / "out").exists() and not (place / "out.npz").exists()
        return said


class Leaves:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))


@pytest.fixture(scope="session")
def made(tmp_path_factory):
    """One small run, its pruned and compact networks, a path, and the same of code of one's own."""
    place = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (generator.normal(size=(90, 4)) + 2.0 * np.eye(3, 4)[y]).astype(np.float32)
    np.savez(place / "data.npz", x=x, y=y)
    np.save(place / "x.npy", x)
    (place / "own.py").write_text(OWN.format(sentinel=str(place / "ran")))
    data = ("--data", place / "data.npz", "--epochs", 1, "--quiet")
    ready, own = ("--width", 0.02, *data), ("--network", f"{place / 'own.py'}:net", *data)
    knob = ("--first-epochs", 1, "--restarts", 1, "--sparsities", "0.5", "--knob")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesprune.run_folder.ARVIZ_DRAWS", 3)
        assert commands("fit", "--prior", "spike-and-slab", *ready, "--out", place / "run") == 0
        assert commands("prune", place / "run", "--sparsity", 0.5, "--quiet", "--out", place / "pruned") == 0
        more = ("--min-inclusion", 0.0, "--compact", "--quiet")
        assert commands("prune", place / "run", *more, "--out", place / "compact") == 0
        given = ("path", "--prior", "halo", *knob, "kappa", "--values", 3, "--quiet", *ready, "--out", place / "path")
        assert commands(*given) == 0
        prior = ("--prior", f"{place / 'own.py'}:prior")
        assert commands("fit", *prior, *own, "--out", place / "own-run") == 0
        prior = ("--prior", f"{place / 'own.py'}:by_scale")
        given = ("path", *prior, *knob, "scale", "--values", 0.1, *own, "--out", place / "own-path")
        assert commands(*given) == 0
    return place


@pytest.fixture
def attack(made, tmp_path, capsys, monkeypatch):
    return Attack(made, tmp_path, capsys, monkeypatch)


# --------------------------------------------------------------------------------------- names of networks and priors

NETWORKS = {
    "a module of Python's": "subprocess:call",
    "a builtin": "builtins:exec",
    "the shell": "os:system",
    "an importer": "importlib:import_module",
    "a module in the current folder": "evilmod:f",
    "a module through the folder's name": "victim.evil:f",
    "a file in the folder": "{run}/evil.py:f",
    "a file elsewhere": "{place}/evil.py:f",
    "a relative file": "evil.py:f",
    "a way around": "{place}/run/../victim/evil.py:f",
    "a file at home": "~/evil.py:f",
    "a ready name with a colon": "resnet-18:f",
    "a file of another ending": "{run}/weights.txt:f",
    "a bare colon": ":",
    "a link": "{place}/link.py:f",
}


@pytest.mark.parametrize("form", NETWORKS)
def test_a_network_that_json_names_is_not_run(attack, form):
    (attack.place / "link.py").symlink_to(attack.run / "evil.py")
    reference = NETWORKS[form].format(run=attack.run, place=attack.place)
    attack.monkeypatch.chdir(attack.place if "folder's name" in form else attack.run)
    said = attack.everywhere({"network": reference, "width": 1.0}, shown=(0,), also=("pruned", "compact"))
    assert all("--trust-code" in one for one in said)
    # The line of `show` comes after all of the summary that needs no code.
    assert "sparsity" in said[0] and "no layers: " in said[0] and reference.rpartition(":")[2] in said[0]


@pytest.mark.parametrize(
    "reference", ["{run}/evil.py:f", "{place}/evil.py:prior", "evil.py:f", "{run}/weights.txt:prior", "os:system"]
)
def test_a_prior_that_json_names_is_not_run(attack, reference):
    attack.monkeypatch.chdir(attack.run)
    reference = reference.format(run=attack.run, place=attack.place)
    said = attack.everywhere({"prior": reference}, shown=(0,))
    assert all("--trust-code" in one for one in said)
    # A pruned network has no prior any more: predicting with it needs no code.
    attack.withstood("predict", attack.place / "pruned", "--input", "x.npy", "--out", "o.npz", codes=(2,))
    given = ("predict", attack.place / "pruned", "--input", attack.inputs, "--out", attack.place / "o.npz")
    attack.withstood(*given, codes=(0,))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": "subprocess:call", "input_shape": ["touch", "PWNED"], "outputs": -1},
        {"network": "os:system", "input_shape": "touch PWNED"},
        {"network": "builtins:exec", "input_shape": "open('PWNED', 'w')", "outputs": {}},
        {"network": ["evilmod:f"]},
        {"network": {"evilmod": "f"}},
        {"network": None},
        {"network": "evil\0mod:f"},
        {"network": "evilmod"},
        {"network": "__import__"},
        {"prior": "evil"},
        {"prior": "evil.py"},
        {"prior": 3},
        {"likelihood": "os:system"},
        {"likelihood": {"name": "evilmod:f"}},
        {"likelihood": {"name": "__class__"}},
        {"likelihood": ["normal"]},
        {"on": "*.weight"},
        {"on": [1]},
        {"prior_settings": {"slab_sd": "__import__('os')"}},
        {"prior_settings": ["evil"]},
        {"input_shape": [10**6, 10**6]},
        {"input_shape": [10**30]},
        {"input_shape": []},
        {"input_shape": [True]},
        {"input_shape": [4.0]},
        {"outputs": 10**7},
        {"outputs": "3"},
        {"width": 10**400},
        {"width": -1},
        {"width": "wide"},
        {"width": 900.0, "input_shape": [10**6]},
    ],
    ids=lambda changes: json.dumps(changes)[:60],
)
def test_values_of_a_wrong_type_or_size_are_refused(attack, changes):
    attack.monkeypatch.chdir(attack.place)
    is_network = bool({"network", "input_shape", "outputs", "width", "likelihood"} & set(changes))
    attack.everywhere(changes, also=("pruned", "compact") if is_network else ())


@pytest.mark.parametrize("size", [0, -1, 2.0, True, 10**400, "many", None])
def test_a_number_of_data_is_a_whole_number(attack, size):
    attack.everywhere({"data_size": size})


def test_the_ready_names_are_read_without_trust(attack):
    # Control of all the above: unchanged, every command works.
    place = attack.place
    attack.withstood("show", attack.run, codes=(0,))
    attack.withstood("prune", attack.run, "--sparsity", 0.5, "--out", place / "a", codes=(0,))
    attack.withstood("prune", place / "path", "--sparsity", 0.5, "--out", place / "b", codes=(0,))
    for name in ("victim", "pruned", "compact"):
        given = ("predict", place / name, "--input", attack.inputs, "--out", place / f"{name}.npz")
        attack.withstood(*given, codes=(0,))
    repeated = ("--network", "lenet-300-100", "--prior", "spike-and-slab")  # what is no code may be repeated too
    attack.withstood("show", attack.run, *repeated, codes=(0,))


# ------------------------------------------------------------------------------------------- other files of a folder


def test_a_run_in_progress_is_shown_and_nothing_of_it_is_run(attack):
    part = attack.place / "new.part"
    part.mkdir()
    asked = {
        "network": "subprocess:call",
        "prior": f"{attack.run}/evil.py:f",
        "data": "evilmod:f",
        "guide": "os:system",
    }
    progress = {"process": 1, "host": "elsewhere", "asked": asked, "updated": 0.0}
    (part / "progress.json").write_text(json.dumps(progress))
    attack.monkeypatch.chdir(attack.run)
    for run in (part, attack.place / "new"):
        assert "subprocess:call" in attack.withstood("show", run, codes=(0,))


@pytest.mark.parametrize(
    "changes",
    [
        {"network": {"name": "evilmod:f", "input_shape": [4], "classes": 3}},
        {"network": {"name": ["x"], "input_shape": [4], "classes": 3}},
        {"network": {"name": "lenet-300-100", "input_shape": ["touch", "PWNED"], "classes": -1}},
        {"network": {"name": "lenet-300-100", "input_shape": [10**6, 10**5], "classes": 3}},
        {"network": {"name": "lenet-300-100", "input_shape": [4], "classes": 3, "width": 1e300}},
        {"network": "subprocess:call"},
        {"priors": {"*.weight": {"config": {"name": "os:system", "arguments": {}}}}},
        {"priors": {"*.weight": {"config": {"name": ["x"], "arguments": {}}}}},
        {"priors": {"*.weight": {"config": {"name": "Gaussian", "arguments": {"sd": 10**400}}}}},
        {"priors": {"*.weight": {"config": {"name": "Gaussian", "arguments": {"__class__": 1}}}}},
        {"priors": ["evil"]},
        {"likelihood": {"name": "evilmod:f"}},
        {"likelihood": {"name": "normal", "scale": 10**400}},
        {"likelihood": "normal"},
        {"gates": {"name": "UnitGates", "arguments": {"kappa": "x"}}},
        {"gates": {"name": "os:system", "arguments": {}}},
        {"gates": ["evil"]},
        {"data_size": -1},
    ],
    ids=lambda changes: json.dumps(changes)[:70],
)
def test_fit_json_names_only_what_is_ours(attack, changes):
    attack.monkeypatch.chdir(attack.run)
    Fit.load(attack.run)  # control: unchanged, it is read
    attack.edit(attack.run / "fit.json", **changes)
    with pytest.raises(ValueError) as problem:
        Fit.load(attack.run)
    assert "\n" not in str(problem.value) and str(attack.run) in str(problem.value)
    assert not attack.sentinel.exists() and not set(MODULES) & set(sys.modules)


@pytest.mark.parametrize(
    "changes",
    [
        {"bias_added": ["__class__"]},
        {"bias_added": ["forward"]},
        {"bias_added": ["fc1"]},
        {"bias_added": ["fc1.weight"]},
        {"bias_added": "fc1"},
        {"branches_removed": ["__import__('os')"]},
        {"branches_removed": 3},
        {"tensors": {"__class__": {"shape": [1], "kept": {"0": [0]}}}},
        {"tensors": {"fc1.weight": {"shape": [6, 4], "kept": {"0": [-1]}}}},
        {"tensors": {"fc1.weight": {"shape": [6, 4], "kept": {"0": [10**30]}}}},
        {"tensors": {"fc1.weight": {"shape": [6, 4], "kept": {"0": [1, 1]}}}},
        {"tensors": {"fc1.weight": {"shape": [6, 4], "kept": {"evil": [0]}}}},
        {"tensors": {"fc1.weight": {"shape": "evil", "kept": []}}},
        {"tensors": ["fc1.weight"]},
        {"units": {"fc1": {"of": -1, "kept": []}}},
    ],
    ids=lambda changes: json.dumps(changes)[:70],
)
def test_a_plan_holds_indices_and_nothing_else(attack, changes):
    attack.edit(attack.place / "compact" / "plan.json", **changes)
    given = ("predict", attack.place / "compact", "--input", attack.inputs, "--out", attack.place / "o.npz")
    attack.withstood(*given)
    assert not (attack.place / "o.npz").exists()


def test_the_generated_network_is_not_run(attack):
    file = attack.place / "compact" / "network.py"
    file.write_text((attack.place / "evil.py").read_text())
    given = ("predict", attack.place / "compact", "--input", attack.inputs, "--out", attack.place / "o.npz")
    attack.withstood(*given, codes=(0,))


# --------------------------------------------------------------------------------------------------- pickles, images


def test_pickled_arrays_are_not_unpickled(attack):
    place = attack.place
    objects = np.array([Leaves(attack.sentinel)], dtype=object)
    np.save(place / "objects.npy", objects, allow_pickle=True)
    np.savez(place / "objects.npz", x=objects, y=np.arange(1))
    (place / "bare.npz").write_bytes(attack.pickled())
    (place / "bare.npy").write_bytes(attack.pickled())
    for file in ("objects.npy", "bare.npy"):
        attack.withstood("predict", attack.run, "--input", place / file, "--out", place / "o.npz")
    for file in ("objects.npz", "bare.npz"):
        attack.withstood("fit", "--data", place / file, "--prior", "gaussian", "--out", place / "out")
        attack.edit(attack.run / "summary.json", data=str(place / file))
        attack.withstood("prune", attack.run, "--sparsity", 0.5, "--out", place / "out")
        given = ("predict", attack.run, "--raw", "--input", attack.inputs, "--out", place / "o.npz")
        attack.withstood(*given)
    with pytest.raises(IsADirectoryError, match="PWNED"):  # control: it is armed
        np.load(place / "objects.npy", allow_pickle=True)
        attack.sentinel.read_bytes()


def test_a_pickle_under_the_name_of_tensors_is_not_unpickled(attack):
    place = attack.place
    pickled = place / "pickled.safetensors"
    torch.save(Leaves(attack.sentinel), pickled)
    given = ("--data", place / "run", "--prior", "gaussian", "--weights", pickled, "--out", place / "out")
    attack.withstood("fit", *given)
    point = place / "path" / "point-000"
    files = (attack.run / "restart-0.safetensors", point / "restart-0.safetensors")
    files += (place / "pruned" / "weights.safetensors", place / "compact" / "compact.safetensors")
    for file in files:
        for content in (pickled.read_bytes(), attack.pickled()):
            file.write_bytes(content)
            if file.parent == point:
                attack.withstood("prune", place / "path", "--sparsity", 0.5, "--out", place / "out")
            else:
                given = ("predict", file.parent, "--input", attack.inputs, "--out", place / "o.npz")
                attack.withstood(*given)
    attack.withstood("show", attack.run)
    (attack.run / "trace.nc").write_bytes(attack.pickled())
    attack.withstood("show", attack.run)
    torch.load(pickled.rename(place / "pickled.pt"), weights_only=False)  # control: it is armed
    assert attack.sentinel.exists()


def test_data_sets_that_come_as_pickles_are_not_read_where_a_run_says(attack):
    place = attack.place
    batches = place / "cifar-10-batches-py"
    batches.mkdir()
    for name in ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch",
                 "batches.meta"):  # fmt: skip
        (batches / name).write_bytes(attack.pickled())
    old = place / "MNIST" / "processed"
    old.mkdir(parents=True)
    for name in ("training.pt", "test.pt"):
        torch.save(Leaves(attack.sentinel), old / name)
    for name in ("cifar10", "mnist"):
        attack.edit(attack.run / "summary.json", data=name, data_root=str(place))
        attack.withstood("prune", attack.run, "--sparsity", 0.5, "--out", place / "out")


@pytest.mark.parametrize("data", [{"a": 1}, ["x"], 3, None, "os:system", "evilmod:f", "http://127.0.0.1:9/x.npz", "\0"])
def test_odd_names_of_data_are_refused(attack, data):
    attack.monkeypatch.chdir(attack.run)
    attack.edit(attack.run / "summary.json", data=data)
    attack.withstood("prune", attack.run, "--sparsity", 0.5, "--out", attack.place / "out")


def test_an_image_that_another_program_would_read_is_refused(attack):
    from PIL import Image

    place, program = attack.place, attack.place / "bin" / "gs"
    program.parent.mkdir()
    program.write_text(f"#!/bin/sh\ntouch {shlex.quote(str(attack.sentinel))}\n")
    program.chmod(0o755)
    attack.monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    attack.monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"
    for label in ("cat", "dog"):
        (place / "images" / label).mkdir(parents=True)
        for number in range(4):
            (place / "images" / label / f"{number}.png").write_bytes(postscript)
    attack.withstood("fit", "--data", place / "images", "--prior", "gaussian", "--out", place / "out")
    attack.edit(attack.run / "summary.json", data=str(place / "images"))
    attack.withstood("prune", attack.run, "--sparsity", 0.5, "--out", place / "out")
    with pytest.raises(OSError), Image.open(place / "images" / "cat" / "0.png") as image:  # control: it is armed
        image.load()
    assert attack.sentinel.exists()
    for label in ("cat", "dog"):  # control: a PNG in its place is read, and so is a GIF under that name
        for number in range(4):
            pixels = np.full((8, 8), 40 * number + (label == "dog"), dtype=np.uint8)
            file = place / "images" / label / f"{number}.png"
            Image.fromarray(pixels).save(file, format="GIF" if number else "PNG")
    assert load_data(place / "images").input_shape == (3, 8, 8)


# ------------------------------------------------------------------------------------------------ it runs when allowed


@pytest.fixture
def own(made, tmp_path, capsys):
    """Copies of the folders that name code of one's own, and what tells whether it was run."""
    for name in ("own-run", "own-path"):
        shutil.copytree(made / name, tmp_path / name)
    (made / "ran").unlink(missing_ok=True)
    capsys.readouterr()
    return tmp_path


NET, PRIOR, KNOB = "{made}/own.py:net", "{made}/own.py:prior", "{made}/own.py:by_scale"


def allowances(made, prior):
    repeated = ("--network", NET.format(made=made), "--prior", prior.format(made=made))
    return {"--trust-code": ("--trust-code",), "repeated": repeated}


@pytest.mark.parametrize("how", ["--trust-code", "repeated"])
def test_what_is_repeated_or_trusted_runs(own, made, how, capsys):
    run, path, x = own / "own-run", own / "own-path", made / "x.npy"
    allowed, on_path = allowances(made, PRIOR)[how], allowances(made, KNOB)[how]
    for given, more in (
        (("show", run), allowed),
        (("prune", run, "--sparsity", 0.5, "--compact", "--out", own / "a"), allowed),
        (("prune", path, "--sparsity", 0.5, "--out", own / "b"), on_path),
        (("predict", run, "--input", x, "--out", own / "a.npz"), allowed),
        (("predict", own / "a", "--input", x, "--out", own / "b.npz"), allowed),
    ):
        assert commands(*given) == (0 if given[0] == "show" else 2)
        assert not (made / "ran").exists()
        assert "own.py" in "".join(capsys.readouterr())
        assert commands(*given, *more) == 0, capsys.readouterr().err
        assert (made / "ran").exists()
        assert "--trust-code" not in "".join(capsys.readouterr())
        (made / "ran").unlink()


def test_from_python_it_is_the_same(own, made, capsys):
    run, path = own / "own-run", own / "own-path"
    assert commands("prune", run, "--sparsity", 0.5, "--trust-code", "--out", own / "a") == 0
    (made / "ran").unlink()
    network, prior, knob = (one.format(made=made) for one in (NET, PRIOR, KNOB))
    for read, folder, more in (
        (load_run, run, {"prior": prior}),
        (load_path, path, {"prior": knob}),
        (load_pruned, own / "a", {}),
    ):
        for insufficient in ({}, more, {"trust_code": False}):
            with pytest.raises(CodeNotTrusted, match="would be run"):
                read(folder, **insufficient)
        with pytest.raises(ValueError, match="--network is lenet-5, but .* names the network .*own.py:net"):
            read(folder, network="lenet-5", **more)
        assert not (made / "ran").exists()
        for enough in ({"network": network, **more}, {"trust_code": True}):
            read(folder, **enough)
            assert (made / "ran").exists()
            (made / "ran").unlink()


def test_a_relative_file_is_the_same_reference(own, made, monkeypatch):
    monkeypatch.chdir(made)
    assert commands("prune", own / "own-run", "--sparsity", 0.5, "--network", "own.py:net", "--prior",
                    "./own.py:prior", "--out", own / "a") == 0  # fmt: skip


@pytest.mark.parametrize(
    "other", [("--network", "{own}/own.py:net"), ("--network", "own:net"), ("--prior", "laplace"), ("--prior", "{x}:b")]
)
def test_another_reference_is_refused_with_both(own, made, other, capsys):
    shutil.copy(made / "own.py", own / "own.py")
    option, reference = other[0], other[1].format(own=own, x=made / "own.py")
    for more in ((), ("--trust-code",)):
        given = ("prune", own / "own-run", "--sparsity", 0.5, "--out", own / "a", option, reference, *more)
        assert commands(*given) == 2
        err = capsys.readouterr().err
        assert err.count("\n") == 1 and reference in err and str(made / "own.py") in err
    assert not (made / "ran").exists()


def test_the_commands_that_are_printed_work(made, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("bayesprune.run_folder.ARVIZ_DRAWS", 3)
    folder = tmp_path / "with a space"
    folder.mkdir()
    shutil.copy(made / "own.py", folder / "own.py")
    monkeypatch.chdir(tmp_path)
    given = ("--data", made / "data.npz", "--prior", "with a space/own.py:prior", "--epochs", 1, "--width", 0.02)
    assert commands("fit", *given, "--out", "new") == 0
    *_, hint = capsys.readouterr().out.splitlines()
    assert hint.startswith("next: ")
    for command in hint.removeprefix("next: ").split("; "):
        assert commands(*shlex.split(command)[1:]) == 0, capsys.readouterr().err
    assert Path("new/plots").is_dir() and Path("new-pruned").is_dir()
