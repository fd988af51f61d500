"""Diagonal Fisher information, and the shrinkage factors that follow from it."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from bayesprune.inference.batch_normalisation import statistics_at
from bayesprune.inference.batches import Batches
from bayesprune.inference.guides import Guide
from bayesprune.inference.outputs_at import outputs_at
from bayesprune.models.bayesian_network import BayesianNetwork

EXAMPLES = 1000
"""Training examples over which the Fisher information is averaged."""
CHUNK = 50


def diagonal_fisher(
    model: BayesianNetwork, guide: Guide, batches: Batches, examples: int = EXAMPLES, inputs: Tensor | None = None
) -> dict[str, Tensor]:
    """Diagonal Fisher information of one datum for every tensor with a prior, at the guide's centre.

    F_j = E[(d log p(y | x) / d w_j)^2], the labels drawn from the model itself (not the empirical Fisher), averaged
    over up to `examples` training inputs.

    Args:
        model: The model.
        guide: Its guide.
        batches: The training data.
        examples: Number of inputs; default 1000.
        inputs: Training inputs `(n, ...)` on which statistics of batch normalisation are estimated for the centre;
            default None: they are the running ones.

    Returns:
        F by name of parameter tensor, `(out, in, ...)`, in 1 / weight^2 per datum.
    """
    network = model.network
    network.eval()
    with torch.no_grad():
        centre = model.weights_at(guide.means())
        frozen = {n: p.detach() for n, p in network.named_parameters() if n not in centre}
        statistics = {} if inputs is None else statistics_at(network, centre, inputs)
        buffers = {**dict(network.named_buffers()), **statistics}

    def log_prob(weights: dict[str, Tensor], x: Tensor, y: Tensor) -> Tensor:
        outputs = functional_call(network, {**frozen, **buffers, **weights}, (x.unsqueeze(0),))
        return model.likelihood.log_prob(outputs, y.unsqueeze(0)).sum()

    per_example = vmap(grad(log_prob), in_dims=(None, 0, 0))
    sums = {name: torch.zeros_like(weight) for name, weight in centre.items()}
    seen = 0
    with torch.random.fork_rng(devices=[batches.device] if batches.device.type == "cuda" else []):
        torch.manual_seed(0)
        for x in _inputs(batches, examples):
            with torch.no_grad():
                outputs = outputs_at(network, centre, x, len(x), statistics)
                y = model.likelihood.distribution(outputs).sample()
            for part_x, part_y in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
                for name, gradient in per_example(centre, part_x, part_y).items():
                    sums[name] += gradient.detach().square().sum(dim=0)
            seen += len(x)
    return {name: total / seen for name, total in sums.items()}


def _inputs(batches: Batches, examples: int) -> Any:
    """Batches of inputs, `examples` of them in all: evenly spaced rows of data in memory, else the first ones.

    Of a loader that gives nothing any more, because it can be read only once, the batch that was read before training.
    """
    if batches.tensors is not None:
        x = batches.tensors[0]
        rows = torch.linspace(0, len(x) - 1, min(examples, len(x))).round().long()
        yield from x[rows.to(x.device)].split(max(CHUNK, batches.batch_size))
        return
    left = examples
    for x, _ in batches:
        yield x[:left]
        left -= len(x)
        if left <= 0:
            return
    if left == examples and batches.kept is not None:
        yield batches.kept[0][:examples]


def shrinkage_factor(fisher: Tensor, sd: Tensor, data_size: int) -> Tensor:
    """kappa_j = 1 / (1 + data_size F_j s_j^2): the fraction by which the data's estimate is pulled to zero.

    Piironen & Vehtari 2017, eq. 2.4, with data_size F_j for the data's precision of the weight.

    Args:
        fisher: F_j, information of one datum.
        sd: s_j, prior standard deviation of the weight given its scales.
        data_size: Number of data.
    """
    return 1.0 / (1.0 + data_size * fisher * sd.square())
