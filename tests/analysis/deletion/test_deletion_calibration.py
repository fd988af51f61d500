"""`deletion_calibration`: its changes are closed forms, its sample covers the scores, the fit stays as it was."""

from __future__ import annotations

import functools
import itertools

import matplotlib
import numpy as np
import pyro.distributions as dist
import pytest
import torch
from scipy import stats
from torch import nn

import bayesprune as bp
import bayesprune.analysis.deletion.deletion_calibration as calibration
from bayesprune.analysis.deletion.deletions import entries
from bayesprune.analysis.plots.deletion_calibration import plot_deletion_calibration

deletion_calibration = functools.partial(calibration.deletion_calibration, base="included")

NOISE = 0.7


def fitted(network, priors, likelihood, data, **settings):
    bnn = bp.BayesianNetwork(network, priors, likelihood, data_size=len(data[0]))
    settings = {"batch_size": 64, "learning_rate": 1e-2, "execution": "plain", "seed": 0} | settings
    return bp.fit(bnn, data, **settings)


@pytest.fixture(scope="module")
def regression():
    """Linear regression of two numbers on seven, gates on tiles of 2 x 3 weights (the last narrower), in float64."""
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    x = torch.randn(400, 7, generator=generator, dtype=torch.float64)
    weight = torch.tensor([[1.0, -0.5, 0.2, 0.0, 0.0, 0.0, 0.3], [0.0, 0.4, -1.0, 0.0, 0.0, 0.0, -0.2]]).double()
    y = x @ weight.T + 0.5 + NOISE * torch.randn(400, 2, generator=generator, dtype=torch.float64)
    prior = bp.SpikeAndSlab(0.3, slab_sd=1.0, level="block", block=(1, 3))
    network = nn.Linear(7, 2).double()
    fit = fitted(network, {"weight": prior}, bp.Normal(NOISE), (x[:200], y[:200]), epochs=20, precision="float64")
    return fit, (x[200:], y[200:])


@pytest.fixture(scope="module")
def planted():
    """A network of which only 6 of 16 inputs matter."""
    generator = torch.Generator().manual_seed(1)

    def make(count):
        x = torch.randn(count, 16, generator=generator)
        mean = torch.tanh(1.5 * x[:, 0]) + 0.8 * x[:, 1] + 0.5 * x[:, 2] - 0.6 * x[:, 3] + 0.4 * x[:, 4] + 0.3 * x[:, 5]
        return x, mean + 0.1 * torch.randn(count, generator=generator)

    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(16, 10), nn.Tanh(), nn.Linear(10, 1))
    priors = {"0.weight": bp.SpikeAndSlab(0.3, slab_sd=0.5), "2.weight": bp.SpikeAndSlab(0.5, slab_sd=1.0)}
    return fitted(network, priors, bp.Normal(0.1), make(300), epochs=100, kl_weight=1, kl_warmup=0.2), make(400)


def differences(fit, data, mask, weight):
    """Closed form: deleting adds d = x (mask weight) to the residual r, and (2 r d + d^2) / (2 noise^2) to the loss."""
    x, y = (part.numpy() for part in data)
    bias = fit.model.network.bias.detach().numpy()
    r = y - x @ weight.T - bias
    d = x @ (mask * weight).T
    return (2 * r * d + d**2) / (2 * NOISE**2)


def mask_of(index, shape):
    mask = np.zeros(shape)
    mask[eval(f"np.s_[{index}]")] = 1.0
    return mask


# ---------------------------------------------------------------------------------------------- what is measured


@pytest.mark.parametrize("per", ["weight", "output", "input", "kernel", "gate"])
def test_changes_and_their_errors_are_the_closed_form_of_linear_regression(per, regression):
    fit, held_out = regression
    found = deletion_calibration(fit, held_out, per=per)
    weight = fit.included_weights()["weight"].numpy()
    table = found.deletions
    assert table.sizes["deletion"] == {"weight": 14, "kernel": 14, "output": 2, "input": 7, "gate": 6}[per]
    for number in range(table.sizes["deletion"]):
        row = table.isel(deletion=number)
        mask = mask_of(str(row["index"].values), weight.shape)
        assert int(row.weights) == mask.sum()
        expected = differences(fit, held_out, mask, weight).sum(axis=1)
        np.testing.assert_allclose(float(row.change), expected.mean(), rtol=0, atol=1e-9)
        error = np.sqrt(((expected - expected.mean()) ** 2).sum() / 199 / 200)
        np.testing.assert_allclose(float(row.error), error, rtol=0, atol=1e-9)
        assert bool(row.harmful) == (expected.mean() > 2 * error)
        # Controls: the network averaged over the gates, and the deletion of a neighbour, are something else.
        averaged = weight * fit.inclusion_probabilities()["weight"].values
        assert abs(differences(fit, held_out, mask, averaged).sum(axis=1).mean() - float(row.change)) > 1e-8
        rolled = differences(fit, held_out, np.roll(mask, 1, axis=int(per == "input")), weight).sum(axis=1).mean()
        assert abs(rolled - float(row.change)) > 1e-8  # ten times what is allowed above
    assert 0 < table.harmful.sum() <= table.sizes["deletion"]


def test_every_weight_is_deleted_once_and_the_loss_is_that_of_the_base_network(regression):
    fit, (x, y) = regression
    found = deletion_calibration(fit, (x, y))
    masks = sum(mask_of(str(index), (2, 7)) for index in found.deletions["index"].values)
    assert (masks == 1).all()
    means = x @ fit.included_weights()["weight"].T + fit.model.network.bias
    expected = -torch.distributions.Normal(means.detach(), NOISE).log_prob(y).sum(dim=1).mean()
    assert found.loss == pytest.approx(float(expected), abs=1e-9)
    assert found.examples == 200


def test_batches_do_not_matter_and_float32_is_near_float64(regression):
    fit, held_out = regression
    changes = [
        deletion_calibration(fit, held_out, batch_size=size, precision=precision).deletions.change.values
        for size, precision in ((1024, "float64"), (7, "float64"), (1024, "float32"))
    ]
    np.testing.assert_allclose(changes[1], changes[0], rtol=0, atol=1e-12)
    np.testing.assert_allclose(changes[2], changes[0], rtol=0, atol=1e-4)
    assert not np.allclose(changes[2], changes[0], rtol=0, atol=1e-12)


def test_the_score_of_a_gate_is_its_probability_and_of_a_group_the_mean(regression):
    fit, held_out = regression
    probabilities = fit.inclusion_probabilities()["weight"].values.astype(float)
    gates = deletion_calibration(fit, held_out, per="gate").deletions
    assert gates["index"].values.tolist() == ["0, 0:3", "0, 3:6", "0, 6", "1, 0:3", "1, 3:6", "1, 6"]
    assert gates.score.values.tolist() == probabilities[:, [0, 3, 6]].ravel().tolist()
    inputs = deletion_calibration(fit, held_out, per="input").deletions
    np.testing.assert_allclose(inputs.score.values, probabilities.mean(axis=0), rtol=1e-12)
    assert len(set(gates.score.values)) > 1  # else the mean would be the gate's


def test_an_index_is_written_only_where_it_is_that_of_the_mask():
    mask = np.zeros((3, 4), dtype=bool)
    mask[1:, 2] = True
    assert entries(mask) == "1:3, 2"
    mask[1, 2], mask[0, 2] = False, True
    assert entries(mask) == "2 weights"  # rows 0 and 2: 0:3 would be three
    mask[0, 2], mask[0, 1] = False, True
    assert entries(mask) == "2 weights"  # a diagonal


def test_scores_stand_in_for_probabilities(regression):
    fit, held_out = regression
    magnitude = fit.included_weights()["weight"].abs()
    for scores, words in (("magnitude", "magnitude"), ({"weight": magnitude}, "given scores")):
        found = deletion_calibration(fit, held_out, scores=scores)
        assert found.deletions.score.values.tolist() == magnitude.flatten().tolist()
        assert (found.score, found.kind) == (words, None)
    found = deletion_calibration(fit, held_out)
    assert (found.score, found.kind) == ("inclusion probability (atom)", "atom")
    assert found.deletions.score.values.tolist() != magnitude.flatten().tolist()


# ------------------------------------------------------------------------------------------------- the sample


def skewed(shape, high):
    """Scores near 0.1 but for `high` of them spread over (0.1, 1]."""
    rng = np.random.default_rng(5)
    flat = 0.1 + 0.001 * rng.random(int(np.prod(shape)))
    flat[rng.choice(len(flat), high, replace=False)] = np.linspace(0.15, 1.0, high)
    return flat.reshape(shape)


def test_the_sample_covers_the_range_and_the_quantiles_of_the_scores_in_every_layer(spike, digits):
    shapes = {"fc1.weight": (12, 64), "fc2.weight": (8, 12), "fc3.weight": (10, 8)}
    scores = {name: skewed(shape, 12) for name, shape in shapes.items()}
    found = deletion_calibration(spike, digits["held out"], n=120, scores=scores).deletions
    for name in shapes:
        table = found.isel(deletion=found.tensor.values == name)
        assert table.sizes["deletion"] == 40
        assert len(set(table.group.values)) == 40
        np.testing.assert_array_equal(table.score.values, scores[name].ravel()[table.group.values])
        edges = np.linspace(scores[name].min(), scores[name].max(), 11)
        populated, sampled = (np.histogram(s, edges)[0] > 0 for s in (scores[name], table.score.values))
        assert populated.all() and sampled.all()
        ranks = np.sort(stats.rankdata(scores[name].ravel(), "ordinal")[table.group.values])
        gaps = np.diff([0, *ranks, scores[name].size + 1])
        assert gaps.max() <= 2 * np.ceil(scores[name].size / 20)  # one from each of 20 quantiles
        # Control: a plain random sample of that size misses a part of the range, as the high scores are few.
    plain = np.random.default_rng(0).choice(scores["fc1.weight"].ravel(), 40, replace=False)
    assert (np.histogram(plain, np.linspace(0.1, 1.0, 11))[0] == 0).any()


def test_small_layers_leave_their_share_to_the_others(spike, digits):
    table = deletion_calibration(spike, digits["held out"], n=29, per="output", scores="magnitude").deletions
    tensors = table.tensor.values.tolist()
    assert [tensors.count(name) for name in ("fc1.weight", "fc2.weight", "fc3.weight")] in ([11, 8, 10], [12, 8, 9])
    assert deletion_calibration(spike, digits["held out"], n=99, per="output").deletions.sizes["deletion"] == 30
    assert deletion_calibration(spike, digits["held out"], n=1).deletions.sizes["deletion"] == 1
    only = deletion_calibration(spike, digits["held out"], n=7, tensors="fc2.weight")
    assert set(only.deletions.tensor.values) == {"fc2.weight"}
    assert only.correlation.layer.values.tolist() == ["all", "fc2.weight"]


def test_the_same_seed_deletes_the_same(spike, digits):
    first, same, other = (deletion_calibration(spike, digits["held out"], n=30, seed=seed) for seed in (4, 4, 5))
    assert first.deletions.identical(same.deletions) and first.correlation.identical(same.correlation)
    assert first.curve.identical(same.curve)
    assert not first.deletions.identical(other.deletions)


@pytest.mark.parametrize("restart", [0, 1])
def test_the_network_and_the_probabilities_are_those_of_the_restart(restart, spike, digits):
    x, y = digits["held out"]
    found = deletion_calibration(spike, (x, y), n=20, restart=restart)

    def loss(weights_of, point_estimates_of):
        network = spike.restarts[point_estimates_of].model.network
        with torch.no_grad():
            outputs = torch.func.functional_call(network, spike.included_weights(weights_of), (x,))
        return float(nn.functional.cross_entropy(outputs, y))

    assert found.loss == pytest.approx(loss(restart, restart), abs=1e-5)
    for wrong in ((1 - restart, restart), (restart, 1 - restart)):
        assert found.loss != pytest.approx(loss(*wrong), abs=1e-5)
    for number in range(20):
        row = found.deletions.isel(deletion=number)
        probabilities = spike.inclusion_probabilities(restart)[str(row.tensor.values)].values
        assert float(row.score) == probabilities.ravel()[int(row.group)]


@pytest.mark.parametrize("per", ["weight", "gate"])
def test_nothing_of_the_fit_and_no_random_state_is_changed(per, spike, digits):
    one = spike.restarts[0]
    modules = [one.model, one.guide]
    before = [{key: value.clone() for key, value in module.state_dict().items()} for module in modules]
    one.model.network.train()
    torch.manual_seed(5)
    np.random.seed(5)
    expected = torch.rand(3), np.random.rand(3)
    torch.manual_seed(5)
    np.random.seed(5)
    deletion_calibration(spike, digits["held out"], n=20, per=per)
    assert torch.equal(torch.rand(3), expected[0]) and (np.random.rand(3) == expected[1]).all()
    assert one.model.network.training
    for module, state in zip(modules, before, strict=True):
        assert all(torch.equal(value, state[key]) for key, value in module.state_dict().items())
        assert all(value.dtype == state[key].dtype for key, value in module.state_dict().items())


# ------------------------------------------------------------------------------------------------- the summaries


def test_rank_correlations_are_scipys_and_areas_those_of_all_pairs(planted):
    fit, held_out = planted
    found = deletion_calibration(fit, held_out, n=80)
    for layer in found.correlation.layer.values:
        row = found.correlation.sel(layer=layer)
        chosen = found.deletions.tensor.values == layer if layer != "all" else slice(None)
        score, change, harmful = (found.deletions[key].values[chosen] for key in ("score", "change", "harmful"))
        assert float(row.spearman) == pytest.approx(stats.spearmanr(score, change).statistic, abs=1e-12)
        assert float(row.spearman) != pytest.approx(stats.pearsonr(score, change).statistic, abs=1e-3)
        assert (int(row.deletions), int(row.harmful)) == (len(score), harmful.sum())
        pairs = list(itertools.product(score[harmful], score[~harmful]))
        area = np.mean([(a > b) + 0.5 * (a == b) for a, b in pairs]) if pairs else np.nan
        assert float(row.auc) == pytest.approx(area, abs=1e-12, nan_ok=True)
        assert float(row.lower) < float(row.spearman) < float(row.upper)


def test_a_probability_predicts_the_harm_in_a_planted_network_and_a_permuted_one_does_not(planted):
    fit, held_out = planted
    found = deletion_calibration(fit, held_out, n=170)
    assert found.deletions.sizes["deletion"] == 170  # all there are, so the permutations only change the scores
    assert float(found.correlation.spearman.sel(layer="0.weight")) > 0.5
    assert float(found.correlation.lower.sel(layer="0.weight")) > 0.4
    assert float(found.correlation.auc.sel(layer="0.weight")) > 0.75
    inputs = deletion_calibration(fit, held_out, per="input", tensors="0.weight")
    matter = inputs.deletions.isel(deletion=slice(0, 6))
    assert matter.harmful.all() and not inputs.deletions.isel(deletion=slice(6, None)).harmful.any()
    rng = np.random.default_rng(0)
    probabilities = fit.inclusion_probabilities()
    for _ in range(3):
        permuted = {str(name): rng.permutation(p.values.ravel()).reshape(p.shape) for name, p in probabilities.items()}
        control = deletion_calibration(fit, held_out, n=170, scores=permuted).correlation.sel(layer="0.weight")
        # 160 weights: a standard deviation of 0.08. The interval is as wide as that, and reaches below 0.3.
        assert abs(float(control.spearman)) < 0.3 and abs(float(control.auc) - 0.5) < 0.2
        assert 0.15 < float(control.upper - control.lower) < 0.4


def test_the_reliability_curve_is_that_of_its_bins(planted):
    fit, held_out = planted
    found = deletion_calibration(fit, held_out, n=170, bins=4, threshold=3.0, probability=0.8)
    score, change = found.deletions.score.values, found.deletions.change.values
    harmful = change > 3.0 * found.deletions.error.values
    assert (harmful == found.deletions.harmful.values).all()
    assert (found.curve["count"].values > 0).all() and int(found.curve["count"].sum()) == 170
    for number in range(found.curve.sizes["bin"]):
        row = found.curve.isel(bin=number)
        at = (score >= float(row.lower)) & ((score < float(row.upper)) | (float(row.upper) == 1.0))
        hits, count = int(harmful[at].sum()), int(at.sum())
        assert int(row["count"]) == count
        assert float(row.share) == hits / count
        assert float(row.score) == pytest.approx(score[at].mean())
        assert float(row.change) == pytest.approx(change[at].mean())
        low, high = stats.beta(hits + 0.5, count - hits + 0.5).interval(0.8)
        assert float(row.share_lower) == pytest.approx(low if hits else 0.0)
        assert float(row.share_upper) == pytest.approx(high if hits < count else 1.0)
        assert float(row.change_lower) <= float(row.change) <= float(row.change_upper)
    by_size = deletion_calibration(fit, held_out, n=100, bins=5, scores="magnitude").curve
    assert by_size["count"].values.tolist() == [20] * 5


def test_one_score_for_all_gives_one_bin_and_no_correlation(regression):
    fit, held_out = regression
    found = deletion_calibration(fit, held_out, scores={"weight": np.ones((2, 7))})
    assert found.curve.sizes["bin"] == 1 and np.isnan(found.correlation.spearman.values).all()
    assert np.isnan(found.correlation.lower.values).all()
    assert "nan" in str(found)


def test_it_prints_a_row_a_layer(planted):
    fit, held_out = planted
    lines = str(deletion_calibration(fit, held_out, n=40)).splitlines()
    assert lines[0].startswith("40 deletions, one weight each, by inclusion probability (atom): ")
    assert [line.split()[0] for line in lines[2:]] == ["all", "0.weight", "2.weight"]


def test_shrinkage_events_and_convolutions_work(horseshoe, convolution, digits):
    found = deletion_calibration(horseshoe, digits["held out"], n=20)
    assert found.kind == horseshoe.inclusion_probabilities()["fc1.weight"].attrs["kind"] != "atom"
    filters = deletion_calibration(convolution, digits["held out"], per="output", tensors="1.weight")
    assert filters.deletions["index"].values.tolist() == [f"{number}, 0, :, :" for number in range(5)]


# ------------------------------------------------------------------------------------------------- refusals


def test_a_map_is_compared_by_magnitude_only(halo, digits):
    assert deletion_calibration(halo, digits["held out"], n=5, scores="magnitude").kind is None
    with pytest.raises(ValueError, match="this fit is a MAP"):
        deletion_calibration(halo, digits["held out"], n=5)


def test_events_of_unlike_kinds_are_not_ranked_together(convolution, digits):
    with pytest.raises(ValueError, match=r"unlike kinds \(atom, shrinkage\).*name tensors of one kind by tensors="):
        deletion_calibration(convolution, digits["held out"])
    assert deletion_calibration(convolution, digits["held out"], n=5, tensors=["4.weight"]).kind == "shrinkage"


def test_a_prior_without_an_event_is_refused(digits, make_fit):
    fit = make_fit({"fc1.weight": bp.Hierarchy(weight=dist.Normal(0.0, 0.3))}, "meanfield", epochs=1)
    with pytest.raises(ValueError, match="declares no inclusion event"):
        deletion_calibration(fit, digits["held out"])


@pytest.mark.parametrize(
    ("wrong", "sentence"),
    [
        ({"n": 0}, "n must be at least 1, not 0"),
        ({"bins": 0}, "bins must be at least 1, not 0"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"threshold": -1.0}, "threshold is a number of standard errors of at least 0, not -1.0"),
        ({"probability": 1.0}, "probability is that of an interval, strictly between 0 and 1, not 1.0"),
        ({"per": "unit"}, "per= takes one of weight, output, input, kernel, gate, not 'unit'"),
        ({"precision": "bfloat16"}, "precision 'bfloat16' is unknown: expected one of float64, float32"),
        ({"restart": 7}, "there is no restart 7"),
        ({"tensors": "fc9.weight"}, "there is no tensor 'fc9.weight' with a prior: name some of fc1.weight, "),
        ({"tensors": []}, "there is nothing to delete from in an empty tensors=: name some of fc1.weight"),
        ({"scores": "size"}, "scores 'size' is unknown: expected one of inclusion, magnitude, signal-to-noise"),
        ({"scores": {}}, r"one number for each weight of fc1.weight, shape \(12, 64\)"),
        ({"scores": {"fc1.weight": np.full((12, 64), np.nan)}}, "scores of fc1.weight are not all finite"),
        ({"data": torch.ones(3, 64)}, r"data must be a pair of tensors \(x, y\)"),
        ({"data": (torch.ones(3, 64), torch.zeros(2).long())}, "3 inputs and 2 targets"),
        ({"data": (torch.ones(3, 5), torch.zeros(3).long())}, r"does not take inputs of shape \(5,\)"),
        ({"data": (torch.ones(3, 64), torch.full((3,), 10))}, "labels must lie in 0..9"),
        ({"data": (torch.ones(1, 64), torch.zeros(1).long())}, "needs 2 held-out examples at least, not 1"),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else "",
)
def test_bad_input_is_refused_in_one_sentence(wrong, sentence, spike, digits):
    arguments = {"data": digits["held out"], **wrong}
    with pytest.raises(ValueError, match=sentence) as refusal:
        deletion_calibration(spike, **arguments)
    assert "\n" not in str(refusal.value)


def test_gates_are_asked_of_priors_that_have_them(horseshoe, digits):
    with pytest.raises(ValueError, match="the prior on fc1.weight has no gate: use per='weight'"):
        deletion_calibration(horseshoe, digits["held out"], per="gate")


# ------------------------------------------------------------------------------------------------- the figure


def test_the_figure_shows_the_numbers_and_says_what_its_axes_are(planted, tmp_path):
    fit, held_out = planted
    found = deletion_calibration(fit, held_out, n=60)
    before = dict(matplotlib.rcParams)
    figure = plot_deletion_calibration(found, path=tmp_path / "figure.svg")
    assert dict(matplotlib.rcParams) == before
    assert b"share of harmful deletions" in (tmp_path / "figure.svg").read_bytes()
    reliability, changes, correlations = figure.axes
    assert "60 deletions of one weight each" in figure.get_suptitle()
    for axis in (reliability, changes):
        assert axis.get_xlabel() == "inclusion probability (atom)"
    assert changes.get_ylabel() == "change of loss [nats per example]"
    assert correlations.get_xlabel() == "rank correlation with change of loss"
    assert reliability.containers[0].lines[0].get_ydata().tolist() == found.curve.share.values.tolist()
    drawn = np.concatenate([line.get_ydata() for line in changes.lines[:2]])
    assert drawn.tolist() == found.deletions.change.values.tolist()
    low, high = changes.get_ylim()
    assert low <= drawn.min() and drawn.max() <= high
    assert [label.get_text() for label in correlations.get_yticklabels()] == ["all", "0.weight", "2.weight"]
    dots = correlations.containers[0].lines[0].get_xdata()
    assert dots.tolist() == found.correlation.spearman.values.tolist()


def test_other_scores_get_no_line_of_equal_share_and_probability(planted, tmp_path):
    fit, held_out = planted
    labels = [
        plot_deletion_calibration(deletion_calibration(fit, held_out, n=20, scores=scores))
        .axes[0].get_legend_handles_labels()[1]
        for scores in (None, "magnitude")
    ]  # fmt: skip
    assert "share = probability" in labels[0] and "share = probability" not in labels[1]
    with pytest.raises(ValueError, match="has no format"):
        plot_deletion_calibration(None, path=tmp_path / "figure.bmp")


def test_scores_without_any_spread_can_be_drawn(regression, tmp_path):
    fit, held_out = regression
    found = deletion_calibration(fit, held_out, scores={"weight": np.ones((2, 7))})
    plot_deletion_calibration(found, path=tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")


def test_the_base_network_has_gates_at_their_probabilities_or_open():
    torch.manual_seed(0)
    x, y = torch.randn(60, 4), torch.randn(60)
    model = bp.BayesianNetwork(nn.Linear(4, 1), {"weight": bp.SpikeAndSlab(0.3)}, bp.Normal(scale=1.0), data_size=60)
    fit = bp.fit(model, (x, y), epochs=60, batch_size=60, learning_rate=0.05)
    included, probability = fit.included_weights()["weight"], fit.inclusion_probabilities()["weight"].values
    probability = torch.as_tensor(probability, dtype=x.dtype)
    bases = {"included": included, "mean": included * probability, "median": included * (probability > 0.5)}
    assert len({float(weight.abs().sum().detach()) for weight in bases.values()}) == 3
    for base, weight in bases.items():
        found = calibration.deletion_calibration(fit, (x, y), n=4, base=base)
        outputs = nn.functional.linear(x, weight, fit.model.network.bias.detach())
        losses = -fit.model.likelihood.log_prob(outputs, y)
        assert abs(found.loss - float(losses.mean())) < 1e-5
    with pytest.raises(ValueError, match="base= takes one of mean, included, median, not 'mode'"):
        calibration.deletion_calibration(fit, (x, y), base="mode")


def test_several_fits_are_drawn_side_by_side(planted, tmp_path):
    fit, held_out = planted
    found = {
        "PIP": deletion_calibration(fit, held_out, n=40),
        "magnitude": deletion_calibration(fit, held_out, n=40, scores="magnitude"),
    }
    figure = plot_deletion_calibration(found, path=tmp_path / "both.svg")
    first, second, correlations = figure.axes
    for axis, one in ((first, found["PIP"]), (second, found["magnitude"])):
        assert axis.containers[0].lines[0].get_ydata().tolist() == one.curve.share.values.tolist()
    assert [label.get_text() for label in correlations.get_yticklabels()] == ["a", "b"]
    assert [axis.get_title(loc="left").split("\n")[0] for axis in (first, second)] == ["a  PIP", "b  magnitude"]
    drawn = {float(bars.lines[0].get_xdata()[0]) for bars in correlations.containers}
    assert drawn == {float(value) for one in found.values() for value in one.correlation.spearman.values}
    assert correlations.get_legend_handles_labels()[1] == ["all", "0.weight", "2.weight"]
    with pytest.raises(ValueError, match="no calibration to draw"):
        plot_deletion_calibration({})
