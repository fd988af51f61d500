"""Pruning at a value of a criterion's score, as papers state their rules: log alpha >= 3 goes."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.pruning.criteria import dropout_rate


def data(rows=24):
    generator = torch.Generator().manual_seed(3)
    return torch.randn(rows, 4, generator=generator), torch.randint(3, (rows,), generator=generator)


def fitted(prior, **more):
    torch.manual_seed(1)
    network = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 3))
    model = bp.BayesianNetwork(network, {"*.weight": prior}, data_size=24)
    return bp.fit(model, data(), **{"epochs": 2, "batch_size": 8, "device": "cpu", "execution": "plain"} | more)


@pytest.fixture(scope="module")
def dropped():
    """A fit of sparse variational dropout, a third of whose weights have log alpha above 3."""
    fit = fitted(bp.SparseVariationalDropout())
    (family,) = fit.guide.families
    with torch.no_grad():
        log_alpha = torch.linspace(-6.0, 7.5, family.location.numel())
        family.log_scale.copy_(family.location.abs().log() + 0.5 * log_alpha)
    return fit, log_alpha


def test_weights_of_log_alpha_above_three_go(dropped):
    fit, log_alpha = dropped
    result = bp.prune(fit, criterion="dropout-rate", min_score=-3.0)
    kept = torch.cat([result.masks[name].flatten() for name in fit.model.priors])
    assert torch.equal(kept, log_alpha < 3.0) and 0 < int((~kept).sum()) < len(kept) / 2
    assert result.report.rule == "score > -3" and result.report.criterion == "dropout-rate"
    for name, mask in result.masks.items():
        weight = result.network.get_parameter(name)
        assert torch.equal(weight != 0, mask) and torch.equal(mask, -dropout_rate(fit)[name] < 3.0)
    milder = bp.prune(fit, criterion="dropout-rate", min_score=-5.0)  # the control: another value
    assert milder.report.nonzero > result.report.nonzero


def test_any_criterion_has_a_rule_by_its_score(dropped):
    fit, _ = dropped
    sizes = bp.prune(fit, criterion="magnitude", min_score=0.2)
    means = fit.guide.means()
    assert all(torch.equal(mask, means[name].abs() > 0.2) for name, mask in sizes.masks.items())

    def own(fit, restart):
        return {name: weight for name, weight in fit.included_weights(restart).items()}

    positive = bp.prune(fit, criterion=own, min_score=0.0)
    assert all(torch.equal(mask, means[name] > 0.0) for name, mask in positive.masks.items())
    assert positive.report.criterion == "own"
    assert bp.prune(fit, criterion="magnitude", min_score=1e9).report.nonzero == 0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"min_score": -3.0}, "min_score= is a value of a criterion's score: name the criterion"),
        ({"min_score": -3.0, "criterion": "inclusion"}, "use min_inclusion="),
        ({"min_score": math.nan, "criterion": "magnitude"}, "min_score= takes a finite number, not nan"),
        ({"min_score": "3", "criterion": "magnitude"}, "min_score= takes a finite number, not '3'"),
        (
            {"min_score": 0.0, "sparsity": 0.5, "criterion": "magnitude"},
            "give one of sparsity=, share=, count=, min_inclusion=, ",
        ),
        ({"min_score": 0.0, "criterion": "dropout_rate"}, "criterion 'dropout_rate' is unknown"),
        ({}, "give one of sparsity=, share=, count=, min_inclusion=, min_score= and budget="),
        ({"min_score": 0.1, "criterion": "magnitude", "per": "layer"}, "per='layer' is about .*: leave it out"),
    ],
)
def test_what_it_cannot_be_is_refused_in_one_sentence(dropped, arguments, says):
    with pytest.raises(ValueError, match=says):
        bp.prune(dropped[0], **arguments)


def test_weights_that_the_fit_has_left_out_are_not_put_back():
    fit = fitted(bp.SpikeAndSlab())
    (gates,) = (family for family in fit.guide.families if hasattr(family, "logit"))
    with torch.no_grad():
        gates.logit.copy_(torch.where(torch.arange(gates.logit.numel()) % 2 == 0, 9.0, -9.0))
    with pytest.raises(ValueError, match="the fit already has sparsity 0.4.* that min_score=-1 leaves: raise it$"):
        bp.prune(fit, criterion="magnitude", min_score=-1.0)
    with pytest.raises(ValueError, match="more than the 0.1 asked for"):  # a sparsity that was given
        bp.prune(fit, criterion="inclusion", sparsity=0.1)
    assert bp.prune(fit, criterion="inclusion", sparsity=0.6).report.sparsity > 0.5  # the control


def test_with_gates_of_units_what_is_closed_or_removed_stays_out():
    torch.manual_seed(0)
    x = torch.randn(400, 4)
    y = (x[:, 0] + x[:, 1] > 0).long()
    network = bp.lenet_300_100(4, 2, (12, 9))
    model = bp.BayesianNetwork(network, {}, data_size=400, gates=bp.UnitGates(kappa=0.01), example_input=x[:1])
    fit = bp.fit(model, (x, y), epochs=40, learning_rate=2e-2, device="cpu")
    by_gates = bp.prune(fit, min_inclusion=0.5)
    assert 0.2 < by_gates.report.sparsity < 1.0 and fit.model.plan is not None  # units are gone
    by_score = bp.prune(fit, criterion="magnitude", min_score=-1.0)
    assert by_score.report.nonzero == by_gates.report.nonzero
    assert all(torch.equal(by_score.masks[name], mask) for name, mask in by_gates.masks.items())
    more = bp.prune(fit, criterion="magnitude", min_score=0.1)
    assert 0 < more.report.nonzero < by_score.report.nonzero
