"""Tuning: what is chosen, against ridge regressions in closed form; what is never chosen; going on; wrong usage."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from types import SimpleNamespace

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.defaults.knob_grid import around, from_dense_to_sparse, given_knobs
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.sparsity_path import next_fit
from bayesprune.inference.tuning.trials import TRIALS_FILE, Trial
from bayesprune.inference.tuning.tuning import Tuned, _search

SIZE, FEATURES, NOISE = 30, 12, 1.0
HOW = {"guide": "map", "kl_warmup": 0.0, "learning_rate": 0.1, "batch_size": SIZE, "device": "cpu",
       "precision": "float64", "execution": "plain", "first_steps": 200, "steps": 100}  # fmt: skip
SDS = (0.03, 0.1, 0.3, 1.0, 3.0)


def regression(scale, seed=0):
    """Training and validation data of a regression whose weights have that standard deviation."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(SIZE + 200, FEATURES, generator=generator, dtype=torch.float64)
    weight = scale * torch.randn(FEATURES, generator=generator, dtype=torch.float64)
    y = x @ weight + NOISE * torch.randn(len(x), generator=generator, dtype=torch.float64)
    return (x[:SIZE], y[:SIZE]), (x[SIZE:], y[SIZE:])


def model_at(sd=1.0):
    network = nn.Linear(FEATURES, 1, bias=False)
    nn.init.zeros_(network.weight)
    return bp.BayesianNetwork(network, {"weight": bp.Gaussian(sd)}, bp.Normal(scale=NOISE), data_size=SIZE)


def exact(train, validation, sd, kl_weight=1.0):
    """Validation nll of the ridge regression that is the MAP, in closed form."""
    (x, y), (x_new, y_new) = train, validation
    penalty = kl_weight * NOISE**2 / sd**2
    weight = torch.linalg.solve(x.T @ x + penalty * torch.eye(FEATURES, dtype=torch.float64), x.T @ y)
    return float(((y_new - x_new @ weight) ** 2).mean()) / (2 * NOISE**2) + 0.5 * math.log(2 * math.pi * NOISE**2)


# -- against closed forms ------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", [0.1, 1.0])
def test_the_prior_sd_of_the_best_exact_validation_nll_is_chosen(scale):
    train, validation = regression(scale)
    losses = {sd: exact(train, validation, sd) for sd in SDS}
    best = min(losses, key=losses.get)
    worst = max(losses, key=losses.get)
    tuned = bp.tune(model_at, train, validation, {"sd": SDS}, start={"sd": worst}, **HOW)
    assert tuned.values == {"sd": best} and tuned.chosen.warm_from is None
    for trial in tuned.trials:  # cold and warm ones
        assert trial.nll == pytest.approx(losses[trial.values["sd"]], rel=5e-3)
    others = [abs(losses[sd] - losses[best]) for sd in SDS if sd != best]
    assert min(others) > 5e-3 * losses[best]  # control: what is compared with tells the values apart


def test_the_best_sd_depends_on_the_data():
    """The control of the test before: no one value is the best of both."""
    best = []
    for scale in (0.1, 1.0):
        train, validation = regression(scale)
        best.append(min(SDS, key=lambda sd: exact(train, validation, sd)))
    assert best[0] != best[1]


def test_the_kl_weight_of_the_best_exact_validation_nll_is_chosen_and_fitted():
    train, validation = regression(1.0)
    losses = {weight: exact(train, validation, 0.05, weight) for weight in (1.0, 0.1, 0.01, 0.001)}
    best = min(losses, key=losses.get)
    knobs = {"kl_weight": tuple(losses)}
    tuned = bp.tune(model_at(0.05), train, validation, knobs, kl_weight=1.0, **HOW)
    assert tuned.values == {"kl_weight": best} != {"kl_weight": 1.0}
    assert [trial.values["kl_weight"] for trial in tuned.trials[:3]] == [1.0, 0.001, 0.01]  # start; weak to strong
    fitted = tuned.fit(steps=200)
    assert fitted.settings["kl_weight"] == best and not fitted.settings["warm_start"]
    assert fitted.score(*validation)["nll"] == pytest.approx(losses[best], abs=2e-3)


def test_a_kl_weight_that_is_given_holds_in_all_trials_and_in_the_full_fit():
    train, validation = regression(0.1)
    tuned = bp.tune(model_at, train, validation, {"sd": (0.3, 0.1)}, kl_weight=0.2, **HOW)
    for trial in tuned.trials:
        assert trial.nll == pytest.approx(exact(train, validation, trial.values["sd"], 0.2), rel=1e-3)
    assert exact(train, validation, 0.1, 0.2) != pytest.approx(exact(train, validation, 0.1), rel=1e-2)
    assert tuned.fit(steps=20).settings["kl_weight"] == 0.2


def test_knobs_are_searched_one_after_the_other_the_kl_weight_first():
    train, validation = regression(1.0)
    tuned = bp.tune(model_at, train, validation, {"sd": (0.05, 1.0), "kl_weight": (1, 0.1)}, kl_weight=1.0, **HOW)
    assert [trial.knob for trial in tuned.trials][:2] == ["kl_weight", "kl_weight"]
    later = [trial for trial in tuned.trials if trial.knob == "sd"]
    chosen_weight = tuned.values["kl_weight"]
    assert later and all(trial.values["kl_weight"] == chosen_weight for trial in later)
    assert str(tuned).count("chosen") == 1 and "tuned on validation data" in str(tuned)


def test_sparsity_path_and_tune_share_their_warm_starts(monkeypatch):
    train, validation = regression(1.0)
    seen, real = [], next_fit.fit
    monkeypatch.setattr(next_fit, "fit", lambda *given, **more: seen.append(more) or real(*given, **more))
    bp.tune(model_at, train, validation, {"sd": (3.0, 1.0, 0.3)}, start={"sd": 0.1}, **HOW)
    assert [one["kl_warmup"] for one in seen if one.get("start") is not None] == [0.0, 0.0]
    assert [one["steps"] for one in seen[:4]] == [200, 200, 100, 100]


# -- what is never chosen ------------------------------------------------------------------------------------


def test_what_is_not_better_than_before_is_never_chosen():
    train, validation = regression(1.0)
    best = min(SDS, key=lambda sd: exact(train, validation, sd))
    tuned = bp.tune(model_at, train, validation, {"sd": SDS}, start={"sd": best}, **HOW)
    assert tuned.values == {"sd": best} and tuned.chosen is tuned.before
    assert "nothing was better than sd" in tuned.notes[0]
    assert len({trial.values["sd"] for trial in tuned.trials}) == len(SDS)  # control: the others were tried


def test_a_loss_that_is_not_finite_is_never_chosen():
    train, validation = regression(1.0)
    best = min(SDS, key=lambda sd: exact(train, validation, sd))

    def broken(sd=0.1):
        if sd != best:
            return model_at(sd)
        prior = bp.Hierarchy(weight=lambda: dist.Normal(0.0, sd), factor=lambda weight: math.nan * weight.sum())
        network = nn.Linear(FEATURES, 1, bias=False)
        return bp.BayesianNetwork(network, {"weight": prior}, bp.Normal(scale=NOISE), data_size=SIZE)

    tuned = bp.tune(broken, train, validation, {"sd": SDS}, **HOW)
    failed = [trial for trial in tuned.trials if not trial.is_finite]
    assert [trial.values["sd"] for trial in failed] == [best] and "non-finite" in failed[0].problem
    second = sorted(SDS, key=lambda sd: exact(train, validation, sd))[1]
    assert tuned.values == {"sd": second}
    json.dumps(tuned.rows(), allow_nan=False)


def test_a_score_that_is_not_finite_is_never_chosen(monkeypatch):
    train, validation = regression(1.0)
    best = min(SDS, key=lambda sd: exact(train, validation, sd))
    real = bp.Fit.score

    def score(fit, *given, **more):
        found = real(fit, *given, **more)
        sd = next(iter(fit.model.patterns.values())).config["arguments"]["sd"]
        return {**found, "nll": math.nan} if sd == best else found

    monkeypatch.setattr(bp.Fit, "score", score)
    tuned = bp.tune(model_at, train, validation, {"sd": SDS}, start={"sd": 0.1}, **HOW)
    assert tuned.values["sd"] != best and all(trial.is_finite == (trial.values["sd"] != best) for trial in tuned.trials)


# -- the rules, on trials that are made up -------------------------------------------------------------------


class MadeUp:
    """Trials whose losses are given: `cold` and `warm` by value."""

    def __init__(self, cold, warm=None, error=None):
        self.cold, self.warm, self.error, self.rows = cold, warm or {}, error, []

    def run(self, knob, values, before=None):
        losses = self.cold if before is None else {**self.cold, **self.warm}
        loss = losses[values[knob]]
        number = None if before is None else before.number
        trial = Trial(len(self.rows), knob, dict(values), number, 9, loss, self.error, "accuracy", 0.5, 0.0, 1.0)
        self.rows.append(trial)
        return trial

    def forget(self, *but):
        pass


def searched(trials, path=(4.0, 3.0, 2.0, 1.0), start=1.0, rule="best", is_warm=True):
    incumbent = trials.run("k", {"k": start})
    return _search(trials, "k", path, incumbent, is_warm, rule).values["k"]


def test_what_only_a_warm_start_bears_is_not_chosen():
    cold = {4.0: 0.5, 3.0: 0.9, 2.0: 2.3, 1.0: 2.3}
    assert searched(MadeUp(cold, {2.0: 0.3, 3.0: 0.6})) == 4.0
    assert searched(MadeUp(cold | {2.0: 0.35}, {2.0: 0.3, 3.0: 0.6})) == 2.0  # control


def test_a_dead_start_is_no_place_to_begin_at():
    trials = MadeUp({4.0: 0.5, 3.0: 0.6, 2.0: 2.3, 1.0: 0.7})
    searched(trials, start=2.0)
    by_value = {trial.values["k"]: trial for trial in trials.rows if trial.warm_from is not None}
    assert trials.rows[by_value[1.0].warm_from].values["k"] == 3.0
    alive = MadeUp({4.0: 0.5, 3.0: 0.6, 2.0: 0.4, 1.0: 0.7})  # control
    searched(alive, start=2.0)
    assert alive.rows[alive.rows[-1].warm_from].values["k"] == 2.0


def test_one_standard_error_takes_the_sparsest_of_those_that_are_as_good():
    cold = {4.0: 0.50, 3.0: 0.51, 2.0: 0.58, 1.0: 2.3}
    assert searched(MadeUp(cold, error=0.02), is_warm=False) == 4.0
    assert searched(MadeUp(cold, error=0.02), is_warm=False, rule="one-standard-error") == 3.0
    assert searched(MadeUp(cold, error=0.1), is_warm=False, rule="one-standard-error") == 2.0
    better = {**cold, 1.0: 0.505}  # what is not better than before is not chosen by it either
    assert searched(MadeUp(better, error=0.1), is_warm=False, rule="one-standard-error") == 4.0


def test_the_standard_error_is_that_of_the_mean_over_examples():
    train, validation = regression(1.0)
    tuned = bp.tune(model_at, train, validation, {"sd": (1.0,)}, rule="one-standard-error", **HOW)
    fitted = bp.fit(model_at(1.0), train, **{k: v for k, v in HOW.items() if k != "first_steps"})
    outputs = fitted.predict(validation[0]).mean
    losses = 0.5 * (validation[1] - outputs.reshape(-1)) ** 2 / NOISE**2
    assert tuned.before.standard_error == pytest.approx(float(losses.std() / len(losses) ** 0.5), rel=0.6)
    assert bp.tune(model_at, train, validation, {"sd": (1.0,)}, **HOW).before.standard_error is None


# -- the full fit --------------------------------------------------------------------------------------------


def full(losses, chosen=0.4):
    """What `full_fit` makes of full fits with the losses given by value, after trials of 2.0 and `chosen`."""
    before = Trial(0, "k", {"k": 1.0}, None, 9, 2.0, None, "accuracy", 0.1, 0.0, 1.0)
    best = replace(before, number=1, values={"k": 4.0}, nll=chosen)
    fitted = []

    def fit_at(values):
        fitted.append(values["k"])
        if losses[values["k"]] is None:
            raise NonFiniteLossError("the loss became non-finite")
        return SimpleNamespace(restarts=[0], at=values["k"], score=lambda *split, restart: {"nll": losses[values["k"]]})

    tuned = Tuned({"k": 4.0}, before, best, (before, best), (), fit_at, (torch.zeros(1), torch.zeros(1)))
    return *tuned.full_fit(fit_at), fitted


def test_the_full_fit_is_that_of_the_values_chosen_where_it_is_better_than_the_start():
    fit, tuned, fitted = full({4.0: 0.3})
    assert (fit.at, fitted, tuned.notes) == (4.0, [4.0], ())
    fit, tuned, _ = full({4.0: 0.7})
    assert fit.at == 4.0 and "more than the 0.4 of the short one" in tuned.notes[-1]


@pytest.mark.parametrize("chosen", [2.1, math.nan, None])
def test_the_settings_before_are_kept_where_the_full_fit_is_no_better(chosen):
    fit, tuned, fitted = full({4.0: chosen, 1.0: 1.5})
    assert (fit.at, fitted, tuned.values) == (1.0, [4.0, 1.0], {"k": 1.0})
    assert tuned.chosen is tuned.before and "the settings before tuning are kept" in tuned.notes[-1]
    assert [row["chosen"] for row in tuned.rows()] == [True, False]


def test_of_two_full_fits_that_are_no_better_than_the_start_the_better_one_is_kept():
    fit, tuned, _ = full({4.0: 2.1, 1.0: 2.2})
    assert (fit.at, tuned.values) == (4.0, {"k": 4.0})
    with pytest.raises(NonFiniteLossError, match="neither"):
        full({4.0: None, 1.0: None})


# -- going on ------------------------------------------------------------------------------------------------


class Interrupted(BaseException):
    """Like KeyboardInterrupt: nothing may catch it."""


def without_clocks(tuned):
    return [replace(trial, seconds=0.0) for trial in tuned.trials]


@pytest.mark.parametrize("at", [pytest.param(1, marks=pytest.mark.slow), 2, pytest.param(4, marks=pytest.mark.slow)])
def test_a_search_that_was_interrupted_gives_the_same_numbers(at, tmp_path, monkeypatch):
    train, validation = regression(1.0)
    how = {**HOW, "first_steps": 40, "steps": 20, "guide": "meanfield", "start": {"sd": 0.03}}
    whole = bp.tune(model_at, train, validation, {"sd": SDS}, **how)
    assert len(whole.trials) >= 5 and whole.trials[3].warm_from == 2
    real, calls = next_fit.fit, []

    def fit(*given, **more):
        calls.append(more)
        if len(calls) == at + 1:
            raise Interrupted
        return real(*given, **more)

    with monkeypatch.context() as patched:
        patched.setattr(next_fit, "fit", fit)
        with pytest.raises(Interrupted):
            bp.tune(model_at, train, validation, {"sd": SDS}, folder=tmp_path / "t", **how)
    assert len(json.loads((tmp_path / "t" / TRIALS_FILE).read_text())["trials"]) == at
    trained = []
    step = torch.optim.Adam.step
    monkeypatch.setattr(torch.optim.Adam, "step", lambda *given, **more: trained.append(1) or step(*given, **more))
    again = bp.tune(model_at, train, validation, {"sd": SDS}, folder=tmp_path / "t", **how)
    assert without_clocks(again) == without_clocks(whole) and again.values == whole.values
    assert len(trained) == sum(trial.steps for trial in whole.trials[at:])  # what was finished is not trained again
    trained.clear()
    other = bp.tune(model_at, train, validation, {"sd": SDS}, **{**how, "seed": 1})
    assert without_clocks(other) != without_clocks(whole) and trained  # control


def test_a_folder_of_another_search_is_refused(tmp_path):
    train, validation = regression(1.0)
    how = {**HOW, "first_steps": 5, "steps": 5, "folder": tmp_path}
    bp.tune(model_at, train, validation, {"sd": (1.0, 0.3)}, **how)
    for more, said in (({"seed": 3}, "keeps trials with how"), ({"steps": 6}, "keeps trials with lengths")):
        with pytest.raises(ValueError, match=said):
            bp.tune(model_at, train, validation, {"sd": (1.0, 0.3)}, **{**how, **more})
    with pytest.raises(ValueError, match="keeps trials with values"):
        bp.tune(model_at, train, validation, {"sd": (1.0, 0.2)}, **how)
    file = tmp_path / TRIALS_FILE
    for row in ({"number": 0}, {"warm_from": 3}, {"nll": "x"}):
        found = json.loads(file.read_text())
        found["trials"][-1] = row if "number" in row else {**found["trials"][-1], **row}
        file.write_text(json.dumps(found))
        with pytest.raises(ValueError, match=r"trials\.json is damaged"):
            bp.tune(model_at, train, validation, {"sd": (1.0, 0.3)}, **how)


def test_gates_of_units_are_tuned_from_cold_starts():
    torch.manual_seed(0)
    x, y = torch.randn(60, 6), torch.arange(60) % 3

    def gated(kappa=0.01):
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        return bp.BayesianNetwork(network, {}, data_size=60, gates=bp.UnitGates(kappa=kappa), example_input=x[:1])

    tuned = bp.tune(gated, (x, y), (x, y), {"kappa": (0.001, 0.1)}, first_steps=12, device="cpu", batch_size=30)
    assert [trial.warm_from for trial in tuned.trials] == [None] * 3
    assert all(trial.is_finite for trial in tuned.trials)


# -- grids, and wrong usage ----------------------------------------------------------------------------------


def test_grids_are_geometric_and_those_of_shares_stay_between_0_and_1():
    assert around("kl_weight", 1.0) == [1.0, 0.3, 0.1, 0.03]
    assert around("kl_weight", 0.5) == [0.5, 1.0, 0.3, 0.1, 0.03]
    assert around("lam", 2.0) == [0.2, 0.6, 2.0, 6.0, 20.0]
    shares = around("expected_density", 0.9)
    odds = [share / (1 - share) for share in shares]
    assert odds == pytest.approx([0.9, 2.7, 9.0, 27.0, 90.0], rel=0.05) and max(shares) < 1.0
    assert around("expected_density", None) == around("expected_density", 0.1)  # what priors take


def test_a_knob_without_a_start_is_told_without_values_that_may_be_none_of_its_kind():
    with pytest.raises(ValueError, match="as --tune sd=A,B,C") as raised:
        around("sd", None)
    assert "100" not in str(raised.value)


def test_the_price_of_unit_gates_starts_at_its_rule():
    x, y = torch.randn(60, 6), torch.arange(60) % 3

    def gated(log_gamma=None):
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        return bp.BayesianNetwork(network, {}, data_size=60, gates=bp.UnitGates(log_gamma), example_input=x[:1])

    tuned = bp.tune(gated, (x, y), (x, y), "log_gamma", first_steps=4, steps=4, device="cpu", batch_size=30)
    values = [trial.values["log_gamma"] for trial in tuned.trials]
    assert values[0] == pytest.approx(math.log(60)) and len(values) == 5
    assert max(values) == pytest.approx(10 * values[0], rel=1e-2)

    def without_a_price(log_gamma=None):
        network = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
        gates = bp.UnitGates(log_gamma, probability=0.3 if log_gamma is None else None)
        return bp.BayesianNetwork(network, {}, data_size=60, gates=gates, example_input=x[:1])

    with pytest.raises(ValueError, match="leaves it to the prior"):
        bp.tune(without_a_price, (x, y), (x, y), "log_gamma", first_steps=4, steps=4, device="cpu", batch_size=30)


def test_values_go_from_dense_to_sparse():
    assert from_dense_to_sparse("kl_weight", (1.0, 0.1), True) == ([0.1, 1.0], True)
    assert from_dense_to_sparse("expected_density", (0.1, 0.5), False) == ([0.5, 0.1], True)
    assert from_dense_to_sparse("own", (3.0, 1.0, 2.0), True) == ([3.0, 1.0, 2.0], True)
    assert from_dense_to_sparse("own", (3.0, 1.0, 2.0), False) == ([1.0, 2.0, 3.0], False)


def test_values_that_the_prior_refuses_are_left_out_of_a_grid_that_nobody_gave():
    train, validation = regression(1.0)

    def bounded(own=1.0):
        if own > 5.0:
            raise ValueError("own is at most 5")
        return model_at(own)

    short = {**HOW, "first_steps": 3, "steps": 3}
    tuned = bp.tune(bounded, train, validation, "own", **short)
    assert {trial.values["own"] for trial in tuned.trials} == {0.1, 0.3, 1.0, 3.0}
    assert all(trial.warm_from is None for trial in tuned.trials)  # nobody knows which end is dense
    with pytest.raises(ValueError, match="own is at most 5"):
        bp.tune(bounded, train, validation, {"own": (1.0, 10.0)}, **short)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"validation": None}, "there are none: give validation="),
        ({"validation": (torch.zeros(0, 12), torch.zeros(0))}, "there are none: give validation="),
        ({"knobs": "sdd"}, r"there is no knob 'sdd' \(did you mean 'sd'\?\): expected kl_weight, or an argument"),
        ({"knobs": ""}, "knobs are names of settings"),
        ({"knobs": "sd,sd"}, "the knob sd is given twice"),
        ({"knobs": {"sd": 3}}, "values of the knob sd are a sequence of numbers"),
        ({"knobs": {"sd": (1, math.inf)}}, "a value of the knob sd must be a finite number"),
        ({"knobs": {"sd": (1, 1)}}, "takes 1 to 50 values, each once"),
        ({"knobs": {"kl_weight": (1, -1)}}, "kl_weight must not be negative"),
        ({"rule": "worst"}, "rule 'worst' is unknown: expected one of best, one-standard-error"),
        ({"start": {"tau": 1}}, "there is no knob 'tau'"),
        ({"knobs": "kl_weight", "start": {"sd": 1}}, "start= says where the prior's knobs start that are tuned"),
        ({"epochs": 3}, "epochs= is set by the trials themselves"),
        ({"model_at": lambda sd: model_at(sd)}, "the knob sd has no place to start"),
        ({"model_at": lambda sd=None: model_at(sd)}, "the knob sd leaves it to the prior.*give its values"),
        ({"model_at": lambda sd="wide": model_at(1.0)}, "only numbers are tuned"),
        ({"first_steps": 0}, "first_steps must be at least 1"),
    ],
)
def test_wrong_usage_is_told_in_a_sentence_before_anything_is_fitted(change, said, monkeypatch):
    monkeypatch.setattr(next_fit, "fit", None)
    train, validation = regression(1.0)
    given = {"model_at": model_at, "validation": validation, "knobs": "sd", **change}
    with pytest.raises(ValueError, match=said) as raised:
        bp.tune(given.pop("model_at"), train, given.pop("validation"), given.pop("knobs"), **given)
    assert "\n" not in str(raised.value)


def test_names_of_knobs_are_read_from_text_and_sequences():
    assert given_knobs("sd, kl_weight") == given_knobs(("sd", "kl_weight")) == {"kl_weight": None, "sd": None}
    assert list(given_knobs({"sd": [1, 2], "kl_weight": None})) == ["kl_weight", "sd"]
