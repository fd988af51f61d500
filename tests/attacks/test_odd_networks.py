"""Odd networks: whatever tracing believes of them, what comes out is exact everywhere, or refused in a sentence."""

from __future__ import annotations

import copy
import warnings

import pytest
import torch

from bayesprune.models.compact import compact
from tests.oracles.odd_networks import ODD, PLAIN, combinations

EXACT = 1e-9  # of the largest output, and of 1


@pytest.fixture(autouse=True)
def double():
    torch.set_default_dtype(torch.float64)


def run(network, x, grad):
    """What a network gives that has run never before; a graph's complaints are not printed."""
    with torch.set_grad_enabled(grad):
        return copy.deepcopy(network)(x.clone()).detach().double()


def distance(network, compacted, shape):
    """The largest difference at any scale and batch size, relative to the outputs, and how many were compared."""
    found, compared = 0.0, 0
    for _, x, grad in combinations(shape):
        try:
            one = run(network, x, grad)
        except RuntimeError:  # a batch that the network does not take
            continue
        two = run(compacted, x, grad)
        assert one.shape == two.shape
        finite = one.isfinite()
        assert bool((one[~finite].nan_to_num() == two[~finite].nan_to_num()).all())
        scale = max(1.0, float(one[finite].abs().max())) if bool(finite.any()) else 1.0
        found = max(found, float((one - two)[finite].abs().max()) / scale if bool(finite.any()) else 0.0)
        compared += 1
    return found, compared


def compacted(case):
    network = case.make().eval()
    with case.under(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*all .* units are dead", category=UserWarning)
        return network, compact(network, torch.zeros(case.shape), **case.options)


@pytest.mark.parametrize("name", list(ODD))
def test_an_odd_network_is_compacted_exactly_or_refused(name):
    case = ODD[name]
    try:
        network, result = compacted(case)
    except ValueError as refusal:
        assert isinstance(case.expected, str), refusal
        assert case.expected in str(refusal)
        return
    found, compared = distance(network, result.network, case.shape)
    assert compared == (12 if name == "subtracts_from_a_chunk" else 24)  # it runs without gradients only
    assert found < EXACT
    assert not isinstance(case.expected, str)
    assert {key: len(result.network.get_submodule(key).weight) for key in case.expected} == case.expected


@pytest.mark.parametrize("name", list(PLAIN))
def test_an_innocent_neighbour_is_compacted(name):
    case = PLAIN[name]
    network, result = compacted(case)
    assert {key: len(result.network.get_submodule(key).weight) for key in case.expected} == case.expected
    found, compared = distance(network, result.network, case.shape)
    assert compared >= 6
    assert found < (1e-2 if "precision" in name else EXACT)
