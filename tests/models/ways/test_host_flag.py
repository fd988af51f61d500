"""A truth about a tensor is looked at once, and again after every change."""

from __future__ import annotations

import copy
import pickle

import torch
from torch import nn

from bayesprune.models.ways.host_flag import HostFlag

LOOKS = []


def is_set(tensor):
    LOOKS.append(1)
    return tensor.all()


def looks(flag, tensor):
    LOOKS.clear()
    return flag.of(tensor), len(LOOKS)


def test_it_is_looked_at_again_after_a_change_and_not_before():
    flag, tensor = HostFlag(is_set), torch.zeros(2, dtype=torch.bool)
    assert looks(flag, tensor) == (False, 1) and looks(flag, tensor) == (False, 0)
    for change, answer in (
        (lambda: tensor.fill_(True), True),
        (lambda: tensor.copy_(torch.tensor([True, False])), False),
        (lambda: tensor[1:].logical_not_(), True),  # by a view of it
    ):
        change()
        assert looks(flag, tensor) == (answer, 1) and looks(flag, tensor) == (answer, 0)
    assert looks(flag, torch.zeros(2, dtype=torch.bool)) == (False, 1)  # another tensor


def test_it_is_looked_at_again_after_a_module_has_loaded_its_state_or_moved():
    module, flag = nn.Module(), HostFlag(is_set)
    module.register_buffer("flag", torch.zeros((), dtype=torch.float32))
    assert not flag.of(module.flag)
    module.load_state_dict({"flag": torch.ones(())})
    assert flag.of(module.flag) and looks(flag, module.double().flag) == (True, 1)


def test_a_copy_looks_for_itself():
    flag, tensor = HostFlag(is_set), torch.zeros((), dtype=torch.bool)
    tensor.fill_(True)
    assert flag.of(tensor)
    for copied, other in (copy.deepcopy((flag, tensor)), (pickle.loads(pickle.dumps(flag)), tensor.clone())):
        other.fill_(False)  # as often as the first one was changed
        assert looks(copied, other) == (False, 1)
    assert looks(flag, tensor) == (True, 0)
