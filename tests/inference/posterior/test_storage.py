"""Saved fits: nothing else is replaced, nothing damaged is loaded, and a kill loses neither the old nor the new."""

from __future__ import annotations

import json
import os
import shutil
import stat
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

import bayesprune as bp
from bayesprune.inference.posterior.storage import load_fit
from bayesprune.inference.watching.trace_file import WriteTrace, read_trace

X = torch.randn(40, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, 0] * 2.0


HALF = {"prunings": [{"sparsity": 0.5}]}


class Masked(nn.Module):
    """Has a buffer that is infinite, as masks of attention are."""

    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 1)
        self.register_buffer("mask", torch.tensor([0.0, -torch.inf]))

    def forward(self, x):
        return self.fc(x) + self.mask.softmax(0)[:1]


def model(network=None):
    torch.manual_seed(0)  # the same starting weights in the processes that tests start
    return bp.BayesianNetwork(
        nn.Linear(3, 1) if network is None else network, {"*weight": bp.Gaussian()}, bp.Normal(), data_size=40
    )


def fitted(seed=0, network=None, **how):
    return bp.fit(model(network), (X, Y), epochs=2, seed=seed, progress=False, **how)


@pytest.fixture(scope="module")
def fits():
    return fitted(0), fitted(1)


@pytest.fixture
def saved(fits, tmp_path):
    return fits[0].save(tmp_path / "fit")


def weights(fit):
    return {name: value.clone() for name, value in fit.guide.state_dict().items()}


def same(one, other):
    one, other = weights(one), weights(other)
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def edit(folder, change):
    found = json.loads((folder / "fit.json").read_text())
    change(found)
    (folder / "fit.json").write_text(json.dumps(found))


# ------------------------------------------------------------------------------------------------ replacing


def test_a_saved_fit_is_replaced_where_that_is_asked_for(fits, saved, tmp_path):
    with pytest.raises(ValueError, match="exists already: choose another folder, or pass overwrite=True"):
        fits[1].save(saved)
    assert same(load_fit(bp.Fit, saved, model()), fits[0])
    fits[1].save(saved, overwrite=True)
    assert same(load_fit(bp.Fit, saved, model()), fits[1]) and not same(fits[0], fits[1])
    assert os.listdir(tmp_path) == ["fit"]


def test_a_folder_that_is_no_fit_is_never_replaced(fits, tmp_path):
    project = tmp_path / "project"
    project.mkdir()
    (project / "thesis.tex").write_text("years of work")
    with pytest.raises(ValueError, match="is not a saved fit, so it is not replaced: choose another folder"):
        fits[0].save(project, overwrite=True)
    assert (project / "thesis.tex").read_text() == "years of work" and os.listdir(tmp_path) == ["project"]


def test_a_fit_with_other_files_beside_it_is_never_replaced(fits, saved):
    (saved / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds notes.txt besides a saved fit"):
        fits[1].save(saved, overwrite=True)
    assert (saved / "notes.txt").read_text() == "mine" and same(load_fit(bp.Fit, saved, model()), fits[0])


@pytest.mark.parametrize("place", [".", "..", "/", "", "../fit/.."])
def test_the_current_folder_is_never_emptied(fits, saved, monkeypatch, place):
    monkeypatch.chdir(saved)
    before = sorted(os.listdir())
    with pytest.raises(ValueError, match="is the current folder, one above it, or no name"):
        fits[1].save(place, overwrite=True)
    assert sorted(os.listdir()) == before


def test_links_are_told(fits, saved, tmp_path):
    (tmp_path / "link").symlink_to(saved)
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    for name, told in (("link", "a link to"), ("dangling", "a link that leads nowhere")):
        with pytest.raises(ValueError, match=told):
            fits[1].save(tmp_path / name, overwrite=True)
        with pytest.raises(ValueError, match="exists already"):
            fits[1].save(tmp_path / name)
    assert same(load_fit(bp.Fit, tmp_path / "link", model()), fits[0])  # reading through a link is no matter


CHILD = """
import os, signal, sys
sys.path.insert(0, sys.argv[3])
from test_storage import fitted, load_fit, model
step, after = int(sys.argv[1]), sys.argv[2] == "after"
first, renames = fitted(1), [0]
def rename(source, target, original=os.rename):
    renames[0] += ".json" not in str(target)
    if renames[0] == step and not after:
        os.kill(os.getpid(), signal.SIGKILL)
    original(source, target)
    if renames[0] == step and after:
        os.kill(os.getpid(), signal.SIGKILL)
os.rename = rename
first.save("fit", overwrite=True)
"""


@pytest.mark.parametrize(
    ("step", "when", "expected"),
    [
        pytest.param(1, "before", 0, marks=pytest.mark.slow),
        (1, "after", 1),
        pytest.param(2, "before", 1, marks=pytest.mark.slow),
        pytest.param(2, "after", 1, marks=pytest.mark.slow),
    ],
)
def test_a_kill_at_each_step_of_a_replacement_leaves_a_fit_that_loads(fits, saved, tmp_path, step, when, expected):
    arguments = [sys.executable, "-c", CHILD, str(step), when, os.path.dirname(__file__)]
    done = subprocess.run(arguments, cwd=tmp_path, timeout=120, capture_output=True, text=True)
    assert done.returncode == -9, done.stderr
    assert len(os.listdir(tmp_path)) + (not saved.exists()) == 2  # the kill left a staging folder
    loaded = load_fit(bp.Fit, saved, model())
    assert same(loaded, fits[expected]) and not same(loaded, fits[1 - expected])
    assert os.listdir(tmp_path) == ["fit"]


# ------------------------------------------------------------------------------------------------ damage


class Tuples(bp.Categorical):
    """A likelihood whose arguments JSON gives back as lists."""

    name = "of tuples"

    def __init__(self, limits=(0.0, 1.0)):
        super().__init__()
        self.limits = limits

    def config(self):
        return {"name": self.name, "limits": self.limits}


def test_a_likelihood_of_ones_own_with_tuples_in_its_config_is_read_back(tmp_path):
    def own(likelihood):
        torch.manual_seed(0)
        return bp.BayesianNetwork(nn.Linear(4, 3), {"weight": bp.Gaussian()}, likelihood, 20)

    fit = bp.fit(own(Tuples()), (torch.randn(20, 4), torch.arange(20) % 3), "map", steps=2, device="cpu")
    fit.save(tmp_path / "fit")
    assert same(bp.Fit.load(tmp_path / "fit", own(Tuples())), fit)
    with pytest.raises(ValueError, match="fitted with the likelihood"):
        bp.Fit.load(tmp_path / "fit", own(Tuples((0.0, 2.0))))


def test_a_changed_tensor_is_seen(fits, saved):
    file = saved / "restart-0.safetensors"
    state = load_file(file)
    name = next(name for name in state if name.startswith("guide."))
    state[name].view(-1)[0] += 1e-3
    save_file(state, file)
    with pytest.raises(ValueError, match=r"restart-0.safetensors is damaged \(its content is not what was written\)"):
        load_fit(bp.Fit, saved, model())
    edit(saved, lambda found: found.pop("digests"))  # as earlier versions wrote it
    assert not same(load_fit(bp.Fit, saved, model()), fits[0])


def test_a_changed_trace_is_seen(saved):
    content = bytearray((saved / "trace.nc").read_bytes())
    content[-9] ^= 1
    (saved / "trace.nc").write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"trace.nc is damaged \(its content is not what was written\)"):
        load_fit(bp.Fit, saved, model())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused_with_the_files_name(saved, wrong):
    file = saved / "restart-0.safetensors"
    state = load_file(file)
    next(value for name, value in state.items() if name.startswith("guide.")).view(-1)[0] = wrong
    save_file(state, file)
    edit(saved, lambda found: found.pop("digests"))
    with pytest.raises(ValueError, match="restart-0.safetensors holds NaN or infinity in guide"):
        load_fit(bp.Fit, saved, model())


@pytest.mark.parametrize("wrong", [float("nan"), float("inf")])
def test_a_fit_that_is_not_finite_is_not_saved(tmp_path, wrong):
    fit = fitted()
    with torch.no_grad():
        next(iter(fit.guide.parameters())).view(-1)[0] = wrong
    with pytest.raises(ValueError, match="restart 0 of the fit holds NaN or infinity in guide.*fit again"):
        fit.save(tmp_path / "fit")
    assert os.listdir(tmp_path) == []


def test_a_mask_may_be_infinite_but_not_nan_and_statistics_may_not(tmp_path):
    fit = fitted(network=Masked())
    back = load_fit(bp.Fit, fit.save(tmp_path / "fit"), model(Masked()))
    assert torch.equal(back.model.network.mask, torch.tensor([0.0, -torch.inf]))
    fit.model.network.mask[0] = torch.nan
    with pytest.raises(ValueError, match=r"NaN or infinity in network\.mask"):
        fit.save(tmp_path / "other")
    normalised = nn.Sequential(nn.BatchNorm1d(3), nn.Linear(3, 1))
    fit = bp.fit(
        bp.BayesianNetwork(normalised, {"1.weight": bp.Gaussian()}, bp.Normal(), data_size=40), (X, Y), epochs=1,
        progress=False,
    )  # fmt: skip
    fit.model.network[0].running_var[0] = torch.inf
    with pytest.raises(ValueError, match=r"NaN or infinity in network\.0\.running_var"):
        fit.save(tmp_path / "third")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda found: found.update(settings=3), "settings is a whole number, an object is expected"),
        (lambda found: found["settings"].update(precision=[]), "precision"),
        (lambda found: found["settings"].update(guide={"a": 1}), "fit.json is damaged"),
        (lambda found: found.update(seeds=[]), "seeds and plans"),
        (lambda found: found.update(plans=[None, None]), "seeds and plans"),
        (lambda found: found.update(digests=[]), "digests"),
        (lambda found: found.update(data_size="40"), "data_size"),
        (lambda found: found["priors"].update({"*weight": 3}), "is no object"),
        (lambda found: found["priors"]["*weight"].update(printed=None), "printed"),
        (lambda found: found.pop("shapes"), "lacks shapes"),
        (lambda found: found.update(format="1"), "written in format 1"),
        (lambda found: found.clear(), "written in format None"),
    ],
)
def test_wrongly_typed_values_are_one_sentence(saved, change, told):
    edit(saved, change)
    with pytest.raises(ValueError, match=told) as problem:
        load_fit(bp.Fit, saved, model())
    assert "\n" not in str(problem.value) and "fit.json" in str(problem.value) or "format" in told


@pytest.mark.parametrize(
    "change",
    [
        {"classes": 10**9}, {"classes": "10"}, {"classes": -1}, {"input_shape": 3}, {"input_shape": ["a"]},
        {"input_shape": [10**12]}, {"name": "none"}, {"name": []}, {"width": "wide"}, {"width": 1e9},
    ],
)  # fmt: skip
def test_a_named_network_of_wrong_sizes_takes_no_memory(tmp_path, change):
    data = bp.load_data("digits")
    network = bp.lenet_300_100(64, hidden=(300, 100))
    network.config = {"name": "lenet-300-100", "input_shape": [1, 8, 8], "classes": 10}
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, data_size=len(data.train[0]))
    folder = bp.fit(bnn, data.train, epochs=1, progress=False).save(tmp_path / "fit")
    assert len(load_fit(bp.Fit, folder).restarts) == 1  # control
    edit(folder, lambda found: found["network"].update(change))
    with pytest.raises(ValueError, match="fit.json is damaged") as problem:
        load_fit(bp.Fit, folder)
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"format": NaN}', b"\xff\xfe", b"[" * 100_000, b'{"a": 1e999}'])
def test_a_damaged_json_file_is_one_sentence(saved, content):
    (saved / "fit.json").write_bytes(content)
    with pytest.raises(ValueError, match="fit.json is damaged") as problem:
        load_fit(bp.Fit, saved, model())
    assert "\n" not in str(problem.value)


@pytest.mark.parametrize("name", ["fit.json", "restart-0.safetensors", "trace.nc"])
def test_a_pipe_in_place_of_a_file_is_not_waited_for(saved, name):
    (saved / name).unlink()
    os.mkfifo(saved / name)
    with pytest.raises(ValueError, match="it is no regular file"):
        load_fit(bp.Fit, saved, model())


def test_tensors_cut_short_are_told_without_digests_too(saved):
    file = saved / "restart-0.safetensors"
    whole = file.read_bytes()
    edit(saved, lambda found: found.pop("digests"))
    for cut in (0, 4, len(whole) // 2, len(whole) - 1):
        file.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="restart-0.safetensors is damaged"):
            load_fit(bp.Fit, saved, model())


# ------------------------------------------------------------------------------------------------ places


@pytest.fixture
def home(tmp_path, monkeypatch):
    home = tmp_path / "home"
    (tmp_path / "here").mkdir()
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(tmp_path / "here")
    return home


def test_the_home_folder_is_meant_at_every_door(fits, home):
    assert fits[0].save("~/fit") == home / "fit"
    fits[1].save("~/fit", overwrite=True)
    assert same(load_fit(bp.Fit, "~/fit", model()), fits[1]) and same(bp.Fit.load("~/fit", model()), fits[1])
    fitted(callbacks=[WriteTrace("~/trace")], checkpoint="~/kept")
    assert read_trace(home / "trace").sizes["epoch"] == 2 and (home / "kept" / "checkpoint.json").exists()
    how = {"knob": "sd", "epochs": 1, "first_epochs": 1, "restarts": 1, "progress": False, "validation": (X, Y), **HALF}
    path = bp.sparsity_path(lambda sd: model_of(sd), (X, Y), [1.0, 0.5], folder="~/path", **how)
    again = bp.SparsityPath.load("~/path", model_of)
    assert np.array_equal(again.table["sparsity"], path.table["sparsity"]) and (home / "path" / "point-001").is_dir()
    assert os.listdir(home.parent / "here") == []


def model_of(sd):
    return bp.BayesianNetwork(nn.Linear(3, 1), {"weight": bp.Gaussian(sd)}, bp.Normal(), data_size=40)


def test_names_that_begin_with_a_tilde_are_kept(fits, home):
    for place in ("./~fit", "sub/~fit", "./~", "sub/~"):
        fits[0].save(place)
        assert same(load_fit(bp.Fit, place, model()), fits[0])
    assert sorted(os.listdir()) == ["sub", "~", "~fit"] and os.listdir(home) == []


# ------------------------------------------------------------------------------------------------ permissions


@pytest.fixture
def umask():
    before = os.umask(0)
    os.umask(before)
    yield os.umask
    os.umask(before)


def modes(folder):
    found = [folder, *folder.rglob("*")]
    return {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in found}


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_files_have_the_permissions_of_the_users_own(tmp_path, umask, mask):
    umask(mask)
    own = {(True, 0o777 & ~mask), (False, 0o666 & ~mask)}
    fit = fitted(callbacks=[WriteTrace(tmp_path / "trace")])
    fit.save(tmp_path / "fit")
    how = {"knob": "sd", "epochs": 1, "first_epochs": 1, "restarts": 1, "progress": False, "validation": (X, Y), **HALF}
    bp.sparsity_path(model_of, (X, Y), [1.0], folder=tmp_path / "path", **how)
    bp.export_network(nn.Linear(3, 1), X[:1], tmp_path / "export", plan={})
    bp.export_network(nn.Linear(3, 1), X[:1], tmp_path / "export")
    for name in ("fit", "path", "export", "trace"):
        assert modes(tmp_path / name) == own, name
    fitted(checkpoint=tmp_path / "kept")
    assert modes(tmp_path / "kept") == own


# ------------------------------------------------------------------------------------------------ paths


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda index: index.update(values=3), "values"),
        (lambda index: index.update(values=["a"]), "values"),
        (lambda index: index.update(points={}), "points"),
        (lambda index: index.update(points=[3]), "not subscriptable"),
        (lambda index: index["points"][0].update(fits=None), "not subscriptable"),
        (lambda index: index["points"][0].pop("notes"), "notes"),
        (lambda index: index.update(prunings=[3]), "not iterable"),
        (lambda index: index["prunings"][0].update(sparsity="x"), "sparsity"),
        (lambda index: index["points"][0].update(fits=[{}]), "No variable named"),
        (lambda index: index.update(declarations=[]), "more points than values"),
        (lambda index: index.update(format="1"), "format"),
        (lambda index: index.pop("knob"), "lacks knob"),
        (lambda index: index.update(data=[]), "data"),
    ],
)
def test_a_damaged_index_of_a_path_is_one_sentence(path_of_one, tmp_path, change, told):
    folder = shutil.copytree(path_of_one, tmp_path / "path")
    index = json.loads((folder / "path.json").read_text())
    change(index)
    (folder / "path.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=f"path.json is damaged.*{told}") as problem:
        bp.SparsityPath.load(folder, model_of)
    assert "\n" not in str(problem.value)


@pytest.fixture(scope="module")
def path_of_one(tmp_path_factory):
    folder = tmp_path_factory.mktemp("paths") / "path"
    how = {"knob": "sd", "epochs": 1, "first_epochs": 1, "restarts": 1, "progress": False, "validation": (X, Y), **HALF}
    bp.sparsity_path(model_of, (X, Y), [1.0], folder=folder, **how)
    return folder
