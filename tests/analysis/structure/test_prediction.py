"""Cross-validated predictions of scores: beside scikit-learn's own, beside baselines, and where there is nothing."""

from __future__ import annotations

import json
import warnings

import networkx as nx
import numpy as np
import pytest
from sklearn.linear_model import BayesianRidge
from sklearn.metrics import r2_score
from sklearn.model_selection import KFold, cross_val_predict, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import MinMaxScaler, StandardScaler

import bayesprune as bp
from bayesprune.analysis.structure.regressors import REGRESSORS, mean_and_sd, regressor

QUICK = ("bayesian-ridge",)


def graph(number):
    rng = np.random.default_rng(number)
    n = int(rng.integers(10, 31))
    if number % 2:
        return nx.connected_watts_strogatz_graph(n, 4, 1.0, tries=1000, seed=number)
    m = int(rng.integers(1, 5))
    star = nx.Graph([(m, leaf) for leaf in range(m)])
    return nx.barabasi_albert_graph(n, m, seed=number, initial_graph=star)


@pytest.fixture(scope="module")
def table():
    return bp.feature_table([graph(number) for number in range(80)])


@pytest.fixture(scope="module")
def families():
    return ["ws" if number % 2 else "ba" for number in range(80)]


def noise(seed, sd=1.0, size=80):
    return sd * np.random.default_rng(seed).standard_normal(size)


def predicted(table, scores, *args, **kwargs):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return bp.predict_performance(table, scores, *args, **{"regressors": QUICK, "repeats": 2, **kwargs})


def column(table, name):
    values = table.only([name]).values[:, 0]
    return (values - values.mean()) / values.std()


def test_predictions_are_those_of_a_loop_of_scikit_learn(table):
    scores = column(table, "closeness_mean") + noise(0, 0.3)
    found = predicted(table, scores, folds=5, repeats=3, seed=11)["bayesian-ridge", "all features"]
    loops = [
        cross_val_predict(
            make_pipeline(StandardScaler(), BayesianRidge()),
            table.values,
            scores,
            cv=KFold(5, shuffle=True, random_state=11 + one),
        )
        for one in range(3)
    ]
    np.testing.assert_allclose(found.predictions, np.mean(loops, axis=0), rtol=0, atol=1e-10)
    each = [r2_score(scores, one) for one in loops]
    assert found.r2 == pytest.approx(np.mean(each), abs=1e-12)
    assert found.r2_sd == pytest.approx(np.std(each, ddof=1), abs=1e-12)
    # control: fitted on all rows, it is better than it can be
    fitted = make_pipeline(StandardScaler(), BayesianRidge()).fit(table.values, scores)
    assert r2_score(scores, fitted.predict(table.values)) > found.r2 + 0.005


def test_scores_of_a_known_feature_are_explained_by_the_baseline_of_that_feature(table, families):
    scores = 0.9 + 0.05 * column(table, "source_nodes") + noise(1, 0.02)
    with pytest.warns(UserWarning, match="gain no more than one sd over the best baseline .*over source count only"):
        found = bp.predict_performance(table, scores, families, regressors=QUICK, repeats=2)
    rows = {row.features: row for row in found.rows}
    assert list(rows) == ["all features", "size only", "source count only", "best single feature", "family only"]
    assert rows["source count only"].r2 > 0.8 > rows["family only"].r2 + 0.2
    assert rows["best single feature"].r2 == pytest.approx(rows["source count only"].r2, abs=1e-9)
    assert rows["size only"].r2 < 0.3
    assert found.best_baseline["bayesian-ridge"] in ("source count only", "best single feature")
    assert found.notes and found.notes[0] in str(found)
    assert rows["all features"].interval[0] < rows["all features"].r2 < rows["all features"].interval[1]


def test_scores_of_the_family_are_explained_by_the_flag_and_gone_within_families(table, families):
    scores = np.where(np.array(families) == "ws", 0.9, 0.8) + noise(2, 0.01)
    found = predicted(table, scores, families)
    flag = found["bayesian-ridge", "family only"]
    assert flag.r2 > 0.95 and max(flag.within.values()) < 0.05
    assert set(flag.within) == {"ba", "ws"}


def test_scores_of_many_features_bring_no_warning(table):
    scores = column(table, "closeness_variance") - column(table, "nodes") + column(table, "layers") + noise(3, 0.2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = bp.predict_performance(table, scores, regressors=QUICK, repeats=2)
    gain, sd = found.gains["bayesian-ridge"]
    assert not found.notes and gain > 2.0 * sd > 0.0


@pytest.mark.parametrize("name", [name for name in REGRESSORS if name != "horseshoe"])
def test_shuffled_scores_are_not_predicted(table, families, name):
    scores = column(table, "source_nodes") + noise(4, 0.1)
    shuffled = np.random.default_rng(5).permutation(scores)
    found = predicted(table, shuffled, families, regressors=(name,), repeats=1, folds=5)
    assert all(row.r2 <= 0.0 for row in found.rows), str(found)
    assert found.rows[0].interval[0] < 0.0
    told = predicted(table, scores, regressors=(name,), repeats=1, folds=5, baselines={})
    assert told.rows[0].r2 > 0.5  # control: in their order they are


def test_the_single_feature_is_chosen_on_the_folds_that_are_fitted():
    rng = np.random.default_rng(6)
    table = bp.FeatureTable(tuple(map(str, range(300))), rng.standard_normal((40, 300)))
    scores = rng.standard_normal(40)
    found = predicted(table, scores, folds=5)["bayesian-ridge", "best single feature"]
    chosen = np.abs(np.corrcoef(table.values.T, scores)[-1, :-1]).argmax()
    leaking = predicted(table, scores, folds=5, baselines={"leak": [str(chosen)]})["bayesian-ridge", "leak"]
    assert leaking.r2 > 0.05 > 0.0 >= found.r2  # control: chosen by all rows it seems to predict


def test_families_left_out_are_predicted_from_the_others(table, families):
    scores = np.where(np.array(families) == "ws", 0.9, 0.8) + noise(7, 0.01)
    found = predicted(table, scores, families, by_group=True, repeats=5)
    assert found.by_group and found.folds == 2 and found.repeats == 1
    assert "family only" not in {row.features for row in found.rows}
    kept = np.array(families) == "ba"
    model = make_pipeline(StandardScaler(), BayesianRidge()).fit(table.values[kept], scores[kept])
    row = found["bayesian-ridge", "all features"]
    np.testing.assert_allclose(row.predictions[~kept], model.predict(table.values[~kept]), atol=1e-10)
    assert row.r2 < 0.0 < predicted(table, scores, families)["bayesian-ridge", "all features"].r2
    many = [str(number % 8) for number in range(80)]
    assert predicted(table, scores, many, by_group=True, folds=4).repeats == 2


def test_single_splits_are_those_published_and_scatter(table):
    scores = column(table, "source_nodes") + noise(8, 1.0)
    found = predicted(table, scores, baselines={}, splits=30)
    scaled = MinMaxScaler().fit_transform(table.values)
    x, x_test, y, y_test = train_test_split(scaled, scores, test_size=0.1, random_state=7)
    alone = r2_score(y_test, make_pipeline(StandardScaler(), BayesianRidge()).fit(x, y).predict(x_test))
    assert found.published_split["bayesian-ridge"] == pytest.approx(alone, abs=1e-12)
    assert found.splits["bayesian-ridge"][7] == found.published_split["bayesian-ridge"]
    assert found.splits["bayesian-ridge"].std() > 5.0 * found.rows[0].r2_sd
    assert "with seed 7; of 30 splits" in str(found)


def test_seeds_bound_what_can_be_explained(table):
    truth = column(table, "source_nodes")
    scores = truth[:, None] + noise(9, 1.0, (80, 2))
    scores[40:, 1] = np.nan
    found = predicted(table, scores)
    np.testing.assert_array_equal(found.scores, np.nanmean(scores, 1))
    ceiling = found.ceiling
    assert ceiling.graphs == 40
    first, second = scores[:40].T
    between = 2.0 * ((first + second) / 2.0).var(ddof=1)
    within = ((first - second) ** 2).mean() / 2.0
    assert ceiling.of_one == pytest.approx((between - within) / (between + within), abs=1e-12)
    assert ceiling.seed_sd == pytest.approx(within**0.5, abs=1e-12)
    assert ceiling.of_one < ceiling.of_scores < 2 * ceiling.of_one / (1 + ceiling.of_one)
    assert ceiling.other_seeds == pytest.approx(
        r2_score(np.concatenate([first, second]), np.concatenate([second, first])), abs=1e-12
    )
    assert predicted(table, scores[:, 0]).ceiling is None
    exact = predicted(table, np.stack([truth, truth], 1)).ceiling
    assert exact.of_one == exact.other_seeds == 1.0 and exact.seed_sd == 0.0
    chance = predicted(table, noise(10, 1.0, (80, 3))).ceiling
    assert chance.of_one < 0.2 and chance.other_seeds < 0.0


def test_the_ceiling_is_that_of_the_simulation():
    table = bp.FeatureTable(("a",), np.arange(4000.0)[:, None])
    rng = np.random.default_rng(0)
    scores = 2.0 * rng.standard_normal((4000, 1)) + rng.standard_normal((4000, 4))
    scores[::2, 2:] = np.nan
    ceiling = predicted(table, scores, repeats=1).ceiling
    assert ceiling.of_one == pytest.approx(0.8, abs=0.02)
    assert ceiling.of_scores == pytest.approx(4.0 / (4.0 + 0.5 * (0.5 + 0.25)), abs=0.02)
    assert ceiling.seed_sd == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("name", list(REGRESSORS))
def test_stated_sds_are_of_the_size_of_the_errors_where_any_are_stated(name):
    rng = np.random.default_rng(0)
    x, more = rng.standard_normal((150, 3)), rng.standard_normal((150, 3))
    y, later = x[:, 0] + 0.5 * rng.standard_normal(150), more[:, 0] + 0.5 * rng.standard_normal(150)
    mean, sd = mean_and_sd(regressor(name).fit(x, y), more)
    again, _ = mean_and_sd(regressor(name).fit(x, y), more)
    np.testing.assert_array_equal(mean, again)
    assert r2_score(later, mean) > 0.5
    if name == "hist-gradient-boosting":
        assert np.isnan(sd).all()
    elif name in ("random-forest", "adaboost"):
        assert (sd > 0.0).all() and 0.1 < np.median(sd) < 1.0
    else:
        assert 0.4 < np.median(sd) < 0.65
        assert (np.abs(later - mean) < 1.96 * sd).mean() > 0.88


def test_what_is_returned_goes_to_json(table, families):
    found = predicted(table, column(table, "layers") + noise(11), families, regressors=("hist-gradient-boosting",))
    kept = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert kept["rows"][0]["sds"] == [None] * 80 and len(kept["rows"][0]["predictions"]) == 80
    assert kept["rows"][0]["r2"] == found.rows[0].r2 and kept["groups"] == families
    with pytest.raises(KeyError, match="there is no score of"):
        found["bayesian-ridge", "all features"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"scores": np.ones(80)}, "all scores are equal"),
        ({"scores": np.arange(7.0)}, r"scores of shape \(7,\) do not belong to 80 graphs"),
        ({"scores": np.where(np.arange(80) == 3, np.nan, np.arange(80.0))}, "each graph needs a finite score"),
        ({"scores": np.where(np.arange(80) == 3, np.inf, np.arange(80.0))}, "each graph needs a finite score"),
        ({"groups": ["a"]}, "there are 1 groups for 80 graphs"),
        ({"by_group": True}, "by_group=True leaves out families in turn, and none are named"),
        ({"by_group": True, "groups": ["a"] * 80}, "all graphs are of the group 'a'"),
        ({"regressors": ("svm",)}, r"regressors=\('svm',\) are not known: give a tuple of some of bayesian-ridge"),
        ({"regressors": "adaboost"}, "regressors='adaboost' are not known"),
        ({"folds": 1}, "folds=1 of 80 graphs cannot be made"),
        ({"folds": 81}, "folds=81 of 80 graphs cannot be made"),
        ({"repeats": 0}, "repeats=0 and splits=0"),
        ({"baselines": {"width": ["width"]}}, "there is no feature 'width'"),
    ],
)
def test_what_does_not_fit_together_is_refused_in_a_sentence(table, change, sentence):
    with pytest.raises(ValueError, match=sentence):
        bp.predict_performance(table, **{"scores": np.arange(80.0), **change})
