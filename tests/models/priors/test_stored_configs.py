"""What fit.json says of every ready prior is to the byte what it said before `@ready` wrote it, and is read back."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import bayesprune as bp
from bayesprune.models.priors.ready import PRIORS, from_config, make_prior

STORED = json.loads((Path(__file__).parent / "stored_configs.json").read_text())
"""Name, settings, config, printed name and fingerprint of priors, as the commit 7f53f5a wrote them."""
CASES = [pytest.param(one, id=f"{one['prior']} {one['settings']}") for one in STORED]


SINCE = {"unit-gates": {"weight_scale": 0.3}}
"""Defaults of then that are others now."""


@pytest.mark.parametrize("case", CASES)
def test_a_ready_prior_is_stored_as_it_always_was(case):
    made = make_prior(case["prior"], **{**SINCE.get(case["prior"], {}), **case["settings"]})
    assert json.dumps(made.config) == case["config"]
    assert repr(made) == case["repr"]
    assert getattr(made, "full_kl", None) == case["full_kl"]
    if case["fingerprint"] is not None:
        again = from_config(json.loads(case["config"]))
        assert made.fingerprint() == again.fingerprint() == case["fingerprint"]
        assert json.dumps(again.config) == case["config"]


def test_the_priors_of_that_commit_are_there_in_its_order_with_two_settings_at_least():
    # A prior that came later is none of them: what is asked of it stands in the table of laws.
    names = [one["prior"] for one in STORED]
    known = set(names)
    assert list(dict.fromkeys(names)) == [name for name in PRIORS if name in known]
    assert len(known) == 21 and known <= set(PRIORS)
    alone = {"sparse-variational-dropout"}  # which has no setting
    assert {name for name in known if names.count(name) < 2} == alone


def test_another_setting_is_stored_otherwise():  # the control
    assert json.dumps(bp.HALO(kappa=3.0).config) != json.dumps(bp.HALO(kappa=3.5).config)
    assert json.dumps(bp.HALO(kappa=3.0).config) != json.dumps(bp.HALO(prior_sd=3.0).config)
    assert bp.Gaussian.from_weight_decay(1e-3, 60).config["name"] == "Gaussian.from_weight_decay"
