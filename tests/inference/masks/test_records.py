"""What a fit records of its masks: recounted from the masks themselves, and the same after a kill."""

from __future__ import annotations

import math
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.collapse import CollapseWarning
from bayesprune.inference.masks.records import VARIABLES
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback
from tests.oracles.reachability import on_paths

SIZE, EPOCHS, BATCH = 128, 6, 16
GENERATOR = torch.Generator().manual_seed(5)
X = torch.randn(SIZE, 10, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long() + (X[:, 3] > 1).long()
NAMES = ["0.weight", "2.weight", "4.weight"]


class Seen(Callback):
    """Masks before the first step and after each."""

    is_resumable = True

    def __init__(self, interrupt_at=None):
        self.masks, self.interrupt_at = [], interrupt_at

    def on_fit_start(self, state):
        self.masks.append(self.now(state))

    def on_step(self, state):
        self.masks.append(self.now(state))
        if state.step == self.interrupt_at:
            raise KeyboardInterrupt

    def now(self, state):
        way = next(way for way in state.objective.model.ways if way.name == "masks")
        return {name: mask.numpy().copy() for name, mask in way.masks.items()}


def network():
    torch.manual_seed(1)
    return nn.Sequential(nn.Linear(10, 14), nn.ReLU(), nn.Linear(14, 12), nn.ReLU(), nn.Linear(12, 3))


def fitted(rule=None, seen=None, net=None, **how):
    prior = {"*.weight": bp.Gaussian.from_weight_decay(1e-4, data_size=SIZE)}
    bnn = bp.BayesianNetwork(network() if net is None else net, prior, data_size=SIZE)
    rule = bp.DynamicMasks(density=0.15, every=3) if rule is None else rule
    how = {"epochs": EPOCHS, "batch_size": BATCH, "execution": "plain", "device": "cpu", "seed": 2} | how
    return bp.fit(bnn, (X, Y), "map", rules=[rule], callbacks=[] if seen is None else [seen], **how)


def jaccard(one, other):
    both = sum(int((one[name] & other[name]).sum()) for name in NAMES)
    return both / sum(int((one[name] | other[name]).sum()) for name in NAMES)


@pytest.mark.parametrize("schedule", [None, bp.CyclicDensity(count=1, top=3.0, ends=0.5)])
def test_rows_are_what_the_masks_of_the_steps_come_to(schedule):
    seen = Seen()
    more = {} if schedule is None else {"schedule": schedule}
    fit = fitted(bp.DynamicMasks(density=0.15, every=3, **more), seen)
    steps = SIZE // BATCH
    ends = [seen.masks[steps * epoch] for epoch in range(EPOCHS + 1)]
    whole, trace = sum(mask.size for mask in ends[0].values()), fit.trace.isel(restart=0)
    for epoch, now in enumerate(ends[1:], start=1):
        row = trace.sel(epoch=epoch)
        found = dict(zip(row.masks_name.values, row["masks"].values, strict=True))
        ever = sum(int(np.any([one[name] for one in seen.masks[: steps * epoch + 1]], axis=0).sum()) for name in NAMES)
        paths = dict(zip(NAMES, on_paths([now[name] for name in NAMES]), strict=True))
        active = sum(int(mask.sum()) for mask in now.values())
        expected = {
            "density": active / whole,
            "effective": sum(int(one.sum()) for one in paths.values()) / active,
            "collapsed": sum(not one.any() for one in paths.values()),
            "weights_per_channel": active / (24 + 26 + 15),
            "ever_active": ever / whole,
            "overlap": jaccard(now, ends[epoch - 1]),
            "first_overlap": jaccard(now, ends[0]),
        }
        assert {key: found[key] for key in expected} == pytest.approx(expected, abs=1e-12)
        for name in NAMES:
            for mask, prefix in ((now[name], ""), (paths[name], "effectively_")):
                one = row.sel(tensor=name)
                assert float(one[f"{prefix}dead_outputs"]) == pytest.approx(1.0 - mask.any(1).mean())
                assert float(one[f"{prefix}dead_inputs"]) == pytest.approx(1.0 - mask.any(0).mean())
            assert float(one["mask_density"]) == pytest.approx(now[name].mean())
            assert float(one["effective_density"]) == pytest.approx(paths[name].mean())
    moved = [jaccard(one, other) for one, other in zip(ends, ends[1:], strict=False)]
    assert min(moved) < 1.0 and found["ever_active"] > found["density"]  # control: something has moved
    assert float(trace["masks"].sel(masks_name="exchanged").sum()) == fit.settings["masks"][0]["exchanged"]


def test_norms_are_those_of_the_dense_gradient_at_the_latest_update():
    """Calculated again at the weights that the first step ran with; each epoch is a step here, and an update."""

    class Before(Callback):
        def on_fit_start(self, state):
            weights = state.objective.model.weights_at(state.objective.guide.means())
            self.weights = {name: value.detach().clone() for name, value in weights.items()}

    before, seen = Before(), Seen()
    bnn = bp.BayesianNetwork(network(), {"*.weight": bp.Gaussian(1.0)}, data_size=SIZE)
    rule = bp.DynamicMasks(density=0.15, every=1)
    how = {"epochs": 8, "batch_size": SIZE, "execution": "plain", "device": "cpu", "learning_rate": 1e-12}
    fit = bp.fit(bnn, (X, Y), "map", rules=[rule], callbacks=[before, seen], **how)
    weights = {name: before.weights[name].requires_grad_() for name in NAMES}
    outputs = torch.func.functional_call(bnn.network, weights, (X,))
    slopes = torch.autograd.grad(nn.functional.cross_entropy(outputs, Y), list(weights.values()))
    first = fit.trace.isel(restart=0, epoch=0)
    for name, slope in zip(NAMES, slopes, strict=True):
        was = torch.as_tensor(seen.masks[0][name])
        assert float(first["gradient_norm"].sel(tensor=name)) == pytest.approx(float(slope.norm()), rel=1e-4)
        norm = float((slope * was).norm())
        assert float(first["active_gradient_norm"].sel(tensor=name)) == pytest.approx(norm, rel=1e-4)
        assert norm < 0.99 * float(slope.norm())  # control


def test_without_a_growth_score_by_gradient_nothing_is_said_of_gradients():
    fit = fitted(bp.DynamicMasks(density=0.15, grow="random", every=3), epochs=2)
    assert bool(fit.trace["gradient_norm"].isnull().all()) and bool(fit.trace["mask_density"].notnull().all())


def test_tensors_without_a_mask_have_no_numbers():
    fit = fitted(bp.DynamicMasks(layout={"0.weight": 0.2, "2.weight": 0.3}, every=3), epochs=2)
    for key in VARIABLES:
        assert fit.trace[key].dims == ("restart", "epoch", "tensor")
        assert fit.trace[key].sel(tensor="4.weight").isnull().all()
    assert bool(fit.trace["mask_density"].sel(tensor="0.weight").notnull().all())


def test_a_fit_that_was_killed_records_the_same(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    rule = bp.DynamicMasks(density=0.15, every=3, schedule=bp.CyclicDensity(count=1, ends=0.6))
    whole = fitted(rule)
    with pytest.raises(KeyboardInterrupt):
        fitted(rule, Seen(interrupt_at=27), checkpoint=tmp_path / "kept")
    resumed = fitted(rule, Seen(), checkpoint=tmp_path / "kept")
    assert resumed.settings["resumed_at_epoch"] == 4
    assert resumed.trace.drop_vars("seconds").identical(whole.trace.drop_vars("seconds"))
    assert resumed.settings["masks"] == whole.settings["masks"]
    assert not fitted(rule, seed=3).trace["masks"].identical(whole.trace["masks"])  # control


def test_records_change_no_weight(monkeypatch):
    from bayesprune.inference.masks.records import Records

    told = fitted(epochs=2)
    for name in ("ran", "saw", "changed"):
        monkeypatch.setattr(Records, name, lambda self, *given: None)
    silent = fitted(epochs=2)
    assert bool(silent.trace["gradient_norm"].isnull().all())  # control: nothing was recorded
    for (name, one), other in zip(told.guide.state_dict().items(), silent.guide.state_dict().values(), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.filterwarnings("default:this is the collapse regime")
def test_the_collapse_regime_is_said_once_before_training_and_as_a_note():
    class Refuses(Callback):
        def on_fit_start(self, state):
            assert len(found) == 1  # before the first step
            state.stop = False

    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")
        fit = fitted(bp.DynamicMasks(density=0.12, every=3), Refuses(), epochs=2, restarts=2)
    (one,) = [each for each in found if issubclass(each.category, CollapseWarning)]
    assert "this is the collapse regime: 41 weights are 0.63 a channel" in str(one.message)
    assert str(one.message) in fit.summary()["notes"]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.simplefilter("ignore", CollapseWarning)
        fitted(bp.DynamicMasks(density=0.12, every=3), epochs=1)  # silenced by its class
        enough = fitted(bp.DynamicMasks(density=0.3, every=3), epochs=1)
    assert not any("collapse" in note for note in enough.summary()["notes"])


class Odd(nn.Module):
    """A network that looks at the values of its input, and so cannot be run on ones."""

    def __init__(self):
        super().__init__()
        self.layers = network()

    def forward(self, x):
        if bool((x == 1.0).all()):
            raise RuntimeError("these are no data")
        return self.layers(x)


def test_a_network_whose_paths_cannot_be_followed_is_trained_and_says_why():
    bnn = bp.BayesianNetwork(Odd(), {"*.weight": bp.Gaussian(1.0)}, data_size=SIZE)
    fit = bp.fit(bnn, (X, Y), "map", rules=[bp.DynamicMasks(density=0.3)], epochs=2, execution="plain", device="cpu")
    assert "paths through Odd cannot be followed" in fit.settings["masks"][0]["paths"]
    assert bool(fit.trace["effective_density"].isnull().all()) and bool(fit.trace["dead_outputs"].notnull().all())
    assert math.isnan(float(fit.trace["masks"].sel(masks_name="collapsed")[0, 0]))
    assert fit.settings["masks"][0]["collapsed"] == []


# -- notes ---------------------------------------------------------------------------------------------------------


def test_a_collapse_and_dead_channels_are_notes_with_what_to_do():
    """Provoked: so few weights in random places that hold still, that no path is left through the network."""
    rule = bp.DynamicMasks(density=6, share=0.0, grow=None)
    fit = fitted(rule, epochs=8)
    assert fit.settings["masks"][0]["collapsed"] == NAMES
    told = "no path from input to output is left through the masks, and nothing can be learned: give a density above"
    assert any(told in note for note in fit.summary()["notes"])
    outputs = fit.included_weights()
    paths = on_paths([(outputs[name].numpy() != 0.0) for name in NAMES])
    assert not any(one.any() for one in paths)


def test_dead_channels_are_counted_by_layer():
    fit = fitted(bp.DynamicMasks(density=0.09, share=0.0, grow=None), epochs=30)
    (note,) = [note for note in fit.summary()["notes"] if "are dead, as no path from input to output" in note]
    left = fit.included_weights()
    paths = dict(zip(NAMES, on_paths([(left[name].numpy() != 0.0) for name in NAMES]), strict=True))
    dead = {name: int((~one.any(1)).sum()) for name, one in paths.items()}
    much = [name for name, count in dead.items() if count > 0.5 * len(paths[name])]
    assert much and all(f"{dead[name]} of {len(paths[name])} channels of {name}" in note for name in much)
    assert not any("are dead" in note for note in fitted(bp.DynamicMasks(density=0.6)).summary()["notes"])
