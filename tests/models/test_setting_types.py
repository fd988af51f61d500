"""Settings that came as text are of the types that their arguments say, and the sentence names the one that is not."""

from __future__ import annotations

import math

import pytest

import bayesprune as bp
from bayesprune.models.priors import PRIORS, make_prior
from bayesprune.models.setting_types import checked_types


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
    ({"count": 2.0}, "count of the prior x takes a whole number, not 2.0"),
    ({"count": True}, "a whole number, not True"),
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


@pytest.mark.parametrize("name", PRIORS)
@pytest.mark.parametrize("value", ["abc", [], {"a": 1}, math.inf])
def test_every_setting_of_every_prior_is_checked(name, value):
    for key in set(PRIORS[name].settings) - {"estimator"}:  # its names are known a floor above
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
    ("key", "value"), [("travel", "abc"), ("step", []), ("patience", 2.5), ("rule", 3), ("round_at", math.nan)]
)
def test_settings_of_gating_are_checked_too(key, value):
    with pytest.raises(ValueError, match=f"the setting {key} of Gating takes"):
        bp.Gating(**{key: value})
