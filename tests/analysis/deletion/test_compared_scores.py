"""Several scores and a ceiling on the same deletions: one measurement for all, its own on other data, paired."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy import stats
from torch import nn

import bayesprune as bp
from bayesprune.analysis.deletion import deletions as measured
from bayesprune.analysis.plots.deletion_calibration import plot_deletion_calibration

NOISE = 0.5


@pytest.fixture(scope="module")
def linear():
    """A linear regression of two numbers on eight correlated inputs, weights placed by hand; two sets of data."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(2, 8, generator=generator, dtype=torch.float64) * torch.linspace(0, 1, 8).double()

    def make(count):
        x = torch.randn(count, 8, generator=generator, dtype=torch.float64)
        x[:, 1] = -x[:, 0] + 0.3 * x[:, 1]
        return x, x @ weight.T + NOISE * torch.randn(count, 2, generator=generator, dtype=torch.float64)

    network = nn.Linear(8, 2, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(weight + 0.05)
    train, held_out = make(400), make(200)
    return bp.laplace_around(network, train, bp.Normal(NOISE), prior_sd=1.0), train, held_out


@pytest.fixture(scope="module")
def digits_network():
    """A network of two layers under spike and slab, and its data."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(500, 10, generator=generator)
    y = (x[:, 0] + x[:, 1] * x[:, 2] > 0).long()
    network = nn.Sequential(nn.Linear(10, 12), nn.Tanh(), nn.Linear(12, 2))
    model = bp.BayesianNetwork(network, {"*.weight": bp.SpikeAndSlab(0.3)}, data_size=300)
    fit = bp.fit(model, (x[:300], y[:300]), epochs=40, batch_size=50, learning_rate=0.02, device="cpu")
    return fit, (x[300:], y[300:])


def test_where_the_loss_is_quadratic_the_prediction_is_the_change_itself(linear):
    fit, train, held_out = linear
    for per in ("weight", "input", "output"):
        same = bp.deletion_calibration(fit, held_out, per=per, scores="deletion", train=held_out)
        np.testing.assert_allclose(same.deletions.score.values, same.deletions.change.values, rtol=0, atol=1e-10)
        other = bp.deletion_calibration(fit, held_out, per=per, scores="deletion", train=train, ceiling=train)
        # Predicted on the ceiling's data it is the ceiling: derivatives miss nothing here, other data do.
        np.testing.assert_allclose(other.deletions.score.values, other.deletions.elsewhere.values, rtol=0, atol=1e-10)
        assert np.abs(other.deletions.score.values - other.deletions.change.values).max() > 1e-3
        below = other.comparison.sel(predictor="deletion", layer="all")
        assert float(below.below) == pytest.approx(0.0, abs=1e-12)
        assert float(below.below_lower) == float(below.below_upper) == pytest.approx(0.0, abs=1e-12)


def test_all_scores_are_of_the_same_deletions_and_each_is_what_it_is_alone(digits_network, monkeypatch):
    fit, held_out = digits_network
    one, count = bp.deletion_calibration(fit, held_out, n=80), []
    losses = measured.losses_of
    monkeypatch.setattr(measured, "losses_of", lambda *given: count.append(1) or losses(*given))
    arrays = {name: weight.abs().numpy() for name, weight in fit.included_weights().items()}
    scores = {"PIP": None, "size": "magnitude", "|m|/sd": "signal-to-noise", "arrays": arrays, "deletion": "deletion"}
    scores["draws"] = bp.deletion_scores(fit, draws=2)
    many = bp.deletion_calibration(fit, held_out, n=80, scores=scores)
    assert len(count) == 80  # each was deleted once
    np.testing.assert_array_equal(many.deletions.change.values, one.deletions.change.values)
    assert many.correlation.identical(one.correlation) and many.curve.identical(one.curve)
    assert (many.score, many.kind) == (one.score, "atom")
    change, tensor = many.deletions.change.values, many.deletions.tensor.values
    for name, score in scores.items():
        predicted = many.deletions.predicted.sel(predictor=name).values
        for layer in ("all", "0.weight", "2.weight"):
            at = slice(None) if layer == "all" else tensor == layer
            row = many.comparison.sel(predictor=name, layer=layer)
            assert float(row.spearman) == pytest.approx(stats.spearmanr(predicted[at], change[at]).statistic, abs=1e-12)
            assert float(row.lower) < float(row.spearman) < float(row.upper)
        alone = bp.deletion_calibration(fit, held_out, n=10_000, scores=score).deletions
        by_place = {
            (t, g): s for t, g, s in zip(alone.tensor.values, alone.group.values, alone.score.values, strict=True)
        }
        wanted = [by_place[t, g] for t, g in zip(tensor, many.deletions.group.values, strict=True)]
        np.testing.assert_allclose(predicted, wanted, rtol=1e-12)
    np.testing.assert_array_equal(*(many.deletions.predicted.sel(predictor=name).values for name in ("size", "arrays")))
    lines = str(many).splitlines()
    assert "below" not in many.comparison and not any(line.startswith("ceiling") for line in lines)
    assert [line.split("  ")[0] for line in lines[-6:]] == list(scores)


@pytest.mark.parametrize("per", ["weight", "output", "input"])
def test_the_ceiling_is_the_same_deletions_on_the_other_data(digits_network, per):
    fit, (x, y) = digits_network
    held_out, others = (x[:120], y[:120]), (x[120:], y[120:])
    found = bp.deletion_calibration(fit, held_out, n=22, per=per, ceiling=others)
    there = bp.deletion_calibration(fit, others, n=22, per=per)
    assert found.elsewhere == 80 and found.deletions.group.equals(there.deletions.group)
    np.testing.assert_allclose(found.deletions.elsewhere.values, there.deletions.change.values, rtol=0, atol=1e-13)
    assert not np.allclose(found.deletions.elsewhere.values, found.deletions.change.values, atol=1e-6)
    row = found.comparison.sel(predictor="ceiling", layer="all")
    rank = stats.spearmanr(there.deletions.change.values, found.deletions.change.values).statistic
    assert float(row.spearman) == pytest.approx(rank, abs=1e-12)
    assert float(row.below) == float(row.below_lower) == float(row.below_upper) == 0.0
    score = found.comparison.sel(predictor=found.score, layer="all")
    assert float(score.below) == pytest.approx(rank - float(score.spearman), abs=1e-12)
    assert float(score.below_lower) <= float(score.below) <= float(score.below_upper)
    assert "measured on 80 other examples" in str(found)


def test_a_number_of_kept_examples_is_a_ceiling_too(digits_network):
    fit, held_out = digits_network
    kept = fit.examples
    found = bp.deletion_calibration(fit, held_out, n=12, ceiling=300)
    told = bp.deletion_calibration(fit, held_out, n=12, ceiling=kept)
    assert found.elsewhere == told.elsewhere == 300
    np.testing.assert_array_equal(found.deletions.elsewhere.values, told.deletions.elsewhere.values)


def test_a_set_has_a_score_of_its_own_that_is_no_sum(linear):
    fit, train, held_out = linear
    asked = {"sizes": (1, 3), "bands": (0.0, 0.5, 1.0), "sets": 30}
    arrays = {"weight": np.linspace(0.0, 1.0, 16).reshape(2, 8)}
    scores = {"given": arrays, "joint": "deletion", "sum": bp.deletion_scores(fit, held_out)}
    found = bp.set_deletion(fit, held_out, scores=scores, train=held_out, ceiling=train, **asked)
    plain = bp.set_deletion(fit, held_out, scores=arrays, **asked)
    assert found.table.identical(plain.table) and plain.comparison is None and plain.changes is None
    change, predicted = found.changes.change, found.changes.predicted
    np.testing.assert_allclose(predicted.sel(predictor="joint").values, change.values, rtol=0, atol=1e-10)
    one = predicted.sel(predictor="sum")
    np.testing.assert_allclose(one.sel(size=1).values, change.sel(size=1).values, rtol=0, atol=1e-10)
    assert np.abs(one.sel(size=3).values - change.sel(size=3).values).max() > 1e-2  # the control: added up
    np.testing.assert_allclose(change.mean("set").values, found.table.change.values, rtol=0, atol=1e-12)
    assert list(found.comparison.predictor.values) == ["given", "joint", "sum", "ceiling"]
    cells = ["1 of 0 to 0.5", "3 of 0 to 0.5", "1 of 0.5 to 1", "3 of 0.5 to 1"]
    assert list(found.comparison.layer.values) == cells
    for number, cell in enumerate(cells):
        place = {"band": number // 2, "size": (1, 3)[number % 2]}
        at = found.changes.isel(band=place["band"]).sel(size=place["size"])
        for name in ("given", "joint", "sum"):
            rank = stats.spearmanr(at.predicted.sel(predictor=name).values, at.change.values).statistic
            assert float(found.comparison.spearman.sel(predictor=name, layer=cell)) == pytest.approx(rank, abs=1e-12)
        rank = stats.spearmanr(at.elsewhere.values, at.change.values).statistic
        assert float(found.comparison.spearman.sel(predictor="ceiling", layer=cell)) == pytest.approx(rank, abs=1e-12)
    assert "the same sets deleted on 400 other examples" in str(found)


def test_bands_that_are_smaller_than_a_set_have_no_row(linear):
    fit, _, held_out = linear
    arrays = {"weight": np.linspace(0.0, 1.0, 16).reshape(2, 8)}
    found = bp.set_deletion(
        fit, held_out, sizes=(1, 5), bands=(0.0, 0.8, 1.0), sets=4, scores={"given": arrays, "size": "magnitude"}
    )
    assert list(found.comparison.layer.values) == ["1 of 0 to 0.8", "5 of 0 to 0.8", "1 of 0.8 to 1"]
    assert np.isnan(found.changes.change.isel(band=1).sel(size=5).values).all()


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"ceiling": 1}, r"ceiling=1 takes so many of the training examples that the fit keeps, from 2 to 300"),
        ({"ceiling": 301}, r"from 2 to 300: pass ceiling=\(x, y\)"),
        ({"ceiling": (torch.ones(3, 4), torch.zeros(3).long())}, r"does not take inputs of shape \(4,\)"),
        ({"scores": {"ceiling": None}}, "a score cannot be named 'ceiling', which is exact deletion on other data"),
        ({"scores": {"a": "size"}}, "scores 'size' is unknown: expected one of inclusion, magnitude"),
        ({"scores": {"a": None, "b": {"0.weight": np.ones(3)}}}, "one number for each weight of 0.weight"),
        ({"train": 3, "scores": "deletion"}, "data must be a tuple"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_in_one_sentence(wrong, sentence, digits_network):
    fit, held_out = digits_network
    with pytest.raises(ValueError, match=sentence) as refusal:
        bp.deletion_calibration(fit, held_out, n=5, **wrong)
    assert "\n" not in str(refusal.value)


def test_scores_of_other_groups_are_refused(digits_network):
    fit, held_out = digits_network
    scores = bp.deletion_scores(fit, per="input")
    with pytest.raises(ValueError, match="are per input, not per output: make them with per='output'"):
        bp.deletion_calibration(fit, held_out, per="output", scores=scores)
    part = bp.deletion_scores(fit, per="input", tensors="0.weight")
    with pytest.raises(ValueError, match="say nothing of 2.weight"):
        bp.deletion_calibration(fit, held_out, per="input", scores=part)


def test_the_figure_has_every_score_and_the_ceiling(digits_network, tmp_path):
    fit, held_out = digits_network
    found = bp.deletion_calibration(
        fit, held_out, n=40, scores={"PIP": None, "deletion": "deletion"}, ceiling=fit.examples
    )
    axis = plot_deletion_calibration(found, path=tmp_path / "figure.svg").axes[2]
    assert sorted(axis.get_legend_handles_labels()[1]) == ["PIP", "ceiling", "deletion"]
    for bars, name in zip(axis.containers[1:], ("PIP", "deletion"), strict=True):
        drawn = bars.lines[0].get_xdata()
        np.testing.assert_array_equal(drawn, found.comparison.spearman.sel(predictor=name).values)
    ceiling = found.comparison.sel(predictor="ceiling")
    for bar, low, high in zip(axis.containers[0], ceiling.lower.values, ceiling.upper.values, strict=True):
        assert (bar.get_x(), bar.get_x() + bar.get_width()) == pytest.approx((low, high))


def test_the_page_runs(spike, digits, tmp_path, monkeypatch):
    page = (Path(__file__).resolve().parents[3] / "docs" / "deletion.md").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    data = SimpleNamespace(train=digits["train"], validation=digits["held out"])
    space = {"bp": bp, "fit": spike, "data": data, "mask": torch.eye(12, 64).bool()}
    blocks = re.findall(r"```python\n(.*?)```", page, flags=re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        exec(compile(block.replace("n=784", "n=9").replace("n=200", "n=9"), "docs/deletion.md", "exec"), space)
    assert list(space["first_inputs"].comparison.predictor.values) == [*space["scores"], "ceiling"]
    rows = space["fewer"].masks["fc1.weight"].float().mean(dim=1)
    assert int(((rows > 0) & (rows < 1)).sum()) <= 1  # whole units, but for the last one
