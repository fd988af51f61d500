"""`@ready`: one decorator names a prior, checks the types of its settings, and records them."""

from __future__ import annotations

import pickle
import subprocess
import sys
from inspect import Parameter

import numpy as np
import pyro.distributions as dist
import pytest

import bayesprune as bp
from bayesprune.models.language.ready_registry import READY, ready
from bayesprune.models.priors.ready import PRIORS


@pytest.fixture
def known():
    """The registry, which what a test declares leaves again."""
    before = dict(READY)
    yield READY
    READY.clear()
    READY.update(before)


def declare():
    @ready("scratch", "a prior of this test")
    class Scratch(bp.Hierarchy):
        def __init__(self, sd: float, pair: tuple[int, int] = (1, 2), *, name: str | None = None) -> None:
            super().__init__(weight=lambda: dist.Normal(0.0, sd))

        @classmethod
        @ready("scratch-doubled", "the same by half the sd")
        def doubled(cls, half: float, n: int | None = None):
            self = cls.__new__(cls)
            bp.Hierarchy.__init__(self, weight=lambda: dist.Normal(0.0, 2.0 * half))
            return self

    return Scratch


def test_every_setting_is_recorded_in_the_order_of_the_arguments(known):
    made = declare()
    assert made(0.5).config == {"name": "Scratch", "arguments": {"sd": 0.5, "pair": [1, 2], "name": None}}
    assert list(made(name="x", sd=np.float32(0.5)).config["arguments"].items()) == [
        ("sd", 0.5), ("pair", [1, 2]), ("name", "x"),
    ]  # fmt: skip
    assert type(made(np.float32(0.5)).config["arguments"]["sd"]) is float
    other = made.doubled(0.25)
    assert type(other) is made and other.config == {"name": "Scratch.doubled", "arguments": {"half": 0.25, "n": None}}
    assert other.fingerprint() == made(0.5).fingerprint() != made(0.25).fingerprint()


def test_both_are_known_with_their_settings_and_lines(known):
    before = set(known)
    made = declare()
    first, second = (known[name] for name in known if name not in before)
    assert (first.name, first.make, first.summary) == ("scratch", made, "a prior of this test")
    assert first.settings == {"sd": Parameter.empty, "pair": (1, 2), "name": None}
    assert second.name == "scratch-doubled" and second.settings == {"half": Parameter.empty, "n": None}
    assert second.make(0.5).fingerprint() == made(1.0).fingerprint()


def test_a_setting_of_another_type_is_refused_by_its_name(known):
    made = declare()
    with pytest.raises(ValueError, match=r"Scratch\(sd=\.\.\.\) takes a number, not 'x'"):
        made("x")
    with pytest.raises(ValueError, match=r"Scratch\.doubled\(n=\.\.\.\) takes a whole number or None, not 'x'"):
        made.doubled(0.5, n="x")
    with pytest.raises(TypeError, match=r"SparseVariationalDropout\(\.\.\.\) takes no settings: .*'sd'"):
        bp.SparseVariationalDropout(sd=1.0)


def test_a_name_that_another_prior_has_is_refused(known):
    with pytest.raises(ValueError, match=r"ready prior Other, 'halo', shares a name with HALO, 'halo': give it"):

        @ready("halo", "another")
        class Other(bp.Hierarchy):
            def __init__(self) -> None: ...

    with pytest.raises(ValueError, match=r"ready prior HALO, 'other', shares a name with HALO, 'halo'"):

        @ready("other", "another")
        class HALO(bp.Hierarchy):
            def __init__(self) -> None: ...

    assert known["HALO"].make is bp.HALO
    declare()
    declare()  # the control: a module that is loaded again names its priors again


def test_a_class_of_ones_own_below_a_ready_prior_is_stored_as_it():
    class Mine(bp.Laplace):
        """Nothing of its own."""

    assert Mine(0.5).config == bp.Laplace(0.5).config


def test_another_process_that_has_imported_nothing_yet_makes_them_by_their_names():
    made = [bp.HALO.from_paper(1e-3, 2e-3, data_size=60), bp.SpikeAndSlab(level="block", block=(2, 3)), bp.VIB()]
    code = "import pickle, sys; print([(repr(one), one.fingerprint()) for one in pickle.load(sys.stdin.buffer)])"
    done = subprocess.run([sys.executable, "-c", code], input=pickle.dumps(made), capture_output=True, check=False)
    assert done.stdout.decode().strip() == str([(repr(one), one.fingerprint()) for one in made]), done.stderr.decode()
    assert b"cloudpickle" not in pickle.dumps(made)  # by their names, not by their functions


def test_every_prior_of_the_folder_is_listed():
    classes = {name: getattr(bp, name) for name in bp.__all__}
    priors = {
        name
        for name, one in classes.items()
        if isinstance(one, type) and issubclass(one, bp.Hierarchy) and one is not bp.Hierarchy
    }
    assert priors == {entry.stored for entry in PRIORS.values() if entry.stored and "." not in entry.stored}
