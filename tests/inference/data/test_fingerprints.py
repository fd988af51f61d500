"""Fingerprints tell another network, data and settings apart; rounding and starting weights do not count."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset

import bayesprune as bp
from bayesprune.inference.data.fingerprints import (
    as_then,
    data_fingerprint,
    described,
    model_fingerprint,
    names_of_today,
    network_structure,
)
from bayesprune.inference.sparsity_path.continuation import sparsity_path
from bayesprune.inference.sparsity_path.sparsity_path import SparsityPath

SIZE = 12
torch.manual_seed(2)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] > 0).long()
HOW = {"epochs": 2, "batch_size": 6, "device": "cpu"}


def network(activation=nn.ReLU, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 5), activation(), nn.Linear(5, 2))


def model(activation=nn.ReLU, sd=1.0, seed=0):
    return bp.BayesianNetwork(network(activation, seed), {"*.weight": bp.Gaussian(sd)}, data_size=SIZE)


def strip(text):
    """A fingerprint as earlier versions wrote it."""
    return text.partition("-")[0]


class Scaled(nn.Module):
    """Prints what it has learned, and an address."""

    def __init__(self, scale, power=1):
        super().__init__()
        self.scale, self.power = nn.Parameter(torch.tensor(scale)), power
        self.function = object()

    def forward(self, x):
        return self.scale * x**self.power

    def extra_repr(self):
        return f"scale={self.scale.item():.2f}, power={self.power}, function={self.function}"


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (nn.ReLU(), nn.Tanh()),
        (nn.Dropout(0.1), nn.Dropout(0.2)),
        (nn.Conv2d(1, 2, 3, stride=1), nn.Conv2d(1, 2, 3, stride=2)),
        (nn.Conv2d(1, 2, 3, padding=0), nn.Conv2d(1, 2, 3, padding=1)),
        (Scaled(1.0, power=1), Scaled(1.0, power=2)),
    ],
)
def test_modules_of_one_shape_that_compute_something_else_are_told_apart(one, other):
    assert network_structure(nn.Sequential(one)) != network_structure(nn.Sequential(other))


def test_weights_modes_and_addresses_do_not_count():
    learned = Scaled(1.0)
    other = Scaled(2.0).eval()
    assert network_structure(learned) == network_structure(other)
    assert learned.scale.item() == 1.0 and not other.training
    assert model_fingerprint(model(seed=0)) == model_fingerprint(model(seed=1))
    assert model_fingerprint(model(seed=0)) != model_fingerprint(model(sd=2.0))
    assert model_fingerprint(model(seed=0)) != model_fingerprint(model(nn.Tanh))


def test_a_checkpoint_of_relus_is_refused_by_tanhs(tmp_path):
    bp.fit(model(), (X, Y), checkpoint=tmp_path / "state", **HOW)
    with pytest.raises(ValueError, match="holds a fit with model"):
        bp.fit(model(nn.Tanh), (X, Y), checkpoint=tmp_path / "state", **HOW)
    bp.fit(model(), (X, Y), checkpoint=tmp_path / "state", **HOW)


def test_a_checkpoint_of_an_earlier_version_goes_on_and_still_refuses_another_prior(tmp_path):
    folder = tmp_path / "state"
    bp.fit(model(), (X, Y), checkpoint=folder, **HOW)
    file = folder / "checkpoint.json"
    found = json.loads(file.read_text())
    found["asked"]["model"] = strip(found["asked"]["model"])
    file.write_text(json.dumps(found))
    bp.fit(model(), (X, Y), checkpoint=folder, **HOW)
    with pytest.raises(ValueError, match="holds a fit with model"):
        bp.fit(model(sd=2.0), (X, Y), checkpoint=folder, **HOW)


def test_a_saved_fit_of_relus_is_refused_by_tanhs_in_a_sentence_that_names_the_module(tmp_path):
    bp.fit(model(), (X, Y), **HOW).save(tmp_path / "fit")
    with pytest.raises(ValueError, match=r"module 1 was ReLU\(\), but now it is Tanh\(\)"):
        bp.Fit.load(tmp_path / "fit", model(nn.Tanh))
    bp.Fit.load(tmp_path / "fit", model(seed=5))


def test_a_saved_fit_of_an_earlier_version_is_loaded_without_comparing_modules(tmp_path):
    bp.fit(model(), (X, Y), **HOW).save(tmp_path / "fit")
    file = tmp_path / "fit" / "fit.json"
    found = json.loads(file.read_text())
    del found["modules"]
    file.write_text(json.dumps(found))
    bp.Fit.load(tmp_path / "fit", model(nn.Tanh))
    found["modules"] = ["ReLU"]
    file.write_text(json.dumps(found))
    with pytest.raises(ValueError, match="is damaged"):
        bp.Fit.load(tmp_path / "fit", model())


def test_a_path_of_relus_is_refused_by_tanhs_and_one_of_an_earlier_version_goes_on(tmp_path):
    folder = tmp_path / "path"
    how = HOW | {"knob": "sd", "validation": (X, Y), "restarts": 1, "prunings": [{"sparsity": 0.5}], "folder": folder}
    sparsity_path(lambda sd: model(sd=sd), (X, Y), [1.0], **how)
    with pytest.raises(ValueError, match="fingerprints"):
        sparsity_path(lambda sd: model(nn.Tanh, sd=sd), (X, Y), [1.0], **how)
    with pytest.raises(ValueError, match="has changed"):
        SparsityPath.load(folder, lambda sd: model(nn.Tanh, sd=sd))
    file = folder / "path.json"
    found = json.loads(file.read_text())
    found["declarations"] = [strip(each) for each in found["declarations"]]
    file.write_text(json.dumps(found))
    SparsityPath.load(folder, lambda sd: model(sd=sd))
    longer = sparsity_path(lambda sd: model(sd=sd), (X, Y), [1.0, 0.5], **how)
    assert longer.table.sizes["value"] == 2
    assert all("-" in each for each in json.loads(file.read_text())["declarations"])


def test_an_earlier_fingerprint_is_compared_in_its_own_form():
    now = model_fingerprint(model())
    assert as_then(now, strip(now)) == strip(now)
    assert as_then(now, now) == now == as_then(now, None)


def test_the_fingerprint_of_data_is_exact():
    assert data_fingerprint((X * (1 + 1e-6), Y)) != data_fingerprint((X, Y)) == data_fingerprint((X.clone(), Y))


def test_a_loader_of_a_stream_has_a_fingerprint():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter([(X[0], Y[0])])

    assert data_fingerprint(DataLoader(Stream())) == "DataLoader of unknown elements"


def names_of_a_user():
    """Stands in a file of the user's, where the module is part of the name."""


def test_names_of_the_package_s_own_code_outlive_their_files():
    schedule = bp.steps([0.5, 0.75])
    now = described({"schedule": schedule, "prior": bp.HALO(1.0), "mine": names_of_a_user})
    assert now["schedule"] == "bayesprune:steps.<locals>.<lambda>"
    assert now["prior"] == "bayesprune:HALO" and not now["mine"].startswith("bayesprune:")
    before = {
        "schedule": f"bayesprune.inference.schedules.{schedule.__qualname__}",
        "prior": "bayesprune.models.halo.HALO",
        "mine": now["mine"],
    }
    assert names_of_today(before) == now and names_of_today(now) == now
    other = {**before, "schedule": "bayesprune.inference.schedules.cosine"}  # the control
    assert names_of_today(other) != now
