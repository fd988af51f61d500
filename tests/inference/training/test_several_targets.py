"""Targets of different size beside each other: each has its noise in its own unit."""

from __future__ import annotations

import pyro.distributions as dist
import pytest
import torch
from torch import nn

from bayesprune.inference.fit_result import Fit
from bayesprune.inference.pruning.prune import prune
from bayesprune.inference.training.fit import fit
from bayesprune.inference.watching.callbacks import Callback
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.likelihoods.real_likelihoods import HeteroscedasticNormal, StudentT
from bayesprune.models.priors.gaussian import Gaussian

SIZE = 90
HOW = {"steps": 40, "batch_size": 30, "device": "cpu", "learning_rate": 0.01, "execution": "plain"}


def raw(dtype=torch.float64):
    """Two targets, one 77,000 times the other."""
    torch.manual_seed(0)
    x = torch.randn(SIZE, 4) * torch.tensor([50.0, 0.01, 3.0, 1000.0]) + torch.tensor([7.0, 3.0, -20.0, 5000.0])
    t = torch.tanh((x[:, :2] - x[:, :2].mean(dim=0)) / x[:, :2].std(dim=0)) + 0.2 * torch.randn(SIZE, 2)
    return x.to(dtype), (t * torch.tensor([77.0, 1e-3]) + torch.tensor([152.0, 0.01])).to(dtype)


def declared(likelihood=None, outputs=2):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, outputs))
    return BayesianNetwork(network, {"*.weight": Gaussian()}, likelihood or Normal(), SIZE)


class Losses(Callback):
    """The loss of every step."""

    def __init__(self):
        self.found = []

    def on_step(self, state):
        self.found.append(float(state.terms.loss.detach()))


NOISES = [Normal, StudentT, lambda: StudentT(df=None), HeteroscedasticNormal]


@pytest.mark.parametrize(
    ("execution", "likelihood"),
    [
        *(("plain", noise) for noise in NOISES),
        ("fused", Normal),
        *(pytest.param("fused", noise, marks=pytest.mark.slow) for noise in NOISES[1:]),
    ],
)
def test_a_fit_of_two_targets_is_the_fit_of_data_standardised_by_hand(likelihood, execution):
    x, y = raw()
    shift, unit = y.mean(dim=0), y.std(dim=0, correction=0)
    z, t = (x - x.mean(dim=0)) / x.std(dim=0, correction=0), (y - shift) / unit
    how = HOW | {"execution": execution, "compiled": False if execution == "fused" else None, "precision": "float64"}
    runs = {}
    for name, data, standardise in (("inside", (x, y), None), ("by hand", (z, t), False)):
        watch = Losses()
        model = declared(likelihood(), likelihood().outputs_for(2))
        if name == "by hand":
            model.likelihood.double().begin_noise(1.0)  # a Student's t with sd 1, where `inside` begins
        runs[name] = fit(model, data, standardise=standardise, callbacks=[watch], **how), watch.found
    inside, hand = (torch.tensor(runs[name][1], dtype=torch.float64) for name in ("inside", "by hand"))
    constant = SIZE * unit.log().sum()
    torch.testing.assert_close(inside - constant, hand, rtol=1e-9, atol=1e-7)
    assert not torch.allclose(inside, hand, rtol=1e-2)
    (one, _), (other, _) = runs["inside"], runs["by hand"]
    assert one.settings["execution"]["name"] == execution
    error = (one.predict(x).draws - (shift + unit * other.predict(z).draws)) / unit
    assert float(error.abs().max()) < 1e-9
    assert one.score(x, y)["nll"] == pytest.approx(other.score(z, t)["nll"] + float(unit.log().sum()), rel=1e-9)
    assert one.score(x, y)["coverage_90"] == other.score(z, t)["coverage_90"]
    found, wanted = one.predictive_intervals(x), other.predictive_intervals(z)
    torch.testing.assert_close((found.upper - shift) / unit, wanted.upper, rtol=0, atol=1e-8)
    if isinstance(one.model.likelihood, Normal):
        sds = torch.as_tensor(one.model.likelihood.learned_config()["scale"], dtype=torch.float64)
        scale = other.model.likelihood.learned_config()["scale"]
        torch.testing.assert_close(sds, scale * unit, rtol=1e-9, atol=0)


def test_one_target_has_one_scale_as_before():
    x, y = raw(torch.float32)
    for data, standardise in (((x, y[:, 0]), None), ((x, y), False)):
        outputs = 1 if standardise is None else 2
        found = fit(declared(outputs=outputs), data, standardise=standardise, **HOW)
        assert found.model.likelihood.unit is None and list(found.model.likelihood.state_dict()) == ["log_scale"]
        assert isinstance(found.model.likelihood.learned_config()["scale"], float)
    assert found.model.likelihood.scale.ndim == 0


def test_the_smaller_target_is_learned_too():
    x, y = raw(torch.float32)
    found = fit(declared(), (x, y), **HOW | {"steps": 800})
    error = (found.predict(x).mean - y).square().mean(dim=0) / y.var(dim=0)
    assert float(error.max()) < 0.3
    intervals = found.predictive_intervals(x)
    inside = ((y >= intervals.lower) & (y <= intervals.upper)).float().mean(dim=0)
    assert float(inside.min()) > 0.8 and float(inside.max()) < 0.99


def test_units_of_noise_are_saved_pruned_and_begun_with(tmp_path):
    x, y = raw(torch.float32)
    model = declared(StudentT(df=None))
    found = fit(model, (x, y), **HOW)
    found.save(tmp_path / "fit")
    assert model.likelihood.unit is None
    for given in (model, found.model):
        again = Fit.load(tmp_path / "fit", model=given)
        assert again.score(x, y) == found.score(x, y)
        assert torch.equal(again.model.likelihood.unit, found.model.likelihood.unit)
    later = fit(declared(StudentT(df=None)), (x, y), start=again, **HOW | {"steps": 1, "learning_rate": 1e-9})
    torch.testing.assert_close(later.model.likelihood.scale.detach(), found.model.likelihood.scale.detach())
    result = prune(again, sparsity=0.2)
    fixed = Likelihood.from_config(result.likelihood.learned_config())
    outputs = result.network(x).detach()
    torch.testing.assert_close(fixed.log_prob(outputs, y), result.likelihood.log_prob(outputs, y).detach())
    model = BayesianNetwork(result.network, {"*.weight": Gaussian()}, Normal(), SIZE)
    refit = fit(model, (x, y), **HOW | {"steps": 1, "learning_rate": 1e-9})
    errors = (outputs - y).square().mean(dim=0).sqrt()
    scales = refit.model.likelihood.scale.detach()
    assert refit.settings["standardised"]["noise"] is not None
    assert float((scales / errors).log().abs().max()) < 0.7  # each is of the size of its error


def test_a_fit_of_an_earlier_version_is_loaded_with_the_one_scale_that_it_had(tmp_path):
    x, y = raw(torch.float32)
    new = fit(declared(), (x, y), **HOW)
    new.model.likelihood.noise_in(None)  # as it was
    new.save(tmp_path / "fit")
    for given in (declared(), fit(declared(), (x, y), **HOW).model):  # also into a model that has units
        again = Fit.load(tmp_path / "fit", model=given)
        assert again.model.likelihood.unit is None and again.score(x, y) == new.score(x, y)
        later = fit(declared(), (x, y), start=again, **HOW | {"steps": 1})
        assert later.model.likelihood.unit is None


class Stopped(Exception):
    """An interruption."""


class Stop(Callback):
    """Interrupts in an epoch."""

    is_resumable = True

    def on_epoch(self, state):
        if state.epoch == 4:
            raise Stopped


def test_an_interrupted_fit_of_two_targets_goes_on_bit_for_bit(tmp_path, monkeypatch):
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.LEAST", 0.0)
    monkeypatch.setattr("bayesprune.inference.training.checkpoint.SHARE", 1e9)
    data = raw(torch.float32)
    whole = fit(declared(), data, **HOW)
    with pytest.raises(Stopped):
        fit(declared(), data, checkpoint=tmp_path / "state", callbacks=[Stop()], **HOW)
    found = fit(declared(), data, checkpoint=tmp_path / "state", **HOW)
    assert found.settings["resumed_at_epoch"] is not None
    assert found.score(*data) == whole.score(*data)
    assert torch.equal(found.model.likelihood.scale, whole.model.likelihood.scale)


def test_a_noise_alone_starts_at_the_error_of_the_network_that_is_left_as_it_is():
    x, y = raw(torch.float32)
    model = declared(outputs=1)
    error = (model.network(x)[:, 0] - y[:, 0]).square().mean().sqrt().item()
    how = HOW | {"steps": 1, "learning_rate": 1e-9}
    found = fit(model, (x, y[:, 0]), standardise="noise", **how)
    assert found.settings["standardised"] == {
        "inputs": False, "targets": False, "noise": pytest.approx(error, rel=1e-5),
        "reason": "the network stays as it is",
    }  # fmt: skip
    assert found.model.likelihood.scale.item() == pytest.approx(error, rel=1e-3)
    assert model.likelihood.scale.item() == 1.0
    off = fit(model, (x, y[:, 0]), standardise=False, **how)
    assert off.model.likelihood.scale.item() == pytest.approx(1.0, rel=1e-3)  # the control
    given = fit(declared(Normal(3.0), 1), (x, y[:, 0]), standardise="noise", **how)
    assert given.settings["standardised"]["noise"] is None
    later = fit(model, (x, y[:, 0]), start=found, standardise="noise", **how)
    assert later.settings["standardised"]["reason"] == "as in the fit of start="


def test_a_constant_target_has_the_noise_of_its_unit():
    x, y = raw()
    y[:, 1] = 1e6
    found = fit(declared(), (x, y), **HOW | {"steps": 1, "learning_rate": 1e-9, "precision": "float64"})
    wanted = torch.stack([y[:, 0].std(correction=0), y[0, 1]])
    torch.testing.assert_close(found.model.likelihood.scale.detach(), wanted, rtol=1e-6, atol=0)


def test_scales_that_are_given_are_one_for_each_output():
    x, y = raw(torch.float32)
    likelihood = Normal([20.0, 3e-4])
    assert likelihood.config()["scale"] == [20.0, 3e-4] and not list(likelihood.parameters())
    found = fit(declared(likelihood), (x, y), standardise=True, **HOW)
    torch.testing.assert_close(found.model.likelihood.scale, torch.tensor([20.0, 3e-4]))
    assert found.model.likelihood.config() == likelihood.config()
    assert Likelihood.from_config(likelihood.config()).config() == likelihood.config()
    outputs = found.predict(x).mean
    assert likelihood.log_prob(outputs, y).dtype == torch.float32
    torch.testing.assert_close(likelihood.log_prob(outputs, y), likelihood.distribution(outputs).log_prob(y))
    with pytest.raises(ValueError, match=r"the noise has 3 scales, but the network returns shape \(\d+, 2\)"):
        fit(declared(Normal([1.0, 2.0, 3.0])), (x, y), **HOW)
    for wrong in ([], [1.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="a positive finite number is expected"):
            Normal(wrong)


class LogNormal(Normal):
    """Positive numbers: a Normal of their logarithm, so that outputs have no unit of the targets."""

    name = "log-normal"

    def distribution(self, outputs):
        return dist.LogNormal(super().predict(outputs), self.scale)

    def log_prob(self, outputs, y):
        return super().log_prob(outputs, y.log()) - y.log()

    def predict(self, outputs):
        return super().predict(outputs).exp()


def test_a_subclass_with_a_link_of_its_own_has_outputs_without_units():
    torch.manual_seed(0)
    x = torch.randn(200, 3)
    y = (3.0 + x[:, 0] + 0.2 * torch.randn(200)).exp()
    for likelihood, units in ((LogNormal(), False), (Normal(), True)):  # the latter is the control
        bnn = BayesianNetwork(nn.Linear(3, 1), {"weight": Gaussian()}, likelihood, data_size=200)
        found = fit(bnn, (x, y), steps=400, learning_rate=0.03, device="cpu")
        assert found.settings["standardised"]["targets"] is units
        assert found.score(x, y)["rmse"] < float(y.std())  # infinite where the exponent was multiplied
