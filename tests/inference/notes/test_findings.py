"""A fit that came to little says so, with a setting to turn and a value; a good one says nothing."""

from __future__ import annotations

import copy
import functools
import re

import numpy as np
import pytest
import torch
from sklearn.datasets import load_breast_cancer, load_diabetes, load_digits
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.data.against_constant import CONSTANT
from bayesprune.inference.notes.findings import findings
from bayesprune.inference.rules.gate_training import Gating
from bayesprune.models.ready_networks import make_ready

BARE = {"kl_weight": 1.0, "kl_warmup": 0.0, "epochs": 15}
GOOD = {"kl_weight": 0.1, "kl_warmup": 0.6, "steps": 1500}


@functools.cache
def data(name):
    """Training and validation data, standardised: inputs, targets, validation inputs, validation targets."""
    load = {"digits": load_digits, "cancer": load_breast_cancer, "diabetes": load_diabetes}[name]
    x, y = load(return_X_y=True)
    order = np.random.default_rng(0).permutation(len(x))
    x, y = x[order], y[order]
    x = (x - x.mean(0)) / (x.std(0) + 1e-9)
    if name == "diabetes":
        y = (y - y.mean()) / y.std()
    x = torch.tensor(x, dtype=torch.float32)
    y = torch.tensor(y, dtype=torch.float32 if name == "diabetes" else torch.int64)
    held_out = len(x) // 5
    return x[held_out:], y[held_out:], x[:held_out], y[:held_out]


def fitted(prior, name="digits", validate=True, gates=None, **how):
    x, y, *validation = data(name)
    torch.manual_seed(0)
    outputs = {"digits": 10, "cancer": 2, "diabetes": 1}[name]
    network = make_ready("lenet-300-100", (x.shape[1],), outputs, 0.2)  # 60-20
    likelihood = bp.Normal() if name == "diabetes" else None
    priors = {} if gates is not None else {"*.weight": prior}
    bnn = bp.BayesianNetwork(network, priors, likelihood, len(x), gates=gates, example_input=x[:1])
    if validate:
        how["validation"] = tuple(validation)
    return bp.fit(bnn, (x, y), device="cpu", execution="plain", **how)


@functools.cache
def dead():
    """A prior that outweighs the data thirtyfold."""
    return fitted(bp.Gaussian(), kl_weight=30.0, kl_warmup=0.0, epochs=40)


@functools.cache
def shut():
    """A spike and slab all of whose inclusion probabilities have gone below 1/2."""
    return fitted(bp.SpikeAndSlab(), kl_weight=20.0, kl_warmup=0.0, epochs=50)


@functools.cache
def good():
    return fitted(bp.Gaussian(), kl_weight=0.1, kl_warmup=0.2, steps=500)


# -- no better than a constant ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prior", "how"),
    [
        (bp.HALO(kappa=300.0), {"guide": "map"}),
        (bp.VIB(), {"kl_weight": 100.0}),
        (bp.Laplace(scale=1e-3), {}),
        pytest.param(bp.Horseshoe(), {"kl_weight": 20.0, "epochs": 30}, marks=pytest.mark.slow),
    ],
    ids=["halo", "vib", "laplace", "horseshoe"],
)
def test_a_fit_no_better_than_a_constant_says_so_with_a_setting_and_a_value(prior, how):
    (note,) = fitted(prior, **{**BARE, **how}).summary()["notes"]
    assert re.match(r"the fit is (no|hardly) better than a constant prediction: -2\.\d+ nats per example", note)
    assert "validation accuracy" in note and "kl_weight=0.1, kl_warmup=0.6 and steps=2500" in note


def test_a_good_fit_says_nothing_and_has_the_entropy_of_its_labels_for_a_constant():
    assert good().summary()["notes"] == []
    shares = np.bincount(data("digits")[1].numpy()) / len(data("digits")[1])
    assert good().settings[CONSTANT] == pytest.approx(float((shares * np.log(shares)).sum()), abs=1e-4)
    assert findings(dead())


def test_a_fit_of_an_earlier_version_lacks_this_note_and_no_other():
    old = copy.copy(shut())
    old.settings = {key: value for key, value in old.settings.items() if key != CONSTANT}
    assert not any("constant" in note for note in findings(old)) and any("fc1.weight" in note for note in findings(old))
    assert any("constant" in note for note in findings(shut()))


def test_the_number_is_the_same_for_a_loader_which_is_not_read_again():
    class Counted(TensorDataset):
        read = 0

        def __getitem__(self, index):
            self.read += 1
            return super().__getitem__(index)

    x, y, *_ = data("digits")
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(torch.nn.Linear(64, 10), {"weight": bp.Gaussian()}, data_size=len(x))
    counted = Counted(x, y)
    loaded = bp.fit(bnn, DataLoader(counted, 128, shuffle=True), epochs=2, device="cpu")
    in_memory = bp.fit(bnn, (x, y), epochs=2, device="cpu")
    assert loaded.settings[CONSTANT] == pytest.approx(in_memory.settings[CONSTANT], abs=1e-9)
    assert counted.read <= 2 * len(x) + 128  # two passes, and the batch that is looked at before them


def test_a_noise_scale_that_has_not_arrived_is_told_apart_from_a_prior_that_is_too_strong():
    x, y, *_ = data("diabetes")
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(torch.nn.Linear(10, 1), {"weight": bp.Gaussian()}, bp.Normal(), len(x))
    (note,) = findings(bp.fit(bnn, (x, 150.0 + 77.0 * y), steps=120, standardise=False, device="cpu"))
    assert "scale of the noise" in note and "standardise" in note and "kl_weight" not in note


# -- layers ------------------------------------------------------------------------------------------------------


def test_layers_at_the_prior_are_named_and_those_of_a_good_fit_are_not():
    (note,) = findings(dead())
    assert re.search(r"the weights of fc1\.weight.* are where the prior has them", note)
    assert "sd" not in note  # the prior's own scale is no number that could be turned


def test_a_prior_that_leaves_nothing_is_told_once_with_its_own_knob():
    summary = shut().summary()
    assert summary["collapsed"] == ["fc1.weight", "fc2.weight", "fc3.weight"]
    assert sum("fc1.weight" in note for note in summary["notes"]) == 1
    assert "expected_density=0.5" in summary["notes"][0]


def test_units_that_are_all_closed_are_told_with_the_price_to_give():
    with pytest.warns(UserWarning, match="all units of"):
        fit = fitted(None, gates=bp.UnitGates(kappa=0.5), kl_weight=1.0, kl_warmup=0.2, epochs=30)
    (note,) = findings(fit)
    assert "all units of fc1 and fc2 are closed" in note and "give kappa=0.05" in note


# -- the course of the loss --------------------------------------------------------------------------------------


def test_a_loss_that_rose_at_the_end_is_told_and_one_that_rose_while_the_prior_faded_in_is_not():
    def late_jump(progress):
        return 1.0 if progress < 0.75 else 30.0

    how = {"kl_weight": 0.1, "kl_warmup": 0.4, "steps": 500}
    rising = findings(fitted(bp.Gaussian(), schedule=late_jump, **how))
    assert any("the loss rose at the end" in note and "learning_rate=0.0001" in note for note in rising)
    calm = fitted(bp.Gaussian(), schedule="constant", kl_weight=1.0, kl_warmup=0.5, steps=500)
    loss = calm.trace["loss"].values[0]
    assert loss[:10].max() > 1.2 * loss[0]  # it did rise, with the KL weight
    assert not any("rose" in note for note in findings(calm))


def test_a_learning_rate_that_is_far_too_large_is_part_of_the_remedy():
    (note,) = findings(fitted(bp.Gaussian(), schedule="constant", learning_rate=0.1, steps=300, kl_weight=0.1))
    assert "learning_rate=0.001" in note and "learning_rate" not in findings(dead())[0]


def test_a_fit_that_ended_while_the_loss_still_fell_says_how_many_steps_to_give():
    (note,) = findings(fitted(bp.Gaussian(), schedule="constant", epochs=30, kl_weight=1.0, kl_warmup=0.2))
    assert "ended while the loss still fell" in note and "steps=2500" in note


def test_noise_of_the_loss_is_neither_a_rise_nor_a_fall():
    noisy, generator = copy.copy(good()), np.random.default_rng(0)
    noisy.trace = noisy.trace.copy(deep=True)
    size = noisy.trace["loss"].shape
    noisy.trace["loss"].values[:] = 1e4 + 0.5 * len(data("digits")[0]) * generator.normal(size=size)
    assert findings(noisy) == []
    noisy.trace["loss"].values[0, -30:] += 1.5 * len(data("digits")[0])
    assert len(findings(noisy)) == 1


# -- what was lost on validation data ----------------------------------------------------------------------------


def test_what_the_prior_takes_back_is_told_apart_from_what_is_learned_by_heart():
    fit = copy.copy(good())
    fit.trace = good().trace.copy(deep=True)
    fit.trace["validation_nll"].values[0, -10:] += 1.5
    (by_heart,) = findings(fit)
    assert "learns what is chance in the training data: give kl_weight=1, or" in by_heart
    fit.trace["expected_log_likelihood"].values[0, -10:] -= 1.0 * len(data("digits")[0])
    assert any("the prior has taken back what the data had taught: give kl_weight=0.01" in one for one in findings(fit))
    fit.trace["validation_nll"].values[0, -10:] -= 1.0
    assert not any("validation data" in note for note in findings(fit))


# -- pruning -----------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:the noise of theta:UserWarning")
def test_units_that_leave_before_anything_is_learned_were_pruned_prematurely():
    gates = bp.UnitGates(kappa=0.002, weight_scale=0.3)
    hasty = fitted(None, gates=gates, rules=[Gating(step=200.0, delay=0.0)], kl_weight=1.0, kl_warmup=0.0, epochs=12)
    assert any("pruned prematurely" in note and "Gating(step=50)" in note for note in findings(hasty))
    patient = fitted(None, gates=gates, rules=[Gating(delay=0.0)], kl_weight=1.0, kl_warmup=0.0, steps=700)
    assert float(patient.trace["units_left"].values[0, -1].sum()) < 80 + 10  # units did leave
    assert findings(patient) == []


def test_probabilities_that_are_undecided_are_told_with_their_share():
    fit = copy.deepcopy(
        fitted(bp.SpikeAndSlab(), kl_weight=0.1, kl_warmup=0.2, steps=400, seed=1)
    )  # at 0 it still falls
    (note,) = findings(fit)
    pips = np.concatenate([one.values.ravel() for one in fit.inclusion_probabilities().values()])
    assert note.startswith(f"{100 * ((pips > 0.05) & (pips < 0.95)).mean():.0f} % of the inclusion probabilities")
    assert note.endswith("give steps=2500")
    fit.settings["steps"] = 2500
    assert findings(fit)[0].endswith("give expected_density=0.01")
    with torch.no_grad():
        fit.guide.families[-1].logit.copy_(fit.guide.families[-1].logit.sign() * 6.0)
    assert findings(fit) == []


def test_no_more_than_four_notes_and_no_two_the_same():
    for fit in (dead(), shut(), good()):
        notes = fit.summary()["notes"]
        assert len(notes) == len(set(notes)) <= 4


# -- many priors -------------------------------------------------------------------------------------------------

PRIORS = {
    "halo": bp.HALO(kappa=70.0),
    "horseshoe": bp.Horseshoe(),
    "gaussian": bp.Gaussian(),
    "laplace": bp.Laplace(),
    "spike-and-slab": bp.SpikeAndSlab(),
    "continuous": bp.ContinuousSpikeAndSlab(),
    "l0": bp.L0HardConcrete(),
    "sws": bp.SWS(),
    "mcp": bp.MCP(lam=8.0),
    "group-horseshoe": bp.GroupHorseshoe(),
    "vib": bp.VIB(),
    "structured": bp.StructuredBayesianPruning(),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["digits", "cancer"])
@pytest.mark.parametrize("prior", PRIORS)
def test_good_fits_of_many_priors_raise_no_alarm(prior, name):
    fit = fitted(PRIORS[prior], name, **GOOD)
    assert float(fit.trace["validation_accuracy"].values[0, -1]) > 0.92  # it is a good fit
    assert [note for note in findings(fit) if "% of the inclusion probabilities" not in note] == []


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["gaussian", "spike-and-slab", "horseshoe"])
def test_good_regressions_raise_no_alarm(prior):
    fit = fitted(PRIORS[prior], "diabetes", kl_weight=1.0, kl_warmup=0.6, steps=2500)
    assert float(fit.trace["validation_rmse"].values[0, -1]) < 0.8
    assert [note for note in findings(fit) if "% of the inclusion probabilities" not in note] == []


@pytest.mark.slow
def test_a_regression_that_is_learned_by_heart_says_so():
    (note,) = findings(fitted(bp.SWS(kappa=1.0), "diabetes", kl_weight=1e-3, kl_warmup=0.0, steps=900))
    assert "learns what is chance in the training data" in note and "kl_weight=1" in note


@pytest.mark.slow
@pytest.mark.parametrize("prior", ["gaussian", "laplace", "spike-and-slab", "horseshoe", "vib"])
def test_fits_at_chance_raise_one_whatever_the_prior(prior):
    fit = fitted(PRIORS[prior], kl_weight=100.0, kl_warmup=0.0, epochs=30)
    assert float(fit.trace["validation_accuracy"].values[0, -1]) < 0.5
    assert "better than a constant prediction" in findings(fit)[0]
