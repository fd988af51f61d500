"""Rules, callbacks, stops and records of several processes: decided once, the same in all, and as in one process."""

from __future__ import annotations

import pytest
import torch

from tests.inference.runtime import rule_checks
from tests.inference.runtime.many_processes import alone
from tests.inference.runtime.problems import distance

WORLDS = (2, 3, pytest.param(4, marks=pytest.mark.slow))
pytestmark = pytest.mark.filterwarnings("ignore:the noise of theta's gradient:UserWarning")


@pytest.mark.parametrize("method", rule_checks.METHODS)
def test_methods_end_alike_in_all_processes_and_as_well_as_in_one(group, method):
    found = [one[method] for one in group(2, "methods_on_digits")]
    expect_counts(method, found)
    one = rule_checks.facts_of(rule_checks.METHODS[method](alone))
    assert abs(found[0]["accuracy"] - one["accuracy"]) < 0.06 and one["accuracy"] > 0.6
    assert found[0]["masks"] == one["masks"]


@pytest.mark.slow
@pytest.mark.parametrize("method", rule_checks.METHODS)
def test_methods_at_length_end_within_noise_of_one_process(group, method):
    every, scores = group(4, "methods_at_length"), []
    for seed in rule_checks.SEEDS:
        found = [one[method, seed] for one in every]
        expect_counts(method, found)
        one = rule_checks.facts_of(rule_checks.METHODS[method](alone, steps=900, seed=seed))
        scores.append((found[0]["accuracy"], one["accuracy"]))
    four, one = torch.tensor(scores).T
    assert float((four - one).mean().abs()) < 0.03 and float(one.min()) > 0.85, scores


def expect_counts(method, found):
    """All processes hold the same, and exactly as many weights, MACs or units as were asked for."""
    first = found[0]
    for other in found:
        assert torch.equal(first["tensors"], other["tensors"]) and other["processes"] == len(found)
        for name in ("shapes", "masks", "settings", "accuracy"):
            assert str(first[name]) == str(other[name]), name
    (said,) = first["settings"]["masks" if method == "RigL" else "budget"]
    if method == "unit gates":  # a unit is cut or left as a whole
        assert first["shapes"] != [(30, 64), (30,), (20, 30), (20,), (10, 20), (10,)]
        left = 64 * first["shapes"][0][0] + first["shapes"][2][0] * (first["shapes"][2][1] + 10)
        assert said["reached_count"] == left and abs(left - said["asked_count"]) < 64 + 20
        return
    assert said["reached_count"] == said["asked_count"] == round(rule_checks.DENSITY * (64 * 30 + 30 * 10))
    if method == "RigL":
        assert sum(first["masks"].values()) == said["asked_count"]


@pytest.mark.parametrize("world", WORLDS)
def test_the_average_of_iterates_is_that_of_one_process(group, world):
    expected, said = rule_checks.averaged_iterates(alone)
    for tensors, told in group(world, "averaged_iterates"):
        assert distance(tensors, expected) < 1e-11 and told == said
    assert said == [{"count": 9}]


@pytest.mark.parametrize("name", ["clip", "particles", "sgd", "clip, fused", "steps"])
def test_what_acts_after_the_mean_is_that_of_one_process(group, one_with_options, name):
    for found in group(2, "particles_clip_and_other_optimizers"):
        assert distance(found[name], one_with_options[name]) < 1e-11
    plain = one_with_options["particles" if name == "sgd" else "sgd"]
    assert distance(one_with_options[name], plain) > 1e-4  # control: the options do something


@pytest.fixture(scope="module")
def one_with_options():
    return rule_checks.particles_clip_and_other_optimizers(alone)


@pytest.mark.parametrize("world", WORLDS)
def test_rules_are_shown_the_same_in_all_processes_and_means_over_all(group, world):
    expected, every = rule_checks.what_rules_are_shown(alone), group(world, "what_rules_are_shown")
    assert len(expected) == 6
    for found in every:
        for step, (x, y, terms, parts, gradient, drawn) in enumerate(found):
            whole = expected[step]
            assert torch.equal(x, whole[0][: len(x)]) and torch.equal(y, whole[1][: len(y)])  # the first one's share
            assert len(x) == -(-len(whole[0]) // world)
            assert terms == pytest.approx(whole[2], rel=1e-10) and parts == pytest.approx(whole[3], rel=1e-10)
            for name, one in gradient.items():
                assert distance(one, whole[4][name]) < 1e-9
                assert torch.equal(one, every[0][step][4][name])
            assert torch.equal(drawn, every[0][step][5])


def test_restarts_are_the_same_in_all_processes_and_unlike_each_other(group):
    first, other = (found["tensors"] for found in group(2, "several_restarts"))
    assert len(first) == 2 and not torch.equal(*first)
    assert all(torch.equal(*pair) for pair in zip(first, other, strict=True))


# -- who is asked ----------------------------------------------------------------------------------------------


def test_callbacks_are_called_in_the_first_process_alone(group):
    first, other = group(2, "callbacks_and_stops")
    assert first["counts"]["told"] == {"start": 1, "step": 18, "epoch": 3, "end": 1}
    assert not any(other["counts"]["told"].values())
    assert first["counts"]["stopped"] == other["counts"]["stopped"] == []


@pytest.mark.parametrize(("name", "step", "reason"), [("stops", 8, "enough steps"), ("rule", 12, "two epochs")])
def test_what_stops_the_first_process_stops_all_at_the_same_step(group, name, step, reason):
    found = [one[name] for one in group(2, "callbacks_and_stops")]
    for one in found:
        (stopped,) = one["stopped"]
        assert (stopped["step"], stopped["reason"], one["epochs"]) == (step, reason, 2)
        assert torch.equal(one["tensors"], found[0]["tensors"])
    assert [one["told"] for one in found] == [[1, 2], []] or name == "stops"


def test_validation_data_are_scored_once_and_all_have_the_record(group):
    first, other = group(2, "validation_scores_and_records")
    assert (first["calls"], other["calls"]) == (3, 0)
    assert {"validation_accuracy", "validation_nll", "loss", "seconds"} <= first["columns"].keys()
    assert first["columns"].keys() == other["columns"].keys()
    for name, column in first["columns"].items():
        assert torch.equal(column.nan_to_num(), other["columns"][name].nan_to_num()), name
    assert not first["columns"]["validation_nll"].isnan().any()


@pytest.mark.parametrize("who", ["steps", "epochs", "stop", "none"])
def test_what_callbacks_draw_in_the_first_process_leaves_the_common_numbers_common(group, who):
    first, other = (found[who] for found in group(2, "callbacks_that_draw"))
    assert len(first[0]) == 12 and len(first[0].unique()) == 24
    assert torch.equal(first[0], other[0]) and torch.equal(first[1], other[1])
    if who != "none":  # control: they have drawn
        assert not torch.equal(first[0], group(2, "callbacks_that_draw")[0]["none"][0])


def test_a_stop_before_the_first_step_is_refused_in_all(group):
    sentences = group(2, "stops_before_the_first_step")
    expected = "ValueError: a callback stopped the fit before the first step: set state.stop in on_step or later"
    assert sentences == [expected] * 2


def test_a_loss_that_is_not_finite_in_one_process_ends_all_with_one_sentence(group):
    sentences = group(2, "losses_that_are_not_finite")
    assert len(set(sentences)) == 1 and sentences[0].startswith(
        "NonFiniteLossError: the loss became non-finite at step"
    )
    assert "first in the log-likelihood" in sentences[0]
