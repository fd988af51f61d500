"""What a file asks for is bounded before anything of its size is made, and what people use lies within the bounds."""

from __future__ import annotations

import json
import time
import tracemalloc

import pytest
import torch

from bayesprune.models.checks.size_bounds import (
    MOST_DATA,
    checked_count,
    checked_input_shape,
    checked_settings,
    checked_width,
    require_holdable,
)
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.normal import Normal
from bayesprune.models.priors.ready import from_config
from bayesprune.models.priors.spike_and_slab import SpikeAndSlab
from bayesprune.models.ready_networks import NETWORKS, make_ready, network_from_config
from bayesprune.models.structure.ready_graphs import READY_GRAPHS

ODD = [None, True, "3", 3.0, [], {}, [3], -1, 0, 10**400, float("nan"), float("inf")]


@pytest.mark.parametrize("value", ODD, ids=str)
def test_a_count_is_a_whole_number_in_bounds(value):
    with pytest.raises(ValueError, match="classes is .* whole number from 1 to 1,000,000 is expected") as problem:
        checked_count(value, "classes")
    assert "\n" not in str(problem.value) and len(str(problem.value)) < 200


@pytest.mark.parametrize("value", [1, 10, 1000, 10**6])
def test_counts_that_are_used_are_let_through(value):
    assert checked_count(value, "classes") == value
    assert checked_count(MOST_DATA, "data_size", MOST_DATA) == MOST_DATA


@pytest.mark.parametrize(
    "value", [None, "28", 28, [], [0], [-1, 2], [28.0], [True], ["touch", "x"], [10**6, 10**6], [10**7], [1] * 6, {}]
)
def test_a_shape_is_a_short_list_of_whole_numbers(value):
    with pytest.raises(ValueError, match="input_shape"):
        checked_input_shape(value)


@pytest.mark.parametrize("value", [[1], [784], [1, 28, 28], [3, 224, 224], (3, 4096, 4096), [2, 3, 4, 5, 6], [10**6]])
def test_shapes_that_are_used_are_let_through(value):
    assert checked_input_shape(value) == tuple(value)


@pytest.mark.parametrize("value", [None, True, "1", [1], -1, 0, 0.0, -0.5, 1001, 10**400, float("nan"), float("inf")])
def test_a_width_is_positive_and_bounded(value):
    with pytest.raises(ValueError, match="width is .* positive number up to 1000"):
        checked_width(value)
    assert [checked_width(width) for width in (1, 0.02, 8)] == [1.0, 0.02, 8.0]  # control


@pytest.mark.parametrize(
    "value", [None, "a=1", ["a"], {1: 2}, {"a": 2**63}, {"a": float("nan")}, {"a": {"b": float("inf")}},
              {"a": object()}, {"a": [[[[[[[[[[1]]]]]]]]]]}]
)  # fmt: skip
def test_settings_are_what_json_holds(value):
    with pytest.raises(ValueError, match="the settings"):
        checked_settings(value, "the settings")


def test_settings_that_are_used_are_let_through():
    for value in ({}, {"a": 1, "b": 0.5, "c": "output", "d": None, "e": True, "f": [1, [2.5]], "g": {"macs": 1.0}}):
        assert checked_settings(json.loads(json.dumps(value)), "the settings") == value


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_counted_without_memory_and_without_a_random_number(name):
    shape = (32,) if name.endswith("-stack") else (3, 32, 32)
    torch.manual_seed(0)
    expected = {key: value.clone() for key, value in NETWORKS[name](shape, 10, 0.25).state_dict().items()}
    torch.manual_seed(0)
    found = make_ready(name, shape, 10, 0.25).state_dict()
    assert all(torch.equal(found[key], value) for key, value in expected.items()) and found.keys() == expected.keys()
    assert not any(value.is_meta for value in found.values())
    began = time.perf_counter()
    tracemalloc.start()
    sizes = rf"{name} of these sizes has [\d,]+ parameters, but at most 1,073,741,824"
    vertices = rf"{name} of width 1000 has 32,000 vertices, but at most 2,000"
    with pytest.raises(ValueError, match=vertices if name in READY_GRAPHS else sizes):
        make_ready(name, shape if len(shape) == 1 else (3, 64, 64), 10**6, 1000.0)
    assert tracemalloc.get_traced_memory()[1] < 2**26 and time.perf_counter() - began < 60
    tracemalloc.stop()


def test_a_network_below_the_bound_is_let_through():
    require_holdable(lambda: torch.nn.Linear(2**15, 2**15 - 1), "a layer")
    with pytest.raises(ValueError, match="1,073,774,592 parameters"):  # control: a row more
        require_holdable(lambda: torch.nn.Linear(2**15, 2**15), "a layer")


def test_what_is_stored_is_made_again():
    config = json.loads(json.dumps(NETWORKS["lenet-5"]((1, 28, 28), 10, 0.5).config))
    assert network_from_config(config).conv1.weight.shape == (10, 1, 5, 5)
    old = {key: value for key, value in config.items() if key != "width"}  # of versions without widths
    assert network_from_config(old).conv1.weight.shape == (20, 1, 5, 5)
    prior = SpikeAndSlab(0.1, level="output")
    assert from_config(json.loads(json.dumps(prior.config))).config == prior.config
    assert Likelihood.from_config(Normal(0.5).config()).config() == Normal(0.5).config()


@pytest.mark.parametrize("config", [None, [], "lenet-5", {}, {"name": "os:system"}, {"name": ["lenet-5"]}])
def test_what_is_no_config_is_told(config):
    for read, what in ((network_from_config, "network|input_shape"), (from_config, "no ready prior"),
                       (Likelihood.from_config, "likelihood")):  # fmt: skip
        with pytest.raises(ValueError, match=what):
            read(config)
