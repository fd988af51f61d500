"""Checks of batch normalisation in several processes."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional

from bayesprune.inference.runtime.share import Share
from bayesprune.inference.runtime.shared_statistics import SharedStatistics
from tests.inference.runtime.many_processes import check
from tests.inference.runtime.problems import (
    SIZE,
    X,
    batches_of,
    fitted,
    gradients_of,
    model_of,
    objective_of,
    tensors_of,
)

LAYERS = {
    "2-D": (lambda: nn.BatchNorm1d(4), (101, 4)),
    "3-D": (lambda: nn.BatchNorm1d(4), (11, 4, 5)),
    "4-D": (lambda: nn.BatchNorm2d(4), (14, 4, 3, 2)),
    "without affine": (lambda: nn.BatchNorm2d(4, affine=False), (14, 4, 3, 2)),
    "without statistics": (lambda: nn.BatchNorm1d(4, track_running_stats=False), (101, 4)),
    "cumulative": (lambda: nn.BatchNorm1d(4, momentum=None), (101, 4)),
    "far from zero": (lambda: nn.BatchNorm1d(4), (101, 4)),
}


@check(2, 3)
def normalised_layers(make):
    """Outputs, gradients and statistics of layers after two passes over a process's share of a batch."""
    runtime, found = make(), {}

    def summed(value):
        if runtime.world > 1:
            torch.distributed.all_reduce(value)

    for name, (made, shape) in LAYERS.items():
        layer, whole = layer_of(made), inputs_of(name, shape)
        x = whole[Share(runtime.rank, runtime.world).rows(len(whole))].clone().requires_grad_(True)
        target = targets_of(shape)[Share(runtime.rank, runtime.world).rows(len(whole))]
        with SharedStatistics(summed):
            for _ in range(2):
                outputs = layer(x)
            (outputs * target).sum().backward()
        gradients = [p.grad.clone() for p in layer.parameters()]
        for one in gradients:
            summed(one)
        found[name] = {"outputs": outputs.detach(), "inputs": x.grad, "parameters": gradients}
        found[name]["buffers"] = [b.clone() for b in layer.buffers()]
    return found


def layer_of(made):
    torch.manual_seed(2)
    layer = made().double()
    for parameter in layer.parameters():
        nn.init.normal_(parameter)
    return layer


def inputs_of(name, shape):
    generator = torch.Generator().manual_seed(6)
    x = torch.randn(shape, generator=generator, dtype=torch.float64)
    x = x * torch.arange(1.0, shape[0] + 1.0, dtype=torch.float64).view(-1, *[1] * (len(shape) - 1))  # unlike shares
    return 1e4 + x if name == "far from zero" else x


def targets_of(shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


@check(2)
def layers_that_are_left_alone(make):
    """Layers in evaluation mode, and functions of the same name elsewhere, in single precision too."""
    runtime = make()
    layer = layer_of(lambda: nn.BatchNorm1d(4)).float().eval()
    layer.running_mean.add_(1.0)
    x = inputs_of("2-D", (9, 4)).float() + runtime.rank
    with SharedStatistics(torch.distributed.all_reduce):
        found = layer(x), functional.layer_norm(x, (4,))
    return [torch.equal(*pair) for pair in zip(found, (layer(x), functional.layer_norm(x, (4,))), strict=True)]


@check(2, 3)
def steps_of_a_normalised_network(make):
    """Losses and gradients of a network with batch normalisation, whose statistics are those of the whole batch."""
    found = {}
    for mode in ("synchronised", "apart"):
        runtime = make(noise="common", batch_norm=mode)
        with runtime.restart(5):
            objective = objective_of(runtime, "HALO", normalised=True)
            objective.train()
            found[mode] = gradients_of(batches_of(runtime, 17), objective, runtime)
    return found


@check(2, 3)
def fits_of_a_normalised_network(make):
    """Whole fits both ways; what their layers have in the end."""
    found = {}
    for mode in ("synchronised", "apart"):
        bnn = model_of("Gaussian", normalised=True)
        fit = fitted(make(noise="common", batch_norm=mode), bnn=bnn, execution="auto")
        layer = fit.model.network[1]
        layers = layer.running_mean.clone(), layer.running_var.clone(), layer.num_batches_tracked.clone()
        execution = fit.settings["execution"]["reason"]
        found[mode] = {"tensors": tensors_of(fit), "layers": layers, "type": type(layer).__name__, "why": execution}
    return found


@check(2)
def statistics_before_and_after_levelling(make):
    """Running statistics of each process before the end of an epoch, and after it."""
    runtime = make(batch_norm="apart")
    objective = objective_of(runtime, "Gaussian", normalised=True)
    objective.train()
    layer = objective.model.network[1]
    rows = Share(runtime.rank, runtime.world).rows(SIZE)
    with torch.no_grad():
        objective.model.network(X[rows].to(runtime.dtype))
        next(objective.parameters()).add_(runtime.rank)  # what is no running statistic is that of the first process
    before = [layer.running_mean.clone(), layer.running_var.clone(), next(objective.parameters()).detach().clone()]
    runtime.level(objective)
    after = [layer.running_mean.clone(), layer.running_var.clone(), next(objective.parameters()).detach().clone()]
    return {"before": before, "after": after, "count": int(layer.num_batches_tracked)}
