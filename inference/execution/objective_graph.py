"""The objective as one graph of tensor operations: loss, parts and gradients, with noise passed in.

The declaration, the guide, the network and their derivatives run once in the functional form under PyTorch's tracer.
What comes out is a list of operations that no longer knows of priors, distributions or autograd; a compiler fuses it.
Any hierarchy is traced, also one with terms of one's own, as long as it does not branch on a tensor's values.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, fields, replace
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

from bayesprune.inference.execution.device_numbers import numbers_made_on
from bayesprune.inference.guides.families import Family
from bayesprune.inference.guides.functional import GivenNoise, RecordNoise, functional
from bayesprune.inference.guides.slices import ParameterSlice
from bayesprune.inference.objective.objective import Objective, Terms
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.running_statistics import frozen_statistics, tracks_statistics
from bayesprune.models.ways.host_flag import held_answers


class UntraceableError(ValueError):
    """The objective cannot be written as one graph; the message says why."""


@dataclass(frozen=True)
class Leaf:
    """A tensor that the graph differentiates: a parameter, or the slice of a guide's vector that is one site's.

    Attributes:
        parameter: The parameter.
        name: Name of the family's parameter, or of the parameter in the objective.
        family: Place of the guide family among the guide's, or None for a parameter of its own.
        piece: The slice of the family's parameter, or None for a parameter of its own.
    """

    parameter: nn.Parameter
    name: str
    family: int | None = None
    piece: ParameterSlice | None = None

    def of(self, tensor: Tensor) -> Tensor:
        """The piece of a tensor laid out like the parameter (itself, its gradient, an optimizer's state)."""
        return tensor if self.piece is None else self.piece.of(tensor)


@dataclass(frozen=True)
class Traced:
    """The objective of one batch shape as a graph.

    Attributes:
        graph: ``graph(leaves, buffers, noise, x, y, kl_weight, given) -> (parts, outputs, gradients)``. `parts` is one
            vector: loss, log-likelihood, KL, and the KL of every site of `sites`. Gradients are those of the loss
            divided by `data_size`, for the leaves and then for `given`; None where the loss does not depend on it.
            Running statistics among the buffers are updated in place.
        leaves: Where the leaves come from.
        buffers: The objective's buffers.
        noise: One draw, as an example of what is to be passed.
        reads: Whether the graph depends on each draw.
        moves: Whether the loss depends on each leaf; the gradient of one on which it does not is None.
        sites: Names of the parts of the KL term.
        alone: Parameter tensors whose priors are not in the graph; their weights are passed as `given`.
        has_random_numbers: Whether the graph draws random numbers itself (dropout, Bernoulli draws).
        batch: Shapes and number formats of the inputs and the targets.
        rests_on: Say whether what decided in the trace is still so.
    """

    graph: torch.fx.GraphModule
    leaves: tuple[Leaf, ...]
    buffers: tuple[Tensor, ...]
    noise: tuple[Tensor, ...]
    reads: tuple[bool, ...]
    moves: tuple[bool, ...]
    sites: tuple[str, ...]
    alone: tuple[str, ...]
    has_random_numbers: bool
    batch: tuple[torch.Size, torch.dtype, torch.Size, torch.dtype]
    rests_on: tuple[Callable[[], bool], ...] = ()

    @property
    def holds(self) -> bool:
        """Whether all that decided in the trace is still so; else it is another graph's turn."""
        return all(still() for still in self.rests_on)

    def fits(self, x: Tensor, y: Tensor) -> bool:
        """Whether a batch has the shape and number format for which the graph was made."""
        return (x.shape, x.dtype, y.shape, y.dtype) == self.batch


def trace(objective: Objective, x: Tensor, y: Tensor) -> Traced:
    """Traces the objective for batches of the shape of this one.

    A prior that cannot be traced is left out of the graph where that is exact: its tensor has no gates and shares no
    latent with another one.

    Args:
        objective: The objective, in training mode.
        x: Inputs, `(batch, ...)`.
        y: Targets.

    Raises:
        UntraceableError: If the objective cannot be traced.
    """
    try:
        return _trace(objective, x, y, ())
    except Exception as problem:  # whatever users' code raises on a traced tensor
        alone = _untraceable(objective)
        if not alone:
            raise UntraceableError(f"the objective cannot be traced ({first_line(problem)[:200]})") from problem
    _check_alone(objective, alone)
    objective.outputs_drawn.leave_out(alone)
    try:
        return _trace(objective, x, y, alone)
    except Exception as problem:
        raise UntraceableError(f"the objective cannot be traced ({first_line(problem)[:200]})") from problem


def leaves_of(objective: Objective) -> tuple[Leaf, ...]:
    """The leaves of an objective: the guide's vectors site by site, and every other parameter that is trained."""
    leaves = []
    for number, module in enumerate(objective.guide.families):
        family = cast(Family, module)
        for piece in family.slices():
            leaves.append(Leaf(family.get_parameter(piece.parameter), piece.parameter, number, piece))
    in_pieces = {id(leaf.parameter) for leaf in leaves}
    for name, parameter in objective.named_parameters():
        if parameter.requires_grad and id(parameter) not in in_pieces:
            leaves.append(Leaf(parameter, name))
    return tuple(leaves)


class _Parts(nn.Module):
    """Gives `functional_call` the objective's terms in place of its loss."""

    def __init__(self, objective: Objective) -> None:
        super().__init__()
        self.objective = objective

    def forward(self, *arguments: Any) -> Any:
        return self.objective.terms(*arguments)


def _trace(objective: Objective, x: Tensor, y: Tensor, alone: tuple[str, ...]) -> Traced:
    leaves = leaves_of(objective)
    buffers = dict(objective.named_buffers())
    sites: list[str] = []
    moves: list[bool] = []
    holds: list[Callable[[], bool]] = []
    noise = record_noise(objective, x, y)

    def evaluate(
        tensors: Sequence[Tensor],
        statistics: Sequence[Tensor],
        noise: Sequence[Tensor],
        x: Tensor,
        y: Tensor,
        kl_weight: Tensor,
        given: Sequence[Tensor],
    ) -> tuple[Tensor, Tensor, list[Tensor | None]]:
        live = [tensor.detach().requires_grad_() for tensor in tensors]
        weights = [weight.detach().requires_grad_() for weight in given]
        own = {f"objective.{leaf.name}": t for leaf, t in zip(leaves, live, strict=True) if leaf.family is None}
        own |= {f"objective.{name}": buffer for name, buffer in zip(buffers, statistics, strict=True)}
        with ExitStack() as stack:
            stack.enter_context(functional())
            noted = stack.enter_context(held_answers())
            stack.enter_context(numbers_made_on(x.device))
            _give_pieces(stack, objective, leaves, live)
            arguments = (x, y, kl_weight, dict(zip(alone, weights, strict=True)))
            terms = _mean_of_particles(objective, own, noise, arguments)
        sites[:], holds[:] = terms.kl_of, noted
        gradients = torch.autograd.grad(terms.loss / objective.model.data_size, [*live, *weights], allow_unused=True)
        moves[:] = [gradient is not None for gradient in gradients[: len(live)]]
        parts = torch.stack(
            [terms.loss.detach(), terms.log_likelihood, terms.kl, *map(Tensor.detach, terms.kl_of.values())]
        )
        return parts, terms.outputs, list(gradients)

    with torch.random.fork_rng(devices=[x.device] if x.device.type == "cuda" else []):
        tensors = [leaf.of(leaf.parameter.detach()) for leaf in leaves]
        given = [objective.model.starting_weights(name).clone() for name in alone]
        statistics = [buffer.clone() for buffer in buffers.values()]
        one = torch.ones((), dtype=_dtype(objective), device=x.device)
        graph = make_fx(evaluate)(tensors, statistics, noise, x, y, one, given)
    _check_shapes(graph)
    _multiply_by_reciprocals(graph)
    _leave_numbers(graph)
    random = any(
        isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags
        for node in graph.graph.nodes
    )
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"][len(leaves) + len(buffers) :]
    reads = tuple(bool(node.users) for node in inputs[: len(noise)])
    shapes = (x.shape, x.dtype, y.shape, y.dtype)
    return Traced(
        graph,
        leaves,
        tuple(buffers.values()),
        tuple(noise),
        reads,
        tuple(moves),
        tuple(sites),
        alone,
        random,
        shapes,
        tuple(holds),
    )


def _check_shapes(graph: torch.fx.GraphModule) -> None:
    """Refuses a graph with a tensor whose shape depends on values: what follows was traced for one shape."""
    for node in graph.graph.nodes:
        tags = node.target.tags if isinstance(node.target, torch._ops.OpOverload) else ()
        picks = node.target in (torch.ops.aten.index.Tensor, torch.ops.aten.index_put_.default)  # by numbers or a mask
        by_mask = picks and any(_is_mask(at) for at in node.args[1] if at is not None)
        if by_mask or (torch.Tag.dynamic_output_shape in tags and not picks):
            raise UntraceableError(f"the shape of what {node.target} gives depends on values")


def _is_mask(node: torch.fx.Node) -> bool:
    return node.meta["tensor_meta"].dtype == torch.bool


def _mean_of_particles(
    objective: Objective, own: dict[str, Tensor], noise: Sequence[Tensor], arguments: tuple[Any, ...]
) -> Terms:
    """The objective's terms at the noise given, with several particles side by side by `torch.vmap`."""
    single = copy.copy(objective)
    particles = objective.gradient.particles
    single.gradient = replace(objective.gradient, particles=1)
    parts, count = _Parts(single), len(noise) // particles

    def one(noise: Sequence[Tensor]) -> dict[str, Any]:
        with GivenNoise(noise):
            terms = functional_call(parts, own, arguments)
        # Not the weights: the graph has gradients of its own, and would have to give them out.
        return {field.name: getattr(terms, field.name) for field in fields(terms) if field.name != "weights"}

    if particles == 1:
        return Terms(**one(noise))
    # Running statistics are updated by the first particle only, and cannot be inside vmap.
    apart = 1 if tracks_statistics(objective.model.network) or not count else 0
    evaluated = [tree_map(lambda part: part.unsqueeze(0), one(noise[:count])) for _ in range(apart)]
    with frozen_statistics(objective.model.network):
        rest = range(apart, particles)
        if count:
            stacked = [torch.stack([noise[k * count + j] for k in rest]) for j in range(count)]
            evaluated.append(torch.vmap(one, randomness="different")(stacked))
        else:
            evaluated += [tree_map(lambda part: part.unsqueeze(0), one([])) for _ in rest]
    outputs = evaluated[0]["outputs"][0]
    averaged = {name: tree_map(_mean_of_parts, *(each[name] for each in evaluated)) for name in evaluated[0]}
    return Terms(**{**averaged, "outputs": outputs})


def _mean_of_parts(*parts: Tensor) -> Tensor:
    return torch.cat(parts).mean(0)


def _multiply_by_reciprocals(graph: torch.fx.GraphModule) -> None:
    """Replaces divisions of tensors by Python numbers: they take several times as long as products."""
    for node in graph.graph.nodes:
        if node.target is torch.ops.aten.div.Tensor and isinstance(node.args[1], float) and node.args[1] != 0.0:
            node.target = torch.ops.aten.mul.Tensor
            node.args = (node.args[0], 1.0 / node.args[1])
    graph.recompile()


def _leave_numbers(graph: torch.fx.GraphModule) -> None:
    """Replaces tensors that `torch.vmap` makes of Python numbers, on the CPU, by the numbers."""
    for node in list(graph.graph.nodes):
        number = node.args[0] if node.target is torch.ops.aten._to_copy.default else None
        if isinstance(number, (int, float)):
            for user in list(node.users):
                user.args = tuple(number if one is node else one for one in user.args)
                if any(one is node for one in user.all_input_nodes):
                    break  # it stands deeper, in a list or a keyword
            else:
                graph.graph.erase_node(node)
    graph.recompile()


def record_noise(objective: Objective, x: Tensor, y: Tensor) -> list[Tensor]:
    """The standard normal draws of one evaluation, in order; random state and running statistics stay as they are."""
    devices = [x.device] if x.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad(), frozen_statistics(objective.model.network):
        with RecordNoise() as record:
            objective.terms(x, y)
    return record.noise


def _give_pieces(stack: ExitStack, objective: Objective, leaves: Sequence[Leaf], tensors: Sequence[Tensor]) -> None:
    """Lets tensors stand for the guide's pieces until the stack is left."""
    for number, family in enumerate(objective.guide.families):
        pieces: dict[str, list[Tensor]] = {}
        for leaf, tensor in zip(leaves, tensors, strict=True):
            if leaf.family == number:
                pieces.setdefault(leaf.name, []).append(tensor)
        stack.enter_context(cast(Family, family).given(pieces))


def _untraceable(objective: Objective) -> tuple[str, ...]:
    """Names of the tensors whose priors alone cannot be traced."""
    leaves = leaves_of(objective)
    tensors = [leaf.of(leaf.parameter.detach()) for leaf in leaves]

    def is_traced(name: str) -> bool:
        def run(tensors: Sequence[Tensor]) -> Any:
            with ExitStack() as stack:
                stack.enter_context(functional())
                _give_pieces(stack, objective, leaves, tensors)
                return objective.prior_terms([name])

        try:
            with torch.random.fork_rng(devices=[]):
                make_fx(run)(tensors)
        except Exception:  # whatever users' code raises on a traced tensor
            return False
        return True

    return tuple(name for name in objective.model.priors if not is_traced(name))


def _check_alone(objective: Objective, alone: Sequence[str]) -> None:
    """Refuses to leave out priors where the rest would then not be what it is."""
    priors = objective.model.priors
    gated = {site.name for family in objective.guide.families for site in cast(Family, family).gate_sites()}
    for name in alone:
        sites = {site.name for site in priors[name].sites.values()}
        shared = any(sites & {site.name for site in priors[other].sites.values()} for other in priors if other != name)
        if sites & gated or shared or objective.gradient.particles > 1:
            raise UntraceableError(
                f"the prior on {name} branches on values of tensors, and has gates, shared latents or several particles"
            )


def _dtype(objective: Objective) -> torch.dtype:
    return next(objective.guide.parameters()).dtype
