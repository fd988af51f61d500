"""Remedies turn what they name the right way, and name what belongs to the tensors that were looked at."""

from __future__ import annotations

import copy
import functools

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.notes.findings import findings
from bayesprune.inference.notes.remedies import Remedies

SIZE = 300
torch.manual_seed(0)
X = torch.randn(SIZE, 8)
Y = (X[:, 0] > 0).long()


@functools.cache
def two_priors():
    """A layer under a Gaussian, and one under a spike and slab that is left undecided."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    priors = {"0.weight": bp.Gaussian(sd=1.0), "2.weight": bp.SpikeAndSlab()}
    bnn = bp.BayesianNetwork(network, priors, data_size=SIZE)
    return bp.fit(bnn, (X, Y), steps=1001, kl_weight=1.0, device="cpu", execution="plain")


def at(kl_weight, fit=None):
    found = copy.copy(two_priors() if fit is None else fit)
    found.settings = {**found.settings, "kl_weight": kl_weight}
    return Remedies(found)


def test_the_knob_is_that_of_the_tensors_that_were_looked_at():
    remedies = at(1.0)
    assert "expected_density=0.01" in remedies.about(["2.weight"]).sharper_prior()
    assert "sd=0.1" in remedies.about(["0.weight"]).sharper_prior()
    assert "expected_density=0.5" in remedies.about(["2.weight"]).less_prior()
    assert "sd=10" in remedies.about(["0.weight"]).less_prior()
    assert "sd=0.1" in remedies.sharper_prior()  # without a word on which, the first that has one


def test_a_tensor_whose_prior_has_no_number_to_turn_is_not_given_that_of_another():
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    priors = {"0.weight": bp.Gaussian(), "2.weight": bp.SpikeAndSlab()}
    fit = bp.fit(bp.BayesianNetwork(network, priors, data_size=SIZE), (X, Y), steps=2, device="cpu")
    assert "expected_density" not in at(1.0, fit).about(["0.weight"]).less_prior()
    assert "expected_density" in at(1.0, fit).less_prior()


def test_probabilities_that_are_undecided_are_told_with_the_knob_of_their_own_prior():
    fit = copy.deepcopy(two_priors())
    with torch.no_grad():
        fit.guide.families[-1].logit.fill_(0.5)
    (note,) = [note for note in findings(fit) if "the data have not decided" in note]
    assert "expected_density=0.01" in note and "sd=" not in note


def test_a_kl_weight_of_zero_is_neither_made_less_nor_more_where_less_is_wanted():
    assert at(0.0).less_prior() == "give steps=2500"
    assert at(0.0).more_prior() == "give kl_weight=1, or let --tune kl_weight choose"
    assert at(0.0).sharper_prior() == "give kl_weight=0.1"
    assert "kl_weight=0.001" in at(0.01).less_prior()  # control


@pytest.mark.parametrize(("weight", "to"), [(0.1, "1"), (1.0, "10"), (3.0, "30")])
def test_more_prior_leaves_tuning_out_where_it_would_look_at_smaller_weights_only(weight, to):
    said = at(weight).more_prior()
    assert said.startswith(f"give kl_weight={to}, or sd=0.1")
    assert ("--tune" in said) == (weight < 1.0)


class Named(bp.Categorical):
    """Labels under another name."""

    name = "named"


def test_labels_are_known_by_what_they_are_and_not_by_a_name():
    torch.manual_seed(0)
    labels = torch.randint(0, 10, (SIZE,))
    found = {}
    for likelihood in (bp.Categorical(), Named()):
        torch.manual_seed(1)
        network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 10))
        bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, likelihood, data_size=SIZE)
        fit = bp.fit(bnn, (X, labels), steps=300, kl_weight=0.01, learning_rate=3e-3, device="cpu", execution="plain")
        found[likelihood.name] = findings(fit), fit.score(X, labels, draws=2)
    assert "hardly better than a constant prediction" in found["categorical"][0][0]
    assert found["named"] == found["categorical"] and "ece" in found["named"][1]
    assert bp.Bernoulli().is_labels and not bp.Poisson().is_labels and not bp.Normal().is_labels


def test_a_lower_price_is_no_remedy_where_the_noise_of_gates_closed_them():
    network = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    gates = bp.UnitGates(kappa=0.02)
    bnn = bp.BayesianNetwork(network, {}, data_size=SIZE, gates=gates, example_input=X[:1])
    fit = copy.copy(bp.fit(bnn, (X, Y), steps=20, device="cpu", rules=[bp.Gating(delay=0.0)]))
    report = {"step": 0.4, "noise": 0.1}
    fit.settings = {**fit.settings, "gating": [report]}
    assert "kappa=0.002" in Remedies(fit).less_prior()
    report["noise"] = 12.0
    assert Remedies(fit).less_prior() == "give steps=2500, or Gating(step=0.1) in place of 0.4"
