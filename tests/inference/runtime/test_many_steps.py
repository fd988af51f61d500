"""Steps of two and three processes are those of one: losses, gradients, whole fits; noise is each process's own."""

from __future__ import annotations

import pytest
import torch

from tests.inference.runtime import step_checks
from tests.inference.runtime.many_processes import alone
from tests.inference.runtime.problems import SIZE, distance

pytestmark = pytest.mark.filterwarnings("ignore:the noise of theta's gradient:UserWarning")
WORLDS = (2, 3)
AGREEMENT = {"float64": 1e-9, "float32": 1e-5}


@pytest.fixture(scope="module")
def one_process():
    """Losses and gradients of all cases in one process."""
    return step_checks.steps_at_common_noise(alone)


# -- the same noise --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("world", WORLDS)
def test_losses_and_gradients_are_those_of_one_process(group, one_process, world):
    for rank, found in enumerate(group(world, "steps_at_common_noise")):
        assert found.keys() == one_process.keys()
        worst = dict.fromkeys(AGREEMENT, 0.0)
        for case, (losses, gradients) in found.items():
            expected_losses, expected = one_process[case]
            allowed = AGREEMENT[case[1]]
            assert len(losses) == -(-SIZE // case[3]), case
            assert distance(losses, expected_losses) < allowed, (rank, case)
            for step, gradient in enumerate(gradients):  # the last of them is of a smaller batch
                assert (apart := distance(gradient, expected[step])) < allowed, (rank, case, step)
                worst[case[1]] = max(worst[case[1]], apart)
        assert worst["float32"] > 1e-9 > worst["float64"]  # control: single precision is single


def test_equal_weights_of_unequal_shares_are_caught(group, one_process):
    """Control: of 17 examples the third process has 5, and the others have 6."""
    losses, gradients = group(3, "steps_without_weights_of_shares")[0]
    expected_losses, expected = one_process["HALO", "float64", "plain", 17]
    assert distance(losses, expected_losses) > 1e-5 and distance(gradients, expected) > 1e-4


def test_the_size_of_a_share_for_that_of_the_data_is_caught(group, one_process):
    """Control: the likelihood is then half of what it has to be, beside the same KL term."""
    losses, gradients = group(2, "steps_with_the_size_of_a_share")[0]
    expected_losses, expected = one_process["HALO", "float64", "plain", 17]
    assert distance(losses, expected_losses) > 0.01 and distance(gradients, expected) > 0.1


@pytest.mark.parametrize("world", WORLDS)
def test_whole_fits_end_where_one_process_ends(group, world):
    expected = step_checks.whole_fits_at_common_noise(alone)
    apart = group(world, "whole_fits")[0]
    for found in group(world, "whole_fits_at_common_noise"):
        for prior, (tensors, history) in found.items():
            assert distance(tensors, expected[prior][0]) < 1e-11, prior
            assert history.keys() == expected[prior][1].keys() >= {"loss"}
            for name, column in history.items():
                assert distance(column, expected[prior][1][name]) < 1e-11, (prior, name)
            assert distance(apart[prior][0], expected[prior][0]) > 1e-6, prior  # control: the noise is another


@pytest.mark.parametrize("world", WORLDS)
@pytest.mark.parametrize("name", ["whole_fits", "whole_fits_at_common_noise"])
def test_all_processes_end_with_the_same_bits_and_records(group, world, name):
    first, *others = group(world, name)
    for other in others:
        for prior, (tensors, history) in other.items():
            assert torch.equal(tensors, first[prior][0]), prior
            assert all(torch.equal(column, first[prior][1][key]) for key, column in history.items())


# -- noise apart -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", step_checks.PRIORS_APART)
@pytest.mark.parametrize("world", WORLDS)
def test_gradients_are_the_mean_of_each_process_s_own(group, world, prior):
    found = [one[prior] for one in group(world, "steps_at_noise_apart")]
    states = [one["states"] for one in found]
    losses, gradients = step_checks.gradients_one_by_one(alone, prior, states)
    for one in found:
        assert distance(one["losses"], losses) < 1e-9
        assert all(distance(*pair) < 1e-9 for pair in zip(one["gradients"], gradients, strict=True))
    swapped = step_checks.gradients_one_by_one(alone, prior, [states[1], states[0], *states[2:]])
    assert distance(found[0]["gradients"], swapped[1]) > 1e-3  # control


@pytest.mark.parametrize("world", WORLDS)
def test_each_process_draws_its_own_noise_and_torch_s_generator_stays(group, world):
    found = [one["HALO"] for one in group(world, "steps_at_noise_apart")]
    states = [tuple(state.tolist()) for one in found for state in one["states"]]
    assert len(set(states)) == len(states) == world * len(found[0]["states"])  # no step of any is as another
    for one in found:
        before, after = one["outside"]
        assert torch.equal(before, after) and torch.equal(before, found[0]["outside"][0])
        assert torch.equal(one["drawn"], found[0]["drawn"])


def test_the_same_noise_in_two_processes_is_caught(group):
    """Control."""
    found = group(2, "steps_at_noise_of_one_rank")
    states = [tuple(state.tolist()) for one in found for state in one["states"]]
    assert len(set(states)) == len(states) // 2
    apart = group(2, "steps_at_noise_apart")[0]["HALO"]
    assert distance(found[0]["gradients"], apart["gradients"]) > 1e-3
