"""Where sparse training starts: the extension point ``START``, masks before the first step."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.inference.masks.exchange import kept, kept_of_all
from bayesprune.inference.masks.layouts import Layout
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.plain_numbers import is_array
from bayesprune.models.masks.mask_way import random_masks
from bayesprune.models.networks.standardisation import UNITS

__all__ = ["START", "GivenMasks", "Start", "start_score", "synflow_masks"]

ROUNDS = 100
"""Of SynFlow, as published."""

StartFunction = Callable[[BayesianNetwork, Layout, Mapping[str, int], Tensor], dict[str, Tensor]]


@dataclass(frozen=True)
class Start:
    """A start by name.

    Attributes:
        name: Its name.
        summary: What it is, for help texts.
        of: From the model, the layout, counts by name of tensor, and one input `(1, ...)`: masks by name of tensor.
        keeps_layout: Whether the masks have these counts; else they have their sum, wherever it is, and that is the
            layout from then on. Default True.
    """

    name: str
    summary: str
    of: StartFunction
    keeps_layout: bool = True


START: dict[str, Start] = {}


def start_score(name: str, summary: str, **more: Any) -> Callable[[StartFunction], StartFunction]:
    """Decorator: a start by name; `more` are the other fields of `Start`."""

    def register(of: StartFunction) -> StartFunction:
        START[name] = Start(name, summary, of, **more)
        return of

    return register


@dataclass(frozen=True)
class GivenMasks:
    """Masks that a user gives, with a digest by which a checkpoint knows them again.

    Attributes:
        digest: Of names and places.
        masks: Booleans by name of tensor, `(out, in, ...)`, on the CPU.
    """

    digest: str
    masks: Mapping[str, Tensor] = field(repr=False, compare=False)

    @classmethod
    def of(cls, given: Mapping[Any, Any]) -> Self:
        """Checks what was given.

        Args:
            given: Boolean tensors or arrays by name of tensor.

        Raises:
            ValueError: If there are none, or one is no boolean tensor with weights in.
        """
        masks = {name: torch.as_tensor(mask).detach().cpu().clone() for name, mask in given.items() if is_array(mask)}
        for name in given:
            if name not in masks or masks[name].dtype != torch.bool:
                raise ValueError(f"the mask of {name} is a boolean tensor, True where a weight is in: weight != 0")
            if not bool(masks[name].any()):
                raise ValueError(f"the mask of {name} leaves no weight in: a layer keeps one at least")
        if not masks:
            raise ValueError("start= takes at least one mask by name of tensor, such as {'fc1.weight': mask}")
        found = hashlib.blake2b(digest_size=8)
        for name, mask in sorted(masks.items()):
            found.update(f"{name} {tuple(mask.shape)} ".encode() + mask.contiguous().numpy().tobytes())
        return cls(found.hexdigest(), masks)

    def __deepcopy__(self, memo: Any) -> Self:
        return self


@start_score("random", "in random places")
def in_random_places(
    model: BayesianNetwork, layout: Layout, counts: Mapping[str, int], example: Tensor
) -> dict[str, Tensor]:
    """Places drawn from torch's global generator."""
    return random_masks(layout.shapes, counts)


@start_score("magnitude", "the largest starting weights of each layer")
def by_magnitude(
    model: BayesianNetwork, layout: Layout, counts: Mapping[str, int], example: Tensor
) -> dict[str, Tensor]:
    """The largest |weight| of each tensor, of the network as it starts."""
    weights = {name: model.starting_weights(name).abs() for name in layout.shapes}
    return {name: kept(torch.ones_like(one, dtype=torch.bool), one, counts[name]) for name, one in weights.items()}


@start_score("synflow", "those that carry the most synaptic flow (whatever the layout)", keeps_layout=False)
def by_synaptic_flow(
    model: BayesianNetwork, layout: Layout, counts: Mapping[str, int], example: Tensor
) -> dict[str, Tensor]:
    """See `synflow_masks`."""
    return synflow_masks(model.network, list(layout.shapes), sum(counts.values()), example)


def synflow_masks(
    network: nn.Module, names: list[str], total: int, example: Tensor, rounds: int = ROUNDS
) -> dict[str, Tensor]:
    """SynFlow (Tanaka et al. 2020): weights without which the least flows through the network, with no data.

    In round k of n the weights with the highest |dR/dw w| of all tensors together are kept, as many as (total / whole)
    to the power k / n says; R is the sum of the outputs at an input of ones, of the network with the absolute values of
    all its parameters and statistics in evaluation mode, in double precision. What has gone does not come back. Each
    tensor keeps one weight at least.

    Args:
        network: The network; it is left as it was. One that standardises its inputs does not do so here.
        names: Tensors of which weights go.
        total: Weights that are left in all, from one a tensor on.
        example: One input, `(1, ...)`; its shape counts alone.
        rounds: n; default 100.

    Raises:
        ValueError: If the outputs are no floating-point tensor, or the flow is no finite number.
    """
    alone = copy.deepcopy(network).double().eval()
    held = {name: tensor.detach().abs() for name, tensor in _state(alone).items() if tensor.is_floating_point()}
    for name, own in zip(UNITS, (0.0, 1.0, 0.0, 1.0), strict=True):
        if name in held:
            held[name] = torch.full_like(held[name], own)
    masks = {name: torch.ones_like(held[name], dtype=torch.bool) for name in names}
    whole = sum(mask.numel() for mask in masks.values())
    ones = torch.ones(example.shape, dtype=torch.float64, device=example.device)
    for number in range(1, rounds + 1):
        left = {name: held[name].mul(mask).requires_grad_() for name, mask in masks.items()}
        with torch.enable_grad():
            outputs = functional_call(alone, {**held, **left}, (ones,))
            if not isinstance(outputs, Tensor):
                raise ValueError(f"start='synflow' takes a network with one tensor of outputs, not {type(outputs)}")
            flow = outputs.sum()
            slopes = torch.autograd.grad(flow, list(left.values()), allow_unused=True)
        if not bool(torch.isfinite(flow)):
            raise ValueError(
                f"the synaptic flow of the network is {float(flow.detach())}: start='random' does not need it"
            )
        scores = {
            name: torch.zeros_like(weight) if slope is None else (slope * weight.detach()).abs()
            for (name, weight), slope in zip(left.items(), slopes, strict=True)
        }
        count = total if number == rounds else round(whole * (total / whole) ** (number / rounds))
        masks = kept_of_all(masks, scores, max(total, count))
    return masks


def _state(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}
