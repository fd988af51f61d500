"""Which method of reference a declaration takes, why, and what it needs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from bayesprune.inference.reference.enumeration import GATES
from bayesprune.inference.reference.linear_model import (
    HiddenUnitsError,
    LinearModel,
    NotLinearError,
    affine_outputs,
    check_same_joint,
    linear_model,
    placed,
)
from bayesprune.inference.reference.nuts import check_continuous
from bayesprune.inference.reference.quadrature import DIMENSIONS
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.likelihoods.counts import Poisson
from bayesprune.models.likelihoods.labels import Bernoulli, Categorical
from bayesprune.models.likelihoods.normal import Normal

__all__ = ["METHODS", "Chosen", "chosen_method", "fisher_of"]

METHODS = ("enumeration", "gibbs", "nuts")
_WORK = 2e10
"""Multiplications that enumeration may take: half a minute."""
_TINY = 200
"""Weights of a network with hidden layers that NUTS is let loose on."""

Fisher = Callable[[dict[str, Tensor], float], dict[str, Tensor]]


@dataclass(frozen=True)
class Chosen:
    """A method, why it is that one, and what it works on.

    Attributes:
        method: One of `METHODS`.
        reason: Why, as the end of a sentence.
        linear: The declaration as a regression with gates and Normal slabs; None for NUTS.
        is_identified: Whether a weight is the same quantity at every draw: outputs are linear in the weights.
    """

    method: str
    reason: str
    linear: LinearModel | None
    is_identified: bool = True


def chosen_method(model: BayesianNetwork, x: Tensor, y: Tensor, method: str | None, flat: bool) -> Chosen:
    """Looks at a declaration.

    Args:
        model: The model.
        x: Inputs, all of them.
        y: Targets.
        method: One of `METHODS`; None: the most exact that applies.
        flat: As for `linear_model`.

    Raises:
        ValueError: If none applies, or not the one that was asked for; says why.
    """
    if method is not None and method not in METHODS:
        raise ValueError(f"method= takes one of {', '.join(map(repr, METHODS))} or None, not {method!r}")
    if method == "nuts":
        check_continuous(model)
        return Chosen("nuts", "asked for", None, _is_identified(model, x, y))
    try:
        linear = linear_model(model, x, y, flat)
        check_same_joint(linear, model, x, y)
    except HiddenUnitsError as problem:
        raise ValueError(
            f"a reference is for linear and generalised linear models, and {problem}: single weights are not "
            f"identified there; of at most {_TINY} weights without gates method='nuts' samples them all the same"
        ) from problem
    except NotLinearError as problem:
        if method is not None:
            raise ValueError(f"method={method!r} is for regressions with Normal slabs, but {problem}") from problem
        try:
            check_continuous(model)
        except ValueError as refusal:
            raise ValueError(f"there is no reference of this model, as {problem}; {refusal}") from refusal
        return Chosen("nuts", f"{problem}, and nothing in it is discrete", None, _is_identified(model, x, y))
    return _of_regression(linear, model, method)


def _of_regression(linear: LinearModel, model: BayesianNetwork, method: str | None) -> Chosen:
    """The method for a regression with gates and Normal slabs."""
    gates, width = len(linear.log_odds), len(linear.sd)
    states = f"{2**gates:,} states of {gates} gates" if gates else "there are no gates"
    if linear.likelihood == "normal":
        exact = gates <= GATES and 2.0**gates * width**3 <= _WORK
        how = "the noise is integrated over by quadrature" if linear.learns_noise else "each in closed form"
        if method == "enumeration" and (gates > 20 or 2.0**gates * width**3 > 50 * _WORK):
            raise ValueError(
                f"enumeration of {gates} gates would take hours: leave method= out, or take method='gibbs'"
            )
        if method == "enumeration" or (method is None and exact):
            return Chosen("enumeration", f"{states}, {how}", linear)
        why = "asked for" if method else f"{gates} gates have more states than are enumerated ({GATES} gates)"
        return Chosen("gibbs", why, linear)
    few = width <= DIMENSIONS and gates <= GATES
    if method == "enumeration" and not few:
        raise ValueError(
            f"enumeration of a {linear.likelihood} likelihood integrates over the coefficients by quadrature, of at "
            f"most {DIMENSIONS}, and these are {width}: leave method= out"
        )
    if few and method != "gibbs":
        return Chosen("enumeration", f"{states}, {width} coefficients by quadrature", linear)
    if linear.likelihood == "bernoulli":
        return Chosen("gibbs", "asked for" if method else "labels, by Polya-Gamma variables", linear)
    if method == "gibbs":
        raise ValueError("method='gibbs' is for normal noise and two classes, not for counts: leave method= out")
    check_continuous(model)
    return Chosen("nuts", "counts, and nothing in it is discrete", None)


def _is_identified(model: BayesianNetwork, x: Tensor, y: Tensor) -> bool:
    """Whether outputs are linear in the weights.

    Raises:
        ValueError: If not, and there are too many of them.
    """
    model, x, y = placed(model, x, y)
    try:
        affine_outputs(model.network, [*model.priors, *model.point_estimates], x, model.likelihood, y)
    except NotLinearError as problem:
        count = sum(parameter.numel() for parameter in model.network.parameters())
        if count > _TINY:
            raise ValueError(
                f"a reference by NUTS of a network with hidden layers is for at most {_TINY} weights, and these are "
                f"{count:,}: a sampler would not get around their posterior"
            ) from problem
        return False
    return True


def fisher_of(model: BayesianNetwork, x: Tensor, y: Tensor) -> Fisher | None:
    """The diagonal Fisher information of one datum of a generalised linear model, at given weights, exactly.

    It is the one by which a fit's shrinkage factors are: labels are those of the model itself, inputs the data's.

    Args:
        model: The model.
        x: Inputs, all of them.
        y: Targets.

    Returns:
        A function of weights by tensor and the scale of the noise; None where there is none in closed form.
    """
    model, x, y = placed(model, x, y)
    likelihood, network = model.likelihood, model.network
    names = [*model.priors, *model.point_estimates]
    try:
        design, offset = affine_outputs(network, names, x, likelihood, y)
    except NotLinearError:
        return None
    kinds = (Normal, Bernoulli, Poisson, Categorical)
    if type(likelihood) not in kinds:
        return None
    own = {name: network.get_parameter(name).detach() for name in names}

    def information(weights: dict[str, Tensor], noise: float) -> dict[str, Tensor]:
        at = {name: weights.get(name, value) for name, value in own.items()}
        outputs = offset + design @ np.concatenate([value.double().numpy().ravel() for value in at.values()])
        if isinstance(likelihood, Categorical):
            shares = torch.tensor(outputs).softmax(-1).numpy()
            scores = design - np.einsum("nc,nck->nk", shares, design)[:, None]
            found = np.einsum("nc,nck->k", shares, scores**2) / len(x)
        else:
            if isinstance(likelihood, Bernoulli):
                rate = 1.0 / (2.0 + np.exp(outputs) + np.exp(-outputs))
            elif isinstance(likelihood, Poisson):
                rate = np.exp(outputs)
            else:
                scale = torch.as_tensor(likelihood.scale, dtype=torch.float64).detach().numpy()
                learned = likelihood.log_scale
                scale = noise * scale / float(learned.exp()) if isinstance(learned, Tensor) else scale
                rate = np.ones_like(outputs) / scale**2
            found = np.einsum("nc,nck->k", rate, design**2) / len(x)
        parts = np.split(found, np.cumsum([value.numel() for value in at.values()])[:-1])
        return {name: torch.tensor(part).reshape(own[name].shape) for name, part in zip(at, parts, strict=True)}

    return information
