"""Fingerprints: whether a model, a network's structure, data and arguments are those of an earlier run.

A fingerprint of a model has two parts, ``DECLARED-STRUCTURE``. Earlier versions had the first one alone, to which a
ReLU and a Tanh were the same; `as_then` says in which form one of today is compared with one of then.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Any

import torch
from torch import nn

from bayesprune.inference.data.batches import Data, length_or_none
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = [
    "as_then",
    "compare_structure",
    "data_fingerprint",
    "described",
    "names_of_today",
    "model_fingerprint",
    "network_structure",
]


def network_structure(network: nn.Module) -> dict[str, str]:
    """Type and settings (`extra_repr`) of every module, by name; what stands in `forward` alone is not seen.

    Values of parameters and buffers do not count, even where a module prints them, nor do addresses in memory.

    Args:
        network: The network; it is left as it was.
    """
    blank = copy.deepcopy(network)
    with torch.no_grad():
        for tensor in (*blank.parameters(), *blank.buffers()):
            with contextlib.suppress(RuntimeError):  # one that is expanded cannot be written to
                tensor.zero_()
    return {
        name: f"{_type_name(type(module))}({_settings(module)})"
        for name, module in blank.named_modules(remove_duplicate=False)
    }


def compare_structure(before: Any, network: nn.Module, what: Any) -> None:
    """Refuses a network with other modules than one of which `network_structure` was kept.

    Args:
        before: What was kept; None: nothing, by a version that did not, and nothing is compared.
        network: The network.
        what: Where it was kept, for the message.

    Raises:
        ValueError: Naming the first module that differs.
    """
    if before is None:
        return
    if not isinstance(before, Mapping):
        raise ValueError(f"{what} is damaged (its modules are no JSON object): fit again, or restore the file")
    now = network_structure(network)
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            raise ValueError(
                f"{what} was fitted with a network whose module {name or '(the whole)'} was "
                f"{before.get(name, 'not there')}, but now it is {now.get(name, 'not there')}: pass a model of the "
                "same network"
            )


_AS_WRITTEN = {"CifarBlock": "_BasicBlock", "ShrinkingShortcut": "_ShrinkingShortcut"}
"""Names of the package's own modules that had another one in earlier versions, whose fits are known by that."""


def _type_name(kind: type) -> str:
    own = kind.__module__.startswith("bayesprune.")
    return _AS_WRITTEN.get(kind.__name__, kind.__name__) if own else kind.__name__


def _settings(module: nn.Module) -> str:
    try:
        printed = str(module.extra_repr())
    except Exception:  # code of a network of one's own, which may not bear zeros
        return "..."
    return re.sub(r" at 0x[0-9a-fA-F]+", "", printed)


def model_fingerprint(model: BayesianNetwork) -> str:
    """Two times sixteen hexadecimal digits that change when what is declared changes; starting weights do not count.

    The first ones are of priors, shapes, likelihood and `data_size`, the others of `network_structure`.
    """
    declared = {
        "priors": {pattern: hierarchy.fingerprint() for pattern, hierarchy in model.patterns.items()},
        "shapes": {name: list(value.shape) for name, value in model.network.state_dict().items()},
        "likelihood": model.likelihood.config(),
        "data_size": model.data_size,
    }
    parts = (declared, network_structure(model.network))
    return "-".join(_digest(json.dumps(part).encode()) for part in parts)


def as_then(now: str, before: Any) -> str:
    """A fingerprint of a model in the form of one that an earlier version may have written, to compare the two."""
    return now if not isinstance(before, str) or "-" in before else now.partition("-")[0]


def data_fingerprint(data: Data) -> str:
    """Sixteen hexadecimal digits of tensors; of a `Dataset` or a loader, whose content is not read, type and size."""
    if isinstance(data, (tuple, list)) and all(torch.is_tensor(part) for part in data):
        heads = [f"{part.dtype} {tuple(part.shape)}".encode() for part in data]
        return _digest(*heads, *(part.detach().cpu().contiguous().view(torch.uint8).numpy() for part in data))
    size = length_or_none(data)
    return f"{type(data).__name__} of {'unknown' if size is None else size} elements"


def described(value: Any) -> Any:
    """A value as JSON holds it: data classes with their fields, callables and other objects by names of their code."""
    if isinstance(value, Mapping):
        return {str(key): described(one) for key, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [described(one) for one in value]
    if value is None or isinstance(value, (str, int, float)):
        return value
    if is_dataclass(value) and not isinstance(value, type):
        return {type(value).__name__: {one.name: described(getattr(value, one.name)) for one in fields(value)}}
    named = value if hasattr(value, "__qualname__") else type(value)
    return names_of_today(f"{named.__module__}.{named.__qualname__}")


_OWN = re.compile(r"bayesprune(?:\.\w+)*?\.(\w+(?:\.<locals>\.(?:\w+|<lambda>))*)")
"""A name of the package's own code with the file that it stands in, as earlier versions wrote them."""


def names_of_today(value: Any) -> Any:
    """What `described` has written, with names of the package's own code as it writes them now: without their file.

    Files move, and what an earlier version wrote has to be known again.
    """
    if isinstance(value, Mapping):
        return {key: names_of_today(one) for key, one in value.items()}
    if isinstance(value, list):
        return [names_of_today(one) for one in value]
    found = _OWN.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else f"bayesprune:{found[1]}"


def _digest(*parts: Any) -> str:
    found = hashlib.blake2b(digest_size=8)
    for part in parts:
        found.update(part)
    return found.hexdigest()
