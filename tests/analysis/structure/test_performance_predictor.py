"""A predictor with an sd, and the page that shows it."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import networkx as nx
import numpy as np
import pytest
from sklearn.ensemble import RandomForestRegressor
from sklearn.preprocessing import StandardScaler

import bayesprune as bp

PAGE = Path(__file__).resolve().parents[3] / "docs" / "structure_prediction.md"


def problem(rows=60):
    rng = np.random.default_rng(0)
    x = rng.uniform(-1.0, 1.0, (rows, 4))
    return x, np.sin(3.0 * x[:, 0]) + 0.05 * rng.standard_normal(rows)


def test_a_forest_says_the_mean_and_the_sd_of_its_trees():
    x, y = problem()
    mean, sd = bp.PerformancePredictor(seed=3).fit(x[:40], y[:40]).predict(x[40:])
    scaler = StandardScaler().fit(x[:40])
    forest = RandomForestRegressor(random_state=3).fit(scaler.transform(x[:40]), y[:40])
    trees = np.stack([tree.predict(scaler.transform(x[40:])) for tree in forest.estimators_])
    np.testing.assert_allclose(mean, trees.mean(0), atol=1e-12)
    np.testing.assert_allclose(sd, trees.std(0), atol=1e-12)
    other, _ = bp.PerformancePredictor(seed=4).fit(x[:40], y[:40]).predict(x[40:])
    assert np.abs(other - mean).max() > 0.0  # control: the seed is used


def test_a_gaussian_process_is_less_sure_where_it_has_seen_nothing():
    x, y = problem()
    predictor = bp.PerformancePredictor("gaussian-process").fit(x, y)
    _, near = predictor.predict(x[:10])
    _, far = predictor.predict(x[:10] + 30.0)
    assert far.min() > 2.0 * near.max()


@pytest.mark.parametrize("name", ["random-forest", "bayesian-ridge", "gaussian-process", "adaboost"])
def test_predictions_rank_what_was_not_seen(name):
    x, y = problem(120)
    mean, sd = bp.PerformancePredictor(name).fit(x[:80], y[:80]).predict(x[80:])
    assert np.corrcoef(mean, y[80:])[0, 1] > 0.75
    assert mean.shape == sd.shape == (40,) and (sd > 0.0).all()


def test_graphs_tables_and_arrays_are_the_same():
    graphs = [nx.barabasi_albert_graph(8 + number, 2, seed=number) for number in range(12)]
    scores, table = np.arange(12.0), bp.feature_table(graphs)
    found = [bp.PerformancePredictor().fit(one, scores).predict(one) for one in (graphs, table, table.values)]
    for mean, sd in found[1:]:
        np.testing.assert_array_equal(mean, found[0][0])
        np.testing.assert_array_equal(sd, found[0][1])
    assert repr(bp.PerformancePredictor()) == "PerformancePredictor('random-forest', seed=0)"


def test_a_predictor_that_is_fitted_again_forgets():
    x, y = problem()
    once = bp.PerformancePredictor().fit(x, y)
    twice = bp.PerformancePredictor().fit(x, -y).fit(x, y)
    np.testing.assert_array_equal(once.predict(x)[0], twice.predict(x)[0])


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda x, y: bp.PerformancePredictor("hist-gradient-boosting"), "a predictor states its sd"),
        (lambda x, y: bp.PerformancePredictor("svm"), "give one of bayesian-ridge, random-forest"),
        (lambda x, y: bp.PerformancePredictor().predict(x), "has seen no scores yet: call fit first"),
        (lambda x, y: bp.PerformancePredictor().fit(x, y[:3]), r"scores of shape \(3,\) do not belong to 60 rows"),
        (lambda x, y: bp.PerformancePredictor().fit(x, y * np.nan), "give a finite score a row"),
        (lambda x, y: bp.PerformancePredictor().fit(x * np.nan, y), "are no finite numbers"),
        (lambda x, y: bp.PerformancePredictor().fit(x[0], y), r"features of shape \(4,\)"),
        (lambda x, y: bp.PerformancePredictor().fit(x, y).predict(x[:, :2]), "fitted on 4 features and asked about 2"),
    ],
)
def test_what_cannot_be_predicted_is_refused_in_a_sentence(make, sentence):
    with pytest.raises(ValueError, match=sentence):
        make(*problem())


def test_the_page_runs_as_it_stands(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    space: dict = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S):
            exec(compile(block, str(PAGE), "exec"), space)
    assert (tmp_path / "prediction.svg").exists()
    assert space["result"]["bayesian-ridge", "all features"].r2 > 0.5
    assert "layers" in [space["features"].names[one] for one in space["best"]]
    assert "single splits" in capsys.readouterr().out and space["mean"].shape == (20,)
