"""What a finished fit says of itself: its settings, and its pruning trace."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import xarray as xr

from bayesprune.inference.data.against_constant import CONSTANT, constant_of_training
from bayesprune.inference.data.batches import Batches
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.fitted import SAMPLES
from bayesprune.inference.rules.rule_traces import with_rules
from bayesprune.inference.training.left_restarts import Left
from bayesprune.inference.training.restart_run import Plan, RestartRun
from bayesprune.inference.watching.endings import ending_of
from bayesprune.inference.watching.pruning_trace import trace_dataset
from bayesprune.models.networks.placing import zeros_for

__all__ = ["asked_settings", "finished_settings", "finished_trace"]


def asked_settings(plan: Plan, is_warm: bool) -> dict[str, Any]:
    """What is known of a fit before it begins, as JSON holds it.

    Args:
        plan: What its restarts have in common.
        is_warm: Whether it begins at an earlier fit.
    """
    guide = plan.guide if isinstance(plan.guide, str) or plan.guide is None else dict(plan.guide)
    found = {"guide": guide, "steps": plan.steps, **plan.options.settings()}
    return found | {"device": str(plan.runtime.device), "warm_start": is_warm}


def finished_settings(
    runs: Sequence[RestartRun],
    left: Sequence[Left],
    reports: Sequence[ExecutionReport],
    batches: Batches,
    input_shape: tuple[int, ...],
) -> dict[str, Any]:
    """What its restarts came to; where they are samples, ``"samples"`` says of each of which run and step it is.

    Args:
        runs: The restarts that were trained.
        left: The restarts that they left, each with the reports of its run's rules.
        reports: How their steps were executed.
        batches: The training data.
        input_shape: Shape of one input, without the batch.
    """
    first, warmups = runs[0], [run.kl_warmup for run in runs]
    found = {
        "epochs": first.epoch,
        "kl_warmup": first.kl_warmup,
        **({"kl_warmups": warmups} if len(set(warmups)) > 1 else {}),
        "stopped_early": [ending_of(run) for run in runs if run.step < run.steps],
        CONSTANT: constant_of_training(first.objective.model.likelihood, batches),
        "tempered": any(run.kl_weight != 1.0 for run in runs),
        "execution": reports[0].as_dict(),
        "outputs_drawn": _outputs_drawn(first, input_shape),
    }
    for name in first.rules:
        told = [one.run.rules[name].report() for one in left]
        found |= {name: told} if any(told) else {}
    return found | ({SAMPLES: [one.as_dict() for one in left]} if any(one.step is not None for one in left) else {})


def _outputs_drawn(run: RestartRun, input_shape: tuple[int, ...]) -> list[str]:
    """Names of the weights whose layers drew their outputs; of a restart that an earlier call finished, by a look."""
    drawn = run.objective.outputs_drawn
    if not drawn.names:
        drawn.forms(zeros_for(run.objective.model.network, input_shape, n=2))
    return list(drawn.names)


def finished_trace(left: Sequence[Left], attrs: Mapping[str, Any]) -> xr.Dataset:
    """The pruning trace of all restarts, with what rules recorded.

    Args:
        left: The restarts.
        attrs: Numbers and texts that are stored with it.
    """
    trace = trace_dataset([one.history for one in left], [one.iterates for one in left], dict(attrs))
    return with_rules(trace, [one.run.rules for one in left])
