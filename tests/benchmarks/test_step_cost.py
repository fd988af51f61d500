"""The measurement of step costs: by turns, ratios within blocks, memory above what was there before."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any
from unittest import mock

import pytest
import torch

from benchmarks import growth, peers, step_cost
from benchmarks.alternation import alternate, best, summarise
from benchmarks.contenders import LOOPS, NETWORKS, make_case, make_multilayer, steps_of


@pytest.fixture(autouse=True)
def threads() -> Any:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def test_steps_run_by_turns_and_the_order_moves_on() -> None:
    seen: list[str] = []
    steps = {name: lambda name=name: seen.append(name) or time.sleep(0.002) for name in "abc"}
    times = alternate(steps, blocks=4, block_seconds=0.0, warm_up=1)
    assert seen[-12:] == [*"abc", *"bca", *"cab", *"abc"]
    assert all(len(values) == 4 and min(values) >= 0.002 for values in times.values())


def test_a_fast_step_is_repeated_within_a_block() -> None:
    counts = {"fast": 0, "slow": 0}

    def step(name: str, seconds: float) -> None:
        counts[name] += 1
        time.sleep(seconds)

    times = alternate({"fast": lambda: step("fast", 0.002), "slow": lambda: step("slow", 0.04)}, 3, 0.04, 1)
    assert counts["slow"] == 2 + 3
    assert counts["fast"] > 3 * counts["slow"]
    assert max(times["fast"]) < min(times["slow"])


def test_ratios_are_taken_within_blocks() -> None:
    # The machine slows down tenfold in the last block: ratios do not notice, a ratio of means would.
    times = {"reference": [1.0, 2.0, 30.0], "other": [2.0, 4.0, 90.0]}
    found = summarise(times, "reference")
    assert found["other"].ms == 4000.0 and found["other"].ratio == 2.0
    assert found["other"].ratio_quartiles == (2.0, 2.5)
    assert found["reference"].ratio_quartiles == (1.0, 1.0)
    assert sum(times["other"]) / sum(times["reference"]) > 2.5
    assert best({"hand a": [3.0], "hand b": [2.0], "x": [1.0]}, "hand") == "hand b"


@pytest.mark.parametrize("model", LOOPS)
def test_every_model_has_its_paths_on_a_network(model: str) -> None:
    steps, absent = steps_of(make_case("lenet-300-100", model, batch=4), ("sgd", "hand-written", "bayesprune"))
    assert {"SGD", "hand-written: flat", "bayesprune"} <= set(steps) and not absent
    assert ("hand-written: local reparameterisation" in steps) == (model == "normal")
    for step in steps.values():
        assert torch.isfinite(torch.tensor(step()))


def test_the_flat_loop_and_the_package_start_at_the_same_data_term() -> None:
    # HALO's MAP has no noise: both first losses hold the same nats of the data; priors differ by their starts alone.
    case = make_case("lenet-300-100", "halo", batch=16)
    steps, _ = steps_of(case, ("hand-written", "bayesprune"))
    first = {name: step() for name, step in steps.items()}
    assert first["bayesprune"] == pytest.approx(first["hand-written: flat"], rel=0.01)


def test_networks_are_those_of_the_names() -> None:
    for name, (build, shape) in NETWORKS.items():
        assert build()(torch.rand(2, *shape)).shape == (2, 10), name
    for weights in (2_000, 100_000, 1_000_000):
        assert make_multilayer(weights, "normal", 2).weights == pytest.approx(
            weights, rel=0.2 if weights < 1e4 else 0.01
        )


def test_a_peer_that_is_missing_is_named_with_how_to_get_it_and_the_rest_goes_on() -> None:
    hidden = {"tyxe": None, "bayesian_torch": None, "bayesian_torch.models.dnn_to_bnn": None}
    with mock.patch.dict(sys.modules, hidden):
        steps, absent = steps_of(make_case("lenet-300-100", "normal", batch=4), ("sgd", "peers"))
    assert set(steps) == {"SGD"}
    assert absent == {name: f"not installed: {peers.INSTALL[name]}" for name in peers.PEERS}
    assert all(command.startswith("pip install ") for command in peers.INSTALL.values())


def test_an_unknown_path_is_refused() -> None:
    with pytest.raises(ValueError, match="'jax' is unknown: expected sgd, hand-written"):
        steps_of(make_case("lenet-300-100", "normal", batch=4), ["jax"])


@pytest.mark.parametrize("peer", ["tyxe", "bayesian_torch"])
@pytest.mark.filterwarnings("default")
def test_peers_lower_the_loss_where_they_are_installed(peer: str) -> None:
    pytest.importorskip(peer)
    case = make_case("lenet-300-100", "normal", batch=32)
    make = {"tyxe": peers.tyxe_step, "bayesian_torch": peers.bayesian_torch_step}[peer]
    step = make(case.network, case.setup, case.x, case.y)
    losses = [step() for _ in range(30)]
    assert losses[-1] < 0.9 * losses[0]
    if peer == "tyxe":  # the same objective, from the same start
        flat = steps_of(case, ("hand-written",))[0]["hand-written: flat"]
        assert losses[0] == pytest.approx(flat(), rel=0.02)


def test_main_prints_tables_and_json_and_keeps_results(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ledger = tmp_path / "step_cost.json"
    arguments = ["--networks", "lenet-300-100", "--models", "halo", "--paths", "sgd", "hand-written", "bayesprune"]
    arguments += ["--blocks", "2", "--block-seconds", "0", "--batch", "4", "--out", str(ledger)]
    found = step_cost.main(arguments)
    printed = capsys.readouterr().out
    (result,) = found.values()
    assert set(result["costs"]) == {"SGD", "hand-written: flat", "bayesprune"}
    assert result["best"] == "hand-written: flat"
    assert result["costs"][result["best"]]["ratio"] == 1.0
    assert "<- best by hand" in printed and "cost: 1 runs x" in printed
    assert json.loads(printed.splitlines()[-1]) == json.loads(json.dumps(found))
    assert step_cost.main(arguments) == json.loads(ledger.read_text())
    assert step_cost.main([*arguments, "--fresh"]) != found, "times of another run"


def test_cases_that_the_time_does_not_suffice_for_are_named_and_measured_later(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--networks", "lenet-300-100", "--models", "normal", "halo", "--paths", "hand-written", "--batch", "4"]
    arguments += ["--blocks", "1", "--block-seconds", "0", "--out", str(tmp_path / "ledger.json")]
    assert step_cost.main([*arguments, "--seconds", "-1"]) == {}
    assert "(repeat the command): lenet-300-100, normal; lenet-300-100, halo" in capsys.readouterr().out
    whole = step_cost.main([*arguments, "--seconds", "1000"])
    assert len(whole) == 2 and "not run" not in capsys.readouterr().out
    again = step_cost.main([*arguments, "--seconds", "-1"])
    assert again == json.loads(json.dumps(whole))  # what is known takes no time


def test_peak_memory_counts_what_was_taken_and_given_back() -> None:
    peak = growth.Peak("cpu")
    taken = torch.ones(64 << 20, dtype=torch.uint8)  # 64 MiB: too much to be found in what was given back before
    del taken
    assert 56 << 20 < peak.above_base() < 80 << 20
    peak.reset()
    assert peak.above_base() < 24 << 20


@pytest.mark.slow
def test_bytes_a_weight_in_a_process_of_its_own_are_those_of_the_buffers() -> None:
    # Two parameters, their gradients and two moments each, noise, scale, weights: 11 float32; then the gradients.
    found = growth.peak_in_child(1_000_000, "normal", "hand-written", 8, "cpu", 1)
    assert 44.0 < found["train"] < 60.0
    assert "absent" in growth.peak_in_child(1_000, "no such model", "hand-written", 8, "cpu", 1)


def test_a_size_that_does_not_fit_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    peak = {"weights": 10, "build": 50.0, "train": 100.0}
    monkeypatch.setattr(growth, "peak_in_child", lambda *_: peak)
    monkeypatch.setattr(growth, "free_memory", lambda _: 1000.0)
    found = growth.measure_size(10, "normal", 2, "cpu", 1, 1, 0.0)
    assert found["costs"] == {} and "GiB for all paths at once" in found["absent"]["timing"]
    monkeypatch.setattr(growth, "PATHS", ("sgd", "hand-written"))
    monkeypatch.setattr(growth, "free_memory", lambda _: 1e9)
    found = growth.measure_size(10, "normal", 2, "cpu", 1, 1, 0.0)
    assert set(found["costs"]) == {"SGD", "hand-written: flat"} and found["absent"] == {}
