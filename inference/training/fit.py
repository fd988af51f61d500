"""Fit: stochastic variational inference, one restart after another."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Unpack

import torch
from torch import Tensor

from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.data.data_checks import check_data, check_validation
from bayesprune.inference.data.data_sketch import data_sketch
from bayesprune.inference.data.data_units import in_data_units
from bayesprune.inference.data.kept_inputs import KeptInputs, kept_examples
from bayesprune.inference.data.trainable_batch import check_trainable
from bayesprune.inference.defaults.kl_weight import default_kl_warmup, default_kl_weight, default_rules
from bayesprune.inference.defaults.length import default_epochs
from bayesprune.inference.defaults.ready_rules import default_rules_of
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.guide import Guide, GuideChoice
from bayesprune.inference.inclusion.inclusion_notes import inclusion_facts
from bayesprune.inference.posterior.shrinkage import diagonal_fisher, needs_fisher
from bayesprune.inference.posterior.warm_start import begin_at
from bayesprune.inference.restart import Restart
from bayesprune.inference.rules.rule import Rule
from bayesprune.inference.runtime.one_process import OneProcess
from bayesprune.inference.runtime.precision import PRECISIONS
from bayesprune.inference.runtime.runtime import Runtime
from bayesprune.inference.runtime.share import WHOLE, Share
from bayesprune.inference.training.checkpoint import Checkpoint, open_checkpoint
from bayesprune.inference.training.earlier_arguments import rules_of_today
from bayesprune.inference.training.fit_arguments import check_together, checked_pair, resolve_device
from bayesprune.inference.training.fit_options import FitKeywords, FitOptions, help_of, options_of, with_options
from bayesprune.inference.training.fit_settings import asked_settings, finished_settings, finished_trace
from bayesprune.inference.training.left_restarts import left_by
from bayesprune.inference.training.map_probe import check_map_exists
from bayesprune.inference.training.restart_run import Plan, RestartRun
from bayesprune.inference.training.same_fit import expect_same_fit
from bayesprune.inference.training.settled_training import settled_training
from bayesprune.inference.watching.callbacks import Callback, FitState, checked_steering
from bayesprune.inference.watching.progress import Progress
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.renamed_arguments import takes_old_names
from bayesprune.models.networks.evaluation_mode import begin_training, held_in_evaluation
from bayesprune.models.networks.placing import zeros_for


@takes_old_names
@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    model: BayesianNetwork,
    data: Data,
    guide: GuideChoice = None,
    *,
    start: Fit | None = None,
    rules: Sequence[Rule] = (),
    callbacks: Sequence[Callback] = (),
    validation: tuple[Tensor, Tensor] | None = None,
    stop: Callable[[FitState], bool] | None = None,
    runtime: Runtime | None = None,
    options: FitOptions | None = None,
    **more: Unpack[FitKeywords],
) -> Fit:
    """Fits a Bayesian network by maximising the ELBO; the model handed in is copied, never changed.

    It works inside of `torch.no_grad()` and `torch.inference_mode()` too.

    Args:
        model: The model. Modules that its network holds in evaluation mode while it is in training mode itself, such as
            frozen batch normalisation, stay in it; frozen parameters without a prior stay as they are.
        data: Training data: `(x, y)` tensors, a `Dataset` or a `DataLoader`. All of it is permuted each epoch. An
            `IterableDataset` without a length takes `steps`. What a loader yields is checked batch by batch before it
            is trained on, and the first pass has to have the model's `data_size` of examples.
        guide: ``"map"``, ``"meanfield"``, ``"paired"``, or families by latent; default None: each prior's own.
        start: An earlier fit of the same structure, for a warm start (Friedman, Hastie & Tibshirani 2010, section
            2.5): each restart begins at the guide, the point estimates and the buffers of its restart of the same
            number; the optimizer begins anew. Default None: at the network's weights.
        rules: `Rule`s: what is trained or moved beside the optimizer, called in order; default none. A model's own
            parts bring theirs. Their reports stand in the settings under their names.
        callbacks: `Callback`s, which watch, called in order; default none.
        validation: `(x, y)` tensors scored after each epoch at the guide's centre; default None. Statistics of batch
            normalisation are estimated for it again, which costs a forward pass over at most 512 training inputs.
        stop: A rule, `stop(state) -> bool`, asked after each epoch; True ends the restart, and `settings` say so under
            ``"stopped_early"``, a list of objects with restart, step, steps and reason. Ready: `until_converged()`.
        runtime: Where it runs and with what random numbers; default None: `OneProcess` on ``device``.
        options: All other options at once; default None: each at its default, or as given by its name.
        **more: The options by name, see `FitOptions`:

    Returns:
        The fit.

    Raises:
        ValueError: For bad input, before training starts; for a bad batch of a loader before the step on it.
        TypeError: For an argument that there is not.
        NonFiniteLossError: If the loss becomes NaN or infinite; names the site and the step.
    """
    rules = rules_of_today(rules, more)  # type: ignore[arg-type]  # a TypedDict is a dict
    how = options_of(options, more)
    watchers, given = checked_steering(callbacks, rules)
    check_together(model, guide, start, stop, how)
    at_work = [*given, *default_rules_of(model, given)]
    how = settled_training(how, model, guide, at_work)
    for rule in at_work:
        rule.check(model, {one.name: getattr(how, one.name) for one in fields(how)} | {"start": start})
    if runtime is None:
        runtime = OneProcess(resolve_device(how.device), *PRECISIONS[how.precision])
    watchers += [Progress()] if how.progress and runtime.rank == 0 else []
    place, dtype = runtime.device, runtime.dtype
    batches = Batches(data, how.batch_size, place, dtype, how.workers, how.channels_last, runtime.data_order)
    total = how.steps if how.steps is not None else batches.steps_in(how.epochs or default_epochs(batches))
    left_open = {"steps": how.epochs or how.steps, "kl_weight": how.kl_weight, "kl_warmup": how.kl_warmup}
    how = replace(how, kl_weight=default_kl_weight(model, guide) if how.kl_weight is None else how.kl_weight)
    passes, held_out = batches.passes_in(total, model.data_size), checked_pair(validation, place, dtype)
    plan = Plan(how, guide, at_work, runtime, total, passes, held_out, watchers, stop)
    if runtime.world > 1:
        expect_same_fit(plan, model, batches)
    sketch = data_sketch(data)  # before the training, which an error after it would lose
    settings = asked_settings(plan, start is not None)
    folder: Path | None = None
    if how.checkpoint is not None and runtime.rank > 0:
        folder = Path(how.checkpoint)  # of the first process, which reads and writes it
    elif how.checkpoint is not None:
        asked = settings | how.marks() | {"rules": default_rules(how.restarts, kl_warmup=how.kl_warmup)}
        followed = [*watchers, *([stop] if stop is not None else [])]
        folder = open_checkpoint(
            how.checkpoint, model, batches, held_out, start, followed, given, asked, how.only_restart
        )

    model, standardised = in_data_units(model, batches, how.standardise, None if start is None else start.model)
    kept = KeptInputs(batches, model.network)
    runs: list[RestartRun] = []
    reports: list[ExecutionReport] = []
    started, seconds = time.perf_counter(), 0.0
    resumed_at: int | None = None
    was_done = False
    for number in range(how.restarts) if how.only_restart is None else (how.only_restart,):
        point = None if folder is None else Checkpoint(folder, number, runtime, kept)
        with runtime.restart(how.seed + number):
            run, input_shape = _begun(plan, number, model, start, batches)
            if point is not None and point.restore(run):
                seconds += point.seconds
                resumed_at = point.resumed_at_epoch
            elif resumed_at is not None and was_done:  # an earlier call had done the restarts before, and not this one
                resumed_at = 1
            was_done = point is not None and point.finished
            batches.share_out(Share(runtime.rank, runtime.world))
            run.train(kept, point)
            batches.share_out(WHOLE)
            runs.append(run)
            reports.append(run.stepper.report if point is None else point.report(run))
    left = left_by(runs)
    settings |= finished_settings(runs, left, reports, batches, input_shape) | {
        "input_shape": list(input_shape),  # data that can be read only once are not read after training
        "chosen": [name for name, value in left_open.items() if value is None],
        "data_sketch": sketch,
        "seconds": seconds + time.perf_counter() - started,
        "resumed_at_epoch": resumed_at,
        "standardised": standardised,
        **({"processes": runtime.world} if runtime.world > 1 else {}),
    }
    batches.expect_nothing()
    restarts = [Restart(one.model, one.guide, how.seed + one.run.restart) for one in left]
    trace = finished_trace(left, {"seed": how.seed, "data_size": model.data_size})
    result = Fit(restarts, trace, settings, kept.inputs, kept_examples(batches, model.network))
    if any(needs_fisher(restart.model) for restart in restarts):
        for restart in restarts:
            restart.fisher = diagonal_fisher(restart.model, restart.guide, batches, inputs=result.inputs)
    settings |= inclusion_facts(result, batches)
    return result


fit.__signature__ = with_options(fit)  # type: ignore[attr-defined]
fit.__doc__ = (fit.__doc__ or "").replace(
    "see `FitOptions`:\n",
    "see `FitOptions`:\n\n"
    + "".join(f"            * ``{one.name}={one.default!r}``: {help_of(one.name)}\n" for one in fields(FitOptions)),
)


def _begun(
    plan: Plan, number: int, model: BayesianNetwork, start: Fit | None, batches: Batches
) -> tuple[RestartRun, tuple[int, ...]]:
    """A restart before its first step, on a copy of the model, once the data are known to fit; the shape of an input.

    Args:
        plan: What it shares with the others.
        number: Its number.
        model: The model.
        start: The earlier fit of a warm start, or None.
        batches: The training data.
    """
    copied = copy.deepcopy(model).to(plan.runtime.device, plan.runtime.dtype)
    if number > 0 and start is None:
        _reinitialise(copied)
    begin_training(copied.network)
    input_shape = check_data(copied, batches)
    check_trainable(copied.network, batches)
    if plan.validation is not None:
        check_validation(copied.network, copied.likelihood, plan.validation)
    for rule in plan.rules:
        rule.prepare(copied, zeros_for(copied.network, input_shape))
    q = Guide(copied, plan.guide)
    if start is not None:
        begin_at(start, number, copied, q)
    elif number > 0:
        q.vary_gates()
    check_map_exists(copied, q.family_of)
    warmup = plan.options.kl_warmup
    warmup = default_kl_warmup(copied, q, number) if warmup is None else warmup
    return RestartRun(plan, number, copied, q, warmup), input_shape


def _reinitialise(model: BayesianNetwork) -> None:
    """Draws new starting weights for a further restart, where layers know how; what is held stays as it is."""
    named = model.network.named_parameters()
    held: list[Tensor] = [p for name, p in named if not p.requires_grad and name not in model.priors]
    held += [buffer for module in held_in_evaluation(model.network) for buffer in module.buffers(recurse=False)]
    before = [tensor.clone() for tensor in held]
    for module in model.network.modules():
        reset = getattr(module, "reset_parameters", None)
        if callable(reset):
            reset()
    for tensor, value in zip(held, before, strict=True):
        tensor.copy_(value)
