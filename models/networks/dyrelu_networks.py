"""Networks with DyReLU in the place of every ReLU, and with ReLU again once they are faded."""

from __future__ import annotations

import copy
from collections import Counter
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.dyrelu import DyReLU
from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.networks.placing import like
from bayesprune.models.networks.residual_blocks import SeparateBlock, has_one_activation
from bayesprune.models.ways.plain_layers import plain_form, put_module

__all__ = ["DYRELU", "dyrelus_of", "refuse_active", "unfaded_note", "with_dyrelu"]

DYRELU = "dyrelu"
"""Key of `network.config` that says a network has them."""


def with_dyrelu(network: nn.Module, example_input: Tensor | None = None, zero_start: bool = False) -> nn.Module:
    """A copy of a network in which every `nn.ReLU` is a `DyReLU` with a hyper-network of its own.

    Of torchvision's residual blocks, which run one activation at several places, each place gets one. Fits of such a
    network fade them into ReLUs by the rule `Phasing`, and the networks that fits give back have ReLUs.

    Args:
        network: The network; its weights are copied.
        example_input: An input, `(n, ...)`, with which channels are counted; default None: zeros of the shape that one
            of this package's networks was built for.
        zero_start: Whether each starts as a ReLU; default False: as ES2 has it.

    Raises:
        ValueError: In one sentence, if there is no `nn.ReLU`, a forward pass calls one several times or calls
            `torch.relu` itself, an activation is on inputs of other than two or four dimensions, or there is no
            example input.
    """
    made = copy.deepcopy(network)
    for name, module in list(made.named_modules()):
        if has_one_activation(module):
            put_module(made, name, SeparateBlock(module))
    relus: dict[str, nn.Module] = {name: module for name, module in made.named_modules() if isinstance(module, nn.ReLU)}
    if not relus:
        raise ValueError("the network has no nn.ReLU that could be a DyReLU: write its activations as nn.ReLU modules")
    for name, channels in _channels(made, relus, _example(made, example_input)).items():
        relu, example = relus[name], next(made.parameters())
        made_one = DyReLU(channels, zero_start=zero_start).to(example.device, example.dtype)
        made_one.training = relu.training
        made = put_module(made, name, made_one)
    _note(made, True)
    return made


def dyrelus_of(network: nn.Module) -> list[DyReLU]:
    """The DyReLU layers of a network, in its order."""
    return [module for module in network.modules() if isinstance(module, DyReLU)]


def refuse_active(network: nn.Module) -> None:
    """Refuses a network whose DyReLU layers still depend on the input, where layers have to be plain ones.

    Raises:
        ValueError: If there is such a layer.
    """
    for name, module in network.named_modules():
        if isinstance(module, DyReLU) and not module.is_faded:
            raise ValueError(
                f"{name or 'the network'} is a DyReLU that still acts, with coefficients for each input: fit the "
                "network to the end, where the rule Phasing has faded it into a ReLU"
            )


def unfaded_note(network: nn.Module) -> list[str]:
    """A sentence where a network's DyReLU layers still act; none where it has none, or all are faded."""
    active = [layer for layer in dyrelus_of(network) if not layer.is_faded]
    if not active:
        return []
    count = sum(parameter.numel() for layer in active for parameter in layer.parameters())
    return [
        f"{len(active)} DyReLU layers were not faded into ReLUs, as the fit ended before (beta is "
        f"{float(active[0].beta):.3g}): the network keeps their {count:,} parameters, so fit to the end, or give "
        "Phasing earlier shares"
    ]


def _without(network: nn.Module, _: Collection[str]) -> None:
    _note(network, False)


@plain_form(DyReLU, _without)
def _relus(layers: Mapping[str, DyReLU], _: Collection[str]) -> dict[str, nn.Module]:
    """An `nn.ReLU` in the place of every DyReLU, where all are faded."""
    return {name: nn.ReLU() for name in layers} if all(one.is_faded for one in layers.values()) else {}


def _note(network: nn.Module, has: bool) -> None:
    """Has a ready network's config say whether it has DyReLU layers."""
    config = getattr(network, "config", None)
    if isinstance(config, dict):
        rest = {key: value for key, value in config.items() if key != DYRELU}
        network.config = rest | ({DYRELU: True} if has else {})  # type: ignore[assignment]


def _example(network: nn.Module, given: Tensor | None) -> Tensor:
    reference = next(network.parameters(), torch.zeros(()))
    if given is not None:
        return like(given.detach()[:1], reference)
    config: Any = getattr(network, "config", None)
    if not isinstance(config, dict) or "input_shape" not in config:
        raise ValueError(
            "with_dyrelu needs an input of the network, with which channels are counted: pass example_input=, e.g. "
            "x[:1]"
        )
    return torch.zeros((1, *config["input_shape"]), dtype=reference.dtype, device=reference.device)


class _CountsRelu(TorchFunctionMode):
    """Counts calls of ReLU as a function, by modules or not."""

    NAMED = (F.relu, torch.relu, torch.relu_, Tensor.relu, Tensor.relu_, F.relu_)

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func in self.NAMED:
            self.calls += 1
            with torch._C.DisableTorchFunction():  # one function calls another
                return func(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _channels(network: nn.Module, relus: dict[str, nn.Module], example: Tensor) -> dict[str, int]:
    """How many channels each activation sees, by name, of those that run."""
    shapes: dict[str, torch.Size] = {}
    calls: Counter[str] = Counter()

    def note(name: str) -> Any:
        def hook(module: nn.Module, arguments: Any, output: Tensor) -> None:
            shapes[name] = output.shape
            calls[name] += 1

        return hook

    hooks = [module.register_forward_hook(note(name)) for name, module in relus.items()]
    counted = _CountsRelu()
    try:
        with evaluation_mode(network), torch.no_grad(), counted:
            network(example)
    except Exception as problem:  # forward is the user's code
        raise ValueError(
            f"the network does not take an input of shape {tuple(example.shape)} ({first_line(problem)}): pass "
            "example_input="
        ) from problem
    finally:
        for hook in hooks:
            hook.remove()
    several = [name for name, count in calls.items() if count > 1]
    if several:
        raise ValueError(
            f"{several[0]} is called {calls[several[0]]} times in a forward pass, but a DyReLU belongs to one place: "
            "give each call an nn.ReLU of its own"
        )
    if counted.calls > sum(calls.values()):
        raise ValueError(
            "the network calls relu as a function besides its nn.ReLU modules, where no DyReLU can be put: write each "
            "as an nn.ReLU of its own"
        )
    for name, shape in shapes.items():
        if len(shape) not in (2, 4):
            raise ValueError(
                f"{name} is on inputs of shape {tuple(shape)}, but a DyReLU is for (n, channels, height, width) or "
                "(n, channels): leave this network as it is"
            )
    return {name: shape[1] for name, shape in shapes.items()}
