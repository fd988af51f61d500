"""What a sweep searches, and what settings are in Python and as a command."""

from __future__ import annotations

import json
import math

import optuna
import pytest
from typer.main import get_command

from bayesprune.cli.app import app
from bayesprune.sweeps.fit_settings import (
    OPTIONS,
    PAIRS,
    checked_settings,
    digest_of,
    known_name,
    settings_as_options,
)
from bayesprune.sweeps.space import Choices, Range, SweepSpace, parsed_seeds
from bayesprune.sweeps.trial import fit_keywords

FILE = """
learning-rate = [0.001, 0.01]
[kl-weight]
low = 0.01
high = 1.0
log = true
[set.kappa]
choices = [1, 3]
["budget.density"]
low = 0.1
high = 0.5
step = 0.2
[epochs]
low = 2
high = 5
"""


def test_options_are_those_of_the_command():
    own = {"out", "fresh", "quiet", "path", "help", "processes", "batch-norm"}  # of one run, or of how it is run
    named = {one.opts[0].removeprefix("--") for one in get_command(app).commands["fit"].params}
    assert named - own == {*OPTIONS, *PAIRS}
    assert set(PAIRS.values()) == {"settings", "network_settings", "gating", "budget", "recipe_settings"}
    offered = {one.opts[0].removeprefix("--") for one in get_command(app).commands["sweep"].params}
    assert ({*OPTIONS, *PAIRS} - {"seed"}) <= offered


def test_a_file_says_choices_and_bounds(tmp_path):
    (tmp_path / "space.toml").write_text(FILE)
    space = SweepSpace.read(tmp_path / "space.toml", ["prior=halo,horseshoe"])
    assert space.dimensions == {
        "learning-rate": Choices((0.001, 0.01)),
        "kl-weight": Range(0.01, 1.0, log=True),
        "set.kappa": Choices((1, 3)),
        "budget.density": Range(0.1, 0.5, step=0.2),
        "epochs": Range(2, 5),
        "prior": Choices(("halo", "horseshoe")),
    }
    assert not space.is_grid and space.size == math.inf
    assert SweepSpace.of(json.loads(json.dumps(space.as_json()))) == space


def test_values_are_those_of_the_texts():
    space = SweepSpace.parsed(["learning_rate=0.1,1e-3", "guide=null,map", "set.a=[1,2],[3]", "on=*,fc1.weight"])
    assert list(space.grid())[0] == {"learning-rate": 0.1, "guide": None, "set.a": [1, 2], "on": "*"}
    assert space.size == len(list(space.grid())) == 16
    assert [row["on"] for row in space.grid()][:3] == ["*", "fc1.weight", "*"]  # the last one changes first


def test_optuna_suggests_values_of_the_kinds_that_were_listed():
    space = SweepSpace(
        {"set.a": [1, True, "1"], "set.b": [[1], [2, 3]], "set.c": Range(1, 64, log=True), "set.d": Range(0.5, 2.0)}
    )
    seen = {"set.a": set(), "set.b": set()}
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(60):
        settings = space.suggested(study.ask())
        for name in seen:
            seen[name].add(json.dumps(settings[name]))
        assert type(settings["set.c"]) is int and 1 <= settings["set.c"] <= 64
        assert type(settings["set.d"]) is float and 0.5 <= settings["set.d"] <= 2.0
    assert seen == {"set.a": {"1", "true", '"1"'}, "set.b": {"[1]", "[2, 3]"}}


def test_a_row_of_the_grid_comes_back_through_optuna():
    space = SweepSpace({"set.a": [1, True], "set.b": [[1], [2, 3]], "prior": "halo"})
    study = optuna.create_study()
    for row in space.grid():
        study.enqueue_trial(space.parameters(row))
    assert [space.suggested(study.ask()) for _ in range(4)] == list(space.grid())
    assert study.trials[0].params.keys() == {"set.a", "set.b"}  # what has one value is asked nothing


@pytest.mark.parametrize(
    ("sets", "message"),
    [
        ([], "searches nothing"),
        (["lerning-rate=1"], "did you mean learning-rate"),
        (["kappa=1,2"], "a setting of the prior is set.kappa"),
        (["budgt.density=0.1"], "did you mean budget.density"),
        (["seed=1,2"], "give --seeds"),
        (["epochs"], "takes NAME=A,B"),
        (["epochs=1,2,1"], "twice"),
        (["epochs=1", "epochs=2"], "twice"),
        (["learning-rate=1", "learning_rate=2"], "searched twice"),
        (["epochs=-1,2"], "epochs"),
        (["precision=float32,float8"], "float8"),
        (["set.a=NaN,1"], "set.a is"),
    ],
)
def test_bad_sets_are_refused_in_a_sentence(sets, message):
    with pytest.raises(ValueError, match=message) as caught:
        SweepSpace.parsed(sets)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[epochs]\nlow = 1", "epochs has low: write"),
        ("[epochs]\nlow = 5\nhigh = 1", "low = 5 to high = 1"),
        ("[epochs]\nlow = 1\nhigh = 5\nmost = 3", "epochs has 'most'"),
        ("[epochs]\nchoices = []", "empty"),
        ("[kl-weight]\nlow = 0.0\nhigh = 1.0\nlog = true", "positive bounds"),
        ("[kl-weight]\nlow = 0.1\nhigh = inf", "finite"),
        ("[set.a]\nlow = 1\nhigh = 5\nstep = 0.5", "whole"),
        ("[kl-weight]\nlow = 0.1\nhigh = 1.0\nlog = 1", "true or false"),
        ("[epochs", "damaged"),
        ("[epochs]\nchoices = 'ab'", "list of values"),
    ],
)
def test_bad_files_are_refused_in_a_sentence(text, message, tmp_path):
    (tmp_path / "space.toml").write_text(text)
    with pytest.raises(ValueError, match=message) as caught:
        SweepSpace.read(tmp_path / "space.toml")
    assert "\n" not in str(caught.value) and "space.toml" in str(caught.value)


def test_a_grid_of_bounds_says_which_dimension_has_them():
    with pytest.raises(ValueError, match="kl-weight has bounds .*--trials"):
        SweepSpace({"epochs": [1], "kl-weight": Range(0.1, 1.0)}).grid()


def test_seeds_of_a_text():
    assert parsed_seeds("0-4") == (0, 1, 2, 3, 4) and parsed_seeds("7") == (7,)
    assert parsed_seeds("5-6, 0,2-3") == (5, 6, 0, 2, 3)
    for text in ("", "a", "3-1", "1,1", "-1", "0-", "1.5", "0-99999999999", "9" * 30):
        with pytest.raises(ValueError, match="--seeds"):
            parsed_seeds(text)


def test_settings_are_arguments_of_a_fit():
    settings = checked_settings(
        {"data": "digits", "learning_rate": 0.1, "set.kappa": 3, "recipe": "rigl", "recipe-set.delta": 5,
         "budget": ["density=0.1"], "budget.until": 0.5, "on": "fc*", "local-reparameterisation": "off"}
    )  # fmt: skip
    found = fit_keywords(settings)
    assert {name: value for name, value in found.items() if value not in ({}, None)} == {
        "data": "digits", "network": "lenet-300-100", "learning_rate": 0.1, "settings": {"kappa": 3},
        "recipe": ("rigl", {"delta": 5}), "budget": {"density": 0.1, "until": 0.5}, "on": ("fc*",),
        "local_reparameterisation": False,
    }  # fmt: skip


def test_settings_as_options_are_read_as_the_same_settings():
    """The command that repeats a fit asks for what the trial had asked for."""
    settings = {
        "data": "a file.npz", "learning-rate": 0.01, "set.kappa": 3, "set.name": "3", "standardise": False,
        "new-head": True, "guide": None, "local-reparameterisation": True, "budget": ["density=0.1"], "epochs": 2,
    }  # fmt: skip
    assert " ".join(settings_as_options(settings)) == (
        "--data 'a file.npz' --learning-rate 0.01 --set kappa=3 --set 'name=\"3\"' --no-standardise --new-head "
        "--local-reparameterisation exact --budget density=0.1 --epochs 2"
    )


def test_the_digest_is_of_values_and_not_of_their_order():
    one = digest_of({"a": 1, "b": [1, 2]})
    assert one == digest_of({"b": [1, 2], "a": 1}) and len(one) == 16
    assert len({one, digest_of({"a": 1, "b": [2, 1]}), digest_of({"a": 1.5, "b": [1, 2]})}) == 3


def test_names_are_written_with_hyphens_and_keys_as_they_are():
    assert known_name("kl_weight") == "kl-weight" and known_name("network_set.my_key") == "network-set.my_key"
