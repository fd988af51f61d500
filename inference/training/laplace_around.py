"""A diagonal Laplace approximation around a network that was trained elsewhere: a fit without any training."""

from __future__ import annotations

import copy
import time
from collections.abc import Iterator, Mapping
from typing import Any, cast

import torch
import xarray as xr
from torch import Tensor, nn
from torch.func import functional_call, jacrev, vjp, vmap

from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.data.data_checks import check_data
from bayesprune.inference.data.data_sketch import data_sketch
from bayesprune.inference.data.kept_inputs import inputs_of
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.families import NormalFamily
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.inclusion.reduction import fixed_prior_sd
from bayesprune.inference.restart import Restart
from bayesprune.inference.watching.pruning_trace import inclusion_record, scale_record, trace_dataset
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.plain_numbers import plain_number
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.evaluation_mode import remember_held
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.priors.gaussian import Gaussian

EXAMPLES = 1000
"""Training examples over which the curvature is averaged unless said otherwise."""
CHUNK = 50
"""Examples whose gradients are held at once."""


def laplace_around(
    network: nn.Module | BayesianNetwork,
    data: Data,
    likelihood: Likelihood | None = None,
    prior_sd: float | Mapping[str, float] | None = None,
    *,
    data_size: int | None = None,
    weight_decay: float | None = None,
    examples: int = EXAMPLES,
) -> Fit:
    """Makes a fit of a trained network, with a Normal for every weight, without training.

    The weights w are taken for the posterior mode, and the log-likelihood for quadratic around them with the diagonal
    of the generalised Gauss-Newton matrix G for its curvature (`diagonal_ggn`; MacKay 1992; Ritter et al. 2018): the
    posterior of a weight is Normal(w, v), v = 1 / (data_size G + 1 / s^2), s the prior sd. Correlations are left out.
    Exact for a linear regression with orthogonal features.

    Where w is the mode of something else, the optimum of a loss with weight decay of precision d in nats / weight^2 of
    the full data (0 for none), the same quadratic has its mode at v (data_size G + d) w: say so by `weight_decay`, and
    the prior shrinks the weights to there. A network that is sure of all its training data has next to no curvature,
    and is shrunk to next to nothing.

    Args:
        network: The trained network; it is copied, never changed. It is evaluated in evaluation mode. Or a
            `BayesianNetwork` of it with priors Normal(0, sd) of one's own, such as `Reduction`, which then says the
            likelihood, the priors and `data_size` itself.
        data: Training data, as in `fit`.
        likelihood: What the outputs mean; default `Categorical()`. Its parameters must be fixed.
        prior_sd: Standard deviation of the weights' prior Normal(0, sd): a number or None (sqrt(2 / fan_in), He's) for
            all parameters with two dimensions or more, or numbers by pattern of parameter names; default None.
        data_size: Number of training data; default None: the length of the data.
        weight_decay: That with which w was trained, if it is not the mode under this prior: of the torch optimizer (the
            penalty weight_decay / 2 w^2 beside the mean loss of a datum), so d = data_size * weight_decay. Default
            None: w is the mode, as it stands.
        examples: Training examples over which the curvature is averaged; default 1000. More than there are takes all.

    Returns:
        A fit with one restart and a mean-field Normal guide: it predicts, prunes, reduces and is saved like any other.
        Its trace has one row, the ELBO of the quadratic approximation in nats.

    Raises:
        ValueError: If the data do not fit the network, a prior is not Normal(0, sd), the likelihood has a parameter to
            learn, `weight_decay` is negative, the curvature is not finite or not positive semi-definite, or `data_size`
            cannot be known.
    """
    began = time.perf_counter()
    weight_decay, examples = plain_number(weight_decay), plain_number(examples)  # settings are saved
    if weight_decay is not None and not 0.0 <= weight_decay < float("inf"):
        raise ValueError(f"weight_decay must be None, zero or a positive number, not {weight_decay}")
    if examples < 1:
        raise ValueError(f"examples must be at least 1, not {examples}")
    first = next(network.parameters())
    batches = Batches(data, 128, first.device, first.dtype)
    if isinstance(network, BayesianNetwork):
        if not (likelihood is None and prior_sd is None and data_size is None):
            raise ValueError("a BayesianNetwork says its likelihood, priors and data_size itself: leave them out")
        model = copy.deepcopy(network)
    else:
        sizes = batches.sizes()
        if data_size is None and not sizes:
            raise ValueError("the data do not tell how many they are: give data_size=, the number of training data")
        size = sizes[0] if data_size is None else data_size
        model = BayesianNetwork(network, _priors(network, prior_sd), likelihood, size)
    for prior in model.priors.values():
        fixed_prior_sd(model, prior)
    if any(True for _ in model.likelihood.parameters()):
        raise ValueError(
            f"the likelihood {model.likelihood.name} has a parameter to learn, but nothing is trained here: "
            "fix it, e.g. Normal(0.1)"
        )
    remember_held(model.network)
    model.to(first.device).eval()
    input_shape = check_data(model, batches)
    sketch = data_sketch(data)
    with torch.random.fork_rng(devices=[first.device] if first.device.type == "cuda" else []):
        torch.manual_seed(0)  # a loader that shuffles, and starting values, take random numbers
        guide = Guide(model, "meanfield")
        curvature = diagonal_ggn(model, batches, examples)
        _place(model, guide, curvature, None if weight_decay is None else model.data_size * weight_decay)
        row = _row(model, guide, batches, curvature, examples)
        inputs = inputs_of(batches) if tracked_layers(model.network) else None
    record = {"step": 0, "negative_elbo": row["loss"], **scale_record(guide)}
    seconds = time.perf_counter() - began
    trace: xr.Dataset = trace_dataset(
        [[{**row, "seconds": seconds}]], [[record]], {"seed": 0, "data_size": model.data_size}
    )
    settings: dict[str, Any] = {
        "guide": "meanfield", "method": "diagonal Laplace approximation, nothing trained", "steps": 0, "epochs": 0,
        "seed": 0, "precision": str(first.dtype).removeprefix("torch."), "device": str(first.device),
        "weight_decay": weight_decay, "examples": examples, "kl_weight": 1.0, "tempered": False,
        "seconds": seconds, "data_sketch": sketch,
        "input_shape": list(input_shape),
    }  # fmt: skip
    return Fit([Restart(model, guide, 0)], trace, settings, inputs)


def diagonal_ggn(model: BayesianNetwork, batches: Batches, examples: int = EXAMPLES) -> dict[str, Tensor]:
    """Diagonal of the generalised Gauss-Newton matrix of one datum, at the network's weights.

    G_j = mean over examples of (J' H J)_jj, J the derivative of the outputs by the weights, H minus the second
    derivative of the log-likelihood by the outputs (Schraudolph 2002; Martens 2020). No label is drawn: for the
    likelihoods of this package H does not depend on the label, and G is the Fisher information exactly.

    Args:
        model: The model; its network's own weights are the point.
        batches: The training data.
        examples: How many are averaged over; default 1000: evenly spaced rows of data in memory, else the first ones.

    Returns:
        G by name of parameter tensor, `(out, in, ...)`, in nats / weight^2 per datum.

    Raises:
        ValueError: If the likelihood is not log-concave in the outputs, or G is not finite.
    """
    network = model.network.eval()
    weights = {name: model.starting_weights(name) for name in model.priors}
    rest = {n: p.detach() for n, p in network.named_parameters() if n not in weights} | dict(network.named_buffers())

    def one_example(x: Tensor, y: Tensor) -> tuple[dict[str, Tensor], Tensor]:
        def outputs_at(at: dict[str, Tensor]) -> Tensor:
            return functional_call(network, {**rest, **at}, (x.unsqueeze(0),)).squeeze(0)

        def loss(outputs: Tensor) -> Tensor:
            return -model.likelihood.log_prob(outputs.unsqueeze(0), y.unsqueeze(0)).sum()

        outputs, pull = vjp(outputs_at, weights)  # type: ignore[misc]  # three only where has_aux is asked for
        count = outputs.numel()
        # Backward twice: forward derivatives compile scripts when first asked for, and PyTorch warns of that.
        values, vectors = torch.linalg.eigh(jacrev(jacrev(loss))(outputs).reshape(count, count))
        sums = {name: torch.zeros_like(weight) for name, weight in weights.items()}
        for k in range(count):  # one output direction at a time: memory stays that of one gradient an example
            (gradient,) = pull(vectors[:, k].reshape(outputs.shape))
            sums = {name: total + values[k] * gradient[name].square() for name, total in sums.items()}
        return sums, values

    of_each = vmap(one_example)
    totals = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    seen = 0
    for x, y in _examples(batches, examples):
        sums, values = of_each(x, y)
        scale = float(values.abs().max())
        if float(values.min()) < -1e-4 * scale:  # beyond rounding, which makes a zero slightly negative in float32
            raise ValueError(
                f"the likelihood {model.likelihood.name} is not log-concave in the outputs, so the Gauss-Newton matrix "
                "is no precision: use a short fit with guide='meanfield' in its place"
            )
        totals = {name: total + sums[name].detach().sum(dim=0) for name, total in totals.items()}
        seen += len(x)
    found = {name: (total / seen).clamp_min(0.0) for name, total in totals.items()}  # rounding, as said above
    for name, value in found.items():
        if not bool(torch.isfinite(value).all()):
            raise ValueError(f"the curvature of {name} is not finite: look at the network's weights and inputs")
    return found


def _priors(network: nn.Module, prior_sd: float | Mapping[str, float] | None) -> dict[str, Gaussian]:
    if isinstance(prior_sd, Mapping):
        return {pattern: Gaussian(sd) for pattern, sd in prior_sd.items()}
    names = [name for name, parameter in network.named_parameters() if parameter.ndim >= 2]
    if not names:
        raise ValueError("the network has no parameter with two dimensions: name them, prior_sd={'weight': 1.0}")
    return {name: Gaussian(prior_sd) for name in names}


def _place(model: BayesianNetwork, guide: Guide, curvature: dict[str, Tensor], decay: float | None) -> None:
    """Writes the approximation into the guide; `decay` is a precision, in nats / weight^2 of the full data, or None."""
    with torch.no_grad():
        for family in guide.families:
            family = cast(NormalFamily, family)  # a Gaussian prior has no other site than its weights
            location, log_scale = [], []
            for site in family.sites:
                prior = model.priors[site.name]
                data = model.data_size * curvature[site.name].double()
                precision = data + fixed_prior_sd(model, prior).double().pow(-2)
                weight = model.starting_weights(site.name).double()
                moved = weight if decay is None else (data + decay) / precision * weight
                location.append(moved.reshape(-1))
                log_scale.append(-0.5 * precision.log().reshape(-1))
            family.location.copy_(torch.cat(location))
            family.log_scale.copy_(torch.cat(log_scale))


@torch.no_grad()
def _row(
    model: BayesianNetwork, guide: Guide, batches: Batches, curvature: dict[str, Tensor], examples: int
) -> dict[str, Any]:
    """The trace's row: E_q[log-likelihood] is log-likelihood(m) - (1/2) sum of data_size G v, the KL exact; nats."""
    (family,) = guide.families
    assert isinstance(family, NormalFamily)
    weights, variances, kl_of = guide.means(), family.cut((2.0 * family.log_scale.double()).exp()), {}
    spread = 0.0
    for site, v in zip(family.sites, variances, strict=True):
        prior_variance = fixed_prior_sd(model, model.priors[site.name]).double().square()
        second = weights[site.name].double().square() + v
        kl_of[site.name] = float(0.5 * (second / prior_variance - 1.0 - (v / prior_variance).log()).sum())
        spread += 0.5 * model.data_size * float((curvature[site.name].double() * v).sum())
    total, seen = 0.0, 0
    for x, y in _examples(batches, examples):
        outputs = outputs_at(model.network, weights, x, len(x))
        total += float(model.likelihood.log_prob(outputs, y).double().sum())
        seen += len(x)
    likelihood, kl = model.data_size * total / seen - spread, sum(kl_of.values())
    row = {"loss": kl - likelihood, "expected_log_likelihood": likelihood, "kl": kl, "kl_weight": 1.0}
    return {**row, "learning_rate": 0.0, "kl_of": kl_of, "scores": [], **inclusion_record(guide)}


def _examples(batches: Batches, examples: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Parts of at most `CHUNK` examples with their targets, `examples` of them in all."""
    if batches.tensors is not None:
        x, y = batches.tensors
        rows = torch.linspace(0, len(x) - 1, min(examples, len(x)), dtype=torch.float64).round().long().to(x.device)
        yield from zip(x[rows].split(CHUNK), y[rows].split(CHUNK), strict=True)
        return
    left = examples
    for x, y in batches:
        x, y = x[:left], y[:left]
        yield from zip(x.split(CHUNK), y.split(CHUNK), strict=True)
        left -= len(x)
        if left <= 0:
            return


__all__ = ["diagonal_ggn", "laplace_around"]
