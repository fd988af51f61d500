"""Runs of networks with batch normalisation: every command scores draws with their own statistics."""

from __future__ import annotations

import json

import numpy as np
import pytest

from bayesprune.runs.run_folder import load_run, run_data


@pytest.fixture(scope="module")
def run(made, networks_file, tmp_path_factory):
    """A run on a file of its own images, which a test may take away."""
    folder = tmp_path_factory.mktemp("normalised")
    generator = np.random.default_rng(0)
    y = np.arange(150) % 3
    x = generator.normal(size=(150, 1, 8, 8)) + np.eye(3, 64).reshape(3, 1, 8, 8)[y] * 4
    np.savez(folder / "images.npz", x=x, y=y)
    out = folder / "run"
    made(
        "fit", "--data", folder / "images.npz", "--network", f"{networks_file}:normalised", "--prior", "gaussian",
        "--epochs", 4, "--out", out,
    )  # fmt: skip
    return out


def summary(folder):
    return json.loads((folder / "summary.json").read_text())


def test_scores_of_a_run_are_with_the_statistics_of_each_draw_and_it_says_so(run, command):
    found, splits = summary(run), run_data(run)
    assert found["batch_normalisation"] == (
        f"statistics of each draw, estimated on {len(splits.train[0])} training inputs"
    )
    loaded = load_run(run, trust_code=True)
    assert loaded.score(*splits.test, data=splits.train)["nll"] == pytest.approx(found["nll"], rel=1e-4)
    assert abs(loaded.score(*splits.test)["nll"] - found["nll"]) > 0.01  # control: the running statistics
    code, out, err = command("show", run)
    assert (code, err) == (0, "") and found["batch_normalisation"] in out


def test_prune_scores_the_draws_before_as_the_run_did(run, command, tmp_path):
    code, _, err = command("prune", run, "--sparsity", 0.5, "--out", tmp_path / "p")
    assert (code, err) == (0, "")
    assert summary(tmp_path / "p")["test_nll_before"] == pytest.approx(summary(run)["nll"], rel=1e-4)


def test_predict_takes_the_training_data_or_says_that_it_has_none(run, command, tmp_path):
    splits = run_data(run)
    x = splits.test[0].numpy()
    np.save(tmp_path / "x.npy", x)

    def predicted():
        code, out, err = command("predict", run, "--input", tmp_path / "x.npy", "--out", tmp_path / "p.npz")
        assert (code, err) == (0, "")
        (found,) = (np.load(tmp_path / "p.npz")["mean"],)
        (tmp_path / "p.npz").unlink()
        return found, out

    loaded = load_run(run, trust_code=True)
    found, out = predicted()
    np.testing.assert_allclose(found, loaded.predict(splits.test[0], data=splits.train).mean, atol=1e-5)
    assert "batch normalisation" not in out
    data = run.parent / "images.npz"
    data.rename(data.with_suffix(".gone"))
    try:
        found, out = predicted()
    finally:
        data.with_suffix(".gone").rename(data)
    assert "note: batch normalisation has the running statistics" in out and "images.npz" in out
    np.testing.assert_allclose(found, loaded.predict(splits.test[0]).mean, atol=1e-5)
