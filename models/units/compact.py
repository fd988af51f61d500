"""Compact: remove the dead units of a pruned network physically, exactly.

A unit is dead if nothing that matters reads it: every weight that reads it is zero, or belongs to a dead unit, or
what it reads is a constant that can be moved into the reader's bias without changing any output. Which units are
constant follows from the weights (zero rows, zero scales of batch normalisation), not from data. Dead units are
removed from every tensor at once; a unit that cannot be removed exactly is kept, and the report says why. A residual
branch that puts out nothing but zeros is removed whole. A linear layer of low rank becomes two thin ones where these
hold fewer weights.
"""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import dataclass, field, replace
from typing import Any

from torch import nn

from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.tracing.channel_trace import ChannelTrace, trace_channels
from bayesprune.models.units.channel_groups import unit_sets
from bayesprune.models.units.compact_check import check, relative_difference
from bayesprune.models.units.cutting import cut, cut_units, fold, removal_plan
from bayesprune.models.units.dead_units import find_live
from bayesprune.models.units.rank_folding import FoldedLayer, LowRankLayers, fold_layers, low_rank_layers
from bayesprune.models.units.residual_branches import ResidualBranch, branches_of, remove_branches

__all__ = ["CompactReport", "CompactResult", "compact", "cut"]

_AS_GOOD = 1e-5
"""Largest difference of outputs, relative to their standard deviation, that folding a rank may make."""


@dataclass(frozen=True)
class CompactReport:
    """What compaction did.

    Attributes:
        parameters_before: Parameters of the network, all of them.
        parameters_after: Those of the compact network.
        units_before: Units by name of set.
        units_after: How many are left.
        max_output_difference: Largest difference between outputs of the two networks, computed in float64, on random
            inputs and the example. Constants that were moved into biases are rounded to the network's own number
            format, so that it is not zero there.
        output_sd: Standard deviation of the outputs over these inputs, its mean over outputs: the scale of the
            difference. Near zero the comparison says nothing, as the outputs then hardly depend on the input.
        kept: Why units that seem dead were kept; a sentence by set.
        idle: Layers that evaluation mode never runs (auxiliary classifiers): left as they are, and no longer usable
            where what they read was cut.
        finetuned: How the network was fine-tuned since, or None.
        branches_removed: Names of residual branches that put out nothing but zeros and are gone.
        compared: Inputs at which the two networks were compared too, beside those above, by name: batches of 1, 2 and 5
            of sd 1, 50 and 255, with gradients and without, computed in float64 where the network can be.
        not_compared: Those that the network itself does not take or gives nothing finite for, and outputs that rounding
            alone moves as much as removal does, and why.
        max_relative_difference: Largest difference over all inputs that were compared, `compared` included, each
            relative to the standard deviation of its own output at that scale; before ranks are folded.
        folded: Linear layers of low rank that became two layers, by name.
        not_folded: Linear layers of low rank that stay as they are, and why.
        fold_difference: Largest difference that this makes to an output, relative to its standard deviation, computed
            in float64 where the network can be; 0 where no layer was folded.
    """

    parameters_before: int
    parameters_after: int
    units_before: dict[str, int]
    units_after: dict[str, int]
    max_output_difference: float
    output_sd: float
    kept: dict[str, str]
    idle: tuple[str, ...] = ()
    finetuned: str | None = None
    branches_removed: tuple[str, ...] = ()
    compared: tuple[str, ...] = ()
    not_compared: dict[str, str] = field(default_factory=dict)
    max_relative_difference: float = 0.0
    folded: dict[str, FoldedLayer] = field(default_factory=dict)
    not_folded: dict[str, str] = field(default_factory=dict)
    fold_difference: float = 0.0

    def __str__(self) -> str:
        share = self.parameters_after / max(self.parameters_before, 1)
        lines = [
            f"{self.parameters_after:,} of {self.parameters_before:,} parameters ({100 * share:.2f} %); outputs differ "
            f"by at most {self.max_output_difference:.1e} where their sd is {self.output_sd:.2g}, and by "
            f"{self.max_relative_difference:.1e} of their sd at any input compared"
        ]
        width = max((len(name) for name in self.units_before), default=0)
        for name, before in self.units_before.items():
            reason = f"  {self.kept[name]}" if name in self.kept else ""
            lines.append(f"  {name:<{width}}  {self.units_after[name]:>6} of {before:>6} units{reason}")
        if self.branches_removed:
            lines.append(f"  residual branches removed whole: {', '.join(self.branches_removed)}")
        lines += [f"  {name}: {layer}" for name, layer in self.folded.items()]
        if self.folded:
            lines.append(f"  outputs then differ by {self.fold_difference:.1e} of their sd")
        lines += [f"  {name} stays one layer: {reason}" for name, reason in self.not_folded.items()]
        if self.idle:
            lines.append(f"  not run in evaluation mode, left as they are: {', '.join(self.idle)}")
        if self.not_compared:
            reasons = "; ".join(f"{name} ({reason})" for name, reason in self.not_compared.items())
            lines.append(f"  not compared: {reasons}")
        if self.finetuned is not None:
            lines.append(f"  fine-tuned: {self.finetuned}")
        return "\n".join(lines)


@dataclass(frozen=True)
class CompactResult:
    """A compact network.

    Attributes:
        network: A plain network with fewer units, in evaluation mode, on the device of the one it was made of. It
            has the names of its modules and parameters, but for linear layers that became two (``0`` and ``1`` of an
            `nn.Sequential`); it is a `torch.fx.GraphModule` where the network's code
            has numbers of channels written in it or residual branches are gone, else of the same class.
        plan: What was kept, in original indices; JSON can hold it. ``tensors`` has ``shape`` and ``kept`` (a list
            of indices by dimension) of each tensor that was cut, ``bias_added`` the layers that got a bias,
            ``units`` the kept units of each set, ``branches_removed`` the residual branches that are gone, ``folded``
            the ranks of the linear layers that became two, by name.
        report: What was done.
        likelihood: What the outputs mean, where it is known.
    """

    network: nn.Module
    plan: dict[str, Any]
    report: CompactReport
    likelihood: Likelihood | None = None


def compact(
    network: nn.Module,
    example_input: Any,
    round_to: int = 1,
    unknown: str = "refuse",
    seed: int = 0,
    fold_ranks: bool = True,
) -> CompactResult:
    """Removes the dead units of a network, and folds matrices of low rank; the network itself is left as it is.

    The result gives the same outputs in evaluation mode, up to rounding, and this is checked: both networks are run
    in float64 on random inputs of several batch sizes and scales and on the example, and a difference is an error; the
    report says what was compared. In training mode batch normalisation may tell the two apart. Frozen parameters
    (`requires_grad` is False) are cut like others, as that is no training, and what is left of them stays frozen.

    Args:
        network: A network with zeros in place, e.g. that of `bayesprune.prune`. Batch normalisation statistics must
            be final: re-estimate them before.
        example_input: An input, `(n, ...)`, or a tuple of inputs, of the shape and dtype that the network takes.
        round_to: Widths are kept at multiples of this number where that is possible, for hardware that likes them;
            dead units then stay in place. Default 1.
        unknown: See `bayesprune.models.units.channel_groups.ChannelGroups`.
        seed: Of the random inputs of the check.
        fold_ranks: Whether linear layers whose matrices are of low rank become two layers where these hold fewer
            weights, and outputs stay within 1e-5 of their standard deviation; default True.

    Returns:
        The compact network, the plan and a report.

    Raises:
        ValueError: If the network cannot be traced or understood, shares parameters, or the outputs would change or
            cannot be compared.

    Warns:
        UserWarning: If all units of a layer are dead: one is kept, because a layer cannot be empty.
    """
    if round_to < 1:
        raise ValueError(f"round_to must be at least 1, not {round_to}")
    original = trace = trace_channels(network, example_input, unknown)
    sets, branches = unit_sets(original), _silent_branches(original)
    whole = copy.deepcopy(network).eval()
    if branches:
        whole = remove_branches(whole, example_input, [branch.name for branch in branches])
        trace = trace_channels(whole, example_input, unknown)
    found = find_live(trace, round_to)
    home = {layer: name for name, units in sets.items() for layer in units.layers}
    kept = {home[name]: reason for name, reason in found.kept.items()}
    for name in found.emptied:
        warnings.warn(f"{home[name]}: {found.kept[name]}", stacklevel=2)
    folded = copy.deepcopy(whole)
    added = fold(folded, found)
    plan = removal_plan(whole, found, added, sets, [branch.name for branch in branches])
    made = cut_units(folded, found, added)
    if branches:  # copies of a GraphModule are called just that
        type(made).__name__ = type(network).__name__
    comparison = check(network, made, found, example_input, seed, whole)
    low, thin, difference = LowRankLayers({}, {}), made, 0.0
    if fold_ranks:
        low, thin, difference = _thin(made, trace, example_input, seed)
        plan["folded"] = {name: layer.rank for name, layer in low.cheaper.items()}
    report = CompactReport(
        sum(p.numel() for p in network.parameters()),
        sum(p.numel() for p in thin.parameters()),
        {name: units.count for name, units in sets.items()},
        {name: len(entry["kept"]) for name, entry in plan["units"].items()},
        comparison.difference,
        comparison.sd,
        kept,
        _idle(network, original),
        branches_removed=tuple(plan["branches_removed"]),
        compared=comparison.compared,
        not_compared=comparison.not_compared,
        max_relative_difference=comparison.relative,
        folded=low.cheaper,
        not_folded=low.kept,
        fold_difference=difference,
    )
    return CompactResult(thin, plan, report)


def _thin(
    network: nn.Module, trace: ChannelTrace, example_input: Any, seed: int
) -> tuple[LowRankLayers, nn.Module, float]:
    """A compact network with its layers of low rank folded, and the difference of outputs; itself where there are none.

    Where folding would move outputs by more than rounding explains, none is folded.
    """
    low = low_rank_layers(network, trace.graph)
    if not low.cheaper:
        return low, network, 0.0
    try:
        thin = fold_layers(copy.deepcopy(network), {name: layer.rank for name, layer in low.cheaper.items()})
        difference = relative_difference(network, thin, example_input, seed)
        reason = f"two layers would move outputs by {difference:.1e} of their sd"
    except ValueError:
        difference, reason = math.inf, "the network's forward reads more of the layer than its outputs"
    if difference <= _AS_GOOD:
        return low, thin, difference
    stay = {name: f"of rank {layer.rank}, but {reason}" for name, layer in low.cheaper.items()}
    return replace(low, cheaper={}, kept={**low.kept, **stay}), network, 0.0


def _silent_branches(trace: ChannelTrace) -> list[ResidualBranch]:
    """Residual branches that put out nothing but zeros, without those inside another of them."""
    silent = [branch for branch in branches_of(trace).values() if branch.end in trace.zeros]
    return [each for each in silent if not any(set(each.layers) < set(other.layers) for other in silent)]


def _idle(network: nn.Module, trace: ChannelTrace) -> tuple[str, ...]:
    """Layers with parameters that evaluation mode never runs, such as auxiliary classifiers."""
    run = {str(node.target) for node in trace.graph.nodes if node.op in ("call_module", "get_attr")}

    def is_run(name: str) -> bool:
        return not name or any(f"{used}.".startswith(f"{name}.") or name.startswith(f"{used}.") for used in run)

    return tuple(
        name
        for name, layer in network.named_modules()
        if any(True for _ in layer.parameters(recurse=False)) and not is_run(name)
    )
