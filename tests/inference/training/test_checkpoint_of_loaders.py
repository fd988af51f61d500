"""A fit to a loader keeps what has passed by and does not come again: its first targets, its last inputs."""

from __future__ import annotations

import functools

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.data.against_constant import CONSTANT
from bayesprune.inference.data.kept_inputs import KeptInputs
from bayesprune.inference.training import checkpoint as checkpoints

SIZE, STEPS = 60, 18  # 4 steps a pass: the last one is cut short
torch.manual_seed(1)
X = torch.randn(SIZE, 6)
Y = torch.randint(0, 3, (SIZE,))


@pytest.fixture(autouse=True)
def every_epoch(monkeypatch):
    """States are written after every epoch, whatever it costs."""
    monkeypatch.setattr(checkpoints, "SHARE", 1.0)
    monkeypatch.setattr(checkpoints, "LEAST", 0.0)


class Interrupt(bp.Callback):
    is_resumable = True

    def __init__(self, restart, step):
        self.at = (restart, step)

    def on_step(self, state):
        if (state.restart, state.step) == self.at:
            raise KeyboardInterrupt


def fitted(restarts=1, steps=STEPS, **more):
    torch.manual_seed(3)
    network = nn.Sequential(nn.Linear(6, 20), nn.BatchNorm1d(20), nn.ReLU(), nn.Linear(20, 3))
    bnn = bp.BayesianNetwork(network, {"3.weight": bp.Gaussian()}, data_size=SIZE)
    loader = DataLoader(TensorDataset(X, Y), 16, shuffle=True)
    how = {"validation": (X[:9], Y[:9]), "device": "cpu", "execution": "plain", "learning_rate": 2e-2}
    return bp.fit(bnn, loader, steps=steps, restarts=restarts, **how, **more)


@functools.cache
def whole(restarts=1, steps=STEPS):
    return fitted(restarts, steps)


def resumed(folder, at, *how):
    with pytest.raises(KeyboardInterrupt):
        fitted(*how, checkpoint=folder, callbacks=[Interrupt(*at)])
    return fitted(*how, checkpoint=folder)


def is_same(one, other):
    learned = [[*fit.guide.state_dict().values(), *fit.model.network.state_dict().values()] for fit in (one, other)]
    return (
        all(torch.equal(mine, its) for mine, its in zip(*learned, strict=True))
        and one.settings[CONSTANT] == other.settings[CONSTANT]
        and torch.equal(one.inputs, other.inputs)
        and one.trace.drop_vars("seconds").identical(other.trace.drop_vars("seconds"))
        and one.score(X, Y) == other.score(X, Y)
        and one.summary()["notes"] == other.summary()["notes"]
    )


CUTS = [(1, STEPS, (0, 6)), (1, STEPS, (0, 18)), (2, STEPS, (1, 2)), (2, STEPS, (1, 17)), (2, 3, (1, 2))]


@pytest.mark.parametrize(("restarts", "steps", "at"), CUTS)
def test_a_fit_that_was_interrupted_ends_as_one_that_was_not(restarts, steps, at, tmp_path):
    assert is_same(resumed(tmp_path / "fit", at, restarts, steps), whole(restarts, steps))


@pytest.mark.parametrize(("restarts", "steps"), [(1, STEPS), (2, STEPS), (1, 3)])
def test_a_finished_fit_is_the_same_when_it_is_asked_for_again(restarts, steps, tmp_path):
    fitted(restarts, steps, checkpoint=tmp_path / "fit")
    again = fitted(restarts, steps, checkpoint=tmp_path / "fit")
    assert again.settings[CONSTANT] is not None and is_same(again, whole(restarts, steps))


@pytest.mark.parametrize(
    ("place", "nothing"), [("targets", None), ("has_targets", False), ("passes", [{"inputs": None, "seen": 0}])]
)
def test_what_is_kept_is_needed(place, nothing, tmp_path, monkeypatch):
    original = KeptInputs.go_on_from
    monkeypatch.setattr(KeptInputs, "go_on_from", lambda self, state: original(self, {**state, place: nothing}))
    assert not is_same(resumed(tmp_path / "fit", (0, 18)), whole())


def test_a_state_of_an_earlier_version_goes_on_without(tmp_path, monkeypatch):
    monkeypatch.setattr(KeptInputs, "state", lambda self: None)
    assert resumed(tmp_path / "fit", (0, 18)).settings["steps"] == STEPS


def test_of_tensors_in_memory_nothing_is_kept(tmp_path):
    network = nn.Sequential(nn.Linear(6, 5), nn.BatchNorm1d(5), nn.Linear(5, 3))
    bnn = bp.BayesianNetwork(network, {"0.weight": bp.Gaussian()}, data_size=SIZE)
    fits = [bp.fit(bnn, (X, Y), epochs=2, device="cpu", checkpoint=tmp_path / "fit") for _ in range(2)]
    assert checkpoints._read(tmp_path / "fit" / "restart-0.json")["passed"] is None
    assert fits[0].settings[CONSTANT] == fits[1].settings[CONSTANT] is not None


class EachStep(bp.Likelihood):
    """Labels of sequences, of whatever length."""

    name = "each step"

    def distribution(self, outputs):
        raise NotImplementedError

    def log_prob(self, outputs, y):
        return -nn.functional.binary_cross_entropy_with_logits(outputs, y, reduction="none").sum(dim=1)

    def predict(self, outputs):
        return outputs.sigmoid()

    def check(self, outputs, y):
        pass

    def scores(self, mean_prediction, y):
        return {"accuracy": float(((mean_prediction > 0.5) == (y == 1)).double().mean())}


class Steps(nn.Module):
    def __init__(self):
        super().__init__()
        self.last = nn.Linear(1, 1)

    def forward(self, x):
        return self.last(x.unsqueeze(-1)).squeeze(-1)


def test_targets_of_unlike_lengths_lose_no_fit(tmp_path):
    batches = [(torch.randn(10, n), torch.randint(0, 2, (10, n)).float()) for n in (4, 7)]
    bnn = bp.BayesianNetwork(Steps(), {"last.weight": bp.Gaussian()}, EachStep(), data_size=20)
    fits = [bp.fit(bnn, batches, steps=3, device="cpu", checkpoint=tmp_path / "fit") for _ in range(2)]
    assert fits[0].settings[CONSTANT] == fits[1].settings[CONSTANT]
