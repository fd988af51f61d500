from __future__ import annotations

import json
import math

import pyro
import pytest
import scipy.special
import scipy.stats
import torch
from torch import nn

from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli, Categorical
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.names import LIKELIHOODS, likelihood_class, likelihood_names
from bayesprune.models.likelihoods.normal import Normal

N = 40


@pytest.fixture(autouse=True)
def _fixed_seed():
    torch.manual_seed(1)


def double(*shape):
    return torch.randn(*shape, dtype=torch.float64)


def cases():
    """Likelihood, outputs, observations, and the log probability by scipy."""
    torch.manual_seed(0)
    logits, labels = 2 * double(N, 5), torch.randint(0, 5, (N,))
    yield (
        "categorical",
        Categorical(),
        logits,
        labels,
        [math.log(row[k]) for row, k in zip(scipy.special.softmax(logits.numpy(), 1), labels.numpy(), strict=True)],
    )
    logs = scipy.special.log_softmax(logits.numpy(), 1)
    smoothed = 0.9 * logs[range(N), labels.numpy()] + 0.1 * logs.mean(1)
    yield "categorical, smoothed", Categorical(label_smoothing=0.1), logits, labels, smoothed
    means, y = double(N), double(N)
    expected = scipy.stats.norm.logpdf(y, means, 0.7)
    yield "normal", Normal(0.7), means, y, expected
    yield "normal, one column", Normal(0.7), means[:, None], y, expected
    learned = Normal().double()
    with torch.no_grad():
        learned.log_scale.fill_(math.log(0.7))
    yield "normal, learned", learned, means, y, expected
    means, y = double(N, 3), double(N, 3)
    yield "normal, three outputs", Normal(1.3), means, y, scipy.stats.norm.logpdf(y, means, 1.3).sum(1)
    logits, y = 3 * double(N), torch.randint(0, 2, (N,))
    expected = scipy.stats.bernoulli.logpmf(y, logits.sigmoid())
    yield "bernoulli, integers", Bernoulli(), logits, y, expected
    yield "bernoulli, booleans", Bernoulli(), logits, y.bool(), expected
    yield "bernoulli, one column", Bernoulli(), logits[:, None], y.double(), expected
    log_rate, y = 1 + double(N), torch.randint(0, 30, (N,))
    expected = scipy.stats.poisson.logpmf(y, log_rate.exp())
    yield "poisson, integers", Poisson(), log_rate, y, expected
    yield "poisson, one column, float32 counts", Poisson(), log_rate[:, None], y.float(), expected


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


@pytest.mark.parametrize(("likelihood", "outputs", "y", "expected"), CASES)
def test_distribution_has_one_batch_dimension_and_works_in_a_plate(likelihood, outputs, y, expected):
    assert likelihood.distribution(outputs).batch_shape == (N,)

    def model(y=None):
        with pyro.plate("data", N):
            return pyro.sample("obs", likelihood.distribution(outputs), obs=y)

    trace = pyro.poutine.trace(model).get_trace(y)
    assert trace.log_prob_sum().item() == pytest.approx(sum(expected), abs=1e-8)
    drawn = model()
    assert drawn.shape == y.shape
    likelihood.check(outputs, drawn)


@pytest.mark.parametrize(("likelihood", "outputs", "y", "expected"), CASES)
def test_prediction_is_the_mean_of_the_distribution(likelihood, outputs, y, expected):
    predicted = likelihood.predict(outputs)
    if likelihood.name == "categorical":
        mean = likelihood.distribution(outputs).probs
    else:
        mean = likelihood.distribution(outputs).mean
    torch.testing.assert_close(predicted, mean)
    scores = likelihood.scores(predicted, y)
    assert all(type(value) is float for value in scores.values())


@pytest.mark.parametrize(("likelihood", "outputs", "y", "expected"), CASES)
def test_gradients_of_fast_path_and_distribution_agree(likelihood, outputs, y, expected):
    leaf = outputs.clone().requires_grad_()
    parameters = [leaf, *likelihood.parameters()]
    fast = torch.autograd.grad(likelihood.log_prob(leaf, y).sum(), parameters)
    slow = torch.autograd.grad(likelihood.distribution(leaf).log_prob(y).sum(), parameters)
    for a, b in zip(fast, slow, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-9)


def test_only_the_learned_scale_is_a_parameter():
    assert [name for name, _ in Normal().named_parameters()] == ["log_scale"]
    assert isinstance(Normal().log_scale, nn.Parameter)
    assert Normal().scale.item() == 1.0
    for likelihood in (Normal(2.0), Categorical(), Bernoulli(), Poisson()):
        assert not list(likelihood.parameters())
        assert not likelihood.state_dict()
    assert Normal(2.0).scale == 2.0


def test_learned_scale_has_its_maximum_at_the_root_mean_square():
    y = 3 * double(200)
    means = torch.zeros_like(y)
    likelihood = Normal().double()
    with torch.no_grad():
        likelihood.log_scale.copy_(y.square().mean().sqrt().log())
    likelihood.log_prob(means, y).sum().backward()
    assert abs(float(likelihood.log_scale.grad)) < 1e-9
    likelihood = Normal().double()
    likelihood.log_prob(means, y).sum().backward()
    assert float(likelihood.log_scale.grad) > 1


def test_scores_by_hand():
    probabilities = torch.tensor([[0.2, 0.8], [0.9, 0.1], [0.4, 0.6]])
    assert Categorical().scores(probabilities, torch.tensor([1, 0, 0])) == {"accuracy": pytest.approx(2 / 3)}
    assert Normal().scores(torch.tensor([1.0, 2.0]), torch.tensor([4.0, 6.0])) == {"rmse": pytest.approx(12.5**0.5)}
    assert Bernoulli().scores(torch.tensor([0.2, 0.7, 0.9]), torch.tensor([0, 1, 0])) == {
        "accuracy": pytest.approx(2 / 3)
    }
    assert Poisson().scores(torch.tensor([1.0, 2.0]), torch.tensor([1, 4])) == {"rmse": pytest.approx(2**0.5)}


@pytest.mark.parametrize("likelihood", [Categorical(), Categorical(0.1), Normal(), Normal(0.5), Bernoulli(), Poisson()])
def test_config_makes_the_same_likelihood_through_json(likelihood):
    config = json.loads(json.dumps(likelihood.config()))
    again = Likelihood.from_config(config)
    assert type(again) is type(likelihood)
    assert again.config() == likelihood.config()
    assert config["name"] == likelihood.name
    again.load_state_dict(likelihood.state_dict())


def test_registry_is_by_name():
    assert {name: likelihood_class(name).name for name in LIKELIHOODS} == {name: name for name in LIKELIHOODS}
    kinds = [kind for kind in subclasses(Likelihood) if kind.__module__.startswith("bayesprune.")]
    assert {kind.name: f"{kind.__module__}:{kind.__name__}" for kind in kinds} == LIKELIHOODS
    assert all(name in likelihood_names() for name in LIKELIHOODS)


def subclasses(kind):
    """All classes derived from one."""
    return [each for direct in kind.__subclasses__() for each in (direct, *subclasses(direct))]


def test_unknown_config_is_refused():
    with pytest.raises(ValueError, match="unknown likelihood 'gamma': expected one of categorical, normal"):
        Likelihood.from_config({"name": "gamma"})
    with pytest.raises(ValueError, match="unknown likelihood None"):
        Likelihood.from_config({})
    with pytest.raises(ValueError, match=r"does not take the arguments \['sd'\]"):
        Likelihood.from_config({"name": "normal", "sd": 1.0})


@pytest.mark.parametrize("scale", [0.0, -1.0, math.nan, math.inf])
def test_scale_that_is_not_positive_and_finite_is_refused(scale):
    with pytest.raises(ValueError, match="positive finite"):
        Normal(scale)


def test_half_precision_outputs_are_widened():
    outputs, y = torch.randn(N, 5).bfloat16(), torch.randint(0, 5, (N,))
    likelihood = Categorical()
    assert likelihood.log_prob(outputs, y).dtype == torch.float32
    assert likelihood.predict(outputs).dtype == torch.float32
    torch.testing.assert_close(likelihood.log_prob(outputs, y), likelihood.distribution(outputs).log_prob(y))


REFUSED = [
    (Categorical(), torch.zeros(3), torch.tensor([0, 1, 1]), r"shape \(3,\), but Categorical needs logits"),
    (Categorical(), torch.zeros(3, 2), torch.tensor([0, 1, 2]), "from 0 to 2, but the network has 2"),
    (Categorical(), torch.zeros(3, 2), torch.tensor([0, -1, 1]), r"from -1 to 1"),
    (Categorical(), torch.zeros(3, 2), torch.zeros(3), "dtype torch.float32"),
    (Categorical(), torch.zeros(3, 2), torch.zeros(3, dtype=torch.bool), "dtype torch.bool"),
    (Categorical(), torch.zeros(3, 2), torch.tensor([[0], [1], [1]]), r"\(3, 1\).*squeeze"),
    (Categorical(), torch.zeros(3, 2), torch.tensor([0, 1]), r"targets of shape \(2,\)"),
    (Categorical(), torch.zeros(0, 2), torch.zeros(0, dtype=torch.int64), "no examples"),
    (Normal(), torch.zeros(3, 2, 2), torch.zeros(3), r"needs means \(N,\) or \(N, d\)"),
    (Normal(), torch.zeros(3, 1), torch.zeros(3, 1), r"\(3, 1\), but \(3,\).*squeeze"),
    (Normal(), torch.zeros(3), torch.zeros(3, 1), "squeeze"),
    (Normal(), torch.zeros(3, 2), torch.zeros(3), "pass 2 targets per example"),
    (Normal(), torch.zeros(3, 10), torch.zeros(3, dtype=torch.int64), "pass 10 targets per example"),
    (Normal(), torch.zeros(3), torch.tensor([0.0, math.nan, math.inf]), r"2 targets are NaN.*index \[1\]"),
    (Normal(), torch.zeros(3), torch.zeros(3, dtype=torch.bool), "dtype torch.bool"),
    (Bernoulli(), torch.zeros(3, 2), torch.zeros(3), r"needs \(N,\) or \(N, 1\)"),
    (Bernoulli(), torch.zeros(3), torch.tensor([0, 1, 2]), "from 0 to 2, but Bernoulli needs 0 or 1"),
    (Bernoulli(), torch.zeros(3), torch.tensor([0.0, 0.5, 1.0]), "needs 0 or 1"),
    (Bernoulli(), torch.zeros(3, 1), torch.zeros(3, 1), "squeeze"),
    (Poisson(), torch.zeros(3), torch.tensor([0, -2, 1]), "smallest count is -2"),
    (Poisson(), torch.zeros(3), torch.tensor([0.0, 0.5, 1.0]), "not whole"),
    (Poisson(), torch.zeros(3), torch.tensor([0.0, math.nan, 1.0]), "1 targets are NaN"),
    (Poisson(), torch.zeros(3), torch.zeros(3, dtype=torch.bool), "dtype torch.bool"),
    (Poisson(), torch.zeros(3, 2), torch.zeros(3), r"needs \(N,\) or \(N, 1\)"),
]


@pytest.mark.parametrize(("likelihood", "outputs", "y", "message"), REFUSED)
def test_check_refuses_in_one_sentence(likelihood, outputs, y, message):
    with pytest.raises(ValueError, match=message) as caught:
        likelihood.check(outputs, y)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("likelihood", [Categorical(), Normal(), Bernoulli(), Poisson()])
def test_scores_refuse_shapes_that_would_broadcast(likelihood):
    prediction = torch.full((4, 2), 0.5) if likelihood.name == "categorical" else torch.full((4,), 0.5)
    with pytest.raises(ValueError, match="squeeze"):
        likelihood.scores(prediction, torch.zeros(4, 1, dtype=torch.int64))


@pytest.mark.parametrize("share", [-0.1, 1.0, 1.5, math.nan])
def test_label_smoothing_is_a_share_of_a_label(share):
    with pytest.raises(ValueError, match=r"Categorical\(label_smoothing=...\) is a share of each label in \[0, 1\)"):
        Categorical(label_smoothing=share)
    with pytest.raises(ValueError, match="does not take the arguments"):
        Likelihood.from_config({"name": "categorical", "label_smoothing": None})


def test_no_smoothing_is_stored_and_computed_as_it_always_was():
    assert Categorical(0.0).config() == {"name": "categorical"}
    outputs, y = double(N, 5), torch.randint(0, 5, (N,))
    assert torch.equal(
        Categorical(0.0).log_prob(outputs, y), -nn.functional.cross_entropy(outputs, y, reduction="none")
    )
    plain = Categorical()
    assert plain.scored is plain and Normal(0.5).scored.scale == 0.5


def test_a_smoothed_likelihood_is_unnormalised_and_scored_by_the_plain_one():
    outputs, y = 2 * double(N, 5), torch.randint(0, 5, (N,))
    smoothed = Categorical(0.1)
    every = torch.stack([smoothed.log_prob(outputs, torch.full((N,), label)).exp() for label in range(5)])
    assert float(every.sum(0).max()) < 0.999
    assert torch.equal(smoothed.scored.log_prob(outputs, y), Categorical().log_prob(outputs, y))
    assert torch.equal(smoothed.predict(outputs), Categorical().predict(outputs))
    assert not torch.allclose(smoothed.log_prob(outputs, y), Categorical().log_prob(outputs, y), atol=1e-2)


def test_expanded_smoothed_labels_are_as_smooth():
    outputs, y = double(N, 5), torch.randint(0, 5, (3, N))
    fn = Categorical(0.2).distribution(outputs)
    torch.testing.assert_close(fn.expand((3, N)).log_prob(y), fn.log_prob(y))
    assert not torch.allclose(fn.log_prob(y), Categorical().distribution(outputs).log_prob(y), atol=1e-2)
