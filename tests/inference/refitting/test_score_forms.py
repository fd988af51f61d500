"""The forms of a posterior, each against a calculation of its own."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayesprune as bp

GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(80, 6, generator=GENERATOR, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long()
EXACT = {"precision": "float64", "device": "cpu", "batch_size": 20, "learning_rate": 0.01}
NAMES = ("0.weight", "2.weight")


def fitted(prior, guide=None, **more):
    torch.manual_seed(3)
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 2)).double()
    bnn = bp.BayesianNetwork(net, {"*.weight": prior}, likelihood=bp.Categorical(), data_size=len(X))
    return bp.fit(bnn, (X, Y), guide, steps=60, **EXACT, **more)


@pytest.fixture(scope="module")
def fit():
    return fitted(bp.SpikeAndSlab(0.3, slab_sd=1.0))


def by_hand(probabilities):
    """Scores of mean probabilities `(n, classes)`."""
    right = torch.nn.functional.one_hot(Y, 2).double()
    confidence, hit = probabilities.max(1).values, (probabilities.argmax(1) == Y).double()
    bins = (confidence * 15).ceil()
    gaps = [float((hit - confidence)[bins == one].sum().abs()) for one in bins.unique()]
    return {
        "accuracy": float((probabilities.argmax(1) == Y).double().mean()),
        "nll": -float(probabilities[torch.arange(len(Y)), Y].log().mean()),
        "brier": float((probabilities - right).square().sum(1).mean()),
        "ece": sum(gaps) / len(Y),
    }


def outputs(fit, weights):
    biases = dict(fit.model.network.named_parameters())
    hidden = torch.relu(X @ weights["0.weight"].T + biases["0.bias"])
    return (hidden @ weights["2.weight"].T + biases["2.bias"]).softmax(1).detach()


def test_each_form_is_what_it_says(fit):
    found = bp.score_forms(fit, X, Y, draws=400, seed=1)
    probabilities = {name: torch.as_tensor(fit.inclusion_probabilities()[name].values) for name in NAMES}
    median = {name: p > 0.5 for name, p in probabilities.items()}
    flat = torch.cat([p.reshape(-1) for p in probabilities.values()])
    means, means_of_slabs = fit.included_weights(), fit.guide.families[0]
    spreads = dict(zip(NAMES, means_of_slabs.cut(means_of_slabs.log_scale.detach().exp()), strict=True))
    expected = {"means": by_hand(outputs(fit, {name: means[name] * median[name] for name in NAMES}))}
    generator = torch.Generator().manual_seed(7)

    def drawn(gates):
        total = torch.zeros(len(X), 2, dtype=torch.float64)
        for _ in range(4000):
            noise = {name: torch.randn(means[name].shape, generator=generator, dtype=torch.float64) for name in NAMES}
            total += outputs(fit, {n: (means[n] + spreads[n] * noise[n]) * gates(n) for n in NAMES})
        return by_hand(total / 4000)

    expected["drawn"] = drawn(lambda name: median[name])
    expected["averaged"] = drawn(lambda name: torch.bernoulli(probabilities[name], generator=generator))
    assert found["means"] == pytest.approx(expected["means"] | {"kept": float(sum(m.sum() for m in median.values()))})
    for form in ("drawn", "averaged"):
        assert found[form]["nll"] == pytest.approx(expected[form]["nll"], abs=0.007)
        assert found[form]["brier"] == pytest.approx(expected[form]["brier"], abs=0.005)
    # control: the forms differ by more than that
    assert abs(expected["drawn"]["nll"] - expected["averaged"]["nll"]) > 0.015
    assert found["averaged"]["kept"] == pytest.approx(float(flat.sum()))
    assert found.undecided == pytest.approx(float(((flat > 0.05) & (flat < 0.95)).double().mean()))
    assert found.weights == 64


def test_the_averaged_form_is_the_score_of_the_fit(fit):
    expected = fit.score(X, Y, seed=3)
    found = bp.score_forms(fit, X, Y, seed=3)["averaged"]
    assert {name: found[name] for name in expected} == pytest.approx(expected)


def test_after_a_refit_averaged_and_drawn_are_the_same_and_nothing_is_undecided(fit):
    given = bp.refit(fit, (X, Y), steps=20)
    found = bp.score_forms(given, X, Y)
    assert found["averaged"] == found["drawn"] != bp.score_forms(fit, X, Y)["drawn"]
    assert found.undecided == 0.0
    assert "was given" in found.notes[0]


def test_a_threshold_chooses_another_structure(fit):
    found = [bp.score_forms(fit, X, Y, min_inclusion=value)["means"]["kept"] for value in (0.1, 0.5)]
    assert found[0] > found[1]


def test_a_map_says_that_there_is_one_form():
    fit = fitted(bp.HALO(), "map")
    found = bp.score_forms(fit, X, Y)
    assert list(found.rows) == ["means"] and found.undecided is None
    assert found["means"]["nll"] == pytest.approx(fit.score(X, Y)["nll"])
    assert "one network" in found.notes[0]


def test_priors_without_atoms_have_all_forms_by_their_own_event():
    fit = fitted(bp.Horseshoe())
    found = bp.score_forms(fit, X, Y, min_inclusion=0.2)
    assert list(found.rows) == ["averaged", "drawn", "means"]
    assert found["drawn"]["kept"] == found["means"]["kept"]


def test_numbers_have_an_rmse_in_place_of_classes():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 1), nn.Flatten(0)).double()
    bnn = bp.BayesianNetwork(net, {"*.weight": bp.SpikeAndSlab(0.5)}, likelihood=bp.Normal(), data_size=len(X))
    fit = bp.fit(bnn, (X, X[:, 0] - X[:, 3]), steps=200, **EXACT)
    found = bp.score_forms(fit, X, X[:, 0] - X[:, 3])
    assert set(found["means"]) >= {"rmse", "nll", "kept"} and "brier" not in found["means"]
    assert all(math.isfinite(row["nll"]) for row in found.rows.values())


def test_it_prints_a_row_a_form(fit):
    lines = str(bp.score_forms(fit, X, Y)).splitlines()
    assert lines[0].split() == ["form", "accuracy", "nll", "ece", "brier", "kept"]
    assert [line.split()[0] for line in lines[1:4]] == ["averaged", "drawn", "means"]
