"""Each batch of a loader is looked at before it is trained on, and the first pass is counted before it ends."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import bayesprune as bp

SIZE = 30
torch.manual_seed(4)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] > 0).long()


class Steps(bp.Callback):
    def __init__(self):
        self.done = 0

    def on_step(self, state):
        self.done = state.step


class Pairs(Dataset):
    def __init__(self, y):
        self.y = y

    def __len__(self):
        return len(self.y)

    def __getitem__(self, index):
        return X[index], self.y[index]


class Loader:
    """Batches in order, of which nothing but their number is known."""

    def __init__(self, batches, length=None):
        self.batches, self.length = batches, len(batches) if length is None else length

    def __len__(self):
        return self.length

    def __iter__(self):
        return iter(self.batches)


def model(data_size=SIZE, outputs=2, likelihood=None):
    torch.manual_seed(0)
    return bp.BayesianNetwork(nn.Linear(4, outputs), {"weight": bp.Gaussian()}, likelihood, data_size=data_size)


def fitted(data, bnn=None, **more):
    steps = Steps()
    length = {} if "steps" in more else {"epochs": 2}
    how = {"batch_size": 10, "device": "cpu", "callbacks": [steps], **length, **more}
    return bp.fit(bnn or model(), data, "meanfield", **how), steps


def batches(y=Y, size=10):
    return [(X[i : i + size], y[i : i + size]) for i in range(0, SIZE, size)]


def spoilt(value, at=25):
    y = Y.clone()
    y[at] = value
    return y


@pytest.mark.parametrize("value", [-100, -1, 2, 10**6])
@pytest.mark.parametrize("kind", [lambda y: Loader(batches(y)), lambda y: DataLoader(Pairs(y), 10)])
def test_a_label_out_of_range_is_told_before_its_batch_is_trained_on(kind, value):
    steps = Steps()
    with pytest.raises(ValueError, match=f"batch 3 of a pass over the data: labels run from .*{value}"):
        bp.fit(model(), kind(spoilt(value)), epochs=2, device="cpu", callbacks=[steps])
    assert steps.done == 2


def test_a_label_out_of_range_in_a_data_set_that_is_shuffled_is_told_in_the_first_pass():
    steps = Steps()
    with pytest.raises(ValueError, match=r"(batch \d of a pass .*: )?labels run from -100 to 1"):
        bp.fit(model(), Pairs(spoilt(-100)), epochs=2, batch_size=10, device="cpu", callbacks=[steps])
    assert steps.done <= 2


def test_targets_of_other_likelihoods_are_looked_at_too():
    y = X[:, 0].clone()
    y[25] = float("nan")
    for likelihood in (bp.Normal(), bp.Normal(0.1)):
        with pytest.raises(ValueError, match="batch 3 of a pass .*targets are NaN"):
            fitted(Loader(batches(y)), model(likelihood=likelihood, outputs=1))
    fitted(Loader(batches(X[:, 0])), model(likelihood=bp.Normal(), outputs=1))
    fitted(Loader(batches(X[:, 0].double())), model(likelihood=bp.Normal(), outputs=1))


@pytest.mark.parametrize("size", [15, 60])
def test_another_data_size_than_a_pass_has_examples_is_refused_before_its_last_step(size):
    steps = Steps()
    with pytest.raises(ValueError, match=f"data_size={size}, but a pass over the data has 30 examples"):
        bp.fit(model(size), Loader(batches()), epochs=1, device="cpu", callbacks=[steps])
    assert steps.done == 2
    with pytest.raises(ValueError, match=f"data_size={size}, but the data have 30 examples"):
        bp.fit(model(size), batches(), epochs=1, device="cpu", callbacks=[steps])
    fitted(Loader(batches()), epochs=1)
    fitted(batches(), epochs=1)


def test_a_loader_with_more_or_fewer_batches_than_it_says_is_counted_to_its_end():
    for length in (2, 4):
        fitted(Loader(batches(), length))
        with pytest.raises(ValueError, match="data_size=20, but a pass over the data has 30 examples"):
            fitted(Loader(batches(), length), model(20), steps=9)


@pytest.mark.parametrize(
    ("loader", "size"),
    [
        (lambda: DataLoader(Pairs(Y), 8, drop_last=True), SIZE),
        (lambda: DataLoader(Pairs(Y), 8, drop_last=True, shuffle=True), SIZE),
        (lambda: DataLoader(Pairs(Y), 8, sampler=WeightedRandomSampler(torch.ones(SIZE), 50)), SIZE),
        (lambda: DataLoader(Pairs(Y), 8, sampler=WeightedRandomSampler(torch.ones(SIZE), 50)), 50),
        (lambda: DataLoader(Pairs(Y), 8, sampler=WeightedRandomSampler(torch.ones(SIZE), 20)), 20),
        (lambda: DataLoader(Pairs(Y), batch_sampler=BatchSampler(RandomSampler(range(SIZE)), 7, False)), SIZE),
    ],
)
def test_loaders_that_leave_out_or_repeat_examples_are_taken(loader, size):
    _, steps = fitted(loader(), model(size))
    assert steps.done == 2 * len(loader())


def test_the_checks_change_no_number():
    unchecked, checked = Loader(batches()), DataLoader(TensorDataset(X, Y), 10)
    for data in (unchecked, checked):
        one, other = (fitted(data, seed=seed)[0].trace["loss"].values for seed in (0, 1))
        again = fitted(data, seed=0)[0].trace["loss"].values
        assert (one == again).all() and (one != other).any()


def test_fine_tuning_looks_at_labels_too_and_counts_nothing():
    pruned = bp.prune(fitted(batches())[0], sparsity=0.5)
    with pytest.raises(ValueError, match="batch 3 of a pass over the data: labels run from -100"):
        bp.finetune(pruned, Loader(batches(spoilt(-100))), 1, device="cpu")
    bp.finetune(pruned, Loader(batches()[:2]), 1, device="cpu")


def test_a_loader_of_streams_is_no_data_for_fine_tuning_by_epochs():
    class Stream(IterableDataset):
        def __iter__(self):
            return iter(zip(X, Y, strict=True))

    pruned = bp.prune(fitted(batches())[0], sparsity=0.5)
    with pytest.raises(ValueError, match="epochs= has no meaning"):
        bp.finetune(pruned, Stream(), 1, device="cpu")
