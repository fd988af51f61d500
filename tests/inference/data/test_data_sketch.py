"""Sketches tell other data apart, and leave rounding errors alone."""

from __future__ import annotations

import importlib
import json
import math

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, TensorDataset

import bayesprune as bp
from bayesprune.inference.data import data_sketch as module
from bayesprune.inference.data.data_sketch import data_sketch, is_same_sketch

fit_module = importlib.import_module("bayesprune.inference.training.fit")  # by path: functions have their names
laplace_module = importlib.import_module("bayesprune.inference.training.laplace_around")
torch.manual_seed(0)
X = torch.randn(3000, 40)
Y = torch.randint(10, (3000,))


def differs(x=X, y=Y):
    return not is_same_sketch(data_sketch((X, Y)), data_sketch((x, y)))


@pytest.mark.parametrize("seed", range(5))
def test_rounding_errors_are_no_change(seed):
    generator = torch.Generator().manual_seed(seed)
    noise = 1 + 2e-7 * (torch.rand(X.shape, generator=generator) - 0.5)
    assert not differs(X * noise)
    assert not differs(X.double(), Y.int())


def changed(part, place, value):
    copied = part.clone()
    copied[place] = value
    return copied


@pytest.mark.parametrize(
    "given",
    [
        {"x": changed(X, (17, 3), X[17, 3] + 0.1)},
        {"x": changed(X, 2999, X[0])},
        {"x": X.flip(0), "y": Y.flip(0)},
        {"x": X[torch.randperm(3000)]},
        {"x": X.T.reshape(3000, 40)},
        {"x": X * (1 + 1e-4)},
        {"x": -X},
        {"y": changed(Y, 5, (Y[5] + 1) % 10)},
        {"y": Y.roll(1)},
        {"x": X[:2999], "y": Y[:2999]},
    ],
    ids=["number", "example", "order", "inputs", "layout", "units", "signs", "label", "labels", "fewer"],
)
def test_other_data_are_told_apart(given):
    assert differs(**given)


def test_one_number_of_two_millions_is_told_apart():
    x = torch.randn(20_000, 100, generator=torch.Generator().manual_seed(1))
    assert not is_same_sketch(data_sketch((x,)), data_sketch((changed(x, (19_999, 7), x[-1, 7] + 1.0),)))


def test_the_sums_are_those_of_the_definition():
    """Against signs that are computed one by one, in Python's own integers; chunks join without a seam."""

    def sign(place, which, bit):
        mixed = (2 * place + which) * 0x9E3779B1 % 2**32
        for _ in range(2):
            mixed = (mixed ^ mixed >> 16) * 0x45D9F3B % 2**32
        mixed ^= mixed >> 16
        return 2 * (mixed >> bit & 1) - 1

    x = X[:30].double()
    norm = math.sqrt(math.fsum(number**2 for row in x.tolist() for number in row))
    expected = [
        math.fsum(
            sign(i, 0, bit) * sign(j, 1, bit) * number
            for i, row in enumerate(x.tolist())
            for j, number in enumerate(row)
        )
        / norm
        for bit in (1, 5, 9, 13, 17, 21, 25, 29)
    ]
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_CHUNK", 300)
        (found,) = data_sketch((x,))
    np.testing.assert_allclose(found["sums"], expected, rtol=1e-10)
    assert found["norm"] == pytest.approx(norm, rel=1e-12) and found["shape"] == [30, 40]


def test_signs_are_balanced_and_independent():
    signs = torch.cat([module._signs(100_000, which) for which in (0, 1)], dim=1)
    together = signs.T @ signs / 100_000
    assert float((together - torch.eye(16)).abs().max()) < 0.02 and float(signs.mean(0).abs().max()) < 0.02


def test_huge_numbers_and_zeros_have_one_that_json_holds():
    for x in (torch.full((4, 2), 1e300, dtype=torch.float64), torch.zeros(3), torch.zeros(0, 2)):
        sketch = data_sketch((x,))
        assert is_same_sketch(json.loads(json.dumps(sketch, allow_nan=False)), sketch)


def test_other_kinds_of_data_have_none_and_what_is_no_sketch_is_not_the_same():
    assert data_sketch(DataLoader(TensorDataset(X, Y))) is None
    assert data_sketch(TensorDataset(X, Y)) == data_sketch((X, Y))
    for nothing in (3, "x", [1], [{"shape": 1}], [{"shape": [], "norm": "x", "sums": []}]):
        assert not is_same_sketch(nothing, data_sketch((X,)))


DTYPES = [torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64]
DTYPES += [torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_numbers_of_every_type_have_the_sketch_of_their_values(dtype):
    signed = dtype not in (torch.bool, torch.uint8)
    x = torch.randint(-128 if signed else 0, 2, (40, 3)).to(dtype)
    x[0, 0] = -128 if signed else 1
    sketch, plain = data_sketch((x,)), data_sketch((x.double(),))
    assert sketch == plain and plain[0]["norm"] == pytest.approx(float(x.double().norm()), rel=1e-12)
    other = x.clone()
    other[1, 2] = other[1, 2] == 0
    assert not is_same_sketch(sketch, data_sketch((other,)))


def test_a_sketch_makes_no_copy_of_all_the_data():
    sizes = []
    real = torch.Tensor.double
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(module, "_CHUNK", 300)
        patched.setattr(torch.Tensor, "double", lambda part: (sizes.append(part.numel()), real(part))[1])
        patched.setattr(torch.Tensor, "abs", lambda part: (sizes.append(part.numel()), torch.abs(part))[1])
        data_sketch((torch.ones(100, 30),))
    assert max(size for size in sizes if size != 100 * 8) <= 300 and len(sizes) > 10


class Floats(torch.nn.Linear):
    """Takes inputs of every type, and has one number for each."""

    def forward(self, x):
        return super().forward(x.to(self.weight.dtype)).squeeze(-1)


@pytest.mark.parametrize("bools", [(True, False), (False, True), (True, True)])
def test_a_fit_of_booleans_is_that_of_their_numbers(bools):
    torch.manual_seed(0)
    bnn = bp.BayesianNetwork(Floats(6, 1), {"weight": bp.Gaussian()}, bp.Bernoulli(), data_size=50)
    numbers = ((X[:50, :6] > 0).float(), (X[:50, 0] > 0).float())
    data = tuple(part.bool() if is_bool else part for part, is_bool in zip(numbers, bools, strict=True))
    found, plain = (bp.fit(bnn, pair, steps=2, device="cpu") for pair in (data, numbers))
    assert found.settings["data_sketch"] == plain.settings["data_sketch"]
    assert torch.equal(found.guide.families[0].location, plain.guide.families[0].location)
    assert not torch.equal(found.guide.families[0].location, bnn.network.weight)


@pytest.mark.parametrize("how", ["fit", "laplace_around"])
def test_a_sketch_that_fails_does_so_before_the_training(how, monkeypatch):
    def fail(data):
        raise RuntimeError("no sketch")

    class Never(bp.Callback):
        def on_step(self, state):
            raise AssertionError("a step was taken")

    network = torch.nn.Linear(40, 10)
    if how == "fit":
        monkeypatch.setattr(fit_module, "data_sketch", fail)
        bnn = bp.BayesianNetwork(network, {"weight": bp.Gaussian()}, data_size=3000)
        with pytest.raises(RuntimeError, match="no sketch"):
            bp.fit(bnn, (X, Y), steps=2, device="cpu", callbacks=[Never()])
        return
    monkeypatch.setattr(laplace_module, "data_sketch", fail)
    monkeypatch.setattr(laplace_module, "diagonal_ggn", lambda *given: pytest.fail("the curvature was computed"))
    with pytest.raises(RuntimeError, match="no sketch"):
        bp.laplace_around(network, (X, Y), bp.Categorical())
