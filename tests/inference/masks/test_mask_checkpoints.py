"""Fits with masks that change: killed in the middle of a cycle and resumed bit for bit, saved, loaded, gone on with."""

from __future__ import annotations

import json
import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.density_schedules import CubicDensity, CyclicDensity, IteratedDensity
from bayesprune.inference.masks.dynamic_masks import BY_SGD, ActiveMasks, DynamicMasks
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.files.tensor_file import read_tensors, write_tensors
from tests.inference.masks.watched_training import X, Y, ended, model

STEPS = 60
"""Four an epoch."""


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)


class Killed(Callback):
    is_resumable = True

    def __init__(self, at):
        self.at = at

    def on_step(self, state):
        if state.step == self.at:
            raise KeyboardInterrupt


class Stopped(Callback):
    def __init__(self, at):
        self.at = at

    def on_step(self, state):
        state.stop = state.step == self.at


RULES = {
    "cycles": DynamicMasks(0.2, every=5, within=3, schedule=CyclicDensity(2, ends=0.6), batches=3),
    "rigl": DynamicMasks(0.2, every=7, batches=6),
    "granet": DynamicMasks(0.2, every=5, schedule=CubicDensity(), across="network"),
    "iterated": DynamicMasks(0.2, schedule=IteratedDensity(3), grow=None, share=0.0, across="distribution"),
    "drawn": DynamicMasks(0.2, every=5, grow="random", temperature=0.1, start="magnitude"),
}


def fitted(rule, execution="plain", given=None, **more):
    how = {"guide": "map", "steps": STEPS, "batch_size": 40, "precision": "float64", "device": "cpu"}
    how |= {"execution": execution} | ({"compiled": False} if execution == "fused" else {})
    return bp.fit(model() if given is None else given, (X, Y), rules=[rule] if rule else [], **{**how, **more})


def tensors(fit):
    parts = (fit.model, fit.guide)
    return {(number, name): t for number, part in enumerate(parts) for name, t in part.state_dict().items()}


def is_same(one, other):
    mine, theirs = tensors(one), tensors(other)
    timed = dict.fromkeys(("seconds", "execution", "resumed_at_epoch"))
    return (
        mine.keys() == theirs.keys()
        and all(torch.equal(value, theirs[key]) for key, value in mine.items())
        and one.trace.drop_vars("seconds").identical(other.trace.drop_vars("seconds"))
        and {**one.settings, **timed} == {**other.settings, **timed}
    )


@pytest.mark.parametrize(
    ("name", "execution", "at"),
    [
        *[("cycles", execution, at) for execution in ("plain", "fused") for at in (10, 29)],
        *[("rigl", execution, 21) for execution in ("plain", "fused")],
        ("granet", "plain", 22),
        ("drawn", "plain", 26),
        ("drawn", "fused", 26),
    ],
)
def test_a_fit_that_was_killed_ends_as_one_that_was_not(name, execution, at, tmp_path):
    """Epochs end after steps 8, 20, 28: between updates, inside of cycles, among steps whose gradients add up."""
    whole = fitted(RULES[name], execution)
    with pytest.raises(KeyboardInterrupt):
        fitted(RULES[name], execution, callbacks=[Killed(at)], checkpoint=tmp_path / "fit")
    resumed = fitted(RULES[name], execution, checkpoint=tmp_path / "fit")
    assert resumed.settings["resumed_at_epoch"] == (at - 1) // 4 + 1
    assert is_same(resumed, whole)
    assert whole.settings["execution"]["name"] == execution
    assert not is_same(fitted(RULES[name], execution, seed=1), whole)  # control


@pytest.mark.parametrize(("prior", "guide"), [(bp.Gaussian, "meanfield"), (bp.SpikeAndSlab, None)])
def test_a_posterior_that_was_killed_ends_as_one_that_was_not(prior, guide, tmp_path):
    """What comes after it was killed starts at the mean scale of then, or where the fit began, not where it went on."""
    how = {"guide": guide, "learning_rate": 0.02}
    whole = fitted(RULES["rigl"], given=model(prior()), **how)
    with pytest.raises(KeyboardInterrupt):
        fitted(RULES["rigl"], given=model(prior()), callbacks=[Killed(21)], checkpoint=tmp_path / "fit", **how)
    resumed = fitted(RULES["rigl"], given=model(prior()), checkpoint=tmp_path / "fit", **how)
    assert resumed.settings["resumed_at_epoch"] == 6 and is_same(resumed, whole)
    assert whole.settings["masks"][0]["exchanged"] > 20


def test_what_is_kept_of_the_gradients_is_needed(tmp_path, monkeypatch):
    whole = fitted(RULES["rigl"])
    with pytest.raises(KeyboardInterrupt):
        fitted(RULES["rigl"], callbacks=[Killed(21)], checkpoint=tmp_path / "fit")
    go_on = ActiveMasks.load_state_dict
    monkeypatch.setattr(
        ActiveMasks, "load_state_dict", lambda self, kept: go_on(self, {**kept, "gradient": {}, "seen": 0})
    )
    assert not is_same(fitted(RULES["rigl"], checkpoint=tmp_path / "fit"), whole)


def test_a_checkpoint_of_another_rule_or_of_none_is_refused(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        fitted(RULES["rigl"], callbacks=[Killed(21)], checkpoint=tmp_path / "fit")
    for other in (RULES["granet"], None):
        with pytest.raises(ValueError, match="holds a fit with rule masks .*, but now it is") as told:
            fitted(other, checkpoint=tmp_path / "fit", **BY_SGD)
        assert "\n" not in str(told.value)
    with pytest.raises(KeyboardInterrupt):
        fitted(None, callbacks=[Killed(21)], checkpoint=tmp_path / "dense", **BY_SGD)
    with pytest.raises(ValueError, match="holds a fit with rule masks None, but now it is"):
        fitted(RULES["rigl"], checkpoint=tmp_path / "dense", **BY_SGD)


def test_a_checkpoint_without_its_masks_is_refused(tmp_path, monkeypatch):
    own = checkpoints._tensors
    with monkeypatch.context() as patched:
        patched.setattr(checkpoints, "_tensors", lambda *m: [t for t in own(*m) if t.dtype != torch.bool])
        with pytest.raises(KeyboardInterrupt):
            fitted(RULES["rigl"], callbacks=[Killed(21)], checkpoint=tmp_path / "fit")
    with pytest.raises(ValueError, match="is not of this model") as told:
        fitted(RULES["rigl"], checkpoint=tmp_path / "fit")
    assert "\n" not in str(told.value)


# -- saved fits ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def sparse():
    return fitted(RULES["rigl"])


def changed(folder, ways=None, drop=False):
    """Changes what a saved fit says of its masks, whose digest is then none."""
    file = folder / "fit.json"
    declared = json.loads(file.read_text())
    declared.pop("digests")
    if ways is not None:
        declared["ways"] = ways
    file.write_text(json.dumps(declared))
    if drop:
        stored = folder / "restart-0.safetensors"
        state = {name: value for name, value in read_tensors(stored, "").items() if not name.startswith("ways.")}
        stored.unlink()
        write_tensors(state, stored)


def test_a_saved_fit_comes_back_with_its_masks(sparse, tmp_path):
    sparse.save(tmp_path / "fit")
    back = bp.Fit.load(tmp_path / "fit", model())
    assert all(torch.equal(value, tensors(back)[key]) for key, value in tensors(sparse).items())
    for fit in (sparse, back):
        zeros = sum(int((fit_weight == 0).sum()) for name, fit_weight in ended(fit).items() if "weight" in name)
        assert zeros == 268 - round(0.2 * 268)
    factors = dict(back.model.ways[0].factors.items())
    assert all(torch.equal(factors[name] != 0, mask) for name, mask in sparse.model.ways[0].masks.items())


@pytest.mark.parametrize(
    ("how", "said"),
    [
        ({"drop": True}, "does not fit the model it is loaded into .*masks"),
        ({"ways": {}}, "does not fit the model it is loaded into .*masks"),
        ({"ways": {"masks": {"tensors": ["fc1.weight"]}}}, "masks are of tensors of another network"),
        ({"ways": {"masks": {"tensors": ["0.weight"]}}}, "does not fit the model it is loaded into .*masks"),
        ({"ways": {"masks": None}}, "its masks are wrong"),
    ],
)
def test_a_saved_fit_without_its_masks_or_with_those_of_another_network_is_refused(how, said, sparse, tmp_path):
    sparse.save(tmp_path / "fit")
    changed(tmp_path / "fit", **how)
    with pytest.raises(ValueError, match=said) as told:
        bp.Fit.load(tmp_path / "fit", model())
    assert "\n" not in str(told.value)


def test_control_a_saved_fit_without_digests_alone_is_read(sparse, tmp_path):
    sparse.save(tmp_path / "fit")
    changed(tmp_path / "fit")
    bp.Fit.load(tmp_path / "fit", model())


# -- warm starts ---------------------------------------------------------------------------------------------


def masks_of(fit):
    return {name: mask.clone() for name, mask in fit.model.ways[0].masks.items()}


def test_a_warm_start_goes_on_with_the_masks_of_the_earlier_fit(sparse):
    still = fitted(DynamicMasks(0.2, share=0.0, grow=None), start=sparse, steps=8)
    assert all(torch.equal(masks_of(still)[name], mask) for name, mask in masks_of(sparse).items())
    more = fitted(RULES["rigl"], start=sparse, seed=5)
    assert more.settings["masks"][0]["layers"] == sparse.settings["masks"][0]["layers"]
    fresh = fitted(DynamicMasks(0.2, share=0.0, grow=None), steps=8)  # control
    assert not all(torch.equal(masks_of(fresh)[name], mask) for name, mask in masks_of(sparse).items())


def test_it_goes_on_with_counts_that_scores_have_chosen():
    free = fitted(RULES["granet"])
    more = fitted(DynamicMasks(0.2, every=5), start=free)
    assert more.settings["masks"][0]["layers"] == free.settings["masks"][0]["layers"]
    assert more.settings["masks"][0]["exchanged"] > 0


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        (DynamicMasks(0.1), "warm start has masks with 54 weights in, but DynamicMasks begins with 27"),
        (RULES["granet"], "warm start has masks with 54 weights in, but DynamicMasks begins with 268"),
        (
            DynamicMasks(start={"0.weight": torch.ones(14, 7, dtype=torch.bool)}),
            "a warm start goes on with the masks of the earlier fit: leave",
        ),
    ],
)
def test_a_warm_start_that_begins_otherwise_is_refused(rule, said, sparse):
    with pytest.raises(ValueError, match=said) as told:
        fitted(rule, start=sparse)
    assert "\n" not in str(told.value)


def test_warm_starts_between_sparse_and_dense_fits_are_refused(sparse):
    with pytest.raises(ValueError, match=r"fit of another structure: of its tensors of ways, .* is not there, but"):
        fitted(RULES["rigl"], start=fitted(None, steps=4))
    with pytest.raises(ValueError, match=r"fit of another structure: of its tensors of ways, .* but not there in the"):
        fitted(None, start=sparse)


# -- endings -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cycles", "granet"])
def test_a_fit_that_is_stopped_before_has_the_counts_that_were_asked_for(name):
    fit = fitted(RULES[name], callbacks=[Stopped(9)])
    report = fit.settings["masks"][0]
    assert report["reached_count"] == 54 == sum(int(m.sum()) for m in masks_of(fit).values()) and report["cut"] > 10
    assert any("was stopped with" in note and "cut to the 54" in note for note in fit.guide.notes)
    assert math.isfinite(fit.trace["loss"].values[0, -1])
    whole = fitted(RULES[name])
    assert whole.settings["masks"][0]["cut"] == 0 and not any("stopped" in note for note in whole.guide.notes)


def with_batches_of_one(rule):
    """Of 41 data every third batch has one example, which batch normalisation cannot be trained on: it is left out."""
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(7, 14), nn.BatchNorm1d(14), nn.Tanh(), nn.Linear(14, 3))
    bnn = bp.BayesianNetwork(layers, {"*[03].weight": bp.Gaussian()}, None, 41)
    return bp.fit(bnn, (X[:41].float(), Y[:41]), guide="map", steps=30, batch_size=20, device="cpu", rules=[rule])


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_an_update_whose_batch_is_left_out_comes_with_the_next_step():
    report = with_batches_of_one(DynamicMasks(0.3, every=3)).settings["masks"][0]
    assert report["updates"] == 7 and report["exchanged"] > 20  # due after steps 3, 6, ..., 21
    last = with_batches_of_one(DynamicMasks(0.3, every=3, share=0.0, schedule=CyclicDensity(1, ends=1.0))).settings[
        "masks"
    ][0]
    assert last["reached_count"] == round(0.3 * 140) and last["cut"] > 0
