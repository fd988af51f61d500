"""Settings that came as text are of the types that their arguments say, and the sentence names the one that is not."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.priors.ready import PRIORS, make_prior


def takes(rate: float, count: int = 1, name: str | None = None, pair: tuple[int, int] = (1, 2), on: bool = True):
    """Something with settings of all kinds."""


RIGHT = [{"rate": 1}, {"rate": 0.5}, {"count": 3}, {"name": "x"}, {"name": None}, {"pair": [3, 4]}, {"on": False}]
WRONG = [
    ({"rate": "abc"}, "rate of the prior x takes a number, not 'abc'"),
    ({"rate": True}, "a number, not True"),
    ({"rate": None}, "a number, not None"),
    ({"rate": float("nan")}, "a number, not nan"),
    ({"rate": float("inf")}, "a number, not inf"),
    ({"rate": 10**400}, "a number, not one of 1329 bits"),
    ({"rate": [1.0]}, "a number, not"),
    ({"count": 2.5}, "count of the prior x takes a whole number, not 2.5"),
    ({"count": True}, "a whole number, not True"),
    ({"count": 1e30}, "a whole number, not 1e+30"),
    ({"count": 10**30}, "a whole number, not one of 100 bits"),
    ({"name": 3}, "a name or null, not 3"),
    ({"pair": [1]}, "a list of 2 whole numbers, not"),
    ({"pair": [1, 2.5]}, "a list of 2 whole numbers, not"),
    ({"pair": "16"}, "a list of 2 whole numbers, not"),
    ({"on": 1}, "true or false, not 1"),
]


@pytest.mark.parametrize("given", RIGHT, ids=str)
def test_what_is_of_the_right_type_comes_back_as_it_was(given):
    assert checked_types("the prior x", takes, given) == given


@pytest.mark.parametrize(("given", "said"), WRONG, ids=[str(given)[:40] for given, _ in WRONG])
def test_what_is_not_is_refused_by_name(given, said):
    with pytest.raises(ValueError, match=r"^the setting \w+ of the prior x takes ") as raised:
        checked_types("the prior x", takes, given)
    assert said in str(raised.value)
    assert len(str(raised.value)) < 200


def test_a_whole_number_that_no_tensor_holds_becomes_a_float():
    (found,) = checked_types("the prior x", takes, {"rate": 2**70}).values()
    assert (type(found), found) == (float, 2.0**70)
    (small,) = checked_types("the prior x", takes, {"rate": 3}).values()  # control: others stay, as they are stored
    assert type(small) is int


PLAIN = [
    ({"rate": np.float32(0.5)}, 0.5),
    ({"rate": np.array(2)}, 2),
    ({"rate": torch.tensor(1.0)}, 1.0),
    ({"rate": 3.0}, 3.0),
    ({"count": np.int64(3)}, 3),
    ({"count": 3.0}, 3),
    ({"count": np.float32(3)}, 3),
    ({"count": torch.tensor(3)}, 3),
    ({"pair": np.array([2, 2])}, [2, 2]),
    ({"pair": (np.int64(2), torch.tensor(3))}, (2, 3)),
    ({"pair": torch.tensor([2, 3])}, [2, 3]),
    ({"on": np.True_}, True),
    ({"name": np.str_("x")}, "x"),
]


@pytest.mark.parametrize(("given", "plain"), PLAIN, ids=[repr(given) for given, _ in PLAIN])
def test_numbers_of_numpy_and_torch_come_back_as_pythons(given, plain):
    (found,) = checked_types("the prior x", takes, given).values()
    assert found == plain and (type(found) is type(plain) or isinstance(found, str))
    if isinstance(plain, (list, tuple)):
        assert all(type(one) is int for one in found)


@pytest.mark.parametrize(
    "given",
    [
        {"rate": np.float32("nan")},
        {"rate": np.array([0.5])},
        {"rate": np.True_},
        {"rate": torch.tensor(True)},
        {"rate": torch.tensor(1j)},
        {"count": np.float32(2.5)},
        {"count": np.True_},
        {"pair": np.array([2.5, 2])},
        {"pair": np.array([1, 2, 3])},
        {"on": np.int64(1)},
    ],
    ids=repr,
)
def test_wrong_ones_of_numpy_and_torch_are_refused_too(given):
    with pytest.raises(ValueError, match=r"^the setting \w+ of the prior x takes "):
        checked_types("the prior x", takes, given)


def test_what_is_made_of_them_is_what_is_made_of_pythons():
    gating = bp.Gating(patience=np.int64(3), travel=np.float32(0.25), round_at=torch.tensor(0.5), remove=2.0)
    assert (
        gating
        == bp.Gating(patience=3, travel=0.25, round_at=0.5, remove=2)
        == bp.Gating(0.25, None, 3.0, 2, round_at=0.5)
    )
    assert type(gating.patience) is int and type(gating.travel) is float and type(gating.remove) is int
    assert gating != bp.Gating(patience=2, travel=0.25, round_at=0.5, remove=2)
    for name, plain, other in (
        ("spike-and-slab", {"block": [2, 2], "level": "block"}, {"block": np.array([2, 2]), "level": "block"}),
        ("gaussian", {"sd": 1.0}, {"sd": torch.tensor(1.0)}),
        ("unit-gates", {"kappa": 0.5, "layers": True}, {"kappa": np.float32(0.5), "layers": np.True_}),
    ):
        assert json.dumps(make_prior(name, **other).config) == json.dumps(make_prior(name, **plain).config)
    gates = bp.UnitGates(kappa=np.float32(0.5), layers=np.True_, start=torch.tensor(0.5))
    assert json.loads(json.dumps(gates.config)) == bp.UnitGates(kappa=0.5, layers=True, start=0.5).config


NO_DECAY = ("l0-hard-concrete", "structured-bayesian-pruning", "vib")
"""Priors with weights that are points, which may have no decay."""


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("value", ["abc", [], {"a": 1}, math.inf])
def test_every_setting_of_every_prior_is_checked(name, value):
    for key in set(PRIORS[name].settings) - {"estimator"}:  # its names are known a floor above
        if value == math.inf and name in NO_DECAY and key == "slab_sd":
            assert make_prior(name, slab_sd=value).config == make_prior(name, slab_sd="inf").config
            continue
        with pytest.raises(ValueError, match=key):
            make_prior(name, **{key: value})


def test_the_defaults_of_every_prior_pass():
    # Control: a check that refused everything would pass the test above.
    for name in set(PRIORS) - {"unit-gates"}:
        given = {key: value for key, value in PRIORS[name].settings.items() if isinstance(value, (int, float, str))}
        checked_types(name, PRIORS[name].make, given)


@pytest.mark.parametrize("block", [[0, 16], [16, -1], [1, 2, 3]])
def test_a_tile_without_rows_is_refused(block):
    with pytest.raises(ValueError, match="block"):
        make_prior("spike-and-slab", level="block", block=block)


@pytest.mark.parametrize(
    ("key", "value"),
    [("travel", "abc"), ("step", []), ("patience", 2.5), ("patience", 1e30), ("rule", 3), ("round_at", math.nan)],
)
def test_settings_of_gating_are_checked_too(key, value):
    with pytest.raises(ValueError, match=f"the setting {key} of Gating takes"):
        bp.Gating(**{key: value})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: bp.SpikeAndSlab(pi=0.1), r"SpikeAndSlab\(\.\.\.\) takes expected_density, .*: .* argument 'pi'$"),
        (lambda: bp.SpikeAndSlab(0.1, expected_density=0.1), r"^SpikeAndSlab\(.*: multiple values for argument"),
        (lambda: bp.HALO.from_paper(pi=0.1), r"^HALO\.from_paper\(\.\.\.\) takes xi, psi, .*'"),
    ],
)
def test_an_argument_that_is_not_there_is_refused_with_the_name_of_what_was_called(make, said):
    with pytest.raises(TypeError, match=said) as raised:
        make()
    assert "owner" not in str(raised.value) and "self" not in str(raised.value) and "cls" not in str(raised.value)
