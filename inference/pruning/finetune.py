"""Fine-tuning of a pruned or compact network: maximum likelihood, with its zeros held."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from bayesprune.inference.data.batches import Batches, Data
from bayesprune.inference.data.data_checks import check_examples, check_validation, targets_check
from bayesprune.inference.data.trainable_batch import NothingTrainableError, TrainableBatches, check_trainable
from bayesprune.inference.guides.finite_parameters import NonFiniteLossError
from bayesprune.inference.pruning.amounts import matching
from bayesprune.inference.pruning.iterative import IterativePruning
from bayesprune.inference.pruning.prune_again import prune_again
from bayesprune.inference.pruning.pruned_scores import gone_layers
from bayesprune.inference.pruning.ranking import Ranking
from bayesprune.inference.pruning.report import PruneResult, report_of
from bayesprune.inference.pruning.stalled import Stalled
from bayesprune.inference.rules.schedules import Schedule, schedule_named
from bayesprune.inference.training.fit_arguments import resolve_device
from bayesprune.inference.training.optimizers import OptimizerChoice, optimizer_for
from bayesprune.models.checks.given_numbers import checked_seed, real_number, whole_number
from bayesprune.models.likelihoods.likelihood import Likelihood
from bayesprune.models.networks.evaluation_mode import begin_training, evaluation_mode
from bayesprune.models.networks.outputs import outputs_at
from bayesprune.models.networks.placing import like
from bayesprune.models.units.compact import CompactResult

__all__ = ["finetune"]

Result = TypeVar("Result", PruneResult, CompactResult)


@dataclasses.dataclass(frozen=True)
class Stopping:
    """When training ends before its last epoch.

    Attributes:
        rule: Says so of scores.
        held_out: The validation data that are scored, on the network's device.
    """

    rule: Stalled
    held_out: tuple[Tensor, Tensor]


@torch.inference_mode(False)
@torch.enable_grad()
def finetune(
    result: Result,
    data: Data,
    epochs: int,
    *,
    learning_rate: float = 1e-3,
    batch_size: int = 128,
    optimizer: OptimizerChoice = "adam",
    schedule: str | Schedule = "cosine",
    validation: tuple[Tensor, Tensor] | None = None,
    likelihood: Likelihood | None = None,
    seed: int = 0,
    device: str = "auto",
    patience: int | None = None,
    min_gain: float = 0.0,
    pruning: IterativePruning | None = None,
) -> Result:
    """Trains a pruned or compact network further by maximum likelihood, with its zeros held.

    There is no prior and no posterior any more: the loss is the mean negative log-likelihood, and what comes out is
    one network. Held are, of a pruned network, the weights that its masks leave out; of a compact network, the zeros
    inside its weight tensors (those of two or more dimensions). They are zero after every step, whatever momentum or
    weight decay the optimizer has. All else that requires gradients is trained: kept weights, biases,
    normalisation, and what the likelihood learns (the scale of a `Normal`); running statistics of batch
    normalisation follow by their momentum. Layers that were held in evaluation mode in the fit stay so;
    `result.network.train()` lets them go.

    Args:
        result: What `prune` or `compact` returned; it is left as it was.
        data: Training data: `(x, y)` tensors, a `Dataset` or a `DataLoader`. All of it is permuted each epoch.
        epochs: Passes over the data; with `patience` at most.
        learning_rate: Of the two named optimizers; default 1e-3.
        batch_size: Examples a step; default 128. A batch of one example that batch normalisation cannot be trained on
            is left out, and counts as a step.
        optimizer: ``"adam"`` (default), ``"sgd"`` (momentum 0.9), or a callable from parameter groups to a torch
            optimizer.
        schedule: Factor on the learning rate: ``"cosine"`` (default: from 1 to 0), ``"hold-cosine"``, ``"constant"``,
            ``"warmup-cosine"``, or a callable of progress in [0, 1].
        validation: `(x, y)` tensors scored before and after, for the report; default None.
        likelihood: What the outputs mean; default that of the result.
        seed: Of the order of the data and of dropout; default 0. The global random state is left as it was.
        device: Where to train: ``"auto"`` (default: the GPU where there is one), ``"cpu"``, ``"cuda"``, ...
        patience: Epochs in a row in which the validation scores do not improve after which training ends; default None:
            it takes all epochs. The scores before training are the first to be improved on, and the last network is
            kept, not the best.
        min_gain: What an improvement is at least: of the accuracy (a fraction), or of the nll in nats an example where
            there is none; default 0: any.
        pruning: A pruned network is pruned further step by step, and trained in this way after each of the steps, by an
            optimizer and a schedule that begin anew; default None. Seeds count up from `seed`.

    Returns:
        A result of the same kind with the trained network, in evaluation mode and on the device that the given one
        is on, the likelihood as it was learned, and a report that says how it was fine-tuned. A compact result's
        plan and its difference from the pruned network stay those of the compaction.

    Raises:
        ValueError: For bad input, before training starts.
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    epochs, batch_size, seed = (
        whole_number("epochs", epochs),
        whole_number("batch_size", batch_size),
        checked_seed(seed),
    )
    patience = None if patience is None else whole_number("patience", patience)
    min_gain = real_number("min_gain", min_gain)
    if patience is not None and validation is None:
        raise ValueError("patience= waits for validation scores: give validation=(x, y), or leave patience= out")
    if min_gain < 0.0 or (min_gain > 0.0 and patience is None):
        raise ValueError(f"min_gain= is a gain of validation scores, at least 0, beside patience=, not {min_gain:g}")
    learning_rate = real_number("learning_rate", learning_rate) if isinstance(optimizer, str) else learning_rate
    likelihood = _checked(result, likelihood)
    if pruning is not None:
        more = {
            "learning_rate": learning_rate, "batch_size": batch_size, "optimizer": optimizer, "schedule": schedule,
            "validation": validation, "likelihood": likelihood, "device": device, "patience": patience,
            "min_gain": min_gain,
        }  # fmt: skip
        return _step_by_step(result, pruning, data, epochs, seed, more)
    place = resolve_device(device)
    network, likelihood = copy.deepcopy(result.network), copy.deepcopy(likelihood)
    home, dtype = _reference(network).device, _reference(network).dtype
    batches = Batches(data, batch_size, place, dtype)
    network, likelihood = network.to(place), likelihood.to(place, dtype)
    _check_data(network, likelihood, batches)
    held_out = _held_out(network, likelihood, validation)
    groups = _groups(network, likelihood)
    torch_optimizer = optimizer_for(groups, optimizer, learning_rate)
    factor = schedule_named(schedule, epochs)
    before = None if held_out is None else _scores(network, likelihood, *held_out)
    with torch.random.fork_rng(devices=[place] if place.type == "cuda" else []):
        torch.manual_seed(seed)
        stalled = None
        if patience is not None and held_out is not None and before is not None:
            stalled = Stopping(Stalled(patience, min_gain, before), held_out)
        held = _held(network, result)
        losses = _train(network, likelihood, batches, epochs, torch_optimizer, factor, held, stalled)
    after = None if held_out is None else _scores(network, likelihood, *held_out)
    how = _words(len(losses), optimizer, learning_rate, losses, before, after)
    network, likelihood = network.to(home).eval(), likelihood.to(home)
    return dataclasses.replace(result, network=network, likelihood=likelihood, report=_noted(result, network, how))


def _train(
    network: nn.Module,
    likelihood: Likelihood,
    batches: Batches,
    epochs: int,
    optimizer: torch.optim.Optimizer,
    schedule: Callable[[float], float],
    held: list[tuple[nn.Parameter, Tensor]],
    stopping: Stopping | None,
) -> list[float]:
    """Trains in place; returns the mean loss of each epoch, in nats per example."""
    rates = [group["lr"] for group in optimizer.param_groups]
    steps, step, losses = batches.steps_in(epochs), 0, []
    begin_training(network)
    check_trainable(network, batches)
    trainable = TrainableBatches()
    for _ in range(epochs):
        total, examples = 0.0, 0
        for x, y in batches:
            if not trainable(network, x):
                step += 1  # it counts, as in `fit`, so that the schedule comes to its end
                continue
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * schedule(step / steps)
            optimizer.zero_grad(set_to_none=True)
            loss = -likelihood.log_prob(network(x), y).mean()
            loss.backward()
            for parameter, zeros in held:
                if parameter.grad is not None:  # for optimizers that look at all gradients together
                    parameter.grad.masked_fill_(zeros, 0.0)
            optimizer.step()
            with torch.no_grad():
                for parameter, zeros in held:  # moments and weight decay move what has no gradient
                    parameter.masked_fill_(zeros, 0.0)
            step += 1
            if not abs(value := float(loss.detach())) < float("inf"):
                raise NonFiniteLossError(
                    f"the loss became non-finite at step {step} of fine-tuning: lower learning_rate"
                )
            total, examples = total + value * len(x), examples + len(x)
        if not examples:
            raise NothingTrainableError
        losses.append(total / examples)
        if stopping is not None and stopping.rule.is_over(_scores(network, likelihood, *stopping.held_out)):
            break
    return losses


def _step_by_step(
    result: Any, pruning: IterativePruning, data: Data, epochs: int, seed: int, more: dict[str, Any]
) -> Any:
    """Prunes and trains in turn."""
    if not isinstance(result, PruneResult) or not isinstance(pruning, IterativePruning):
        raise ValueError(
            "pruning= takes IterativePruning(...), for what prune has returned: a compact network has no masks to prune"
        )
    names = matching(pruning.only, list(result.masks))
    steps = pruning.steps({name: result.masks[name] for name in names})
    if not steps:
        raise ValueError(
            f"there is nothing to prune down to IterativePruning(down_to={pruning.down_to:g}): the network has no more "
            "weights than that; leave pruning= out"
        )
    for number, kept in enumerate(steps):
        left = sum(int(result.masks[name].sum()) for name in names)
        how = Ranking.of(
            count=left - kept, per=pruning.per, criterion=pruning.criterion, only=pruning.only, data=data, seed=seed
        )
        result = finetune(prune_again(result, how), data, epochs, seed=seed + number, **more)
    return result


def _held(network: nn.Module, result: PruneResult | CompactResult) -> list[tuple[nn.Parameter, Tensor]]:
    """Parameters of the network that have zeros to hold, and where these are."""
    held = []
    for name, parameter in network.named_parameters():
        if isinstance(result, PruneResult):
            zeros = ~result.masks[name] if name in result.masks else None
        else:
            zeros = parameter.detach() == 0 if parameter.ndim >= 2 else None
        if zeros is not None and bool(zeros.any()):
            held.append((parameter, zeros.to(parameter.device)))
    return held


def _checked(result: PruneResult | CompactResult, likelihood: Likelihood | None) -> Likelihood:
    """Refuses what is no result; returns the likelihood that is asked for."""
    if not isinstance(result, (PruneResult, CompactResult)):
        raise ValueError(
            f"finetune takes what prune or compact returned, not a {type(result).__name__}: without the masks it "
            "would not know which zeros to hold"
        )
    chosen = likelihood if likelihood is not None else result.likelihood
    if chosen is None:
        raise ValueError("this result has no likelihood: pass one, e.g. likelihood=Categorical()")
    if not isinstance(chosen, Likelihood):
        raise ValueError(f"likelihood= takes a likelihood such as Categorical(), not a {type(chosen).__name__}")
    return chosen


def _reference(network: nn.Module) -> Tensor:
    for parameter in network.parameters():
        if parameter.requires_grad:
            return parameter
    raise ValueError("no parameter of the network requires gradients, so there is nothing to fine-tune")


def _check_data(network: nn.Module, likelihood: Likelihood, batches: Batches) -> None:
    x, y = batches.tensors if batches.tensors is not None else batches.first()
    with evaluation_mode(network):
        outputs = check_examples(network, likelihood, x, y)
    batches.expect(None, targets_check(likelihood, outputs))


def _held_out(network: nn.Module, likelihood: Likelihood, validation: Any) -> tuple[Tensor, Tensor] | None:
    if validation is None:
        return None
    if not isinstance(validation, (tuple, list)) or len(validation) != 2 or not all(map(torch.is_tensor, validation)):
        raise ValueError("validation must be a tuple (x, y) of tensors")
    x, y = (like(part, _reference(network)) for part in validation)
    check_validation(network, likelihood, (x, y))
    return x, y


def _groups(network: nn.Module, likelihood: Likelihood) -> list[dict[str, Any]]:
    groups: list[dict[str, Any]] = [
        {"name": name, "params": [p for p in module.parameters() if p.requires_grad]}
        for name, module in (("network", network), ("likelihood", likelihood))
    ]
    return [group for group in groups if group["params"]]


@torch.no_grad()
def _scores(network: nn.Module, likelihood: Likelihood, x: Tensor, y: Tensor) -> dict[str, float]:
    """The nll in nats per example, and the likelihood's own scores."""
    outputs = outputs_at(network, {}, x)
    nll = -float(likelihood.scored.log_prob(outputs, y).mean())
    return {"nll": nll, **likelihood.scores(likelihood.predict(outputs), y)}


def _words(
    epochs: int,
    optimizer: OptimizerChoice,
    learning_rate: float,
    losses: list[float],
    before: dict[str, float] | None,
    after: dict[str, float] | None,
) -> str:
    """How it was fine-tuned and what came of it, e.g. "5 epochs, adam, learning rate 0.001, ..."."""
    by = f"{optimizer}, learning rate {learning_rate:g}" if isinstance(optimizer, str) else "an optimizer of one's own"
    parts = [f"{epochs} epoch{'s' if epochs > 1 else ''}", by, f"training nll {losses[0]:.4g} to {losses[-1]:.4g}"]
    if before is not None and after is not None:
        parts += [f"validation {name} {before[name]:.4g} to {after[name]:.4g}" for name in before]
    return ", ".join(parts)


def _noted(result: PruneResult | CompactResult, network: nn.Module, how: str) -> Any:
    """The report with the fine-tuning in words; after earlier ones, where there were any."""
    before = result.report.finetuned
    text = how if before is None else f"{before}; then {how}"
    if not isinstance(result, PruneResult):
        return dataclasses.replace(result.report, finetuned=text)
    old = result.report
    counted = report_of(old.rule, old.criterion, old.kind, network, result.masks)  # kept zeros may have moved
    counts = {name: getattr(counted, name) for name in ("nonzero", "sparsity", "per_tensor")}
    notes = tuple(gone_layers(result.masks))  # what pruning cost is no longer so
    statistics = old.batch_normalisation
    if statistics is not None and before is None:
        statistics += ", and followed the fine-tuning since"
    return dataclasses.replace(old, **counts, finetuned=text, notes=notes, batch_normalisation=statistics)
