"""`layer_table`: its numbers are those of the fit, one by one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bayesprune as bp
from bayesprune.analysis.tables.layer_table import layer_table

TENSORS = ["fc1.weight", "fc2.weight", "fc3.weight"]
WEIGHTS = [12 * 64, 8 * 12, 10 * 8]


@pytest.fixture(params=["gaussian", "horseshoe", "halo", "spike"])
def fit(request):
    return request.getfixturevalue(request.param)


def test_there_is_a_row_a_tensor_and_a_total(fit):
    rows = layer_table(fit, draws=5).rows
    assert [row["tensor"] for row in rows] == [*TENSORS, "total"]
    assert [row["weights"] for row in rows] == [*WEIGHTS, sum(WEIGHTS)]
    assert rows[0]["shape"] == (12, 64)


def test_sparsity_and_kl_are_those_of_the_last_epoch(fit):
    last = fit.trace.isel(restart=0, epoch=-1)
    rows = layer_table(fit, draws=5).rows
    assert fit.summary()["sparsity"] == pytest.approx(rows[-1]["sparsity"], abs=1e-12)
    for row in rows[:-1]:
        for share in ("sparsity", "near_zero"):
            of_trace = float(last[share].sel(tensor=row["tensor"]))
            found = math.nan if row[share] is None else row[share]
            assert found == pytest.approx(of_trace, abs=1e-6, nan_ok=True)
        assert row["kl"] == pytest.approx(float(last["kl_of"].sel(tensor=row["tensor"])), rel=1e-6)
    assert rows[-1]["sparsity"] == pytest.approx(float(last["network_sparsity"]), abs=1e-6)
    assert rows[-1]["kl"] == pytest.approx(sum(row["kl"] for row in rows[:-1]))


def test_included_is_the_sum_of_the_probabilities(spike):
    probabilities = spike.inclusion_probabilities(1)
    rows = layer_table(spike, restart=1).rows
    for row in rows[:-1]:
        assert row["included"] == pytest.approx(float(probabilities[row["tensor"]].sum()), rel=1e-5)
    assert rows[-1]["included"] == pytest.approx(sum(row["included"] for row in rows[:-1]))
    assert layer_table(spike).rows[0]["included"] != rows[0]["included"]  # control: of that restart


def test_effective_is_that_of_the_fit_with_its_interval(horseshoe):
    expected = horseshoe.effective_parameters(draws=40)
    for row in layer_table(horseshoe, draws=40).rows[:-1]:
        of = expected.sel(tensor=row["tensor"])
        assert (row["effective"], row["effective_lower"], row["effective_upper"]) == pytest.approx(
            (float(of["mean"]), float(of["lower"]), float(of["upper"]))
        )
        assert row["effective_lower"] <= row["effective"] <= row["effective_upper"]


def test_rms_is_that_of_the_weights_at_the_centre(spike):
    (family,) = spike.guide.families
    mean = (family.logit.sigmoid() * family.location).detach().numpy()  # E[z slab]
    expected = [np.sqrt((part**2).mean()) for part in np.split(mean, np.cumsum(WEIGHTS)[:-1])]
    rows = layer_table(spike).rows
    assert [row["rms"] for row in rows[:-1]] == pytest.approx(expected, rel=1e-5)
    assert rows[-1]["rms"] == pytest.approx(np.sqrt((mean**2).mean()), rel=1e-5)


def test_a_map_has_sparsity_only_and_says_by_which_rule(halo):
    table = layer_table(halo)
    assert all(row["included"] is None and row["effective"] is None for row in table.rows)
    weight = halo.guide.means()["fc1.weight"]
    below = (weight.abs() <= 0.1 * weight.square().mean().sqrt()).float().mean()
    assert table.rows[0]["near_zero"] == pytest.approx(float(below), abs=1e-6) and below > 0
    assert table.rows[0]["sparsity"] == halo.summary()["sparsity"] == 0.0  # one word, one number, on one screen
    text = str(table)
    assert "included" not in text.splitlines()[0]
    assert "no inclusion: this fit is a MAP" in text
    assert "share of weights below a tenth of their layer's root mean square" in text
    assert "minus the log prior" in text


def test_counts_of_unlike_events_are_not_added(convolution):
    rows = layer_table(convolution, draws=20).rows
    assert [row["kind"] for row in rows] == ["atom", "shrinkage", None]
    assert all(row["included"] is not None for row in rows[:-1])
    assert rows[-1]["included"] is None and rows[-1]["effective"] is None
    assert rows[-1]["weights"] == rows[0]["weights"] + rows[1]["weights"]


def test_the_printed_table_is_aligned(spike):
    lines = str(layer_table(spike)).splitlines()
    head, rule, *body = lines[:-2]
    assert rule == body[3] == "-" * len(head)
    assert [line.split()[0] for line in (*body[:3], body[4])] == [*TENSORS, "total"]
    assert {len(line) for line in (head, *body[:3], body[4])} == {len(head)}
    assert "12 x 64" in body[0] and "atom" in body[0] and "%" in body[0]


def test_the_table_leaves_the_random_state_alone(spike):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    layer_table(spike)
    assert torch.equal(torch.rand(3), expected)


def test_a_restart_that_is_not_there_is_refused(spike):
    with pytest.raises(ValueError, match="there is no restart 5: this fit has 2, counted from 0"):
        layer_table(spike, restart=5)


def test_learned_thresholds_have_a_column_of_their_own(make_fit, spike):
    by_output = bp.SoftThreshold(g="sigmoid", per="output")
    priors = {"fc1.weight": by_output, "fc2.weight": bp.SoftThreshold(), "fc3.weight": bp.HALO()}
    fit = make_fit(priors, "map", learning_rate=None)
    table = layer_table(fit)
    first, second, third, total = (row["threshold"] for row in table.rows)
    means = fit.guide.means()
    each = np.sort(torch.sigmoid(means["fc1.weight.s"]).flatten().numpy())
    assert first == pytest.approx(each[5])  # the lower one of the two in the middle of twelve
    assert second == pytest.approx(float(torch.exp(means["fc2.weight.s"])))
    assert third is None and total is None
    head, _, *body = str(table).splitlines()
    assert "threshold" in head and f"{second:.3g}" in body[1]
    assert "threshold" not in str(layer_table(spike)).splitlines()[0]  # control
