"""A record of a training loop of one's own, of what `fit` records of its own loop."""

from __future__ import annotations

import math
import time
from collections.abc import Sequence
from typing import Any

import torch

from bayesprune.inference.objective.objective import Evaluation, Objective, Terms
from bayesprune.inference.rules.rule import Rule, Taken
from bayesprune.inference.watching.callbacks import Callback, FitState, checked_steering
from bayesprune.inference.watching.pruning_trace import inclusion_record, kl_by_tensor, scale_record

__all__ = ["Record"]

MOST = 2000
"""Iterates that are kept at most: then every two of them become one."""


class Record:
    """Records a training loop of one's own, so that `Fit.of` can say whether it converged.

    Call ``record.step()`` after each step of the optimizer and, where there are epochs, ``record.epoch()`` after each
    of them. It takes no random numbers and changes nothing.

    Args:
        objective: What `bp.objective` made.
        optimizer: The torch optimizer, whose learning rate is recorded; default None: it is recorded as unknown.
        callbacks: `Callback`s, called in order as by `fit`, such as `TensorBoard`. They are told of 0 steps and 0
            epochs in all, which is to say that nobody knows. Their `stop` is for the loop to obey
            (``record.state.stop``). Default none.
        rules: Rules that work in a loop of one's own (`Rule.in_own_loops`), such as `IterateAverage`; default none.
        restart: Number of this loop among several, from 0; default 0. Callbacks are told.
        restarts: How many there are; default 1.

    Attributes:
        state: The `FitState` that callbacks see, with ``history`` and ``iterates``.
        seconds: From the making of the record to the last step.

    Raises:
        ValueError: If the objective is none, or the optimizer is no torch optimizer.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer | None = None,
        callbacks: Sequence[Callback] = (),
        restart: int = 0,
        restarts: int = 1,
        rules: Sequence[Rule] = (),
    ) -> None:
        if not isinstance(objective, Objective):
            raise ValueError(f"Record takes what bp.objective(bnn, guide) returns, not {type(objective).__name__}")
        if optimizer is not None and not isinstance(optimizer, torch.optim.Optimizer):
            raise ValueError(
                f"optimizer= takes a torch optimizer, whose learning rate is recorded, not {type(optimizer).__name__}: "
                "leave it out for an optimizer of Pyro's"
            )
        watchers, at_work = checked_steering(callbacks, rules)
        for rule in at_work:
            if not rule.in_own_loops:
                raise ValueError(f"{type(rule).__name__} is for fit alone, which knows its steps: leave it out here")
        self.objective, self.optimizer, self._callbacks = objective, optimizer, watchers
        self.state = FitState(objective, optimizer, restart, restarts, 0, 0)  # type: ignore[arg-type]  # None: unknown
        self.seconds, self.kl_weight, self.weight_since = 0.0, float("nan"), 0
        self._began = self._epoch_began = time.perf_counter()
        self._seen: Evaluation | None = None
        self._every, self._chunk, self._has_ended = 1, list[float](), False
        self._begin_epoch()
        self.state.rules = {rule.name: rule.begin(self.state) for rule in at_work}
        for callback in self._callbacks:
            callback.on_fit_start(self.state)

    def step(self, loss: float | torch.Tensor | None = None) -> None:
        """Records a step of the optimizer.

        Args:
            loss: The loss in full-data nats: what `SVI.step` returned. Default None: that of the last call of
                ``objective(x, y)`` with gradients, whose expected log-likelihood, KL term and KL weight are known too.
                Of a loss that is given, the KL weight is taken for 1, and its KL term is computed from the guide.

        Raises:
            ValueError: If no loss is given and ``objective(x, y)`` has not been called with gradients since the last
                step, or the loss is that of ``objective(x, y)`` divided by the number of data.
        """
        loss = loss.detach() if torch.is_tensor(loss) else loss  # it may have a graph
        value, found = None if loss is None else float(loss), self.objective.latest
        if found is self._seen or (value is not None and not math.isclose(float(found.loss), value, rel_tol=1e-6)):  # type: ignore[union-attr]
            found = None  # the loss is another one
        else:
            self._seen = found
        size = self.objective.model.data_size
        latest = self.objective.latest
        if found is None and latest is not None and latest is not self._seen and size > 1:
            assert value is not None
            if math.isclose(value * size, float(latest.loss), rel_tol=1e-4):
                raise ValueError(
                    "record.step() was given the loss divided by the number of data: leave it out, as the loss of "
                    "objective(x, y) is known, or give it in nats of all the data"
                )
        if found is None and value is None:
            raise ValueError(
                "there is no loss to record: call objective(x, y) with gradients before record.step(), or give the "
                "loss, record.step(svi.step(x, y))"
            )
        state = self.state
        state.step += 1
        if found is not None:
            likelihood, kl = float(found.log_likelihood), float(found.kl)
            negative_elbo, self._kl_of = kl - likelihood, found.kl_of
            self._add(float(found.loss), likelihood, kl)
            weight = found.kl_weight
        else:
            assert value is not None
            negative_elbo, weight = value, 1.0
            self._losses.append(value)
        if weight != self.kl_weight:
            self.kl_weight, self.weight_since = weight, state.step - 1
        state.kl_weight, state.kl_warmup = weight, self.weight_since / state.step
        self._chunk.append(negative_elbo)
        if len(self._chunk) >= self._every:
            if found is None:
                self._look_at_kl()
            self._keep_iterate()
        self.seconds = time.perf_counter() - self._began
        nothing, nats = torch.empty(0), torch.tensor(negative_elbo)
        for rule in state.rules.values():
            rule.after_step(Taken(state.step, nothing, nothing, Terms(nats, nats * float("nan"), nats * float("nan"))))
        for callback in self._callbacks:
            callback.on_step(state)

    def epoch(self, **validation: float) -> None:
        """Records the end of an epoch, of whatever length.

        Args:
            **validation: Scores on held-out data by name, such as ``nll=0.3, accuracy=0.9``; the same ones each time.

        Raises:
            ValueError: If no step was recorded since the last one, or the scores are others than the last time.
        """
        if not self._losses:
            raise ValueError("an epoch has no steps: call record.step() after each step of the optimizer")
        scores = {name: float(value) for name, value in validation.items()}
        known = self.state.history[-1]["scores"] if self.state.history else list(scores)
        if known != list(scores):
            raise ValueError(
                f"record.epoch() was given the scores {', '.join(scores) or 'none'} after {', '.join(known) or 'none'}"
                ": give the same ones after every epoch"
            )
        if not self._kls:
            self._look_at_kl()
        mean_loss, mean_kl = _mean(self._losses), _mean(self._kls)
        rate = float("nan") if self.optimizer is None else float(self.optimizer.param_groups[0]["lr"])
        row: dict[str, Any] = {
            "loss": mean_loss,
            "expected_log_likelihood": _mean(self._likelihoods) if self._likelihoods else mean_kl - mean_loss,
            "kl": mean_kl,
            "kl_weight": self.kl_weight,
            "learning_rate": rate,
            "kl_of": kl_by_tensor(self.objective.model, self._kl_of),
            "scores": list(scores),
            **inclusion_record(self.objective.guide),
            **{f"validation_{name}": value for name, value in scores.items()},
        }
        now = time.perf_counter()
        row["seconds"], self._epoch_began = now - self._epoch_began, now
        self.state.epoch += 1
        for rule in self.state.rules.values():
            rule.after_epoch()
        told = {key: value for rule in self.state.rules.values() for key, value in rule.row().items()}
        self.state.history.append(row | told | {"told": list(told)})
        self._begin_epoch()
        for callback in self._callbacks:
            callback.on_epoch(self.state)

    def end(self) -> None:
        """Tells rules and callbacks that the loop has ended."""
        for rule in () if self._has_ended else self.state.rules.values():
            rule.end()
        self._has_ended = True
        for callback in self._callbacks:
            callback.on_fit_end(self.state)
        self._callbacks = []

    def __enter__(self) -> Record:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def _begin_epoch(self) -> None:
        self._losses, self._likelihoods, self._kls = list[float](), list[float](), list[float]()
        self._kl_of = dict[str, torch.Tensor]()

    def _add(self, loss: float, likelihood: float, kl: float) -> None:
        self._losses.append(loss)
        self._likelihoods.append(likelihood)
        self._kls.append(kl)

    def _look_at_kl(self) -> None:
        """Computes the KL term of a step of which only the loss is known."""
        device = next(self.objective.model.network.parameters()).device
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(self.state.step)
            self._kl_of = self.objective.kl_terms()
        self._kls.append(float(torch.stack(list(self._kl_of.values())).sum()))

    def _keep_iterate(self) -> None:
        iterates = self.state.iterates
        mean, self._chunk = _mean(self._chunk), []
        iterates.append({"step": self.state.step, "negative_elbo": mean, **scale_record(self.objective.guide)})
        if len(iterates) >= MOST:
            pairs = zip(iterates[::2], iterates[1::2], strict=True)
            iterates[:] = [{**b, "negative_elbo": 0.5 * (a["negative_elbo"] + b["negative_elbo"])} for a, b in pairs]
            self._every *= 2


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
