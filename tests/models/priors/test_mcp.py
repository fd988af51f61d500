"""MCP: its constants, unshrunk large weights, and what an improper prior refuses."""

from __future__ import annotations

import math

import pyro
import pytest
import torch
from pyro.infer import MCMC, NUTS, Predictive
from torch import nn

import bayesprune as bp
from bayesprune.models.distributions.minimax_concave import MinimaxConcave
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.priors.mcp import MCP
from tests.oracles.weight_penalties import mcp_least_squares, mcp_penalty

DOUBLE = torch.empty(0, dtype=torch.float64)


def penalty_of(declared, w):
    _, terms = TensorPrior("w", declared, tuple(w.shape), 50).evaluate({"weight": w}, DOUBLE)
    return -float(terms["weight"])


def test_constants_of_a_mean_loss_are_multiplied_by_the_number_of_data():
    w = torch.randn(4, 9, dtype=torch.float64)
    declared = MCP.from_paper(0.3, 2.0, data_size=50)
    expected = 50 * sum(mcp_penalty(float(each), 0.3, 2.0) for each in w.flatten())
    assert penalty_of(declared, w) == pytest.approx(expected, rel=1e-9)
    assert penalty_of(MCP(lam=15.0, gamma=0.04), w) == pytest.approx(expected, rel=1e-9)
    assert penalty_of(MCP(lam=15.0, gamma=2.0), w) != pytest.approx(expected, rel=1e-2)  # gamma not converted


def test_the_defaults_are_the_slope_of_laplace_and_an_end_at_two_of_he_s_standard_deviations():
    w = torch.full((1, 9), 1e-6, dtype=torch.float64)
    assert penalty_of(MCP(), w) == pytest.approx(9 * math.sqrt(9.0) * 1e-6, rel=1e-5)
    end = math.sqrt(8.0 / 9.0)
    near, at, far = (penalty_of(MCP(), torch.full((1, 9), size, dtype=torch.float64)) for size in (0.999 * end, end, 9))
    assert at == pytest.approx(far, rel=1e-12) and near < at - 1e-7
    assert penalty_of(MCP(lam=5.0), w) == pytest.approx(9 * 5e-6, rel=1e-4)


def test_a_map_of_least_squares_is_firm_thresholding():
    """Orthogonal features, one weight each: zero, shrunk, and left alone."""
    estimates, curvature, lam, gamma = [0.05, -0.6, 2.0, -0.15], 20.0, 4.0, 0.2
    x = 2.0 * torch.eye(4, dtype=torch.float64).repeat(5, 1)  # x'x = 20
    y = x @ torch.tensor(estimates, dtype=torch.float64)
    network = nn.Linear(4, 1, bias=False)
    nn.init.constant_(network.weight, 0.3)

    def fitted(prior):
        model = bp.BayesianNetwork(network, {"weight": prior}, bp.Normal(scale=1.0), data_size=20)
        how = {"batch_size": 20, "steps": 400, "learning_rate": 0.03, "schedule": "cosine", "precision": "float64"}
        return bp.fit(model, (x, y), device="cpu", **how).guide.means()["weight"].flatten()

    expected = torch.tensor([mcp_least_squares(each, curvature, lam, gamma) for each in estimates]).double()
    assert expected[0] == expected[3] == 0 and expected[2] == 2.0 and 0.4 < -expected[1] < 0.6
    found = fitted(MCP(lam, gamma))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0.0)
    lasso = fitted(bp.Laplace(1.0 / lam))  # the control: the lasso shrinks the large one too
    assert float(lasso[2]) == pytest.approx(2.0, abs=0.5) and float(lasso[2]) < 1.9


# -- what it refuses -----------------------------------------------------------------------------------------


def declared_model():
    return bp.BayesianNetwork(nn.Linear(3, 2), {"weight": MCP()}, data_size=20)


DATA = torch.randn(20, 3), torch.arange(20) % 2
REFUSALS = {
    "a draw": lambda: MinimaxConcave(1.0, 2.0).sample(),
    "simulation": lambda: TensorPrior("w", MCP(), (3, 2), 10).simulate(),
    "prior sparsity": lambda: bp.prior_sparsity(MCP(), (3, 2)),
    "prior predictive": lambda: Predictive(declared_model(), num_samples=2)(DATA[0]),
    "NUTS": lambda: MCMC(NUTS(declared_model()), num_samples=2, warmup_steps=2, disable_progbar=True).run(*DATA),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_what_needs_a_draw_of_the_prior_is_refused_with_the_reason(name):
    with pytest.raises(ValueError, match="^this prior cannot be simulated: its penalty is constant.*guide='map'"):
        REFUSALS[name]()


def test_its_log_density_serves_pyro_all_the_same():
    model = declared_model()
    w = torch.randn(2, 3)
    trace = pyro.poutine.trace(pyro.poutine.condition(model, {"weight": w})).get_trace(*DATA)
    found = float(trace.nodes["weight"]["fn"].log_prob(w))
    assert found == pytest.approx(-penalty_of(MCP(), w.double()), rel=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda: MCP(lam=0.0),
        lambda: MCP(gamma=-1.0),
        lambda: MCP(lam=float("nan")),
        lambda: MCP.from_paper(0.0, 1.0, 10),
        lambda: MCP.from_paper(1.0, 0.0, 10),
        lambda: MCP.from_paper(1.0, 1.0),
        lambda: MCP.from_paper(1.0, 1.0, 0),
    ],
)
def test_arguments_out_of_range_are_refused(make):
    with pytest.raises(ValueError, match="^MCP"):
        make()
