"""The attraction set of zero is safe, and no larger: gradient flows from both sides of its corner."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from bayesprune.inference.rules.attraction import (
    attraction_bounds,
    fan_out_norms,
    is_attracted,
    lipschitz_estimates,
    time_to_zero,
)
from bayesprune.models.units.channel_groups import ChannelGroups

KAPPA, DECAY, LIPSCHITZ = 0.2, 0.5, 1.0  # bounds are 0.2 for the norm and 0.1 for theta


def ones(value):
    return torch.tensor([value], dtype=torch.float64)


def flow(norms, theta, rate=1.0, duration=40.0, step=5e-3, kappa=KAPPA, decay=DECAY, lipschitz=LIPSCHITZ):
    """Euler steps of the worst case, a loss that falls by `lipschitz` for each unit of the norm.

    Returns the norms and theta at the end, and when theta first was zero.
    """
    arrived = torch.full_like(theta, math.inf)
    for number in range(round(duration / step)):
        arrived = torch.where((theta == 0) & arrived.isinf(), number * step, arrived)
        slope = kappa - lipschitz * norms
        norms, theta = (
            norms + step * (theta * lipschitz - decay * norms),
            (theta - step * rate * slope).clamp(0.0, 1.0),
        )
    return norms, theta, arrived


def test_from_inside_both_go_to_zero_and_from_outside_theta_goes_to_one():
    shares = torch.tensor([0.5, 0.9, 0.99, 1.1, 1.5, 3.0], dtype=torch.float64)
    norm_bound, theta_bound = attraction_bounds(KAPPA, DECAY, ones(LIPSCHITZ))
    assert (norm_bound.item(), theta_bound.item()) == (KAPPA / LIPSCHITZ, DECAY * KAPPA / LIPSCHITZ**2)
    starts = shares * norm_bound, shares * theta_bound
    inside = is_attracted(*starts, KAPPA, DECAY, ones(LIPSCHITZ))
    assert inside.tolist() == [True, True, True, False, False, False]
    norms, theta, _ = flow(*starts)
    assert theta.tolist() == [0.0, 0.0, 0.0, 1.0, 1.0, 1.0]
    assert (norms[:3] < 1e-6).all() and (norms[3:] > 0.99 * LIPSCHITZ / DECAY).all()


def test_every_point_of_the_box_is_attracted():
    grid = torch.linspace(0.0, 0.98, 12, dtype=torch.float64)
    norm_bound, theta_bound = attraction_bounds(KAPPA, DECAY, ones(LIPSCHITZ))
    norms, theta = (part.flatten() for part in torch.meshgrid(grid * norm_bound, grid * theta_bound, indexing="ij"))
    assert is_attracted(norms, theta, KAPPA, DECAY, ones(LIPSCHITZ)).all()
    assert (flow(norms, theta)[1] == 0).all()
    # Control: each bound alone is not enough, the other coordinate may be too far out.
    beyond = torch.tensor([0.9 * KAPPA, 8 * KAPPA]), torch.tensor([0.9, 0.9 * DECAY * KAPPA])
    assert not is_attracted(*beyond, KAPPA, DECAY, torch.tensor([LIPSCHITZ])).any()
    assert (flow(*(part.double() for part in beyond))[1] == 1).all()


def test_the_time_to_zero_is_a_bound_and_a_tight_one_where_theta_is_fast():
    shares = torch.tensor([0.3, 0.6, 0.9], dtype=torch.float64)
    norms, theta = shares * KAPPA, shares.flip(0) * DECAY * KAPPA
    for rate in (0.5, 1.0):
        bound = time_to_zero(norms, theta, KAPPA, DECAY, ones(LIPSCHITZ), rate)
        arrived = flow(norms, theta, rate, duration=20.0)[2]
        assert (arrived <= bound).all()
    corner = shares * KAPPA, shares * DECAY * KAPPA  # here w stands still at first
    bound = time_to_zero(*corner, KAPPA, DECAY, ones(LIPSCHITZ), 1e3)
    arrived = flow(*corner, 1e3, duration=0.01, step=1e-6)[2]
    assert (arrived <= bound + 1e-6).all() and (arrived > 0.95 * bound).all()
    assert time_to_zero(ones(KAPPA), ones(0.0), KAPPA, DECAY, ones(LIPSCHITZ)).isinf().all()


# ------------------------------------------------------------------------------------------- a real unit


def logistic(starts, bounds, kappa, decay, active, labels, duration, step):
    """Gradient flow of a unit with one reader and its gate, on the mean loss of a logistic regression.

    The unit puts out `active`; `starts` are shares of the bounds, and the reader starts on the side where it helps.
    """
    side = 1.0 if float((active * labels).sum()) > 0 else -1.0
    weight, theta = side * starts * bounds[0], starts * bounds[1]
    for _ in range(round(duration / step)):
        margin = labels * active * weight.unsqueeze(1)
        open_loss = nn.functional.softplus(-margin).mean(dim=1)
        slope = (-labels * active * torch.sigmoid(-margin)).mean(dim=1)
        gain = open_loss - math.log(2.0)  # a closed gate leaves a logit of zero
        weight, theta = (
            weight - step * (theta * slope + decay * weight),
            (theta - step * (gain + kappa)).clamp(0.0, 1.0),
        )
    return weight, theta


def test_a_logistic_unit_goes_to_zero_from_inside_and_comes_back_from_outside():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(60, 1, generator=generator, dtype=torch.float64)
    labels = torch.where(torch.rand(60, generator=generator) < 0.9, x[:, 0].sign(), -x[:, 0].sign())
    network = nn.Sequential(nn.Linear(1, 1), nn.ReLU(), nn.Linear(1, 1, bias=False)).double()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
        network[0].bias.fill_(0.0)
    sets = {"0": ChannelGroups(network, x[:2]).sets["0"]}
    kappa, decay = 2e-3, 0.1

    def gradient(value):
        with torch.no_grad():
            network[2].weight.fill_(value)
        loss = nn.functional.softplus(-labels * network(x)[:, 0]).mean()
        return {"2.weight": torch.autograd.grad(loss, network[2].weight)[0]}

    # The largest gradient over all readers that lie within the bound.
    lipschitz = lipschitz_estimates([gradient(value) for value in (-0.02, -0.01, 0.0, 0.01, 0.02)], sets)["0"]
    bounds = attraction_bounds(kappa, decay, lipschitz)
    assert bounds[0] < 0.02 and bounds[1] < 1 / 3
    starts = torch.tensor([0.5, 0.9, 0.99, 1.5, 3.0], dtype=torch.float64)
    active = network[:2](x)[:, 0].detach()
    weight, theta = logistic(starts, bounds, kappa, decay, active, labels, duration=400.0, step=0.05)
    assert (theta[:3] == 0).all() and (weight[:3].abs() < 1e-6).all()
    assert (theta[3:] == 1).all() and (weight[3:].abs() > bounds[0]).all()
    # Control: a constant that is too small calls points safe from which the unit comes back.
    assert is_attracted(1.5 * bounds[0], 1.5 * bounds[1], kappa, decay, lipschitz / 2).all()


# --------------------------------------------------------------------------------------- norms and estimates


class Joined(nn.Module):
    """Units that are read by two layers, one of them with four columns a unit; the last is read by one only."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 3, 3, padding=1)
        self.flat = nn.Linear(12, 2)
        self.other = nn.Conv2d(3, 2, 1, bias=False)
        self.idle = nn.Conv2d(1, 2, 1)

    def forward(self, x):
        self.idle(x)
        h = torch.relu(self.conv(x))
        return self.flat(h.flatten(1)) + self.other(h).mean(dim=(2, 3))


def test_the_fan_out_of_a_unit_is_all_that_reads_it():
    network = Joined().double()
    sets = ChannelGroups(network, torch.zeros(2, 1, 2, 2)).sets
    weights = {name: parameter.detach() for name, parameter in network.named_parameters()}
    found = fan_out_norms(weights, sets)["conv"]
    for unit in range(3):
        columns = [weights["flat.weight"][:, 4 * unit : 4 * unit + 4], weights["other.weight"][:, unit]]
        expected = torch.cat([part.flatten() for part in columns]).norm()
        torch.testing.assert_close(found[unit], expected, rtol=1e-14, atol=0.0)
        assert abs(columns[0].norm() - expected) > 1e-3  # control: one of the two readers is not all
    assert fan_out_norms(weights, sets)["idle"].tolist() == [0.0, 0.0]  # nothing reads them


def test_estimates_are_the_largest_over_batches():
    network = Joined().double()
    sets = {"conv": ChannelGroups(network, torch.zeros(2, 1, 2, 2)).sets["conv"]}
    one, other = (
        {name: torch.randn_like(parameter) for name, parameter in network.named_parameters()} for _ in range(2)
    )
    one["other.weight"][:, 0], other["other.weight"][:, 1] = 10.0, 10.0
    norms = torch.stack([fan_out_norms(batch, sets)["conv"] for batch in (one, other)])
    assert norms[0, 0] > norms[1, 0] and norms[0, 1] < norms[1, 1]  # neither batch has the largest of all units
    assert lipschitz_estimates(iter([one, other]), sets)["conv"].equal(norms.amax(dim=0))
    with pytest.raises(ValueError, match="no gradients"):
        lipschitz_estimates([], sets)


def test_a_unit_without_influence_is_attracted_and_one_without_a_price_is_not():
    zero, one = torch.zeros(1), torch.ones(1)
    assert is_attracted(one, one, KAPPA, DECAY, zero).all()
    assert not is_attracted(zero, zero, zero, DECAY, zero).any()
    assert not is_attracted(zero, zero, KAPPA, DECAY, one * math.nan).any()


@pytest.mark.parametrize(
    ("kappa", "decay", "lipschitz", "message"),
    [(-0.1, DECAY, 1.0, "kappa"), (KAPPA, 0.0, 1.0, "decay"), (KAPPA, DECAY, -1.0, "lipschitz")],
)
def test_wrong_arguments_are_told(kappa, decay, lipschitz, message):
    with pytest.raises(ValueError, match=message):
        attraction_bounds(kappa, decay, ones(lipschitz))


def test_a_wrong_rate_is_told():
    with pytest.raises(ValueError, match="rate"):
        time_to_zero(ones(0.1), ones(0.1), KAPPA, DECAY, ones(LIPSCHITZ), rate=0.0)
