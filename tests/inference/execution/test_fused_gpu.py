"""The fused execution on a CUDA device: captured steps are the plain execution's."""

import pytest
import torch
from torch import nn

import bayesprune as bp

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
