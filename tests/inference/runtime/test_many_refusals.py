"""What several processes refuse: in one sentence, which is the same in all, before anything is trained."""

from __future__ import annotations

import importlib

import pytest
import torch

import bayesprune as bp
from bayesprune.inference.runtime.lost import LostProcessError, talking
from tests.inference.runtime.many_processes import environment_of, free_port

WORLDS = (2, 3)
RESPECTS = {
    "prior": "the declared model",
    "network": "the declared model",
    "data": "the data",
    "kind of data": "the data",
    "code": "the code of bayesprune",
    "learning rate": "the option learning_rate (0.02, not 0.01)",
    "seed": "the option seed (3, not 2)",
    "length": "the option epochs (2, not 1)",
    "guide": 'the option guide ("map", not null)',
    "execution": 'the option execution ("fused", not "plain")',
    "checkpoint": "the option checkpoint (true, not false)",
    "rule": "the rule sees",
    "another rule": "the rule average (",
    "no rule": "the rule sees (None, not ",
}


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("respect", RESPECTS)
def test_processes_that_fit_something_else_are_told_in_which_respect(group, world, respect):
    sentences = [found[respect] for found in group(world, "unlike_processes")]
    assert len(set(sentences)) == 1
    assert sentences[0].startswith(f"ValueError: process {world - 1} has other than process 0 as {RESPECTS[respect]}")
    assert sentences[0].endswith(": all processes have to fit the same")


@pytest.mark.parametrize("world", WORLDS)
def test_processes_that_fit_the_same_are_let_through(group, world):
    """Control."""
    assert [found["nothing"] for found in group(world, "unlike_processes")] == [""] * world


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("respect", ["precision", "noise", "batch_norm"])
def test_runtimes_that_would_not_exchange_the_same_are_refused(group, world, respect):
    sentences = [found[respect] for found in group(world, "unlike_runtimes")]
    assert len(set(sentences)) == 1
    assert sentences[0].startswith(f"ValueError: process {world - 1} has other than process 0 as {respect} (")


@pytest.mark.parametrize("world", WORLDS)
def test_more_processes_than_a_batch_has_pairs_are_refused(group, world):
    for found in group(world, "too_few_examples"):
        for name in ("batch", "data"):
            assert found[name] == (
                f"ValueError: {world} processes share out batches of {2 * world - 1} examples, 2 of each at least: "
                f"start {world - 1} or fewer, or give a larger batch_size"
            )
        assert "batches of 1 examples" in found["loader"]
        assert found["enough"] == found["data enough"] == ""  # control: two for each are enough


def test_another_number_than_was_started_is_refused(group):
    for rank, found in enumerate(group(2, "other_numbers_of_processes")):
        assert found["rank and world"] == (rank, 2) and found["rank"] == rank and found[2] == ""
        for number in (0, 1, 3):
            assert found[number] == (
                f"ValueError: processes={number}, but 2 were started on this machine: leave processes out"
            )


# -- in a process alone ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        ({"device": "tpu"}, "device takes one of auto, cpu, cuda, not 'tpu'"),
        ({"precision": "float16"}, "precision takes one of float32, float64, bfloat16, not 'float16'"),
        ({"batch_norm": "both"}, "batch_norm takes one of apart, synchronised, not 'both'"),
        ({"noise": None}, "noise takes one of apart, common, not None"),
        ({"processes": 0}, "processes and nodes are at least 1, not 0 and 1"),
        ({"nodes": 0}, "processes and nodes are at least 1, not 1 and 0"),
    ],
)
def test_words_and_numbers_that_are_unknown_are_refused_before_anything_starts(given, sentence):
    with pytest.raises(ValueError) as caught:
        bp.FabricRuntime(**{"device": "cpu", **given})
    assert str(caught.value) == sentence
    assert not torch.distributed.is_initialized()


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a CUDA device")
def test_a_device_that_is_not_there_is_refused():
    with pytest.raises(ValueError, match="device='cuda', but there is no CUDA device here: leave device out"):
        bp.FabricRuntime(device="cuda")


def test_without_lightning_fabric_it_is_said_what_to_install(monkeypatch):
    found = importlib.import_module

    def missing(name, *more):
        if name.startswith("lightning_fabric"):
            raise ModuleNotFoundError(name)
        return found(name, *more)

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"pip install 'bayesprune\[distributed\]'"):
        bp.FabricRuntime(device="cpu")


@pytest.mark.parametrize("rank", [0, 1])
def test_processes_that_find_nobody_say_so_after_the_timeout(monkeypatch, rank):
    for name, value in environment_of(rank, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError) as caught:
        bp.FabricRuntime(device="cpu", timeout=2.0)
    assert str(caught.value).startswith("the processes of the fit did not find each other (")
    assert str(caught.value).endswith("): start all of them, with the same address and port of the first")
    assert "\n" not in str(caught.value) and not torch.distributed.is_initialized()


def test_an_exchange_that_fails_says_that_a_process_has_ended():
    with pytest.raises(LostProcessError, match="a process of the fit has ended") as caught, talking():
        raise RuntimeError("[gloo] Connection closed by peer\n127.0.0.1")
    assert "\n" not in str(caught.value) and isinstance(caught.value.__cause__, RuntimeError)
    with pytest.raises(ValueError, match="something else"), talking():  # control: other errors stay what they are
        raise ValueError("something else")
