"""Sums of steps: read late or at once they are the same, and a step that was not finite is told by its number."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.objective.objective import Terms
from bayesprune.inference.training import restart_run
from bayesprune.inference.training.step_sums import StepSums

GENERATOR = torch.Generator().manual_seed(2)
NUMBERS = [(float(a), float(b)) for a, b in torch.randn(40, 2, generator=GENERATOR, dtype=torch.float64) * 100.0]
"""Log-likelihood and KL term of forty steps."""


def terms(likelihood, kl, dtype=torch.float64):
    likelihood, kl = torch.tensor(likelihood, dtype=dtype), torch.tensor(kl, dtype=dtype)
    return Terms(kl - likelihood, likelihood, kl, {"a": 0.25 * kl, "b": 0.75 * kl})


def weight(step):
    return step / len(NUMBERS)


def expected(numbers, weights=weight):
    """The sums in Python's numbers, by hand."""
    return {
        "loss": math.fsum(weights(n) * kl - ll for n, (ll, kl) in enumerate(numbers, 1)),
        "expected_log_likelihood": math.fsum(ll for ll, _ in numbers),
        "kl": math.fsum(kl for _, kl in numbers),
    }


@pytest.mark.parametrize("every", [1, 7, 40])
def test_sums_are_those_of_the_numbers_however_late_they_are_read(every):
    sums = StepSums()
    for step, (likelihood, kl) in enumerate(NUMBERS, 1):
        sums.add(step, weight(step), terms(likelihood, kl))
        if step % every == 0:
            assert sums.read() is None
    assert sums.read() is None and sums.taken == len(NUMBERS)
    for name, value in expected(NUMBERS).items():
        assert sums.sums[name] == pytest.approx(value, rel=1e-13)
        assert sums.sums[name] != pytest.approx(expected(NUMBERS, lambda _: 1.0)["loss"], rel=1e-6)  # control
    assert sums.chunk == [kl - ll for ll, kl in NUMBERS]
    assert sums.mean_chunk() == pytest.approx(expected(NUMBERS, lambda _: 1.0)["loss"] / 40, rel=1e-13)
    assert sums.chunk == []
    sums.begin_epoch()
    assert sums.taken == 0 and set(sums.sums.values()) == {0.0}


def test_single_precision_is_summed_in_double():
    sums, value = StepSums(), 1e8 / 3
    for step in range(1, 1001):
        sums.add(step, 1.0, terms(-value, 0.0, torch.float32))
    sums.read()
    single = float(torch.tensor(value, dtype=torch.float32))
    assert sums.sums["loss"] == pytest.approx(1000 * single, rel=1e-14)
    assert float(torch.full((1000,), single).cumsum(0)[-1]) != 1000 * single  # control: float32 is not enough


def test_what_a_replayed_graph_writes_to_the_same_place_is_kept_for_each_step():
    """A captured step returns the same tensors each time, which the next one overwrites."""
    sums, place = StepSums(), torch.zeros(5, dtype=torch.float64)
    loss, likelihood, kl, *each = place.unbind()
    same = Terms(loss, likelihood, kl, dict(zip("ab", each, strict=True)))
    for step, (ll, value) in enumerate(NUMBERS, 1):
        place.copy_(torch.tensor([value - ll, ll, value, 0.25 * value, 0.75 * value], dtype=torch.float64))
        sums.add(step, weight(step), same)
    assert sums.read() is None
    for name, value in expected(NUMBERS).items():
        assert sums.sums[name] == pytest.approx(value, rel=1e-13)


@pytest.mark.parametrize(
    ("bad", "site"),
    [((math.nan, 1.0), ""), ((1.0, math.inf), "a"), ((math.inf, math.inf), "a"), ((-math.inf, 1.0), "")],
)
def test_the_first_step_that_is_not_finite_is_found_among_those_unread(bad, site):
    sums = StepSums()
    for step in range(1, 10):
        sums.add(step, 1.0, terms(*(bad if step in (5, 8) else (-2.0, 1.0))))
    found = sums.read()
    assert (found.step, found.first_bad()) == (5, site)
    assert sums.sums["loss"] == 4 * 3.0 and sums.chunk == [3.0] * 4  # the steps before it


def test_the_site_is_the_first_whose_term_is_not_finite():
    one = terms(-2.0, math.nan)
    one.kl_of["a"] = torch.tensor(1.0, dtype=torch.float64)
    sums = StepSums()
    sums.add(1, 1.0, one)
    assert sums.read().first_bad() == "b"


def test_on_a_cpu_nothing_waits_and_elsewhere_the_last_step_does():
    sums = StepSums()
    assert not sums.waits
    sums.add(1, 1.0, terms(-2.0, 1.0))
    assert not sums.waits
    elsewhere = Terms(*(torch.zeros((), device="meta") for _ in range(3)))
    sums.add(2, 1.0, elsewhere)
    assert sums.waits


# -- in a fit --------------------------------------------------------------------------------------------------

X, Y = torch.linspace(-1.0, 1.0, 160).reshape(40, 4), torch.arange(40) % 2


def fitted(*callbacks, **more):
    torch.manual_seed(0)
    layers = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2))
    bnn = bp.BayesianNetwork(layers, {"*.weight": bp.Gaussian()}, data_size=40)
    how = {"steps": 20, "batch_size": 10, "device": "cpu", "execution": "plain"}
    return bp.fit(bnn, (X, Y), "meanfield", callbacks=callbacks, **{**how, **more})


@pytest.fixture
def as_on_a_gpu(monkeypatch):
    """Steps are read when a record is due and at the end of an epoch, as where reading one would wait."""
    reads = []
    original = StepSums.read

    def read(self):
        reads.append(len(self._unread))
        return original(self)

    monkeypatch.setattr(StepSums, "waits", property(lambda self: True))
    monkeypatch.setattr(StepSums, "read", read)
    monkeypatch.setattr(restart_run, "ITERATES", 1)
    return reads


def test_a_fit_that_reads_late_has_the_trace_of_one_that_reads_at_once(as_on_a_gpu, monkeypatch):
    late = fitted()
    assert max(as_on_a_gpu) == 4  # an epoch
    with monkeypatch.context() as patched:
        patched.setattr(StepSums, "waits", False)
        at_once, reads = fitted(), len(as_on_a_gpu)
    assert late.trace.drop_vars("seconds").identical(at_once.trace.drop_vars("seconds")) and reads >= 20
    assert not late.trace.drop_vars("seconds").identical(fitted(seed=1).trace.drop_vars("seconds"))  # control


def bad_at(monkeypatch, number, change):
    """Makes a step's terms what they would be if something had become non-finite in it."""
    original, count = Stepper.step, [0]

    def step(self, x, y, kl_weight, **more):
        found, count[0] = original(self, x, y, kl_weight, **more), count[0] + 1
        return change(found) if count[0] == number else found

    monkeypatch.setattr(Stepper, "step", step)


NAN = torch.tensor(math.nan)


@pytest.mark.parametrize(
    ("change", "part"),
    [
        (lambda t: Terms(NAN, NAN, t.kl, t.kl_of, t.outputs), "the log-likelihood"),
        (lambda t: Terms(NAN, t.log_likelihood, NAN, {**t.kl_of, "2.weight": NAN}, t.outputs), "the term of 2.weight"),
    ],
)
@pytest.mark.parametrize("late", [True, False])
def test_a_non_finite_step_is_told_with_its_number_and_site_though_later_ones_were_taken(
    change, part, late, as_on_a_gpu, monkeypatch
):
    class Count(bp.Callback):
        steps = 0

        def on_step(self, state):
            self.steps += 1

    if not late:
        monkeypatch.setattr(StepSums, "waits", False)
    bad_at(monkeypatch, 6, change)
    count = Count()
    with pytest.raises(NonFiniteLossError, match=rf"non-finite at step 6 \(epoch 2, restart 0\), first in {part}: "):
        fitted(count)
    assert count.steps == (8 if late else 5)  # the epoch was taken to its end


def test_an_unread_step_is_blamed_for_the_error_of_a_later_one(as_on_a_gpu, monkeypatch):
    """Where a NaN makes the next step fail in another way, the NaN is told."""
    bad_at(monkeypatch, 6, lambda t: Terms(NAN, NAN, t.kl, t.kl_of, t.outputs))
    step, count = Stepper.step, [0]

    def fails(self, x, y, kl_weight, **more):
        count[0] += 1
        if count[0] == 7:
            raise RuntimeError("probabilities are not finite")
        return step(self, x, y, kl_weight, **more)

    monkeypatch.setattr(Stepper, "step", fails)
    with pytest.raises(NonFiniteLossError, match="non-finite at step 6"):
        fitted()
    count[0] = -100
    monkeypatch.setattr(Stepper, "step", lambda *_, **__: (_ for _ in ()).throw(RuntimeError("another thing")))
    with pytest.raises(RuntimeError, match="another thing"):  # control: an error of its own stays
        fitted()
