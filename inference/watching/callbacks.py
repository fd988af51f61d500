"""Callbacks: the extension point through which anything may watch a fit; what steers it is a `Rule`."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import nn

from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.guides.slices import ParameterSlice
from bayesprune.inference.objective.objective import Objective, Terms
from bayesprune.inference.rules.rule import ActiveRule, Rule
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.renamed_arguments import warn_of_old_name
from bayesprune.models.checks.shown_values import shown

_CALLBACK = ("on_fit_start", "on_step", "on_epoch", "on_fit_end")


@dataclass
class FitState:
    """What a callback or a stopping rule sees, and may change, during one restart.

    Attributes:
        objective: The objective, with `.model` and `.guide`; a callback may change their parameters in place.
        optimizer: The torch optimizer; None in a loop of one's own that does not tell.
        restart: Number of the restart, from 0.
        restarts: How many there are.
        epochs: Epochs in all; 0 in a loop of one's own (`Record`), which does not tell.
        steps: Steps in all; 0 likewise.
        epoch: Epochs done.
        step: Steps done.
        kl_weight: Weight of the KL term in the last step.
        terms: Terms of the last step, in full-data nats.
        history: One dict an epoch: what the pruning trace will hold.
        iterates: One dict a recorded step: negative ELBO and scales.
        stop: Set it to True to end this restart after the current step.
        stop_reason: Why, in words; empty where nobody said.
        kl_warmup: Share of the steps over which the KL weight rises.
        final_kl_weight: Weight of the KL term at the end of the fit.
        rules: The rules at work, by name, with what they have recorded so far.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    restart: int
    restarts: int
    epochs: int
    steps: int
    epoch: int = 0
    step: int = 0
    kl_weight: float = 1.0
    terms: Terms | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    iterates: list[dict[str, float]] = field(default_factory=list)
    stop: bool = False
    stop_reason: str = ""
    kl_warmup: float = 0.0
    final_kl_weight: float = 1.0
    rules: dict[str, ActiveRule] = field(default_factory=dict)

    def replace(
        self, model: BayesianNetwork, guide: Guide | None = None, for_good: bool = False
    ) -> tuple[Objective, torch.optim.Optimizer]:
        """See `Run.replace`, which a loop of one's own does not know.

        Raises:
            ValueError: In a loop of one's own.
        """
        raise ValueError("a loop of one's own keeps its model: use fit, which goes on with another one")

    def learning_rate(self, parameter: nn.Parameter) -> Callable[[float], float]:
        """The learning rate of a parameter; see `Run.learning_rate`. In a loop of one's own, the one that it has now.

        Args:
            parameter: One that is trained.

        Raises:
            ValueError: If it is not.
        """
        rate = float(self.optimizer.param_groups[self._group(parameter)]["lr"])
        return lambda share: rate

    def _group(self, parameter: nn.Parameter) -> int:
        """Number of the optimizer's group that a parameter is in."""
        for number, group in enumerate(self.optimizer.param_groups):
            if any(one is parameter for one in group["params"]):
                return number
        raise ValueError("this parameter is in no group of the optimizer: ask for one that is trained")

    def slices(self, site: str) -> tuple[tuple[nn.Parameter, ParameterSlice], ...]:
        """The guide's flat parameters in which a site lives, and where in them; see `Run.slices`.

        Args:
            site: Its name.

        Raises:
            ValueError: If there is no such site.
        """
        families = cast(Iterable[Family], self.objective.guide.families)
        found = tuple(
            (family.get_parameter(piece.parameter), piece)
            for family in families
            for piece in family.slices()
            if piece.site.name == site
        )
        if not found:
            known = ", ".join(self.objective.model.sites)
            raise ValueError(f"there is no site {site!r} in the guide: its sites are {known}")
        return found


class Callback:
    """Base of callbacks; override what you need. Each gets the `FitState`.

    Attributes:
        is_resumable: Whether a fit may go on from a checkpoint with it, in a new process: it remembers nothing that the
            fit depends on and that is not in the `FitState` of `on_fit_start`. Default False.
    """

    is_resumable: bool = False

    def on_fit_start(self, state: FitState) -> None:
        """Called before the first step of a restart."""

    def on_step(self, state: FitState) -> None:
        """Called after each optimizer step."""

    def on_epoch(self, state: FitState) -> None:
        """Called after each epoch, when its row of the history is complete."""

    def on_fit_end(self, state: FitState) -> None:
        """Called after the last step of a restart."""


def checked_steering(callbacks: Any, rules: Any) -> tuple[list[Callback], list[Rule]]:
    """Returns callbacks and rules as lists.

    A rule among the callbacks is taken as one for one release, with a `FutureWarning`: `IterateAverage` was a callback.

    Raises:
        ValueError: If they are no sequences, one is not what it is to be, or two rules have one name.
    """
    given, watchers = list(_listed("rules", "Rules", rules)), []
    for one in _listed("callbacks", "Callbacks", callbacks):
        if isinstance(one, Rule):
            name = type(one).__name__
            warn_of_old_name(f"callbacks=[{name}(...)]", f"rules=[{name}(...)]", stacklevel=7)
            given.append(one)
        elif isinstance(one, type) or not all(callable(getattr(one, name, None)) for name in _CALLBACK):
            raise ValueError(
                f"callbacks= takes Callbacks, not {shown(one)}: derive its class from Callback, and call it"
            )
        else:
            watchers.append(one)
    for number, one in enumerate(given):
        if not isinstance(one, Rule) or not one.name:
            raise ValueError(
                f"rules= takes Rules with a name, not {shown(one)}: derive its class from Rule, and call it"
            )
        if one.name in [each.name for each in given[:number]]:
            raise ValueError(f"rules= has two rules called {one.name!r}: give one of them")
    return watchers, given


def _listed(what: str, kinds: str, given: Any) -> list[Any]:
    if not isinstance(given, Iterable):
        one = kinds.removesuffix("s").lower()
        raise ValueError(f"{what}= takes a sequence of {kinds}, not {shown(given)}: write [{one}]")
    return list(given)
