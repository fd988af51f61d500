"""front.json and front.png of a sweep."""

from __future__ import annotations

import json

import numpy as np
import pytest

import bayesprune as bp
from bayesprune.sweeps.front import write_front
from bayesprune.sweeps.sweep_result import RUNNING, Sweep, SweepFit
from tests.bayesprune.sweeps.sweeps_by_hand import sweep_by_hand


def test_the_front_is_written_with_means_runs_and_numbers(tmp_path):
    sweep = sweep_by_hand(folder=tmp_path, objectives=("validation_accuracy", "density"))
    assert [file.name for file in write_front(sweep)] == ["front.json", "front.png"]
    found = json.loads((tmp_path / "front.json").read_text())
    assert found["score"] == "validation_accuracy" and set(found["fronts"]) == {"density", "nonzero", "macs"}
    assert found["fronts"]["density"] == [
        {"number": 1, "setting": 0}, {"number": 2, "setting": 1}, {"number": 3, "setting": 3}
    ]  # fmt: skip
    row = found["settings"][1]
    assert row["settings"] == {"set.kappa": 1.0} and row["seeds"] == [0, 1] and row["trials"] == [2, 3]
    assert row["runs"] == ["1.0-0", "1.0-1"] and row["means"]["validation_accuracy"] == pytest.approx(0.94)
    assert row["sds"]["validation_accuracy"] == pytest.approx(0.02 / 2**0.5) and row["means"]["latency"] is None
    assert found["best"] == {"validation_accuracy": 0, "density": 3}
    assert (tmp_path / "front.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_written_before_a_fit_is_complete(tmp_path):
    assert write_front(Sweep(tmp_path, {}, ("validation_nll",), (SweepFit({}, 0, RUNNING),))) == []
    assert not list(tmp_path.iterdir())


def drawn(axis):
    """Dots and line of a panel."""
    return [np.stack([line.get_xdata(), line.get_ydata()]) for line in axis.lines]


def test_the_picture_shows_the_fronts_and_all_fits():
    figure = bp.plot_sweep(sweep_by_hand())
    density, macs = figure.axes  # the number of weights is the density in other units
    dots, line = drawn(density)
    np.testing.assert_allclose(line, [[51.0, 21.0, 5.0], [0.86, 0.84, 0.65]])
    assert dots.shape == (2, 8) and [text.get_text() for text in density.texts] == ["1", "2", "3"]
    assert macs.get_xlabel() == "MACs with a weight that is not zero" and "test data" in figure._suptitle.get_text()
    (axis,) = bp.plot_sweep(sweep_by_hand(), score="nll", against="density", split="validation").axes
    np.testing.assert_allclose(drawn(axis)[1][1], [0.04, 0.06, 0.25])


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"score": "rmse"}, "has no score 'rmse'"),
        ({"against": "latency"}, "has no 'latency'"),
        ({"split": "training"}, "has no 'accuracy' on 'training' data"),
        ({"path": "front.bmp"}, "has no format"),
    ],
)
def test_bad_input_is_told_in_a_sentence(more, message):
    with pytest.raises(ValueError, match=message):
        bp.plot_sweep(sweep_by_hand(), **more)
