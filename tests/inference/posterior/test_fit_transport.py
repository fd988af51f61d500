"""Copies of fits and models, and fits and models in other processes: they say and predict the same."""

from __future__ import annotations

import copy
import multiprocessing
import pickle

import pyro.distributions as dist
import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.posterior import fit_transport
from bayesprune.models.language import declaration_transport
from bayesprune.models.ready_networks import make_ready

X = torch.randn(40, 5, generator=torch.Generator().manual_seed(0))
Y = (X[:, 0] > 0).long()


def scale_of(lam):
    """A function that another process can import."""
    return dist.Normal(0.0, lam)


def own(scale=1.0):
    """A declaration with functions that no other process could import."""
    return bp.Hierarchy(
        lam=dist.HalfCauchy(1.0), weight=lambda lam: dist.Normal(0.0, scale * lam), included=bp.shrinkage_below(0.5)
    )


def named():
    return bp.Hierarchy(lam=dist.HalfCauchy(1.0), weight=scale_of, included=bp.shrinkage_below(0.5))


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))


def model(prior=None, gates=None, net=network):
    priors = {} if prior is None else {"?.weight": prior}
    return bp.BayesianNetwork(net(), priors, data_size=40, gates=gates, example_input=X[:1])


def fitted(bnn, **how):
    return bp.fit(bnn, (X, Y), **{"steps": 6, "progress": False, "seed": 1, **how})


def regression():
    target = 7.0 * X[:, 1] + 3.0
    bnn = bp.BayesianNetwork(nn.Linear(5, 1), {"weight": bp.SpikeAndSlab(0.3)}, bp.Normal(), data_size=40)
    return bp.fit(bnn, (5.0 * X + 2.0, target), steps=6, progress=False)


FITS = {
    "gates": lambda: fitted(model(bp.SpikeAndSlab(0.3)), restarts=2),
    "a MAP": lambda: fitted(model(bp.HALO(5.0)), guide="map"),
    "the fused path": lambda: fitted(model(bp.Horseshoe()), execution="fused", compiled=False),
    "units": lambda: fitted(
        model(gates=bp.UnitGates(kappa=0.5, weight_scale=0.3)),
        steps=120,
        learning_rate=0.02,
        rules=[bp.Gating(delay=0.0)],
    ),
    "a standardised regression": regression,
    "a prior of one's own": lambda: fitted(model(own())),
    "named functions": lambda: fitted(model(named())),
}


@pytest.fixture(scope="module", params=FITS)
def fit(request):
    return FITS[request.param]()


def sent(thing):
    return pickle.loads(pickle.dumps(thing))


def numbers(one):
    """What a fit says, and where its numbers are."""
    state = {**one.guide.state_dict(), **one.model.state_dict()}
    return one.predict(X, draws=4).mean, state


@pytest.mark.parametrize("way", [copy.deepcopy, sent], ids=["deepcopy", "pickle"])
def test_a_copy_of_a_fit_predicts_the_same_and_shares_nothing(fit, way):
    if way is sent and any(prior.config is None for prior in fit.model.patterns.values()):
        pytest.importorskip("cloudpickle")
    other = way(fit)
    (mean, state), (found, copied) = numbers(fit), numbers(other)
    assert torch.equal(mean, found) and state.keys() == copied.keys()
    assert all(torch.equal(state[name], copied[name]) for name in state)
    assert len(other.restarts) == len(fit.restarts) and other.trace.equals(fit.trace)
    assert all(one.guide.model is one.model for one in other.restarts)
    places = {value.data_ptr() for value in state.values() if value.numel()}
    assert not places & {value.data_ptr() for value in copied.values() if value.numel()}
    with torch.no_grad():
        for parameter in (*other.guide.parameters(), *other.model.parameters()):
            parameter.add_(1.0)
    assert torch.equal(fit.predict(X, draws=4).mean, mean)  # the control: the copy alone has moved
    assert not torch.equal(other.predict(X, draws=4).mean, mean)


@pytest.mark.parametrize("way", [copy.deepcopy, copy.copy, sent], ids=["deepcopy", "copy", "pickle"])
def test_a_copy_of_a_model_is_the_same_declaration(way):
    for make in (lambda: bp.SpikeAndSlab(0.3), lambda: bp.HALO.from_paper(1e-3, 1e-2, 1e-3, 40), named):
        bnn = model(make())
        other = way(bnn)
        prior, found = (one.patterns["?.weight"] for one in (bnn, other))
        assert found.fingerprint() == prior.fingerprint() and type(found) is type(prior)
        assert (found.config, found.full_kl, found.noise) == (prior.config, prior.full_kl, prior.noise)
        assert str(other) == str(bnn)
        assert other.priors["0.weight"].hierarchy is other.patterns["?.weight"]


class Halved(bp.SpikeAndSlab):
    """A class of one's own; what it says is not what its name and arguments say."""


def changed():
    made = bp.SpikeAndSlab(0.3)
    made.included = bp.relative_threshold(0.2)
    return made


@pytest.mark.parametrize("make", [lambda: Halved(0.3), changed], ids=["a class", "an attribute"])
def test_a_ready_prior_that_was_changed_does_not_go_by_its_name(make):
    pytest.importorskip("cloudpickle")
    prior = make()
    other = sent(prior)
    assert type(other) is type(prior) and other.included == prior.included
    assert other.fingerprint() == prior.fingerprint()
    assert bp.SpikeAndSlab(0.3).__reduce_ex__(4)[0] is not prior.__reduce_ex__(4)[0]  # the control: unchanged


def test_the_objective_is_copied_with_its_model_and_guide():
    objective = bp.objective(model(bp.SpikeAndSlab(0.3)))
    objective(X, Y).backward()
    for other in (copy.deepcopy(objective), sent(objective)):
        assert other.guide.model is other.model is not objective.model
        torch.manual_seed(0)
        expected = objective(X, Y)
        torch.manual_seed(0)
        assert torch.equal(other(X, Y), expected)


def test_a_declaration_with_functions_without_a_name_is_refused_in_a_sentence_without_cloudpickle(monkeypatch):
    monkeypatch.setattr(declaration_transport, "_CARRIERS", ("a_package_that_is_not_there",))
    with pytest.raises(ValueError, match="has functions without a name.*at the top of a module.*cloudpickle") as no:
        pickle.dumps(model(own()))
    assert "\n" not in str(no.value)
    assert sent(model(named())).patterns["?.weight"].fingerprint() == named().fingerprint()
    assert copy.deepcopy(own()).fingerprint() == own().fingerprint()  # which needs no pickle


def test_a_fit_of_names_alone_goes_as_the_files_that_it_is_saved_in():
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(make_ready("lenet-300-100", (5,), 2, 0.02), {"*.weight": bp.HALO(5.0)}, data_size=40)
    fit = fitted(bnn)
    function, (kind, files) = fit.__reduce_ex__(4)
    assert function is fit_transport._received and kind is bp.Fit
    assert set(files) == {"fit.json", "trace.nc", "restart-0.safetensors", "kept.safetensors"}
    other = sent(fit)
    assert torch.equal(other.predict(X, draws=4).mean, fit.predict(X, draws=4).mean)
    assert all(torch.equal(one, two) for one, two in zip(other.examples, fit.examples, strict=True))
    assert bp.prune(other, sparsity=0.5).report == bp.prune(fit, sparsity=0.5).report
    assert fitted(model(bp.HALO(5.0))).__reduce_ex__(4)[0] is not fit_transport._received


def job(bnn):
    fit = fitted(bnn)
    return fit, fit.predict(X, draws=4).mean.numpy()


def predicted(fit):
    return fit.predict(X, draws=4).mean.numpy()


@pytest.mark.slow
@pytest.mark.parametrize("prior", [lambda: bp.SpikeAndSlab(0.3), named], ids=["ready", "named"])
def test_spawned_processes_take_models_and_fits_and_give_fits_back(prior):
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        fit, there = pool.apply(job, (model(prior()),))
        again = pool.apply(predicted, (fit,))
    assert (predicted(fit) == there).all() and (again == there).all()
    here = predicted(fitted(model(prior())))  # up to rounding, which goes with how memory is aligned
    assert abs(here - there).max() < 1e-4 < abs(here - predicted(fitted(model(prior()), seed=2))).max()


@pytest.mark.slow
def test_joblib_takes_priors_of_ones_own_too():
    joblib = pytest.importorskip("joblib")
    results = joblib.Parallel(n_jobs=2)(joblib.delayed(job)(model(prior)) for prior in (own(), bp.SpikeAndSlab(0.3)))
    for (fit, there), prior in zip(results, (own(), bp.SpikeAndSlab(0.3)), strict=True):
        assert (predicted(fit) == there).all()
        assert fit.model.patterns["?.weight"].fingerprint() == prior.fingerprint()
