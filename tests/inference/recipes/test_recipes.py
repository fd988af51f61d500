"""Recipes of sparse training: settings are those of the papers, counts are exact, what cannot be is one sentence."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.recipes.ready_recipes import RECIPES, Recipes
from bayesprune.inference.recipes.training_options import TrainingOptions

SIZES = (20, 30, 15, 4)
WHOLE = 20 * 30 + 30 * 15 + 15 * 4
STEPS = 48


@pytest.fixture(scope="module")
def data():
    generator = torch.Generator().manual_seed(3)
    y = torch.arange(256) % 4
    return torch.randn(256, 20, generator=generator) + 1.5 * torch.eye(4, 20)[y], y


def network():
    torch.manual_seed(0)
    layers = [nn.Linear(a, b) for a, b in zip(SIZES, SIZES[1:], strict=False)]
    return nn.Sequential(layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])


def fitted(data, made, **how):
    model = made.model(network(), data_size=len(data[0]), example_input=data[0][:2])
    given = {"steps": STEPS, "execution": "plain", "device": "cpu", "batch_size": 64} | how
    return bp.fit(model, data, rules=made.rules, **given)


@pytest.fixture(scope="module")
def fits(data):
    more = {"east": {"shared": None}}  # there are no residual stages
    return {name: fitted(data, bp.recipe(name, density=0.1, **more.get(name, {}))) for name in RECIPES}


@pytest.mark.parametrize("name", list(RECIPES))
def test_each_ends_with_exactly_as_many_weights_as_asked(fits, name):
    (told,) = fits[name].settings["masks"]
    assert told["reached_count"] == told["asked_count"] == round(0.1 * WHOLE)
    masks = next(way for way in fits[name].model.ways if isinstance(way, bp.Masks))
    assert sum(masks.counts().values()) == round(0.1 * WHOLE)
    left = {key: weight != 0 for key, weight in fits[name].guide.model.weights_at(fits[name].guide.means()).items()}
    assert not any(bool((there & ~masks.masks[key]).any()) for key, there in left.items())


def test_what_moves_moves_and_what_does_not_does_not(fits):
    moved = {name: fit.settings["masks"][0] for name, fit in fits.items()}
    still = {"static", "synflow"}
    assert {name for name, told in moved.items() if told["exchanged"] == 0} == still | {
        "gradual-magnitude",
        "iterative-magnitude",
    }
    assert {name for name, told in moved.items() if told["updates"] == 0} == still
    layers = {name: tuple(told["layers"].values()) for name, told in moved.items()}
    assert layers["static"] == layers["set"] == layers["rigl"] == layers["rigl-itop"]
    assert layers["static"] == layers["cyclic"] == layers["east"]
    assert layers["granet"] != layers["static"] != layers["gradual-magnitude"]  # ranked over the network


def test_it_is_trained_as_the_papers_do_unless_it_is_told(fits, data):
    settings = fits["rigl"].settings
    assert (settings["optimizer"], settings["learning_rate"], settings["schedule"]) == ("sgd", 0.1, "cosine")
    prior = fits["rigl"].model.priors["0.weight"].hierarchy
    assert str(prior) == str(bp.Gaussian.from_weight_decay(1e-4, data_size=256)) and fits["rigl"].guide.is_map
    given = fitted(data, bp.recipe("rigl", density=0.1), learning_rate=0.05, steps=4)
    assert (given.settings["optimizer"], given.settings["learning_rate"]) == ("sgd", 0.05)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Evci et al. 2020: alpha 0.3, steps of 100, until 25,000 of about 32,000 steps.
        (
            "rigl",
            {"share": 0.3, "last_share": 0.0, "every": 100, "until": 0.75, "grow": "gradient", "drop": "magnitude"},
        ),
        # Liu et al. 2021: death rate 0.5 to 0.005, 4,000 (SET: 1,500) of 250 epochs of 352 steps, to the end.
        (
            "rigl-itop",
            {"share": 0.5, "last_share": 0.005, "every": 4000 / (250 * 352), "until": 1.0, "grow": "gradient"},
        ),
        ("set", {"share": 0.5, "last_share": 0.005, "every": 1500 / (250 * 352), "until": 1.0, "grow": "random"}),
        ("granet", {"share": 0.5, "until": 1.0, "every": 1000 / (160 * 391), "across": "network"}),
        ("gradual-magnitude", {"share": 0.0, "grow": None, "across": "network", "every": 100}),
        ("iterative-magnitude", {"share": 0.0, "grow": None, "across": "network", "drop": "magnitude"}),
        ("static", {"share": 0.0, "grow": None}),
    ],
)
def test_settings_are_those_of_the_papers(name, expected):
    masks = bp.recipe(name, density=0.01).masks
    assert {key: getattr(masks, key) for key in expected} == expected


def test_schedules_are_those_of_the_papers():
    """d(t) by the formulas of section 2.3 (cycles) and of Zhu & Gupta 2017, written again."""
    shares = np.linspace(0.0, 1.0, 41)
    cyclic = bp.recipe("cyclic", density=0.01).masks.schedule
    wanted = [0.01 * (1 + 2 * 0.5 * (1 - math.cos(2 * math.pi * (s % 0.2) / 0.2))) if s < 0.4 else 0.01 for s in shares]
    assert [cyclic.at(s, 0.01) for s in shares] == pytest.approx(wanted, rel=1e-9)
    assert cyclic.at(0.1, 0.01) == pytest.approx(0.03) and cyclic.at(0.0, 0.01) == 0.01
    granet = bp.recipe("granet", density=0.05).masks.schedule
    sparsity = [0.5 + 0.45 * (1 - (1 - min(1.0, s / 0.5)) ** 3) for s in shares]  # (1 - d_i) + (d_i - d_f) (1 - ...)
    assert [1 - granet.at(s, 0.05) for s in shares] == pytest.approx(sparsity, rel=1e-9)
    assert granet.at(0.25, 0.05) != pytest.approx(0.05 + 0.45 * 0.5)  # control: no straight line


def test_settings_go_to_the_recipe_and_to_its_masks():
    made = bp.recipe("cyclic", density=0.01, cycles=3, shape="triangular", every=20, share=0.25, drop="random")
    assert (made.masks.schedule.count, made.masks.schedule.shape) == (3, "triangular")
    assert (made.masks.every, made.masks.share, made.masks.drop, made.masks.within) == (20, 0.25, "random", 1 / 200)
    assert bp.recipe("cyclic", density=0.01).masks.share == 0.5  # and to no other one


def test_a_budget_by_layer_is_the_layout(data):
    budget = {"0.weight": 0.05, "2.weight": 0.1, "4.weight": 30}
    for name in ("rigl", "granet"):
        made = bp.recipe(name, layout=budget)
        assert made.masks.across == "layer"
        (told,) = fitted(data, made).settings["masks"]
        assert told["layers"] == {"0.weight": 30, "2.weight": 45, "4.weight": 30}


def test_another_prior_is_taken(data):
    made = bp.recipe("rigl", density=0.2)
    model = made.model(network(), 256, prior={"[02].weight": bp.Laplace()})
    assert set(model.priors) == {"0.weight", "2.weight"}
    assert str(made.model(network(), 256, prior=bp.Laplace()).priors["4.weight"].hierarchy) == str(bp.Laplace())
    mean_field = bp.fit(made.model(network(), 256), data, "meanfield", rules=made.rules, steps=8, device="cpu")
    assert mean_field.settings["optimizer"] == "adam"  # points alone are trained by SGD
    assert mean_field.settings["masks"][0]["reached_count"] == round(0.2 * WHOLE)


def test_a_rule_may_ask_for_a_clipped_gradient(data):
    model = bp.recipe("rigl", density=0.2).model(network(), 256)
    how = {"steps": 2, "device": "cpu", "execution": "plain"}
    asked = bp.fit(model, data, rules=[TrainingOptions(clip=0.5)], **how)
    assert (asked.settings["clip"], asked.settings["optimizer"], asked.settings["learning_rate"]) == (0.5, "sgd", 0.1)
    assert "training" not in asked.settings
    for clip in (0.5, None):  # masks ask for options too
        rules = bp.recipe("east", density=0.2, clip=clip).rules
        assert bp.fit(model, data, rules=rules, **how | {"steps": 44}).settings["clip"] == clip
    assert bp.fit(model, data, rules=[TrainingOptions(clip=0.5)], clip=2.0, **how).settings["clip"] == 2.0
    assert bp.fit(model, data, rules=[TrainingOptions(clip=0.5)], optimizer="adam", **how).settings["clip"] is None
    drawn = bp.fit(model, data, "meanfield", rules=[TrainingOptions(clip=0.5)], **how)
    assert drawn.settings["clip"] is None and drawn.settings["optimizer"] == "adam"


def test_recipes_of_ones_own_are_known_by_name(monkeypatch):
    monkeypatch.setattr("bayesprune.inference.recipes.ready_recipes.RECIPES", Recipes(RECIPES))

    @bp.ready_recipe("restless", "many exchanges")
    def restless(pace: float = 0.02) -> bp.Recipe:
        return bp.Recipe("restless", bp.DynamicMasks(every=pace))

    assert bp.recipe("restless", density=0.1, pace=0.1).masks.every == 0.1
    assert "restless" not in RECIPES and "rigl       " in str(RECIPES)


@pytest.mark.parametrize(
    ("name", "settings", "says"),
    [
        ("rigle", {"density": 0.1}, "did you mean 'rigl'"),
        (7, {"density": 0.1}, "recipe 7 is unknown"),
        ("rigl", {}, "the recipe rigl needs a density"),
        ("rigl", {"density": 0}, "a share in"),
        ("rigl", {"density": 1.5}, "a share in"),
        ("rigl", {"density": "0.1"}, "a share in"),
        ("rigl", {"density": 0.1, "evry": 3}, "did you mean 'every'"),
        ("rigl", {"density": 0.1, "schedule": None}, "no setting 'schedule'"),
        ("rigl", {"density": 0.1, "every": "often"}, "takes a whole number or a number, not 'often'"),
        ("rigl", {"density": 0.1, "grow": "greed"}, "takes one of"),
        ("rigl", {"density": 0.1, "layout": "erc"}, "layout 'erc' is unknown"),
        ("rigl", {"density": 0.1, "layout": 7}, "layout 7 is unknown"),
        ("static", {"density": 0.1, "share": 0.3}, "grow=None"),
        ("cyclic", {"density": 0.1, "ends": 1.5}, "cycles cannot be longer than the training"),
        ("cyclic", {"density": 0.1, "cycles": 0}, "whole number of cycles"),
        ("cyclic", {"density": 0.1, "shape": "square"}, "cosine or triangular"),
        ("granet", {"density": 0.1, "first": 1.5}, "density start in"),
    ],
)
def test_what_cannot_be_is_one_sentence(name, settings, says):
    with pytest.raises(ValueError, match=says) as told:
        bp.recipe(name, **settings)
    assert "\n" not in str(told.value)


def test_fewer_weights_than_layers_are_refused_before_training(data):
    with pytest.raises(ValueError, match="2 weights do not go into 3 tensors"):
        fitted(data, bp.recipe("rigl", density=2))
    assert fitted(data, bp.recipe("static", density=3), steps=2).settings["masks"][0]["reached_count"] == 3  # control


def test_gradients_are_clipped_where_weights_come_by_them_unless_it_is_said_otherwise(fits):
    by_gradient = {name for name in RECIPES if bp.recipe(name, density=0.1).masks.grow == "gradient"}
    assert {name for name, fit in fits.items() if fit.settings["clip"] == 1.0} == by_gradient
    assert {fit.settings["clip"] for fit in fits.values()} == {1.0, None}
    assert bp.recipe("rigl", density=0.1, clip=None).rules == (bp.recipe("rigl", density=0.1).masks,)
    assert bp.recipe("rigl", density=0.1, clip=2).clip == 2.0
    with pytest.raises(ValueError, match="the recipe rigl takes a clip above 0 or None, not -1"):
        bp.recipe("rigl", density=0.1, clip=-1)
    with pytest.raises(ValueError, match="the setting clip of the recipe rigl takes a number or null, not 'much'"):
        bp.recipe("rigl", density=0.1, clip="much")
