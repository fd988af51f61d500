"""The runtime: the order of the data has a generator of its own, and a fit runs where it is told."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.data import Dataset

import bayesprune as bp
from bayesprune.inference.rules.rule import ActiveRule, Change, Rule
from bayesprune.inference.runtime.denormals import flushed_denormals
from bayesprune.inference.runtime.one_process import OneProcess

SIZE = 30
X = torch.arange(SIZE * 3.0).reshape(SIZE, 3) / 30.0
Y = torch.arange(SIZE) % 2


def one_process(dtype=torch.float32):
    return OneProcess(torch.device("cpu"), dtype)


class SeeInputs(Rule):
    """Notes the inputs of each step; draws from torch's generator in between where it is asked to."""

    name = "see"

    def __init__(self, disturbs=False):
        self.disturbs, self.seen = disturbs, []

    def begin(self, run):
        return Sees(self)


class Sees(ActiveRule):
    def __init__(self, rule):
        self.rule = rule

    def after_step(self, taken):
        self.rule.seen.append(taken.x[:, 0].clone())
        if self.rule.disturbs:
            torch.randn(5)
        return Change.NOTHING


def fitted(data=(X, Y), rule=None, prior=None, guide="meanfield", **more):
    torch.manual_seed(4)
    bnn = bp.BayesianNetwork(nn.Linear(3, 2), {"weight": prior or bp.Gaussian()}, data_size=SIZE)
    how = {"epochs": 3, "batch_size": 10, "device": "cpu", "execution": "plain"}
    return bp.fit(bnn, data, guide, rules=[rule] if rule else (), **{**how, **more})


def order_of(**more):
    rule = SeeInputs(more.pop("disturbs", False))
    fit = fitted(rule=rule, **more)
    return torch.cat(rule.seen), torch.cat([p.detach().flatten() for p in fit.guide.parameters()])


# -- the order of the data -------------------------------------------------------------------------------------


class Pairs(Dataset):
    """The data one by one."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        return X[index], Y[index]


@pytest.mark.parametrize("data", [(X, Y), Pairs()], ids=["tensors", "data set"])
def test_draws_of_noise_do_not_change_the_order(data):
    order, learned = order_of(data=data)
    others = {
        "more noise": order_of(data=data, particles=3),
        "no noise": order_of(data=data, guide="map"),
        "disturbed": order_of(data=data, disturbs=True),
    }
    for name, (same, other) in others.items():
        assert torch.equal(order, same), name
        assert learned.shape != other.shape or not torch.equal(learned, other), name  # control: the noise is another
    assert torch.equal(order.sort().values, X[:, 0].repeat(3).sort().values)  # whole passes, each in a new order
    assert not torch.equal(order[:SIZE], order[SIZE : 2 * SIZE])
    assert not torch.equal(order, order_of(data=data, seed=1)[0])  # control


def test_the_order_does_not_change_the_noise():
    """Ten passes over the order or one: the noise that follows is the same, and so is torch's."""
    found = []
    for passes in (1, 10):
        runtime = one_process()
        with runtime.restart(3):
            for _ in range(passes):
                torch.randperm(SIZE, generator=runtime.data_order)
            found.append((torch.randn(4), torch.randperm(SIZE, generator=runtime.data_order)))
    assert torch.equal(found[0][0], found[1][0])
    assert not torch.equal(found[0][1], found[1][1])  # control


def test_a_seed_says_both_and_the_two_generators_are_not_alike():
    def drawn(seed):
        runtime = one_process()
        with runtime.restart(seed):
            return torch.randperm(1000, generator=runtime.data_order), torch.randperm(1000)

    assert all(torch.equal(a, b) for a, b in zip(drawn(3), drawn(3), strict=True))
    assert not any(torch.equal(a, b) for a, b in zip(drawn(3), drawn(4), strict=True))
    for seed in (0, 3, -1, 2**62 - 1):
        order, noise = drawn(seed)
        assert not torch.equal(order, noise)


def test_torch_s_own_state_is_what_it_was_before():
    torch.manual_seed(7)
    before, runtime = torch.get_rng_state(), one_process()
    with runtime.restart(0):
        torch.randn(3)
        inside = torch.get_rng_state()
    assert torch.equal(torch.get_rng_state(), before) and not torch.equal(inside, before)
    with pytest.raises(KeyboardInterrupt), runtime.restart(0):
        torch.randn(3)
        raise KeyboardInterrupt
    assert torch.equal(torch.get_rng_state(), before)
    fitted()
    torch.manual_seed(4)
    nn.Linear(3, 2)  # what `fitted` has drawn itself
    expected = torch.get_rng_state()
    fitted()
    assert torch.equal(torch.get_rng_state(), expected)


def test_denormals_are_flushed_inside_of_a_restart_as_fits_did_before():
    tiny = torch.tensor([1e-40])
    with one_process().restart(0):
        inside = float(tiny * 0.5)
    with flushed_denormals():
        expected = float(tiny * 0.5)
    assert inside == expected


# -- a runtime of one's own ------------------------------------------------------------------------------------


class Counting(OneProcess):
    """Counts what it is asked, and orders the data by a seed of its own."""

    def __init__(self, dtype=torch.float64):
        super().__init__(torch.device("cpu"), dtype)
        self.restarts, self.set_up, self.asked = [], 0, 0

    def restart(self, seed):
        self.restarts.append(seed)
        return super().restart(seed)

    def setup(self, objective, optimizer):
        self.set_up += 1
        return super().setup(objective, optimizer)

    def agreed(self, decision):
        self.asked += 1
        return super().agreed(decision)


def test_a_runtime_of_one_s_own_is_used():
    runtime = Counting()
    fit = fitted(runtime=runtime, restarts=2, seed=5)
    assert runtime.restarts == [5, 6] and runtime.set_up == 2
    assert runtime.asked == 12  # of each epoch its row and whether to stop
    assert {p.dtype for p in fit.guide.parameters()} == {torch.float64} and fit.settings["device"] == "cpu"
    same = fitted(restarts=2, seed=5, precision="float64")
    assert all(torch.equal(a, b) for a, b in zip(fit.guide.parameters(), same.guide.parameters(), strict=True))


def test_what_a_runtime_decides_is_obeyed():
    class Stops(Counting):
        def agreed(self, decision):
            super().agreed(decision)  # of each epoch its record, and whether to stop and why
            return (self.asked >= 4, "enough", None) if isinstance(decision, tuple) else decision

    fit = fitted(runtime=Stops(), epochs=5)
    stopped = fit.settings["stopped_early"][0]
    assert fit.trace.sizes["epoch"] == 2 and stopped["step"] == 6 and stopped["reason"] == "enough"
    assert fitted(runtime=Counting(), epochs=5).trace.sizes["epoch"] == 5  # control


def test_one_process_is_the_first_and_only_one_and_leaves_all_as_it_is():
    runtime, layer = one_process(), nn.Linear(2, 1)
    assert (runtime.rank, runtime.world, runtime.plain) == (0, 1, "")
    layer(torch.ones(3, 2)).sum().backward()
    before = [(p.detach().clone(), p.grad.clone()) for p in layer.parameters()]
    state = torch.get_rng_state()
    runtime.setup(layer, torch.optim.SGD(layer.parameters(), 0.1))
    assert float(runtime.reduce(list(layer.parameters()), torch.tensor([2.0]), 0.5)) == 2.0
    runtime.level(layer)
    with runtime.noise(3):
        assert torch.equal(torch.get_rng_state(), state)  # torch's own generator draws the noise
    for p, (value, gradient) in zip(layer.parameters(), before, strict=True):
        assert torch.equal(p, value) and torch.equal(p.grad, gradient)
    assert runtime.agreed("x") == "x"
    runtime.expect_same({"the data": "anything"})
