"""The picture of fronts: what is drawn are the path's numbers."""

from __future__ import annotations

import numpy as np
import pytest

import bayesprune as bp

SPARSITY, ACCURACY = [0.5, 0.9, 0.99], [[0.90, 0.86, 0.70], [0.92, 0.80, 0.74]]  # over restarts


def path_of(shift=0.0, restarts=2, splits=("validation", "test"), latency=None):
    """A path of one value, pruned three times, with known numbers; test accuracies are 0.1 lower."""

    def network(restart, pruning):
        nonzero = round(1000 * (1 - SPARSITY[pruning]))
        scores = {}
        for split in splits:
            scores[f"{split}_accuracy"] = ACCURACY[restart][pruning] - shift - 0.1 * (split == "test")
            scores[f"{split}_nll"] = 1.0 - scores[f"{split}_accuracy"]
        return {
            "sparsity": SPARSITY[pruning], "density": 1 - SPARSITY[pruning], "weights": 1000, "nonzero": nonzero,
            "dense_macs": 1000, "sparse_macs": nonzero, "compact_macs": 500 + nonzero, "parameters": 1000,
            "compact_parameters": 600, "latency": latency, "latency_ratio": latency, **scores,
        }  # fmt: skip

    networks = [[network(restart, pruning) for pruning in range(3)] for restart in range(restarts)]
    fits = [{name: 0.5 for name in networks[0][0] if name.split("_")[0] in splits}] * restarts
    point = {"seconds": 1.0, "notes": [], "fits": fits, "networks": networks}
    prunings = [{"sparsity": sparsity} for sparsity in SPARSITY]
    return bp.SparsityPath.of("kappa", [3.0], prunings, [point], {}.__getitem__)


def drawn(figure):
    """Dots and line of each path, x and y."""
    (axis,) = figure.axes
    found = [np.stack([line.get_xdata(), line.get_ydata()]) for line in axis.lines]
    return list(zip(found[::2], found[1::2], strict=True))


def test_the_line_is_the_mean_front_and_the_dots_are_all_networks():
    figure = bp.plot_front(path_of())
    ((dots, line),) = drawn(figure)
    np.testing.assert_allclose(line, [[50.0, 10.0, 1.0], [0.81, 0.73, 0.62]])
    np.testing.assert_allclose(sorted(dots[1]), sorted(np.array(ACCURACY).ravel() - 0.1))
    (axis,) = figure.axes
    assert axis.get_xscale() == "log" and axis.xaxis_inverted() and "test data" in figure._suptitle.get_text()
    (band,) = axis.collections
    at_the_left = [y for x, y in band.get_paths()[0].vertices if x == 50.0]
    np.testing.assert_allclose([min(at_the_left), max(at_the_left)], 0.81 + np.array([-1, 1]) * 0.02 / 2**0.5)


def test_validation_data_other_scores_and_other_sizes():
    ((_, line),) = drawn(bp.plot_front(path_of(), split="validation", score="nll", against="compact_macs"))
    np.testing.assert_allclose(line, [[1000, 600, 510], [0.09, 0.17, 0.28]])
    ((_, line),) = drawn(bp.plot_front(path_of(splits=("validation",)), against="compact_macs"))
    np.testing.assert_allclose(line[1], [0.91, 0.83, 0.72])  # the only data that there are
    ((_, line),) = drawn(bp.plot_front(path_of(latency=2e-3), against="latency"))
    assert line[0].tolist() == [2.0]  # milliseconds; of equal times the best network only
    assert bp.plot_front(path_of(), against="compact_macs").axes[0].get_xscale() == "linear"


def test_several_paths_have_their_labels_and_colours():
    figure = bp.plot_front({"HALO": path_of(), "rival": path_of(shift=0.2)}, worst=0.5)
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.get_legend().get_texts()] == ["HALO", "rival"]
    (_, one), (_, other) = drawn(figure)
    np.testing.assert_allclose(one[1] - other[1], 0.2)
    assert axis.lines[1].get_color() != axis.lines[3].get_color() and axis.get_ylim()[0] == 0.5


def test_one_restart_has_no_band():
    figure = bp.plot_front(path_of(restarts=1))
    assert not figure.axes[0].collections
    np.testing.assert_allclose(drawn(figure)[0][1][1], np.array(ACCURACY[0]) - 0.1)


def test_a_figure_is_written(tmp_path):
    bp.plot_front(path_of(), path=tmp_path / "front.svg")
    assert b"weights left" in (tmp_path / "front.svg").read_bytes()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"paths": {}}, "plot_front needs at least one path"),
        ({"score": "rmse"}, "has no score 'rmse': it has accuracy, nll"),
        ({"against": "latency"}, "has no latency, it was not measured"),
        ({"against": "macs"}, "against='macs' is unknown"),
        ({"split": "training"}, "kappa has no scores on 'training' data: it has validation, test"),
        ({"path": "front.bmp"}, "has no format"),
    ],
)
def test_bad_input_is_told_in_a_sentence(more, message):
    with pytest.raises(ValueError, match=message):
        bp.plot_front(**{"paths": path_of(), **more})
