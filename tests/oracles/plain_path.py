"""The plain path written out, and a graph's results in its form: what the fused path is held to.

Nothing here knows how the fused path passes noise: both sides start from the same random state, so that a draw in
another order is seen as another number.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.labels import Categorical

DATA, BATCH, CLASSES = 50, 8, 3
TOLERANCE = 1e-9


@dataclass
class Evaluation:
    """One evaluation of an objective: its parts, gradients by parameter, buffers after it, and outputs."""

    parts: dict[str, Tensor]
    gradients: dict[str, Tensor | None]
    buffers: dict[str, Tensor]
    outputs: Tensor


def mlp(norm=False, dropout=0.0, first="a1", second="a2"):
    """4 -> 5 -> 3, with weights named by `first` and `second`.

    No bias stands before a normalisation: its gradient is zero, and what is left of it in floating point is noise.
    """
    torch.manual_seed(1)
    layers = [(first, nn.Linear(4, 5, bias=not norm))]
    layers += [("norm", nn.BatchNorm1d(5))] if norm else []
    layers += [("tanh", nn.Tanh())]
    layers += [("drop", nn.Dropout(dropout))] if dropout else []
    return nn.Sequential(OrderedDict([*layers, (second, nn.Linear(5, CLASSES))]))


def small_conv(first="a1", second="a2"):
    """A convolution of 2 channels on 4 x 4 images with batch normalisation, and a linear layer."""
    torch.manual_seed(1)
    layers = [
        (first, nn.Conv2d(1, 2, 3, bias=False)),
        ("norm", nn.BatchNorm2d(2)),
        ("relu", nn.ReLU()),
        ("flat", nn.Flatten()),
    ]
    return nn.Sequential(OrderedDict([*layers, (second, nn.Linear(8, CLASSES))]))


def batch_for(network, seed=0, count=BATCH, dtype=torch.float64):
    """Inputs and classes for one of the networks above."""
    shape = (1, 4, 4) if any(isinstance(layer, nn.Conv2d) for layer in network.modules()) else (4,)
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(count, *shape, generator=generator, dtype=torch.float64).to(dtype)
    return x, torch.randint(CLASSES, (count,), generator=generator)


def objective_of(priors, guide=None, network=None, likelihood=None, dtype=torch.float64, spread=0.3, **more):
    """An objective in training mode, its guide moved off its start by `spread` so that no two sites are alike."""
    network = mlp() if network is None else network
    priors = priors if isinstance(priors, dict) else {"a*.weight": priors}
    model = BayesianNetwork(network.to(dtype), priors, likelihood or Categorical(), DATA).to(dtype)
    objective = Objective(model, Guide(model, guide).to(dtype), Gradient(**more))
    move(objective, spread, seed=5)
    return objective.train()


def trained(objective):
    """The parameters that a fit trains, by name."""
    return {name: p for name, p in objective.named_parameters() if p.requires_grad}


def move(objective, spread, seed):
    """Adds noise of standard deviation `spread` to every trained parameter."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in trained(objective).values():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter += (spread * noise).to(parameter.dtype)


def parts_of(terms):
    """The numbers of `Terms` by name."""
    named = {"loss": terms.loss, "log_likelihood": terms.log_likelihood, "kl": terms.kl, **terms.kl_of}
    return {name: value.detach().clone() for name, value in named.items()}


def on_plain(objective, x, y, seed, kl_weight=1.0):
    """Loss and gradients as the plain path takes them at this random state; the objective is left as it was."""
    objective = copy.deepcopy(objective)
    torch.manual_seed(seed)
    terms = objective.terms(x, y, kl_weight)
    parameters = trained(objective)
    found = torch.autograd.grad(terms.loss / DATA, list(parameters.values()), allow_unused=True)
    gradients = dict(zip(parameters, found, strict=True))
    return Evaluation(parts_of(terms), gradients, dict(objective.named_buffers()), terms.outputs.detach())


def noise_at(traced, seed):
    """Standard normal draws of a graph's shapes, in its order, from this random state."""
    torch.manual_seed(seed)
    return [torch.randn_like(each) for each in traced.noise]


def on_graph(traced, objective, x, y, noise, kl_weight=1.0):
    """The same from a graph, on the objective's parameters as they are; its buffers are copied."""
    pieces = [leaf.of(leaf.parameter.detach()) for leaf in traced.leaves]
    buffers = [buffer.clone() for buffer in traced.buffers]
    weight = torch.tensor(kl_weight, dtype=pieces[0].dtype)
    numbers, outputs, found = traced.graph(pieces, buffers, noise, x, y, weight, [])
    names = ["loss", "log_likelihood", "kl", *traced.sites]
    gradients = {}
    for name, parameter in trained(objective).items():
        own = [(leaf, g) for leaf, g in zip(traced.leaves, found, strict=True) if leaf.parameter is parameter]
        whole = torch.zeros_like(parameter).flatten()
        for leaf, gradient in own:
            if gradient is not None:
                start = 0 if leaf.piece is None else leaf.piece.start
                whole[start : start + gradient.numel()] = gradient.flatten()
        gradients[name] = None if all(g is None for _, g in own) else whole.view_as(parameter)
    after = dict(zip(dict(objective.named_buffers()), buffers, strict=True))
    return Evaluation(dict(zip(names, numbers.unbind(), strict=True)), gradients, after, outputs)


def distance(one, other):
    """Largest difference of two tensors relative to the largest number in them; 0 for two that are absent."""
    if one is None and other is None:
        return 0.0
    if one is None or other is None or one.shape != other.shape:
        return float("inf")
    if one.numel() == 0:
        return 0.0
    one, other = one.double(), other.double()  # masks are booleans
    size = float(torch.maximum(one.abs().max(), other.abs().max()))
    difference = float((one - other).abs().max())
    return 0.0 if difference == 0.0 else difference / size if size > 0 else float("inf")


def differences(found, expected):
    """How far two evaluations are apart, by what is compared: every part, gradient, buffer, and the outputs.

    Gradients are compared relative to the largest entry of their own parameter.
    """
    result = {"outputs": distance(found.outputs, expected.outputs)}
    for kind in ("parts", "gradients", "buffers"):
        ones, others = getattr(found, kind), getattr(expected, kind)
        assert ones.keys() == others.keys(), (kind, set(ones) ^ set(others))
        result |= {f"{kind} {name}": distance(ones[name], others[name]) for name in ones}
    return result


def worst(found, expected):
    """The largest of `differences`."""
    return max(differences(found, expected).values())


def state_of(objective, optimizer):
    """Everything a step may change: parameters, buffers and the optimizer's state, as numbers by name."""
    state = {f"parameter {name}": p.detach().clone() for name, p in trained(objective).items()}
    state |= {f"buffer {name}": b.clone() for name, b in objective.named_buffers()}
    for name, parameter in trained(objective).items():
        for key, value in optimizer.state.get(parameter, {}).items():
            state[f"{key} of {name}"] = torch.as_tensor(value).clone()
    return state


def apart(ones, others):
    """Largest distance of two states; infinite if one holds what the other does not."""
    if ones.keys() != others.keys():
        return float("inf")
    return max(distance(ones[name], others[name]) for name in ones)
