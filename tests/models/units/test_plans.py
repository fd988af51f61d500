"""Plans of removals: what two of them leave together, and tensors put back where they were."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from bayesprune.models.units.plans import composed_plan, kept_indices, plan_of, restored, restored_tensor


def test_two_plans_together_are_in_the_indices_of_before_the_first():
    one = {"tensors": {"w": {"shape": [5, 3], "kept": {"0": [0, 2, 4]}}}, "bias_added": [], "branches_removed": ["b"]}
    two = {
        "tensors": {
            "w": {"shape": [3, 3], "kept": {"0": [1, 2], "1": [0, 2]}},
            "v": {"shape": [4], "kept": {"0": [3]}},
        },
        "bias_added": [],
        "branches_removed": ["a"],
    }
    together = composed_plan(one, two)
    assert together["tensors"] == {
        "w": {"shape": [5, 3], "kept": {"0": [2, 4], "1": [0, 2]}},
        "v": {"shape": [4], "kept": {"0": [3]}},
    }
    assert together["branches_removed"] == ["b", "a"]
    assert one["tensors"]["w"]["kept"] == {"0": [0, 2, 4]}  # the first is left alone
    matrix = torch.arange(15.0).reshape(5, 3)
    first = matrix[[0, 2, 4]]
    assert torch.equal(first[[1, 2]][:, [0, 2]], matrix[[2, 4]][:, [0, 2]])


PLAN = {"tensors": {"weight": {"shape": [3, 2], "kept": {"0": [2, 0]}}, "gone": {"shape": [2], "kept": {"0": []}}}}


def test_kept_indices_are_by_number_of_dimension():
    kept = kept_indices(PLAN)
    assert list(kept) == ["weight", "gone"] and kept["weight"][0].tolist() == [2, 0] and kept["gone"][0].numel() == 0
    assert kept["gone"][0].dtype == torch.int64  # of an empty list torch would make numbers with a fraction
    with pytest.raises(KeyError):
        kept["weight"]["0"]


def test_a_plan_loses_the_tensors_that_are_gone_and_stays_as_it_was():
    assert list(plan_of({"weight": None, "bias": None}, PLAN)["tensors"]) == ["weight"]
    assert list(PLAN["tensors"]) == ["weight", "gone"]


def test_what_is_left_goes_back_to_its_place():
    left = torch.tensor([[5.0, 6.0], [7.0, 8.0]])
    expected = torch.tensor([[7.0, 8.0], [-1.0, -1.0], [5.0, 6.0]])
    assert torch.equal(restored_tensor("weight", left, PLAN, fill=-1.0), expected)
    assert not torch.equal(restored_tensor("weight", left.flip(0), PLAN, fill=-1.0), expected)
    assert torch.equal(restored_tensor("bias", left, PLAN), left)  # one that was not cut
    whole = restored(nn.Linear(2, 3), {"weight": left}, PLAN)
    assert torch.equal(whole["weight"], expected.clamp_min(0.0)) and torch.equal(whole["bias"], torch.zeros(3))
