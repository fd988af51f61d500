"""The fused execution on a CUDA device: captured steps are the plain execution's."""

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.execution.fused import FusedStep
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer

PRIORS = {"gaussian": bp.Gaussian, "halo": bp.HALO, "horseshoe": bp.Horseshoe, "spike and slab": bp.SpikeAndSlab}


def fitted(prior, execution, compiled, device="cuda"):
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 20), nn.ReLU(), nn.Linear(20, 3)
    )
    x, y = torch.randn(70, 1, 8, 8), torch.randint(3, (70,))
    priors = {"0.weight": PRIORS[prior](), "4.weight": PRIORS[prior](), "6.weight": PRIORS[prior]()}
    model = bp.BayesianNetwork(network, priors, data_size=70)
    return bp.fit(
        model,
        (x, y),
        epochs=6,
        batch_size=32,
        execution=execution,
        compiled=compiled,
        device=device,
        precision="float64",
    )


@pytest.mark.gpu
@pytest.mark.parametrize("prior", PRIORS)
@pytest.mark.parametrize("compiled", [False, True])
def test_captured_steps_are_those_of_the_plain_path(prior, compiled):
    plain, fused = fitted(prior, "plain", None), fitted(prior, "fused", compiled)
    assert fused.settings["execution"]["name"] == "fused" and fused.settings["execution"]["fused_steps"] == 12
    one, other = plain.restarts[0], fused.restarts[0]
    for before, after in ((one.guide, other.guide), (one.model, other.model)):
        for name, value in before.state_dict().items():
            torch.testing.assert_close(after.state_dict()[name], value, rtol=1e-6, atol=1e-8, msg=name)
    for name, mean in one.guide.means().items():  # the control: 12 steps have moved every weight's site
        if name in one.model.priors:
            assert not torch.allclose(mean, one.model.starting_weights(name), rtol=1e-4), name


def on_gpu(prior=None):
    torch.manual_seed(0)
    network, x = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3)), torch.randn(16, 6)
    gates = None if prior else bp.UnitGates()
    priors = {"*.weight": PRIORS[prior]()} if prior else {}
    model = bp.BayesianNetwork(network, priors, data_size=50, gates=gates, example_input=x[:2])
    objective = Objective(model, Guide(model)).to("cuda").train()
    return objective, make_optimizer("adam", objective, 0.01), x.cuda(), torch.randint(3, (16,)).cuda()


@pytest.mark.gpu
@pytest.mark.parametrize("prior", [*PRIORS, None])
@pytest.mark.parametrize("execution", ["plain", "captured"])
def test_the_host_waits_for_nothing_in_a_step(prior, execution):
    objective, optimizer, x, y = on_gpu(prior)
    if execution == "plain":
        stepper = Stepper(objective, optimizer, 10, "plain")
        take = lambda: stepper.step(x, y, 1.0)  # noqa: E731
    else:
        step = FusedStep(objective, optimizer, trace(objective, x, y), compiled=False)
        take = lambda: step(x, y, 1.0)  # noqa: E731
    for _ in range(3):  # constants of the declaration are read in the second
        terms = take()
    torch.cuda.set_sync_debug_mode("error")
    try:
        take()
        with pytest.raises(RuntimeError):  # the control
            float(terms.loss)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@pytest.mark.parametrize("prior", [*PRIORS, None])
def test_terms_of_a_captured_step_stay_as_they_are(prior):
    objective, optimizer, x, y = on_gpu(prior)
    step = FusedStep(objective, optimizer, trace(objective, x, y), compiled=False)
    terms = step(x, y, 1.0)
    before = float(terms.loss), terms.outputs.clone()
    assert float(step(x, y, 1.0).loss) != before[0]
    assert float(terms.loss) == before[0] and torch.equal(terms.outputs, before[1])
