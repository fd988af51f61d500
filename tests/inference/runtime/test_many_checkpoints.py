"""Checkpoints of several processes: written by the first, read by any number of them."""

from __future__ import annotations

import shutil

import pytest
import torch

from tests.inference.runtime import data_checks
from tests.inference.runtime.many_processes import alone
from tests.inference.runtime.problems import distance

pytestmark = pytest.mark.filterwarnings(
    "ignore:all units of:UserWarning", "ignore:the noise of theta's gradient:UserWarning"
)
AFTER = 4
"""The fits were broken off in step 20, the second of the fourth epoch."""


@pytest.mark.parametrize(("name", "noise"), [*((name, "apart") for name in data_checks.FITS), ("HALO", "common")])
def test_a_fit_taken_up_by_as_many_ends_with_the_same_bits(group, name, noise):
    every = [found[name, noise] for found in group(2, "fits_broken_off_and_taken_up_again")]
    for one in every:
        assert one["broken"] is None and one["whole"]["resumed"] is None and one["again"]["resumed"] == AFTER
        assert one["again"]["shapes"] == one["whole"]["shapes"]
        assert torch.equal(one["again"]["tensors"], one["whole"]["tensors"])
        assert torch.equal(one["again"]["tensors"], every[0]["again"]["tensors"])
    if name == "gates and average":
        assert every[0]["whole"]["shapes"][0][0] < 12  # control: units have left


@pytest.mark.parametrize("name", data_checks.FITS)
def test_only_the_first_process_needs_a_folder_and_writes(group, name):
    for found in group(2, "fits_broken_off_and_taken_up_again"):
        assert found[name, "apart"]["known"] == ["broken", "left", "whole"]


@pytest.mark.parametrize(("name", "noise"), [*((name, "apart") for name in data_checks.FITS), ("HALO", "common")])
def test_one_process_goes_on_with_what_two_began(group, name, noise, group_folder, tmp_path):
    whole = group(2, "fits_broken_off_and_taken_up_again")[0][name, noise]["whole"]
    shutil.copytree(group_folder(2) / f"{name}, {noise}".replace(" ", "-") / "left", tmp_path / "left")
    found = data_checks.result_of(data_checks.kept_fit(alone(), name, tmp_path / "left"))
    assert found["resumed"] == AFTER
    if noise == "common":
        assert distance(found["tensors"], whole["tensors"]) < 1e-11
    else:  # control: with the noise of two processes it is another end
        assert not torch.equal(found["tensors"].sum(), whole["tensors"].sum())


@pytest.mark.parametrize("name", data_checks.FITS)
def test_three_processes_go_on_with_what_one_began(group, name, tmp_path):
    whole = data_checks.result_of(data_checks.kept_fit(alone(), name, tmp_path / "whole"))
    every = [found[name] for found in group(3, "fits_of_one_process_taken_up_by_three")]
    for found in every:
        assert found["resumed"] == AFTER and torch.equal(found["tensors"], every[0]["tensors"])
        if name == "HALO":
            assert found["shapes"] == whole["shapes"] and distance(found["tensors"], whole["tensors"]) < 1e-11
