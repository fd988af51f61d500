"""A data file never runs code: attacks by names, pickles and shapes, each through every command that reads them."""

from __future__ import annotations

import json
import os
import shlex
import sys

import numpy as np
import pytest
import torch

from bayesprune.data.sets import load_data
from bayesprune.inference.fit_result import Fit
from tests.attacks.armed_folders import MODULES, Leaves

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
    for named in (pickled, place / "pickled.pth"):
        torch.save(Leaves(attack.sentinel), named)
        given = ("--data", place / "run", "--prior", "gaussian", "--weights", named, "--out", place / "out")
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
