"""Deletion of random sets: closed forms of linear regression, and redundancy that single deletions cannot see."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from torch import nn

import bayesprune as bp

NOISE = 0.5
WEIGHT = np.array([[0.8, 0.8, -0.3, 0.1, 0.0]])
SCORES = {"weight": np.array([[0.9, 0.8, 0.3, 0.3, 0.0]])}


@pytest.fixture(scope="module")
def linear():
    """A linear network whose weights are placed by hand; its first two inputs are copies with noise apart."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(300, 5, generator=generator, dtype=torch.float64)
    x[:, 1] = -x[:, 0] + 0.1 * x[:, 1]
    network = nn.Linear(5, 1, bias=False).double()
    with torch.no_grad():
        network.weight.copy_(torch.as_tensor(WEIGHT))
    y = (x @ torch.as_tensor(WEIGHT).T)[:, 0] + NOISE * torch.randn(300, generator=generator, dtype=torch.float64)
    return bp.laplace_around(network, (x, y), bp.Normal(NOISE), prior_sd=1.0), (x, y)


def closed_form(data, deleted):
    """Mean change of the loss: deleting adds d = x w to the residual, and (2 r d + d^2) / (2 noise^2) to the loss."""
    x, y = (part.numpy() for part in data)
    r, d = y - x @ WEIGHT[0], x[:, deleted] @ WEIGHT[0, deleted]
    change = (2 * r * d + d**2) / (2 * NOISE**2)
    return change.mean(), change.std(ddof=1) / np.sqrt(len(change))


def run(linear, **changed):
    fit, data = linear
    asked = {"sizes": (1, 2), "bands": (0.0, 0.5, 1.0), "sets": 60, "scores": SCORES, **changed}
    return bp.set_deletion(fit, data, **asked)


def test_a_set_that_is_the_whole_band_has_the_closed_form(linear):
    found = run(linear)
    pair = found.table.isel(band=1).sel(size=2)
    expected, error = closed_form(linear[1], [0, 1])
    assert float(pair.change) == pytest.approx(expected, abs=1e-9)
    assert float(pair.lower) == float(pair.upper) == float(pair.change)
    assert float(pair.harmful) == (expected > 2 * error)
    assert abs(closed_form(linear[1], [0, 2])[0] - expected) > 0.1  # control: another pair
    assert found.table.available.values.tolist() == [3, 2]
    assert found.loss == pytest.approx(float(-linear[0].model.likelihood.log_prob(*outputs(linear)).mean()), abs=1e-9)


def outputs(linear):
    fit, (x, y) = linear
    return (x @ torch.as_tensor(WEIGHT).T).detach(), y


def test_means_over_sets_are_those_of_all_sets_and_the_band_bounds_what_is_deleted(linear):
    found = run(linear, sets=2000, batch_size=300)
    low = found.table.isel(band=0)
    for size in (1, 2):
        every = [closed_form(linear[1], list(one))[0] for one in itertools.combinations([2, 3, 4], size)]
        error = np.std(every) / np.sqrt(2000)
        assert abs(float(low.change.sel(size=size)) - np.mean(every)) < 4 * error + 1e-12
        assert float(low.upper.sel(size=size)) <= max(every) + 1e-12
    assert float(low.additive.sel(size=2)) == pytest.approx(2 * float(low.change.sel(size=1)), rel=1e-12)
    assert np.isnan(low.additive.sel(size=1))


def test_redundancy_shows_in_sets_alone():
    # Two copies of one input, each with half of the weight, and a nonlinearity that saturates: one copy will do.
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(500, 1, generator=generator).sign().double() * 3.0
    network = nn.Sequential(nn.Linear(2, 1, bias=False), nn.Tanh()).double()
    with torch.no_grad():
        network[0].weight.fill_(1.0)
    y = x[:, 0].sign()
    fit = bp.laplace_around(network, (x.repeat(1, 2), y), bp.Normal(0.1), prior_sd=1.0)
    found = bp.set_deletion(
        fit, (x.repeat(1, 2), y), (1, 2), (0.0, 1.0), sets=4, scores={"0.weight": np.full((1, 2), 0.9)}
    )
    pair = found.table.isel(band=0).sel(size=2)
    assert float(pair.change) > 50 * float(pair.additive) > 0
    alone = bp.set_deletion(
        fit, (x.repeat(1, 2), y), (1,), (0.0, 1.0), sets=4, scores={"0.weight": np.full((1, 2), 0.9)}
    )
    assert float(alone.table.change.max()) < 0.01  # control: one at a time nothing shows


def test_bands_smaller_than_a_set_are_left_out_and_the_text_says_it(linear):
    found = run(linear, sizes=(1, 3))
    assert np.isnan(found.table.change.isel(band=1).sel(size=3))
    assert np.isfinite(found.table.change.isel(band=0).sel(size=3))
    lines = str(found).splitlines()
    assert lines[2].split()[0] == "0" and lines[3].endswith("-")


def test_the_same_seed_deletes_the_same_and_nothing_is_changed(linear):
    before = {name: value.clone() for name, value in linear[0].model.state_dict().items()}
    state = np.random.get_state()[1].copy()
    first, second, other = run(linear, sets=3), run(linear, sets=3), run(linear, sets=3, seed=1)
    assert first.table.equals(second.table)
    assert not first.table.equals(other.table)
    assert (np.random.get_state()[1] == state).all()
    for name, value in linear[0].model.state_dict().items():
        assert torch.equal(value, before[name])


def test_edges_belong_to_the_band_below_and_the_lowest_to_the_first(linear):
    found = run(linear, bands=(0.0, 0.3, 0.8, 1.0), sizes=(1,))
    assert found.table.available.values.tolist() == [3, 1, 1]


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"sizes": (2, 1)}, "sizes must ascend"),
        ({"sizes": (0, 1)}, "sizes must ascend"),
        ({"sizes": ()}, "sizes must ascend"),
        ({"bands": (1.0, 0.0)}, "bands are edges that ascend"),
        ({"bands": (1.0,)}, "bands are edges that ascend"),
        ({"sets": 0}, "sets and batch_size must be at least 1"),
        ({"probability": 1.0}, "probability must lie strictly"),
        ({"threshold": -1.0}, "threshold be at least 0"),
        ({"per": "unit"}, "per= takes one of"),
        ({"tensors": "nothing"}, "no tensor 'nothing'"),
    ],
)
def test_bad_input_is_one_sentence(linear, changed, sentence):
    with pytest.raises(ValueError, match=sentence) as refused:
        run(linear, **changed)
    assert "\n" not in str(refused.value)
