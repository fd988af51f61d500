"""The prior `Reduction`: its probabilities are those of enumerating all models, its groups remove whole rows."""

from __future__ import annotations

import numpy as np
import pyro.distributions as dist
import pytest
import torch
import xarray as xr
from torch import nn

import bayesprune as bp
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.inclusion.reduction import evidence_change, reduced_inclusion
from bayesprune.inference.restart import Restart
from tests.oracles import reduction_reference as exact
from tests.oracles import spike_and_slab_reference as spike

PROBLEM = spike.orthogonal_problem()
P = PROBLEM.x.shape[1]
RESPONSES = np.stack([PROBLEM.y, 0.3 * PROBLEM.y[::-1] - 0.1], axis=1)


def two_outputs(prior):
    """A fit of two regressions on the same orthogonal features, its guide at the exact posterior, float64."""
    network = nn.Linear(P, 2, bias=False, dtype=torch.float64)
    model = bp.BayesianNetwork(network, {"weight": prior}, bp.Normal(PROBLEM.noise_sd), len(PROBLEM.y))
    guide = Guide(model, "meanfield")
    found = [exact.posterior(PROBLEM.x, y, PROBLEM.noise_sd, PROBLEM.slab_sd) for y in RESPONSES.T]
    (family,) = guide.families
    with torch.no_grad():
        family.location.copy_(torch.as_tensor(np.concatenate([mean for mean, _ in found])))
        family.log_scale.copy_(0.5 * torch.as_tensor(np.concatenate([np.diag(c) for _, c in found])).log())
    return Fit([Restart(model, guide, 0)], xr.Dataset(), {})


def evidence(kept):
    """Log evidence in nats of the model that keeps these weights, `(2, p)` of zeros and ones."""
    return sum(
        exact.log_marginal(PROBLEM.x, y, PROBLEM.noise_sd, PROBLEM.slab_sd * row)
        for y, row in zip(RESPONSES.T, np.asarray(kept, dtype=float), strict=True)
    )


@pytest.mark.parametrize("per", ["weight", "kernel", "output", "input"])
def test_the_change_of_a_group_is_the_difference_of_two_log_evidences(per):
    found = evidence_change(two_outputs(bp.Reduction(0.3, PROBLEM.slab_sd)), per=per)["weight"]
    full = np.ones((2, P))
    shape = {"output": (2,), "input": (P,)}.get(per, (2, P))
    assert found.shape == shape
    assert found.dims == tuple(f"weight.{axis}" for axis in {"output": ["output"], "input": ["input"]}.get(
        per, ["output", "input"]))  # fmt: skip
    for index in np.ndindex(shape):
        kept = full.copy()
        kept[index if per in ("weight", "kernel") else (index[0], slice(None)) if per == "output" else (
            slice(None), index[0])] = 0.0  # fmt: skip
        assert float(found.values[index]) == pytest.approx(evidence(kept) - evidence(full), abs=1e-9)
    single = evidence_change(two_outputs(bp.Reduction(0.3, PROBLEM.slab_sd)))["weight"].values
    axis = {"output": 1, "input": 0}.get(per)
    assert axis is None or np.abs(found.values - single.mean(axis=axis)).max() > 1.0  # control: a sum, not a mean


def test_probabilities_are_those_of_enumerating_all_models():
    density = 0.3
    found = two_outputs(bp.Reduction(density, PROBLEM.slab_sd)).inclusion_probabilities()["weight"]
    models = np.array(np.meshgrid(*[[0.0, 1.0]] * P, indexing="ij")).reshape(P, -1).T
    prior = models.sum(axis=1) * np.log(density) + (P - models.sum(axis=1)) * np.log(1 - density)
    sds = PROBLEM.slab_sd * models
    log_joint = prior + [exact.log_marginal(PROBLEM.x, PROBLEM.y, PROBLEM.noise_sd, kept) for kept in sds]
    weight = np.exp(log_joint - log_joint.max())
    np.testing.assert_allclose(found.values[0], weight @ models / weight.sum(), rtol=0, atol=1e-9)
    assert found.attrs["kind"] == "reduction" and "0.3 of them before the data" in found.attrs["event"]
    other = two_outputs(bp.Reduction(0.31, PROBLEM.slab_sd)).inclusion_probabilities()["weight"]
    assert np.abs(other - found).max() > 1e-4  # control


def test_the_priors_own_probabilities_are_those_of_the_function_and_groups_share_theirs():
    fit = two_outputs(bp.Reduction(0.2, PROBLEM.slab_sd, level="input"))
    found = fit.inclusion_probabilities()["weight"].values
    expected = reduced_inclusion(fit, 0.2, per="input")["weight"].values
    np.testing.assert_allclose(found, np.broadcast_to(expected, (2, P)), rtol=0, atol=1e-14)
    assert np.ptp(expected) > 0.1


def test_draws_of_the_event_have_its_probabilities():
    fit = two_outputs(bp.Reduction(0.3, PROBLEM.slab_sd))
    drawn = fit.map_draws(lambda draw: fit.included_at(draw)["weight"].double(), 1000)
    expected = fit.inclusion_probabilities()["weight"].values
    error = np.sqrt(expected * (1 - expected) / 1000) + 1e-12
    assert np.abs(torch.stack(drawn).mean(dim=0).numpy() - expected).max() < 4.5 * error.max()
    count = fit.effective_parameters(draws=300)
    assert float(count["mean"][0]) == pytest.approx(expected.sum(), abs=0.4)


def test_draws_of_the_event_take_a_group_as_one():
    fit = two_outputs(bp.Reduction(0.3, PROBLEM.slab_sd, level="input"))
    drawn = torch.stack(fit.map_draws(lambda draw: fit.included_at(draw)["weight"], 400))
    assert torch.equal(drawn[:, 0], drawn[:, 1])
    expected = fit.inclusion_probabilities()["weight"].values[0]
    assert np.abs(drawn[:, 0].double().mean(dim=0).numpy() - expected).max() < 4.5 * 0.5 / 20.0
    apart = two_outputs(bp.Reduction(0.3, PROBLEM.slab_sd))  # the control
    single = torch.stack(apart.map_draws(lambda draw: apart.included_at(draw)["weight"], 100))
    assert not torch.equal(single[:, 0], single[:, 1])


def test_a_level_that_a_tensor_lacks_is_refused_before_a_fit():
    with pytest.raises(ValueError, match="needs a tensor with an input dimension, but bias has shape"):
        bp.BayesianNetwork(nn.Linear(3, 2), {"*": bp.Reduction(level="input")}, data_size=10)
    bp.BayesianNetwork(nn.Linear(3, 2), {"*": bp.Reduction(level="output")}, data_size=10)


def test_pruning_goes_by_the_evidence_and_takes_whole_groups():
    fit = two_outputs(bp.Reduction(0.3, PROBLEM.slab_sd, level="input"))
    change = evidence_change(fit, per="input")["weight"].values
    result = bp.prune(fit, sparsity=2 / P)
    kept = result.masks["weight"].numpy()
    assert (kept == kept[0]).all()  # whole columns
    assert sorted(np.flatnonzero(~kept[0])) == sorted(np.argsort(-change)[:2])
    assert (result.report.criterion, result.report.kind) == ("inclusion", "reduction")
    named = bp.prune(fit, sparsity=2 / P, criterion="reduction")
    assert torch.equal(named.masks["weight"], result.masks["weight"])
    median = bp.prune(fit, min_inclusion=0.5).masks["weight"].numpy()
    np.testing.assert_array_equal(median, fit.inclusion_probabilities()["weight"].values > 0.5)


def test_before_the_data_the_sparsity_is_that_of_the_expected_density():
    found = bp.prior_sparsity(bp.Reduction(0.2), (40, 50), draws=50)
    assert found.mean == pytest.approx(0.8, abs=0.01) and found.kind == "reduction"
    rows = bp.prior_sparsity(bp.Reduction(0.2, level="output"), (40, 50), draws=200)
    assert rows.mean == pytest.approx(0.8, abs=0.03)
    assert float(rows.sparsity.std()) > 3 * float(found.sparsity.std())  # a row goes at once


def test_around_a_network_of_ones_own_priors_it_is_the_same_as_by_their_sd():
    torch.manual_seed(0)
    network = nn.Linear(P, 1).double()
    data = (torch.as_tensor(PROBLEM.x), torch.as_tensor(PROBLEM.y))
    model = bp.BayesianNetwork(network, {"weight": bp.Reduction(0.2, 0.7)}, bp.Normal(0.5), len(data[0]))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    fit = bp.laplace_around(model, data)
    plain = bp.laplace_around(network, data, bp.Normal(0.5), {"weight": 0.7})
    for name, value in plain.guide.state_dict().items():
        assert torch.equal(fit.guide.state_dict()[name], value)
    assert fit.inclusion_probabilities()["weight"].attrs["kind"] == "reduction"
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    with pytest.raises(ValueError, match="says its likelihood, priors and data_size itself"):
        bp.laplace_around(model, data, prior_sd=1.0)
    horseshoe = bp.BayesianNetwork(network, {"weight": bp.Horseshoe()}, bp.Normal(0.5), len(data[0]))
    with pytest.raises(ValueError, match=r"reduction needs Normal\(0, sd\)"):
        bp.laplace_around(horseshoe, data)


def test_it_is_saved_and_read_back_by_name(tmp_path):
    from bayesprune.models.priors.ready import from_config

    made = bp.Reduction(0.2, 0.7, "output")
    assert from_config(made.config).fingerprint() == made.fingerprint()
    assert bp.Reduction(0.3, 0.7, "output").fingerprint() != made.fingerprint()
    x = torch.randn(64, 3)
    model = bp.BayesianNetwork(nn.Linear(3, 1), {"weight": made}, bp.Normal(0.5), data_size=64)
    fit = bp.fit(model, (x, x.sum(dim=1)), epochs=2, batch_size=32)
    fit.save(tmp_path / "fit")
    again = Fit.load(tmp_path / "fit", model)
    xr.testing.assert_identical(again.inclusion_probabilities(), fit.inclusion_probabilities())


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ({"sd": 0.0}, r"Reduction\(sd=...\) must be positive"),
        ({"expected_density": 1.0}, "strictly between 0 and 1"),
        ({"level": "block"}, r"takes one of weight, kernel, output, input, not 'block'"),
    ],
)
def test_bad_arguments_are_one_sentence(arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        bp.Reduction(**arguments)


def test_an_unknown_group_is_refused():
    with pytest.raises(ValueError, match="per= takes one of"):
        evidence_change(two_outputs(bp.Reduction(0.3)), per="layer")


def test_beside_a_prior_without_an_event_pruning_goes_by_magnitude():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 1))
    no_event = bp.Hierarchy(weight=dist.Normal(0.0, 1.0))
    model = bp.BayesianNetwork(network, {"0.weight": bp.Reduction(), "1.weight": no_event}, bp.Normal(0.5), 32)
    x = torch.randn(32, 4)
    fit = bp.fit(model, (x, x.sum(dim=1)), "meanfield", epochs=1, batch_size=32)
    assert bp.prune(fit, sparsity=0.5).report.criterion == "magnitude"


def test_an_improper_prior_has_no_evidence_bound():
    x = torch.randn(32, 3)
    found = []
    for prior in (bp.SparseVariationalDropout(), bp.Reduction()):
        model = bp.BayesianNetwork(nn.Linear(3, 1), {"weight": prior}, bp.Normal(0.5), data_size=32)
        found.append(bp.fit(model, (x, x.sum(dim=1)), epochs=1, batch_size=32).summary()["elbo"])
    assert found[0] is None and np.isfinite(found[1])
