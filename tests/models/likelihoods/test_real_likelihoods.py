from __future__ import annotations

import json
import math

import pyro
import pytest
import scipy.stats
import torch

from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.likelihoods.real_likelihoods import HeteroscedasticNormal, StudentT

N = 40


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def learned_student():
    made = StudentT(df=None).double()
    with torch.no_grad():
        made.log_scale.fill_(math.log(0.7))
        made.log_excess.fill_(math.log(2.5))
    return made


def cases():
    """Likelihood, outputs, observations, and the log probability by scipy."""
    torch.manual_seed(0)
    means, y = double(N), 3 * double(N)
    yield "student", StudentT(0.7, 3.5), means, y, scipy.stats.t.logpdf(y, 3.5, means, 0.7)
    yield "student, one column", StudentT(0.7), means[:, None], y, scipy.stats.t.logpdf(y, 4.0, means, 0.7)
    yield "student, learned", learned_student(), means, y, scipy.stats.t.logpdf(y, 3.5, means, 0.7)
    means, y = double(N, 3), double(N, 3)
    yield "student, three", StudentT(1.3), means, y, scipy.stats.t.logpdf(y, 4.0, means, 1.3).sum(1)
    means, logs, y = double(N), 0.5 * double(N), double(N)
    both = torch.stack([means, logs], dim=1)
    yield "heteroscedastic", HeteroscedasticNormal(), both, y, scipy.stats.norm.logpdf(y, means, logs.exp())
    means, logs, y = double(N, 3), 0.5 * double(N, 3), double(N, 3)
    both = torch.cat([means, logs], dim=1)
    yield (
        "heteroscedastic, three",
        HeteroscedasticNormal(),
        both,
        y,
        scipy.stats.norm.logpdf(y, means, logs.exp()).sum(1),
    )


CASES = [pytest.param(*values, id=label) for label, *values in cases()]


@pytest.mark.parametrize(("likelihood", "outputs", "y", "expected"), CASES)
def test_log_prob_equals_scipy_and_the_distribution(likelihood, outputs, y, expected):
    expected = torch.tensor(expected, dtype=torch.float64)
    likelihood.check(outputs, y)
    fast = likelihood.log_prob(outputs, y)
    assert fast.shape == (N,)
    torch.testing.assert_close(fast, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(fast, likelihood.distribution(outputs).log_prob(y), rtol=0, atol=1e-9)
    assert not torch.allclose(fast, likelihood.log_prob(outputs, y.flip(0)), atol=1e-3)
    wrong = Normal(0.7).log_prob(outputs[:, : y.shape[1]] if y.ndim == 2 else outputs.reshape(N, -1)[:, 0], y)
    assert not torch.allclose(fast, wrong, atol=1e-3)  # the noise of another family


@pytest.mark.parametrize(("likelihood", "outputs", "y", "expected"), CASES)
def test_distribution_is_a_pyro_site_that_draws_what_it_checks(likelihood, outputs, y, expected):
    def model(y=None):
        with pyro.plate("data", N):
            return pyro.sample("obs", likelihood.distribution(outputs), obs=y)

    assert pyro.poutine.trace(model).get_trace(y).log_prob_sum().item() == pytest.approx(sum(expected), abs=1e-8)
    drawn = model()
    assert drawn.shape == y.shape
    likelihood.check(outputs, drawn)
    torch.testing.assert_close(likelihood.predict(outputs), likelihood.distribution(outputs).mean)


@pytest.mark.parametrize(("likelihood", "outputs", "y", "expected"), CASES)
def test_gradients_of_fast_path_and_distribution_agree(likelihood, outputs, y, expected):
    leaf = outputs.clone().requires_grad_()
    parameters = [leaf, *likelihood.parameters()]
    fast = torch.autograd.grad(likelihood.log_prob(leaf, y).sum(), parameters)
    slow = torch.autograd.grad(likelihood.distribution(leaf).log_prob(y).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        assert bool((a != 0).any())
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


UNITS = (torch.tensor(152.0, dtype=torch.float64), torch.tensor(77.0, dtype=torch.float64))


@pytest.mark.parametrize("likelihood", [Normal(0.5), StudentT(0.5), HeteroscedasticNormal()])
def test_outputs_put_back_have_the_density_of_the_standardised_ones_over_the_unit(likelihood):
    shift, unit = UNITS
    outputs = double(N, likelihood.outputs_for(1))
    standard = double(N)
    there = (
        Normal(0.5 * 77)
        if type(likelihood) is Normal
        else StudentT(0.5 * 77)
        if type(likelihood) is StudentT
        else likelihood
    )
    offset, factor = likelihood.in_units(shift, unit)
    found = there.log_prob(outputs * factor + offset, standard * unit + shift)
    expected = likelihood.log_prob(outputs, standard) - unit.log()
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert not torch.allclose(there.log_prob(outputs * factor, standard * unit + shift), expected, atol=1e-3)


def test_labels_and_counts_have_no_units():
    assert Poisson().in_units(*UNITS) is None
    assert Poisson().learns_noise is False and Normal(2.0).learns_noise is False and Normal().learns_noise is True


@pytest.mark.parametrize("likelihood", [Normal(), StudentT(), StudentT(df=3.0)])
def test_the_noise_begins_with_the_standard_deviation_that_is_asked_for(likelihood):
    likelihood.begin_noise(50.0)
    sd = likelihood.distribution(torch.zeros(1)).variance.sqrt()
    assert sd.item() == pytest.approx(50.0, rel=1e-5)
    likelihood.begin_noise(3.0)  # the control: what was started elsewhere stays
    assert likelihood.distribution(torch.zeros(1)).variance.sqrt().item() == pytest.approx(50.0, rel=1e-5)


@pytest.mark.parametrize("likelihood", [StudentT(), StudentT(2.0, None), learned_student(), HeteroscedasticNormal()])
def test_config_makes_the_same_likelihood_through_json(likelihood):
    config = json.loads(json.dumps(likelihood.config()))
    again = Likelihood.from_config(config)
    assert type(again) is type(likelihood) and again.config() == likelihood.config()
    again.load_state_dict(likelihood.state_dict())
    fixed = Likelihood.from_config(json.loads(json.dumps(likelihood.learned_config())))
    outputs, y = double(5, likelihood.outputs_for(1)), double(5)
    torch.testing.assert_close(
        fixed.log_prob(outputs, y), likelihood.log_prob(outputs, y).detach(), rtol=1e-6, atol=1e-6
    )
    assert not list(fixed.parameters())


def test_outputs_are_asked_for_by_the_number_of_targets():
    assert [kind.outputs_for(3) for kind in (Normal, StudentT, HeteroscedasticNormal)] == [3, 3, 6]


REFUSED = [
    (HeteroscedasticNormal(), torch.zeros(3), torch.zeros(3), r"needs \(N, 2 d\)"),
    (HeteroscedasticNormal(), torch.zeros(3, 3), torch.zeros(3), r"needs \(N, 2 d\)"),
    (HeteroscedasticNormal(), torch.zeros(3, 2), torch.zeros(3, 1), "squeeze"),
    (HeteroscedasticNormal(), torch.zeros(3, 4), torch.zeros(3), r"\(3, 2\) is expected"),
    (HeteroscedasticNormal(), torch.zeros(3, 2), torch.tensor([0.0, math.nan, 1.0]), "1 targets are NaN"),
    (StudentT(), torch.zeros(3, 2, 2), torch.zeros(3), r"StudentT needs means \(N,\) or \(N, d\)"),
    (StudentT(), torch.zeros(3), torch.zeros(3, dtype=torch.bool), "StudentT needs real numbers"),
]


@pytest.mark.parametrize(("likelihood", "outputs", "y", "message"), REFUSED)
def test_check_refuses_in_one_sentence(likelihood, outputs, y, message):
    with pytest.raises(ValueError, match=message) as caught:
        likelihood.check(outputs, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("df", [1.0, 0.5, math.nan, math.inf])
def test_degrees_of_freedom_without_a_mean_are_refused(df):
    with pytest.raises(ValueError, match="df is .* above 1"):
        StudentT(df=df)
