"""Inputs in units of their own: what is said of a fit that did not standardise them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.inference.data.raw_inputs import are_raw
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.training.fit import fit
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Categorical
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.models.priors.gaussian import Gaussian

SIZE = 200
SDS = torch.tensor([1.0, 50.0, 0.01, 1000.0])


def inputs():
    torch.manual_seed(0)
    z = torch.randn(SIZE, 4)
    return z, z * SDS + torch.tensor([0.0, 100.0, 3.0, -5000.0])


def declared(likelihood, outputs):
    torch.manual_seed(0)
    return BayesianNetwork(lenet_300_100(4, outputs, (16,)), {"*.weight": Gaussian()}, likelihood, SIZE)


def notes(found):
    return " ".join(found.summary()["notes"])


def test_labels_of_raw_inputs_are_told_to_standardise_first_and_that_mends_them():
    z, x = inputs()
    y = (z[:, 0] > 0).long()
    how = {"steps": 600, "device": "cpu", "path": "plain", "kl_weight": 0.1}
    found = fit(declared(Categorical(), 2), (x, y), **how)
    assert "give standardise=True" in notes(found)
    mended = fit(declared(Categorical(), 2), (x, y), standardise=True, **how)
    assert "standardise" not in notes(mended)
    assert mended.score(x, y)["accuracy"] > 0.9 and mended.score(x, y)["nll"] < found.score(x, y)["nll"]
    noise = torch.randint(2, (SIZE,))
    useless = fit(declared(Categorical(), 2), (z, noise), **how | {"steps": 60})
    assert notes(useless) and "standardise" not in notes(useless)  # the control: a note on inputs that are standardised


def test_a_loss_of_raw_inputs_that_is_not_finite_names_the_way_out():
    z, x = inputs()
    y = torch.poisson((0.7 * z[:, 0]).exp())
    how = {"steps": 60, "device": "cpu", "path": "plain"}
    with pytest.raises(NonFiniteLossError, match=r"standardise the inputs \(standardise=True\), lower learning_rate"):
        fit(declared(Poisson(), 1), (x, y), **how)
    fit(declared(Poisson(), 1), (x, y), standardise=True, **how)
    with pytest.raises(NonFiniteLossError) as other:  # the control: standardised, and of a rate that is far too large
        fit(declared(Poisson(), 1), (z, y), **how, learning_rate=1e4)
    assert "standardise" not in str(other.value) and "lower learning_rate" in str(other.value)


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (torch.randn(200, 4), False),
        (torch.rand(200, 1, 8, 8), False),
        (255 * torch.rand(200, 1, 8, 8), True),
        (torch.randn(200, 4) + 100.0, True),
        (1e-3 * torch.randn(200, 4), True),
        (torch.randn(200, 3) * torch.tensor([1e-2, 1e-2, 5.0]), True),
        (torch.cat([torch.randn(200, 3), torch.zeros(200, 3)], dim=1), False),
        (torch.zeros(200, 3), False),
        (torch.randint(9, (200, 4)), False),
        (torch.full((200, 2), float("nan")), False),
    ],
)
def test_inputs_are_raw_where_their_size_or_that_of_a_feature_is_far_from_one(x, expected):
    assert are_raw(x) is expected


@pytest.mark.parametrize(
    ("likelihood", "data", "reason"),
    [
        (
            Categorical,
            lambda z: (z, (z[:, 0] > 0).long()),
            "inputs are standardised as they are, and targets have no units",
        ),
        (Normal, lambda z: (z, z[:, 0]), "inputs and targets are standardised as they are"),
    ],
)
def test_why_nothing_is_standardised_is_true_of_inputs_and_targets(likelihood, data, reason):
    z, _ = inputs()
    z = (z - z.mean(dim=0)) / z.std(dim=0)
    made = declared(likelihood(), 2 if likelihood is Categorical else 1)
    found = fit(made, data(z), steps=1, standardise=True, device="cpu")
    assert found.settings["standardised"]["reason"] == reason


class Numbered(nn.Module):
    """Looks whole numbers up."""

    def __init__(self):
        super().__init__()
        self.table, self.last = nn.Embedding(5, 3), nn.Linear(3, 1)

    def forward(self, x):
        return self.last(self.table(x))


def test_inputs_that_are_looked_up_are_said_to_be():
    torch.manual_seed(0)
    x, y = torch.randint(5, (SIZE,)), torch.randn(SIZE)
    y = (y - y.mean()) / y.std()
    found = fit(BayesianNetwork(Numbered(), {"last.weight": Gaussian()}, Normal(), SIZE), (x, y), steps=1, device="cpu")
    assert found.settings["standardised"]["reason"] == (
        "inputs are no measurements, but whole numbers or looked up, and targets are standardised as they are"
    )
