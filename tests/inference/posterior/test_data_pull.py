"""What the data say of a weight, read off the guide: exact in conjugate models, and what it is for in networks."""

from __future__ import annotations

import math

import numpy as np
import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.guides.families import NormalFamily
from bayesprune.inference.inclusion.events import stated_event
from bayesprune.inference.posterior.data_pull import DataPull, data_pulls, factor_by_posterior, information
from bayesprune.inference.posterior.shrinkage import shrinkage_factor, shrinkage_form
from bayesprune.models.priors.ready import from_config, make_prior

SIZE, NOISE = 40, 0.7
TRUE = torch.tensor([1.5, -0.4, 0.0, 0.8], dtype=torch.float64)
SCALE = torch.tensor([[0.9, 0.3, 0.5, 2.0]], dtype=torch.float64)


def orthogonal():
    """Inputs whose columns are orthogonal, so that the mean-field posterior is the exact one, and targets."""
    generator = torch.Generator().manual_seed(3)
    columns = torch.linalg.qr(torch.randn(SIZE, 4, generator=generator, dtype=torch.float64))[0]
    x = columns * torch.tensor([9.0, 3.0, 1.0, 0.2], dtype=torch.float64)
    return x, x @ TRUE + NOISE * torch.randn(SIZE, generator=generator, dtype=torch.float64)


def conjugate(centred, weight=None):
    """A fit of a linear regression in float64 whose scales are points and whose guide is the exact posterior."""
    x, y = orthogonal()
    scale = bp.Latent(dist.HalfCauchy(1.0), "weight", guide="delta")
    if centred:
        prior = bp.Hierarchy(s=scale, weight=weight or (lambda s: dist.Normal(0.0, s)), included=bp.shrinkage_below())
    else:
        z = bp.Latent(dist.Normal(0.0, 1.0), "weight")
        prior = bp.Hierarchy(s=scale, z=z, weight=lambda s, z: s * z, included=bp.shrinkage_below())
    network = nn.Sequential(nn.Linear(4, 1, bias=False))
    bnn = bp.BayesianNetwork(network, {"0.weight": prior}, bp.Normal(NOISE), SIZE)
    fit = bp.fit(bnn, (x, y), "meanfield", steps=1, precision="float64", device="cpu", kl_warmup=0.0, kl_weight=1.0)
    precision = x.square().sum(0)[None] / NOISE**2
    variance = 1.0 / (precision + SCALE**-2)
    mean = variance * (x * y[:, None]).sum(0) / NOISE**2
    unit = 1.0 if centred else SCALE
    with torch.no_grad():
        for family in fit.guide.families:
            if isinstance(family, NormalFamily):
                family.location.copy_((mean / unit).flatten())
                family.log_scale.copy_((variance.sqrt() / unit).log().flatten())
            else:
                family.location.copy_(SCALE.log().flatten())
    return fit, precision, mean, variance


@pytest.mark.parametrize("centred", [True, False])
def test_in_a_conjugate_model_precision_and_factors_are_the_closed_forms(centred):
    fit, precision, mean, variance = conjugate(centred)
    one, prior = fit.restarts[0], fit.model.priors["0.weight"]
    found = data_pulls(one, [prior])["0.weight"]
    x, y = orthogonal()
    torch.testing.assert_close(found.precision, precision, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(found.pull, (x.T @ y)[None] / NOISE**2, rtol=1e-9, atol=1e-9)
    # The textbook's kappa from the Fisher information of one datum, and from the guide.
    kappa = shrinkage_factor(precision / SIZE, SCALE, SIZE)
    torch.testing.assert_close(1.0 / (1.0 + found.precision * SCALE**2), kappa, rtol=1e-9, atol=0.0)
    # I is the divergence of the posterior from the prior.
    normal = torch.distributions.Normal
    nats = torch.distributions.kl_divergence(normal(mean, variance.sqrt()), normal(0.0, SCALE))
    torch.testing.assert_close(information(found, SCALE), nats, rtol=1e-9, atol=1e-12)
    # What a fit says is that, by the event's name.
    prior.hierarchy.included = bp.shrinkage_below(0.5, by="posterior")
    said = fit.shrinkage_factors()["0.weight"]
    assert said.attrs["by"] == "posterior"
    np.testing.assert_allclose(said.values, torch.exp(-2.0 * nats).numpy(), rtol=2e-5)  # means are kept in float32
    probabilities = fit.inclusion_probabilities()["0.weight"]
    assert probabilities.values.tolist() == (nats > 0.5 * math.log(2.0)).double().tolist()
    assert 0.0 < probabilities.values.mean() < 1.0 and "by the posterior" in probabilities.attrs["event"]
    effective = float(fit.effective_parameters()["mean"][0])
    assert effective == pytest.approx(float((1.0 - torch.exp(-2.0 * nats)).sum()), rel=1e-6)
    # A guide that is a tenth too wide has seen other data.
    with torch.no_grad():
        next(f for f in fit.guide.families if isinstance(f, NormalFamily)).log_scale.add_(0.1)
    wrong = data_pulls(one, [prior])["0.weight"].precision
    assert float(((wrong - precision) / precision).abs().min()) > 0.1
    assert not np.allclose(fit.shrinkage_factors()["0.weight"].values, said.values, rtol=1e-3)


@pytest.mark.parametrize("gain", [0.1, 1.0, 30.0])
def test_over_data_sets_the_geometric_mean_of_the_factor_is_kappa(gain):
    points, shares = np.polynomial.hermite_e.hermegauss(8)  # exact for polynomials up to the fifteenth degree
    sd = torch.tensor(0.6, dtype=torch.float64)
    precision = gain / sd**2
    estimates = torch.as_tensor(points) * (sd**2 + 1.0 / precision).sqrt()  # before data: Normal(0, s^2 + 1 / P)
    logs = factor_by_posterior(DataPull(precision.expand(8), precision * estimates), sd).log()
    mean = float((logs * torch.as_tensor(shares / shares.sum())).sum())
    assert mean == pytest.approx(-math.log1p(gain), rel=1e-10)
    assert float(logs.std()) > 0.05  # a single data set has another


def test_a_weight_that_a_slope_holds_away_from_zero_counts_although_nothing_is_curved():
    flat = DataPull(torch.zeros(2), torch.tensor([0.0, 3.0]))
    factor = factor_by_posterior(flat, torch.tensor(1.0))
    assert factor.tolist() == pytest.approx([1.0, math.exp(-9.0)], rel=1e-5)
    assert shrinkage_factor(torch.zeros(2), torch.ones(2), SIZE).tolist() == [1.0, 1.0]  # the textbook's
    assert factor_by_posterior(flat, torch.tensor(0.0)).tolist() == [1.0, 1.0]  # nor does a scale of zero overflow


def test_data_that_say_nothing_have_no_precision_under_a_laplace():
    """Of all Normals the one of variance b^2 pi / 2 is nearest to Laplace(0, b): data-free, P and a are zero."""
    fit, *_ = conjugate(True, weight=lambda s: dist.Laplace(0.0, s))
    prior = fit.model.priors["0.weight"]
    family = next(f for f in fit.guide.families if isinstance(f, NormalFamily))
    with torch.no_grad():
        family.location.zero_()
        family.log_scale.copy_((SCALE * math.sqrt(math.pi / 2.0)).log().flatten())
    found = data_pulls(fit.restarts[0], [prior])["0.weight"]
    assert float((found.precision * SCALE**2).abs().max()) < 1e-12 and not bool(found.pull.any())
    assert (
        float((2.0 * SCALE**2 / (SCALE**2 * math.pi / 2.0) - 1.0).min()) > 0.2
    )  # a Normal of its sd would have seen data
    with torch.no_grad():
        family.log_scale.sub_(0.2)
    narrower = data_pulls(fit.restarts[0], [prior])["0.weight"]
    assert float((narrower.precision * SCALE**2).min()) > 0.05


# -- which form applies --------------------------------------------------------------------------------------


def two_layers(first, second=None, guide=None, outputs=2):
    torch.manual_seed(5)
    network = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, outputs))
    priors = {"0.weight": first} | ({} if second is None else {"2.weight": second})
    x = torch.randn(60, 4)
    bnn = bp.BayesianNetwork(network, priors, data_size=60)
    return bp.fit(bnn, (x, (x[:, 0] > 0).long()), guide, steps=5, device="cpu")


def test_networks_are_judged_by_the_posterior_and_linear_models_by_the_fisher_information():
    linear, *_ = conjugate(False)
    form = shrinkage_form(linear.restarts[0], linear.model.priors["0.weight"])
    assert form == "fisher" and "Fisher" in linear.inclusion_probabilities(draws=2)["0.weight"].attrs["event"]
    for fit in (two_layers(bp.Horseshoe(), bp.Horseshoe()), two_layers(bp.Horseshoe())):
        one = fit.restarts[0]
        assert {shrinkage_form(one, prior) for prior in fit.model.priors.values()} == {"posterior"}
    asked = two_layers(bp.Horseshoe(by="fisher"), bp.RegularisedHorseshoe(by="posterior"))
    forms = [shrinkage_form(asked.restarts[0], prior) for prior in asked.model.priors.values()]
    assert forms == ["fisher", "posterior"]
    assert [data.attrs["by"] for data in asked.shrinkage_factors(draws=2).values()] == forms


def test_points_have_the_fisher_information_only():
    fit = two_layers(bp.HALO(), guide="map")
    one, prior = fit.restarts[0], fit.model.priors["0.weight"]
    assert shrinkage_form(one, prior) == "fisher" and fit.shrinkage_factors()["0.weight"].attrs["by"] == "fisher"
    prior.hierarchy.included = bp.shrinkage_below(by="posterior")
    with pytest.raises(ValueError, match="a guide of points does not have: fit with guide='meanfield'"):
        fit.shrinkage_factors()


def test_the_form_is_part_of_the_event_and_stays_with_a_saved_fit(tmp_path):
    texts = [str(bp.shrinkage_below(0.5, by)) for by in (None, "fisher", "posterior")]
    assert len(set(texts)) == 3 and texts[0] == "shrinkage factor < 0.5 (shrinkage)"  # fingerprints have this one
    with pytest.raises(
        ValueError, match=r"shrinkage_below\(by=...\) takes 'fisher', 'posterior' or None, not 'hessian'"
    ):
        bp.shrinkage_below(by="hessian")
    fit = two_layers(bp.Horseshoe(by="fisher"), bp.Horseshoe())
    fit.save(tmp_path / "fit")
    loaded = bp.Fit.load(tmp_path / "fit", fit.model)
    events = [stated_event(loaded.restarts[0], prior).by for prior in loaded.model.priors.values()]
    assert events == ["fisher", "posterior"]
    assert loaded.inclusion_probabilities(draws=9).equals(fit.inclusion_probabilities(draws=9))


def test_the_form_is_a_setting_of_the_horseshoes_that_earlier_fits_do_not_have():
    for name in ("horseshoe", "regularised-horseshoe"):
        made = make_prior(name, by="fisher")
        assert from_config(made.config).included.by == "fisher" and make_prior(name).included.by is None
        earlier = {**made.config, "arguments": {k: v for k, v in made.config["arguments"].items() if k != "by"}}
        assert from_config(earlier).fingerprint() == make_prior(name).fingerprint() != made.fingerprint()
        with pytest.raises(ValueError, match="takes 'fisher', 'posterior' or None, not 'hessian'"):
            make_prior(name, by="hessian")


def test_what_the_data_say_is_read_again_when_the_guide_has_changed():
    fit = two_layers(bp.Horseshoe(), bp.Horseshoe())
    before, again = (fit.shrinkage_factors(draws=5)["0.weight"].values for _ in range(2))
    with torch.no_grad():
        for parameter in fit.guide.parameters():
            parameter.add_(0.3)
    after = fit.shrinkage_factors(draws=5)["0.weight"].values
    assert np.array_equal(before, again) and not np.allclose(before, after)


@pytest.mark.slow
def test_a_horseshoe_network_that_fits_its_data_survives_its_own_rule():
    data = bp.load_data("digits")
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(64, 40), nn.ReLU(), nn.Linear(40, 10))
    x, y = (part[:600] for part in data.train)
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Horseshoe()}, data_size=600)
    fit = bp.fit(bnn, (x, y), steps=1500, kl_warmup=0.6, kl_weight=0.1, learning_rate=3e-3, device="cpu")
    before = fit.score(x, y)["accuracy"]

    def accuracy(result):
        with torch.no_grad():
            return float((result.network(x).argmax(1) == y).float().mean())

    own = bp.prune(fit, min_inclusion=0.5, data=(x, y))
    assert before > 0.95 and accuracy(own) > before - 0.03 and own.report.sparsity > 0.3 and own.report.notes == ()
    for prior in fit.model.priors.values():
        prior.hierarchy.included = bp.shrinkage_below(0.5, by="fisher")
    textbook = bp.prune(fit, min_inclusion=0.5, data=(x, y))
    assert accuracy(textbook) < before - 0.2
    (note,) = [text for text in textbook.report.notes if "took the accuracy" in text]
    assert "finetune" in note and "inclusion probability > 0.5" in note
