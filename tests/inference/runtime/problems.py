"""Data, networks and fits on which processes are compared with one."""

from __future__ import annotations

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.runtime.share import Share

SIZE = 101
"""No multiple of a batch, of which the last one is smaller, nor of the number of processes."""
_GENERATOR = torch.Generator().manual_seed(1)
X = torch.randn(SIZE, 6, generator=_GENERATOR, dtype=torch.float64)
Y = (X[:, 0] + X[:, 1] * X[:, 2] > 0).long() + (X[:, 3] > 1).long()
PRIORS = {"HALO": lambda: bp.HALO(), "spike and slab": lambda: bp.SpikeAndSlab(), "Gaussian": lambda: bp.Gaussian()}
GUIDES = {"HALO": "meanfield"}
"""Other than the default, which are points: nothing would be drawn."""
KL_WEIGHT = 0.7


def network(gated=False, normalised=False):
    """A small one, the same each time."""
    torch.manual_seed(3)
    act = nn.ReLU() if gated else nn.Tanh()
    layers = [nn.Linear(6, 12), *([nn.BatchNorm1d(12)] if normalised else []), act, nn.Linear(12, 3)]
    return nn.Sequential(*layers)


def model_of(prior, data_size=SIZE, normalised=False, one_mask=True):
    """A Bayesian network under a prior of this name; gates are drawn once for a batch, or for each of its examples."""
    if prior == "unit gates":
        gates = bp.UnitGates(kappa=0.003, weight_scale=0.3)
        model = bp.BayesianNetwork(network(True, normalised), {}, None, data_size, gates, X[:1].float())
        model.gates.per_example = not one_mask
        return model
    return bp.BayesianNetwork(network(False, normalised), {"*weight": PRIORS[prior]()}, data_size=data_size)


def objective_of(runtime, prior, data_size=SIZE, normalised=False, one_mask=True):
    """Its objective where it runs; weights are drawn, not outputs, of which there are as many as examples."""
    bnn = model_of(prior, data_size, normalised, one_mask).to(runtime.device, runtime.dtype)
    return Objective(bnn, Guide(bnn, GUIDES.get(prior)), Gradient(local_reparameterisation=False))


def batches_of(runtime, batch_size):
    """The data, of which a process takes its share."""
    batches = Batches((X, Y), batch_size, runtime.device, runtime.dtype, order=runtime.data_order)
    batches.share_out(Share(runtime.rank, runtime.world))
    return batches


def gradients_of(batches, objective, runtime, execution="plain"):
    """Loss and gradient of each batch of a pass at the same parameters, `(batches,)` and `(batches, parameters)`."""
    optimizer = torch.optim.SGD(objective.parameters(), lr=0.0)
    stepper = Stepper(objective, optimizer, 20, execution, False, runtime=runtime)
    runtime.setup(objective, optimizer)
    losses, gradients = [], []
    for x, y in batches:
        terms = stepper.step(x, y, KL_WEIGHT, weight=batches.weight)
        losses.append(runtime.reduce([], terms.loss.reshape(1))[0])
        gradients.append(gradient_of(objective))
    return torch.stack(losses), torch.stack(gradients)


def gradient_of(objective):
    """The gradient as one vector."""
    pieces = [torch.zeros_like(p) if p.grad is None else p.grad for p in objective.parameters() if p.requires_grad]
    return torch.cat([one.flatten() for one in pieces]).clone()


def fitted(runtime, prior="HALO", data=(X, Y), bnn=None, **more):
    """A short fit."""
    how = {"epochs": 3, "batch_size": 17, "learning_rate": 0.01, "execution": "plain", "seed": 2}
    how |= {"local_reparameterisation": False}
    if prior == "unit gates":
        how["rules"] = [bp.Gating(remove=None)]
    bnn, guide = (model_of(prior), GUIDES.get(prior)) if bnn is None else (bnn, None)
    return bp.fit(bnn, data, guide, runtime=runtime, **{**how, **more})


def tensors_of(fit):
    """All numbers of a fit's guide and model, as one vector."""
    parts = [t for part in (fit.guide, fit.model) for t in part.state_dict().values()]
    return torch.cat([part.detach().double().flatten() for part in parts])


def history_of(fit):
    """What was recorded epoch by epoch, by name."""
    trace = fit.trace
    return {name: torch.as_tensor(trace[name].values) for name in ("loss", "kl") if name in trace}


def distance(one, other):
    """The largest difference of two numbers, relative to their size, or to that of most numbers where it is less.

    A prior's own parameters have gradients that are large beside all others, and hide these in a norm.
    """
    size = other.abs()
    return float(((one - other).abs() / (size + size.median())).max())


def said(action, *given, **how):
    """The sentence with which something is refused; empty if it is not."""
    try:
        action(*given, **how)
    except (ValueError, ImportError, NonFiniteLossError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""
