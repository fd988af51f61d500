"""Iterate averaging: the average of what was seen, on both paths; and that it is worth it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.rules.iterate_average import IterateAverage
from bayesprune.inference.watching.callbacks import Callback
from tests.oracles.conjugate_regression import regression

torch.manual_seed(5)
X, Y = torch.randn(40, 4), torch.randint(2, (40,))


def network_model():
    """Gates, slabs, point estimates and running statistics."""
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2))
    return bp.BayesianNetwork(network, {"0.weight": bp.SpikeAndSlab(0.3)}, data_size=40)


def learned(state):
    statistics = [b for name, b in state.objective.model.named_buffers() if "running" in name]
    return [t.detach().double().clone() for t in (*state.objective.parameters(), *statistics)]


class Record(Callback):
    """Every iterate, in float64."""

    def on_fit_start(self, state):
        self.seen = []

    def on_step(self, state):
        self.seen.append(learned(state))

    def on_fit_end(self, state):
        self.end = learned(state)  # rules have had their last word by then


def run(average, steps=30, precision="float64", **how):
    record = Record()
    how = {"batch_size": 10, "schedule": "constant", "learning_rate": 1e-2, "device": "cpu"} | how
    fit = bp.fit(network_model(), (X, Y), steps=steps, precision=precision, callbacks=[record], rules=[average], **how)
    return fit, record.seen, record.end


def mean(iterates):
    return [torch.stack(parts).mean(dim=0) for parts in zip(*iterates, strict=True)]


def distance(a, b):
    return max(float((p - q).abs().max()) for p, q in zip(a, b, strict=True))


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_the_fit_ends_at_the_average_of_its_iterates(execution):
    compiled = False if execution == "fused" else None
    fit, seen, end = run(IterateAverage(0.5), execution=execution, compiled=compiled)
    assert fit.settings["execution"]["name"] == execution
    assert len(seen) == 30
    assert distance(end, mean(seen[15:])) < 1e-12
    assert distance(end, mean(seen[16:])) > 1e-4  # control: one iterate fewer
    assert distance(seen[-1], mean(seen[15:])) > 1e-3  # control: the last one
    guide = [p.detach() for p in fit.guide.parameters()]
    assert distance(guide, end[-2 - len(guide) : -2]) == 0.0
    statistics = fit.model.network[1].running_mean, fit.model.network[1].running_var
    assert distance(statistics, end[-2:]) == 0.0
    assert "what was learned is the average of the last 15 steps" in fit.summary()["notes"]


def test_in_float32_the_average_is_rounded_once():
    _, seen, end = run(IterateAverage(0.0), steps=200, precision="float32")
    exact = mean(seen)
    assert distance(end, [part.float().double() for part in exact]) < 1e-7
    assert len(seen) == 200


def test_a_rule_says_when_it_begins_and_steps_when_it_ends():
    average = IterateAverage(lambda state: state.epoch >= 2, steps=7)
    fit, seen, end = run(average)  # 4 steps an epoch
    assert len(seen) == 8 + 7 and fit.settings["average"] == [{"count": 7}]
    assert distance(end, mean(seen[8:])) < 1e-12
    assert fit.settings["stopped_early"] == [
        {"restart": 0, "step": 15, "steps": 30, "reason": "7 iterates were averaged"}
    ]
    assert fit.summary()["stopped_early"] == ["restart 0 at step 15 of 30: 7 iterates were averaged"]


def test_the_rule_is_not_asked_again_once_it_has_said_yes():
    asked = []
    run(IterateAverage(lambda state: asked.append(state.epoch) or state.epoch == 3), steps=40)
    assert asked == [1, 2, 3]


def test_where_nothing_was_averaged_the_last_iterate_stays():
    fit, seen, end = run(IterateAverage(lambda state: False))
    assert fit.settings["average"] == [{"count": 0}]
    assert distance(end, seen[-1]) == 0.0
    assert "what was learned is not averaged: it ended before the start" in fit.summary()["notes"]


def test_each_restart_has_its_own_average():
    ends = []

    class Watch(Record):
        def on_fit_end(self, state):
            ends.append((mean(self.seen[15:]), learned(state)))

    bp.fit(
        network_model(), (X, Y), steps=30, batch_size=10, precision="float64", restarts=2, callbacks=[Watch()],
        rules=[IterateAverage(0.5)],
    )  # fmt: skip
    assert len(ends) == 2
    assert all(distance(expected, end) < 1e-12 for expected, end in ends)
    assert distance(ends[0][1], ends[1][1]) > 1e-3


@pytest.mark.parametrize(("how", "sentence"), [({"start": 1.0}, "share of the steps"), ({"steps": 0}, "at least 1")])
def test_what_makes_no_sense_is_refused(how, sentence):
    with pytest.raises(ValueError, match=sentence):
        IterateAverage(**how)


# -- worth it --------------------------------------------------------------------------------------------------

COPIES = 16


def test_averaging_lowers_the_error_of_posterior_means_once_the_fit_is_stationary():
    """Fits of many copies of a regression, whose iterates are the same: an average changes nothing before the end."""
    problem = regression(size=60, features=4)
    x, y = torch.tensor(problem.x), torch.tensor(problem.y)[:, None].expand(-1, COPIES).clone()
    line = nn.Linear(4, COPIES, bias=False).double()
    with torch.no_grad():
        line.weight.add_(3.0)  # far from the posterior, about twenty of its sds
    bnn = bp.BayesianNetwork(line, {"weight": bp.Gaussian(problem.prior_sd)}, bp.Normal(problem.noise_sd), 60)
    how = {"batch_size": 12, "learning_rate": 2e-2, "schedule": "constant", "kl_warmup": 0.0, "execution": "plain"}

    def error(*rules):
        """Root mean squared error of the posterior means, in posterior sds; and the ELBO of the iterates."""
        fit = bp.fit(bnn, (x, y), "meanfield", steps=1000, precision="float64", rules=rules, **how)
        found = fit.guide.means()["weight"].numpy()
        off = (found - problem.mean) / problem.meanfield_sd
        return float(np.sqrt((off**2).mean())), fit.trace["negative_elbo"].values

    last, late, every = error(), error(IterateAverage(0.5)), error(IterateAverage(0.0))
    assert np.array_equal(last[1], late[1]) and np.array_equal(last[1], every[1])
    assert late[0] < 0.5 * last[0]
    assert every[0] > 2 * late[0]  # control: averaging from the first step averages the way there, too


# -- beside other rules, over checkpoints, and by its old spelling ---------------------------------------------
