"""The fused execution: one step of a fit as one graph, compiled where that is asked for.

It does what the plain execution does, loss, gradients and optimizer step, on the same parameters and the same optimizer
state, so that the two can take turns.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from types import FunctionType
from typing import Any

import torch
from torch import Tensor, nn

from bayesprune.inference.execution.cuda_graph import capture
from bayesprune.inference.execution.device_numbers import numbers_made_on
from bayesprune.inference.execution.graph_update import (
    NUMBERS_PER_GROUP,
    fixed_of,
    numbers_of,
    prepare_state,
    rule_of,
    write_step,
)
from bayesprune.inference.execution.objective_graph import Traced
from bayesprune.inference.guides.functional import GivenNoise, RecordNoise
from bayesprune.inference.objective.objective import Objective, Terms
from bayesprune.models.networks.running_statistics import frozen_statistics

_NUMBERS = itertools.count()

_OPTIONS: dict[str, Any] = {"fallback_random": True, "pattern_matcher": False}
_MOST_LEAVES = 32
"""Tensors up to which their optimizer step is part of what is compiled on a CPU."""


class FusedStep:
    """``step(x, y, kl_weight)``: an optimizer step on a batch of the shape for which the objective was traced.

    Args:
        objective: The objective.
        optimizer: A torch optimizer of its parameters. Adam and SGD (see `graph_update.rule_of`) are part of what is
            compiled; any other one takes its own step with the graph's gradients. Parameters that it does not hold get
            their gradient.
        traced: The objective's graph, from `traced.trace`.
        compiled: Whether the graph is compiled by `torch.compile`, in the first step; else PyTorch runs it operation
            by operation. Default True.
        clip: Largest norm of the gradient of the loss divided by `data_size`; default None: no limit.
        gradient_only: Whether a call leaves gradients, and `take_step` has the optimizer take the step with what has
            been made of them; default False.

    Attributes:
        taken: Steps taken, as whoever takes them counts.
    """

    def __init__(
        self,
        objective: Objective,
        optimizer: torch.optim.Optimizer,
        traced: Traced,
        compiled: bool = True,
        clip: float | None = None,
        gradient_only: bool = False,
    ) -> None:
        self.objective, self.optimizer, self.traced = objective, optimizer, traced
        self.compiled, self.clip, self.taken, self.gradient_only = compiled, clip, 0, gradient_only
        self.noise = [torch.empty_like(each) for each in traced.noise]
        self._parameters = list({id(leaf.parameter): leaf.parameter for leaf in traced.leaves}.values())
        groups = optimizer.param_groups
        self._group = [_group_of(leaf.parameter, groups) for leaf in traced.leaves]
        # What the loss does not depend on has no gradient, and then the optimizer neither counts nor changes it.
        known = zip(traced.leaves, traced.moves, self._group, strict=True)
        moving = {id(leaf.parameter) for leaf, moves, group in known if moves and group is not None}
        self._moving = [parameter for parameter in self._parameters if id(parameter) in moving]
        # With a prior outside the graph, gradients are complete only after it, and so the optimizer comes after it.
        # A compiler is slow at many small updates, and they are a small part of a step then.
        in_graph = self._parameters[0].is_cuda or (compiled and len(traced.leaves) <= _MOST_LEAVES)
        in_graph = in_graph and not traced.alone and not gradient_only
        self._clips_in_graph = clip is not None and not traced.alone and not gradient_only
        # What no group holds is moved by another one (probabilities of gates, by a rule), which asks for its gradient.
        self._others = any(moves and at is None for moves, at in zip(traced.moves, self._group, strict=True))
        self._rule = rule_of(optimizer) if in_graph else None
        self._steps = prepare_state(self._rule, optimizer, self._moving) if self._rule is not None else None
        self._rule = self._rule if self._steps is not None else None
        numbers = 1 + NUMBERS_PER_GROUP * len(groups)
        self._drawn_by_guide = _count_draws(objective) if traced.alone else 0
        self._numbers = torch.zeros(numbers, dtype=self._parameters[0].dtype, device=self._parameters[0].device)
        self._run = self._make()

    def __call__(self, x: Tensor, y: Tensor, kl_weight: float, noise: Sequence[Tensor] | None = None) -> Terms:
        """Takes one step, or finds its gradients (`gradient_only`).

        Args:
            x: Inputs, of the shape for which the graph was made.
            y: Targets.
            kl_weight: Factor on the KL term.
            noise: The standard normal draws; default None: new ones, in the order of the plain execution (draws that
                nothing depends on, with local reparameterisation, are left out).

        Returns:
            The terms before the step, without a graph to differentiate.
        """
        self._set_noise(noise)
        if self._rule is None or self._steps is None:
            self._write_numbers(kl_weight)
            return self._step_by_optimizer(x, y, kl_weight)
        self._write_numbers(kl_weight, self._steps + 1)
        with torch.no_grad():
            parts, outputs, gradients = self._run(x, y, ())
            if self._others:
                self._write_gradients(gradients)
        self._steps += 1
        return self._terms(parts, outputs, {}, kl_weight)

    def plain_terms(self, x: Tensor, y: Tensor, kl_weight: float) -> Terms:
        """What the plain execution gives for new noise, which is left in `noise`; nothing is changed."""
        self._set_noise(None, every=True)
        return self._plain_terms(x, y, kl_weight)

    def _plain_terms(self, x: Tensor, y: Tensor, kl_weight: float) -> Terms:
        with (
            torch.no_grad(),
            frozen_statistics(self.objective.model.network),
            numbers_made_on(x.device),
            GivenNoise(self.noise),
        ):
            return self.objective.terms(x, y, kl_weight)

    def both_terms(self, x: Tensor, y: Tensor, kl_weight: float) -> tuple[Terms, Terms]:
        """What the plain execution and the graph give for new noise, which is left in `noise`; nothing is changed.

        Random numbers that are drawn inside are the same in both, and in a step with this noise that follows.
        """
        self._set_noise(None, every=True)
        devices = [x.device] if x.is_cuda else []
        with torch.random.fork_rng(devices=devices):
            plain = self._plain_terms(x, y, kl_weight)
        with torch.random.fork_rng(devices=devices):
            return plain, self.graph_terms(x, y, kl_weight)

    def graph_terms(self, x: Tensor, y: Tensor, kl_weight: float) -> Terms:
        """What the graph gives for the noise in place, run operation by operation; nothing is changed."""
        tensors = [leaf.of(leaf.parameter.detach()) for leaf in self.traced.leaves]
        buffers = [buffer.clone() for buffer in self.traced.buffers]
        with torch.no_grad():
            weights, own = self._priors_outside()
            weight = torch.full_like(self._numbers[0], kl_weight)
            parts, outputs, _ = self.traced.graph(tensors, buffers, self.noise, x, y, weight, weights)
        return self._terms(parts, outputs, own, kl_weight)

    def release(self) -> None:
        """Tells the optimizer the number of steps taken, before it takes one itself."""
        if self._rule is not None and self._steps is not None:
            write_step(self._rule, self.optimizer, self._moving, self._steps)

    def resume(self, taken: int | None = None) -> None:
        """Takes over from steps that the optimizer took itself.

        Args:
            taken: Their number since `release`, where every parameter took part; default None: the optimizer is asked,
                for which the host waits for the device.
        """
        if self._rule is not None and taken is not None and self._steps is not None:
            self._steps += taken
        elif self._rule is not None:
            self._steps = prepare_state(self._rule, self.optimizer, self._moving)

    # -- inside ----------------------------------------------------------------------------------------------

    def _set_noise(self, noise: Sequence[Tensor] | None, every: bool = False) -> None:
        """Sets or draws the noise; what the graph does not read is drawn only where `every` says so."""
        for place, own in enumerate(self.noise):
            if noise is None:
                if every or self.traced.reads[place] or self.traced.alone:
                    own.normal_()
            elif noise[place] is not own:
                own.copy_(noise[place])

    def _make(self) -> Callable[[Tensor, Tensor, Sequence[Tensor]], Any]:
        """The function of a batch that runs the graph on the parameters as they are."""
        traced, rule, group = self.traced, self._rule, self._group
        clip = self.clip if self._clips_in_graph else None
        fixed = [fixed_of(rule, each) for each in self.optimizer.param_groups] if rule is not None else []

        def step(
            tensors: list[Tensor],
            states: list[list[Tensor]],
            buffers: list[Tensor],
            noise: list[Tensor],
            x: Tensor,
            y: Tensor,
            numbers: Tensor,
            given: list[Tensor],
        ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
            parts, outputs, gradients = traced.graph(tensors, buffers, noise, x, y, numbers[0], given)
            others = [each if at is None else None for each, at in zip(gradients, group, strict=False)]
            if clip is not None:
                held = [None if at is None else each for each, at in zip(gradients, group, strict=False)]
                gradients = clipped(held, clip)
            if rule is None:
                return parts, outputs, gradients
            for place, (tensor, state) in enumerate(zip(tensors, states, strict=True)):
                gradient, number = gradients[place], group[place]
                if gradient is not None and number is not None:
                    first = 1 + NUMBERS_PER_GROUP * number
                    own = numbers[first : first + NUMBERS_PER_GROUP]
                    rule.apply(tensor, gradient, state, own, fixed[number])
            return parts, outputs, others

        run = step
        if self.compiled:
            # Random numbers inside the graph (dropout) come from PyTorch's generator, as in plain execution. The
            # pattern matcher would join a weight's gradient with its prior's into one `addmm`, for which the latter has
            # to be written out and copied: 6 % of a step of HALO on LeNet-300-100.
            run = torch.compile(_apart(step), fullgraph=True, dynamic=False, options=_OPTIONS)

        def inputs() -> tuple[list[Tensor], list[list[Tensor]], list[Tensor], list[Tensor]]:
            tensors = [leaf.of(leaf.parameter.detach()) for leaf in traced.leaves]
            states = [[leaf.of(state) for state in self._states_of(leaf.parameter)] for leaf in traced.leaves]
            return tensors, states, list(traced.buffers), self.noise

        if self._numbers.device.type == "cuda" and rule is not None:
            held = inputs()
            return capture(lambda x, y: run(*held, x, y, self._numbers, []), self._changed())
        kept, known = inputs(), self._addresses()

        def on(x: Tensor, y: Tensor, given: Sequence[Tensor]) -> Any:
            nonlocal kept, known
            if known != (now := self._addresses()):  # someone gave a parameter or a state another storage
                kept, known = inputs(), now
            return run(*kept, x, y, self._numbers, list(given))

        return on

    def _changed(self) -> list[Tensor]:
        """What a step changes in place."""
        states = [state for parameter in self._parameters for state in self._states_of(parameter)]
        return [*self._parameters, *states, *self.traced.buffers]

    def _addresses(self) -> list[int]:
        return [tensor.data_ptr() for tensor in self._changed()]

    def _states_of(self, parameter: nn.Parameter) -> list[Tensor]:
        if self._rule is None or not any(parameter is each for each in self._moving):
            return []
        return [self.optimizer.state[parameter][name] for name in self._rule.states]

    def _write_numbers(self, kl_weight: float, step: int = 1) -> None:
        values = [kl_weight]
        for group in self.optimizer.param_groups:
            rule = self._rule
            values += numbers_of(rule, group, step) if rule is not None else [0.0] * NUMBERS_PER_GROUP
        # From pinned memory, whose blocks PyTorch reuses only when they have been read: the host does not wait.
        host = torch.tensor(values, dtype=self._numbers.dtype, pin_memory=self._numbers.is_cuda)
        self._numbers.copy_(host, non_blocking=True)

    def _step_by_optimizer(self, x: Tensor, y: Tensor, kl_weight: float) -> Terms:
        """Gradients from the graph, and from the priors outside it; the optimizer takes the step."""
        weights, own = self._priors_outside()
        with torch.no_grad():
            parts, outputs, gradients = self._run(x, y, [weight.detach() for weight in weights])
            self._write_gradients(gradients[: len(self.traced.leaves)])
        if weights:
            kl = kl_weight * torch.stack(list(own.values())).sum() / self.objective.model.data_size
            pairs = [
                (w, g) for w, g in zip(weights, gradients[len(self.traced.leaves) :], strict=True) if g is not None
            ]
            torch.autograd.backward([kl, *(w for w, _ in pairs)], [torch.ones_like(kl), *(g for _, g in pairs)])
        if not self.gradient_only:
            self.take_step()
        return self._terms(parts, outputs, own, kl_weight)

    def take_step(self) -> None:
        """Has the optimizer take the step with the gradients as they stand."""
        if self.clip is not None and not self._clips_in_graph:
            held = [parameter for group in self.optimizer.param_groups for parameter in group["params"]]
            torch.nn.utils.clip_grad_norm_(held, self.clip)
        self.optimizer.step()

    def _priors_outside(self) -> tuple[list[Tensor], dict[str, Tensor]]:
        """Weights of the tensors whose priors are not in the graph, and their terms, at the noise in place."""
        if not self.traced.alone:
            return [], {}
        # Noise of gates, which comes after the guide's, is read in the graph only.
        with numbers_made_on(self._numbers.device), GivenNoise(self.noise[: self._drawn_by_guide]):
            return self.objective.prior_terms(self.traced.alone)

    def _write_gradients(self, gradients: Sequence[Tensor | None]) -> None:
        """Sets the parameters' gradients from those of their pieces."""
        for parameter in self._parameters:
            parameter.grad = None
        pieces, values = [], []
        for leaf, gradient in zip(self.traced.leaves, gradients, strict=True):
            if gradient is None:
                continue
            if leaf.family is None:
                leaf.parameter.grad = gradient
                continue
            if leaf.parameter.grad is None:
                leaf.parameter.grad = torch.zeros_like(leaf.parameter)
            pieces.append(leaf.of(leaf.parameter.grad))
            values.append(gradient)
        if pieces:
            torch._foreach_copy_(pieces, values)

    def _terms(self, parts: Tensor, outputs: Tensor, own: dict[str, Tensor], kl_weight: float) -> Terms:
        loss, log_likelihood, kl, *each = parts.unbind()
        kl_of = dict(zip(self.traced.sites, each, strict=True))
        if own:
            more = torch.stack([term.detach() for term in own.values()]).sum()
            loss, kl = loss + kl_weight * more, kl + more
            kl_of |= {site: term.detach() for site, term in own.items()}
        return Terms(loss, log_likelihood, kl, kl_of, outputs)


def _group_of(parameter: nn.Parameter, groups: Sequence[dict[str, Any]]) -> int | None:
    """Number of the parameter group that a parameter is in."""
    return next((i for i, group in enumerate(groups) if any(parameter is p for p in group["params"])), None)


def _count_draws(objective: Objective) -> int:
    """Number of draws of noise that one draw of the guide takes."""
    with torch.random.fork_rng(devices=[]), torch.no_grad(), RecordNoise() as record:
        objective.outputs_drawn.draw()
    return len(record.noise)


def _apart(function: Any) -> FunctionType:
    """The function with code of its own.

    PyTorch counts compilations by code and refuses the ninth, though here each one is another fit's graph.
    """
    code = function.__code__.replace(co_name=f"{function.__name__}_{next(_NUMBERS)}")
    return FunctionType(code, function.__globals__, code.co_name, function.__defaults__, function.__closure__)


def clipped(gradients: Sequence[Tensor | None], largest: float) -> list[Tensor | None]:
    """Gradients scaled so that their joint norm is at most `largest`, as `torch.nn.utils.clip_grad_norm_` does it."""
    norm = torch.stack([each.square().sum() for each in gradients if each is not None]).sum().sqrt()
    factor = (largest / (norm + 1e-6)).clamp(max=1.0)
    return [None if each is None else each * factor for each in gradients]
