"""Rank folding: a linear layer whose matrix is of low rank as two thin layers, where these hold fewer weights.

The rank is read off the matrix: singular values that its number format cannot tell from zero. So it needs no fit, and
finds what `LowRank` has learned in any network that holds the product of the factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from bayesprune.models.tracing.layer_traces import changed_by_hand

__all__ = ["FoldedLayer", "LowRankLayers", "fold_layers", "low_rank_layers", "numerical_rank"]

_FORMATS = (torch.float32, torch.float64)
"""Number formats that tell a singular value from zero; shorter ones round to full rank."""
_DENSE = 0.5
"""The least share of weights that are not zero: a matrix with many zeros has its rank by them, and stays as it is."""


@dataclass(frozen=True)
class FoldedLayer:
    """A linear layer that became two.

    Attributes:
        rank: Rank of its matrix: the width between the two.
        inputs: Inputs of the layer.
        outputs: Its outputs.
    """

    rank: int
    inputs: int
    outputs: int

    @property
    def before(self) -> int:
        """Weights of the layer, which are MACs wherever it is applied once."""
        return self.inputs * self.outputs

    @property
    def after(self) -> int:
        """Weights of the two layers."""
        return self.rank * (self.inputs + self.outputs)

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.after:,} weights in two layers for {self.before:,}"


@dataclass(frozen=True)
class LowRankLayers:
    """The linear layers of a network whose matrices are of less than full rank.

    Attributes:
        cheaper: Those that two layers are cheaper than, by name.
        kept: Why the others stay as they are, a sentence by name.
    """

    cheaper: dict[str, FoldedLayer]
    kept: dict[str, str]


def low_rank_layers(network: nn.Module, graph: fx.Graph) -> LowRankLayers:
    """Finds linear layers of low rank.

    Two layers are cheaper where rank (out + in) is less than the number of weights that are not zero. Layers of rank
    zero, most of whose weights are zero, whose tensors the network's code reads by itself, or in a number format
    shorter than float32, are not looked at.

    Args:
        network: The network.
        graph: Its graph.
    """
    called = {str(node.target) for node in graph.nodes if node.op == "call_module"}
    read = {str(node.target).rpartition(".")[0] for node in graph.nodes if node.op == "get_attr"}
    cheaper, kept = {}, {}
    for name, layer in network.named_modules():
        if type(layer) is not nn.Linear or name not in called - read or changed_by_hand(layer):
            continue
        weight = layer.weight.detach()
        nonzero = int(torch.count_nonzero(weight))
        if weight.dtype not in _FORMATS or nonzero < _DENSE * weight.numel():
            continue
        rank = numerical_rank(weight)
        if not 0 < rank < min(weight.shape):
            continue
        found = FoldedLayer(rank, layer.in_features, layer.out_features)
        if found.after < nonzero:
            cheaper[name] = found
        else:
            kept[name] = f"of rank {rank}, but two layers would hold {found.after:,} weights, and it has {nonzero:,}"
    return LowRankLayers(cheaper, kept)


def numerical_rank(weight: Tensor) -> int:
    """Singular values of a matrix, computed in float64, that exceed what its own number format rounds to zero.

    Args:
        weight: The matrix, `(out, in)`; what it holds is a rounded product.
    """
    values = torch.linalg.svdvals(weight.cpu().double())
    least = max(weight.shape) * torch.finfo(weight.dtype).eps * values[:1].sum()
    return int((values > least).sum())


@torch.no_grad()
def fold_layers(network: nn.Module, ranks: Mapping[str, int]) -> nn.Module:
    """Replaces linear layers by two, IN PLACE; the second has the bias. The product is the best one of that rank.

    Args:
        network: The network.
        ranks: Width between the two, by name of layer.

    Returns:
        The network.

    Raises:
        ValueError: If it has no such linear layer, or that is too narrow.
    """
    modules = dict(network.named_modules())
    for name, rank in ranks.items():
        layer = modules.get(name)
        if not name or type(layer) is not nn.Linear or not 0 < rank <= min(layer.weight.shape):
            raise ValueError(f"the plan is of another network: it has no linear layer {name!r} of rank {rank} or more")
        network.set_submodule(name, _two_layers(layer, rank).train(layer.training))
    config = getattr(network, "config", None)
    if ranks and isinstance(config, dict) and "input_shape" in config:
        del network.config  # it says how to build the network, and that is no longer true
    return network


def _two_layers(layer: nn.Linear, rank: int) -> nn.Sequential:
    """A layer as two, among which its singular values are divided evenly, so that neither has far larger weights."""
    u, sizes, v = torch.linalg.svd(layer.weight.cpu().double(), full_matrices=False)
    root = sizes[:rank].sqrt()
    with torch.device("meta"):
        first = nn.Linear(layer.in_features, rank, bias=False)
        second = nn.Linear(rank, layer.out_features, bias=layer.bias is not None)
    trained = layer.weight.requires_grad
    first.weight = nn.Parameter((root[:, None] * v[:rank]).to(layer.weight), trained)
    second.weight = nn.Parameter((u[:, :rank] * root).to(layer.weight), trained)
    if layer.bias is not None:
        second.bias = layer.bias
    return nn.Sequential(first, second)
