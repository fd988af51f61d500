"""Parameters for Pyro's SVI, which trains those alone that the model and the guide name while they run."""

from __future__ import annotations

from itertools import count
from weakref import WeakKeyDictionary

import pyro
from pyro.poutine.runtime import _PYRO_STACK
from pyro.poutine.trace_messenger import TraceMessenger
from torch import nn

__all__ = ["name_parameters"]

_NUMBERS: WeakKeyDictionary[nn.Module, int] = WeakKeyDictionary()
_NEXT = count()


def name_parameters(owner: nn.Module, *modules: nn.Module) -> None:
    """Tells Pyro which parameters there are, where an optimizer of Pyro's asks: inside `pyro.infer.SVI.step`.

    Elsewhere nothing is told: Pyro's parameter store keeps for ever what it is given, and a model under `NUTS` or
    `Predictive` runs thousands of times. Names hold a number of the owner, as the store is one for all models: under
    the same name a second model would be given the parameters of the first.

    Args:
        owner: The Pyro model or guide.
        modules: What holds its parameters; frozen ones are left out.
    """
    if not any(isinstance(one, TraceMessenger) and one.param_only for one in _PYRO_STACK):
        return
    if owner not in _NUMBERS:
        _NUMBERS[owner] = next(_NEXT)
    for part, module in enumerate(modules):
        for name, parameter in module.named_parameters():
            if parameter.requires_grad:
                pyro.param(f"{type(owner).__name__} {_NUMBERS[owner]} {part} {name}", parameter)
