"""The training loop of one restart: passes over the data, steps, what is recorded of them, and what may end it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.kept_inputs import KeptInputs
from bayesprune.inference.data.raw_inputs import standardising_helps
from bayesprune.inference.data.trainable_batch import NothingTrainableError, TrainableBatches
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.objective.objective import Terms
from bayesprune.inference.predictions.validation_scores import validation_scores
from bayesprune.inference.rules.gate_training import GateTraining
from bayesprune.inference.rules.schedules import Schedule
from bayesprune.inference.training.checkpoint import Checkpoint
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.inference.watching.pruning_trace import inclusion_record, kl_by_tensor, scale_record
from bayesprune.models.networks.evaluation_mode import begin_training

__all__ = ["train"]

ITERATES = 1000
"""About how many iterates of the ELBO and the scales a fit records."""


def train(
    state: FitState,
    stepper: Stepper,
    data: KeptInputs,
    schedule: Schedule,
    kl_schedule: Schedule,
    validation: Any,
    watchers: Sequence[Callback],
    stop: Callable[[FitState], bool] | None,
    training: GateTraining | None = None,
    point: Checkpoint | None = None,
) -> None:
    """Takes the steps of one restart, IN PLACE of its state, until they are done or something ends it.

    With gates of units, objective and optimizer become those of what is left.

    Args:
        state: The restart, as it has been set up or restored.
        stepper: What takes its steps.
        data: The training data.
        schedule: Factor on the learning rate, of progress.
        kl_schedule: Factor on the KL term, of progress.
        validation: `(x, y)` scored after each epoch, or None.
        watchers: Callbacks.
        stop: A rule that is asked after each epoch, or None.
        training: Its gates of units; default None.
        point: Where the state is kept between epochs; default None: nowhere.

    Raises:
        NonFiniteLossError: If the loss becomes NaN or infinite.
        ValueError: If no batch can be trained on, or a callback stops it before the first step.
    """
    objective, optimizer = state.objective, state.optimizer
    base_rates = [group["lr"] for group in optimizer.param_groups]
    record_every, trainable = max(1, state.steps // ITERATES), TrainableBatches()
    begin_training(objective.model.network, objective)
    for watcher in watchers:
        watcher.on_fit_start(state)
    if point is not None:
        point.restore_random_state()
    try:
        while state.step < state.steps and not state.stop:
            clock = time.perf_counter()
            sums = {"loss": 0.0, "expected_log_likelihood": 0.0, "kl": 0.0}
            chunk: list[float] = []
            taken = 0
            for x, y in data.passing():
                if not trainable(objective.model.network, x):
                    state.step += 1  # it counts, so that a pass has as many steps for every loader
                    if state.step >= state.steps:
                        break
                    continue
                progress = state.step / state.steps
                for group, rate in zip(optimizer.param_groups, base_rates, strict=True):
                    group["lr"] = rate * schedule(progress)
                state.kl_weight = kl_schedule(progress)
                if objective.model.progress is not None:
                    objective.model.progress.set(progress)
                terms = stepper.step(x, y, state.kl_weight)
                state.step += 1
                taken += 1
                state.terms = terms
                likelihood, kl = float(terms.log_likelihood), float(terms.kl)
                chunk.append(kl - likelihood)
                if not abs(chunk[-1]) < float("inf"):
                    raise NonFiniteLossError(_blame(state, terms, x))
                sums["loss"] += state.kl_weight * kl - likelihood
                sums["expected_log_likelihood"] += likelihood
                sums["kl"] += kl
                if training is not None and training.after_step(x, y):
                    objective, optimizer = state.objective, state.optimizer
                    stepper.go_on_with(objective, optimizer)
                    base_rates = [group["lr"] for group in optimizer.param_groups]  # a group may have left
                last = state.iterates[-1]["step"] if state.iterates else 0
                if state.step // record_every > last // record_every:  # the very step may have been left out
                    mean = sum(chunk) / len(chunk)
                    state.iterates.append({"step": state.step, "negative_elbo": mean, **scale_record(objective.guide)})
                    chunk = []
                for watcher in watchers:
                    watcher.on_step(state)
                if state.stop or state.step >= state.steps:
                    break
            if not taken:
                if state.step >= state.steps and state.history:
                    break  # the last step fell on a batch that was left out
                raise NothingTrainableError
            state.epoch += 1
            if training is not None and training.after_epoch():
                objective, optimizer = state.objective, state.optimizer
                stepper.go_on_with(objective, optimizer)
                base_rates = [group["lr"] for group in optimizer.param_groups]  # a group may have left
            row: dict[str, Any] = {name: value / taken for name, value in sums.items()}
            row |= {"kl_weight": state.kl_weight, "learning_rate": base_rates[0] * schedule(progress)}
            parts = {} if state.terms is None else state.terms.kl_of
            row |= {"kl_of": kl_by_tensor(objective.model, parts), "scores": []}
            row |= inclusion_record(objective.guide)
            if validation is not None:
                scores = validation_scores(objective, validation[0], validation[1], data.inputs)
                row |= {f"validation_{name}": value for name, value in scores.items()} | {"scores": list(scores)}
            row["seconds"] = time.perf_counter() - clock
            state.history.append(row)
            for watcher in watchers:
                watcher.on_epoch(state)
            if stop is not None and stop(state):
                state.stop, state.stop_reason = True, getattr(stop, "reason", "")
            if training is not None and state.stop:
                training.record()
            if point is not None and not state.stop and state.step < state.steps:
                point.write(state, stepper, training)
    finally:
        if objective.model.progress is not None:
            objective.model.progress.set(1.0)
        stepper.finish()
        for watcher in watchers:
            watcher.on_fit_end(state)
        objective.eval()
    if state.step == 0:
        raise ValueError("a callback stopped the fit before the first step: set state.stop in on_step or later")
    if not state.iterates:
        state.iterates.append(
            {"step": state.step, "negative_elbo": sum(chunk) / len(chunk), **scale_record(objective.guide)}
        )


def _blame(state: FitState, terms: Terms, x: Tensor) -> str:
    """Says which part of the loss is not finite, and what to do about it, where inputs `x` are raw too."""
    first = "standardise the inputs (standardise=True)" if standardising_helps(state.objective.model.network, x) else ""
    bad = [site for site, term in terms.kl_of.items() if not bool(torch.isfinite(term).all())]
    part = f"the term of {bad[0]}" if bad else "the log-likelihood"
    return (
        f"the loss became non-finite at step {state.step} (epoch {state.epoch + 1}, restart {state.restart}), first in "
        f"{part}: {first and first + ', '}lower learning_rate, or look at the prior of that site"
    )
