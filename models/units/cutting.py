"""Cutting: takes removed units out of every tensor of a network, and out of the sizes written in its code."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.checks.plan_check import check_plan, layer_without_bias
from bayesprune.models.graphs.traced_graph import graph_of
from bayesprune.models.tracing.channel_records import Count, Slice
from bayesprune.models.tracing.channel_trace import trace_channels
from bayesprune.models.units.channel_groups import ChannelGroups, Units, unit_sets
from bayesprune.models.units.dead_units import LiveUnits, never_empty
from bayesprune.models.units.rank_folding import fold_layers
from bayesprune.models.units.residual_branches import remove_branches, with_code

__all__ = ["add_bias", "cut", "cut_units", "fold", "removal_plan", "units_plan"]


def cut(
    network: nn.Module, example_input: Any, plan: Mapping[str, Any], unknown: str = "refuse", keep_mode: bool = False
) -> nn.Module:
    """Makes the compact network of a plan by cutting the tensors of the original one; constants are not folded.

    It is the way to load a compact network: cut a network of the original shape, then load the saved weights.

    Args:
        network: A network of the original shape; it is copied.
        example_input: An input, as for `compact`.
        plan: The plan of a `CompactResult`, or of `units_plan`.
        unknown: As for `compact`.
        keep_mode: Whether every layer stays in the mode (training or evaluation) that it has in the network, for
            training on; by default the result is in evaluation mode. `requires_grad` is kept in any case.

    Returns:
        The compact network.

    Raises:
        ValueError: If the plan is damaged or of another network; or if the mode is to be kept and the network is in
            training mode, its code has to be changed, and does something else in training mode than in evaluation mode.
    """
    check_plan(plan)
    made = remove_branches(
        network if keep_mode else copy.deepcopy(network).eval(), example_input, plan.get("branches_removed", ())
    )
    trace = trace_channels(made, example_input, unknown)
    roots = trace.recording.ties.roots()
    found = LiveUnits(trace, roots, {}, [], torch.ones(len(roots) + 1, dtype=torch.bool))
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(made).items()}
    for name, entry in plan["tensors"].items():
        if shapes.get(name) != list(entry["shape"]):
            raise ValueError(
                f"the plan is of another network: it has {name} of shape {entry['shape']}, here is {shapes.get(name)}"
            )
        for dim, indices in entry["kept"].items():
            part = trace.recording.slices.get((name, int(dim)))
            if part is None:
                raise ValueError(f"the plan is of another network: dimension {dim} of {name} holds no units here")
            gone = torch.ones(len(part.channel), dtype=torch.bool)
            gone[torch.tensor(indices, dtype=torch.int64)] = False
            found.live[found.root_of(part.channel[gone])] = False
    for layer in plan["bias_added"]:
        add_bias(layer_without_bias(made, layer))
    return fold_layers(cut_units(made, found, plan["bias_added"]), plan.get("folded", {}))


def add_bias(layer: Any) -> None:
    """Gives a linear layer or convolution a bias of zeros; it is frozen where the weight is."""
    zeros = layer.weight.new_zeros(getattr(layer, "out_features", None) or layer.out_channels)
    layer.bias = nn.Parameter(zeros, requires_grad=layer.weight.requires_grad)


def fold(network: nn.Module, found: LiveUnits) -> list[str]:
    """Moves what removed units emit into the biases of their readers, in place; returns layers that got a bias.

    Dead units that stay all the same go on emitting their constants: what they read was moved into their own biases.
    """
    added = []
    for use in found.uses:
        value = torch.where(found.stays(use.inputs), 0.0, torch.nan_to_num(use.value))
        if not bool((value != 0).any()):
            continue
        weight = use.weight.double().sum(dim=-1)
        shift = (weight.view(len(value), -1, value.shape[1]) * value.unsqueeze(1)).sum(dim=-1).flatten()
        shift[~found.stays(use.outputs)] = 0.0
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


def units_plan(
    network: nn.Module,
    example_input: Any,
    groups: ChannelGroups,
    removed: Mapping[str, Tensor],
    branches: Sequence[str] = (),
    unknown: str = "refuse",
) -> dict[str, Any]:
    """The plan that removes exactly these units and residual branches; `cut` follows it.

    No constants are folded: it is meant for units that all their readers take for zero, such as those behind closed
    gates. One unit stays wherever nothing would be left of a layer. With a branch go all units that it alone makes,
    provided that what is left of them is zero for their readers (the padded channels of a shortcut).

    Args:
        network: The network.
        example_input: An input, as for `compact`.
        groups: The units of the network.
        removed: Which units go, boolean, `(units,)`, by name of set.
        branches: Names of residual branches that go.
        unknown: As for `compact`.

    Returns:
        A plan as in `bayesprune.models.units.compact.CompactResult`.

    Raises:
        ValueError: If the network has no branch of a name, a set has another number of units, units may not be
            removed, or the groups are of another network.
        KeyError: If there is no set of a name.
    """
    made = remove_branches(network, example_input, branches)
    trace = trace_channels(made, example_input, unknown)
    roots = trace.recording.ties.roots()
    found = LiveUnits(trace, roots, unit_sets(trace), [], torch.ones(len(roots) + 1, dtype=torch.bool))
    for name, gone in removed.items():
        units, chosen = groups[name], gone.cpu()
        if chosen.shape != (units.count,) or chosen.dtype is not torch.bool:
            raise ValueError(
                f"{name}: removed has {chosen.dtype} of shape {tuple(chosen.shape)}, but one boolean is needed for "
                f"each of its {units.count} units"
            )
        if bool((chosen & ~units.removable).any()):
            raise ValueError(f"{name}: units may not be removed ({units.refused}): leave them out of removed")
        for part in units.slices:
            here = trace.recording.slices.get((part.tensor, part.dim))
            if here is None:
                continue  # it belongs to a branch that goes
            if len(here.channel) != len(part.unit):
                raise ValueError(f"the groups are of another network: {part.tensor} is of another shape here")
            own = found.root_of(here.channel[(part.unit >= 0) & chosen[part.unit.clamp_min(0)]])
            found.live[own] = False
    if branches:
        _drop_unmade(found, groups)
    never_empty(found)
    return removal_plan(made, found, [], groups.sets, branches)


def _drop_unmade(found: LiveUnits, groups: ChannelGroups) -> None:
    """Marks units of a network that nothing makes any more, now that branches are gone, and that all read as zero."""
    made, heard = torch.zeros_like(found.live), torch.zeros_like(found.live)
    for part in found.trace.recording.slices.values():
        if part.role != "input":
            made[found.root_of(part.channel)] = True
    for use in found.trace.recording.uses:
        heard[found.root_of(use.inputs)[use.value != 0]] = True
    made[found.trace.recording.ties.pinned()] = True
    for units in groups.sets.values():
        for each in units.slices:
            here = found.trace.recording.slices.get((each.tensor, each.dim))
            if here is not None:
                own = found.root_of(here.channel[each.unit >= 0])
                found.live[own[~made[own] & ~heard[own]]] = False


def removal_plan(
    network: nn.Module, found: LiveUnits, added: list[str], sets: Mapping[str, Units], branches: Sequence[str] = ()
) -> dict[str, Any]:
    """What `cut_units` will keep, in original indices; see `bayesprune.models.units.compact.CompactResult`.

    Args:
        network: The network, without the branches that go.
        found: Which of its units stay.
        added: Layers that got a bias.
        sets: Units of the original network; one is kept where any part of it is.
        branches: Names of the branches that go.
    """
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(network).items()}
    tensors: dict[str, Any] = {}
    for part in found.trace.recording.slices.values():
        stays = found.stays(part.channel)
        if not bool(stays.all()):
            entry = tensors.setdefault(part.tensor, {"shape": shapes[part.tensor], "kept": {}})
            entry["kept"][str(part.dim)] = stays.nonzero().squeeze(1).tolist()
    kept = {name: torch.zeros(units.count, dtype=torch.bool) for name, units in sets.items()}
    for name, units in sets.items():
        for each in units.slices:
            here = found.trace.recording.slices.get((each.tensor, each.dim))
            if here is not None:
                kept[name][each.unit[found.stays(here.channel) & (each.unit >= 0)]] = True
    return {
        "tensors": tensors,
        "bias_added": added,
        "units": {
            name: {"of": len(stays), "kept": stays.nonzero().squeeze(1).tolist()} for name, stays in kept.items()
        },
        "branches_removed": list(branches),
    }


def cut_units(network: nn.Module, found: LiveUnits, added: list[str]) -> nn.Module:
    """Cuts every tensor of a network in place; where its code has numbers of channels in it, returns a new module.

    Args:
        network: The network, or a copy.
        found: Which units stay.
        added: Layers that have a bias now and had none when the network was traced.
    """
    tensors = _tensors(network)
    changed = set()
    slices = found.trace.recording.slices
    biases = [Slice(f"{layer}.bias", 0, "output", slices[f"{layer}.weight", 0].channel) for layer in added]
    for part in [*slices.values(), *biases]:
        stays = found.stays(part.channel)
        if not bool(stays.all()):
            tensor = tensors[part.tensor]
            tensors[part.tensor] = tensor.detach().index_select(part.dim, stays.nonzero().squeeze(1).to(tensor.device))
            changed.add(part.tensor)
    for layer in {name.rpartition(".")[0] for name in changed}:
        own = {name.rpartition(".")[2]: tensors[name] for name in changed if name.rpartition(".")[0] == layer}
        _resize(network.get_submodule(layer), own)
    for name, line in found.trace.recording.features.items():
        normalisation: Any = network.get_submodule(name)
        normalisation.num_features = int(found.stays(line).sum())
    if not changed:
        return network
    config = getattr(network, "config", None)
    if isinstance(config, dict) and "input_shape" in config:
        del network.config  # it says how to build the network, and that is no longer true
    return _rewritten(network, found)


def _rewritten(network: nn.Module, found: LiveUnits) -> nn.Module:
    """The network with new sizes in its code, or as it is where its code does not depend on sizes."""
    sizes = {
        name: entry
        for name, entry in found.trace.recording.sizes.items()
        if not bool(found.stays(torch.cat([count.channel for count in _counts(entry)])).all())
    }
    before: fx.Graph = found.trace.graph
    if not sizes and _same_code(network, before):
        return network
    graph = copy.deepcopy(before)
    nodes = {node.name: node for node in graph.nodes}

    def renewed(part: Any) -> Any:
        if isinstance(part, Count):
            return int(found.stays(part.channel).sum())
        return nodes[part.name] if isinstance(part, fx.Node) else part

    for name, (op, target, args, kwargs) in sizes.items():
        node = nodes[name]
        node.op, node.target = op, target
        node.args, node.kwargs = _mapped(args, renewed), _mapped(kwargs, renewed)
    return with_code(network, graph, found.trace.module)


def _same_code(network: nn.Module, before: fx.Graph) -> bool:
    """Whether a cut network still does the same: its forward may read the sizes of its layers."""
    own = set(vars(network))
    try:
        after = graph_of(network, sum(node.op == "placeholder" for node in before.nodes))
    except ValueError:
        return False
    finally:
        for name in set(vars(network)) - own:
            delattr(network, name)
    return str(after) == str(before)


def _tensors(network: nn.Module) -> dict[str, Tensor]:
    return {**dict(network.named_parameters()), **dict(network.named_buffers())}


def _resize(layer: Any, tensors: dict[str, Tensor]) -> None:
    """Gives a layer its new tensors, and its attributes the new sizes."""
    convolution = isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d))
    depthwise = convolution and layer.groups > 1 and layer.weight.shape[1] == 1
    before = len(layer.weight) if depthwise else 0
    for key, tensor in tensors.items():
        old = getattr(layer, key)
        setattr(layer, key, nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        layer.in_channels, layer.out_channels = layer.weight.shape[:2]
    elif convolution:
        if depthwise:
            layer.groups = layer.groups * len(layer.weight) // before
        layer.out_channels, layer.in_channels = layer.weight.shape[0], layer.weight.shape[1] * layer.groups
    elif isinstance(layer, nn.Embedding):
        layer.embedding_dim = layer.weight.shape[1]
    elif isinstance(layer, (nn.RNNCellBase, nn.RNNBase)):
        end = "" if isinstance(layer, nn.RNNCellBase) else "_l0"
        layer.hidden_size = getattr(layer, f"weight_hh{end}").shape[1]
        layer.input_size = getattr(layer, f"weight_ih{end}").shape[1]
    elif isinstance(layer, nn.PReLU):
        layer.num_parameters = len(layer.weight)


def _counts(part: Any) -> list[Count]:
    leaves = tree_flatten(part)[0]
    bounds = [bound for leaf in leaves if isinstance(leaf, slice) for bound in (leaf.start, leaf.stop)]
    return [count for count in [*leaves, *bounds] if isinstance(count, Count)]


def _mapped(part: Any, function: Any) -> Any:
    """The function applied to every leaf of nested arguments, bounds of slices among them."""
    if isinstance(part, (tuple, list)):
        return type(part)(_mapped(each, function) for each in part)
    if isinstance(part, dict):
        return {key: _mapped(each, function) for key, each in part.items()}
    if isinstance(part, slice):
        return slice(_mapped(part.start, function), _mapped(part.stop, function), _mapped(part.step, function))
    return function(part)
