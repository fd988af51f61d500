"""What the processes of one fit have to have in common."""

from __future__ import annotations

import json
from dataclasses import fields

from bayesprune.inference.data.batches import Batches
from bayesprune.inference.data.fingerprints import data_fingerprint, described, model_fingerprint
from bayesprune.inference.runtime.code import code_digest
from bayesprune.inference.runtime.share import LEAST
from bayesprune.inference.training.restart_run import Plan
from bayesprune.models.bayesian_network import BayesianNetwork

__all__ = ["expect_same_fit"]

_OWN = ("device", "progress", "workers", "checkpoint")
"""Options that are each process's own; only the first one needs a folder for checkpoints."""


def expect_same_fit(plan: Plan, model: BayesianNetwork, batches: Batches) -> None:
    """Refuses processes that do not fit the same, or are too many for the data.

    Args:
        plan: What the restarts have in common.
        model: The model.
        batches: The training data.

    Raises:
        ValueError: In all processes, if one has another model, other data, options, rules or code, or if a batch has
            not two examples for each.
    """
    asked = {one.name: getattr(plan.options, one.name) for one in fields(plan.options) if one.name not in _OWN}
    asked |= {"guide": plan.guide, "steps": plan.steps, "checkpoint": plan.options.checkpoint is not None}
    plan.runtime.expect_same(
        {
            "the code of bayesprune": code_digest(),
            "the declared model": model_fingerprint(model),
            "the data": data_fingerprint(batches.tensors if batches.tensors is not None else batches.loader),
            **{f"the option {name}": json.dumps(described(one), sort_keys=True) for name, one in asked.items()},
            **{f"the rule {rule.name}": json.dumps(described(rule), sort_keys=True) for rule in plan.rules},
        }
    )
    largest, world = batches.largest(), plan.runtime.world
    if largest is not None and largest < LEAST * world:
        raise ValueError(
            f"{world} processes share out batches of {largest} examples, {LEAST} of each at least: start "
            f"{max(1, largest // LEAST)} or fewer, or give a larger batch_size"
        )
