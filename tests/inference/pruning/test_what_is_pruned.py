"""`prune` of what is no fit says what it is and how to get a fit from it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import bayesprune as bp

X = torch.randn(20, 3, generator=torch.Generator().manual_seed(0))
Y = X[:, 0] * 2.0


def model():
    torch.manual_seed(0)
    return bp.BayesianNetwork(nn.Linear(3, 1), {"weight": bp.Gaussian()}, bp.Normal(0.5), data_size=20)


def objective():
    return bp.objective(model())


def compact():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
    two = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, bp.Normal(0.5), data_size=20)
    return bp.prune(bp.fit(two, (X, Y), steps=2, progress=False), sparsity=0.5).compact()


GIVEN = {
    "objective": (objective, r"not an objective: train it.*bp\.Fit\.of\(objective\)"),
    "guide": (lambda: objective().guide, r"not a guide: .*bp\.Fit\.of\(objective\)"),
    "model": (model, r"not a model that has not been fitted: fit = bp\.fit\(bnn"),
    "network": (lambda: nn.Linear(3, 1), r"not a network \(Linear\).*bp\.fit.*bp\.laplace_around"),
    "compact": (compact, r"not a CompactResult, which is pruned already"),
    "path": (lambda: Path("run"), r"load the fit first, prune\(bp\.Fit\.load\(path\)"),
    "nothing": (lambda: None, r"not None: pass what bp\.fit"),
    "number": (lambda: 0.5, r"not a float: pass what bp\.fit"),
    "fits": (lambda: [bp.fit], r"not a list: pass what bp\.fit"),
}


@pytest.mark.parametrize("what", GIVEN)
@pytest.mark.parametrize("how", [{"min_inclusion": 0.5}, {"sparsity": 0.5}, {}])
def test_what_is_no_fit_is_named_with_the_way_to_one(what, how):
    make, words = GIVEN[what]
    with pytest.raises(ValueError, match=words) as refusal:
        bp.prune(make(), **how)
    assert "\n" not in str(refusal.value) and "path say themselves" not in str(refusal.value)


def test_several_fits_are_asked_to_prune_themselves():
    class Two:
        def prune(self, sparsity, value, min_accuracy, restart, data):
            return sparsity

    assert bp.prune(Two(), sparsity=0.25) == 0.25
    with pytest.raises(ValueError, match="the networks of a path say themselves how they are pruned"):
        bp.prune(Two(), min_inclusion=0.5)
