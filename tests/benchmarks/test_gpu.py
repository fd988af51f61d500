"""The measurement on a GPU: its arithmetic on the CPU, what it compares, and that nothing stops it."""

from __future__ import annotations

import json

import pytest
import torch

from benchmarks import gpu

SMALL = ["--device", "cpu", "--hidden", "8", "6", "--batch", "4", "--blocks", "1", "--block-seconds", "0"]
SIZES = gpu.Sizes((8, 6), 4, "cpu", 1, 0.0)


def test_without_a_gpu_it_says_that_it_was_not_run(monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == {}
    assert "gpu: not run, there is no CUDA device here" in capsys.readouterr().out


def test_every_ready_prior_and_both_kinds_of_gates_are_methods():
    names = set(gpu.makers(SIZES))
    assert {"halo", "horseshoe", "spike-and-slab", "l0-hard-concrete", "vib", "mcp", "sws"} <= names
    assert {"normal, as by hand", "halo, as by hand", "unit gates, trapezoid", "unit gates, exact-toggle"} <= names


@pytest.mark.filterwarnings("ignore:the step cannot be captured")
def test_a_method_is_measured_and_right(capsys):
    found = gpu.main([*SMALL, "--methods", "halo, as by hand", "unit gates, trapezoid"])
    printed = capsys.readouterr().out
    assert set(found) == {"halo, as by hand", "unit gates, trapezoid"}
    for result in found.values():
        assert not result["problems"]
        assert set(result["costs"]) == {"hand-written", "plain", "captured"}
        assert result["costs"]["hand-written"]["ratio"] == 1.0 and result["costs"]["plain"]["ms"] > 0
        assert result["differences"]["float64"] < 1e-12 < result["differences"]["float32"] < 1e-4
        assert result["known"]["captured"]["difference"] < 1e-6
        assert result["waits"] == {"plain": "", "captured": ""}
    assert json.loads(printed.splitlines()[-1]) == json.loads(json.dumps(found))
    assert "x by hand" in printed and "1.00 (1.00 to 1.00)" not in printed.splitlines()[0]


def test_differences_see_a_wrong_gradient_and_a_wrong_draw(monkeypatch):
    make = gpu.makers(SIZES)["spike-and-slab"]
    assert gpu.differences(make, SIZES)["float64"] < 1e-12
    whole = gpu.evaluated

    def wrong(objective, x, y, draws):
        found = whole(objective, x, y, draws)
        name = next(name for name in found if name != "loss")
        return {**found, name: found[name] * (1.0 + 1e-6)} if draws._left is not None else found

    with monkeypatch.context() as patch:
        patch.setattr(gpu, "evaluated", wrong)
        assert 1e-7 < gpu.differences(make, SIZES)["float64"] < 1e-5
    x, y = gpu.batch_of(SIZES)
    noted = gpu.Draws()
    expected = gpu.evaluated(make().double(), x.double(), y, noted)
    assert noted.noted
    for factor, alike in ((1.0, True), (1.001, False)):
        draws = gpu.Draws([factor * draw for draw in noted.noted])
        assert (gpu.farthest(gpu.evaluated(make().double(), x.double(), y, draws), expected) < 1e-12) == alike
    one = {"a": torch.ones(2), "b": torch.zeros(3)}
    assert gpu.farthest(one, one) == 0.0
    assert gpu.farthest(one, {"a": torch.ones(2)}) == float("inf")
    assert gpu.farthest({"a": torch.tensor([1.0, 2.0])}, {"a": torch.tensor([1.0, 4.0])}) == 0.5


def test_what_fails_says_why_and_the_rest_goes_on(capsys):
    found = gpu.main([*SMALL, "--methods", "unit gates, exact-toggle", "laplace"])
    assert "UntraceableError" in found["unit gates, exact-toggle"]["problems"]["captured"]
    assert "plain" in found["unit gates, exact-toggle"]["costs"] and not found["laplace"]["problems"]
    assert "captured failed: UntraceableError" in capsys.readouterr().out


def test_a_method_that_cannot_be_made_does_not_stop_the_rest(monkeypatch, capsys):
    def broken():
        raise RuntimeError("no such thing\nin many lines")

    whole = gpu.makers
    monkeypatch.setattr(gpu, "makers", lambda sizes: {"broken": broken, "laplace": whole(sizes)["laplace"]})
    found = gpu.main(SMALL)
    assert found["broken"]["problems"] == dict.fromkeys(
        ("differences", "plain", "captured"), "RuntimeError: no such thing"
    )
    assert "captured" in found["laplace"]["costs"]


def test_what_the_time_does_not_suffice_for_is_named(capsys):
    assert gpu.main([*SMALL, "--seconds", "1", "--methods", "laplace", "halo"]) == {}
    assert "not run, because 1 s do not suffice: laplace (plain, captured); halo (plain," in capsys.readouterr().out
