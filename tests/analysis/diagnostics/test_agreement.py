"""Agreement of restarts against distances computed by hand, and on restarts that do or do not agree."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

import bayesprune as bp
from tests.analysis.regressions import data_of, fit_with_guide
from tests.oracles.conjugate_regression import regression

PROBLEM = regression(features=3)


def measures(found):
    return {str(name): found.predictions.sel(measure=name) for name in found.predictions.measure.values}


def test_distances_of_classes_are_those_of_the_formulas(spike, digits):
    x, _ = digits["held out"]
    found = measures(bp.agreement(spike, x, draws=4))
    a, b = (spike.predict(x, 4, restart).draws.double().numpy() for restart in (0, 1))

    def mean_over(distance, pairs):
        return np.mean([[distance(p, q) for p, q in zip(one, other, strict=True)] for one, other in pairs])

    def variation(p, q):
        return 0.5 * np.abs(p - q).sum()

    def differ(p, q):
        return float(p.argmax() != q.argmax())

    for name, distance in {"total variation": variation, "class disagreement": differ}.items():
        rows = found[name]
        assert float(rows.between) == pytest.approx(mean_over(distance, zip(a, b, strict=True)), rel=1e-10)
        shifted = [(one[i], one[(i + 1) % 4]) for one in (a, b) for i in range(4)]
        assert float(rows.within) == pytest.approx(mean_over(distance, shifted), rel=1e-10)
        assert float(rows.averaged) == pytest.approx(mean_over(distance, [(a.mean(0), b.mean(0))]), rel=1e-10)
    assert float(found["total variation"].between) != pytest.approx(float(found["class disagreement"].between))


def test_counts_and_inputs_are_those_of_the_inclusion_probabilities(spike, digits):
    found = bp.agreement(spike, digits["held out"][0], draws=2)
    a, b = (spike.inclusion_probabilities(restart) for restart in (0, 1))
    counts = np.array([float(a["fc2.weight"].sum()), float(b["fc2.weight"].sum())])
    row = found.included.sel(tensor="fc2.weight")
    assert float(row["mean"]) == pytest.approx(counts.mean())
    assert float(row.variation) == pytest.approx(abs(np.diff(counts))[0] / math.sqrt(2) / counts.mean())
    by_input = [one["fc1.weight"].values.mean(axis=0) for one in (a, b)]
    assert found.tensor == "fc1.weight"
    assert found.inputs == pytest.approx(np.corrcoef(*by_input)[0, 1])
    assert found.inputs != pytest.approx(bp.agreement(spike, digits["held out"][0], 2, "fc2.weight").inputs)
    assert "fc1.weight: correlation" in str(found)


def test_kernels_are_compared_by_channel(convolution, make_fit):
    assert math.isnan(bp.agreement(convolution, torch.zeros(3, 64)).inputs)  # a single restart
    two = bp.Fit([convolution.restarts[0]] * 2, convolution.trace, convolution.settings)
    assert math.isnan(bp.agreement(two, torch.zeros(3, 64), draws=2).inputs)  # one input channel has no correlation


def two_restarts(shift):
    """Exact posteriors, the second one's mean moved by this many of its sd's."""
    fit = fit_with_guide(PROBLEM, restarts=2)
    with torch.no_grad():
        fit.restarts[1].guide.families[0].location.add_(torch.as_tensor(shift * PROBLEM.meanfield_sd))
    return fit


def test_two_draws_of_one_posterior_agree_and_of_two_do_not():
    x, _ = data_of(PROBLEM)
    same, apart = (bp.agreement(two_restarts(shift), x, draws=200) for shift in (0.0, 10.0))
    assert (same.verdict, apart.verdict) == ("agree", "do not agree")
    row = measures(same)["absolute difference"]
    assert float(row.between / row.within) == pytest.approx(1.0, abs=0.1)
    assert float(row.averaged) < 0.3 * float(row.within)
    assert apart.reason.startswith("absolute difference between draws of different restarts is")
    assert str(apart).splitlines()[1].split() == ["2", "restarts", "between", "within", "averaged"]


def test_one_restart_one_draw_and_constant_draws_cannot_tell(halo):
    x, _ = data_of(PROBLEM)
    one = bp.agreement(fit_with_guide(PROBLEM), x)
    assert one.verdict == "cannot tell" and one.reason.startswith("one restart has nothing to agree with")
    assert str(one) == f"cannot tell: {one.reason}"
    assert (
        bp.agreement(two_restarts(10.0), x, draws=1).reason == "one draw of each restart has no spread to compare with."
    )
    points = bp.Fit(halo.restarts * 2, halo.trace, halo.settings)
    still = bp.agreement(points, torch.zeros(3, 64))
    assert (still.verdict, still.reason) == ("cannot tell", "draws that are all alike have no spread to compare with.")
    assert still.included.sizes == {}


def test_labels_of_two_kinds_are_compared_by_their_probability():
    torch.manual_seed(0)
    x, y = torch.randn(30, 3), torch.randint(2, (30,))
    bnn = bp.BayesianNetwork(torch.nn.Linear(3, 1), {"weight": bp.Gaussian(1.0)}, bp.Bernoulli(), 30)
    found = bp.agreement(bp.fit(bnn, (x, y), "meanfield", steps=2, restarts=2), x, draws=3)
    assert list(measures(found)) == ["total variation", "class disagreement"]
    assert 0 < float(measures(found)["total variation"].between) < 1


def test_an_unknown_tensor_is_refused(spike, digits):
    with pytest.raises(ValueError, match="there is no tensor 'fc9.weight' with a prior: name one of fc1.weight"):
        bp.agreement(spike, digits["held out"][0], tensor="fc9.weight")
