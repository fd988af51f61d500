"""How the steps of a fit are executed, plainly or fused, and why.

The plain execution starts at once; the fused one costs a trace, and a compilation that only a long fit repays.
`Stepper` times a few evaluations before the first step, and decides.
"""

from __future__ import annotations

import os
import shutil
import statistics
import time
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Literal, overload

import torch
from torch import Tensor

from bayesprune.inference.execution.device_numbers import numbers_made_on
from bayesprune.inference.execution.execution_report import ExecutionReport
from bayesprune.inference.execution.executions import EXECUTIONS
from bayesprune.inference.execution.fused import FusedStep
from bayesprune.inference.execution.objective_graph import UntraceableError, trace
from bayesprune.inference.execution.recomputation import without_recomputation
from bayesprune.inference.execution.weight_gradient import with_shifts
from bayesprune.inference.guides.functional import GivenNoise
from bayesprune.inference.objective.objective import Objective, Terms
from bayesprune.inference.runtime.one_process import OneProcess
from bayesprune.inference.runtime.runtime import Runtime
from bayesprune.models.checks.renamed_arguments import takes_old_names
from bayesprune.models.networks.running_statistics import frozen_statistics

_SAVED = 0.4
"""Share of a plain step that a compiled one is expected to save; 0.2 (convolutions) to 0.7 were measured
(benchmarks/step_cost.py)."""
_SECONDS_AT_LEAST, _SECONDS_PER_NODE = 5.0, 0.04
"""What a compilation is expected to cost on one core: at least, and for every operation of the graph."""
_EVALUATIONS = 4
"""Evaluations timed plainly before the decision; the first ones warm up."""
_TIMED = 50
"""Steps timed in the fused execution, for the report."""
_MARGIN = 1.5
"""The expected saving has to be this many times the expected cost: neither is known well."""
_TRACE_SECONDS = 1.0
"""What a trace is expected to cost until one has been measured: all that a GPU has to be repaid for."""
_FIRST_LOOK = 32
"""Steps since a change of the model after which it is asked whether a graph would pay; again at twice as many."""
_CHECK_EVERY = 500
"""Steps between two comparisons of the fused execution with the plain one."""
_AGREEMENT = {torch.float64: 1e-9, torch.float32: 1e-3}
"""Largest difference of the two executions' losses, relative to their parts, that rounding explains."""
_AGREEMENT_AUTOCAST = 0.03


class Stepper:
    """Takes the optimizer steps of one restart, by the execution that is asked for or that pays.

    Args:
        objective: The objective.
        optimizer: Its optimizer.
        steps: Steps that are to come.
        execution: ``"plain"``, ``"fused"`` or ``"auto"`` (default): fused where compilation is expected to be repaid.
            Its old name ``path`` is taken for one release, with a `FutureWarning`.
        compiled: Whether the fused execution is compiled; default None: where it pays.
        clip: Largest norm of the gradient of the loss divided by `data_size`; default None: no limit.
        why: The reason that is reported where `execution` is ``"plain"``.
        changing: Whether the model will change while it is trained (`go_on_with`); default False. A graph then has to
            be repaid by as many steps as the model has lasted, since nothing else is known of how long it will.
        runtime: Where steps are taken; default None: in this process alone. Of several processes a graph ends with the
            gradient, and the optimizer takes the step with the mean of all.

    Attributes:
        report: Which execution it is, and why.

    Raises:
        ValueError: For an unknown execution; in the first step, if the fused one is asked for and cannot be taken, or
            if the network runs layers again in the backward pass whose weights were drawn.
    """

    @takes_old_names
    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        steps: int,
        execution: str = "auto",
        compiled: bool | None = None,
        clip: float | None = None,
        why: str = "it was asked for",
        changing: bool = False,
        runtime: Runtime | None = None,
    ) -> None:
        if execution not in EXECUTIONS:
            raise ValueError(f"execution {execution!r} is unknown: expected one of {', '.join(EXECUTIONS)}")
        self.objective, self.optimizer, self.steps = objective, optimizer, steps
        self.execution, self.compiled, self.clip = execution, compiled, clip
        first = next(objective.parameters(), torch.empty(0))
        self.runtime: Runtime = OneProcess(first.device, first.dtype) if runtime is None else runtime
        self.report = ExecutionReport()
        self._fused: FusedStep | None = None
        self._decided = False
        self._times: list[float] = []
        # Steps with the model as it is, after how many of them to ask (again), and for how many at least the model is
        # expected to last; None: for the rest of the fit.
        self._lasted, self._look_at, self._expected = 0, 0, 0 if changing else None
        # What the graph before has saved and cost, which says more than an expectation does.
        self._saved, self._trace_seconds, self._compile_seconds = _SAVED, _TRACE_SECONDS, 0.0
        if changing and execution == "auto":
            self._look_at = _FIRST_LOOK
        if execution == "plain":
            self._stay(why)

    @overload
    def step(
        self, x: Tensor, y: Tensor, kl_weight: float, weight_gradient: Literal[False] = False, weight: float = 1.0
    ) -> Terms: ...

    @overload
    def step(
        self, x: Tensor, y: Tensor, kl_weight: float, weight_gradient: Literal[True], weight: float = 1.0
    ) -> tuple[Terms, dict[str, Tensor]]: ...

    def step(
        self, x: Tensor, y: Tensor, kl_weight: float, weight_gradient: bool = False, weight: float = 1.0
    ) -> Terms | tuple[Terms, dict[str, Tensor]]:
        """Takes one step; the host does not wait for the device in it, but for checks and the few steps timed.

        Args:
            x: Inputs, `(batch, ...)`.
            y: Targets.
            kl_weight: Factor on the KL term.
            weight_gradient: Whether the step returns the dense gradient of the weights too; it is a plain one then.
                Default False.
            weight: Factor on the likelihood of these examples, such that the mean over all processes is that of the
                whole batch. Default 1.

        Returns:
            The terms before the step, detached, in tensors that later steps leave alone: the mean over all processes,
            but for outputs. With `weight_gradient` the gradient beside them, `(out, in, ...)` by name of tensor with a
            prior, the mean too: that of the loss divided by `data_size` with respect to the weights that the network
            ran with, after masks and gates and before `clip`. The loss depends on those by the likelihood only: what
            the prior adds acts on the latents. With several particles, each with weights of its own, it is the mean of
            theirs.
        """
        if self._fused is not None and not self._fused.traced.holds:
            self.go_on_with(self.objective, self.optimizer)
        if not self._decided and self._lasted >= self._look_at:
            self._decide(x, y, kl_weight)
        self._lasted += 1
        if self._fused is not None and not weight_gradient and self._fused.traced.fits(x, y):
            return self._fused_step(self._fused, x, y, kl_weight, weight)
        if self._fused is not None:
            self._fused.release()
        if weight_gradient:
            found: Terms | tuple[Terms, dict[str, Tensor]] = self._with_gradient(x, y, kl_weight, weight)
        else:
            found = self._plain_step(x, y, kl_weight, weight)
        if self._fused is not None:
            self._fused.resume(taken=1)
        self.report.plain_steps += 1
        return found

    def go_on_with(self, objective: Objective, optimizer: torch.optim.Optimizer, for_good: bool = False) -> None:
        """Takes further steps with another objective and optimizer.

        A graph of the model before is of no use any more. Another one is traced, and compiled, where the steps until
        the next change are expected to repay it: as many as the model before or this one has lasted.

        Args:
            objective: The objective.
            optimizer: Its optimizer.
            for_good: Whether the model will change no more, so that all steps to come repay the graph; default False.
        """
        if self._fused is not None:
            self._fused.release()
            self._fused, self._decided = None, False
            self._learn_costs()
        self.objective, self.optimizer = objective, optimizer
        self._expected = None if for_good else self._lasted
        self._look_at = _FIRST_LOOK if self.execution == "auto" and not for_good else 0
        self._lasted = 0

    def finish(self) -> ExecutionReport:
        """Leaves the optimizer as the plain execution would, and completes the report."""
        if self._fused is not None:
            self._fused.release()
        report = self.report
        if self._times:
            report.fused_ms = 1e3 * statistics.median(self._times)
        if report.compiled and report.graphs == 1 and report.plain_ms > report.fused_ms > 0:
            report.break_even = round(1e3 * report.compile_seconds / (report.plain_ms - report.fused_ms))
        return report

    # -- inside ----------------------------------------------------------------------------------------------

    @property
    def _taken(self) -> int:
        """Steps taken so far, also before an interruption."""
        return self.report.plain_steps + self.report.fused_steps

    def _plain_step(
        self, x: Tensor, y: Tensor, kl_weight: float, weight: float, noise: Sequence[Tensor] | None = None
    ) -> Terms:
        self.optimizer.zero_grad(set_to_none=True)
        with self.runtime.noise(self._taken):
            with numbers_made_on(x.device), nullcontext() if noise is None else GivenNoise(noise):
                terms = self.objective.terms(x, y, kl_weight if weight == 1.0 else kl_weight / weight)
            with self._watched(terms) if self.report.plain_steps == 0 else nullcontext():
                loss = terms.loss / self.objective.model.data_size
                (loss if weight == 1.0 else weight * loss).backward()
        terms = replace(
            terms, loss=terms.loss.detach(), kl_of={n: t.detach() for n, t in terms.kl_of.items()}, weights={}
        )
        terms = self._of_all(terms, kl_weight, weight)
        if self.clip is not None:
            parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
            torch.nn.utils.clip_grad_norm_(parameters, self.clip)
        self.optimizer.step()
        return terms

    def _of_all(self, terms: Terms, kl_weight: float, weight: float, of_gradients: float = 1.0) -> Terms:
        """Makes gradients their mean over all processes, and returns terms whose numbers are."""
        if self.runtime.world == 1:
            return terms
        held = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
        numbers = torch.stack([weight * terms.log_likelihood, terms.kl, *terms.kl_of.values()])
        log_likelihood, kl, *parts = self.runtime.reduce(held, numbers, of_gradients).unbind()
        kl_of = dict(zip(terms.kl_of, parts, strict=True))
        return replace(terms, loss=kl_weight * kl - log_likelihood, log_likelihood=log_likelihood, kl=kl, kl_of=kl_of)

    def _watched(self, terms: Terms) -> AbstractContextManager[None]:
        """Where the first backward pass of such terms belongs."""
        model = self.objective.model
        return without_recomputation(model.network, {*model.priors, *terms.weights})

    def _with_gradient(self, x: Tensor, y: Tensor, kl_weight: float, weight: float) -> tuple[Terms, dict[str, Tensor]]:
        """A plain step, and the gradient of the weights."""
        model = self.objective.model
        own = self.objective.outputs_drawn.draws_of_weights()
        with own, with_shifts(model.network, list(model.priors)) as shifts:
            terms = self._plain_step(x, y, kl_weight, weight)
        self.runtime.reduce(list(shifts.values()), terms.kl.new_empty(0))
        # A tensor that the network did not read has none.
        return terms, {name: torch.zeros_like(at) if at.grad is None else at.grad for name, at in shifts.items()}

    def _fused_step(self, fused: FusedStep, x: Tensor, y: Tensor, kl_weight: float, weight: float) -> Terms:
        with self.runtime.noise(self._taken):
            found = self._run_graph(fused, x, y, kl_weight if weight == 1.0 else kl_weight / weight)
        if found is None:  # the graph is left for good
            plain = self._plain_step(x, y, kl_weight, weight, fused.noise)
            self.report.plain_steps += 1
            return plain
        if fused.gradient_only:
            found = self._of_all(found, kl_weight, weight, weight)
            fused.take_step()
        self.report.fused_steps += 1
        return found

    def _run_graph(self, fused: FusedStep, x: Tensor, y: Tensor, kl_weight: float) -> Terms | None:
        """What the graph comes to, at noise that is left in `fused.noise`; None where it may not be used."""
        number = fused.taken
        # Random numbers inside come in the plain order, but for several particles side by side.
        is_random = fused.traced.has_random_numbers
        is_checked = number % _CHECK_EVERY == 0 and not (is_random and self.objective.gradient.particles > 1)
        if is_checked:
            plain, traced = fused.both_terms(x, y, kl_weight)
            if not self._agree(plain, traced, kl_weight):
                reason = (
                    f"at step {number + 1} of the fused execution its loss is {float(traced.loss):.6g} where the plain "
                    f"one gives {float(plain.loss):.6g}, so the declaration or the network reads something that "
                    "changes during the fit"
                )
                self._leave(fused, reason)
                return None
        clock = time.perf_counter()
        try:
            terms = fused(x, y, kl_weight, fused.noise if is_checked else None)
        except Exception as problem:
            if number > 0 or not self.report.compiled:
                raise
            why = (str(problem).strip() or type(problem).__name__).splitlines()[0][:200]
            if self.execution == "fused":
                raise ValueError(
                    f"execution='fused' cannot be compiled here ({why}): use compiled=False or execution='plain'"
                ) from problem
            self._leave(fused, f"the graph cannot be compiled here ({why})")
            return None
        if is_checked and not is_random and not self._agree(plain, terms, kl_weight):
            how = "compiled" if self.report.compiled else "captured"
            raise RuntimeError(
                f"the fused execution as it was {how} gave a loss of {float(terms.loss):.6g} at step {number + 1} of "
                f"it, where the plain one gives {float(plain.loss):.6g}: fit with execution='plain', and report it"
            )
        fused.taken += 1
        if number == 0 and self.report.compiled:
            self._compile_seconds = self._trace_seconds + time.perf_counter() - clock
            self.report.compile_seconds += time.perf_counter() - clock
        elif number > 2 and len(self._times) < _TIMED:
            float(terms.loss)  # waits for a GPU
            self._times.append(time.perf_counter() - clock)
        return terms

    def _leave(self, fused: FusedStep, reason: str) -> None:
        """Leaves the fused execution; the step is taken by the plain one, at the same noise."""
        fused.release()
        self._stay(reason)
        warnings.warn(str(self.report), UserWarning, stacklevel=5)

    def _agree(self, plain: Terms, fused: Terms, kl_weight: float) -> bool:
        size = float(plain.kl.abs() * kl_weight + plain.log_likelihood.abs())
        allowed = _AGREEMENT_AUTOCAST if self.objective.gradient.autocast else _AGREEMENT.get(plain.loss.dtype, 1e-3)
        difference = abs(float(plain.loss) - float(fused.loss))
        return difference <= allowed * size or not difference < float("inf")  # what is not finite, `fit` reports

    def _stay(self, reason: str) -> None:
        self._decided, self._fused = True, None
        self.report.name, self.report.reason, self.report.compiled = "plain", reason, False

    def _decide(self, x: Tensor, y: Tensor, kl_weight: float) -> None:
        """Chooses the execution before the first step."""
        asked, is_gpu = self.execution == "fused", x.device.type == "cuda"
        steps = self.steps - self.report.fused_steps - self.report.plain_steps
        if self._expected is not None:
            steps = min(steps, max(self._lasted, self._expected))
        seconds = self._time_plain(x, y, kl_weight, steps, once=asked and self.compiled is not None)
        seconds = self.runtime.agreed(seconds)  # so that all processes choose the same
        self.report.plain_ms = 1e3 * seconds
        total = seconds * steps
        reason = "it was asked for" if asked else f"{steps} steps of {self.report.plain_ms:.3g} ms are to come"
        can_compile = is_gpu or shutil.which(_compiler()) is not None
        if not asked and not can_compile:
            self._stay(f"there is no C++ compiler ({_compiler()}), without which the fused execution gains little")
            return
        if not asked and not is_gpu and self._saved * total < _MARGIN * (self._compile_seconds or _SECONDS_AT_LEAST):
            self._stay_for_now(f"{reason}, which do not repay compilation")
            return
        if not asked and is_gpu and self._expected is not None and self._saved * total < _MARGIN * self._trace_seconds:
            self._stay_for_now(f"{reason}, which do not repay about {self._trace_seconds:.1f} s of tracing")
            return
        clock = time.perf_counter()
        try:
            traced = trace(self.objective, x, y)
        except UntraceableError as problem:
            if asked:
                raise ValueError(
                    f"execution='fused' cannot be taken: {problem}; use execution='auto' or 'plain'"
                ) from problem
            self._stay(str(problem))
            return
        self.report.graphs += 1
        self._trace_seconds = time.perf_counter() - clock
        cost = self._compile_seconds or max(_SECONDS_AT_LEAST, _SECONDS_PER_NODE * len(traced.graph.graph.nodes))
        pays = can_compile and self._saved * total > _MARGIN * cost
        compiled = pays if self.compiled is None else self.compiled
        if not asked and not compiled and not is_gpu:
            declined = "without compilation the fused execution gains little"
            unpaid = f"which do not repay about {cost:.0f} s of compilation"
            reason = f"{reason}, {declined if self.compiled is False else unpaid}"
            if self.compiled is False:
                self._stay(reason)
            else:
                self.report.graphs -= 1
                self.report.compile_seconds += self._trace_seconds
                self._stay_for_now(reason)
            return
        if compiled:
            reason += f", and compilation is expected to take {cost:.0f} s"
        elif not can_compile:
            reason += f", not compiled because there is no C++ compiler ({_compiler()})"
        elif self.compiled is None and not is_gpu:
            reason += f", not compiled, which {self.steps} steps would not repay"
        several = self.runtime.world > 1
        self._fused = FusedStep(self.objective, self.optimizer, traced, compiled, self.clip, gradient_only=several)
        self._decided = True
        report = self.report
        report.name, report.reason, report.compiled = "fused", reason, compiled
        report.compile_seconds += time.perf_counter() - clock
        report.plain_tensors, report.from_draw = list(traced.alone), self.objective.estimated_from_draw()

    def _learn_costs(self) -> None:
        """Notes what the steps of a graph have saved, for the decision on the next one."""
        report, times = self.report, self._times
        if times:
            report.fused_ms = 1e3 * statistics.median(times)
        if times and report.compiled and report.plain_ms > 0:
            self._saved = min(max(1.0 - report.fused_ms / report.plain_ms, 0.0), 1.0)
        self._times = []

    def _stay_for_now(self, reason: str) -> None:
        """Takes plain steps, and asks again where the model has lasted for twice as long."""
        self._stay(reason)
        if self._expected is not None:
            self._decided, self._look_at = False, max(_FIRST_LOOK, 2 * self._lasted)

    def _time_plain(self, x: Tensor, y: Tensor, kl_weight: float, steps: int, once: bool) -> float:
        """Seconds of loss and gradient in the plain execution; changes nothing."""
        objective = self.objective
        parameters = [parameter for parameter in objective.parameters() if parameter.requires_grad]
        devices = [x.device] if x.device.type == "cuda" else []
        times: list[float] = []
        while len(times) < (1 if once else _EVALUATIONS):
            clock = time.perf_counter()
            with (
                torch.random.fork_rng(devices=devices),
                frozen_statistics(objective.model.network),
                numbers_made_on(x.device),
            ):
                terms = objective.terms(x, y, kl_weight)
                with self._watched(terms):
                    loss = terms.loss / objective.model.data_size
                    gradients = torch.autograd.grad(loss, parameters, allow_unused=True)
            float(loss.detach())
            del gradients
            times.append(time.perf_counter() - clock)
            if _SAVED * times[-1] * steps < _SECONDS_AT_LEAST:
                break  # clear already
        return min(times)


def _compiler() -> str:
    return os.environ.get("CXX", "g++")
