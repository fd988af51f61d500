"""Cutting: takes removed units out of every tensor of a network, and out of the sizes written in its code."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.channel_records import Count, Slice
from bayesprune.models.channel_trace import graph_of, trace_channels
from bayesprune.models.dead_units import LiveUnits

__all__ = ["add_bias", "cut", "cut_units", "fold", "removal_plan"]


def cut(network: nn.Module, example_input: Any, plan: dict[str, Any], unknown: str = "refuse") -> nn.Module:
    """Makes the compact network of a plan by cutting the tensors of the original one; constants are not folded.

    It is the way to load a compact network: cut a network of the original shape, then load the saved weights.

    Args:
        network: A network of the original shape; it is copied.
        example_input: An input, as for `compact`.
        plan: The plan of a `CompactResult`.
        unknown: As for `compact`.

    Returns:
        The compact network.

    Raises:
        ValueError: If the plan is of another network.
    """
    trace = trace_channels(network, example_input, unknown)
    roots = trace.ties.roots()
    found = LiveUnits(trace, roots, {}, [], torch.ones(len(roots) + 1, dtype=torch.bool))
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(network).items()}
    for name, entry in plan["tensors"].items():
        if shapes.get(name) != list(entry["shape"]):
            raise ValueError(
                f"the plan is of another network: it has {name} of shape {entry['shape']}, here is {shapes.get(name)}"
            )
        for dim, indices in entry["kept"].items():
            part = trace.slices.get((name, int(dim)))
            if part is None:
                raise ValueError(f"the plan is of another network: dimension {dim} of {name} holds no units here")
            gone = torch.ones(len(part.channel), dtype=torch.bool)
            gone[torch.tensor(indices, dtype=torch.int64)] = False
            found.live[found.root_of(part.channel[gone])] = False
    made = copy.deepcopy(network).eval()
    for layer in plan["bias_added"]:
        add_bias(made.get_submodule(layer))
    return cut_units(made, found, plan["bias_added"])


def add_bias(layer: Any) -> None:
    """Gives a linear layer or convolution a bias of zeros."""
    layer.bias = nn.Parameter(layer.weight.new_zeros(getattr(layer, "out_features", None) or layer.out_channels))


def fold(network: nn.Module, found: LiveUnits) -> list[str]:
    """Moves what removed units emit into the biases of their readers, in place; returns layers that got a bias.

    Dead units that stay all the same go on emitting their constants: what they read was moved into their own biases.

    Raises:
        ValueError: If a parameter that would be changed is frozen.
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
        _refuse_frozen(use.bias, bias)
        with torch.no_grad():
            bias.copy_((bias.double().cpu() + shift).to(bias))
    return added


def _refuse_frozen(name: str, parameter: Tensor) -> None:
    if not parameter.requires_grad:
        raise ValueError(
            f"{name} is frozen (requires_grad is False), but constants of removed units would have to be moved into "
            "it: call requires_grad_(True) on it if that is wanted"
        )


def removal_plan(network: nn.Module, found: LiveUnits, added: list[str]) -> dict[str, Any]:
    """What `cut_units` will keep, in original indices; see `bayesprune.models.compact.CompactResult`."""
    shapes = {name: list(tensor.shape) for name, tensor in _tensors(network).items()}
    tensors: dict[str, Any] = {}
    for part in found.trace.slices.values():
        stays = found.stays(part.channel)
        if not bool(stays.all()):
            entry = tensors.setdefault(part.tensor, {"shape": shapes[part.tensor], "kept": {}})
            entry["kept"][str(part.dim)] = stays.nonzero().squeeze(1).tolist()
    units = {
        name: {"of": units.count, "kept": found.live[found.members(units)].nonzero().squeeze(1).tolist()}
        for name, units in found.sets.items()
    }
    return {"tensors": tensors, "bias_added": added, "units": units}


def cut_units(network: nn.Module, found: LiveUnits, added: list[str]) -> nn.Module:
    """Cuts every tensor of a network in place; where its code has numbers of channels in it, returns a new module.

    Args:
        network: The network, or a copy.
        found: Which units stay.
        added: Layers that have a bias now and had none when the network was traced.
    """
    tensors = _tensors(network)
    changed = set()
    slices = found.trace.slices
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
    for name, line in found.trace.features.items():
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
        for name, entry in found.trace.sizes.items()
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
    graph.lint()
    for node in graph.nodes:  # tensors that the code makes from numbers belong to the traced copy only
        if node.op == "get_attr" and not hasattr(network, node.target.split(".")[0]):
            setattr(network, node.target, getattr(found.trace.module, node.target))
    return fx.GraphModule(network, graph, type(network).__name__).eval()


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
