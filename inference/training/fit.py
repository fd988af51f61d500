"""Fit: stochastic variational inference, one restart after another."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from bayesprune.inference.data.against_constant import CONSTANT, constant_of_training
from bayesprune.inference.data.batches import Batches, Data, check_data, check_validation
from bayesprune.inference.data.data_sketch import data_sketch
from bayesprune.inference.data.data_units import in_data_units
from bayesprune.inference.data.kept_inputs import KeptInputs, kept_examples
from bayesprune.inference.data.trainable_batch import check_trainable
from bayesprune.inference.defaults.kl_weight import default_kl_warmup, default_kl_weight, default_rules
from bayesprune.inference.defaults.length import default_epochs
from bayesprune.inference.execution.denormals import flushed_denormals
from bayesprune.inference.execution.stepper import ExecutionReport, Stepper
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.guides.guide import Guide, GuideChoice
from bayesprune.inference.guides.map_probe import check_map_exists
from bayesprune.inference.inclusion.inclusion_notes import inclusion_facts
from bayesprune.inference.objective.gradient import Gradient
from bayesprune.inference.objective.latent_gate_estimators import GateEstimator
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.objective.unit_gate_estimators import UnitGateEstimator, estimator_named
from bayesprune.inference.objective.unit_gate_expectation import UnitGateExpectation
from bayesprune.inference.posterior.shrinkage import diagonal_fisher, needs_fisher
from bayesprune.inference.posterior.warm_start import begin_at
from bayesprune.inference.restart import Restart
from bayesprune.inference.rules.gate_training import GateTraining, Gating
from bayesprune.inference.rules.schedules import Schedule, scaled, schedule_named, warmup
from bayesprune.inference.training.checkpoint import Checkpoint, open_checkpoint
from bayesprune.inference.training.fit_arguments import (
    PRECISIONS,
    checked_arguments,
    checked_length,
    checked_pair,
    resolve_device,
)
from bayesprune.inference.training.optimizers import OptimizerChoice, make_optimizer
from bayesprune.inference.training.training_loop import train
from bayesprune.inference.watching.callbacks import Callback, FitState, checked_callbacks
from bayesprune.inference.watching.endings import ending_of
from bayesprune.inference.watching.progress import Progress
from bayesprune.inference.watching.pruning_trace import (
    gate_variables,
    trace_dataset,
)
from bayesprune.models.bayesian_network import BayesianNetwork
from bayesprune.models.checks.given_numbers import checked_seed, whole_number
from bayesprune.models.checks.renamed_arguments import takes_old_names
from bayesprune.models.networks.evaluation_mode import begin_training, held_in_evaluation


@takes_old_names
@torch.inference_mode(False)
@torch.enable_grad()
def fit(
    model: BayesianNetwork,
    data: Data,
    guide: GuideChoice = None,
    *,
    start: Fit | None = None,
    epochs: int | None = None,
    steps: int | None = None,
    batch_size: int = 128,
    optimizer: OptimizerChoice = "adam",
    learning_rate: float = 1e-3,
    schedule: str | Schedule = "hold-cosine",
    kl_warmup: float | None = None,
    kl_weight: float | None = None,
    validation: tuple[Tensor, Tensor] | None = None,
    seed: int = 0,
    device: str = "auto",
    precision: str = "float32",
    restarts: int = 1,
    particles: int = 1,
    gate_estimator: GateEstimator | None = None,
    gating: Gating | None = None,
    unit_gate_estimator: str | UnitGateEstimator | None = None,
    execution: str = "auto",
    compiled: bool | None = None,
    clip: float | None = None,
    sticking_the_landing: bool = False,
    local_reparameterisation: bool = False,
    channels_last: bool = False,
    workers: int = 0,
    callbacks: Sequence[Callback] = (),
    stop: Callable[[FitState], bool] | None = None,
    progress: bool = False,
    checkpoint: str | Path | None = None,
    standardise: bool | str | None = None,
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
        epochs: Passes over the data; default None: `steps`, or else 30, and so many more that there are 2,500 steps.
        steps: Optimizer steps in all, in place of `epochs`; default None.
        batch_size: Examples a step; default 128. A batch of one example that batch normalisation cannot be trained on
            is left out, and counts as a step.
        optimizer: ``"adam"`` (default; log scales, log odds and the likelihood's learn ten times as fast), ``"sgd"``
            (momentum 0.9), or a callable from parameter groups to a torch optimizer. It sees the loss divided by
            `data_size`, so that learning rates are those of a mean loss.
        learning_rate: Of the two named optimizers; default 1e-3.
        schedule: Factor on the learning rate: ``"hold-cosine"`` (default: 1 for half of the steps, then to 0),
            ``"constant"``, ``"cosine"``, or a callable of progress in [0, 1].
        kl_warmup: Share of the steps over which the KL weight rises from 0 to `kl_weight`; default None: 0.6, or
            0 with gates of units and for points under a paper's constants (`default_kl_warmup`, also for restarts).
        kl_weight: Final weight of the KL term; anything but 1 is a tempered objective, and the summary says so.
            Default None: by a rule (`default_kl_weight`): 1 for linear models, 0.1 for networks of many weights. 1 is
            the ELBO.
        validation: `(x, y)` tensors scored after each epoch at the guide's centre; default None. Statistics of batch
            normalisation are estimated for it again, which costs a forward pass over at most 512 training inputs.
        seed: Of the first restart, below 2^62 in size; the r-th takes `seed` + r. The global random state is left as it
            was.
        device: ``"auto"`` (default: the GPU where there is one), ``"cpu"``, ``"cuda"``, ...
        precision: ``"float32"`` (default), ``"float64"`` or ``"bfloat16"`` (autocast of the network only).
        restarts: Independent fits; default 1. All but the first start from re-initialised layers where the
            network's modules have `reset_parameters`, and from gates whose log odds have been moved at random; of a
            linear model every second has no fade-in by default. `Fit.combined` weighs them.
        particles: Draws an evaluation; default 1.
        gate_estimator: How gradients pass Bernoulli gates; default None: `moment_matched`, or `ScoreFunction`
            where a gate is a parameter of another distribution.
        gating: How gates of units (`UnitGates`) are trained, and when closed units leave network, guide and optimizer;
            default None: `Gating()`.
        unit_gate_estimator: How their gradient is estimated, a name or an object; default None: as they declare.
        execution: ``"plain"``, which runs the declaration anew in every step; ``"fused"``, which traces it once into
            one graph of tensor operations, with the same loss, gradients and draws (docs/speed.md); ``"auto"``
            (default): fused where compiling the graph is expected to be repaid. ``settings["execution"]`` says which
            one it was and why. Its old name ``path`` is taken for one release, with a `FutureWarning`.
        compiled: Whether the fused execution is compiled; default None: where the steps to come repay it.
        clip: Largest norm of the gradient that the optimizer sees, that of the loss divided by `data_size`; default
            None: no limit.
        sticking_the_landing: Whether terms of drawn sites are estimated from the draw with the parameters of log q
            held fixed (Roeder et al. 2017), in place of closed forms; default False.
        local_reparameterisation: Whether linear layers on inputs `(batch, in)` draw their outputs in place of their
            weights (Kingma et al. 2015) where that is exact: weights that are a latent with a Normal guide. It lowers
            the gradient's variance and costs a second matrix product; default False.
        channels_last: Whether images `(batch, channels, height, width)` are laid out channels last; default False.
        workers: Processes that load a `Dataset` in the background; default 0: none. A `DataLoader` has its own.
        callbacks: `Callback`s, called in order.
        stop: A rule, `stop(state) -> bool`, asked after each epoch; True ends the restart, and `settings` say so under
            ``"stopped_early"``, a list of objects with restart, step, steps and reason. Ready: `until_converged()`.
        progress: Whether to show a progress line on standard error; default False.
        checkpoint: A folder in which the whole state of training is kept between epochs, at most a hundredth of the
            time: the same call then goes on after the last state, with the numbers of a fit that was not interrupted
            (docs/checkpoints.md). Default None.
        standardise: Whether the fitted network standardises inputs and targets inside, by the training data, and puts
            its outputs back into the data's units (docs/regression.md); default None: where targets are real numbers
            with a noise to learn, unless the network predicts them already. ``"noise"``: neither, but a learned noise
            starts at the error that the network makes. `settings["standardised"]` says what was done.

    Returns:
        The fit.

    Raises:
        ValueError: For bad input, before training starts; for a bad batch of a loader before the step on it.
        NonFiniteLossError: If the loss becomes NaN or infinite; names the site and the step.
    """
    epochs, steps = checked_length(epochs, steps)
    batch_size, restarts = whole_number("batch_size", batch_size), whole_number("restarts", restarts)
    particles, workers = whole_number("particles", particles), whole_number("workers", workers, least=0)
    seed = checked_seed(seed)
    watchers = [*checked_callbacks(callbacks), *([Progress()] if progress else [])]
    given = checked_arguments(model, {
        "guide": guide, "start": start, "restarts": restarts, "particles": particles, "optimizer": optimizer,
        "learning_rate": learning_rate, "schedule": schedule, "kl_warmup": kl_warmup, "kl_weight": kl_weight,
        "precision": precision, "gate_estimator": gate_estimator, "gating": gating, "execution": execution,
        "compiled": compiled, "unit_gate_estimator": unit_gate_estimator, "clip": clip,
        "sticking_the_landing": sticking_the_landing, "local_reparameterisation": local_reparameterisation,
        "channels_last": channels_last, "stop": stop, "progress": progress, "checkpoint": checkpoint,
        "standardise": standardise,
    })  # fmt: skip
    learning_rate, kl_warmup, kl_weight, clip = (given[n] for n in ("learning_rate", "kl_warmup", "kl_weight", "clip"))
    flags = ("compiled", "sticking_the_landing", "local_reparameterisation", "channels_last")
    compiled, sticking_the_landing, local_reparameterisation, channels_last = (given[flag] for flag in flags)
    unit_estimator = None if unit_gate_estimator is None else estimator_named(unit_gate_estimator)
    place, dtype = resolve_device(device), PRECISIONS[precision]
    autocast = torch.bfloat16 if precision == "bfloat16" else None
    gradient = Gradient(
        particles,
        gate_estimator,
        sticking_the_landing=sticking_the_landing,
        local_reparameterisation=local_reparameterisation,
        autocast=autocast,
    )
    batches = Batches(data, batch_size, place, dtype, workers, channels_last)
    total = steps if steps is not None else batches.steps_in(epochs or default_epochs(batches))
    left_open = {"steps": epochs or steps, "kl_weight": kl_weight, "kl_warmup": kl_warmup}
    kl_weight = default_kl_weight(model, guide) if kl_weight is None else kl_weight
    passes = batches.passes_in(total, model.data_size)
    held_out = checked_pair(validation, place, dtype)
    sketch = data_sketch(data)  # before the training, which an error after it would lose
    settings: dict[str, Any] = {
        "guide": guide if isinstance(guide, str) or guide is None else dict(guide),
        "steps": total, "batch_size": batch_size, "learning_rate": learning_rate, "seed": seed,
        "optimizer": optimizer if isinstance(optimizer, str) else "custom",
        "schedule": schedule if isinstance(schedule, str) else "custom",
        "precision": precision, "device": str(place), "kl_weight": kl_weight, "particles": particles, "clip": clip,
        "local_reparameterisation": local_reparameterisation, "sticking_the_landing": sticking_the_landing,
        "warm_start": start is not None,
    }  # fmt: skip
    folder: Path | None = None
    if checkpoint is not None:
        arguments = settings | {
            "optimizer": optimizer, "schedule": schedule, "restarts": restarts, "execution": execution,
            "kl_warmup": kl_warmup, "rules": default_rules(restarts, kl_warmup=kl_warmup),
            "compiled": compiled, "gate_estimator": gate_estimator, "gating": gating,
            "unit_gate_estimator": unit_gate_estimator, "channels_last": channels_last, "workers": workers,
            "standardise": standardise,
        }  # fmt: skip
        followed = [*watchers, *([stop] if stop is not None else [])]
        folder = open_checkpoint(checkpoint, model, batches, held_out, start, followed, arguments)

    model, standardised = in_data_units(model, batches, given["standardise"], None if start is None else start.model)
    kept = KeptInputs(batches, model.network)
    finished: list[Restart] = []
    states: list[FitState] = []
    reports: list[ExecutionReport] = []
    trainings: list[GateTraining | None] = []
    started, seconds = time.perf_counter(), 0.0
    resumed_at: int | None = None
    was_done = False
    for number in range(restarts):
        point = None if folder is None else Checkpoint(folder, number, place, kept)
        with flushed_denormals(), torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
            torch.manual_seed(seed + number)
            copied = copy.deepcopy(model).to(place, dtype)
            if number > 0 and start is None:
                _reinitialise(copied)
            begin_training(copied.network)
            input_shape = check_data(copied, batches)
            check_trainable(copied.network, batches)
            if held_out is not None:
                check_validation(copied.network, copied.likelihood, held_out)
            q = Guide(copied, guide)
            if start is not None:
                begin_at(start, number, copied, q)
            elif number > 0:
                q.vary_gates()
            check_map_exists(copied, q.family_of)

            def rebuild(model: BayesianNetwork, q: Guide | None = None) -> tuple[Objective, torch.optim.Optimizer]:
                q = Guide(model, guide) if q is None else q
                over_gates = None if unit_estimator is None else UnitGateExpectation.of(q, unit_estimator)
                made = Objective(model, q, gradient, over_gates)
                return made, make_optimizer(optimizer, made, learning_rate)

            state = FitState(*rebuild(copied, q), number, restarts, passes, total)
            state.kl_warmup = default_kl_warmup(copied, q, number) if kl_warmup is None else kl_warmup
            kl_schedule = scaled(warmup(state.kl_warmup), kl_weight)
            how: tuple[str, bool | None, float | None, str] = (execution, compiled, clip, "it was asked for")
            if copied.gates is not None:
                how = ("plain", None, clip, "gates of units change the network while it is trained")
            training = GateTraining(gating or Gating(), state, rebuild, kl_weight) if copied.gates is not None else None
            before: ExecutionReport | None = None
            if point is not None and (before := point.restore(state, training, rebuild)) is not None:
                how = (before.name, before.compiled, clip, before.reason)
                seconds += point.seconds
                resumed_at = point.resumed_at_epoch
            elif resumed_at is not None and was_done:  # an earlier call had done the restarts before, and not this one
                resumed_at = 1
            was_done = point is not None and point.finished
            stepper = Stepper(state.objective, state.optimizer, total, *how)
            stepper.report = before or stepper.report
            watching = (held_out, watchers, stop)
            train(state, stepper, kept, schedule_named(schedule), kl_schedule, *watching, training, point)
            if point is not None and not point.finished:
                point.write(state, stepper, training, finished=True)
            trainings.append(training)
            finished.append(Restart(state.objective.model, state.objective.guide, seed + number))
            states.append(state)
            reports.append(stepper.report if point is None else point.report(stepper))
    warmups = [state.kl_warmup for state in states]
    settings |= {
        "input_shape": list(input_shape),  # data that can be read only once are not read after training
        "epochs": states[0].epoch,
        "kl_warmup": states[0].kl_warmup,
        **({"kl_warmups": warmups} if len(set(warmups)) > 1 else {}),
        "chosen": [name for name, value in left_open.items() if value is None],
        "stopped_early": [ending_of(state) for state in states if state.step < state.steps],
        "data_sketch": sketch,
        CONSTANT: constant_of_training(finished[0].model.likelihood, batches),
        "tempered": any(state.kl_weight != 1.0 for state in states),
        "seconds": seconds + time.perf_counter() - started,
        "resumed_at_epoch": resumed_at,
        "execution": reports[0].as_dict(),
        "standardised": standardised,
    }
    trace = trace_dataset(
        [s.history for s in states],
        [s.iterates for s in states],
        {"seed": seed, "data_size": model.data_size},
    )
    gated = [training for training in trainings if training is not None]
    if gated:
        settings["gating"] = [training.report for training in gated]
        trace = gate_variables(trace, gated[0].units(), [training.records for training in gated], gated[0].report)
    batches.expect_nothing()
    result = Fit(finished, trace, settings, kept.inputs, kept_examples(batches, model.network))
    if any(needs_fisher(restart.model) for restart in finished):
        for restart in finished:
            restart.fisher = diagonal_fisher(restart.model, restart.guide, batches, inputs=result.inputs)
    settings |= inclusion_facts(result, batches)
    return result


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
