"""Compact: remove the dead units of a pruned network physically, exactly.

A unit is dead if nothing that matters reads it: every weight that reads it is zero, or belongs to a dead unit, or
what it reads is a constant that can be moved into the reader's bias without changing any output. Which units are
constant follows from the weights (zero rows, zero scales of batch normalisation), not from data. Dead units are
removed from every tensor at once; a unit that cannot be removed exactly is kept, and the report says why.
"""

from __future__ import annotations

import copy
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.channel_trace import ChannelTrace, trace_channels
from bayesprune.models.cutting import add_bias, cut, cut_units, removal_plan
from bayesprune.models.dead_units import LiveUnits, find_live
from bayesprune.models.likelihoods import Likelihood

__all__ = ["CompactReport", "CompactResult", "compact", "cut"]

_TOLERANCE = 1e-8
"""Largest difference of outputs in float64, relative to the largest output, that rounding can explain."""


@dataclass(frozen=True)
class CompactReport:
    """What compaction did.

    Attributes:
        parameters_before: Parameters of the network, all of them.
        parameters_after: Those of the compact network.
        units_before: Units by name of set.
        units_after: How many are left.
        max_output_difference: Largest difference between outputs of the two networks on random inputs, float64.
        output_sd: Standard deviation of the outputs over these inputs, its mean over outputs: the scale of the
            difference. Near zero the comparison says nothing, as the outputs then hardly depend on the input.
        kept: Why units that seem dead were kept; a sentence by set.
        idle: Layers that evaluation mode never runs (auxiliary classifiers): left as they are, and no longer usable
            where what they read was cut.
    """

    parameters_before: int
    parameters_after: int
    units_before: dict[str, int]
    units_after: dict[str, int]
    max_output_difference: float
    output_sd: float
    kept: dict[str, str]
    idle: tuple[str, ...] = ()

    def __str__(self) -> str:
        share = self.parameters_after / max(self.parameters_before, 1)
        lines = [
            f"{self.parameters_after:,} of {self.parameters_before:,} parameters ({100 * share:.2f} %); outputs differ "
            f"by at most {self.max_output_difference:.1e} where their sd is {self.output_sd:.2g}"
        ]
        width = max((len(name) for name in self.units_before), default=0)
        for name, before in self.units_before.items():
            reason = f"  {self.kept[name]}" if name in self.kept else ""
            lines.append(f"  {name:<{width}}  {self.units_after[name]:>6} of {before:>6} units{reason}")
        if self.idle:
            lines.append(f"  not run in evaluation mode, left as they are: {', '.join(self.idle)}")
        return "\n".join(lines)


@dataclass(frozen=True)
class CompactResult:
    """A compact network.

    Attributes:
        network: A plain network with fewer units, in evaluation mode, on the device of the one it was made of. It
            has the names of its modules and parameters; it is a `torch.fx.GraphModule` where the network's code
            has numbers of channels written in it, else of the same class.
        plan: What was kept, in original indices; JSON can hold it. ``tensors`` has ``shape`` and ``kept`` (a list
            of indices by dimension) of each tensor that was cut, ``bias_added`` the layers that got a bias,
            ``units`` the kept units of each set.
        report: What was done.
        likelihood: What the outputs mean, where it is known.
    """

    network: nn.Module
    plan: dict[str, Any]
    report: CompactReport
    likelihood: Likelihood | None = None


def compact(
    network: nn.Module, example_input: Any, round_to: int = 1, unknown: str = "refuse", seed: int = 0
) -> CompactResult:
    """Removes the dead units of a network; the network itself is left as it is.

    The result gives the same outputs in evaluation mode, up to rounding, and this is checked: both networks are run
    in float64 on random inputs. In training mode batch normalisation may tell the two apart.

    Args:
        network: A network with zeros in place, e.g. that of `bayesprune.prune`. Batch normalisation statistics must
            be final: re-estimate them before.
        example_input: An input, `(n, ...)`, or a tuple of inputs; only shape and dtype matter.
        round_to: Widths are kept at multiples of this number where that is possible, for hardware that likes them;
            dead units then stay in place. Default 1.
        unknown: See `bayesprune.models.channel_groups.ChannelGroups`.
        seed: Of the random inputs of the check.

    Returns:
        The compact network, the plan and a report.

    Raises:
        ValueError: If the network cannot be traced or understood, shares parameters, a parameter that would be cut
            is frozen, or the outputs would change.

    Warns:
        UserWarning: If all units of a layer are dead: one is kept, because a layer cannot be empty.
    """
    if round_to < 1:
        raise ValueError(f"round_to must be at least 1, not {round_to}")
    found = find_live(trace_channels(network, example_input, unknown), round_to)
    _refuse_frozen(network, found)
    for name in found.emptied:
        warnings.warn(f"{name}: {found.kept[name]}", stacklevel=2)
    folded = copy.deepcopy(network).eval()
    added = _fold(folded, found)
    plan = removal_plan(network, found, added)
    made = cut_units(folded, found, added)
    difference, sd, largest = _compare(network, made, example_input, seed)
    if not difference <= _TOLERANCE * max(largest, 1e-300):
        raise ValueError(
            f"the compact network's outputs would differ by {difference:.2g} (the largest output is {largest:.2g}), so "
            "nothing was removed: the forward uses numbers of channels in a way that tracing cannot follow"
        )
    report = CompactReport(
        sum(p.numel() for p in network.parameters()),
        sum(p.numel() for p in made.parameters()),
        {name: units.count for name, units in found.sets.items()},
        {name: len(entry["kept"]) for name, entry in plan["units"].items()},
        difference,
        sd,
        found.kept,
        _idle(network, found.trace),
    )
    return CompactResult(made, plan, report)


def _refuse_frozen(network: nn.Module, found: LiveUnits) -> None:
    parameters = dict(network.named_parameters())
    for part in found.trace.slices.values():
        parameter = parameters.get(part.tensor)
        if parameter is not None and not parameter.requires_grad and not bool(found.stays(part.channel).all()):
            raise ValueError(
                f"{part.tensor} is frozen (requires_grad is False), and removing dead units would cut it: call "
                "requires_grad_(True) on it if that is wanted"
            )


def _fold(network: nn.Module, found: LiveUnits) -> list[str]:
    """Moves what removed units emit into the biases of their readers, in place; returns layers that got a bias."""
    added = []
    for use in found.uses:
        value = torch.where(found.stays(use.inputs), 0.0, torch.nan_to_num(use.value))
        if not bool((value != 0).any()):
            continue
        weight = use.weight.double().sum(dim=-1)
        shift = (weight.view(len(value), -1, value.shape[1]) * value.unsqueeze(1)).sum(dim=-1).flatten()
        if not bool((shift != 0).any()):
            continue
        layer, _, kind = use.bias.rpartition(".")
        reader = network.get_submodule(layer)
        if getattr(reader, kind) is None:
            add_bias(reader)
            added.append(layer)
        bias = network.get_parameter(use.bias)
        with torch.no_grad():
            bias.copy_((bias.double().cpu() + shift).to(bias))
    return added


def _idle(network: nn.Module, trace: ChannelTrace) -> tuple[str, ...]:
    """Layers with parameters that evaluation mode never runs, such as auxiliary classifiers."""
    run = {str(node.target) for node in trace.module.graph.nodes if node.op in ("call_module", "get_attr")}  # type: ignore[union-attr]
    return tuple(
        name
        for name, layer in network.named_modules()
        if any(True for _ in layer.parameters(recurse=False))
        and not any(name == used or used.startswith(f"{name}.") or name.startswith(f"{used}.") for used in run)
    )


def _compare(one: nn.Module, other: nn.Module, example_input: Any, seed: int) -> tuple[float, float, float]:
    """Largest difference of outputs in float64 on random inputs, their sd over inputs, and the largest of them."""
    with torch.random.fork_rng(devices=[]):  # dropout is off; forward may still ask for random numbers
        first, second = (copy.deepcopy(network).double().eval() for network in (one, other))
        generator = torch.Generator().manual_seed(seed)
        outputs: list[tuple[list[Tensor], list[Tensor]]] = []
        with torch.no_grad():
            for _ in range(4):
                inputs = _random_like(example_input, generator, first)
                outputs.append((_floats(first(*inputs)), _floats(second(*inputs))))
    difference = max(
        (float((a - b).abs().max()) for left, right in outputs for a, b in zip(left, right, strict=True)), default=0.0
    )
    stacked = [torch.stack([left[place] for left, _ in outputs]) for place in range(len(outputs[0][0]))]
    rows = [part.flatten(0, 1) if part.ndim > 2 else part for part in stacked]
    sd = sum(float(part.std(dim=0).mean()) for part in rows) / max(len(rows), 1)
    largest = max((float(part.abs().max()) for part in stacked), default=0.0)
    return difference, sd, largest


def _random_like(example_input: Any, generator: torch.Generator, network: nn.Module) -> list[Any]:
    """Standard Normal inputs of the example's shape; what is not a floating-point tensor is passed as it is."""
    inputs = example_input if isinstance(example_input, (tuple, list)) else (example_input,)
    place = next(network.parameters()).device
    made = []
    for part in inputs:
        if torch.is_tensor(part) and part.is_floating_point():
            part = torch.randn(part.shape, generator=generator, dtype=torch.float64)
        made.append(part.to(place) if torch.is_tensor(part) else part)
    return made


def _floats(outputs: Any) -> list[Tensor]:
    return [part.cpu() for part in tree_flatten(outputs)[0] if torch.is_tensor(part) and part.is_floating_point()]
