"""The bare command chooses its length, fade-in and KL weight by the written rules, and says what it chose."""

from __future__ import annotations

import numpy as np
import pytest

from bayesprune.inference.defaults import length
from bayesprune.runs.run_folder import read_summary


@pytest.fixture
def short_by_default(monkeypatch):
    monkeypatch.setattr(length, "PASSES", 2)
    monkeypatch.setattr(length, "LEAST_STEPS", 5)


@pytest.fixture
def bare(data, networks_file, tmp_path):
    """The arguments of a fit of a small network, all else at its default."""
    network = f"{networks_file}:small"
    return ["fit", "--data", data, "--network", network, "--prior", "gaussian", "--out", tmp_path / "run"]


def test_the_bare_command_says_what_it_chose(command, bare, short_by_default, tmp_path):
    code, out, _ = command(*bare)
    found = read_summary(tmp_path / "run")
    assert code == 0 and found["chosen"] == ["steps", "kl_weight", "kl_warmup"]
    assert (found["steps"], found["epochs"], found["kl_weight"], found["kl_warmup"]) == (5, 5, 0.1, 0.6)
    said = "tempered, KL weight 0.1 (1 is the ELBO: --kl-weight 1)"
    chosen = "chosen by rule: 5 steps, KL weight 0.1, fade-in over 0.6 of the steps"
    assert said in out and chosen in out
    code, out, _ = command("show", tmp_path / "run")
    shown = " ".join(out.split())
    assert code == 0 and said in shown and chosen in shown


def test_what_is_given_is_taken(command, bare, short_by_default, tmp_path):
    code, out, _ = command(*bare, "--steps", 3, "--kl-weight", 1, "--kl-warmup", 0, "--particles", 2)
    found = read_summary(tmp_path / "run")
    assert code == 0 and found["chosen"] == [] and found["tempered"] is False
    assert (found["steps"], found["kl_weight"], found["kl_warmup"], found["particles"]) == (3, 1.0, 0.0, 2)
    assert "objective: not tempered, ELBO -" in out and "chosen by rule" not in out


def test_points_are_not_said_to_have_an_elbo(command, bare, tmp_path):
    code, out, _ = command(*bare, "--steps", 3, "--guide", "map")
    assert code == 0 and "ELBO" not in out and "objective: tempered, KL weight 0.1;" in out


def test_whole_numbers_that_are_hardly_classes_are_said_to_be_taken_for_them(command, networks_file, tmp_path):
    generator = np.random.default_rng(0)
    x, y = generator.normal(size=(120, 64)), generator.integers(0, 60, 120)
    for name, labels in (("numbers", y), ("labels", y % 3)):
        np.savez(tmp_path / f"{name}.npz", x=x, y=labels)
        network, out = f"{networks_file}:small", tmp_path / f"run-{name}"
        arguments = ["fit", "--data", tmp_path / f"{name}.npz", "--network", network, "--prior", "gaussian"]
        code, said, _ = command(*arguments, "--steps", 3, "--out", out)
        assert code == 0 and ("--likelihood normal" in said) == (name == "numbers")
        assert any("classes" in note for note in read_summary(out)["notes"]) == (name == "numbers")


@pytest.mark.parametrize(
    ("more", "sentence"),
    [
        (("--steps", 3, "--epochs", 3), "either epochs= or steps="),
        (("--kl-weight", -1), "kl_weight must not be negative"),
        (("--kl-weight", "inf"), "--kl-weight is inf: give finite numbers"),
        (("--particles", 0), "particles must be at least 1, not 0"),
    ],
)
def test_what_makes_no_sense_is_refused(refused, bare, more, sentence):
    refused([*bare, *more], sentence)
