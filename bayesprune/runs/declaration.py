"""What a run fits, by name: network, prior, patterns and likelihood, from which the model is made again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bayesprune.data.files import are_no_classes
from bayesprune.data.sets import DataSplits
from bayesprune.inference.objective.unit_gate_estimators import estimator_named
from bayesprune.inference.search.history import found_genome
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.size_bounds import (
    MOST_DATA,
    checked_count,
    checked_input_shape,
    checked_settings,
    checked_width,
)
from bayesprune.models.costs.weight_names import weight_names
from bayesprune.models.gates.unit_gates import UnitGates
from bayesprune.models.genomes.genome_network import GENOME
from bayesprune.models.language.hierarchy import Hierarchy
from bayesprune.models.likelihoods.names import LIKELIHOODS, likelihood_class
from bayesprune.models.networks.changed_networks import changed_network
from bayesprune.models.networks.placing import zeros_for
from bayesprune.models.priors.ready import PRIORS, make_prior
from bayesprune.models.ready_networks import NETWORKS, OF_TOKENS, make_ready, network_from_config
from bayesprune.models.structure.graph_network import GRAPH
from bayesprune.runs.code_trust import CodeTrust, absolute, allowed_code, is_code
from bayesprune.runs.own_networks import complete_settings, own_network
from bayesprune.runs.prior_files import load_prior
from bayesprune.runs.starting_weights import StartingWeights

__all__ = ["UNIT_GATES", "Declaration", "checked_parts", "declare", "make_network", "resolve_prior", "with_parts"]

UNIT_GATES = "unit-gates"
"""The one ready prior that is not on tensors but on the units of the network."""
_LATER = ("width", "network_settings", "network_parts")
"""Attributes that earlier versions did not write."""
_WEIGHT_SCALES = {"weight_scale": 0.3}
"""What unit gates took that were declared without this setting before it was always written."""


@dataclass(frozen=True)
class Declaration:
    """A model by names and numbers, which JSON holds.

    Attributes:
        network: A name in `NETWORKS`, or `MODULE:NAME`.
        prior: A name in `PRIORS`, or `FILE.py:NAME`.
        input_shape: Shape of one input.
        outputs: Outputs of the network: classes, or numbers to predict.
        data_size: Number of training data.
        likelihood: A name in `LIKELIHOODS`.
        on: Patterns of the parameters that get the prior; none with gates of units.
        prior_settings: Settings of the prior.
        width: Multiplies the widths of the network's hidden layers.
        network_settings: Arguments by name of a network of one's own.
        network_parts: What a recipe changes of the network: ``shared_blocks``, ``dyrelu`` (`changed_network`).
    """

    network: str
    prior: str
    input_shape: tuple[int, ...]
    outputs: int
    data_size: int
    likelihood: str
    on: tuple[str, ...] = ("*.weight",)
    prior_settings: dict[str, Any] = field(default_factory=dict)
    width: float = 1.0
    network_settings: dict[str, Any] = field(default_factory=dict)
    network_parts: dict[str, Any] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """The attributes, as JSON takes them."""
        return {**asdict(self), "input_shape": list(self.input_shape), "on": list(self.on)}

    @staticmethod
    def from_dict(
        found: Mapping[str, Any], trust: CodeTrust | None = None, where: str | Path = "the declaration"
    ) -> Declaration:
        """Makes it again from a mapping that holds what `as_dict` returned, among other things, whoever wrote it.

        Args:
            found: The mapping, as JSON holds it.
            trust: What code of the user's own may be run; default none.
            where: The file that it comes from, for messages.

        Raises:
            CodeNotTrusted: If it names code that `trust` does not allow.
            ValueError: In one sentence, if something is missing, of another type or out of the bounds of
                `bayesprune.models.checks.size_bounds`.
        """
        names = Declaration.__dataclass_fields__
        missing = [name for name in names if name not in found and name not in _LATER]
        if missing:
            raise ValueError(f"{where} is damaged: it lacks {', '.join(missing)}")
        try:
            made = Declaration(
                network="",
                prior="",
                input_shape=checked_input_shape(found["input_shape"]),
                outputs=checked_count(found["outputs"], "outputs"),
                data_size=checked_count(found["data_size"], "data_size", MOST_DATA),
                likelihood=_likelihood_name(found["likelihood"]),
                on=_pattern_names(found["on"]),
                prior_settings=checked_settings(found["prior_settings"], "prior_settings"),
                width=checked_width(found.get("width", 1.0)),
                network_settings=checked_settings(found.get("network_settings", {}), "network_settings"),
                network_parts=checked_parts(found.get("network_parts", {})),
            )
        except ValueError as problem:
            raise ValueError(f"{where} is damaged ({problem}): make it again, or restore it") from problem
        allowed = allowed_code(found, trust or CodeTrust(), where)
        settings = (_WEIGHT_SCALES if allowed["prior"] == UNIT_GATES else {}) | made.prior_settings
        return replace(made, network=allowed["network"], prior=allowed["prior"], prior_settings=settings)

    def model(
        self,
        seed: int = 0,
        weights: StartingWeights | str | Path | None = None,
        fitted: Mapping[str, Any] | None = None,
    ) -> BayesianNetwork:
        """Makes the model; the global random state is left as it was.

        Args:
            seed: Of the network's starting weights, and of its graph where it is of a random one.
            weights: A trained network's state dict, or its file (`StartingWeights`); default None.
            fitted: The config of the network of a saved fit, which has the graph that was drawn for it; default None.

        Raises:
            ValueError: If something named does not exist or does not fit.
        """
        prior = resolve_prior(self.prior, self.prior_settings, self.data_size)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            if fitted is not None and GRAPH in fitted:
                network = network_from_config(fitted)
            else:
                network = make_network(self.network, self.input_shape, self.outputs, self.width, self.network_settings)
            network = with_parts(network, self.network_parts, self.input_shape)
        if weights is not None:
            StartingWeights.of(weights).load_into(network, self.input_shape)
        likelihood = likelihood_class(self.likelihood)()
        if isinstance(prior, UnitGates):
            example = zeros_for(network, self.input_shape)
            return BayesianNetwork(network, {}, likelihood, self.data_size, gates=prior, example_input=example)
        return BayesianNetwork(network, dict.fromkeys(self.on, prior), likelihood, data_size=self.data_size)


def declare(
    splits: DataSplits,
    network: str,
    prior: str,
    settings: Mapping[str, Any] | None = None,
    on: tuple[str, ...] | None = None,
    likelihood: str | None = None,
    width: float = 1.0,
    network_settings: Mapping[str, Any] | None = None,
    network_parts: Mapping[str, Any] | None = None,
) -> Declaration:
    """Declares a model for a data set.

    Args:
        splits: The data.
        network: A name in `NETWORKS`, or `MODULE:NAME`.
        prior: A name in `PRIORS`, or `FILE.py:NAME`; a file is remembered by its absolute path.
        settings: Settings of the prior; default none.
        on: Patterns of the parameters that get the prior; default ``"*.weight"``, without the scales of
            normalisation layers.
        likelihood: A name in `LIKELIHOODS`; default ``"categorical"`` for labels, else ``"normal"``.
        width: Multiplies the widths of the network's hidden layers; default 1.
        network_settings: Arguments by name of a network of one's own; default none. A network of torchvision is told
            the number of classes besides.
        network_parts: What is changed of the network (`with_parts`); default nothing.

    Raises:
        ValueError: If the likelihood is unknown or does not go with the targets, labels are plainly no classes,
            patterns are given for gates of units, or a size or setting is out of the bounds of
            `bayesprune.models.checks.size_bounds`.
    """
    if on is not None and prior == UNIT_GATES:
        raise ValueError(
            f"the prior {UNIT_GATES} is on all units, and on the weights that make or read them: leave out --on"
        )
    width = checked_width(width)
    chosen = likelihood or ("categorical" if splits.classes is not None else "normal")
    if chosen not in LIKELIHOODS:
        raise ValueError(f"likelihood {chosen!r} is unknown: expected one of {', '.join(LIKELIHOODS)}")
    targets = splits.train[1]
    if chosen == "categorical":
        if splits.classes is None:
            raise ValueError(
                f"the targets of {splits.name} are numbers, which have no classes: use likelihood 'normal'"
            )
        if are_no_classes(targets.numpy(), splits.classes):
            raise ValueError(
                f"the largest label in {splits.name} is {splits.classes - 1}, but there are {len(targets.unique())} "
                f"different ones, so that nearly all of {splits.classes} classes would have no example: number the "
                "classes from 0 up without gaps, or say likelihood 'poisson' for counts"
            )
        outputs = splits.classes
    else:
        outputs = likelihood_class(chosen).outputs_for(int(targets.shape[1]) if targets.ndim == 2 else 1)
    if network in (*NETWORKS, GENOME) and network not in OF_TOKENS and not splits.train[0].is_floating_point():
        raise ValueError(
            f"{splits.name} is sequences of tokens, whole numbers, and {network} reads measurements: take one of "
            f"{', '.join(OF_TOKENS)}"
        )
    given = checked_settings(network_settings or {}, "--network-set")
    settings, parts = dict(settings or {}), checked_parts(network_parts or {})
    if prior == UNIT_GATES:  # written down, as its default has been another one
        settings.setdefault("weight_scale", PRIORS[prior].settings["weight_scale"])
    if network == GENOME and isinstance(given.get(GENOME), str):  # the place of one, which is kept itself
        given = {**given, GENOME: found_genome(given[GENOME]).as_dict()}
    if is_code(network):
        given = complete_settings(network, given, outputs)
    return Declaration(
        network=absolute(network),
        prior=absolute(prior),
        input_shape=checked_input_shape(splits.input_shape),  # told now, as it would be refused on loading
        outputs=checked_count(outputs, "outputs"),
        data_size=len(targets),
        likelihood=chosen,
        on=_patterns(prior, network, splits.input_shape, outputs, given, parts) if on is None else tuple(on),
        prior_settings=checked_settings(settings, "settings"),
        width=width,
        network_settings=given,
        network_parts=parts,
    )


def checked_parts(value: Any) -> dict[str, Any]:
    """Returns what is changed of a network, as a file has it.

    Raises:
        ValueError: If it is something else than ``shared_blocks``, a whole number, and ``dyrelu``, true or false.
    """
    found = checked_settings(value, "network_parts")
    if not set(found) <= {"shared_blocks", "dyrelu"} or not isinstance(found.get("dyrelu", False), bool):
        raise ValueError("network_parts are shared_blocks, a whole number, and dyrelu, true or false")
    if "shared_blocks" in found:
        checked_count(found["shared_blocks"], "shared_blocks")
    return found


def with_parts(network: nn.Module, parts: Mapping[str, Any], input_shape: tuple[int, ...]) -> nn.Module:
    """A network with what a recipe changes of it; the network itself where that is nothing.

    Args:
        network: The network.
        parts: Arguments of `changed_network`: ``shared_blocks``, ``dyrelu``.
        input_shape: Shape of one input.

    Raises:
        ValueError: If the network cannot be changed so.
    """
    return changed_network(network, **parts, example_input=zeros_for(network, input_shape, 2)) if parts else network


def _patterns(
    prior: str,
    network: str,
    input_shape: tuple[int, ...],
    outputs: int,
    settings: Mapping[str, Any],
    parts: Mapping[str, Any],
) -> tuple[str, ...]:
    """The pattern of all weights; where it would match scales of normalisation or embeddings too, weights by name."""
    if prior == UNIT_GATES:
        return ()
    with torch.random.fork_rng(devices=[]):
        made = with_parts(make_network(network, input_shape, outputs, settings=settings), parts, input_shape)
    if parts:
        return weight_names(made)
    parameters = dict(made.named_parameters())
    matched = {name: parameter.ndim for name, parameter in parameters.items() if name.endswith(".weight")}
    if not matched and "weight" in parameters:  # a bare layer, whose names have no dot
        return ("weight",)
    tables = {f"{name}.weight" for name, module in made.named_modules() if isinstance(module, nn.Embedding)}
    if min(matched.values(), default=2) >= 2 and not tables:
        return ("*.weight",)
    return tuple(name for name, ndim in matched.items() if ndim >= 2 and name not in tables)


def resolve_prior(prior: str, settings: Mapping[str, Any], data_size: int) -> Hierarchy | UnitGates:
    """Makes the prior of that name; `data_size` is filled in where a ready prior asks for it.

    Raises:
        ValueError: If the prior or a setting is unknown, or one is out of range.
    """
    if is_code(prior):
        return load_prior(prior, settings)
    if prior.endswith(".py"):
        raise ValueError(f"{prior} names a file, but no prior in it: write {prior}:NAME")
    given = dict(settings)
    if prior in PRIORS and "data_size" in PRIORS[prior].settings:
        given.setdefault("data_size", data_size)
    made = make_prior(prior, **given)
    if isinstance(made, UnitGates):
        estimator_named(made.estimator)
    return made


def make_network(
    name: str,
    input_shape: tuple[int, ...],
    outputs: int,
    width: float = 1.0,
    settings: Mapping[str, Any] | None = None,
) -> nn.Module:
    """Makes the network of that name.

    Args:
        name: A name in `NETWORKS`; or `MODULE:NAME` (or `FILE.py:NAME`), a function of `(input_shape, outputs)`
            or of nothing that returns an `nn.Module`, or a module itself: see `bayesprune.runs.own_networks`; or
            ``"genome"``, with the genome among the settings.
        input_shape: Shape of one input.
        outputs: Outputs that are needed.
        width: Multiplies the widths of the hidden layers of a network in `NETWORKS`; default 1.
        settings: Arguments by name of a function of one's own; default none.

    Raises:
        ValueError: If the name is unknown, or is no network, or the width or a setting cannot be had.
    """
    if name == GENOME:
        if set(settings or {}) != {GENOME}:
            raise ValueError(
                f"network {GENOME} takes --network-set {GENOME}=PLACE, of a search or a file, and no other"
            )
        return make_ready(name, input_shape, outputs, width, genome=(settings or {})[GENOME])
    if name in NETWORKS:
        if settings:
            raise ValueError(f"--network-set is for networks of one's own, MODULE:NAME, not for {name}: leave it out")
        return make_ready(name, input_shape, outputs, width)
    if not is_code(name):
        raise ValueError(
            f"network {name!r} is unknown: expected one of {', '.join(NETWORKS)}, {GENOME}, or MODULE:NAME"
        )
    if width != 1:
        raise ValueError(f"--width is for networks that are known by name, not for {name}: set its widths there")
    return own_network(name, input_shape, outputs, settings)


def _likelihood_name(found: Any) -> str:
    """The name of a likelihood that a file holds, by itself or with its settings."""
    name = found.get("name") if isinstance(found, Mapping) else found
    if not isinstance(name, str) or name not in LIKELIHOODS:
        raise ValueError(f"the likelihood is unknown, expected one of {', '.join(LIKELIHOODS)}")
    return name


def _pattern_names(found: Any) -> tuple[str, ...]:
    if not isinstance(found, (list, tuple)) or not all(isinstance(pattern, str) for pattern in found):
        raise ValueError("on is no list of patterns")
    return tuple(found)
