"""The model that fit.json declares by the names of ready networks, priors and likelihoods, checked as it is read."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.size_bounds import MOST_DATA, checked_count, checked_settings
from bayesprune.models.gates.network_gates import NetworkGates
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.likelihoods.names import LIKELIHOODS
from bayesprune.models.masks import mask_way as mask_way  # registers
from bayesprune.models.priors.ready import from_config
from bayesprune.models.ready_networks import network_from_config
from bayesprune.models.structure.structure_masks import StructureMasks
from bayesprune.models.ways.rebuilt import is_rebuilt

__all__ = ["code_of_ones_own", "declared_model"]


def code_of_ones_own(declared: Mapping[str, Any]) -> str | None:
    """What of a declaration is code of the user's own, in words; None where everything has a name of ours.

    Args:
        declared: The content of fit.json.

    Raises:
        ValueError: If it does not say what the priors are.
    """
    own = [pattern for pattern, saved in _priors(declared).items() if saved.get("config") is None]
    if own:
        return f"the prior on {own[0]}"
    if declared.get("network") is None:
        return "the network"
    likelihood = declared.get("likelihood")
    name = likelihood.get("name") if isinstance(likelihood, Mapping) else None
    if isinstance(name, str) and name not in LIKELIHOODS:
        return f"the likelihood {name!r}"
    declares = (NetworkGates.name, StructureMasks.name)  # one is declared, one comes with the network
    ways = [way for way in declared.get("ways", {}) if way not in declares and not is_rebuilt(way)]
    return f"{ways[0]!r} between weights and network" if ways else None


def declared_model(declared: Mapping[str, Any]) -> BayesianNetwork:
    """Makes the model of a declaration none of which is code of the user's own; it is named, never imported.

    Args:
        declared: The content of fit.json, whoever wrote it: ``network``, ``priors``, ``likelihood``, ``data_size`` and,
            where units have gates, ``gates``.

    Returns:
        The model, its network with random weights.

    Raises:
        ValueError: In one sentence, if something is missing, of another type, out of bounds or unknown.
    """
    network = network_from_config(declared.get("network"))
    priors = {pattern: from_config(saved.get("config")) for pattern, saved in _priors(declared).items()}
    likelihood = Likelihood.from_config(declared.get("likelihood", {}))
    data_size = checked_count(declared.get("data_size"), "data_size", MOST_DATA)
    try:
        return BayesianNetwork(network, priors, likelihood, data_size, _gates(declared.get("gates")))
    except (TypeError, ArithmeticError) as problem:
        raise ValueError(f"the declaration cannot be made again ({problem})") from problem


def _priors(declared: Mapping[str, Any]) -> Mapping[str, Mapping[str, Any]]:
    priors = declared.get("priors")
    if not isinstance(priors, Mapping) or not all(isinstance(saved, Mapping) for saved in priors.values()):
        raise ValueError("priors is no mapping of patterns to priors")
    return priors


def _gates(config: Any) -> UnitGates | None:
    if config is None:
        return None
    if not isinstance(config, Mapping) or config.get("name") != "UnitGates":
        raise ValueError("gates is not what the config of UnitGates returned")
    try:
        return UnitGates(**checked_settings(config.get("arguments"), "gates"))
    except (TypeError, ArithmeticError) as problem:
        raise ValueError(f"an argument of UnitGates is of the wrong type ({problem})") from problem
