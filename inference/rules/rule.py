"""Rules: what is trained beside the optimizer, as an extension point of `fit`.

A `Rule` is declared before the fit, `fit(model, data, rules=[Budget(density=0.02)])`. `begin` makes one `ActiveRule` of
it for each restart, which sees the restart as a `Run`: it may move knobs and buffers before a step, values after it,
and replace the whole model where units leave. What only watches is a `Callback`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, ClassVar, Protocol, Self

import torch
import xarray as xr
from torch import Tensor, nn

from bayesprune.inference.guides.guide import Guide, GuideChoice
from bayesprune.inference.guides.slices import ParameterSlice
from bayesprune.inference.objective.expectation import Expectation
from bayesprune.inference.objective.objective import Objective, Terms
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["ActiveRule", "Change", "Collected", "Needs", "Rule", "Run", "Taken", "always", "never"]


class Change(Enum):
    """What a rule has changed: nothing, values of tensors in place, or the model, by `Run.replace`."""

    NOTHING = 0
    VALUES = 1
    MODEL = 2


def always(step: int) -> bool:
    """Every step."""
    return True


def never(step: int) -> bool:
    """No step."""
    return False


@dataclass(frozen=True)
class Needs:
    """What a rule needs of the steps.

    Attributes:
        plain: Why the steps have to be plain, as the end of a sentence; default empty: they may be fused.
        changing: Whether the rule will replace the model; graphs of it are then made anew, where that pays. Default
            False.
        weight_gradient: Whether the step of this number, from 1, is to give `Taken.weight_gradient`; default None: no
            step. Such a step is plain.
        batch: Whether it reads `Taken.x` or `.y` of the step of this number, from 1, which several processes
            exchange for it; default `always`.
    """

    plain: str = ""
    changing: bool = False
    weight_gradient: Callable[[int], bool] | None = None
    batch: Callable[[int], bool] = always


@dataclass(frozen=True)
class Taken:
    """A step that has been taken.

    Attributes:
        step: Its number, from 1.
        x: Its inputs, `(batch, ...)`; of several processes those of the first one's share.
        y: Its targets, of the same examples.
        terms: What it came to, in full-data nats, without a graph; of several processes the mean, but for outputs and
            weights.
        weight_gradient: Gradient of the loss divided by `data_size` with respect to the weights that the network ran
            with, after masks and gates, dense, `(out, in, ...)` by name of tensor with a prior; None where no rule
            asked for it. The loss depends on these by the likelihood alone: what the prior adds acts on the latents.
    """

    step: int
    x: Tensor
    y: Tensor
    terms: Terms
    weight_gradient: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Collected:
    """A network that a rule has kept while a restart was trained, to be a restart of the fit in its place.

    Attributes:
        model: The model, a copy.
        guide: Its guide.
        step: The step after which it was what the restart was, from 1.
        epoch: The epoch in which that was, from 1.
    """

    model: BayesianNetwork
    guide: Guide
    step: int
    epoch: int


class Run(Protocol):
    """What a rule sees of one restart, and may change.

    Attributes:
        objective: The objective; `.model` and `.guide` are what is trained.
        optimizer: The torch optimizer.
        restart: Number of the restart, from 0.
        steps: Steps in all.
        step: Steps done.
        epoch: Epochs done.
        kl_weight: Factor on the KL term in the last step.
        final_kl_weight: The same at the end of the fit.
        kl_warmup: Share of the steps over which it rises.
        rules: The rules at work, by name, once all of them have begun: before the first step.
        history: One dict an epoch: what the pruning trace will hold.
        iterates: One dict a recorded step: negative ELBO and scales.
        stop: Set it to True to end this restart after the current step.
        stop_reason: Why, in words.
    """

    objective: Objective
    optimizer: torch.optim.Optimizer
    restart: int
    steps: int
    step: int
    epoch: int
    kl_weight: float
    final_kl_weight: float
    kl_warmup: float
    rules: dict[str, ActiveRule]
    history: list[dict[str, Any]]
    iterates: list[dict[str, float]]
    stop: bool
    stop_reason: str

    def replace(
        self, model: BayesianNetwork, guide: Guide | None = None, for_good: bool = False
    ) -> tuple[Objective, torch.optim.Optimizer]:
        """Goes on with another model: makes and returns a fresh objective and optimizer for it.

        What was learned has to be copied by the rule, from the objective and the optimizer before. Executed graphs and
        learning rates follow.

        Args:
            model: The model.
            guide: Its guide; default None: a fresh one of the families that were asked for.
            for_good: Whether it will not be replaced again, so that all steps to come repay a graph; default False.
        """

    def learning_rate(self, parameter: nn.Parameter) -> Callable[[float], float]:
        """The optimizer's learning rate of a parameter at a share of the steps, in [0, 1].

        Args:
            parameter: One that is trained.

        Raises:
            ValueError: If it is not.
        """

    def slices(self, site: str) -> Sequence[tuple[nn.Parameter, ParameterSlice]]:
        """The guide's flat parameters in which a site lives, and where in each.

        A gradient and the tensors of ``optimizer.state[parameter]`` are laid out like the parameter.

        Args:
            site: Its name.

        Raises:
            ValueError: If there is no such site.
        """


class ActiveRule:
    """A rule at work in one restart; override what you need.

    Attributes:
        needs: What it needs of the steps.
        fixes_at: The step, from 1, after which it lets nothing leave or come back any more, so that a rule that steers
            what is left has to be done before; default None: it fixes nothing.
        moves: Keys of the knobs that it moves, ``"pattern.name"``; default none.
    """

    needs: Needs = Needs()
    fixes_at: int | None = None
    moves: Collection[str] = ()

    def before_step(self, step: int) -> None:
        """Called before the step of this number, from 1: sets knobs, masks, buffers."""

    def after_step(self, taken: Taken) -> Change:
        """Called after each optimizer step; says what it changed."""
        return Change.NOTHING

    def after_epoch(self) -> Change:
        """Called after each epoch, before its row of the history is made; says what it changed."""
        return Change.NOTHING

    def replaced(self) -> None:
        """Called when another rule has replaced the model: what was kept of its tensors is of no use any more."""

    def end(self) -> None:
        """Called after the last step of a restart, however it ended but for an error; may still change values.

        Once a restart: not again where a finished one is restored from a checkpoint.
        """

    def collected(self) -> Sequence[Collected]:
        """Networks that stand for the restart in the fit, in place of its last iterate; default: none.

        Asked for once a restart has ended, or was restored as it had. Each becomes a restart of the fit, with the trace
        up to its step.
        """
        return ()

    def row(self) -> Mapping[str, float | Mapping[str, float]]:
        """What joins the row of the epoch in the history, and TensorBoard: numbers, or numbers by name."""
        return {}

    def report(self) -> dict[str, Any]:
        """What the fit's settings say of this restart under the rule's name: what JSON can hold."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps, beside model, guide and optimizer: tensors, arrays, numbers and texts."""
        return {}

    def load_state_dict(self, kept: Mapping[str, Any]) -> None:
        """Takes over what `state_dict` returned; the run has the objective and the optimizer of then."""

    @classmethod
    def trace(cls, trace: xr.Dataset, rules: Sequence[Self]) -> xr.Dataset:
        """The pruning trace with what the rule recorded, of its restarts in order."""
        return trace


class Rule:
    """Base of rules; a subclass is a frozen dataclass, so that it checks itself, prints, and marks checkpoints.

    Attributes:
        name: Its key in `Fit.settings`, the checkpoint and the trace: of one word, each name once a fit.
        order: Rules of a lower number are called first, and end last; default 0. Of the same number they are called as
            they were given, and end in the opposite order.
        in_own_loops: Whether it works in a loop of one's own too (`Record`), which tells neither how many steps there
            are nor inputs and targets: `Taken.x` and `.y` are empty there. Default False.
    """

    name: ClassVar[str] = ""
    order: ClassVar[int] = 0
    in_own_loops: ClassVar[bool] = False

    def check(self, model: BayesianNetwork, options: Mapping[str, Any]) -> None:
        """Refuses what does not go together, before anything is trained.

        Args:
            model: The model.
            options: The options of the fit by name.

        Raises:
            ValueError: In one sentence.
        """

    def training(self, model: BayesianNetwork, guide: GuideChoice) -> Mapping[str, Any]:
        """Options of a fit that it asks for where none are given: optimizer, learning rate, schedule; default none.

        They go before those that priors ask for, those of rules of a lower `order`, and of later ones of the same.

        Args:
            model: The model.
            guide: As `fit` takes it.
        """
        return {}

    def prepare(self, model: BayesianNetwork, example: Tensor) -> None:
        """Puts what it needs into the model of a restart, IN PLACE, before a guide is made of it; default: nothing.

        Such as ways between weights and network. Random numbers are torch's, seeded by the restart. A fit that is
        resumed is prepared anew, and goes on with what was kept. A way that it adds is made again with a saved fit
        where its class is `rebuilt`.

        Args:
            model: The model, a copy of the one that was handed in.
            example: One input, `(1, ...)`.
        """

    def expectation(self, guide: Guide) -> Expectation | None:
        """How the data term is averaged in a fit with this rule; default None: as the model's ways ask for.

        Args:
            guide: The guide; its model is known to it.
        """
        return None

    def begin(self, run: Run) -> ActiveRule:
        """Makes what is at work in one restart, before its first step.

        Args:
            run: The restart.
        """
        raise NotImplementedError(f"{type(self).__name__} does not say what is at work in a restart: override begin")
