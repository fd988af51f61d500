"""One rule for a batch of one example where batch normalisation is trained: it is left out, and not a mistake."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import bayesprune as bp
from bayesprune.inference.data.batch_normalisation import reestimate_statistics
from bayesprune.inference.data.trainable_batch import TrainableBatches, trainable_batch
from bayesprune.inference.pruning.finetune import finetune
from bayesprune.inference.training import restart_run

SIZE = 21  # two batches of ten, and one example
torch.manual_seed(4)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] > 0).long()


class Pairs(Dataset):
    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return X[index], Y[index]


class Loader:
    def __init__(self, sizes):
        self.sizes = sizes

    def __len__(self):
        return len(self.sizes)

    def __iter__(self):
        return zip(X.split(self.sizes), Y.split(self.sizes), strict=True)


class Watch(bp.Callback):
    def __init__(self):
        self.steps, self.epochs = [], []

    def on_step(self, state):
        self.steps.append(state.step)

    def on_epoch(self, state):
        self.epochs.append((state.step, state.history[-1]["loss"], state.terms))


def vectors(size=4):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(size, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 2))


def images():
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 2, 2)), nn.Conv2d(1, 3, 1), nn.BatchNorm2d(3), nn.Flatten(), nn.Linear(12, 2)]
    return nn.Sequential(*layers)


def model(network=None, size=SIZE):
    priors = {"0.weight" if network is None else "4.weight": bp.Gaussian()}
    return bp.BayesianNetwork(network or vectors(), priors, data_size=size)


def fitted(data=(X, Y), bnn=None, watch=None, **more):
    length = {} if "steps" in more else {"epochs": 2}
    return bp.fit(bnn or model(), data, batch_size=10, device="cpu", callbacks=[watch or Watch()], **length, **more)


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("data", [(X, Y), Pairs(), Loader([10, 10, 1])])
def test_a_last_batch_of_one_example_is_left_out_and_counts_as_a_step(data, execution):
    watch = Watch()
    result = fitted(data, watch=watch, execution=execution, compiled=False if execution == "fused" else None)
    assert watch.steps == [1, 2, 4, 5] and [step for step, *_ in watch.epochs] == [3, 6]
    assert result.settings["steps"] == 6 and result.settings["epochs"] == 2 and result.settings["stopped_early"] == []
    assert result.trace["negative_elbo"].shape == (1, 4)
    # The mean of an epoch is that of the two batches that were trained on.
    means = result.trace["negative_elbo"].values.reshape(2, 2).mean(axis=1)
    whole = result.trace["kl"].values[0] - result.trace["expected_log_likelihood"].values[0]
    assert means == pytest.approx(whole, rel=1e-5)


def test_a_batch_of_one_in_the_middle_is_left_out_wherever_the_fit_ends():
    for steps, trained in ((2, [1]), (3, [1, 3]), (4, [1, 3, 4]), (5, [1, 3, 4])):
        watch = Watch()
        fitted(Loader([10, 1, 10]), watch=watch, steps=steps)
        assert watch.steps == trained
    watch = Watch()
    fitted(Loader([1, 10, 10]), watch=watch, steps=4)  # the second pass has nothing but its first batch
    assert watch.steps == [2, 3] and len(watch.epochs) == 1


def test_a_fit_that_would_leave_out_every_batch_is_refused_before_training():
    for data, batch_size, size in (((X, Y), 1, SIZE), ((X[:1], Y[:1]), 9, 1), (Pairs(), 1, SIZE)):
        watch = Watch()
        with pytest.raises(ValueError, match="every batch that steps fall on has one example"):
            bp.fit(model(size=size), data, epochs=1, batch_size=batch_size, device="cpu", callbacks=[watch])
        assert watch.steps == []
    with pytest.raises(ValueError, match="every batch that steps fall on has one example"):
        fitted(Loader([1] * SIZE))
    held = model()
    held.network[1].eval()
    assert fitted(bnn=held, steps=2, seed=1).settings["steps"] == 2
    bp.fit(held, (X, Y), steps=2, batch_size=1, device="cpu")  # held in evaluation mode it takes one example


def test_images_have_a_variance_alone_and_are_trained_on():
    watch = Watch()
    fitted(bnn=model(images()), watch=watch)
    assert watch.steps == [1, 2, 3, 4, 5, 6]
    network = images()
    assert (
        trainable_batch(network, X[:1]) and not trainable_batch(vectors(), X[:1]) and trainable_batch(vectors(), X[:2])
    )
    assert trainable_batch(vectors().eval(), X[:1]) and trainable_batch(nn.Linear(4, 2), X[:1])
    assert not trainable_batch(nn.Sequential(nn.BatchNorm1d(4, track_running_stats=False)), X[:1])


def test_looking_at_a_batch_leaves_network_and_random_state_alone():
    network = vectors()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    assert not trainable_batch(network, X[:1])
    assert torch.equal(state, torch.get_rng_state()) and all(module.training for module in network.modules())
    assert all(torch.equal(before[name], value) for name, value in network.state_dict().items())
    assert not any(module._forward_pre_hooks for module in network.modules())


def test_fine_tuning_and_statistics_follow_the_same_rule():
    pruned = bp.prune(fitted(), sparsity=0.5, data=(X, Y))
    tuned = finetune(pruned, (X, Y), 2, batch_size=10, device="cpu")
    assert tuned.network[1].num_batches_tracked - pruned.network[1].num_batches_tracked == 4
    network = vectors()
    assert reestimate_statistics(network, Loader([10, 10, 1])) == 1 and network[1].num_batches_tracked == 2
    with pytest.raises(ValueError, match="every batch that steps fall on has one example"):
        finetune(pruned, (X, Y), 1, batch_size=1, device="cpu")


def test_steps_that_end_before_a_larger_batch_are_told_so():
    data = Loader([1, 20])
    with pytest.raises(ValueError, match="that steps fall on has one example.* or more steps, or hold"):
        fitted(data, steps=1)
    assert fitted(data, steps=2).settings["steps"] == 2  # control: the remedy works
    with pytest.raises(ValueError, match="that steps fall on has one example"):
        finetune(bp.prune(fitted(), sparsity=0.5), Loader([1] * SIZE), 1, device="cpu")


@pytest.mark.parametrize("left_out", [True, False])
def test_left_out_batches_shorten_no_record_of_the_fit(left_out, monkeypatch):
    monkeypatch.setattr(restart_run, "ITERATES", 50)
    size = 17 if left_out else 18
    data = (X[:size], Y[:size])
    bnn = bp.BayesianNetwork(vectors(), {"0.weight": bp.Gaussian()}, data_size=size)
    fit = bp.fit(bnn, data, epochs=50, batch_size=16, device="cpu")
    assert fit.trace["negative_elbo"].shape == ((1, 49) if left_out else (1, 50))
    assert np.isfinite(fit.trace["negative_elbo"].values).all()


def test_a_record_goes_on_after_a_checkpoint_where_it_was(tmp_path, monkeypatch):
    monkeypatch.setattr(restart_run, "ITERATES", 50)

    class Interrupt(bp.Callback):
        is_resumable = True

        def on_epoch(self, state):
            if state.epoch == 35 and not (tmp_path / "interrupted").exists():
                (tmp_path / "interrupted").touch()
                raise KeyboardInterrupt

    bnn = bp.BayesianNetwork(vectors(), {"0.weight": bp.Gaussian()}, data_size=17)
    how = {"epochs": 51, "batch_size": 16, "device": "cpu"}
    plain = bp.fit(bnn, (X[:17], Y[:17]), **how)
    kept = {**how, "checkpoint": tmp_path / "state", "callbacks": [Interrupt()]}
    with pytest.raises(KeyboardInterrupt):
        bp.fit(bnn, (X[:17], Y[:17]), **kept)
    again = bp.fit(bnn, (X[:17], Y[:17]), **kept)
    assert np.array_equal(plain.trace["negative_elbo"].values, again.trace["negative_elbo"].values)
    assert plain.trace["negative_elbo"].shape == (1, 50)


def test_a_left_out_batch_counts_in_the_schedule_of_fine_tuning():
    pruned, seen = bp.prune(fitted(), sparsity=0.5), []

    def schedule(progress):
        seen.append(round(progress * 6))
        return 1.0

    finetune(pruned, Loader([10, 1, 10]), 2, schedule=schedule, device="cpu")
    assert seen == [0, 2, 3, 5]


class ByKeyword(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.bn, self.last = nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Linear(5, 2)

    def forward(self, x):
        return self.last(torch.relu(self.bn(input=self.first(x))))


def test_layers_that_are_called_by_keyword_follow_the_same_rule():
    torch.manual_seed(0)
    network, watch = ByKeyword(), Watch()
    assert not trainable_batch(network, X[:1]) and trainable_batch(network, X[:2])
    bnn = bp.BayesianNetwork(network, {"first.weight": bp.Gaussian()}, data_size=SIZE)
    fitted(bnn=bnn, watch=watch)
    assert watch.steps == [1, 2, 4, 5]
    assert reestimate_statistics(network, Loader([10, 10, 1])) == 1
    torch.testing.assert_close(network.bn.running_mean, network.first(X[:20]).mean(0).detach())


def test_the_network_is_asked_once_for_a_shape():
    calls = []

    class Counted(nn.Flatten):
        def forward(self, x):
            calls.append(len(x))
            return super().forward(x)

    layers = list(images())
    network = nn.Sequential(*layers[:3], Counted(), layers[4])
    trainable = TrainableBatches()
    assert all(trainable(network, X[k : k + 1]) for k in range(5)) and len(calls) == 1
    assert not trainable(vectors(), X[:1]) and trainable(network, X[:1])  # another network is asked anew
    assert len(calls) == 2
    bnn = vectors()
    assert not trainable(bnn, X[:1])
    bnn[1].eval()
    assert trainable(bnn, X[:1])  # and so is one whose layers have other modes
    pixels = nn.BatchNorm2d(1)
    assert not trainable(pixels, X[:1, :1].reshape(1, 1, 1, 1))
    assert trainable(pixels, X[:1].reshape(1, 1, 2, 2))  # and so is another shape
    calls.clear()
    fitted(bnn=model(network), steps=20, execution="plain")
    before = len(calls)
    calls.clear()
    bp.fit(model(network), (X, Y), steps=20, batch_size=1, device="cpu")
    assert len(calls) <= before + 3
