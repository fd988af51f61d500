"""A fit of an objective that was trained in a loop of one's own."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, TypeVar

import torch
from torch import Tensor

from bayesprune.inference.data.against_constant import CONSTANT, constant_of_training
from bayesprune.inference.data.batch_normalisation import tracked_layers
from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.data.data_checks import check_data
from bayesprune.inference.data.data_sketch import data_sketch
from bayesprune.inference.data.kept_inputs import inputs_of, kept_examples
from bayesprune.inference.data.trainable_batch import TrainableBatches
from bayesprune.inference.defaults.ready_rules import default_rules_of
from bayesprune.inference.fitted import Fitted
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.inclusion.inclusion_notes import inclusion_facts
from bayesprune.inference.objective.objective import Objective, Terms
from bayesprune.inference.posterior.shrinkage import diagonal_fisher, needs_fisher
from bayesprune.inference.restart import Restart
from bayesprune.inference.rules.rule_traces import with_rules
from bayesprune.inference.watching.pruning_trace import inclusion_record, kl_by_tensor, scale_record, trace_dataset
from bayesprune.inference.watching.record import Record
from bayesprune.models.networks.evaluation_mode import begin_training, remember_held
from bayesprune.models.networks.running_statistics import frozen_statistics

__all__ = ["fit_of"]

F = TypeVar("F", bound=Fitted)
EXAMPLES = 2000
"""Training examples on which an objective without a record is evaluated once, at most."""
UNRECORDED = "the training was not recorded: make record = bp.Record(loss), and call record.step() after each step"
"""Why nothing can be said of the convergence of a loop without a record."""


@torch.inference_mode(False)
def fit_of(
    kind: type[F],
    objective: Objective | Sequence[Objective],
    data: Data,
    record: Record | Sequence[Record] | None = None,
) -> F:
    """See `Fit.of`.

    Args:
        kind: The class that is made: `Fit`.
        objective: As there.
        data: As there.
        record: As there.
    """
    objectives = _checked_objectives(objective)
    records = _checked_records(record, objectives)
    first = next(objectives[0].model.network.parameters())
    batches = Batches(data, 128, first.device, first.dtype)
    sketch = data_sketch(data)
    restarts: list[Restart] = []
    histories, iterates = [], []
    with ExitStack() as stack:
        stack.enter_context(torch.random.fork_rng(devices=[first.device] if first.device.type == "cuda" else []))
        torch.manual_seed(0)
        for number, (trained, recorded) in enumerate(zip(objectives, records, strict=True)):
            copied = _copied(trained)
            if number == 0:
                input_shape = check_data(copied.model, batches)
            rows = [] if recorded is None else recorded.state.history
            histories.append(rows or [_evaluated(copied, batches, _kl_weight(trained))])
            last = histories[-1][-1]
            unrecorded = {"step": float("nan"), "negative_elbo": last["kl"] - last["expected_log_likelihood"]}
            steps = [] if recorded is None else recorded.state.iterates
            iterates.append(steps or [{**unrecorded, **scale_record(copied.guide)}])
            copied.eval()
            restarts.append(Restart(copied.model, copied.guide, number))
        model = restarts[0].model
        trace = trace_dataset(histories, iterates, {"data_size": model.data_size})
        if all(one is not None for one in records):
            trace = with_rules(trace, [one.state.rules for one in records if one is not None])
        settings = _settings(objectives, records) | {
            "input_shape": list(input_shape),
            "data_sketch": sketch,
            CONSTANT: constant_of_training(model.likelihood, batches),
        }
        inputs = inputs_of(batches) if tracked_layers(model.network) else None
        batches.expect_nothing()
        result = kind(restarts, trace, settings, inputs, kept_examples(batches, model.network))
        settings |= inclusion_facts(result, batches)
        for one in restarts:
            if needs_fisher(one.model):
                with torch.enable_grad():
                    one.fisher = diagonal_fisher(one.model, one.guide, batches, inputs=inputs)
    return result


def _checked_objectives(objective: Any) -> list[Objective]:
    found = list(objective) if isinstance(objective, (list, tuple)) else [objective]
    if not found:
        raise ValueError("Fit.of needs an objective at least: give what bp.objective(bnn, guide) returns")
    for one in found:
        if not isinstance(one, Objective) or not isinstance(one.guide, Guide):
            what = type(one.guide if isinstance(one, Objective) else one).__name__
            raise ValueError(
                f"Fit.of takes what bp.objective(bnn, guide) returns, not {what}: a guide of another kind, such as an "
                "AutoGuide of Pyro's, has no inclusion probabilities to read, so train loss.guide in its place, or "
                "read yours by pyro.infer.Predictive"
            )
        for rule in default_rules_of(one.model, ()):
            if not rule.in_own_loops:
                raise ValueError(
                    f"a part of the model is trained by the rule {rule!r}, which runs in fit alone and not in a loop "
                    "of one's own: use fit(bnn, data)"
                )
        for name, parameter in one.named_parameters():
            if not bool(torch.isfinite(parameter).all()):
                raise ValueError(f"{name} holds NaN or infinity: train again with a smaller learning rate")
    if any(_structure(one) != _structure(found[0]) for one in found[1:]):
        raise ValueError(
            "several objectives are restarts of one model, but these differ in priors, guide, likelihood or data_size: "
            "make a fit of each"
        )
    if len({id(one) for one in found}) < len(found):
        raise ValueError("one objective was given twice: restarts are objectives that were trained each for itself")
    return found


def _structure(one: Objective) -> Any:
    model = one.model
    priors = {name: (prior.shape, str(prior.hierarchy)) for name, prior in model.priors.items()}
    points = {name: tuple(model.network.get_parameter(name).shape) for name in model.point_estimates}
    return priors, points, model.data_size, model.likelihood.config(), one.guide.family_of


def _checked_records(record: Any, objectives: list[Objective]) -> list[Record | None]:
    if record is None:
        return [None] * len(objectives)
    records = list(record) if isinstance(record, (list, tuple)) else [record]
    for one in records:
        if not isinstance(one, Record):
            raise ValueError(f"record= takes bp.Record(objective), or a list of them, not {type(one).__name__}")
    if len(records) != len(objectives) or any(r.objective is not o for r, o in zip(records, objectives, strict=True)):
        raise ValueError(
            f"record= has {len(records)} records for {len(objectives)} objectives, and each has to be of its "
            "objective: give them in the same order"
        )
    scores = {tuple(row["scores"]) for one in records for row in one.state.history[:1]}
    if len(scores) > 1 or 0 < sum(bool(one.state.history) for one in records) < len(records):
        raise ValueError(
            "the records differ in their epochs or their scores: call record.epoch() with the same scores in each "
            "loop, or in none"
        )
    return records


def _copied(trained: Objective) -> Objective:
    copied = copy.deepcopy(trained)
    remember_held(copied.model.network)
    if copied.model.progress is not None:
        copied.model.progress.set(1.0)
    return copied


def _evaluated(objective: Objective, batches: Batches, kl_weight: float | None) -> dict[str, Any]:
    """A row of the trace: the objective as training sees it, on some of the data, with what is known of the guide."""
    model, trainable = objective.model, TrainableBatches()
    begin_training(model.network, objective)
    terms: list[Terms] = []
    sizes: list[int] = []
    with torch.no_grad(), frozen_statistics(model.network):
        for x, y in batches:
            if sum(sizes) and sum(sizes) + len(x) > EXAMPLES:
                break
            if trainable(model.network, x):
                terms.append(objective.terms(x, y))
                sizes.append(len(x))
        if not terms:  # batches of one example, on which batch normalisation cannot be trained
            objective.eval()
            x, y = batches.first()
            terms, sizes = [objective.terms(x, y)], [len(x)]
    kl_of = {site: torch.stack([one.kl_of[site] for one in terms]).mean() for site in terms[0].kl_of}
    kl = float(_mean([one.kl for one in terms], [1] * len(terms)))
    likelihood = float(_mean([one.log_likelihood for one in terms], sizes))
    weight = 1.0 if kl_weight is None else kl_weight
    return {
        "loss": weight * kl - likelihood,
        "expected_log_likelihood": likelihood,
        "kl": kl,
        "kl_weight": weight,
        "learning_rate": float("nan"),
        "kl_of": kl_by_tensor(model, kl_of),
        "scores": [],
        **inclusion_record(objective.guide),
        "seconds": float("nan"),
    }


def _mean(values: list[Tensor], sizes: list[int]) -> Tensor:
    return torch.stack([value * size for value, size in zip(values, sizes, strict=True)]).sum() / sum(sizes)


def _kl_weight(objective: Objective) -> float | None:
    """The factor on the KL term in the last call of the objective; None where it was never called."""
    return None if objective.latest is None else objective.latest.kl_weight


def _settings(objectives: list[Objective], records: list[Record | None]) -> dict[str, Any]:
    """What is known of the loops; None for what nobody has told."""
    one, recorded = objectives[0], records[0]
    first = next(one.model.network.parameters())
    weight = _kl_weight(one)
    found: dict[str, Any] = {
        "guide": one.guide.choice,
        "own_loop": True,
        "steps": None,
        "epochs": None,
        "batch_size": None,
        "learning_rate": None,
        "optimizer": None,
        "schedule": None,
        "seed": None,
        "precision": "bfloat16" if one.gradient.autocast is torch.bfloat16 else str(first.dtype).removeprefix("torch."),
        "device": str(first.device),
        "kl_weight": weight,
        "kl_warmup": None,
        "tempered": None if weight is None else weight != 1.0,
        "particles": one.gradient.particles,
        "seconds": None,
    }
    if recorded is not None and recorded.state.step:
        state = recorded.state
        found |= {
            "steps": state.step,
            "epochs": state.epoch or None,
            "kl_weight": recorded.kl_weight,
            "kl_warmup": recorded.weight_since / state.step,
            "tempered": any(each is not None and each.kl_weight != 1.0 for each in records),
            "seconds": sum(each.seconds for each in records if each is not None),
        }
    if recorded is not None and recorded.optimizer is not None:
        optimizer = recorded.optimizer
        found |= {"optimizer": type(optimizer).__name__.lower(), "learning_rate": optimizer.defaults.get("lr")}
    return found
