"""Networks collected at the ends of cycles: which ones, of which masks, and that they are whole restarts of a fit."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.masks.density_schedules import ConstantDensity, CyclicDensity
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.update_plan import planned_updates
from bayesprune.inference.rules.schedules import cyclical, schedule_named
from bayesprune.inference.samplers.cooling_cycles import CoolingCycles
from bayesprune.inference.samplers.cyclical_sampling import CyclicalSampling
from bayesprune.inference.samplers.sampled_inclusion import sampled_inclusion
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.watching.callbacks import Callback

SIZE, CLASSES, STEPS = 60, 3, 80
GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(SIZE, 6, generator=GENERATOR)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long() + (X[:, 3] > 0.5).long()
DUE = [18, 20, 38, 40, 58, 60, 78, 80]
"""Two samples of each of four cycles of twenty steps, the last fifth of each with noise: four steps."""


def model(prior=None):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, CLASSES))
    return bp.BayesianNetwork(network, {"*.weight": bp.Gaussian(0.5)} if prior is None else prior, data_size=SIZE)


def narrow():
    """Priors on matrices alone: batch normalisation's weight has one dimension."""
    return model({"0.weight": bp.Gaussian(0.5), "3.weight": bp.Gaussian(0.5)})


MASKS = DynamicMasks(0.25, schedule=CoolingCycles(4), within=2)
SAMPLING = CyclicalSampling(samples=2, noise_from=0.8)


def fitted(*rules, bnn=None, **how):
    how = {"steps": STEPS, "batch_size": 20, "device": "cpu", "precision": "float64"} | how
    return bp.fit(narrow() if bnn is None else bnn, (X, Y), how.pop("guide", "map"), rules=list(rules), **how)


def everything(model, guide):
    return [t.detach().clone() for part in (guide, model.network, model.ways) for t in part.state_dict().values()]


class Watch(Callback):
    """All that a restart is after each step, its masks among them, with temperature and rate of that step."""

    is_resumable = True

    def __init__(self, interrupt_at=None):
        self.seen, self.interrupt_at = {}, interrupt_at

    def on_step(self, state):
        group = state.optimizer.param_groups[0]
        whole = everything(state.objective.model, state.objective.guide)
        self.seen[state.restart, state.step] = (whole, group.get("temperature"), group["lr"])
        if state.step == self.interrupt_at:
            raise KeyboardInterrupt


def same(one, other):
    return len(one) == len(other) and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))


# ----------------------------------------------------------------------------------------------- when


def test_the_learning_rate_is_that_of_the_paper():
    """Equation 1 of Zhang et al. 2020, in steps k from 1, with K / M whole."""
    for total, count in ((80, 4), (250, 5), (1000, 8), (7 * 31, 7), (12, 1)):
        length, schedule = total // count, cyclical(count)
        for k in range(1, total + 1):
            expected = 0.5 * (math.cos(math.pi * ((k - 1) % length) / length) + 1.0)
            assert schedule((k - 1) / total) == pytest.approx(expected, abs=1e-7)
    assert cyclical(3)(1.0) == 0.0
    assert schedule_named("cyclical", 7)(0.25) == 1.0
    with pytest.raises(ValueError, match="a whole number of cycles, at least 1, not 0"):
        cyclical(0)


def test_density_falls_from_the_top_and_rests_at_the_final_one_until_the_end_of_each_cycle():
    cycles = CoolingCycles(4, top=3.0, rest=0.5)
    assert cycles.at(0.0, 0.1) == pytest.approx(0.3)
    assert cycles.at(0.0625, 0.1) == pytest.approx(0.2)  # a quarter of the first cycle, half way down
    for number in range(4):
        hot = number / 4 + 1e-4
        assert cycles.at(hot, 0.1) == pytest.approx(0.3, abs=1e-3)
        assert cycles.exchanges(hot)
        for share in (0.125, 0.2, 0.25):
            assert cycles.at(number / 4 + share, 0.1) == 0.1
            assert not cycles.exchanges(number / 4 + share)
    assert cycles.settles == 0.875
    assert cycles.at(0.0, 0.5) == 1.0  # no more than all
    assert all(cycles.at(n * 20 / 80, 0.1) == 0.1 for n in (1, 2, 3, 4))  # the last step of a cycle is its own


@pytest.mark.parametrize(("count", "rest"), [(1, 0.5), (3, 0.1), (4, 0.5), (5, 0.5), (7, 0.3), (12, 0.9)])
def test_a_cycle_is_at_rest_from_its_mark_to_its_end_whatever_is_rounded(count, rest):
    cycles = CoolingCycles(count, rest=rest)
    ends = [n / count for n in range(1, count)]
    assert cycles.marks == tuple(sorted([*ends, *((n - rest) / count for n in range(1, count + 1))]))
    assert cycles.settles == cycles.marks[-1] == pytest.approx(1.0 - rest / count)
    assert cycles.rises == (count > 1)
    assert not CoolingCycles(count, top=1.0, rest=rest).rises
    assert all(cycles.at(mark, 0.1) == 0.1 and not cycles.exchanges(mark) for mark in cycles.marks)
    hot = [mark + sign * 1e-6 for mark, sign in zip(cycles.marks, [-1, 1] * count, strict=False)]
    assert all(cycles.at(share, 0.1) > 0.1 and cycles.exchanges(share) for share in hot)  # control: beside them
    for steps in (397, 400, 4740):
        plan = planned_updates(cycles, steps, every=1, until=1.0)
        density = {step: cycles.at(share, 0.1) for step, share in plan.items()}
        for rests, end in zip(cycles.marks[::2], [*ends, 1.0], strict=True):
            rested = range(round(rests * steps), round(end * steps) + 1)
            assert {density[step] for step in rested if step in density} == {0.1}
        assert all(density[round(end * steps) + 1] > 0.1 for end in ends)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: CoolingCycles(0), "whole number of cycles, at least 1, not 0"),
        (lambda: CoolingCycles(top=0.5), "top >= 1 and rest in"),
        (lambda: CoolingCycles(rest=1.0), "top >= 1 and rest in"),
        (lambda: CyclicalSampling(cycles=0), "whole number, at least 1, not 0"),
        (lambda: CyclicalSampling(samples=1.5), "whole number, at least 1, not 1.5"),
        (lambda: CyclicalSampling(temperature=-1.0), "1 for the posterior, 0 for no noise, not -1.0"),
        (lambda: CyclicalSampling(noise_from=1.0), r"a share of a cycle in \[0, 1\), not 1.0"),
        (lambda: CyclicalSampling(sampler="nuts"), "takes 'sgld' or 'sghmc', not 'nuts'"),
    ],
)
def test_wrong_settings_are_told_in_a_sentence(made, said):
    with pytest.raises(ValueError, match=said):
        made()


# ----------------------------------------------------------------------------------------------- what


@pytest.mark.parametrize("sampler", ["sghmc", "sgld"])
def test_each_restart_is_the_network_after_its_step_to_the_last_bit(sampler):
    watch = Watch()
    sampling = CyclicalSampling(samples=2, noise_from=0.8, sampler=sampler)
    fit = fitted(MASKS, sampling, callbacks=[watch], restarts=2)
    assert fit.settings["optimizer"] == sampler
    assert fit.settings["kl_weight"] == 1.0
    assert fit.settings["samples"] == [{"run": run, "step": step} for run in (0, 1) for step in DUE]
    for one, said in zip(fit.restarts, fit.settings["samples"], strict=True):
        assert same(everything(one.model, one.guide), watch.seen[said["run"], said["step"]][0])
        assert not same(everything(one.model, one.guide), watch.seen[said["run"], said["step"] - 1][0])  # control
    for (_, step), (_, temperature, rate) in watch.seen.items():
        assert temperature == (1.0 if (step - 1) % 20 >= 16 else 0.0)
        assert rate == pytest.approx(0.1 * cyclical(4)((step - 1) / STEPS))


def test_all_samples_are_of_the_final_density_exactly_and_their_masks_differ():
    fit = fitted(MASKS, SAMPLING)
    layers = fit.settings["masks"][0]["layers"]
    assert sum(layers.values()) == round(0.25 * (6 * 16 + 16 * CLASSES))
    masks = [one.model.ways[0].masks for one in fit.restarts]
    for one in masks:
        assert {name: int(mask.sum()) for name, mask in one.items()} == layers
    assert not torch.equal(masks[0]["0.weight"], masks[-1]["0.weight"])
    assert torch.equal(masks[0]["0.weight"], masks[1]["0.weight"])  # of one cycle: they rest
    for one in fit.restarts:
        weights = one.model.ungated_weights_at(one.guide.means())["0.weight"]
        assert bool((weights[~one.model.ways[0].masks["0.weight"]] == 0).all())  # noise has not touched them
    assert fit.model.ways[0].masks["0.weight"].any()


def test_every_restart_has_the_trace_of_its_run_up_to_its_step():
    fit = fitted(MASKS, SAMPLING, validation=(X, Y), restarts=2)
    assert fit.trace.sizes["restart"] == 16
    per_epoch = 3
    whole = fit.trace.isel(restart=7)
    for number, step in enumerate(DUE):
        one = fit.trace.isel(restart=number)
        epochs = math.ceil(step / per_epoch)
        assert int(one["loss"].notnull().sum()) == epochs
        assert torch.equal(torch.tensor(one["loss"].values[:epochs]), torch.tensor(whole["loss"].values[:epochs]))
        assert float(one["iterate_step"].max()) == step
        assert float(one["network_sparsity"].values[epochs - 1]) == pytest.approx(0.75)
    assert float(fit.trace["loss"].isel(restart=8)[0]) != float(whole["loss"][0])  # another run


def test_noise_is_all_that_a_temperature_changes():
    warm, cold = Watch(), Watch()
    fitted(SAMPLING, callbacks=[warm])
    fitted(CyclicalSampling(samples=2, noise_from=0.8, temperature=1e-30), callbacks=[cold])
    assert all(same(warm.seen[0, step][0], cold.seen[0, step][0]) for step in range(1, 17))
    assert not same(warm.seen[0, 17][0], cold.seen[0, 17][0])


@pytest.mark.parametrize("how", [{"execution": "fused", "compiled": False}, {"swapped": True}])
def test_neither_the_execution_nor_the_order_of_the_rules_changes_a_sample(how):
    rules = [SAMPLING, MASKS] if how.pop("swapped", False) else [MASKS, SAMPLING]
    plain, other = fitted(MASKS, SAMPLING, execution="plain"), fitted(*rules, **how)
    assert other.settings["optimizer"] == "sghmc"
    for one, two in zip(plain.restarts, other.restarts, strict=True):
        for mine, its in zip(everything(one.model, one.guide), everything(two.model, two.guide), strict=True):
            assert torch.allclose(mine.double(), its.double(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("guide", "optimizer"), [("map", "sgd"), ("meanfield", "adam")])
def test_without_noise_it_is_a_snapshot_ensemble(guide, optimizer):
    watch = Watch()
    fit = fitted(MASKS, CyclicalSampling(samples=1, temperature=0.0), callbacks=[watch], guide=guide)
    assert fit.settings["optimizer"] == optimizer
    assert [one["step"] for one in fit.settings["samples"]] == [20, 40, 60, 80]
    assert all(temperature is None for _, temperature, _ in watch.seen.values())
    assert same(everything(fit.restarts[2].model, fit.restarts[2].guide), watch.seen[0, 60][0])


@pytest.mark.parametrize("steps", [79, 81, 82, 83])
@pytest.mark.parametrize("schedule", [CoolingCycles(4), CyclicDensity(4, ends=1.0)])
def test_steps_that_are_no_multiple_of_the_cycles_cost_no_sample_its_density(steps, schedule):
    """An update after every step, so that one which reads the next cycle's beginning follows each end."""
    watch = Watch()
    masks = DynamicMasks(0.25, schedule=schedule, share=0.0, within=1)
    fit = fitted(masks, CyclicalSampling(samples=1, temperature=0.0), steps=steps, callbacks=[watch])
    ends = [round(n * steps / 4) for n in (1, 2, 3, 4)]
    assert [one["step"] for one in fit.settings["samples"]] == ends
    assert all(sum(one.model.ways[0].counts().values()) == 36 for one in fit.restarts)
    assert same(everything(fit.restarts[0].model, fit.restarts[0].guide), watch.seen[0, ends[0]][0])
    if isinstance(schedule, CoolingCycles):  # control: a step later it is dense
        later = fitted(
            masks, CyclicalSampling(samples=1, temperature=0.0), steps=steps, stop=lambda s: s.step > ends[0]
        )
        assert later.settings["masks"][0]["cut"] > 36


def test_the_phase_of_east_ends_where_the_cycle_does_and_goes_without_noise():
    east = DynamicMasks(0.25, schedule=CyclicDensity(4, ends=1.0), share=0.0, within=5)
    fit = fitted(east, CyclicalSampling(samples=1, temperature=0.0))
    for one in fit.restarts:
        assert sum(one.model.ways[0].counts().values()) == 36


def test_an_epoch_that_ends_early_leaves_what_was_collected():
    fit = fitted(SAMPLING, stop=lambda state: state.step >= 45)
    assert [one["step"] for one in fit.settings["samples"]] == DUE[:4]
    nothing = fitted(SAMPLING, stop=lambda state: state.step >= 3)  # the run itself, where nothing was
    assert len(nothing.restarts) == 1
    assert "samples" not in nothing.settings


def test_a_last_step_on_a_batch_that_is_left_out_loses_no_sample():
    """Batches of 20 of 41 examples: the third of an epoch has one, on which nothing can be normalised."""
    bnn = narrow()
    bnn.data_size = 41
    watch = Watch()
    sampling = CyclicalSampling(cycles=4, samples=1)
    fit = bp.fit(
        bnn, (X[:41], Y[:41]), "map", rules=[sampling], steps=36, batch_size=20, device="cpu", callbacks=[watch]
    )
    assert (0, 9) not in watch.seen
    assert [one["step"] for one in fit.settings["samples"]] == [9, 18, 27, 36]
    assert same(everything(fit.restarts[0].model, fit.restarts[0].guide), watch.seen[0, 8][0])
    assert same(everything(fit.restarts[3].model, fit.restarts[3].guide), watch.seen[0, 35][0])


# ----------------------------------------------------------------------------------------------- what comes of it


def test_the_mixture_of_the_samples_predicts_their_mean():
    fit = fitted(MASKS, SAMPLING)
    mean = torch.stack([fit.predict(X, restart=number).mean for number in range(8)]).mean(dim=0)
    found = fit.combined(weights="equal").predict(X, draws=16).mean
    assert torch.allclose(found, mean, atol=1e-12)
    assert not torch.allclose(found, fit.predict(X).mean, atol=1e-3)  # control: the first one alone
    summary = fit.summary()
    assert summary["restarts"] == 8
    assert any("sample 1 of 8 of a run, after its step 18, at temperature 1" in note for note in summary["notes"])
    assert bp.convergence(fit).verdict == "cannot tell"
    assert bp.to_arviz(fit, restart=5) is not None


def test_samples_are_saved_and_loaded_with_their_own_masks(tmp_path):
    fit = fitted(MASKS, SAMPLING)
    fit.save(tmp_path / "fit")
    loaded = bp.Fit.load(tmp_path / "fit", narrow())
    assert loaded.settings["samples"] == fit.settings["samples"]
    for one, other in zip(fit.restarts, loaded.restarts, strict=True):
        assert same(everything(one.model, one.guide), everything(other.model, other.guide))
    assert sampled_inclusion(loaded).identical(sampled_inclusion(fit))


@pytest.mark.parametrize("interrupt_at", [10, 19, 41])
def test_a_run_that_is_killed_goes_on_bit_for_bit(tmp_path, monkeypatch, interrupt_at):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)
    whole = fitted(MASKS, SAMPLING, restarts=2)
    how = {"checkpoint": tmp_path / "kept", "restarts": 2}
    with pytest.raises(KeyboardInterrupt):
        fitted(MASKS, SAMPLING, callbacks=[Watch(interrupt_at)], **how)
    resumed = fitted(MASKS, SAMPLING, **how)
    assert resumed.settings["resumed_at_epoch"] == (interrupt_at - 1) // 3 + 1
    again = fitted(MASKS, SAMPLING, **how)  # of finished restarts
    for other in (resumed, again):
        assert other.settings["samples"] == whole.settings["samples"]
        for one, two in zip(whole.restarts, other.restarts, strict=True):
            assert same(everything(one.model, one.guide), everything(two.model, two.guide))
        assert other.trace.drop_vars("seconds").identical(whole.trace.drop_vars("seconds"))


def test_inclusion_is_the_mean_of_the_masks_of_one_run():
    fit = fitted(MASKS, SAMPLING, restarts=2)
    found = sampled_inclusion(fit, run=1)
    assert set(found) == {"0.weight", "3.weight"}
    masks = torch.stack([one.model.ways[0].masks["0.weight"].double() for one in fit.restarts[8:]])
    assert torch.equal(torch.tensor(found["0.weight"].values), masks.mean(dim=0))
    attrs = found["0.weight"].attrs
    assert attrs["samples"] == 8
    assert attrs["density"] == pytest.approx(float(masks.mean()))
    pairs = [float((masks[a] * masks[b]).sum() / masks[a].sum()) for a in range(8) for b in range(8) if a != b]
    assert attrs["overlap"] == pytest.approx(sum(pairs) / len(pairs))
    assert attrs["density"] < attrs["overlap"] < 1.0
    with pytest.raises(ValueError, match="there is no run 2: they are 0 to 1"):
        sampled_inclusion(fit, 2)
    with pytest.raises(ValueError, match="no masks"):
        sampled_inclusion(fitted(SAMPLING))
    with pytest.raises(ValueError, match="no samples to average masks over"):
        sampled_inclusion(fitted(MASKS))


# ----------------------------------------------------------------------------------------------- what does not go


@pytest.mark.parametrize(
    ("rules", "how", "said"),
    [
        ([SAMPLING], {"optimizer": "adam"}, "does not begin anew in each of the 4 cycles"),
        ([SAMPLING], {"schedule": "cosine"}, "does not begin anew in each of the 4 cycles"),
        ([SAMPLING], {"schedule": cyclical(3)}, r"give schedule=cyclical\(4\)"),
        ([SAMPLING], {"optimizer": "adam", "schedule": cyclical(4)}, "needs a sampler, not Adam"),
        ([SAMPLING], {"guide": "meanfield"}, "which this guide does not have"),
        ([SAMPLING], {"kl_warmup": 0.5}, "the prior fades in over 0.5 of the fit"),
        ([CyclicalSampling(samples=3)], {"steps": 40}, "has 1 steps for 3 samples"),
        (
            [DynamicMasks(0.25, schedule=CoolingCycles(4, rest=0.05), within=3), SAMPLING],
            {"steps": 79},
            "at step 57, where a network is collected, masks have 37 weights in, and not the 36 of the end",
        ),
        ([DynamicMasks(0.25, schedule=CoolingCycles(3), within=2), SAMPLING], {}, "where a network is collected"),
        ([DynamicMasks(0.25, schedule=CoolingCycles(4, rest=0.1), within=2), SAMPLING], {}, "masks change at step 17"),
        (
            [DynamicMasks(0.25, schedule=CyclicDensity(4, ends=1.0), share=0.0, within=5), SAMPLING],
            {},
            "where a network is collected",
        ),
        (
            [
                DynamicMasks(0.25, schedule=CyclicDensity(4, ends=1.0), share=0.0, within=5),
                CyclicalSampling(samples=1, noise_from=0.8),
            ],
            {},
            "masks change at step 18, while noise samples the weights given the masks",
        ),
        (
            [DynamicMasks(0.25, schedule=ConstantDensity(), every=3), SAMPLING],
            {},
            "masks change at step 18, while noise",
        ),
    ],
)
def test_what_does_not_go_together_is_refused_before_the_first_step(rules, how, said):
    watch = Watch()
    with pytest.raises(ValueError, match=said):
        fitted(*rules, callbacks=[watch], **how)
    assert not watch.seen


def test_masks_that_are_exchanged_while_it_is_hot_alone_go_with_noise():
    fit = fitted(DynamicMasks(0.25, schedule=CoolingCycles(4, top=1.0), every=2, until=1.0), SAMPLING)
    assert fit.settings["masks"][0]["exchanged"] > 0
    assert len(fit.restarts) == 8


def test_scales_and_gates_are_refused_where_there_is_noise():
    with pytest.raises(ValueError, match=r"which .* is not: fit with guide='map'"):
        fitted(SAMPLING, bnn=model({"0.weight": bp.Horseshoe()}))
    bnn = bp.BayesianNetwork(
        nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, CLASSES)), {}, None, SIZE, bp.UnitGates(), X[:1]
    )
    with pytest.raises(ValueError, match="gates of units remove units"):
        fitted(CyclicalSampling(temperature=0.0), bnn=bnn, guide=None)
