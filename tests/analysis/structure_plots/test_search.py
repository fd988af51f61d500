"""The figure of searches: the best score so far, with the range of several."""

from __future__ import annotations

import numpy as np
import pytest

import bayesprune as bp
from bayesprune.inference.search.history import Training

GENOME = bp.Genome(("linear",), (8,), ((0, 1), (1, 2)))
SPACE = bp.SearchSpace((4,), 2)


def searched(*scores):
    rows = [
        Training(number, GENOME, score, (), "random", 10, 1.0, problem=None if score is not None else "the loss is NaN")
        for number, score in enumerate(scores)
    ]
    return bp.Searched(SPACE, tuple(rows), "evolution")


def lines(figure):
    (axis,) = figure.axes
    return {line.get_label(): line.get_ydata() for line in axis.lines if not line.get_label().startswith("_")}


def test_one_search_is_drawn_with_its_trainings(tmp_path):
    found = searched(0.2, None, 0.1, 0.5)
    figure = bp.plot_search(found, tmp_path / "search.svg")
    assert (tmp_path / "search.svg").is_file()
    np.testing.assert_allclose(lines(figure)["search"], [0.2, 0.2, 0.2, 0.5])
    dots = next(line for line in figure.axes[0].lines if line.get_marker() == "o")
    assert dots.get_xdata().tolist() == [1, 3, 4] and dots.get_ydata().tolist() == [0.2, 0.1, 0.5]


def test_of_several_the_mean_and_the_range_are_drawn():
    groups = {
        "a": [searched(0.1, 0.4, 0.4), searched(None, 0.2, 0.6, 0.7)],
        "b": [[0.3, 0.3], [0.5, 0.6]],
        "c": [0.1, 0.2],
    }
    figure = bp.plot_search(groups)
    found = lines(figure)
    np.testing.assert_allclose(found["a"], [np.nan, 0.3, 0.5])
    np.testing.assert_allclose(found["b"], [0.4, 0.45])
    np.testing.assert_allclose(found["c"], [0.1, 0.2])
    band = figure.axes[0].collections[0].get_paths()[0].vertices
    assert band[:, 0].min() == 2 and band[:, 0].max() == 3  # where both have a score
    assert band[:, 1].min() == pytest.approx(0.2) and band[:, 1].max() == pytest.approx(0.6)
    assert figure.axes[0].get_legend() is not None and "2 searches" in figure.get_suptitle()


@pytest.mark.parametrize(
    ("given", "message"),
    [({}, "no search to draw"), ({"a": []}, "'a' has no score"), (searched(None, None), "has no score")],
)
def test_where_there_is_nothing_to_draw_it_is_said(given, message):
    with pytest.raises(ValueError, match=message):
        bp.plot_search(given)
    with pytest.raises(ValueError, match="no format"):
        bp.plot_search(searched(1.0), "figure.txt")
