"""How many examples a loader has: what it says is believed as far as the count of its first pass bears it out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import (
    BatchSampler,
    ChainDataset,
    DataLoader,
    Dataset,
    IterableDataset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

import bayesprune as bp
from bayesprune.inference.data.batches import Batches, length_or_none
from bayesprune.inference.data.fingerprints import data_fingerprint
from bayesprune.inference.posterior.shrinkage import diagonal_fisher

torch.manual_seed(4)
X = torch.randn(40, 4)
Y = (X[:, 0] > 0).long()
ALL = TensorDataset(X, Y)


class Stream(IterableDataset):
    """Examples one by one; `length` is what it says, and None says nothing."""

    def __init__(self, yields=40):
        self.yields = yields

    def __iter__(self):
        return iter(zip(X[: self.yields], Y[: self.yields], strict=True))


class SizedStream(Stream):
    def __len__(self):
        return 40


class Once(IterableDataset):
    """A stream whose examples come once, whoever asks."""

    def __init__(self):
        self.left = iter(list(zip(X, Y, strict=True)))

    def __iter__(self):
        return self.left


class Moving:
    """The usual wrapper around a loader, of which nothing but the number of batches is known."""

    def __init__(self, loader):
        self.loader = loader

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        return iter(self.loader)


class Untold(Dataset):
    def __len__(self):
        raise NotImplementedError

    def __getitem__(self, index):
        return X[index], Y[index]


def fitted(data, data_size=40, **more):
    prior = more.pop("prior", bp.Gaussian())
    torch.manual_seed(0)
    model = bp.BayesianNetwork(nn.Linear(4, 2), {"weight": prior}, data_size=data_size)
    length = {} if "steps" in more else {"epochs": 1}
    return bp.fit(model, data, "meanfield", **{"batch_size": 10, "device": "cpu", **length, **more})


def subset(count, size=10):
    return DataLoader(ALL, batch_sampler=BatchSampler(SubsetRandomSampler(range(count)), size, False))


def repeating():
    return DataLoader(ALL, batch_sampler=BatchSampler(WeightedRandomSampler(torch.ones(40), 60), 10, False))


CASES = [
    (lambda: DataLoader([(X[:20], Y[:20]), (X[20:], Y[20:])], batch_size=None), (40,), (2, 20, 60)),
    (lambda: subset(20), (20,), (40, 10)),
    (lambda: subset(40), (40,), (20,)),
    (repeating, (40, 60), (20, 30)),
    (lambda: DataLoader(ALL, batch_sampler=BatchSampler(range(40), 16, True)), (40, 32), (31, 48)),
    (lambda: DataLoader(SizedStream(20), 10), (20,), (40,)),
    (lambda: DataLoader(SizedStream(40), 16, drop_last=True), (40,), (20, 48)),
    (lambda: DataLoader(Stream(40), 16, drop_last=True), (40, 32), (31, 48)),
    (lambda: DataLoader(Stream(40), 16), (40,), (32, 41)),
    (lambda: DataLoader(ALL, 10, sampler=SubsetRandomSampler(range(20))), (20, 40), (10, 30)),
    (lambda: Moving(DataLoader(ALL, 16, drop_last=True)), (40, 32), (31, 48)),
]


@pytest.mark.filterwarnings("ignore:Length of IterableDataset")
@pytest.mark.parametrize(("loader", "right", "wrong"), CASES)
def test_the_number_of_examples_is_taken_where_a_pass_bears_it_out_and_no_other(loader, right, wrong):
    length = {"steps": 9} if isinstance(getattr(loader(), "dataset", None), IterableDataset) else {"epochs": 2}
    for size in right:
        fitted(loader(), size, **length)
    for size in wrong:
        with pytest.raises(ValueError, match=rf"made for data_size={size}, but (a pass over )?the data ha(s|ve) \d+ "):
            fitted(loader(), size, **length)


@pytest.mark.parametrize(
    "stream",
    [
        lambda: DataLoader(ChainDataset([Stream(20), Stream(20)]), 16),
        lambda: ChainDataset([Stream(20), Stream(20)]),
        lambda: Moving(DataLoader(Stream(), 16)),
    ],
)
def test_data_whose_length_raises_are_streams(stream, tmp_path):
    assert length_or_none(stream()) is None and length_or_none(ALL) == 40
    assert data_fingerprint(stream()).endswith("of unknown elements")
    assert fitted(stream(), steps=9, checkpoint=tmp_path / "c").settings["steps"] == 9
    with pytest.raises(ValueError, match="epochs= has no meaning"):
        fitted(stream())


def test_a_data_set_that_tells_no_length_is_refused_in_a_sentence():
    assert data_fingerprint(Untold()) == "Untold of unknown elements"
    with pytest.raises(ValueError, match="the data set is empty, or has no length"):
        fitted(Untold())


@pytest.mark.parametrize(
    ("loader", "passes"),
    [(lambda: DataLoader(Stream(), 20), 5), (lambda: DataLoader(Stream(), 5), 2), (Stream, 3)],
)
def test_the_passes_of_a_stream_are_those_of_its_own_batches(loader, passes):
    class Look(bp.Callback):
        epochs = 0

        def on_fit_start(self, state):
            self.epochs = state.epochs

    look = Look()
    fitted(loader(), steps=10, callbacks=[look])
    assert look.epochs == passes


def test_data_that_can_be_read_only_once_are_not_read_after_the_last_step():
    done = fitted(DataLoader(Once(), 10), steps=3)
    assert done.settings["input_shape"] == [4]
    with pytest.raises(ValueError, match="have no batches"):  # the control: nothing is left of such data
        spent = Once()
        list(spent)
        fitted(DataLoader(spent, 10), steps=3)


class Kept(bp.Callback):
    """The model and the guide of a fit, and the Fisher information of the first examples under them."""

    def on_fit_end(self, state):
        self.objective = state.objective

    def fisher(self, count):
        loader = DataLoader(TensorDataset(X[:count], Y[:count]), 10)  # any loader draws a number when it begins
        batches = Batches(loader, 10, torch.device("cpu"), torch.float32)
        return diagonal_fisher(self.objective.model, self.objective.guide, batches)["weight"]


def test_the_fisher_information_of_data_read_only_once_is_of_the_batch_that_was_read_first():
    kept = Kept()
    done = fitted(DataLoader(Once(), 10), steps=3, prior=bp.Horseshoe(), callbacks=[kept])
    found = done.restarts[0].fisher["weight"]
    assert torch.equal(found, kept.fisher(10)) and not torch.equal(found, kept.fisher(40))


def test_the_fisher_information_of_data_that_can_be_read_again_is_of_them():
    kept = Kept()
    done = fitted(DataLoader(Stream(), 10), steps=3, prior=bp.Horseshoe(), callbacks=[kept])
    found = done.restarts[0].fisher["weight"]
    assert torch.equal(found, kept.fisher(40)) and not torch.equal(found, kept.fisher(10))


def test_a_batch_that_training_did_not_come_to_loses_no_finished_fit():
    labels = Y.clone()
    labels[35] = 7
    batches = [(X[i : i + 10], labels[i : i + 10]) for i in range(0, 40, 10)]
    assert fitted(Moving(batches), steps=2, prior=bp.Horseshoe()).restarts[0].fisher is not None
    with pytest.raises(ValueError, match="batch 4 of a pass over the data: labels run from"):
        fitted(Moving(batches), steps=4, prior=bp.Horseshoe())
