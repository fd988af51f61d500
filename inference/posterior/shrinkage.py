"""Shrinkage factors: which of the two a prior is asked for, the Fisher information of one, and both at a draw."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor
from torch.func import functional_call, grad

from bayesprune.inference.data.batch_normalisation import statistics_at
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.guides.finite_parameters import check_finite_outputs
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.seeded import seeded
from bayesprune.inference.objective.squared_gradients import SquaredGradients
from bayesprune.inference.posterior.data_pull import DataPull, data_pulls, factor_by_posterior
from bayesprune.inference.restart import Restart
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.language.inclusion import ShrinkageBelow, ShrinkageForm
from bayesprune.models.language.latent import WEIGHT
from bayesprune.models.language.scale_mixture import is_scale_mixture
from bayesprune.models.language.tensor_prior import TensorPrior
from bayesprune.models.networks.outputs import outputs_at

EXAMPLES = 1000
"""Training examples over which the Fisher information is averaged."""
CHUNK, NUMBERS = 50, 2**28
"""Examples whose gradients are held at once, and about how many numbers these may be: 1 GiB in float32."""


def needs_fisher(model: BayesianNetwork) -> bool:
    """Whether an inclusion event of a prior may ask for the Fisher information."""
    events = (prior.hierarchy.included for prior in model.priors.values())
    return any(isinstance(event, ShrinkageBelow) for event in events)


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

    Raises:
        NonFiniteLossError: If the network gives NaN there.
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

    squares = SquaredGradients(grad(log_prob), centre)
    sums = {name: torch.zeros_like(weight) for name, weight in centre.items()}
    chunk = max(1, min(CHUNK, NUMBERS // max(1, sum(weight.numel() for weight in centre.values()))))
    seen = 0
    with torch.random.fork_rng(devices=[batches.device] if batches.device.type == "cuda" else []):
        torch.manual_seed(0)
        for x in _inputs(batches, examples):
            with torch.no_grad():
                outputs = outputs_at(network, centre, x, len(x), statistics)
                check_finite_outputs(outputs)
                y = model.likelihood.distribution(outputs).sample()
            for part_x, part_y in zip(x.split(chunk), y.split(chunk), strict=True):
                for name, square in squares(part_x, part_y).items():
                    sums[name] += square
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


def is_linear(model: BayesianNetwork) -> bool:
    """Whether the network has one matrix, and that is under a prior: a regression."""
    every = {name for name, parameter in model.network.named_parameters() if parameter.ndim > 1}
    return not model.closes_units and len(model.matrices) == 1 and every == set(model.matrices)


def is_counted_by_shrinkage(prior: TensorPrior) -> bool:
    """Whether effective parameters are the sum of one minus the shrinkage factor, rather than of another event."""
    event = prior.hierarchy.included
    return is_scale_mixture(prior) and (event is None or isinstance(event, ShrinkageBelow))


def shrinkage_form(one: Restart, prior: TensorPrior) -> ShrinkageForm:
    """Which shrinkage factor is meant for a tensor: the one its event names, else by the rule of `shrinkage_below`.

    Raises:
        ValueError: If the event asks for the posterior's, but the guide holds the weights as points.
    """
    event = prior.hierarchy.included
    site = prior.sites.get(WEIGHT if prior.weight_is_latent else str(prior.standard_normal))
    is_normal = site is not None and one.guide.family_of[site.name] == "normal"
    asked = event.by if isinstance(event, ShrinkageBelow) else None
    if asked == "posterior" and not is_normal:
        raise ValueError(
            f"the prior on {prior.name} asks for shrinkage by the posterior, which a guide of points does not have: "
            "fit with guide='meanfield', or declare shrinkage_below(..., by='fisher')"
        )
    if asked is not None:
        return asked
    return "posterior" if is_normal and not is_linear(one.model) else "fisher"


def shrinkage_at(one: Restart, prior: TensorPrior, values: dict[str, Tensor]) -> Tensor:
    """The shrinkage factor of every weight of a tensor at one draw of the scales.

    Args:
        one: The restart.
        prior: A scale mixture.
        values: The draw, by site.

    Raises:
        ValueError: If the fit lacks the Fisher information that the factor needs, or the guide its Normals.
    """
    sd = prior.conditional_sd({latent: values[site.name] for latent, site in prior.sites.items()})
    if shrinkage_form(one, prior) == "posterior":
        return factor_by_posterior(_pulls(one)[prior.name], sd)
    if one.fisher is None:
        raise ValueError(
            "this fit holds no Fisher information, which shrinkage factors need: declare "
            "included=shrinkage_below(...) on the prior before fitting"
        )
    return shrinkage_factor(one.fisher[prior.name], sd, one.model.data_size)


_Known = tuple[tuple[tuple[int, int], ...], dict[str, DataPull]]
_KNOWN: WeakKeyDictionary[Guide, _Known] = WeakKeyDictionary()


def _pulls(one: Restart) -> dict[str, DataPull]:
    """What the data say of all weights whose factor is the posterior's; kept until the guide changes."""
    state = tuple((id(parameter), parameter._version) for parameter in one.guide.parameters())
    if one.guide not in _KNOWN or _KNOWN[one.guide][0] != state:
        mixtures = [prior for prior in one.model.priors.values() if is_scale_mixture(prior)]
        asked = [prior for prior in mixtures if shrinkage_form(one, prior) == "posterior"]
        _KNOWN[one.guide] = state, data_pulls(one, asked)
    return _KNOWN[one.guide][1]


def shrinkage_draws(
    one: Restart, priors: list[TensorPrior], draws: int
) -> Iterator[tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Draws of the latents, and the shrinkage factors at them by tensor."""
    with torch.no_grad(), seeded(one.guide, one.seed):
        for _ in range(draws):
            values = one.guide.sample()
            yield values, {prior.name: shrinkage_at(one, prior, values) for prior in priors}
