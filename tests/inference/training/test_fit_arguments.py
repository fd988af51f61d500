"""Arguments of a fit: a wrong one is told in a sentence, before the first step; what is right in another type works."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from pyro.infer.autoguide import AutoDiagonalNormal
from torch import nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bayesprune as bp
from bayesprune.inference.objective.objective import objective
from bayesprune.inference.training.fit import fit
from bayesprune.inference.training.fit_arguments import resolve_device
from bayesprune.models.checks.given_numbers import checked_seed, real_number, whole_number

SIZE = 30
torch.manual_seed(11)
X = torch.randn(SIZE, 4)
Y = (X[:, 0] + 0.5 * X[:, 1] > 0).long()


def model(norm=False):
    torch.manual_seed(123)
    middle = [nn.BatchNorm1d(5)] if norm else []
    network = nn.Sequential(nn.Linear(4, 5), *middle, nn.Tanh(), nn.Linear(5, 2))
    return bp.BayesianNetwork(network, {"0.weight": bp.Gaussian()}, data_size=SIZE)


class Never(bp.Callback):
    def on_step(self, state):
        raise AssertionError("a step was taken")


def fitted(bnn=None, data=(X, Y), guide="meanfield", **more):
    length = {} if {"epochs", "steps"} & set(more) else {"steps": 3}
    return fit(bnn or model(), data, guide, **{**length, "batch_size": 10, "device": "cpu", **more})


def parameters(result):
    return torch.cat([p.detach().flatten() for p in (*result.guide.parameters(), *result.model.parameters())])


class Empty(Dataset):
    def __len__(self):
        return 0

    def __getitem__(self, index):
        raise IndexError


class Stream(IterableDataset):
    """The data one by one; again and again where `forever`."""

    def __init__(self, forever=False, count=SIZE):
        self.forever, self.count = forever, count

    def __iter__(self):
        while True:
            yield from zip(X[: self.count], Y[: self.count], strict=True)
            if not self.forever:
                return


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
        ({"epochs": "3"}, "epochs must be a whole number, not '3'"),
        ({"steps": float("nan")}, "steps must be a whole number"),
        ({"steps": float("inf")}, "steps must be a whole number"),
        ({"batch_size": 2.5}, "batch_size must be a whole number, not 2.5"),
        ({"restarts": True}, "restarts must be a whole number, not True"),
        ({"restarts": 0}, "restarts must be at least 1, not 0"),
        ({"particles": None}, "particles must be a whole number, not None"),
        ({"workers": -1}, "workers must be at least 0, not -1"),
        ({"seed": 2**64}, "seed is 18446744073709551616, but an integer"),
        ({"seed": -(2**70)}, "seed is -1180591620717411303424, but an integer"),
        ({"seed": 0.5}, "seed is 0.5, but an integer"),
        ({"learning_rate": "x"}, "learning_rate must be a finite number, not 'x'"),
        ({"learning_rate": float("nan")}, "learning_rate must be a finite number"),
        ({"kl_weight": -1.0}, "kl_weight must not be negative, not -1.0"),
        ({"kl_weight": float("nan")}, "kl_weight must be a finite number, not nan"),
        ({"kl_weight": "all"}, "kl_weight must be a finite number, not 'all'"),
        ({"kl_warmup": "long"}, "kl_warmup must be a finite number, not 'long'"),
        ({"kl_warmup": float("nan")}, "kl_warmup must be a finite number"),
        ({"clip": "tight"}, "clip must be a finite number, not 'tight'"),
        ({"precision": ["float32"]}, "precision= takes a name, not an object of type list"),
        ({"execution": "quick"}, "execution 'quick' is unknown"),
        ({"execution": None}, "execution= takes a name"),
        ({"optimizer": 3}, "optimizer= takes a name, a callable or None, not 3"),
        ({"schedule": [1.0]}, "schedule= takes a name, a callable or None"),
        ({"device": "meta"}, "device 'meta' is not available here"),
        ({"device": None}, "device None is not available here"),
        ({"device": 3.5}, "device 3.5 is not available here"),
        ({"start": "fit"}, "start= takes a Fit, not 'fit'"),
        ({"gating": {}}, "gating= takes Gating"),
        ({"gate_estimator": "moments"}, "gate_estimator= takes a callable or None"),
        ({"callbacks": Never()}, "callbacks= takes a sequence of Callbacks"),
        ({"callbacks": [Never]}, "callbacks= takes Callbacks"),
        ({"callbacks": [print]}, "callbacks= takes Callbacks"),
        ({"rules": bp.Gating()}, r"rules= takes a sequence of Rules, not .* type Gating: write \[rule\]"),
        ({"rules": [bp.Gating]}, "rules= takes Rules with a name, not .*: derive its class from Rule, and call it"),
        ({"rules": [Never()]}, "rules= takes Rules with a name, not an object of type Never"),
        ({"rules": [bp.IterateAverage(), bp.IterateAverage(0.9)]}, "two rules called 'average': give one of them"),
        ({"stop": 3}, "stop= takes a callable"),
        ({"progress": "yes"}, "progress= takes True or False, not 'yes'"),
        ({"channels_last": torch.ones(2)}, "channels_last= takes True or False"),
        ({"compiled": "no"}, "compiled= takes True, False or None, not 'no'"),
        ({"checkpoint": 5}, "checkpoint= takes a folder or None, not 5"),
        ({"validation": X}, r"validation must be a tuple \(x, y\) of tensors"),
        ({"validation": (X.numpy(), Y.numpy())}, r"validation must be a tuple \(x, y\) of tensors"),
        ({"validation": (X.double() * 1e300, Y)}, "validation data: .* too large for float32"),
        ({"data": (X.double() * 1e300, Y)}, "hold numbers up to .*e\\+300, too large for float32: rescale them"),
        ({"data": DataLoader(TensorDataset(X.double() * 1e300, Y), 10)}, "too large for float32"),
        ({"data": []}, "the loader has no batches"),
        ({"data": Empty()}, "the data set is empty"),
        ({"data": DataLoader(Empty(), 4)}, "the loader has no batches"),
        ({"data": DataLoader(TensorDataset(X[:3], Y[:3]), 4, drop_last=True)}, "the loader has no batches"),
        ({"data": [(X, "labels")]}, "batch 1 of a pass over the data"),
        ({"data": [(X, Y[:3])]}, "batch 1 of a pass over the data: it has inputs of shape"),
        ({"data": [(X[:0], Y[:0]), (X, Y)]}, "batch 1 of a pass over the data: it has inputs of shape"),
        ({"data": Stream(), "epochs": 2}, "epochs= has no meaning: give steps="),
        ({"data": DataLoader(Stream(), 5), "epochs": 2}, "epochs= has no meaning: give steps="),
        ({"guide": 3}, "a guide is chosen by a name .* not by an object of type int"),
    ],
)
def test_a_wrong_argument_is_told_in_a_sentence_before_the_first_step(arguments, message):
    with pytest.raises(ValueError, match=message) as told:
        fitted(**{"callbacks": [Never()], **arguments})
    assert "\n" not in str(told.value)


def test_numbers_of_other_types_are_numbers(tmp_path):
    plain = fitted(epochs=2, seed=3, learning_rate=0.01)
    same = fitted(
        epochs=np.float64(2.0), seed=np.int64(3), learning_rate=np.float32(0.01).item(), batch_size=np.int32(10),
        restarts=1.0, progress=np.False_, callbacks=iter([bp.Callback()]), kl_weight=1,
    )  # fmt: skip
    assert torch.equal(parameters(plain), parameters(same).clone()) or torch.allclose(
        parameters(plain), parameters(same)
    )
    same.save(tmp_path / "fit")
    assert [same.settings[name] for name in ("seed", "batch_size", "steps")] == [3, 10, 6]
    assert fitted(seed=-1).settings["seed"] == -1  # torch takes negative ones
    assert fitted(kl_weight=0.0).settings["kl_weight"] == 0.0


NUMBERS = {
    "epochs": (2, [np.array(2), torch.tensor(2), torch.tensor(2.0)]),
    "seed": (3, [torch.tensor(3), np.array(3)]),
    "batch_size": (10, [torch.tensor(10), np.uint8(10)]),
    "learning_rate": (0.0078125, [np.float32(0.0078125), torch.tensor(0.0078125), np.array(0.0078125)]),
    "kl_weight": (0.5, [np.float32(0.5), torch.tensor(0.5)]),
    "kl_warmup": (0.25, [np.float16(0.25), torch.tensor([0.25])]),
    "clip": (0.5, [np.float32(0.5), torch.tensor(0.5)]),
    "sticking_the_landing": (True, [np.True_, torch.tensor(True)]),
    "compiled": (False, [np.False_]),
}


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_of_numpy_and_torch_are_used_and_saved_as_pythons(name, tmp_path):
    plain, others = NUMBERS[name]
    more = {"execution": "fused"} if name == "compiled" else {}
    right = fitted(**{"epochs": 2, name: plain}, **more)
    for number, other in enumerate(others):
        found = fitted(**{"epochs": 2, name: other}, **more, checkpoint=tmp_path / f"state{number}")
        assert torch.equal(parameters(found), parameters(right))
        found.save(tmp_path / f"fit{number}")
        assert type(found.settings.get(name, plain)) is type(plain)
        again = fitted(**{"epochs": 2, name: plain}, **more, checkpoint=tmp_path / f"state{number}")  # the same call
        assert torch.equal(parameters(again), parameters(right))
    if name not in ("epochs", "batch_size", "compiled"):
        assert not torch.equal(parameters(right), parameters(fitted(epochs=2)))  # control: it is used


def test_fine_tuning_and_an_approximation_take_them_too(tmp_path):
    pruned = bp.prune(fitted(), sparsity=0.5)
    tuned = [
        bp.finetune(pruned, (X, Y), one, learning_rate=rate, device="cpu")
        for one, rate in (
            (1, 0.0078125),
            (torch.tensor(1), np.float32(0.0078125)),
            (np.array(1), torch.tensor(0.0078125)),
        )
    ]
    assert all(torch.equal(tuned[0].network[0].weight, one.network[0].weight) for one in tuned)
    assert len({one.report.finetuned for one in tuned}) == 1 and "rate 0.0078125," in tuned[0].report.finetuned
    network = model().network.requires_grad_(True)
    around = bp.laplace_around(
        network, (X, Y), weight_decay=np.float32(0.5), examples=np.int64(9), data_size=np.int64(30)
    )
    around.save(tmp_path / "fit")
    assert (around.settings["weight_decay"], around.settings["examples"]) == (0.5, 9)


def test_what_is_checked_by_itself():
    assert whole_number("n", np.uint8(3)) == whole_number("n", 3.0) == whole_number("n", torch.tensor(3)) == 3
    for wrong in (np.array([3]), torch.tensor(2.5), np.True_, torch.tensor(True), float("inf"), float("nan"), "3"):
        with pytest.raises(ValueError, match="n must be a whole number"):
            whole_number("n", wrong)
    for wrong in (np.True_, np.float32("inf"), 10**400, "1", torch.ones(2), torch.tensor(1j)):
        with pytest.raises(ValueError, match="r must be a finite number"):
            real_number("r", wrong)
    assert real_number("r", torch.tensor(0.5)) == real_number("r", np.float32(0.5)) == 0.5
    assert checked_seed(2**62 - 1) == 2**62 - 1
    for wrong in (2**62, True, "1", -1):
        with pytest.raises(ValueError, match="seed is"):
            checked_seed(wrong, least=0)
    assert resolve_device("cpu") == resolve_device(torch.device("cpu")) == torch.device("cpu")


def test_a_fit_takes_a_declared_model_and_no_guide_of_pyros():
    with pytest.raises(ValueError, match="fit takes a BayesianNetwork, not Sequential"):
        fitted(nn.Sequential(nn.Linear(4, 2)))
    bnn = model()
    for make in (lambda guide: fitted(bnn, guide=guide), lambda guide: objective(bnn, guide)):
        with pytest.raises(ValueError, match="not by an object of type AutoDiagonalNormal: .*pyro.infer.SVI"):
            make(AutoDiagonalNormal(bnn))


@pytest.mark.parametrize("execution", ["plain", "fused"])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_a_fit_inside_no_grad_or_inference_mode_is_the_same_fit(mode, execution):
    how = {"execution": execution, "compiled": False if execution == "fused" else None, "validation": (X, Y)}
    outside = fitted(model(norm=True), **how)
    with mode():
        data = (X.clone(), Y.clone())
        inside = fitted(model(norm=True), data, **how)
        lists = fitted(data=[(data[0][:15], data[1][:15]), (data[0][15:], data[1][15:])])
        assert torch.is_grad_enabled() is False
    assert torch.equal(parameters(outside), parameters(inside))
    assert not any(p.is_inference() for p in inside.guide.parameters())
    assert torch.isfinite(parameters(lists)).all()
    assert not torch.equal(parameters(outside), parameters(fitted(model(norm=True), seed=1, **how)))


# -- streams -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [Stream(), Stream(forever=True), DataLoader(Stream(), 10)])
def test_a_stream_of_data_is_fitted_by_steps(data):
    result = fitted(data=data, steps=7)
    assert result.settings["steps"] == 7 and torch.isfinite(parameters(result)).all()
    assert result.trace.sizes["epoch"] == (1 if getattr(data, "forever", False) else 3)
    # A loader takes a number for each pass: torch's, or of the generator that it has, as `fit` gives to its own.
    own = None if isinstance(data, DataLoader) else torch.Generator()
    in_order = DataLoader(TensorDataset(X, Y), 10, generator=own)
    if result.trace.sizes["epoch"] == 3:
        assert torch.equal(parameters(result), parameters(fitted(data=in_order, steps=7)))
    assert not torch.equal(parameters(result), parameters(fitted(data=in_order, steps=8)))


def test_a_stream_with_another_number_of_examples_is_refused_after_its_first_pass():
    steps = []

    class Count(bp.Callback):
        def on_step(self, state):
            steps.append(state.step)

    with pytest.raises(ValueError, match="data_size=30, but a pass over the data has 20 examples"):
        fitted(data=Stream(count=20), steps=7, callbacks=[Count()])
    assert steps == [1, 2]


def test_a_checkpointed_fit_of_a_stream_goes_on(tmp_path):
    plain = fitted(data=DataLoader(Stream(), 10), steps=7)
    kept = [fitted(data=DataLoader(Stream(), 10), steps=7, checkpoint=tmp_path / "state") for _ in range(2)]
    for one in kept:
        assert torch.equal(parameters(one), parameters(plain))


def test_a_stream_needs_no_warning_of_torchs():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(data=Stream(), steps=4)
