"""`bayesprune search`, and the fit of what it finds."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest

from bayesprune.commands import searching
from bayesprune.inference.search.searched import Searched

ROOT = Path(__file__).parents[3]


def arguments(out, *more, trainings=5):
    given = [
        "search",
        "--data",
        "digits",
        "--trainings",
        trainings,
        "--population",
        3,
        "--epochs",
        1,
        "--widths",
        "4,8",
    ]
    return [*given, "--most-vertices", 3, "--most-parameters", 5000, "--out", out, *more]


@pytest.fixture(scope="module")
def finished(made, tmp_path_factory):
    """The folder of a search, made once; nothing may change it."""
    out = tmp_path_factory.mktemp("searches") / "found"
    made(*arguments(out, "--quiet"))
    return out


def test_a_search_writes_its_trainings_and_a_picture(finished):
    assert {file.name for file in finished.iterdir()} == {"search.json", "search.png"}
    assert (finished / "search.png").read_bytes().startswith(b"\x89PNG")
    found = Searched.load(finished)
    assert len(found.trainings) == 5 and found.is_assisted and found.strategy == "evolution"
    assert found.trainings[4].predicted is not None and found.space.widths == (4, 8)
    assert all(training.parameters <= 5000 for training in found.trainings)


def test_every_key_of_the_file_is_documented(finished):
    documented = set(re.findall(r"`([a-z_]+)`", (ROOT / "docs" / "search.md").read_text()))
    found = json.loads((finished / "search.json").read_text())
    rows = found["trainings"][0]
    assert {*found, *found["asked"], *found["asked"]["space"], *rows, *rows["genome"]} <= documented
    assert "no_such_key" not in documented  # control


def test_the_same_command_changes_nothing_and_one_with_more_trainings_goes_on(finished, command, tmp_path):
    out = Path(shutil.copytree(finished, tmp_path / "found"))
    before = json.loads((out / "search.json").read_text())
    code, printed, told = command(*arguments(out))
    assert code == 0, told
    assert json.loads((out / "search.json").read_text()) == before
    assert "5 trainings" in printed and f"--network-set genome={out}" in printed and "--data digits" in printed
    code, printed, told = command(*arguments(out, trainings=6))
    assert code == 0, told
    found = json.loads((out / "search.json").read_text())
    assert found["trainings"][:5] == before["trainings"] and len(found["trainings"]) == 6
    code, printed, told = command("show", out)
    assert code == 0 and "6 trainings" in printed


def test_what_was_found_is_fitted_shown_and_pruned_without_the_search(finished, command, tmp_path, monkeypatch):
    search = Path(shutil.copytree(finished, tmp_path / "found"))
    how = ["--prior", "spike-and-slab", "--epochs", 2, "--quiet"]
    code, _, told = command(
        "fit",
        "--data",
        "digits",
        "--network",
        "genome",
        "--network-set",
        f"genome={search}",
        *how,
        "--out",
        tmp_path / "fit",
    )
    assert code == 0, told
    best = Searched.load(search).genome
    shutil.rmtree(search)
    assert json.loads((tmp_path / "fit" / "summary.json").read_text())["network_settings"] == {"genome": best.as_dict()}
    code, printed, told = command("show", tmp_path / "fit")
    assert code == 0 and "head.weight" in printed, told
    code, printed, told = command("prune", tmp_path / "fit", "--sparsity", 0.5, "--out", tmp_path / "pruned")
    assert code == 0, told


def test_an_interrupted_search_says_how_to_go_on(command, tmp_path, monkeypatch):
    real = searching.search

    def stopped(*given, callback=None, **how):
        def stop(training):
            if training.number == 2:
                raise KeyboardInterrupt

        return real(*given, callback=stop, **how)

    monkeypatch.setattr(searching, "search", stopped)
    code, _, told = command(*arguments(tmp_path / "found", "--quiet"))
    assert code == 130 and "the same command goes on" in told
    assert len(Searched.load(tmp_path / "found").trainings) == 3
    monkeypatch.setattr(searching, "search", real)
    code, _, told = command(*arguments(tmp_path / "found", "--quiet"))
    assert code == 0 and len(Searched.load(tmp_path / "found").trainings) == 5, told


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--strategy", "luck"], "strategy 'luck' is unknown"),
        (["--surrogate", "oracle"], "surrogate 'oracle' is unknown"),
        (["--strategy", "random", "--surrogate", "random-forest"], "random search asks no surrogate"),
        (["--operations", "gru,attention"], "'attention' is unknown"),
        (["--widths", "4,x"], "--widths takes numbers"),
        (["--widths", "4.5"], "--widths takes whole numbers, not 4.5"),
        (["--trainings", "2"], "2 trainings are fewer than the population of 3"),
        (["--most-parameters", "10"], "the search space allows nothing"),
        (["--seed", "1"], "keeps a search with"),
    ],
)
def test_bad_options_are_told_in_one_line(finished, command, tmp_path, more, message):
    out = Path(shutil.copytree(finished, tmp_path / "found"))
    code, _, told = command(*arguments(out), *more)
    assert code == 2 and message in told and len(told.strip().splitlines()) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--network", "genome"], "takes --network-set genome=PLACE"),
        (["--network", "genome", "--network-set", "genome=nowhere"], "nowhere is missing"),
        (["--network", "genome", "--network-set", "genome=."], "is no search"),
        (["--network", "genome", "--network-set", "genome=3"], "no object of operations"),
        (["--network", "lenet-5", "--network-set", "genome=nowhere"], "not for lenet-5"),
    ],
)
def test_a_network_without_its_genome_is_refused(command, tmp_path, given, message):
    code, _, told = command("fit", "--data", "digits", *given, "--prior", "gaussian", "--out", tmp_path / "fit")
    assert code == 2 and message in told
    assert not (tmp_path / "fit").exists()
