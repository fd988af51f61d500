"""Budget: every ready prior with a knob ends at the density asked for, by its own rule; what cannot is refused."""

from __future__ import annotations

import copy
import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from sklearn.datasets import load_digits

import bayesprune as bp
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.rules.budget import Budget
from bayesprune.inference.rules.budget_count import counting_rules, weights_left
from bayesprune.inference.rules.budget_landing import landed
from bayesprune.inference.rules.rule import Run

PIXELS, LABELS = load_digits(return_X_y=True)
X, Y = torch.tensor(PIXELS / 16.0, dtype=torch.float32), torch.tensor(LABELS)
X, Y, HELD, ANSWERS = X[:1400], Y[:1400], X[1400:], Y[1400:]


def digits(prior=None, hidden=(60, 30), **gates):
    torch.manual_seed(0)
    network = bp.lenet_300_100(64, hidden=hidden)
    return bp.BayesianNetwork(network, {} if prior is None else {"*.weight": prior}, data_size=len(X), **gates)


def within(asked):
    """What the issue allows: a tenth of a percentage point, and two percent of the budget."""
    return min(1e-3, 0.02 * asked)


def share_left(fit):
    left = weights_left(fit.restarts[0].guide).values()
    return sum(int(one.sum()) for one in left) / sum(one.numel() for one in left)


# -- what it comes to ----------------------------------------------------------------------------------------

PRIORS = {
    "halo": (bp.HALO(), 0.05),
    "spike and slab": (bp.SpikeAndSlab(), 0.05),
    "l0": (bp.L0HardConcrete(), 0.2),
    "laplace": (bp.Laplace(), 0.2),
    "sws": (bp.SWS(), 0.2),
    "mcp": (bp.MCP(), 0.2),
}


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n == "halo" else pytest.mark.slow) for n in PRIORS])
def test_a_ready_prior_ends_at_the_density_asked_for(name):
    prior, asked = PRIORS[name]
    # Hard concrete gates are still open when a tempered fit of this length ends: their log odds have moved too little.
    fit = bp.fit(digits(prior), (X, Y), rules=[Budget(density=asked)], kl_weight=1.0 if name == "l0" else None)
    (said,) = fit.settings["budget"]
    assert abs(share_left(fit) - asked) <= within(asked) and said["reached"] == pytest.approx(share_left(fit))
    assert said["landing"]["before"] / said["whole"] == pytest.approx(asked, rel=0.5)  # the controller was near
    knob = fit.model.knobs[prior.budget]
    assert knob.factor != 1.0 and said["knobs"][f"*.weight.{prior.budget}"] == {"start": 1.0, "end": knob.value}
    rows = fit.trace["budget"].sel(budget_name="reached").values[0]
    assert rows[0] > rows[-1] and rows[-1] == pytest.approx(said["landing"]["before"] / said["whole"], rel=0.3)
    # At KL weight 1 the hard concrete has .84 without a budget, and .76 with a fifth of its gates.
    assert fit.score(HELD, ANSWERS)["accuracy"] > (0.7 if name == "l0" else 0.8)


def test_without_it_the_density_is_another():
    fit = bp.fit(digits(bp.HALO()), (X, Y), steps=1500)
    assert abs(share_left(fit) - 0.05) > 5 * within(0.05)


@pytest.mark.parametrize("kind", ["macs", "parameters"])
def test_gates_of_units_end_at_the_size_asked_for(kind):
    model = digits(gates=bp.UnitGates(), example_input=X[:1])
    fit = bp.fit(model, (X, Y), steps=900, rules=[Budget(**{kind: 0.3})])
    (said,) = fit.settings["budget"]
    gates = fit.model.gates
    left = gates.costs.whole[0 if kind == "macs" else 1]
    largest = 64 + 30 + 1  # what one unit of the first layer reads and is read by
    assert abs(left - 0.3 * gates.whole[0 if kind == "macs" else 1]) <= 0.5 * largest
    assert said["reached_count"] == left and fit.score(HELD, ANSWERS)["accuracy"] > 0.85


def test_one_s_own_hierarchy_has_its_own_knob():
    own = bp.Hierarchy(
        weight=lambda rate: dist.Laplace(0.0, rate.reciprocal()), included=bp.relative_threshold(0.1),
        default_guide="map", knobs={"rate": bp.Knob(5.0, above=1e-3)}, budget="rate",
    )  # fmt: skip
    fit = bp.fit(digits(own), (X, Y), steps=1500, rules=[Budget(density=0.15)])
    assert abs(share_left(fit) - 0.15) <= within(0.15)
    assert fit.settings["budget"][0]["counted"]["fc1.weight"] == "|weight| > 0.001"


def test_a_number_is_a_number_of_weights():
    fit = bp.fit(digits(bp.HALO()), (X, Y), steps=600, rules=[Budget(density=500)])
    assert fit.settings["budget"][0]["reached_count"] == 500


@pytest.mark.parametrize("kl_weight", [0.1, 1.0])
@pytest.mark.parametrize("asked", [0.01, *(pytest.param(one, marks=pytest.mark.slow) for one in (0.05, 0.02, 0.005))])
def test_the_median_model_of_a_spike_and_slab_has_exactly_the_weights_asked_for(asked, kl_weight):
    fit = bp.fit(
        digits(bp.SpikeAndSlab(), (20,)), (X, Y), steps=120, kl_weight=kl_weight, rules=[Budget(density=asked)],
        execution="plain", device="cpu",
    )  # fmt: skip
    (said,) = fit.settings["budget"]
    assert said["reached_count"] == round(asked * said["whole"]) != said["landing"]["before"]  # it had to be landed
    network = bp.prune(fit, min_inclusion=0.5).network
    assert sum(int((w != 0).sum()) for w in network.parameters() if w.ndim > 1) == said["reached_count"]


# -- landing, against what it is said to do ------------------------------------------------------------------


def test_landing_shifts_all_log_odds_alike():
    guide = Guide(digits(bp.SpikeAndSlab()))
    logit = guide.families[0].logit
    with torch.no_grad():
        logit.normal_(generator=torch.Generator().manual_seed(1))
    before = logit.detach().clone()
    whole = len(logit)
    said = landed(guide, lambda: float(sum(int(v.sum()) for v in weights_left(guide).values())), whole // 10)
    shift = (logit - before).detach()
    assert int((logit > 0).sum()) == whole // 10 and float(shift.std()) < 1e-6
    expected = -float(before.double().quantile(0.9))
    assert said["shift"] == pytest.approx(expected, abs=1e-3)
    assert said["shift"] == pytest.approx(float(shift.mean()), abs=1e-5)
    for when, log_odds in (("before", before), ("after", logit.detach())):  # a quarter is not the same before and after
        probability = 1 / (1 + np.exp(-log_odds.double().numpy()))
        assert said["undecided"][when] == pytest.approx(((probability > 0.05) & (probability < 0.95)).mean(), abs=1e-9)
    assert said["undecided"]["before"] != said["undecided"]["after"]


def landed_by(moved, knob=None, density=0.1):
    """Notes and report of a budget met at once by a guide whose log odds are so far off; its knob is set to that."""
    model = digits(bp.SpikeAndSlab())
    run = Plant()
    run.objective = copy.copy(run)
    run.objective.model, run.objective.guide = model, Guide(model)
    active = Budget(density=density).begin(run)
    if knob is not None:
        model.knobs["odds"].set(knob)
    (family,) = run.objective.guide.families
    with torch.no_grad():
        family.logit.normal_(0.0, 16.0, generator=torch.Generator().manual_seed(1))
        family.logit += moved - family.logit.quantile(1.0 - density)
    active.end()
    return list(run.objective.guide.notes), active.report()


def test_a_landing_that_moved_log_odds_more_than_a_little_is_noted():
    notes, said = landed_by(0.0)
    assert notes == [] and abs(said["landing"]["shift"]) < 0.1  # control
    notes, said = landed_by(1.5)
    assert "a last shift of all log odds by -1.5 nats" in notes[0] and "take more epochs" in notes[0]
    assert f"{said['landing']['undecided']['after']:.1%} of the probabilities are undecided" in notes[0]


def test_a_knob_that_came_to_an_end_of_its_range_is_noted():
    assert landed_by(0.0, knob=0.01)[0] == []  # control
    (note,) = landed_by(0.0, knob=9.0)[0]  # even odds
    assert "*.weight.odds has come to the densest end of its range, 9, and the data hold fewer weights" in note
    (note,) = landed_by(0.0, knob=1e-30)[0]
    assert "the sparsest end of its range, 1e-30, and the weights did not follow: take more epochs" in note


@pytest.mark.parametrize(("kl_weight", "times"), [(1.0, 1.0), (0.1, 10.0), (3.0, 1.0)])
def test_prior_odds_are_moved_further_in_a_tempered_fit(kl_weight, times):
    """The move of the logarithm at one error; prices are moved alike at every KL weight."""
    moves = {}
    for name, prior in {"odds": bp.SpikeAndSlab(), "kappa": bp.HALO()}.items():
        model = digits(prior)
        run = Plant()
        run.final_kl_weight, run.objective = kl_weight, copy.copy(run)
        run.objective.model, run.objective.guide = model, Guide(model, None if name == "odds" else "map")
        (controller,) = Budget(density=0.02).begin(run)._controllers
        controller.steer(0.3, 0.9 * controller.part.whole, 0.01, 25)
        controller.steer(0.5, 0.9 * controller.part.whole, 0.01, 25)
        moves[name] = math.log(model.knobs[name].factor)
        before = model.knobs[name].value
        kept = controller.state_dict()
        (again,) = Budget(density=0.02).begin(run)._controllers
        earlier = {key: value for key, value in kept.items() if key != "quicker"}
        again.load_state_dict({**earlier, "moved": kept["moved"] * (times if name == "odds" else 1.0)})
        again._apply()  # a state of an earlier version, which moved all at one pace, goes on from its knob
        assert model.knobs[name].value == pytest.approx(before, rel=1e-6)
    assert moves["odds"] == pytest.approx(-8.0 * times * moves["kappa"], rel=1e-5) and moves["kappa"] > 0.0


@pytest.mark.parametrize("target", [300, 900])
def test_landing_moves_only_weights_between_the_two_counts(target):
    guide = Guide(digits(bp.HALO()), "map")
    place = next(family for family in guide.families if any(s.support == "real" for s in family.sites))
    sizes = 10 ** torch.linspace(0.0, -6.0, place.location.numel())
    with torch.no_grad():
        place.location.copy_(sizes * torch.where(torch.arange(len(sizes)) % 2 == 0, 1.0, -1.0))
    before, count = place.location.detach().clone(), int((sizes > 1e-3).sum())
    landed(guide, lambda: float(count), target)
    changed = place.location.detach() != before
    assert int(sum(v.sum() for v in weights_left(guide).values())) == target
    assert int(changed.sum()) == abs(target - count)
    low, high = sorted((target, count))
    assert bool(changed[low:high].all())
    assert bool((place.location.detach()[changed].abs() - 1e-3).abs().max() < 2e-5)
    assert bool((place.location.detach().sign() == before.sign()).all())


def test_what_is_counted_is_each_prior_s_own_rule():
    torch.manual_seed(0)
    network = bp.lenet_300_100(64, hidden=(60, 30))
    priors = {"fc1.weight": bp.HALO(), "fc2.weight": bp.SpikeAndSlab(), "fc3.weight": bp.ContinuousSpikeAndSlab()}
    model = bp.BayesianNetwork(network, priors, data_size=len(X))
    rules = counting_rules(model)
    assert [rules[name] for name in priors] == [
        "|weight| > 0.001", "left in (not exactly zero)", "slab more likely than spike",
    ]  # fmt: skip
    guide = Guide(model)
    left, means = weights_left(guide), guide.means()
    assert torch.equal(left["fc1.weight"], means["fc1.weight"].abs() > 1e-3)
    assert torch.equal(left["fc2.weight"], guide.inclusion()["fc2.weight.z"] > 0.5)
    prior = model.priors["fc3.weight"]
    mixture = prior.weight_distribution({"weight": means["fc3.weight"]}).base_dist
    assert torch.equal(left["fc3.weight"], mixture.responsibility(means["fc3.weight"]) > 0.5)


# -- the controller ------------------------------------------------------------------------------------------


class Plant:
    """A run of a model whose weights follow the knob at once, but for a delay."""

    step, epoch, steps, restart, final_kl_weight = 0, 0, 2500, 0, 1.0


@pytest.mark.parametrize("steps", [2500, 5000])
def test_it_settles_on_a_plant_with_a_delay_whatever_the_length(steps):
    model = digits(bp.HALO())
    guide = Guide(model, "map")
    place = next(family for family in guide.families if any(s.support == "real" for s in family.sites))
    order = torch.linspace(0.0, 1.0, place.location.numel())
    run = Plant()
    run.steps, run.objective = steps, copy.copy(run)
    run.objective.model, run.objective.guide = model, guide
    active = Budget(density=0.02).begin(run)
    log_density, lag = math.log(0.9), 0.03 * steps
    for step in range(1, steps + 1):
        run.step = step
        fade = min(1.0, step / (0.6 * steps))
        rest = -fade * (1.5 + 0.5 * math.log(model.knobs["kappa"].factor))
        log_density += (rest - log_density) / lag
        with torch.no_grad():
            place.location.copy_(torch.where(order < math.exp(log_density), 1.0, 1e-6))
        active.after_step(bp.Taken(step, X[:1], Y[:1], None))
    assert math.exp(log_density) == pytest.approx(0.02, rel=0.1)
    wanted = math.exp((-math.log(0.02) - 1.5) / 0.5)
    assert model.knobs["kappa"].factor == pytest.approx(wanted, rel=0.5)


def test_a_knob_stops_at_its_bounds_and_comes_back_at_once():
    own = bp.Hierarchy(
        weight=lambda rate: dist.Laplace(0.0, rate.reciprocal()), default_guide="map",
        knobs={"rate": bp.Knob(5.0, low=2.0, high=20.0, above=1e-3)}, budget="rate",
    )  # fmt: skip
    model = digits(own)
    run = Plant()
    run.objective = copy.copy(run)
    run.objective.model, run.objective.guide = model, Guide(model, "map")
    active = Budget(density=0.02).begin(run)
    for step in range(1, 2501):
        active.after_step(bp.Taken(step, X[:1], Y[:1], None))
    assert model.knobs["rate"].value == 20.0
    (state,) = active.state_dict()["controllers"]
    assert state["moved"] == pytest.approx(math.log(4.0))  # no more than what it takes to be there


# -- going on ------------------------------------------------------------------------------------------------


class Killed(Exception):
    pass


class Kill(bp.Callback):
    is_resumable = True

    def __init__(self, epoch):
        self.epoch = epoch

    def on_epoch(self, state):
        if state.epoch == self.epoch:
            raise Killed


@pytest.mark.parametrize("execution", ["plain", "fused"])
def test_it_goes_on_from_a_checkpoint_bit_for_bit(tmp_path, monkeypatch, execution):
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.LEAST", 0.0)
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.SHARE", 1.0)
    how = {"epochs": 12, "rules": [Budget(density=0.05, ramp=(0.1, 0.8))], "execution": execution, "compiled": False}
    whole = bp.fit(digits(bp.HALO(), (20,)), (X, Y), callbacks=[Kill(99)], **how)
    with pytest.raises(Killed):
        bp.fit(digits(bp.HALO(), (20,)), (X, Y), callbacks=[Kill(6)], checkpoint=tmp_path / "state", **how)
    again = bp.fit(digits(bp.HALO(), (20,)), (X, Y), callbacks=[Kill(99)], checkpoint=tmp_path / "state", **how)
    assert again.settings["resumed_at_epoch"] > 1
    for one, other in zip(whole.restarts[0].guide.parameters(), again.restarts[0].guide.parameters(), strict=True):
        assert torch.equal(one, other)
    assert again.settings["budget"] == whole.settings["budget"]
    np.testing.assert_array_equal(again.trace["budget"], whole.trace["budget"])


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({}, "takes exactly one of density, macs, parameters, not none"),
        ({"density": 0.1, "macs": 0.1}, "not density and macs"),
        ({"density": 0.0}, "a share in \\(0, 1\\)"),
        ({"density": 1.5}, "a share in \\(0, 1\\)"),
        ({"density": "a"}, "density of Budget"),
        ({"density": 0.1, "ramp": (0.5, 0.2)}, "two shares of the fit"),
        ({"density": 0.1, "every": 0}, "every >= 1"),
    ],
)
def test_a_budget_that_is_none_is_refused(given, says):
    with pytest.raises(ValueError, match=says):
        Budget(**given)


@pytest.mark.parametrize(
    ("prior", "budget", "says"),
    [
        (bp.Gaussian(), Budget(density=0.1), "moves a knob, but Gaussian\\(\\) has none: give a prior that has one"),
        (bp.SparseVariationalDropout(), Budget(density=0.1), "has none"),
        (bp.Horseshoe(), Budget(density=0.1), "has none"),
        (bp.VIB(), Budget(density=0.1), "has none"),
        (bp.ContinuousSpikeAndSlab(), Budget(density=0.1), "has none"),
        (bp.HALO(), Budget(macs=0.1), "no gates on its units: declare gates=UnitGates\\(\\), or give density="),
        (bp.HALO(), Budget(density=10**9), "more than all there are"),
    ],
)
def test_a_prior_without_a_knob_is_refused_before_training(prior, budget, says):
    with pytest.raises(ValueError, match=says):
        bp.fit(digits(prior, (5,)), (X, Y), steps=2, rules=[budget])


def test_gates_without_a_straight_price_are_refused():
    model = digits(hidden=(5,), gates=bp.UnitGates(probability=0.2), example_input=X[:1])
    with pytest.raises(ValueError, match="moves the price of a unit"):
        bp.fit(model, (X, Y), steps=2, rules=[Budget(macs=0.5)])


def test_it_is_a_rule_as_the_contract_says():
    assert issubclass(Budget, bp.Rule) and Budget.name == "budget" and hasattr(Run, "replace")
