"""The options of a fit: one field each, of which signature, type hints, settings and marks are made."""

from __future__ import annotations

import inspect
import subprocess
import sys
from dataclasses import FrozenInstanceError, fields, replace
from typing import get_type_hints

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.training.fit import fit
from bayesprune.inference.training.fit_options import FitKeywords, FitOptions, help_of, options_of

X, Y = torch.linspace(-1.0, 1.0, 80).reshape(20, 4), torch.arange(20) % 2
OPTIONS = {one.name: one for one in fields(FitOptions)}
OWN = ("model", "data", "guide", "start", "rules", "callbacks", "validation", "stop", "runtime", "options")
"""Arguments of `fit` that are no options."""


def fitted(**more):
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(nn.Linear(4, 2), {"*": bp.Gaussian()}, data_size=20)
    return fit(bnn, (X, Y), "meanfield", **more)


def learned(result):
    return torch.cat([parameter.detach().flatten() for parameter in result.guide.parameters()])


def test_the_keywords_of_type_checkers_are_the_fields():
    assert get_type_hints(FitKeywords) == {name: get_type_hints(FitOptions)[name] for name in OPTIONS}
    assert list(FitKeywords.__annotations__) == list(OPTIONS) and not FitKeywords.__required_keys__


def test_the_signature_of_fit_names_every_option_with_its_default_and_its_docstring_explains_it():
    parameters = inspect.signature(fit).parameters
    assert list(parameters) == [*OWN, *OPTIONS]
    for name, option in OPTIONS.items():
        parameter = parameters[name]
        assert parameter.kind is inspect.Parameter.KEYWORD_ONLY and parameter.default == option.default, name
        assert f"* ``{name}={option.default!r}``: {help_of(name)}" in fit.__doc__
        assert f"        {name}: " in FitOptions.__doc__ and help_of(name).strip(), name
    assert "more" not in parameters and len(inspect.signature(fit).parameters) > 30


def test_options_are_taken_at_once_by_name_and_those_by_name_win():
    how = {"steps": 3, "batch_size": 10, "device": "cpu", "learning_rate": 0.01}
    one, other = fitted(options=FitOptions(**how)), fitted(**how)
    assert torch.equal(learned(one), learned(other))
    both = fitted(options=FitOptions(**how), learning_rate=0.1)
    assert torch.equal(learned(both), learned(fitted(**{**how, "learning_rate": 0.1})))
    assert not torch.equal(learned(both), learned(one))  # control
    assert both.settings["learning_rate"] == 0.1 and both.settings["batch_size"] == 10
    assert options_of(FitOptions(epochs=4), {"seed": 2}) == FitOptions(epochs=4, seed=2)
    with pytest.raises(ValueError, match=r"options= takes FitOptions\(...\), not an object of type dict"):
        fitted(options=how)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("learning_rat", "did you mean learning_rate=?"),
        ("batchsize", "did you mean batch_size=?"),
        ("kl_wieght", "did you mean kl_weight=?"),
        ("xyzzy", "its options are epochs, steps, batch_size, "),
    ],
)
def test_a_name_that_is_none_is_told_with_the_one_that_is_meant(given, said):
    with pytest.raises(TypeError) as told:
        fitted(**{given: 1})
    assert str(told.value).startswith(f"fit() got an unexpected keyword argument {given!r}, ") or "xyzzy" in given
    assert said in str(told.value) and "\n" not in str(told.value)


def test_they_check_themselves_without_a_fit_and_do_not_change():
    options = FitOptions(steps=torch.tensor(3), learning_rate=torch.tensor(0.25))
    assert options == FitOptions(steps=3, learning_rate=0.25) and type(options.learning_rate) is float
    with pytest.raises(FrozenInstanceError):
        options.steps = 4
    with pytest.raises(ValueError, match="either epochs= or steps="):
        replace(options, epochs=2)
    with pytest.raises(ValueError, match="kl_warmup is a share of the steps"):
        FitOptions(kl_warmup=1.0)


OTHERS = {
    "epochs": 7, "steps": 7, "batch_size": 7, "optimizer": "sgd", "learning_rate": 0.5, "schedule": "cosine",
    "kl_warmup": 0.3, "kl_weight": 0.3, "seed": 7, "device": "cpu", "precision": "float64", "restarts": 7,
    "only_restart": 0, "particles": 7, "gate_estimator": bp.ScoreFunction(2), "execution": "plain", "compiled": False,
    "clip": 0.5,
    "sticking_the_landing": True, "local_reparameterisation": "approximate", "channels_last": True, "workers": 7,
    "progress": True, "checkpoint": "folder", "standardise": True,
}  # fmt: skip
"""Of each option another value than its default."""
UNMARKED = {"epochs", "steps", "device", "only_restart", "progress", "checkpoint"}
"""Length, which `steps` in the settings says, and what changes no number."""


@pytest.mark.parametrize("name", OPTIONS)
def test_another_value_is_seen_by_checkpoints_but_for_what_changes_no_number(name):
    assert OTHERS[name] != OPTIONS[name].default
    other = FitOptions(**{name: OTHERS[name]})
    assert (other.marks() != FitOptions().marks()) == (name not in UNMARKED)
    assert set(other.marks()) == set(OPTIONS) - UNMARKED
    shown = other.settings()
    assert (shown != FitOptions().settings()) == OPTIONS[name].metadata["in_settings"]
    if OPTIONS[name].metadata["in_settings"]:
        assert shown[name] == OTHERS[name]


def test_settings_name_a_callable_custom_as_json_holds_no_functions():
    options = FitOptions(optimizer=lambda groups: torch.optim.Adam(groups), schedule=lambda share: 1.0)
    assert (options.settings()["optimizer"], options.settings()["schedule"]) == ("custom", "custom")
    assert callable(options.marks()["optimizer"])


def test_they_are_known_without_pytorch():
    code = (
        "import sys; from bayesprune.inference.training.fit_options import FitOptions, help_of; "
        "FitOptions(steps=3, seed=2); help_of('seed'); "
        "print(sorted({'torch', 'pyro', 'numpy', 'xarray'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
