"""Predicted beside measured scores: what is drawn are the numbers of the result."""

from __future__ import annotations

import warnings

import numpy as np
import pytest

import bayesprune as bp


@pytest.fixture(scope="module")
def result():
    rng = np.random.default_rng(0)
    table = bp.FeatureTable(("nodes", "edges", "source_nodes"), rng.standard_normal((40, 3)))
    scores = table.values[:, 2] + 0.3 * rng.standard_normal(40)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        return bp.predict_performance(
            table, scores, ["one", "two"] * 20, ("bayesian-ridge", "hist-gradient-boosting"), repeats=2, folds=5
        )


def points(axis):
    """Measured and predicted of all families, and the ends of error bars."""
    drawn = [one for one in axis.containers]
    xs = np.concatenate([one[0].get_xdata() for one in drawn])
    ys = np.concatenate([one[0].get_ydata() for one in drawn])
    bars = [np.array(segment) for one in drawn for bar in one[2] for segment in bar.get_segments()]
    return xs, ys, bars


def test_points_and_bars_are_those_of_the_result(result, panel):
    figure = bp.plot_prediction(result)
    assert figure.get_suptitle() == "Scores of 40 graphs predicted by bayesian-ridge, out of fold"
    best = result.best_baseline["bayesian-ridge"]
    for name in ("all features", best):
        row = result["bayesian-ridge", name]
        axis = panel(figure, f"{name}: R2 {row.r2:.2f}")
        xs, ys, bars = points(axis)
        order = [*range(0, 40, 2), *range(1, 40, 2)]  # a family at a time
        np.testing.assert_array_equal(xs, result.scores[order])
        np.testing.assert_array_equal(ys, row.predictions[order])
        np.testing.assert_allclose([bar[1, 1] - bar[0, 1] for bar in bars], 4.0 * row.sds[order], rtol=1e-9)
        labels = [text.get_text() for text in axis.get_legend().get_texts()]
        assert labels == ["predicted = measured", "one", "two"]
        (line,) = [one for one in axis.lines if one.get_label() == "predicted = measured"]
        np.testing.assert_array_equal(line.get_xdata(), line.get_ydata())
    looks = {one[0].get_color() for one in axis.containers}, {one[0].get_marker() for one in axis.containers}
    assert len(looks[0]) == len(looks[1]) == 2


def test_without_stated_sds_there_are_no_bars(result):
    figure = bp.plot_prediction(result, ["all features", "size only", "family only", "source count only"],
                                "hist-gradient-boosting")  # fmt: skip
    shown = [axis for axis in figure.axes if axis.axison]
    assert len(shown) == 4 and len(figure.axes) == 6
    assert all(not points(axis)[2] for axis in shown)


def test_the_figure_is_written_and_bad_names_are_refused(result, tmp_path):
    bp.plot_prediction(result, path=tmp_path / "one.svg")
    assert (tmp_path / "one.svg").stat().st_size > 1000
    for wrong, sentence in [
        ({"regressor": "svm"}, "regressor='svm' has predicted nothing here: one of bayesian-ridge"),
        ({"features": ["width"]}, "features='width' are not among what was used"),
        ({"features": "size only"}, "give a list of some of all features"),
        ({"path": "one.gif"}, "no format"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            bp.plot_prediction(result, **wrong)
