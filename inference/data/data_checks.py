"""Checks of training and validation data against a model, before anything is trained."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

from bayesprune.inference.data.batches import Batches
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.graphs.forward_constants import remedy_for
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.evaluation_mode import evaluation_mode

__all__ = ["check_data", "check_examples", "check_validation", "targets_check"]


def check_data(model: BayesianNetwork, batches: Batches) -> tuple[int, ...]:
    """Refuses, before training starts, data that the model cannot take; later batches of a loader as they come.

    Returns:
        The shape of one input.

    Raises:
        ValueError: For inputs that are not finite, that the network does not take, or targets that do not fit.
    """
    x, y = batches.tensors if batches.tensors is not None else batches.first()
    batches.example_outputs = check_examples(model.network, model.likelihood, x, y)
    batches.expect(model.data_size, targets_check(model.likelihood, batches.example_outputs))
    sizes = () if batches.is_stream else batches.sizes()
    if sizes and model.data_size not in sizes:
        raise ValueError(
            f"the model was made for data_size={model.data_size}, but the data have {sizes[0]} examples: "
            "make it with the number of training examples"
        )
    return tuple(x.shape[1:])


def targets_check(likelihood: Likelihood, outputs: Tensor) -> Callable[[Tensor], None]:
    """Returns what refuses targets that do not fit, on whatever device they lie.

    Args:
        likelihood: What the outputs mean.
        outputs: Those for one example, `(1, ...)`.
    """
    if outputs.device.type != "cpu":  # a loader's batches are looked at before they are moved
        likelihood, outputs = copy.deepcopy(likelihood).cpu(), outputs.cpu()
    return lambda y: likelihood.check(outputs.to(y.device).expand(len(y), *outputs.shape[1:]), y)


def check_validation(network: nn.Module, likelihood: Likelihood, held_out: tuple[Tensor, Tensor]) -> None:
    """As `check_examples`, of validation data, which the message names.

    Raises:
        ValueError: In one sentence.
    """
    try:
        check_examples(network, likelihood, *held_out)
    except ValueError as problem:
        raise ValueError(f"validation data: {problem}") from problem


def check_examples(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> Tensor:
    """Refuses inputs and targets that a network cannot take; returns the outputs for one example, `(1, ...)`.

    Args:
        network: The network.
        likelihood: What its outputs mean.
        x: Inputs, `(n, ...)`.
        y: Targets.

    Raises:
        ValueError: In one sentence.
    """
    if len(x) != len(y) or len(x) == 0:
        raise ValueError(f"there are {len(x)} inputs and {len(y)} targets: they must be as many, and not none")
    if x.is_floating_point() and not bool(torch.isfinite(x).all()):
        bad = ~torch.isfinite(x).reshape(len(x), -1).all(dim=1)
        raise ValueError(
            f"the inputs hold NaN or infinity in {int(bad.sum())} examples, first in example {int(bad.nonzero()[0])}: "
            "remove or fill them"
        )
    try:
        with torch.no_grad(), evaluation_mode(network):
            outputs = network(x[: min(2, len(x))])
    except Exception as problem:  # forward is the user's code
        reason = first_line(problem)
        words = f"the network does not take inputs of shape {tuple(x.shape[1:])} ({reason}){remedy_for(reason)}"
        raise ValueError(words) from problem
    if not torch.is_tensor(outputs) or outputs.ndim == 0:
        got = "a single number" if torch.is_tensor(outputs) else f"a {type(outputs).__name__}"
        raise ValueError(
            f"the network returns {got}, but one tensor of outputs (n, ...) is expected: return that alone"
        )
    likelihood.check(outputs[:1].expand(len(y), *outputs.shape[1:]), y)
    return outputs[:1]
