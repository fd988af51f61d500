"""Warm starts: a restart of a fit begins where an earlier one ended."""

from __future__ import annotations

from torch import nn

from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.guide import Guide
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["begin_at"]


def begin_at(start: Fitted, restart: int, model: BayesianNetwork, guide: Guide) -> None:
    """Copies guide, point estimates and buffers of a restart of an earlier fit into a model and a guide, IN PLACE.

    Args:
        start: The earlier fit; it is left as it was. Its device and precision may differ.
        restart: Which of its restarts.
        model: The model that is to be fitted.
        guide: Its guide.

    Raises:
        ValueError: If the two differ in a site, its shape or its guide family, or in a tensor of the network or the
            likelihood; the first difference is named.
    """
    earlier = start.restarts[restart]
    _compare("sites", _sites(earlier.model, earlier.guide), _sites(model, guide))
    pairs: list[tuple[str, nn.Module, nn.Module]] = [
        ("tensors of the network", earlier.model.network, model.network),
        ("tensors of the likelihood", earlier.model.likelihood, model.likelihood),
        ("tensors of the guide", earlier.guide, guide),
        ("tensors of ways", earlier.model.ways, model.ways),
    ]
    for what, source, target in pairs:
        _compare(what, _shapes(source), _shapes(target))
    for _, source, target in pairs:
        target.load_state_dict(source.state_dict())


def _sites(model: BayesianNetwork, guide: Guide) -> dict[str, str]:
    return {name: f"{guide.family_of[name]} {tuple(site.shape)}" for name, site in model.sites.items()}


def _shapes(module: nn.Module) -> dict[str, str]:
    return {name: str(tuple(value.shape)) for name, value in module.state_dict().items()}


def _compare(what: str, earlier: dict[str, str], now: dict[str, str]) -> None:
    for name in {**earlier, **now}:
        if earlier.get(name) != now.get(name):
            raise ValueError(
                f"start= is a fit of another structure: of its {what}, {name} is {earlier.get(name, 'not there')}, but "
                f"{now.get(name, 'not there')} in the model to be fitted; start from a fit of the same network, "
                "latents and guide"
            )
    if list(earlier) != list(now):  # guides keep their sites in one vector, in this order
        raise ValueError(f"start= is a fit with its {what} in another order: declare the priors in the same order")
