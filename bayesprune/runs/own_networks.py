"""Networks by `MODULE:NAME` or `FILE.py:NAME`: how what is named there is called, torchvision's for any images."""

from __future__ import annotations

import contextlib
import copy
import inspect
import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from bayesprune.models.checks.size_bounds import require_holdable
from bayesprune.runs.prior_files import import_object
from bayesprune.runs.starting_weights import COLOURS

__all__ = ["complete_settings", "own_network"]

_TORCHVISION = "torchvision.models"


def complete_settings(name: str, settings: Mapping[str, Any], outputs: int) -> dict[str, Any]:
    """The arguments by name that a network is called with: those given, and of torchvision's the number of classes.

    Args:
        name: `MODULE:NAME` or `FILE.py:NAME`.
        settings: Those given, `--network-set`.
        outputs: Outputs that are needed.

    Raises:
        ValueError: If it cannot be imported, or torchvision is asked for weights, which would be downloaded.
    """
    found = import_object(name, "network")
    if not _is_torchvision(found):
        return dict(settings)
    _refuse_downloads(settings)
    return {"num_classes": outputs, **settings}


def own_network(
    name: str, input_shape: tuple[int, ...], outputs: int, settings: Mapping[str, Any] | None = None
) -> nn.Module:
    """Makes the network that is named: a module, or what a function returns.

    A function is called with `(input_shape, outputs)` where it takes two arguments, else with none, and with the
    settings by name. A network of torchvision whose first convolution takes colours gets one for grey images where the
    images are grey, with the weights summed over the colours.

    Args:
        name: `MODULE:NAME` or `FILE.py:NAME`.
        input_shape: Shape of one input.
        outputs: Outputs that are needed.
        settings: Arguments by name; default none.

    Raises:
        ValueError: In one sentence, if it cannot be made, the images have channels that it does not take, or one of
            torchvision would download weights or have more parameters than `MOST_PARAMETERS`.
    """
    settings = dict(settings or {})
    found = import_object(name, "network")
    if isinstance(found, nn.Module):
        if settings:
            raise ValueError(
                f"{name} is a network already, which takes no --network-set ({', '.join(settings)}): name the function "
                "or class that makes it"
            )
        return found
    made = found
    if callable(found):
        given = (tuple(input_shape), outputs) if _binds(found, ((1,), 1), settings) else ()
        if settings and not _binds(found, given, settings):
            raise ValueError(
                f"the network {name} cannot be called with --network-set {', '.join(settings)}: its arguments are "
                f"{', '.join(_arguments(found)) or 'none'}"
            )
        if _is_torchvision(found):  # the settings may come out of somebody else's folder
            _refuse_downloads(settings)
            if "weights_backbone" in _arguments(found):  # torchvision's default is to download
                settings.setdefault("weights_backbone", None)
            require_holdable(lambda: _sketched(found, given, settings), name)
        try:
            made = found(*given, **settings)
        except Exception as problem:
            reason = " ".join(str(problem).split())
            raise ValueError(
                f"the network {name} cannot be made ({type(problem).__name__}: {reason}): it is called with "
                "(input_shape, outputs), or with nothing, and with what --network-set gives"
            ) from problem
    if not isinstance(made, nn.Module):
        raise ValueError(f"{name} is of type {type(made).__name__}: expected a torch.nn.Module or a function")
    if _is_torchvision(found):
        _fit_channels(name, made, tuple(input_shape))
    return made


def _is_torchvision(found: Any) -> bool:
    home = getattr(found, "__module__", None) or ""
    return not isinstance(found, nn.Module) and (home == _TORCHVISION or home.startswith(f"{_TORCHVISION}."))


def _refuse_downloads(settings: Mapping[str, Any]) -> None:
    wanted = [key for key in ("weights", "pretrained", "weights_backbone") if settings.get(key)]
    if wanted:
        raise ValueError(
            f"--network-set {wanted[0]}={settings[wanted[0]]} asks torchvision to download weights: save the state "
            "dict of that network to a file and give --weights FILE"
        )


class _WithoutParameters(TorchFunctionMode):
    """Makes what `torch.empty` makes, the parameters of layers, on the device ``meta``, and all else on the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        given = dict(kwargs or {})
        if func is torch.empty:
            given["device"] = "meta"
        return func(*args, **given)


def _sketched(make: Any, given: tuple[Any, ...], settings: Mapping[str, Any]) -> nn.Module:
    """What is made, without the numbers; of what cannot be made so nothing, as making it in full tells why."""
    for counts_with_tensors in (False, True):  # RegNet does, which the device meta has no numbers for
        with contextlib.ExitStack() as stack:
            stack.enter_context(torch.random.fork_rng(devices=[]))
            stack.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")  # said when it is made in full
            if counts_with_tensors:
                stack.enter_context(torch.device("cpu"))
                stack.enter_context(_WithoutParameters())
            try:
                made = make(*given, **settings)
            except Exception:
                continue
            if isinstance(made, nn.Module):
                return made
    return nn.Module()


def _binds(function: Any, given: tuple[Any, ...], settings: Mapping[str, Any]) -> bool:
    try:
        inspect.signature(function).bind(*given, **settings)
    except (TypeError, ValueError):
        return False
    return True


def _arguments(function: Any) -> list[str]:
    try:
        return list(inspect.signature(function).parameters)
    except (TypeError, ValueError):
        return []


def _fit_channels(name: str, network: nn.Module, input_shape: tuple[int, ...]) -> None:
    """Gives a network for colours a first convolution for grey images, in place; refuses other channels."""
    place, first = next(((key, one) for key, one in network.named_modules() if isinstance(one, nn.Conv2d)), ("", None))
    if first is None or (len(input_shape) == 3 and input_shape[0] == first.in_channels):
        return
    if len(input_shape) != 3:
        raise ValueError(
            f"{name} takes images (channels, height, width), but an input of the data has shape {input_shape}: save x "
            "as (N, channels, height, width)"
        )
    if input_shape[0] != 1 or first.in_channels != COLOURS or first.groups != 1:
        raise ValueError(
            f"the first layer of {name}, {place}, takes {first.in_channels} channels, but the images have "
            f"{input_shape[0]}: give images of {first.in_channels}, or a network of your own, FILE.py:NAME, that takes "
            f"{input_shape[0]}"
        )
    grey = copy.deepcopy(first)
    grey.in_channels = 1
    with torch.no_grad():
        grey.weight = nn.Parameter(first.weight.sum(dim=1, keepdim=True))
    above, _, last = place.rpartition(".")
    setattr(network.get_submodule(above), last, grey)
