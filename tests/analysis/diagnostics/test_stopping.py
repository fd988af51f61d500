"""The rule gives the judgement of `convergence`, at the right times; and a stopped fit is as good as a longer one."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.analysis.diagnostics.convergence import ELBO
from bayesprune.analysis.diagnostics.stopping import GROWTH
from tests.analysis.diagnostics.test_convergence import N, noise, synthetic
from tests.analysis.regressions import data_of, model_of
from tests.oracles.conjugate_regression import regression


def state_of(elbo, warmup=0.0, rates=(1e-2,), is_map=False, data_size=10**6):
    """A restart that has nothing but its iterates, one a step."""
    iterates = [{"step": step, ELBO: value, "log tau": 1.0} for step, value in enumerate(elbo, start=1)]
    history = [{"learning_rate": rate} for rate in rates]
    model = SimpleNamespace(data_size=data_size, progress=None)
    objective = SimpleNamespace(guide=SimpleNamespace(is_map=is_map), model=model)
    return SimpleNamespace(iterates=iterates, history=history, steps=len(elbo), kl_warmup=warmup, objective=objective)


def grown(series, lengths, rule, **how):
    """What the rule says as a restart grows: its answers at these lengths."""
    state = state_of(series, **how)
    every, answers = state.iterates, []
    for length in lengths:
        state.iterates = every[:length]
        answers.append(rule(state))
    return answers


CURVES = {
    "noise": np.zeros(N),
    "levelled off": 40 * np.exp(-np.arange(N) / (N / 25)),
    "drifting": -8 * np.linspace(0, 1, N),
    "diverging": np.exp(4 * np.linspace(0, 1, N)),
    "to infinity": np.where(np.arange(N) > N - 9, np.inf, 0.0),
    "constant": None,
}


@pytest.mark.parametrize("curve", CURVES)
@pytest.mark.parametrize("seed", range(3))
def test_its_verdict_is_that_of_convergence(curve, seed):
    series = np.full(N, 3.0) if CURVES[curve] is None else noise(seed)[0] + CURVES[curve]
    rule = bp.until_converged(looks=1)
    stops = rule(state_of(series, warmup=0.25))
    judged = bp.convergence(synthetic(series, warmup=0.25, scales=np.ones((1, N, 1)), names=("log tau",)))
    assert rule.verdict == judged.verdict
    assert stops == (judged.verdict == "converged")
    assert judged.reason.rstrip(".") in rule.reason


@pytest.mark.parametrize("curve", ["drifting", "diverging", "to infinity", "constant"])
def test_what_is_not_stationary_is_never_stopped(curve):
    lengths = range(20, N + 1, 20)
    stopped = 0
    for seed in range(5):
        series = np.full(N, 3.0) if CURVES[curve] is None else 0.3 * noise(seed)[0] + CURVES[curve]
        start = 100 if curve == "drifting" else N - 8 if curve == "to infinity" else 300  # before, it is flat or short
        stopped += any(grown(series, [n for n in lengths if n > start], bp.until_converged()))
    assert stopped == 0
    assert any(grown(0.3 * noise(0)[0], lengths, bp.until_converged()))  # control


def test_nothing_is_said_during_the_warmup_nor_with_few_iterates():
    series = noise(0)[0]
    assert not any(grown(series, range(10, 401, 10), bp.until_converged(looks=1), warmup=0.5))
    assert any(grown(series, range(10, 401, 10), bp.until_converged(looks=1)))  # control: without a warm-up
    rule = bp.until_converged(looks=1)
    assert grown(series, [99], rule) == [False]
    assert (rule.verdict, rule.reason) == ("cannot tell", "fewer than 100 iterates were recorded since the KL warm-up")
    many = bp.until_converged(windows=20, looks=1)
    assert grown(series, [150], many) == [False]
    assert many.reason.startswith("150 iterates after the KL warm-up say nothing: 200 are needed")


def test_nothing_is_said_while_a_prior_is_annealed():
    series, rule = noise(0)[0], bp.until_converged(looks=1)
    annealed = bp.BayesianNetwork(torch.nn.Linear(2, 2), {"weight": bp.ContinuousSpikeAndSlab()}, data_size=10**6)
    state = state_of(series)
    every, answers = state.iterates, {}
    for length in range(20, N + 1, 20):
        state.iterates, state.step, state.objective.model = every[:length], length, annealed
        annealed.progress.set(length / N)
        answers[length] = rule(state)
        if length == 0.78 * N:
            assert rule.verdict == "cannot tell" and "since the prior changed" in rule.reason
    assert min(length for length, stops in answers.items() if stops) >= 0.8 * N + 80  # the iterates since then
    assert any(grown(series, range(20, N // 2, 20), bp.until_converged(looks=1)))  # control: no such prior


def test_it_looks_only_when_there_is_more_to_see():
    rule = bp.until_converged(looks=2)
    state = state_of(noise(0)[0])
    assert (rule(state), rule.reason.endswith("(look 1 of 2 in a row)")) == (False, True)
    assert [rule(state) for _ in range(5)] == [False] * 5  # the same iterates are no second witness
    state.iterates += [{**row, "step": row["step"] + N} for row in state_of(noise(1)[0]).iterates[: int(0.11 * N)]]
    assert len(state.iterates) >= GROWTH * N
    assert rule(state) and rule.reason.endswith("(look 2 of 2 in a row)")


def test_one_look_that_says_no_begins_the_count_again():
    moving = noise(0, length=2 * N)[0]
    moving[N : N + 400] -= 30.0
    rule = bp.until_converged(looks=2)
    answers, reasons = [], []
    state = state_of(moving)
    every = state.iterates
    for length in (N, N + 400, 2 * N):
        state.iterates = every[:length]
        answers.append(rule(state))
        reasons.append(rule.verdict)
    assert reasons[:2] == ["converged", "not converged"]
    assert not any(answers)


def test_a_new_restart_begins_anew():
    rule = bp.until_converged(looks=2)
    assert not rule(state_of(noise(0)[0]))
    assert not rule(state_of(noise(1)[0]))  # the second look, but the first at this restart


def test_it_never_stops_because_the_learning_rate_fell():
    series = noise(0)[0]
    fallen = bp.until_converged(looks=1)
    assert not fallen(state_of(series, rates=(1e-2, 1e-2, 5e-3)))
    assert fallen.verdict == "cannot tell"
    assert fallen.reason.startswith("the learning rate has fallen to 0.5 of its highest, which stills any fit")
    assert bp.until_converged(looks=1)(state_of(series, rates=(1e-3, 1e-2, 1e-2)))  # control: risen, and held


def test_a_climb_that_the_noise_hides_is_no_reason_to_stop():
    """With 100 examples 2 nats matter; noise of this size hides five of them."""
    climbing = 20 * noise(0)[0] - 5 * np.linspace(0, 1, N)
    hidden = bp.until_converged(looks=1)
    assert not hidden(state_of(climbing, data_size=100))
    assert hidden.reason.startswith("a drift of the ELBO of up to") and "of which 2 would matter" in hidden.reason
    assert bp.until_converged(looks=1)(state_of(climbing))  # control: in a million examples it is nothing
    assert bp.until_converged(looks=1)(state_of(0.1 * noise(0)[0], data_size=100))  # control: with little noise


def test_a_map_is_judged_by_its_log_joint():
    rule = bp.until_converged(looks=1)
    rule(state_of(noise(0)[0] - 20 * np.linspace(0, 1, N), is_map=True))
    assert rule.reason.startswith("the log joint still rises")


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match="windows must be at least 2, not 1"):
        bp.until_converged(windows=1)
    with pytest.raises(ValueError, match="looks in a row must be at least 1, not 0"):
        bp.until_converged(looks=0)


# ------------------------------------------------------------------------------------------------- real fits

PROBLEM = regression(size=100, features=1)


def fitted(steps, rate=0.1, **how):
    settings = {
        "batch_size": 100,
        "schedule": "constant",
        "kl_warmup": 0.0,
        "execution": "plain",
        "precision": "float64",
    }
    settings["optimizer"] = lambda groups: torch.optim.Adam(groups, lr=rate)
    bnn = model_of(PROBLEM)
    with torch.no_grad():
        bnn.network.weight.add_(3.0)
    return bp.fit(bnn, data_of(PROBLEM), "meanfield", steps=steps, **(settings | how))


def test_a_fit_tells_a_rule_of_its_warm_up():
    for share in (0.0, 0.4):
        seen = []
        fitted(2, kl_warmup=share, stop=lambda state, seen=seen: seen.append(state.kl_warmup))
        assert set(seen) == {share}


def test_a_fit_that_was_stopped_says_where_and_why():
    stopped = fitted(3000, stop=bp.until_converged())
    taken = int(stopped.trace.iterate_step.max())
    assert 100 <= taken < 3000
    (ending,) = stopped.settings["stopped_early"]
    assert (ending["restart"], ending["step"], ending["steps"]) == (0, taken, 3000)
    (sentence,) = stopped.summary()["stopped_early"]
    assert sentence == f"restart 0 at step {taken} of 3000: {ending['reason']}"
    assert ending["reason"].startswith("converged: the ELBO and the scales are stationary")
    assert fitted(3).settings["stopped_early"] == []
    early = fitted(3, stop=lambda state: state.epoch == 2)
    assert early.settings["stopped_early"] == [{"restart": 0, "step": 2, "steps": 3, "reason": ""}]
    assert early.summary()["stopped_early"] == ["restart 0 at step 2 of 3"]


@pytest.mark.slow
def test_a_converged_fit_is_stopped_early_and_a_longer_one_is_no_better():
    for seed in range(3):
        stopped = fitted(3000, stop=bp.until_converged(), seed=seed)
        taken = int(stopped.trace.iterate_step.max())
        assert taken < 3000 and len(stopped.settings["stopped_early"]) == 1
        longer = fitted(4 * taken, seed=seed)
        a, b = bp.convergence(stopped), bp.convergence(longer)
        assert a.verdict == "converged"
        error = math.hypot(a.elbo_error, b.elbo_error)
        assert abs(a.elbo - b.elbo) < 3 * error
        first = -float(longer.trace[ELBO][0, :10].mean())
        assert abs(first - b.elbo) > 10 * error  # control: the start is told apart


def test_a_fit_that_drifts_or_diverges_runs_to_its_end():
    drifting = fitted(300, rate=1e-3, stop=bp.until_converged())
    assert drifting.settings["stopped_early"] == []
    assert bp.convergence(drifting).verdict == "not converged"
    diverging = fitted(60, stop=bp.until_converged(), optimizer=lambda groups: torch.optim.SGD(groups, lr=2.2))
    assert diverging.settings["stopped_early"] == []
    assert bp.convergence(diverging).verdict == "not converged"
