"""Batches and schedules."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, Dataset, TensorDataset

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.data_checks import check_data
from bayesprune.inference.rules.schedules import (
    constant,
    cosine,
    hold_then_cosine,
    schedule_named,
    steps,
    warmup,
    warmup_cosine,
)
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.priors.gaussian import Gaussian

CPU = torch.device("cpu")
X, Y = torch.arange(20.0).reshape(10, 2), torch.arange(10) % 3


class Pairs(Dataset):
    def __len__(self):
        return 10

    def __getitem__(self, index):
        return X[index].double(), Y[index]


def made(data=(X, Y), size=4, dtype=torch.float32):
    return Batches(data, size, CPU, dtype)


def model(data_size=10):
    return BayesianNetwork(nn.Linear(2, 3), {"weight": Gaussian()}, data_size=data_size)


@pytest.mark.parametrize("data", [(X, Y), TensorDataset(X, Y), Pairs(), DataLoader(Pairs(), 4)])
def test_a_pass_holds_every_example_once_with_its_own_target(data):
    batches = made(data)
    seen = list(batches)
    assert len(seen) == len(batches) == 3
    assert sorted(x[0].item() for part, _ in seen for x in part) == X[:, 0].tolist()
    for x, y in seen:
        assert x.dtype == torch.float32 and torch.equal(Y[(x[:, 0] / 2).long()], y)


def test_the_order_is_the_random_states():
    torch.manual_seed(0)
    first, second = [torch.cat([y for _, y in made()]) for _ in range(2)]
    torch.manual_seed(0)
    again = torch.cat([y for _, y in made()])
    assert torch.equal(first, again) and not torch.equal(first, second)


def test_dtypes_are_those_of_the_fit_and_labels_stay_integers():
    x, y = next(iter(made(dtype=torch.float64)))
    assert x.dtype == torch.float64 and y.dtype == torch.int64


def test_looking_at_the_first_batch_leaves_the_random_state_alone():
    for data in ((X, Y), Pairs()):
        before = torch.get_rng_state()
        made(data).first()
        assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((X, Y[:3]), "10 inputs and 3 targets"),
        ((X[:0], Y[:0]), "not none"),
        (X, "must be a tuple"),
        (5, "must be a tuple"),
        ((X.numpy(), Y.numpy()), "tensors"),
        ((x for x in [(X, Y)]), "must be a tuple"),
    ],
)
def test_what_is_no_data_is_refused(data, message):
    with pytest.raises(ValueError, match=message):
        list(made(data))


def test_a_batch_size_of_none_is_refused():
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        made(size=0)


def test_a_loader_must_yield_pairs():
    with pytest.raises(ValueError, match="pairs"):
        list(made([X, Y, Y]))


def nan_at(index):
    x = X.clone()
    x[index, 0] = float("nan")
    return x


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ((nan_at(6), Y), "NaN or infinity in 1 examples, first in example 6"),
        ((X[:, :1], Y), "does not take inputs of shape \\(1,\\)"),
        ((X, Y + 1), "labels run from 1 to 3, but the network has 3 outputs"),
        ((X, Y - 1), "labels run from -1"),
        ((X, Y.float()), "needs integers"),
        ((X, Y[:, None]), "targets of shape \\(10, 1\\)"),
        ((X[:8], Y[:8]), "data_size=10, but the data have 8 examples"),
        (Pairs, "data_size=11, but the data have 10 examples"),
        (lambda: DataLoader(Pairs(), 4), "data_size=11, but the data have 10 examples"),
    ],
)
def test_data_that_the_model_cannot_take_are_refused_in_a_sentence(data, message):
    size = 11 if callable(data) else 10
    with pytest.raises(ValueError, match=message):
        check_data(model(size), made(data() if callable(data) else data))


def test_good_data_pass():
    check_data(model(), made())
    check_data(model(), made(Pairs()))
    check_data(model(), made([(X[:5], Y[:5]), (X[5:], Y[5:])]))


def test_schedules_are_functions_of_progress():
    assert [constant(p) for p in (0.0, 0.5, 1.0)] == [1.0, 1.0, 1.0]
    assert [cosine(p) for p in (0.0, 0.5, 1.0)] == pytest.approx([1.0, 0.5, 0.0])
    assert [hold_then_cosine(p) for p in (0.0, 0.5, 0.75, 1.0)] == pytest.approx([1.0, 1.0, 0.5, 0.0])
    assert [warmup(0.2)(p) for p in (0.0, 0.1, 0.2, 1.0)] == pytest.approx([0.0, 0.5, 1.0, 1.0])
    assert [warmup(0.0)(p) for p in (0.0, 1.0)] == [1.0, 1.0]
    assert warmup(0.2)(0.9) == 1.0  # exactly
    assert [steps((0.5, 0.75), 0.1)(p) for p in (0.4, 0.5, 0.8)] == pytest.approx([1.0, 0.1, 0.01])


@pytest.mark.parametrize("per_epoch", [1, 7, 196])
def test_a_schedule_by_epoch_changes_between_epochs_and_only_there(per_epoch):
    """Shares of the steps are rounded: 29 / 100 is 0.29, and 0.29 x 100 is 28.999999999999996."""
    for epochs in range(5, 160):
        factor, steps_in_all = warmup_cosine(epochs, 5), epochs * per_epoch
        for epoch in range(epochs):
            expected = (epoch + 1) / 5 if epoch < 5 else 0.5 * (1 + math.cos(math.pi * (epoch - 5) / (epochs - 5)))
            for step in (epoch * per_epoch, (epoch + 1) * per_epoch - 1):
                assert factor(step / steps_in_all) == pytest.approx(expected, rel=1e-14, abs=1e-14)
    assert factor(1.0) > 0.0  # progress is one when the fit is done


def test_a_warm_up_is_between_none_and_all():
    assert warmup_cosine(4, 0)(0.0) == 1.0 and warmup_cosine(3, 3)(0.9) == 1.0
    for epochs, rising in ((0, 0), (3, 4), (3, -1)):
        with pytest.raises(ValueError, match="an epoch at least, and a warm-up of none to all of them"):
            warmup_cosine(epochs, rising)


def test_schedules_go_by_name_or_are_callables():
    assert schedule_named("cosine", 3) is cosine and schedule_named(constant, 3) is constant
    for epochs, rising in ((100, 5), (20, 5), (8, 2), (3, 0), (1, 0)):
        named, same = schedule_named("warmup-cosine", epochs), warmup_cosine(epochs, rising)
        assert [named(step / 200) for step in range(201)] == [same(step / 200) for step in range(201)]
    with pytest.raises(ValueError, match="schedule 'linear' is unknown: expected constant"):
        schedule_named("linear", 3)


def test_loading_in_the_background_gives_the_same_examples():
    torch.manual_seed(0)
    alone = [part.clone() for part, _ in Batches(Pairs(), 4, torch.device("cpu"), torch.float64)]
    torch.manual_seed(0)
    batches = Batches(Pairs(), 4, torch.device("cpu"), torch.float64, workers=2)
    assert batches.loader.num_workers == 2
    behind = [part.clone() for part, _ in batches]
    assert len(alone) > 1 and all(torch.equal(one, other) for one, other in zip(alone, behind, strict=True))


def test_images_can_be_laid_out_channels_last():
    images, labels = torch.randn(6, 3, 4, 5), torch.arange(6)
    for on in (False, True):
        batches = Batches((images, labels), 4, torch.device("cpu"), torch.float32, channels_last=on)
        for x, y in batches:
            assert torch.equal(x, images[y])
            assert x.is_contiguous(memory_format=torch.channels_last) == on
    flat = Batches((torch.randn(6, 3), labels), 4, torch.device("cpu"), torch.float32, channels_last=True)
    assert next(iter(flat))[0].is_contiguous()


def test_a_negative_number_of_workers_is_refused():
    with pytest.raises(ValueError, match="workers is the number of loading processes"):
        Batches((torch.zeros(2, 1), torch.zeros(2)), 1, torch.device("cpu"), torch.float32, workers=-1)


class Odd(nn.Module):
    """A network whose forward does what it is told to."""

    def __init__(self, forward):
        super().__init__()
        self.layer, self.do = nn.Linear(2, 3), forward

    def forward(self, x):
        return self.do(self.layer(x))


def raising(problem):
    def forward(outputs):
        raise problem

    return forward


@pytest.mark.parametrize(
    ("forward", "message"),
    [
        (raising(ValueError()), r"does not take inputs of shape \(2,\) \(ValueError\)"),
        (raising(TypeError("no\nway")), r"does not take inputs of shape \(2,\) \(no\)"),
        (raising(AssertionError()), r"does not take inputs of shape \(2,\) \(AssertionError\)"),
        (lambda outputs: (outputs, outputs), "the network returns a tuple, but one tensor of outputs"),
        (lambda outputs: outputs.sum(), "the network returns a single number, but one tensor of outputs"),
    ],
)
def test_what_a_network_does_with_the_first_batch_is_told_in_a_sentence(forward, message):
    for data in ((X, Y), DataLoader(Pairs(), 4)):
        with pytest.raises(ValueError, match=message):
            check_data(BayesianNetwork(Odd(forward), {"layer.weight": Gaussian()}, data_size=10), made(data))
        check_data(BayesianNetwork(Odd(lambda x: x), {"layer.weight": Gaussian()}, data_size=10), made(data))


@pytest.mark.parametrize("dtype", [torch.uint8, torch.uint16, torch.uint32, torch.uint64])
def test_labels_without_a_sign_are_labels(dtype):
    y = Y.to(dtype)
    for data in ((X, y), [(X, y)]):
        check_data(model(), made(data))
        assert sorted(torch.cat([part for _, part in made(data)]).tolist()) == sorted(Y.tolist())
        with pytest.raises(ValueError, match="labels run from 0 to 7"):
            wrong = torch.where(Y == 2, 7, Y).to(dtype)
            check_data(model(), made((X, wrong) if isinstance(data, tuple) else [(X, wrong)]))


def test_a_batch_size_beyond_64_bits_is_told_in_a_sentence():
    with pytest.raises(ValueError, match=r"batch_size must be below 2\*\*63"):
        made(size=2**70)
    assert len(list(made(size=2**63 - 1))) == 1
