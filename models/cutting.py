"""Cutting: takes removed units out of every tensor of a network, and out of the sizes that its code has written in it."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from bayesprune.models.channel_records import Count, Slice
from bayesprune.models.channel_trace import trace_channels
from bayesprune.models.dead_units import LiveUnits

__all__ = ["add_bias", "cut", "cut_units", "removal_plan"]


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
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
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


def removal_plan(network: nn.Module, found: LiveUnits, added: list[str]) -> dict[str, Any]:
    """What `cut_units` will keep, in original indices; see `bayesprune.models.compact.CompactResult`."""
    shapes = {name: list(tensor.shape) for name, tensor in network.state_dict().items()}
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
    tensors: dict[str, Tensor] = {**dict(network.named_parameters()), **dict(network.named_buffers())}
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
    config = getattr(network, "config", None)
    if changed and isinstance(config, dict) and "input_shape" in config:
        del network.config  # it says how to build the network, and that is no longer true
    return _rewritten(network, found)


def _rewritten(network: nn.Module, found: LiveUnits) -> nn.Module:
    """The network with new sizes in its code, or as it is where no size changes."""
    sizes = {
        name: entry
        for name, entry in found.trace.sizes.items()
        if not bool(found.stays(torch.cat([count.channel for count in _counts(entry)])).all())
    }
    if not sizes:
        return network
    graph = fx.Tracer().trace(network)
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
    return fx.GraphModule(network, graph, type(network).__name__).eval()


def _resize(layer: Any, tensors: dict[str, Tensor]) -> None:
    """Gives a layer its new tensors, and its attributes the new sizes."""
    depthwise = getattr(layer, "groups", 1) > 1 and layer.weight.shape[1] == 1
    before = len(layer.weight) if depthwise else 0
    for key, tensor in tensors.items():
        old = getattr(layer, key)
        setattr(layer, key, nn.Parameter(tensor, old.requires_grad) if isinstance(old, nn.Parameter) else tensor)
    if isinstance(layer, nn.Linear):
        layer.out_features, layer.in_features = layer.weight.shape
    elif isinstance(layer, (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)):
        layer.in_channels, layer.out_channels = layer.weight.shape[:2]
    elif isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)):
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
    elif hasattr(layer, "num_features"):
        layer.num_features = len(next(iter(tensors.values())))


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
