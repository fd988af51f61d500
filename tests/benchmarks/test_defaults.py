"""The benchmark of bare defaults records each fit once, whatever becomes of it, and marks what falls below the bar."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from bayesprune.models.priors.ready import PRIORS
from benchmarks import defaults
from benchmarks.default_cases import CASES, train_plain
from benchmarks.defaults_table import marks, table

SHORT = {"steps": 6}


def record(accuracy: float, prior: str = "halo", **more: Any) -> dict[str, Any]:
    """A record of a fit as `defaults` writes it."""
    return {
        "data": "digits", "prior": prior, "seed": 0, "length": {}, "steps": 100, "notes": [], "kl_weight": 1.0,
        "undecided": None, "test": {"accuracy": accuracy, "nll": 1.0}, "constant": {"accuracy": 0.1},
        "own": {"refused": "a MAP"}, "sparse": {"refused": "sparser"}, **more,
    }  # fmt: skip


def pruned(accuracy: float, warned: list[str]) -> dict[str, Any]:
    return {"sparsity": 0.9, "test": {"accuracy": accuracy}, "warnings": warned}


PLAIN = [record(0.97, "plain"), record(0.95, "plain", seed=1), record(0.2, "plain", steps=7)]


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file with a fit of breast cancer by a Gaussian, and a plain network beside it."""
    file = tmp_path_factory.mktemp("defaults") / "runs" / "found.jsonl"
    defaults.run_case(defaults.Lines(file), "breast-cancer", ["gaussian"], 1, SHORT)
    return file


def test_a_fit_and_the_plain_network_of_equal_steps_are_a_line_each(written: Path) -> None:
    fit, plain = map(json.loads, written.read_text().splitlines())
    assert (fit["prior"], fit["steps"], plain["prior"], plain["steps"]) == ("gaussian", 6, "plain", 6)
    assert set(fit["test"]) == {"accuracy", "nll", "ece"} and 0 <= fit["test"]["accuracy"] <= 1
    assert fit["sparse"]["sparsity"] == pytest.approx(0.95, abs=1e-4)
    assert 0 <= fit["own"]["sparsity"] < 1 and 0 <= fit["undecided"] <= 1
    assert fit["minutes"] > 0 and fit["seconds"] > 0


def test_what_is_there_is_not_run_again_and_another_length_is(written: Path, tmp_path: Path) -> None:
    file = tmp_path / "found.jsonl"
    file.write_bytes(written.read_bytes())
    defaults.run_case(defaults.Lines(file), "breast-cancer", ["gaussian"], 1, SHORT)
    assert file.read_bytes() == written.read_bytes()
    defaults.run_case(defaults.Lines(file), "breast-cancer", ["gaussian"], 1, {"steps": 7})
    assert len(file.read_text().splitlines()) == 4


def test_a_fit_that_raises_is_recorded_with_its_sentence_and_made_again_only_if_asked(tmp_path: Path) -> None:
    file, named = tmp_path / "found.jsonl", record(0.0)
    calls: list[int] = []

    def failing() -> dict[str, Any]:
        calls.append(1)
        raise ValueError("no such thing:\n give another")

    for again in (False, False, True):
        assert defaults.Lines(file).run(named, failing, again)["error"] == "ValueError: no such thing: give another"
    assert len(calls) == 2
    assert "no such thing: give another" in table([defaults.Lines(file).run(named, failing)])


def test_every_ready_prior_but_those_of_papers_is_asked_for_on_all_weights_of_two_dimensions() -> None:
    assert set(PRIORS) - set(defaults.READY) == {
        "weight-decay", "mcp-paper", "sws-paper", "halo-paper", "soft-threshold-paper", "low-rank",
    }  # fmt: skip
    for name in ("digits", "cnn", "gru"):
        splits = CASES[name].load(0)
        model = CASES[name].model(splits, "gaussian", 0)
        wide = {key for key, tensor in model.network.named_parameters() if tensor.ndim >= 2}
        assert set(model.priors) == wide and set(model.point_estimates) == {
            key for key, tensor in model.network.named_parameters() if tensor.ndim < 2
        }


def test_the_plain_network_starts_where_the_fit_does_and_is_left_as_it_was() -> None:
    case = CASES["breast-cancer"]
    splits = case.load(0)
    network, model = case.start(splits, 1), case.model(splits, "gaussian", 1)
    before = network.fc1.weight.clone()
    assert torch.equal(before, model.starting_weights("fc1.weight"))
    assert not torch.equal(before, case.start(splits, 2).fc1.weight)
    trained = train_plain(network, splits, 3, seed=1)
    assert torch.equal(network.fc1.weight, before) and not torch.equal(trained.fc1.weight, before)


@pytest.mark.parametrize(
    ("fits", "expected"),
    [
        ([record(0.935)], []),  # 2.5 points below the mean of the plain networks of equal steps
        ([record(0.925)], [1]),
        ([record(0.99), record(0.87)], []),
        ([record(0.97), record(0.87)], [1]),
        ([record(0.11)], [1, 2]),
        ([record(0.11, notes=["no better than the constant"])], [1]),
        ([record(0.96, own=pruned(0.94, []))], []),
        ([record(0.96, own=pruned(0.92, []))], [3]),
        ([record(0.96, own=pruned(0.92, ["much worse"]))], []),
        ([record(0.96, own=pruned(0.96, []), own_with_data=pruned(0.92, []))], [3]),
        ([record(0.96), {**record(0.0), "error": "ValueError: no"}], [4]),
    ],
)
def test_marks_are_given_exactly_where_a_default_falls_below_the_bar(fits: list[Any], expected: list[int]) -> None:
    assert marks(fits, PLAIN) == expected


@pytest.mark.parametrize(("rmse", "expected"), [(62.9, []), (63.1, [1]), (75.0, [1]), (75.6, [1, 2])])
def test_rmse_is_marked_by_a_twentieth_and_by_the_constant_predictor(rmse: float, expected: list[int]) -> None:
    def of(rmse: float, prior: str) -> dict[str, Any]:
        return record(0.0, prior, test={"rmse": rmse}, constant={"rmse": 77.0})

    assert marks([of(rmse, "halo")], [of(60.0, "plain")]) == expected


def test_the_table_shows_means_over_seeds_and_the_difference_from_the_plain_network_of_equal_steps() -> None:
    shown = table([*PLAIN, record(0.93), record(0.95, seed=1)])
    row = next(line for line in shown.splitlines() if line.startswith("| halo"))
    assert "| 94.0 (1.4) |" in row and "| 96.0 (1.4) | -2.0 |" in row
    assert "(1)" not in row and "(1)" in shown.splitlines()[-1]


def test_every_row_has_as_many_cells_as_the_table_has_columns() -> None:
    regression = {"data": "diabetes-raw", "test": {"rmse": 57.0, "coverage_90": 0.914}, "constant": {"rmse": 77.0}}
    fits = [
        record(0.93, own=pruned(0.93, []), sparse=pruned(0.9, [])),
        {**record(0.0, "mcp"), "error": "ValueError: no"},
        record(0.0, **regression),
        record(0.0, "plain", **regression),
    ]
    lines = [line for line in table([*PLAIN, *fits]).splitlines() if line.startswith("|")]
    assert len(lines) == 7 and len({line.count("|") for line in lines}) == 1
    assert "| 91.4 |" in lines[-1] and "| 91.4 |" not in lines[2]
