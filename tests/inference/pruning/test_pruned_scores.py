"""Pruning says when what it returns is much worse than what it was given, and when a layer is gone."""

from __future__ import annotations

import copy
import dataclasses

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, IterableDataset, TensorDataset

import bayesprune as bp
from bayesprune.inference.pruning import chosen_weights as prune_module
from bayesprune.inference.pruning.pruned_scores import EXAMPLES, _is_much_worse, gone_layers

SIZE = 500


def inputs(seed=0):
    return torch.randn(SIZE, 6, generator=torch.Generator().manual_seed(seed))


def fitted(y, likelihood=None, outputs=2, normalised=False):
    """A network that has learned its data; the guide is narrow, so that every weight is needed and known to be."""
    torch.manual_seed(2)
    middle = [nn.BatchNorm1d(16)] if normalised else []
    network = nn.Sequential(nn.Linear(6, 16), *middle, nn.ReLU(), nn.Linear(16, outputs))
    bnn = bp.BayesianNetwork(network, {"*.weight": bp.Gaussian()}, likelihood, data_size=SIZE)
    more = {"kl_weight": 0.01, "kl_warmup": 0.5, "learning_rate": 0.02, "device": "cpu"}
    return bp.fit(bnn, (inputs(), y), steps=400, **more)


@pytest.fixture(scope="module")
def classes():
    x = inputs()
    y = (x[:, 0] * x[:, 1] > 0).long()
    return fitted(y), (x, y)


@pytest.fixture(scope="module")
def numbers():
    x = inputs()
    y = 3.0 * x[:, 0] + x[:, 1].abs()
    return fitted(y, bp.Normal(), outputs=1), (x, y)


def about_scores(result):
    return [note for note in result.report.notes if note.startswith("pruning by")]


def accuracy(network, x, y):
    with torch.no_grad():
        return float((network(x).argmax(1) == y).float().mean())


def test_a_network_that_is_much_worse_is_told_from_what_to_what_by_which_rule_and_what_to_do(classes):
    fit, data = classes
    result = bp.prune(fit, sparsity=0.95, data=data)
    (note,) = about_scores(result)
    after = 100.0 * accuracy(result.network, *data)
    assert f"to {after:.1f} %" in note and "500 training examples" in note
    assert "sparsity 0.95 per network, by magnitude," in note and "finetune" in note and note in str(result.report)
    centre = 100.0 * accuracy(bp.prune(fit, sparsity=0.0).network, *data)
    assert f"{centre:.1f} % at the guide's centre" in note
    # What it names has been tried: it is within the margin, and the next one is not.
    value = float(note.split("take sparsity ")[1].split()[0])
    milder = bp.prune(fit, sparsity=value, data=data)
    assert about_scores(milder) == [] and f"({100 * accuracy(milder.network, *data):.1f} %)" in note
    assert about_scores(bp.prune(fit, sparsity=value + 0.1, data=data)) != []


def test_a_network_that_is_as_good_gets_no_note(classes):
    fit, data = classes
    assert bp.prune(fit, sparsity=0.1, data=data).report.notes == ()
    (kept,) = bp.prune(fit, sparsity=0.95).report.notes  # by the examples that the fit keeps
    assert f"on {SIZE} training examples" in kept
    assert bp.prune(dataclasses.replace(fit, examples=None), sparsity=0.95).report.notes == ()  # nothing is known of it


def test_a_network_that_is_better_than_the_averaged_prediction_gets_no_note(classes):
    """Wide draws predict badly; what pruning returns from their centre is not worse than what it was given."""
    fit, data = copy.deepcopy(classes[0]), classes[1]
    assert about_scores(bp.prune(fit, sparsity=0.95, data=data)) != []
    with torch.no_grad():
        for family in fit.guide.families:
            family.log_scale.fill_(1.0)
    assert fit.score(*data)["accuracy"] < 0.8
    assert about_scores(bp.prune(fit, sparsity=0.95, data=data)) == []


def test_a_smaller_inclusion_probability_is_named_where_one_would_do(classes):
    fit, data = copy.deepcopy(classes[0]), classes[1]
    for prior in fit.model.priors.values():  # a rule that asks for much: larger than twice the rms
        prior.hierarchy.included = bp.relative_threshold(2.0)
    (note,) = about_scores(bp.prune(fit, min_inclusion=0.5, data=data))
    assert "by inclusion probability > 0.5 took" in note
    value = note.split("take ")[1].split(" (")[0]
    name, number = value.split()[:2]
    asked = {name: float(number)} | ({"criterion": "magnitude"} if name == "sparsity" else {})
    assert about_scores(bp.prune(fit, **asked, data=data)) == []


def test_a_regression_is_judged_by_its_rmse(numbers):
    fit, data = numbers
    (note,) = about_scores(bp.prune(fit, sparsity=0.9, data=data))
    assert "took the rmse" in note and "%" not in note.split("took")[1].split(":")[0]
    assert about_scores(bp.prune(fit, sparsity=0.0, data=data)) == []


def test_a_data_set_and_its_loader_are_read_by_row_and_a_stream_is_left_to_its_owner(classes):
    fit, data = classes
    expected = about_scores(bp.prune(fit, sparsity=0.95, data=data))
    loader = DataLoader(TensorDataset(*data), batch_size=32, shuffle=True)
    state = torch.get_rng_state()
    assert about_scores(bp.prune(fit, sparsity=0.95, data=loader)) == expected
    assert about_scores(bp.prune(fit, sparsity=0.95, data=TensorDataset(*data))) == expected
    assert torch.equal(state, torch.get_rng_state())

    class Stream(IterableDataset):
        read = 0

        def __iter__(self):
            for pair in zip(*data, strict=True):
                self.read += 1
                yield pair

    stream = Stream()
    assert about_scores(bp.prune(fit, sparsity=0.95, data=DataLoader(stream, batch_size=32))) == []
    assert stream.read == 0


@pytest.mark.parametrize("y", [torch.full((SIZE,), 7), torch.full((SIZE,), float("nan")), torch.zeros(SIZE, 3)])
def test_targets_that_mean_nothing_are_taken_as_before(classes, y):
    fit, (x, _) = classes
    assert about_scores(bp.prune(fit, sparsity=0.95, data=(x, y))) == []
    assert bp.prune(fit, sparsity=0.95, data=(torch.zeros(9, 2), torch.zeros(9))).report.notes == ()


def test_batch_normalisation_is_estimated_again_before_anything_is_compared():
    x = inputs()
    y = (x[:, 0] * x[:, 1] > 0).long()
    fit = fitted(y, normalised=True)
    with torch.no_grad():
        fit.model.network[1].running_mean.fill_(50.0)  # of other weights than the centre's
    result = bp.prune(fit, sparsity=0.95, data=(x, y))
    (note,) = about_scores(result)
    centre = bp.prune(fit, sparsity=0.0, data=(x, y)).network
    assert f"{100 * accuracy(centre, x, y):.1f} % at the guide's centre" in note
    assert "estimated again" in result.report.batch_normalisation


def test_a_layer_of_which_nothing_is_left_is_told_without_data(classes):
    fit = dataclasses.replace(classes[0], examples=None)

    named = {"2.weight": -1.0, "0.weight": 1.0}
    result = bp.prune(
        fit,
        sparsity=0.5,
        criterion=lambda f, r: {n: w.abs() + 9.0 * named[n] for n, w in f.included_weights(r).items()},
    )
    (note,) = result.report.notes
    assert note.startswith(
        "a layer is gone: none of the 32 weights of 2.weight is left, so that its output is constant"
    )
    assert bp.prune(fit, sparsity=0.5).report.notes == ()
    masks = {"a.weight": torch.ones(2, 2), "a.bias": torch.zeros(2)}
    assert gone_layers({name: mask.bool() for name, mask in masks.items()}) == []  # a layer can do without its bias
    masks = {name: torch.zeros(3, 2).bool() for name in ("a.weight", "b.weight")}
    (both,) = gone_layers(masks)
    assert both.startswith("2 layers are gone: none of the weights of a.weight, b.weight is left")
    tuned = bp.finetune(dataclasses.replace(result), (inputs(), torch.zeros(SIZE).long()), epochs=1)
    assert tuned.report.notes == (note,)


def test_a_small_model_of_which_nothing_is_included_gets_a_remedy_that_leaves_something():
    x = torch.randn(200, 8, generator=torch.Generator().manual_seed(0))
    y = x[:, 0] + x[:, 1]
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(nn.Linear(8, 1), {"weight": bp.Horseshoe()}, bp.Normal(), data_size=200)
    fit = bp.fit(bnn, (x, y), steps=300, learning_rate=0.02, device="cpu", execution="plain")
    fit.restarts[0].fisher = {name: 1e-12 * value for name, value in fit.restarts[0].fisher.items()}
    result = bp.prune(fit, min_inclusion=0.5, data=(x, y))
    assert result.report.nonzero == 0  # so that of 8 weights a sparsity of 0.95 would leave none
    (note,) = about_scores(result)
    assert "take sparsity 0.8 per network by magnitude" in note


def test_a_remedy_that_cannot_be_had_is_passed_over(classes, monkeypatch):
    fit, data = classes
    known = about_scores(bp.prune(fit, sparsity=0.95, data=data))[0]
    real = prune_module.keep_highest

    def fails_below(scores, sparsity, per):
        if sparsity < 0.95:
            raise KeyError("no such thing")
        return real(scores, sparsity, per)

    monkeypatch.setattr(prune_module, "keep_highest", fails_below)
    (note,) = about_scores(bp.prune(fit, sparsity=0.95, data=data))
    assert note.endswith("finetune the result, or fit again with another setting of the prior") and note != known


def test_fine_tuning_takes_the_note_on_what_pruning_cost_away(classes):
    fit, data = classes
    result = bp.prune(fit, sparsity=0.9, data=data)
    assert about_scores(result) != [] and about_scores(bp.finetune(result, data, epochs=1)) == []


@pytest.mark.parametrize(
    ("before", "after", "count", "worse"),
    [
        (0.95, 0.93, 2000, False),
        (0.95, 0.919, 2000, True),
        (0.95, 0.90, 100, False),  # five of a hundred is what a sample may differ by
        (0.95, 0.70, 100, True),
        (0.95, float("nan"), 2000, True),
    ],
)
def test_three_points_and_the_noise_of_the_sample_are_allowed(before, after, count, worse):
    assert _is_much_worse("accuracy", before, after, count) is worse


@pytest.mark.parametrize(
    ("after", "count", "worse"), [(1.04, 2000, False), (1.06, 2000, True), (1.06, 200, False), (1.2, 200, True)]
)
def test_five_per_cent_of_the_rmse_and_the_noise_of_the_sample_are_allowed(after, count, worse):
    assert _is_much_worse("rmse", 1.0, after, count) is worse


def test_no_more_than_two_thousand_examples_are_compared(classes, monkeypatch):
    fit, (x, y) = classes
    asked = []
    predict = bp.Fit.predict
    monkeypatch.setattr(bp.Fit, "predict", lambda self, x, *a, **k: asked.append(len(x)) or predict(self, x, *a, **k))
    bp.prune(fit, sparsity=0.1, data=(x.repeat(10, 1), y.repeat(10)))
    assert asked == [EXAMPLES] and EXAMPLES == 2000
