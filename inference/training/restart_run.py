"""One restart of a fit while it is trained: its steps, what rules do beside them, and what is recorded."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from bayesprune.inference.data.kept_inputs import KeptInputs
from bayesprune.inference.data.raw_inputs import standardising_helps
from bayesprune.inference.data.trainable_batch import NothingTrainableError, TrainableBatches
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.guides.guide import Guide, GuideChoice
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.predictions.validation_scores import validation_scores
from bayesprune.inference.rules.rule import ActiveRule, Change, Rule, Taken
from bayesprune.inference.rules.schedules import scaled, schedule_named, warmup
from bayesprune.inference.runtime.random_state import random_state, set_random_state
from bayesprune.inference.runtime.runtime import Runtime
from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.inference.training.step_sums import StepSums
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.inference.watching.progress import Progress
from bayesprune.inference.watching.pruning_trace import inclusion_record, kl_by_tensor, scale_record
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.networks.evaluation_mode import begin_training

__all__ = ["Plan", "RestartRun"]

ITERATES = 1000
"""About how many iterates of the ELBO and the scales a fit records."""


@dataclass(frozen=True)
class Plan:
    """What all restarts of a fit have in common.

    Attributes:
        options: The options of the fit, its KL weight decided.
        guide: The guide that was asked for.
        rules: The rules.
        runtime: Where it runs.
        steps: Steps in all.
        passes: Passes over the data that they are.
        validation: `(x, y)` scored after each epoch, or None.
        watchers: Callbacks.
        stop: A rule that is asked after each epoch, or None.
    """

    options: FitOptions
    guide: GuideChoice
    rules: Sequence[Rule]
    runtime: Runtime
    steps: int
    passes: int
    validation: tuple[Tensor, Tensor] | None
    watchers: Sequence[Callback]
    stop: Callable[[FitState], bool] | None


class KeepsState(Protocol):
    """What keeps the state of a restart between epochs.

    Attributes:
        finished: Whether the restart had been finished before.
    """

    finished: bool

    def restore_random_state(self) -> None:
        """Sets the random states to those of the last kept epoch."""

    def write(self, run: RestartRun, finished: bool = False) -> None:
        """Keeps the restart as it stands."""


class RestartRun(FitState):
    """The owner of one restart: model, guide, objective, optimizer, stepper and rules.

    Args:
        plan: What it shares with the other restarts.
        number: Its number, from 0.
        model: The model, which is trained in place.
        guide: Its guide.
        kl_warmup: Share of the steps over which the KL weight rises.

    Attributes:
        stepper: What takes its steps.
        has_ended: Whether rules have had their last word, now or before an interruption.
    """

    def __init__(self, plan: Plan, number: int, model: BayesianNetwork, guide: Guide, kl_warmup: float) -> None:
        self.plan, self.runtime = plan, plan.runtime
        objective, optimizer = self._made(model, guide)
        super().__init__(
            objective, optimizer, number, plan.options.restarts, plan.passes, plan.steps, kl_warmup=kl_warmup
        )
        assert plan.options.kl_weight is not None
        self.final_kl_weight = plan.options.kl_weight
        self._rate = schedule_named(plan.options.schedule, plan.passes)
        self._kl = scaled(warmup(kl_warmup), self.final_kl_weight)
        self._base_rates = [group["lr"] for group in optimizer.param_groups]
        self._sums, self._every = StepSums(), max(1, plan.steps // ITERATES)
        self._watchers = plan.watchers if plan.runtime.rank == 0 else ()
        # What a watcher may stop within an epoch, all processes have to hear of, also those that were given none; a
        # progress line stops nothing.
        stopping = [one for one in plan.watchers if not isinstance(one, Progress)]
        asks = any(type(one).on_step is not Callback.on_step for one in stopping)
        self._asks = plan.runtime.world > 1 and plan.runtime.agreed(asks)
        self.has_ended = False
        self.rules = {rule.name: rule.begin(self) for rule in sorted(plan.rules, key=lambda one: one.order)}
        self.stepper = self._stepper(plan.options.execution, plan.options.compiled, "it was asked for")

    def go_on_as(self, report: ExecutionReport) -> None:
        """Has the steps executed as before an interruption; of a model that changes it is asked again what pays."""
        if any(rule.needs.changing for rule in self.rules.values()):
            self.stepper = self._stepper(self.plan.options.execution, self.plan.options.compiled, report.reason)
        else:
            self.stepper = self._stepper(report.name, report.compiled, report.reason)
        self.stepper.report = report

    def replace(
        self, model: BayesianNetwork, guide: Guide | None = None, for_good: bool = False
    ) -> tuple[Objective, torch.optim.Optimizer]:
        """See `Run.replace`."""
        self.objective, self.optimizer = self._made(model, Guide(model, self.plan.guide) if guide is None else guide)
        self._base_rates = [group["lr"] for group in self.optimizer.param_groups]  # a group may have left
        if hasattr(self, "stepper"):  # a rule may replace it as it begins
            self.stepper.go_on_with(self.objective, self.optimizer, for_good)
        return self.objective, self.optimizer

    def learning_rate(self, parameter: nn.Parameter) -> Callable[[float], float]:
        """See `Run.learning_rate`."""
        base, schedule = self._base_rates[self._group(parameter)], self._rate
        return lambda share: base * schedule(share)

    def train(self, data: KeptInputs, point: KeepsState | None = None) -> None:
        """Takes the steps of the restart until they are done or something ends it.

        Args:
            data: The training data.
            point: What keeps its state between epochs, and has restored it; default None: nothing.

        Raises:
            NonFiniteLossError: If the loss becomes NaN or infinite.
            ValueError: If no batch can be trained on, or a callback stops it before the first step.
        """
        begin_training(self.objective.model.network, self.objective)
        for watcher in self._watchers:
            watcher.on_fit_start(self)
        if self.runtime.world > 1:
            self._agree_to_stop()
        if point is not None:
            point.restore_random_state()
        try:
            trainable = TrainableBatches()
            while self.step < self.steps and not self.stop and self._take_epoch(data, trainable):
                if point is not None and not self.stop and self.step < self.steps:
                    point.write(self)
            self._end()
        finally:
            self._set_progress(1.0)
            self.stepper.finish()
            for watcher in self._watchers:
                watcher.on_fit_end(self)
            self.objective.eval()
        if self.step == 0:
            raise ValueError("a callback stopped the fit before the first step: set state.stop in on_step or later")
        if not self.iterates:
            self._record_iterate()
        if point is not None and not point.finished:
            point.write(self, finished=True)

    def take_step(self, x: Tensor, y: Tensor, weight: float = 1.0) -> Taken:
        """Takes one step, with what rules do before and after it.

        Args:
            x: Inputs, `(batch, ...)`.
            y: Targets.
            weight: Factor on the likelihood of these examples, of several processes; see `Stepper.step`. Default 1.
        """
        share, number, rules = self.step / self.steps, self.step + 1, tuple(self.rules.values())
        for group, rate in zip(self.optimizer.param_groups, self._base_rates, strict=True):
            group["lr"] = rate * self._rate(share)
        self.kl_weight = self._kl(share)
        self._set_progress(share)
        for rule in rules:
            rule.before_step(number)
        wanted = any(rule.needs.weight_gradient is not None and rule.needs.weight_gradient(number) for rule in rules)
        gradient: dict[str, Tensor] | None = None
        try:
            if wanted:
                terms, gradient = self.stepper.step(x, y, self.kl_weight, weight_gradient=True, weight=weight)
            else:
                terms = self.stepper.step(x, y, self.kl_weight, weight=weight)
        except Exception:
            self._read(x)  # an unread step that was not finite is the cause
            raise
        self.step, self.terms = number, terms
        self._sums.add(number, self.kl_weight, terms)
        if self.runtime.world > 1 and any(rule.needs.batch(number) for rule in rules):
            x, y = self._of_first(x, y)
        taken = Taken(number, x, y, terms, gradient)
        if self.step // self._every > (self.step - 1) // self._every or not self._sums.waits:
            self._read(x)
        for rule in rules:
            self._tell(rule, rule.after_step(taken))
        return taken

    # -- inside ----------------------------------------------------------------------------------------------

    def _made(self, model: BayesianNetwork, guide: Guide) -> tuple[Objective, torch.optim.Optimizer]:
        options = self.plan.options
        gradient = Gradient(
            options.particles,
            options.gate_estimator,
            sticking_the_landing=options.sticking_the_landing,
            local_reparameterisation=options.local_reparameterisation,
            autocast=self.runtime.autocast,
        )
        asked = [found for rule in self.plan.rules if (found := rule.expectation(guide)) is not None]
        objective = Objective(model, guide, gradient, asked[0] if asked else None)
        rate = options.learning_rate
        assert rate is not None  # `settled_training` has filled it in
        optimizer = make_optimizer(options.optimizer, objective, rate)
        self.runtime.setup(objective, optimizer)
        return objective, optimizer

    def _stepper(self, execution: str, compiled: bool | None, why: str) -> Stepper:
        reasons = [rule.needs.plain for rule in self.rules.values() if rule.needs.plain]
        reasons += [self.runtime.plain] if self.runtime.plain else []
        if reasons:
            execution, compiled, why = "plain", None, reasons[0]
        changing = any(rule.needs.changing for rule in self.rules.values())
        how = (execution, compiled, self.plan.options.clip, why, changing)
        return Stepper(self.objective, self.optimizer, self.steps, *how, runtime=self.runtime)

    def _take_epoch(self, data: KeptInputs, trainable: TrainableBatches) -> bool:
        """Takes the steps of one pass; returns False where the last step fell on a batch that was left out."""
        clock, share = time.perf_counter(), 0.0
        self._sums.begin_epoch()
        for x, y in data.passing():
            if not trainable(self.objective.model.network, x):
                self.step += 1  # it counts, so that a pass has as many steps for every loader
                if self.step >= self.steps:
                    break
                continue
            share = self.step / self.steps
            self.take_step(x, y, data.batches.weight)
            last = self.iterates[-1]["step"] if self.iterates else 0
            if self.step // self._every > last // self._every:  # the very step may have been left out
                self._read(x)
                self._record_iterate()
            for watcher in self._watchers:
                watcher.on_step(self)
            if self._asks:
                self._agree_to_stop()
            if self.stop or self.step >= self.steps:
                break
        if not self._sums.taken:
            if self.step >= self.steps and self.history:
                return False
            raise NothingTrainableError
        self._read(x)
        self.epoch += 1
        for rule in self.rules.values():
            self._tell(rule, rule.after_epoch())
        self.runtime.level(self.objective)
        row = self._row(share, data) if self.runtime.rank == 0 else {}
        self.history.append(self.runtime.agreed(row | {"seconds": time.perf_counter() - clock}))
        for watcher in self._watchers:
            watcher.on_epoch(self)
        if self.plan.stop is not None and self.runtime.rank == 0 and self.plan.stop(self):
            self.stop, self.stop_reason = True, getattr(self.plan.stop, "reason", "")
        self._agree_to_stop()
        return True

    def _agree_to_stop(self) -> None:
        """What the first process has decided; and its random state, from which those that it asked may have drawn."""
        device = self.runtime.device
        states = random_state(device) if self.runtime.world > 1 else None
        self.stop, self.stop_reason, states = self.runtime.agreed((self.stop, self.stop_reason, states))
        if states is not None:
            set_random_state(states, device)

    def _of_first(self, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs and targets of the first process, so that rules decide the same in all."""
        of_first = self.runtime.agreed((x.cpu(), y.cpu()) if self.runtime.rank == 0 else None)
        x, y = of_first or (x, y)
        return x.to(self.runtime.device), y.to(self.runtime.device)

    def _row(self, share: float, data: KeptInputs) -> dict[str, Any]:
        """The epoch's row of the history."""
        objective, taken = self.objective, self._sums.taken
        row: dict[str, Any] = {name: value / taken for name, value in self._sums.sums.items()}
        row |= {"kl_weight": self.kl_weight, "learning_rate": self._base_rates[0] * self._rate(share)}
        row |= {"kl_of": kl_by_tensor(objective.model, {} if self.terms is None else self.terms.kl_of), "scores": []}
        row |= inclusion_record(objective.guide)
        if self.plan.validation is not None:
            scores = validation_scores(objective, *self.plan.validation, data.inputs)
            row |= {f"validation_{name}": value for name, value in scores.items()} | {"scores": list(scores)}
        told = {key: value for rule in self.rules.values() for key, value in rule.row().items()}
        return row | told | {"told": list(told)}

    def _tell(self, changing: ActiveRule, change: Change) -> None:
        """Lets the other rules know that one has replaced the model."""
        if change is Change.MODEL:
            for rule in self.rules.values():
                if rule is not changing:
                    rule.replaced()

    def _end(self) -> None:
        """Lets rules change what is left at the end, where the restart did not break off."""
        if self.has_ended:
            return
        self._set_progress(1.0)
        self.stepper.finish()  # the optimizer and the parameters are then as the plain execution leaves them
        for rule in reversed(self.rules.values()):
            rule.end()
        self.runtime.level(self.objective)
        self.has_ended = True

    def _set_progress(self, share: float) -> None:
        if self.objective.model.progress is not None:
            self.objective.model.progress.set(share)

    def _record_iterate(self) -> None:
        row = {"step": self.step, "negative_elbo": self._sums.mean_chunk()}
        self.iterates.append({**row, **scale_record(self.objective.guide)})

    def _read(self, x: Tensor) -> None:
        """Reads the steps that are unread, and refuses a loss that is not finite."""
        bad = self._sums.read()
        if bad is None:
            return
        raw = standardising_helps(self.objective.model.network, x)
        first = "standardise the inputs (standardise=True), " if raw else ""
        site = bad.first_bad()
        part = f"the term of {site}" if site else "the log-likelihood"
        raise NonFiniteLossError(
            f"the loss became non-finite at step {bad.step} (epoch {self.epoch + 1}, restart {self.restart}), first in "
            f"{part}: {first}lower learning_rate, or look at the prior of that site"
        )
