"""The benchmarks of the posterior: rows of the ladder, shards of the ledger, intervals, counts that are equal."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats

from benchmarks import posterior, posterior_ladder
from benchmarks.ledger import interval, shard_of, sharded
from benchmarks.posterior_recipe import WHOLE, Recipe, lenet, shortened


def test_the_whole_is_what_the_network_has() -> None:
    assert sum(w.numel() for w in lenet(0).parameters() if w.ndim > 1) == WHOLE


def test_a_shorter_recipe_has_the_same_shares_and_a_recipe_is_told_apart_by_its_text() -> None:
    recipe = Recipe({"expected_density": 0.02}, epochs=12, refit_epochs=8)
    assert (shortened(recipe, 10).epochs, shortened(recipe, 10).refit_epochs) == (6, 4)
    alone = shortened(Recipe(epochs=6, refit_epochs=0), 10)
    assert (alone.epochs, alone.refit_epochs) == (10, 0)
    texts = [str(Recipe()), str(recipe), str(shortened(recipe, 10)), str(Recipe(budget=0.02)), str(Recipe(kl_weight=1))]
    texts += [str(Recipe(refit_kl_weight=1)), str(Recipe(how={"schedule": "cosine"}))]
    assert len(set(texts)) == len(texts)


def test_every_row_of_the_ladder_differs_from_its_base_in_what_it_names() -> None:
    rows = dict(posterior_ladder.ladder(10))
    assert rows["base"] == Recipe(
        {"expected_density": 0.1}, 1.0, 10, 0, how={"local_reparameterisation": False}
    )  # what the package did before
    drawn = {"local_reparameterisation": None}
    assert rows["full"] == Recipe({"expected_density": 0.02}, 0.1, 6, 4, budget=0.02, how=drawn)
    assert len({str(recipe) for recipe in rows.values()}) == len(rows)
    for name, recipe in rows.items():
        assert recipe.epochs + recipe.refit_epochs == 10
        if name.startswith("full, without "):
            on, _ = posterior_ladder.INGREDIENTS[name.removeprefix("full, without ")]
            assert recipe != rows["full"]
            put_back = posterior_ladder.changed(recipe, {"epochs": 6} | dict(on))
            assert put_back == rows["full"]  # nothing else was changed


def test_shards_write_files_of_their_own_and_know_what_the_others_have_finished(tmp_path: Path) -> None:
    first, second = (sharded(tmp_path, "runs", (number, 2)) for number in (1, 2))
    calls: list[str] = []

    def made(name: str) -> dict[str, Any]:
        calls.append(name)
        return {"score": 1.0}

    first.run("a", lambda: made("a"))
    second.run("b", lambda: made("b"))
    second.run("a", lambda: made("a"))  # there already, though not in its own file
    whole = sharded(tmp_path, "runs", (1, 1))
    whole.run("b", lambda: made("b"))
    assert calls == ["a", "b"]
    assert set(whole.found()) == set(first.found()) == {"a", "b"}
    files = {file.name: set(json.loads(file.read_text())) for file in tmp_path.glob("*.json")}
    assert files == {"runs.1-of-2.json": {"a"}, "runs.2-of-2.json": {"b"}}
    assert whole.cost().startswith("2 runs x ")
    for wrong in ("0/2", "3/2", "1", "a/b"):
        with pytest.raises(ValueError, match="takes I/N"):
            shard_of(wrong)


def test_the_interval_of_paired_differences_is_that_of_a_t_test() -> None:
    differences = [0.1, -0.2, 0.35, 0.05, 0.0]
    low, high = stats.ttest_1samp(differences, 0.0).confidence_interval(0.95)
    assert interval(differences) == f"{np.mean(differences):+.2f} ({low:+.2f} to {high:+.2f})"
    normal = 1.96 * stats.sem(differences)  # too narrow for five seeds
    assert f"({np.mean(differences) - normal:+.2f}" not in interval(differences)


def test_differences_are_paired_by_seed_and_those_without_a_partner_are_left_out() -> None:
    ours = {s: {"refit": {"means": {"accuracy": 0.8 + 0.01 * s}}} for s in range(3)} | {7: {"fit": {}}}
    theirs = {s: {"network": {"accuracy": 0.8}} for s in (2, 1, 7)}
    assert posterior.paired(ours, theirs, ("refit", "means")) == pytest.approx([1.0, 2.0])


def test_gradual_magnitude_pruning_keeps_the_very_count_it_is_given() -> None:
    torch.manual_seed(0)
    data = (torch.randn(64, 1, 28, 28), torch.arange(64) % 10)
    for count in (1331, 5324):
        found = posterior.gradual(posterior.GRADUAL, count, data, data, seed=0, epochs=2)
        assert found["network"]["kept"] == count
