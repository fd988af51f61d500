"""Whether a weight is the same quantity in every fit: of a model without hidden units only."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.func import functional_call

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.networks.evaluation_mode import evaluation_mode
from bayesprune.models.networks.standardisation import UNITS

__all__ = ["features_of", "identified_tensor", "regression_tensor"]


def identified_tensor(model: BayesianNetwork) -> str | None:
    """The weights of the one layer that is learned, where nothing else is: those of a regression, so far as it seems.

    Hidden units may be permuted, and stand in for one another, so that the weights of two fits of a network are not the
    same quantities; those of a regression are. What stands before the layer may be frozen.

    Args:
        model: The model.

    Returns:
        The name of the tensor; None where its layer is neither linear nor a convolution, has no prior, or is not all
        that is learned but for its bias, and where units have gates.
    """
    learned = {name: value for name, value in model.network.named_parameters() if value.requires_grad}
    learned |= {name: model.network.get_parameter(name) for name in model.priors}
    matrices = [name for name, value in learned.items() if value.ndim >= 2]
    if len(matrices) != 1 or matrices[0] not in model.priors or model.closes_units:
        return None
    owner, _, attribute = matrices[0].rpartition(".")
    layer = model.network.get_submodule(owner)
    if attribute != "weight" or not isinstance(layer, (nn.Linear, nn.modules.conv._ConvNd)):
        return None
    return matrices[0] if set(learned) <= {matrices[0], f"{owner}.bias".removeprefix(".")} else None


@torch.no_grad()
def regression_tensor(model: BayesianNetwork, x: Tensor) -> str | None:
    """The same, seen to be so: outputs of the layer are outputs of the network, each its own.

    Rows of the weights, with their biases, are permuted: the network's outputs have to be permuted alike. Where a tied
    or frozen layer, a mean or a maximum comes after the layer, they are not, and its outputs are hidden units.

    Args:
        model: The model.
        x: A few inputs, `(n, ...)`.
    """
    name = identified_tensor(model)
    if name is None:
        return None
    network, rows = model.network, model.priors[name].shape[0]
    names = {name, name.removesuffix("weight") + "bias"}
    own = {one: value.detach() for one, value in network.named_parameters() if one in names}
    # Each target may have its own unit: without units the outputs are those of the layer.
    plain = {one: torch.zeros_like(v) for one, v in network.named_buffers() if one == UNITS[2]}
    plain |= {one: torch.ones_like(v) for one, v in network.named_buffers() if one == UNITS[3]}
    order = torch.arange(rows - 1, -1, -1)
    with torch.random.fork_rng(devices=[]), evaluation_mode(network):
        torch.manual_seed(0)
        own = {one: value + 0.1 * torch.randn(value.shape).to(value) for one, value in own.items()}
        moved = {one: value[order.to(value.device)] for one, value in own.items()}
        try:
            outputs = functional_call(network, own | plain, (x,))
            permuted = functional_call(network, moved | plain, (x,))
        except (RuntimeError, ValueError, TypeError, IndexError):
            return None  # the inputs are others than it takes
    if not torch.is_tensor(outputs):
        return None
    if rows == 1:
        return name if outputs.numel() == len(x) or (outputs.ndim > 2 and outputs.shape[1] == 1) else None
    if outputs.ndim < 2 or outputs.shape[1] != rows:
        return None
    expected = outputs[:, order.to(outputs.device)]
    scale = float(outputs.abs().max()) + 1e-30
    alike = float((permuted - expected).abs().max()) <= 1e-4 * scale
    return name if alike and float((permuted - outputs).abs().max()) > 1e-4 * scale else None


@torch.no_grad()
def features_of(model: BayesianNetwork, name: str, x: Tensor) -> Tensor | None:
    """What a layer reads, `(n, in)`: the inputs, or what the network makes of them; None where it is of another shape.

    Args:
        model: The model.
        name: Of the layer's weights.
        x: Inputs, `(n, ...)`.
    """
    seen: list[Tensor] = []
    layer = model.network.get_submodule(name.rpartition(".")[0])
    hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0].detach()))
    try:
        with evaluation_mode(model.network):
            model.network(x)
    except (RuntimeError, ValueError, TypeError, IndexError):
        return None
    finally:
        hook.remove()
    if len(seen) != 1 or seen[0].shape != (len(x), model.priors[name].shape[1]):
        return None
    return seen[0].double().cpu()
