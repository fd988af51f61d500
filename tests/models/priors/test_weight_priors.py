"""The ready priors of single weights, by name: listed, fitted, saved, and read back as they were declared."""

from __future__ import annotations

import pytest
import torch

import bayesprune as bp
from bayesprune.models.priors.ready import PRIORS, from_config, make_prior
from tests.oracles.plain_path import TOLERANCE, batch_for, noise_at, objective_of, on_graph, on_plain, worst

SETTINGS = {
    "sws": {"kappa": 3.0},
    "sws-paper": {"xi": 1e-3, "psi": 2e-3, "data_size": 60},
    "mcp": {"lam": 2.0},
    "mcp-paper": {"lam": 0.01, "gamma": 5.0, "data_size": 60},
    "weight-decay": {"weight_decay": 1e-3, "data_size": 60},
    "halo-paper": {"xi": 0.0, "psi": 1e-3, "weight_decay": 1e-4, "data_size": 60, "lam_start": 0.7},
    "continuous-spike-and-slab": {"expected_density": 0.3, "annealing": 0.5},
}
torch.manual_seed(0)
X = torch.randn(60, 4)
Y = (X[:, 0] > 0).long()


@pytest.mark.parametrize("name", SETTINGS)
def test_a_fit_is_saved_and_read_back_with_its_prior(name, tmp_path):
    declared = make_prior(name, **SETTINGS[name])
    assert repr(from_config(declared.config)) == repr(declared)
    assert from_config(declared.config).fingerprint() == declared.fingerprint()
    model = bp.BayesianNetwork(bp.lenet_300_100(4, 2, (5, 3)), {"fc*.weight": declared}, data_size=60)
    result = bp.fit(model, (X, Y), steps=4, device="cpu")
    assert result.guide.is_map == (declared.default_guide == "map") == (name != "continuous-spike-and-slab")
    again = bp.Fit.load(result.save(tmp_path / "fit"), model)
    state, expected = again.guide.state_dict(), result.guide.state_dict()
    assert all(torch.equal(state[key], expected[key]) for key in expected)
    assert bp.prune(again, sparsity=0.5, criterion="magnitude").report.sparsity == pytest.approx(0.5, abs=0.02)
    others = {**SETTINGS[name], next(iter(SETTINGS[name])): 0.25}
    changed = bp.BayesianNetwork(
        bp.lenet_300_100(4, 2, (5, 3)), {"fc*.weight": make_prior(name, **others)}, data_size=60
    )
    with pytest.raises(ValueError, match="has changed since"):
        bp.Fit.load(tmp_path / "fit", changed)


@pytest.mark.parametrize("name", SETTINGS)
@pytest.mark.parametrize("guide", ["map", "meanfield"])
def test_the_graph_of_the_fused_path_is_the_plain_objective(name, guide):
    from bayesprune.inference.execution.objective_graph import trace

    objective = objective_of(make_prior(name, **SETTINGS[name]), guide)
    x, y = batch_for(objective.model.network)
    traced = trace(objective, x, y)
    assert not traced.alone
    found = on_graph(traced, objective, x, y, noise_at(traced, 3))
    assert worst(found, on_plain(objective, x, y, 3)) < TOLERANCE
    if guide == "meanfield":  # the control: other noise
        assert worst(found, on_plain(objective, x, y, 4)) > 1e-4


def test_each_is_listed_with_a_line_on_what_it_is():
    assert set(SETTINGS) <= set(PRIORS)
    assert all(PRIORS[name].summary for name in SETTINGS)
