"""What a fit with learned thresholds says while it runs: beside formulas, counts made by hand, and fits without it."""

from __future__ import annotations

import math
import re
import warnings
from dataclasses import dataclass

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.inference.defaults import ready_rules
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.rules.thresholds import Thresholds
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.training import fit as fitting
from bayesprune.models.language.inclusion import BeyondThreshold

N = 64
X = torch.randn(N, 6, generator=torch.Generator().manual_seed(1))
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
ASLEEP = "asleep to the end"
WEIGHTS = "*.weight"
STEPS = 1600
PRESSING = 4800.0
"""Pressure that leaves nothing of some tensors."""
EMPTIED = bp.SoftThreshold(pressure=PRESSING, raw_sd=0.05)
"""A prior under which nothing is left even of a budget, until its last correction."""
UNLIKE = {"fc1.weight": 4.8, "fc2.weight": 1.6}
"""Pressures as unlike as the tensors' sizes, so that their thresholds move apart."""


def model(prior, hidden=(8,)):
    torch.manual_seed(0)
    priors = prior if isinstance(prior, dict) else {WEIGHTS: prior}
    return bp.BayesianNetwork(bp.lenet_300_100(6, 2, hidden), priors, data_size=N)


def fitted(prior, **how):
    how = {"steps": 120, "batch_size": 16, "precision": "float64", "execution": "plain"} | how
    return bp.fit(model(prior), (X, Y), **how)


def sgd(rate=0.256, momentum=0.875, **more):
    return lambda groups: torch.optim.SGD(groups, lr=rate, momentum=momentum, **more)


def authors_rate(share, epochs=100):
    """Of their configuration: five epochs of warm-up, then half a cosine, by epoch."""
    epoch = math.floor(share * epochs + 1e-9)
    return (epoch + 1) / 5 if epoch < 5 else 0.5 * (1 + math.cos(math.pi * (epoch - 5) / (epochs - 5)))


class Watch(bp.Callback):
    """How many weights each tensor has left after each step, and its threshold, by means of its own."""

    def __init__(self, stop_at=None):
        self.left, self.s, self.stop_at = {}, {}, stop_at

    def on_step(self, state):
        values = {name: value.detach().clone() for name, value in state.objective.guide.means().items()}
        for name in state.objective.model.priors:
            raw, s = values[f"{name}.raw"], values[f"{name}.s"]
            self.left.setdefault(name, []).append(int((raw.abs() > torch.sigmoid(s)).sum()))
            self.s.setdefault(name, []).append(s)
        state.stop = state.step == self.stop_at


def warned(found, words):
    return [str(one.message) for one in found if words in str(one.message)]


# -- asleep to the end ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("init", "decay", "end"),
    [
        (-3200.0, 2.251757813e-5, -2018.0),  # the authors' setting for ImageNet, on CIFAR: their repository's issue 2
        (-3200.0, 3.05e-5, None),
        (-100.0, 5e-4, "wakes"),  # what they answered
    ],
)
def test_what_the_authors_settings_come_to_on_small_data_is_said_before_the_first_step(init, decay, end):
    """100 epochs of 196 steps; the closed form is |s| exp(-decay / (1 - momentum) sum of the rates)."""
    steps, watch = 19_600, Watch(stop_at=1)
    how = {"steps": steps, "optimizer": sgd(), "schedule": authors_rate, "callbacks": [watch], "rules": [OneStep()]}
    rates = 0.256 * sum(authors_rate(step / steps) for step in range(steps))
    formula = init * math.exp(-decay / (1 - 0.875) * rates)
    if end == "wakes":
        assert formula > -8.0
        fit = fitted(bp.SoftThreshold.from_paper(decay, N, init=init), **how)
        assert fit.settings["thresholds"][0]["forecast"] == [] and fit.guide.notes == []
        return
    with pytest.warns(UserWarning, match=ASLEEP) as found:
        fit = fitted(bp.SoftThreshold.from_paper(decay, N, init=init), **how)
    (said,) = warned(found, ASLEEP)
    told = float(re.search(r"to about (-[\d.]+) in 19,600 steps", said)[1])
    assert told == pytest.approx(formula, rel=1e-3) and (end is None or told == end)
    assert fit.guide.notes == [said] and "fc1.weight and fc2.weight" in said
    assert fit.settings["thresholds"][0]["forecast"] == ["fc1.weight", "fc2.weight"]
    assert len(watch.s["fc1.weight"]) == 1  # it was one step, of which the sentence came first


@dataclass(frozen=True)
class OneStep(bp.Rule):
    """Asserts that whatever is said of the start has been said when the first step is taken."""

    name = "one_step"

    def begin(self, run):
        return Saying(run)


class Saying(bp.ActiveRule):
    def __init__(self, run):
        self.run = run

    def after_step(self, taken):
        report = self.run.rules["thresholds"].report()
        assert len(self.run.objective.guide.notes) == bool(report["forecast"])
        return bp.Change.NOTHING


SLEEPING = {
    "plain SGD, fade-in": {"optimizer": sgd(0.05, 0.0), "kl_warmup": 0.5},
    "momentum, cosine": {"optimizer": sgd(0.05, 0.9), "schedule": "cosine", "kl_warmup": 0.0},
    "decay of the optimizer": {"optimizer": sgd(0.05, 0.9, weight_decay=1e-3), "kl_warmup": 0.0, "kl_weight": 0.3},
    "as asked by the prior": {"kl_warmup": 0.0},
    "momentum, fade-in": {"optimizer": sgd(0.05, 0.9), "kl_warmup": 0.5, "steps": 600},
}


@pytest.mark.parametrize("g", ["exp", "sigmoid"])
@pytest.mark.parametrize("name", SLEEPING)
def test_where_it_is_said_to_end_it_ends(name, g):
    priors = {tensor: bp.SoftThreshold(pressure, init=-60.0, g=g) for tensor, pressure in UNLIKE.items()}
    with pytest.warns(UserWarning, match=ASLEEP) as found:
        fit = fitted(priors, **SLEEPING[name])
    (said,) = warned(found, ASLEEP)
    ends = sorted(float(one["threshold_s"]) for one in fit.settings["thresholds"][0]["tensors"].values())
    told = [float(number) for number in re.search(r"between (\S+) and (\S+) in", said).groups()]
    assert told == pytest.approx(ends, rel=5e-3 if name == "momentum, fade-in" else 3e-4)  # told with four digits
    assert ends[0] > -59.9 and ends[1] - ends[0] > 0.3  # control: they move, and apart
    assert fit.settings["thresholds"][0]["tensors"]["fc1.weight"]["density"] == 1.0


@pytest.mark.parametrize("setting", ["init", "weight_decay"])
def test_with_what_it_proposes_thresholds_wake_at_a_quarter_of_the_fit(setting):
    """All targets are the same, so that the data hardly hold s back."""
    how = {"steps": STEPS, "optimizer": sgd(0.05, 0.9), "schedule": "cosine", "batch_size": N, "precision": "float64"}
    data = (X, torch.zeros_like(Y))
    given = {"weight_decay": 5e-3, "init": -100.0}
    with pytest.warns(UserWarning, match=ASLEEP) as found:
        bp.fit(model(bp.SoftThreshold.from_paper(data_size=N, **given)), data, callbacks=[Watch(1)], **how)
    given[setting] = float(re.search(rf"{setting}=(\S+)", warned(found, ASLEEP)[0])[1])
    watch, bnn = Watch(STEPS // 3), model(bp.SoftThreshold.from_paper(data_size=N, **given))
    largest = {name: float(bnn.network.get_parameter(name).abs().max()) for name in bnn.priors}
    with warnings.catch_warnings():
        warnings.filterwarnings("error", ASLEEP)  # it is not said any more
        warnings.filterwarnings("ignore", "at step")
        bp.fit(bnn, data, callbacks=[watch], **how)
    woke = []
    for name, path in watch.s.items():
        awake = torch.sigmoid(torch.stack(path)) > 1e-3 * largest[name]
        assert not bool(awake[0]) and bool(awake[-1])  # it begins asleep, and is awake
        woke.append(int(awake.int().argmax()) / STEPS)
    assert max(woke) == pytest.approx(0.25, abs=0.03)  # the last of them


def test_where_neither_alone_will_do_it_proposes_both():
    how = {"steps": 400, "optimizer": sgd(0.05, 0.5), "schedule": "cosine", "batch_size": N, "precision": "float64"}
    data, watch = (X, torch.zeros_like(Y)), Watch()
    with pytest.warns(UserWarning, match=ASLEEP) as found:
        bp.fit(model(bp.SoftThreshold.from_paper(1e-6, N, init=-1e17)), data, callbacks=[Watch(1)], **how)
    init, decay = re.search(r"give init=(\S+) and weight_decay=(\S+) to wake", warned(found, ASLEEP)[0]).groups()
    bnn = model(bp.SoftThreshold.from_paper(float(decay), N, init=float(init)))
    largest = float(bnn.network.get_parameter("fc1.weight").abs().max())
    bp.fit(bnn, data, callbacks=[watch], **how)
    awake = torch.sigmoid(torch.stack(watch.s["fc1.weight"])) > 1e-3 * largest
    assert int(awake.int().argmax()) / 400 == pytest.approx(0.25, abs=0.05)
    assert not bool(awake[0]) and float(torch.sigmoid(watch.s["fc1.weight"][-1])) > 0.01 * largest


def test_by_adam_s_moves_by_its_rate_at_most():
    how = {"optimizer": "adam", "learning_rate": 0.2, "schedule": "cosine", "kl_warmup": 0.0}
    priors = {tensor: bp.SoftThreshold(pressure, init=-60.0) for tensor, pressure in UNLIKE.items()}
    with pytest.warns(UserWarning, match=ASLEEP) as found:
        fit = fitted(priors, **how)
    (said,) = warned(found, ASLEEP)
    told = float(re.search(r"to about (\S+) in 120 steps", said)[1])
    ends = [one["threshold_s"] for one in fit.settings["thresholds"][0]["tensors"].values()]
    formula = -60.0 + 0.2 * sum(0.5 * (1 + math.cos(math.pi * step / 120)) for step in range(120))
    assert told == pytest.approx(formula, abs=5e-3)
    assert all(end < told + 0.01 for end in ends) and max(ends) == pytest.approx(told, abs=1.0)
    assert max(ends) > -50.0 and "pressure" not in said and "leave init out" in said


def test_of_an_optimizer_that_it_does_not_know_it_says_so_at_the_end():
    fit = fitted(bp.SoftThreshold(init=-60.0), optimizer=lambda groups: torch.optim.RMSprop(groups, lr=1e-3))
    (said,) = fit.guide.notes
    assert "fc1.weight and fc2.weight never woke" in said


def test_it_is_said_once_of_several_restarts():
    with pytest.warns(UserWarning, match=ASLEEP) as found:
        fit = fitted(bp.SoftThreshold(init=-60.0), restarts=2)
    assert len(warned(found, ASLEEP)) == 1
    assert [len(one.guide.notes) for one in fit.restarts] == [1, 1]


def test_a_budget_that_moves_the_pressure_may_wake_them_and_a_default_start_is_awake():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(bp.SoftThreshold(), steps=20)
        fit = fitted(bp.SoftThreshold(init=-60.0), rules=[bp.Budget(density=0.5)])
    assert fit.settings["thresholds"][0]["forecast"] == []


# -- a start without weights ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("g", "highest"), [("sigmoid", "0.5"), ("exp", "1")])
def test_a_start_that_zeroes_everything_is_refused_with_numbers_and_a_start_that_does(g, highest):
    watch, prior = Watch(), bp.SoftThreshold.from_paper(1e-4, N, init=0.0, g=g)
    with pytest.raises(ValueError, match="no weight of fc1.weight is left at the start") as problem:
        fitted(prior, callbacks=[watch])
    assert watch.left == {}  # before the first step
    said = str(problem.value)
    largest = float(model(prior).network.get_parameter("fc1.weight").abs().max())
    assert f"its largest |raw| is {largest:.3g}, and its threshold {highest}:" in said
    lower = float(re.search(r"give init=(\S+) or lower", said)[1])
    assert said.endswith(f"give init={lower:g} or lower, or leave init out")
    for start in ({"init": lower}, {}):
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", f".*{ASLEEP}")
            fit = fitted(bp.SoftThreshold.from_paper(1e-4, N, g=g, **start), steps=4)
        assert fit.settings["thresholds"][0]["tensors"]["fc1.weight"]["density"] > 0.9
    with pytest.raises(ValueError, match="no weight of fc1.weight"):  # control: it is no number of no account
        fitted(bp.SoftThreshold.from_paper(1e-4, N, init=lower + 5.9, g=g))


def test_so_are_weights_that_start_at_zero():
    bnn = model(bp.Gaussian())
    with torch.no_grad():
        for name in ("fc1.bias", "fc2.bias"):
            bnn.network.get_parameter(name).zero_()
    soft = bp.BayesianNetwork(bnn.network, {"*.bias": bp.SoftThreshold()}, data_size=N)
    with pytest.raises(ValueError, match="all weights of fc1.bias are zero at the start"):
        bp.fit(soft, (X, Y), steps=4)


# -- layers that are lost -------------------------------------------------------------------------------------


@pytest.mark.parametrize("every", [1, 7])
@pytest.mark.parametrize(
    ("execution", "device"), [("plain", "cpu"), ("fused", "cpu"), pytest.param("fused", "cuda", marks=pytest.mark.gpu)]
)
def test_a_lost_layer_is_named_at_the_step(every, execution, device):
    """Four steps an epoch, after each of which it is looked at too; on a device looks are read later."""
    watch, prior = Watch(), bp.SoftThreshold(pressure=PRESSING, g="sigmoid")
    with pytest.warns(UserWarning, match="nothing is left of") as found:
        fit = fitted(prior, callbacks=[watch], rules=[Thresholds(every)], steps=160, execution=execution, device=device)
    looks = [step for step in range(1, 161) if step % every == 0 or step % 4 == 0]
    expected = {}
    for name, left in watch.left.items():
        seen = [left[step - 1] for step in looks]
        if 0 in seen:
            expected[name] = looks[seen.index(0)]
    told = {one["tensor"]: one for one in reversed(fit.settings["thresholds"][0]["emptied"])}
    assert {name: one["step"] for name, one in told.items()} == expected
    assert expected  # control: there was one
    name, step = next(iter(expected.items()))
    assert told[name]["threshold"] == pytest.approx(float(torch.sigmoid(watch.s[name][step - 1])), rel=1e-5)
    said = warned(found, f"{name}")
    assert len(said) == 1 and said[0].startswith(f"at step {step} nothing is left of ")
    assert "give pressure=480 in place of 4800, or a Budget" in said[0]
    notes = fit.summary()["notes"]
    assert said[0] in notes and sum("nothing is left of" in note for note in notes) == len(warned(found, "nothing is"))


def test_what_was_said_of_a_layer_is_not_said_again_at_the_end_and_is_without_the_rule(monkeypatch):
    with pytest.warns(UserWarning, match="nothing is left of"):
        fit = fitted(EMPTIED, steps=160)
    notes = fit.summary()["notes"]
    monkeypatch.setitem(fit.settings, "thresholds", [])
    untold = fit.summary()["notes"]
    assert sum("nothing is left of" in note for note in untold) == sum("nothing is left of" in n for n in notes) + 1


def test_a_layer_that_keeps_weights_is_not_named():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fit = fitted(bp.SoftThreshold(pressure=0.048))
    assert fit.settings["thresholds"][0]["emptied"] == [] and fit.guide.notes == []


def test_where_weights_come_back_it_is_said_how_many():
    """The budget's last correction brings them back, after the last step."""
    with pytest.warns(UserWarning, match="nothing is left of"):
        fit = fitted(EMPTIED, steps=160, rules=[bp.Budget(density=0.5)])
    (said,) = [note for note in fit.guide.notes if "came back" in note]
    assert fit.guide.notes[-1] == said
    report = fit.settings["thresholds"][0]
    back = {one["tensor"] for one in report["emptied"] if one["back_at"] is not None}
    left = {name: (weight != 0).float().mean() for name, weight in fit.included_weights().items()}
    for name in back:
        assert f"{name} ended with {float(left[name]):.2%} of its weights" in said
        assert report["tensors"][name]["density"] == pytest.approx(float(left[name]))
    assert back and math.isclose(fit.summary()["sparsity"], 0.5, abs_tol=0.01)
    assert {one["back_at"] for one in report["emptied"]} == {160}  # control: not before


# -- what is recorded -----------------------------------------------------------------------------------------


def test_thresholds_stand_in_the_trace_by_tensor():
    by_output = bp.SoftThreshold(g="sigmoid", per="output")
    priors = {"fc1.weight": by_output, "fc2.weight": bp.SoftThreshold(), "fc3.weight": bp.HALO()}
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(bp.lenet_300_100(6, 2, (8, 5)), priors, data_size=N)
    seen = []

    class Means(bp.Callback):
        def on_epoch(self, state):
            seen.append({name: value.clone() for name, value in state.objective.guide.means().items()})

    fit = bp.fit(bnn, (X, Y), guide="map", steps=12, batch_size=16, callbacks=[Means()], precision="float64")
    trace = fit.trace
    for key in ("threshold", "threshold_s", "threshold_low", "threshold_high"):
        assert trace[key].dims == ("restart", "epoch", "tensor")
        assert trace[key].sel(tensor="fc3.weight").isnull().all()
    assert "threshold_name" not in trace.dims
    s = np.array([float(one["fc2.weight.s"]) for one in seen])
    np.testing.assert_array_equal(trace["threshold_s"].sel(tensor="fc2.weight").values[0], s)
    np.testing.assert_allclose(trace["threshold"].sel(tensor="fc2.weight").values[0], np.exp(s), rtol=1e-12)
    assert trace["threshold_low"].sel(tensor="fc2.weight").isnull().all()  # there is one
    each = np.stack([torch.sigmoid(one["fc1.weight.s"]).flatten().numpy() for one in seen])
    middle = np.sort(each, axis=1)[:, 3]  # the lower one of the two in the middle of eight
    np.testing.assert_allclose(trace["threshold"].sel(tensor="fc1.weight").values[0], middle, rtol=1e-12)
    for key, share in (("threshold_low", 0.05), ("threshold_high", 0.95)):
        expected = np.quantile(each, share, axis=1)
        np.testing.assert_allclose(trace[key].sel(tensor="fc1.weight").values[0], expected, rtol=1e-9)
    assert fit.settings["thresholds"][0]["tensors"].keys() == {"fc1.weight", "fc2.weight"}


def test_they_are_written_to_tensorboard_and_to_the_trace_file(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    watchers = [bp.TensorBoard(tmp_path / "board"), bp.WriteTrace(tmp_path / "trace")]
    fit = fitted(bp.SoftThreshold(), steps=12, callbacks=watchers)
    found = EventAccumulator(str(tmp_path / "board"), size_guidance={"scalars": 0})
    found.Reload()
    values = [one.value for one in found.Scalars("threshold/fc1.weight")]
    np.testing.assert_allclose(values, fit.trace["threshold"].sel(tensor="fc1.weight").values[0], rtol=1e-6)
    read = bp.read_trace(tmp_path / "trace")
    np.testing.assert_array_equal(read["threshold"].values, fit.trace["threshold"].values)
    fit.save(tmp_path / "fit")
    again = bp.Fit.load(tmp_path / "fit", fit.model)
    np.testing.assert_array_equal(again.trace["threshold_s"].values, fit.trace["threshold_s"].values)
    assert again.settings["thresholds"] == fit.settings["thresholds"]


def test_a_fit_that_was_killed_and_resumed_is_as_one_that_was_not(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)

    class Killed(bp.Callback):
        is_resumable = True

        def on_step(self, state):
            if state.step == 86:
                raise KeyboardInterrupt

    def run(**more):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)
            return fitted(EMPTIED, steps=160, rules=[bp.Budget(density=0.5)], **more)

    whole = run()
    with pytest.raises(KeyboardInterrupt):
        run(callbacks=[Killed()], checkpoint=tmp_path / "fit")
    for _ in range(2):  # from the middle, and when all is done
        resumed = run(checkpoint=tmp_path / "fit")
        assert resumed.settings["resumed_at_epoch"] > 1
        assert resumed.trace.drop_vars("seconds").identical(whole.trace.drop_vars("seconds"))
        assert resumed.settings["thresholds"] == whole.settings["thresholds"]
        assert resumed.guide.notes == whole.guide.notes
    assert any(one["step"] < 80 for one in whole.settings["thresholds"][0]["emptied"])  # control: before it was killed


# -- who brings it, and that it changes nothing ---------------------------------------------------------------


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("guide", ["map", "meanfield"])
def test_it_changes_no_number(monkeypatch, guide, execution):
    how = {"guide": guide, "execution": execution, "steps": 60, "restarts": 2}
    watched = fitted(bp.SoftThreshold(per="output"), **how)
    monkeypatch.setattr(fitting, "default_rules_of", lambda model, given: [])
    alone = fitted(bp.SoftThreshold(per="output"), **how)
    assert "thresholds" in watched.settings and "thresholds" not in alone.settings  # control
    for one, other in zip(watched.restarts, alone.restarts, strict=True):
        theirs = other.guide.state_dict()
        assert all(torch.equal(value, theirs[name]) for name, value in one.guide.state_dict().items())
    mine = watched.trace.drop_vars(["seconds", *(key for key in watched.trace if key.startswith("threshold"))])
    assert mine.identical(alone.trace.drop_vars("seconds"))


def test_a_model_brings_it_once_whatever_how_many_priors_have_the_event():
    @dataclass(frozen=True)
    class Own(BeyondThreshold):
        """Of a user."""

    thresholds = ready_rules.default_rules_of(model(bp.SoftThreshold(), (8, 5)), ())
    assert thresholds == [Thresholds()]
    assert ready_rules.default_rules_of(model(bp.SoftThreshold()), [Thresholds(5)]) == []
    assert ready_rules.default_rules_of(model(bp.SpikeAndSlab()), ()) == []
    prior = bp.SoftThreshold()
    prior.included = Own()
    assert ready_rules.default_rules_of(model(prior), ()) == [Thresholds()]


def test_loops_of_ones_own_may_have_it_or_not():
    bnn = model(bp.SoftThreshold())
    for rules in ([], [Thresholds(2)]):
        loss = bp.objective(bnn, Guide(bnn))
        optimizer = torch.optim.SGD(loss.parameters(), lr=0.01)
        with bp.Record(loss, optimizer, rules=rules) as record:
            for _ in range(4):
                optimizer.zero_grad()
                (loss(X, Y) / N).backward()
                optimizer.step()
                record.step()
            record.epoch()
        fit = bp.Fit.of(loss, (X, Y), record=record)
        assert ("threshold" in fit.trace) == bool(rules)
        assert not rules or fit.trace["threshold"].dims == ("restart", "epoch", "tensor")


@pytest.mark.parametrize("every", [0, -3, 2.5, "often"])
def test_steps_between_looks_are_a_number_of_them(every):
    with pytest.raises(ValueError, match="every.*Thresholds|Thresholds.*every"):
        Thresholds(every)
