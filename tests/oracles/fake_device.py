"""Steps on a device that is not there: tensors without values, whose device is followed through every operation.

The tensors are fake ones of PyTorch's ``meta`` device: to read a value of theirs is an error, as is an operation on
tensors of two devices; `Elsewhere` notes what is made on the CPU beside them. (Fake tensors of ``cuda`` would do as
well, but autograd asks for a driver before it differentiates them.)
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from bayesprune.models.language.declared_constants import moved

DEVICE = torch.device("meta")


class Elsewhere(TorchDispatchMode):
    """Notes operations that take or give a tensor of another device.

    Attributes:
        seen: Their names.
    """

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[str] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves((args, kwargs, result)):
            if isinstance(leaf, Tensor) and leaf.device.type != DEVICE.type:
                self.seen.append(str(func))
        return result


@contextmanager
def fake_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Inside, new tensors are fake ones, and fused optimizers take those of the device as they take a GPU's."""
    fused = import_module("torch.optim.optimizer")
    monkeypatch.setattr(fused, "_get_fused_kernels_supported_devices", lambda: ["cpu", "cuda", DEVICE.type])
    monkeypatch.setattr(torch.__future__, "get_overwrite_module_params_on_conversion", lambda: True)
    with FakeTensorMode(allow_non_fake_inputs=True) as mode:
        yield mode


def move(module: nn.Module, mode: FakeTensorMode) -> None:
    """Puts a module's parameters and buffers on the device."""
    module._apply(lambda tensor: mode.from_tensor(tensor).to(DEVICE))


def move_constants(model: nn.Module) -> None:
    """Puts the declaration's constant distributions on the device, with what has been read of them on the CPU.

    A fit reads it in its second step, once. To be called inside `fake_device`.
    """
    for prior in model.priors.values():
        for (latent, dtype, _), made in list(prior._constants.items()):
            if hasattr(made, "_bayesprune_constants"):
                like = torch.zeros((), dtype=dtype, device=DEVICE)
                prior._constants[latent, dtype, DEVICE] = moved(made, like)
