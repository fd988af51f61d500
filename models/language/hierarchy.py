"""The prior language: latents, and the hierarchy that makes a parameter tensor's prior out of them.

A hierarchy is declared by name; the argument names of a callable name its parents::

    Hierarchy(
        tau=Latent(dist.HalfCauchy(1.0), per="layer"),
        lam=Latent(dist.HalfCauchy(1.0), per="weight"),
        z=Latent(dist.Normal(0.0, 1.0), per="weight"),
        weight=lambda tau, lam, z: tau * lam * z,
        included=shrinkage_below(0.5),
    )

It is bound to a parameter tensor by `bayesprune.models.language.tensor_prior.TensorPrior`.
"""

from __future__ import annotations

import ast
import copy
import hashlib
import inspect
import textwrap
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor

from bayesprune.models.language.declaration_errors import DeclarationError, NotEvaluatedError, WrongShapeError
from bayesprune.models.language.declaration_transport import reduced
from bayesprune.models.language.inclusion import InclusionEvent
from bayesprune.models.language.knobs import Knob, declared_knobs
from bayesprune.models.language.latent import (
    PROGRESS,
    RESERVED,
    WEIGHT,
    Distribution,
    Latent,
    arguments,
    is_function,
)
from bayesprune.models.language.tensor_prior import TensorPrior

TRIAL_SHAPES = ((6, 5), (6, 5, 3, 3), (6, 5, 3), (6, 5, 3, 3, 3))
"""What a declaration is tried on: weights of a linear layer, then of convolutions in two, one and three dimensions."""


class Hierarchy:
    """Latents and how the weights of a parameter tensor depend on them.

    Args:
        weight: The tensor's weights: a distribution or a callable returning one (then ``weight`` is itself a
            latent), or a callable returning a tensor (then it is a deterministic node). A `Latent` carries a
            guide and a start as well.
        included: The inclusion event, made by `exact_zero`, `shrinkage_below`, `relative_threshold` or
            `slab_membership`; default None: `inclusion_probabilities` is then refused.
        factor: A callable that returns a further log factor of the joint in nats (a scalar), e.g. weight decay
            on a latent. The prior is then unnormalised and cannot be simulated. Default None.
        default_guide: Guide of a fit that names none: ``"map"``, ``"meanfield"`` (default) or ``"paired"``.
        improper: Why the prior cannot be simulated, or None (default) for a proper prior.
        knobs: Positive numbers that a rule may move while a fit runs, or `Knob`s with direction and bounds, by name; an
            argument of a callable that names one gets it as a tensor of no dimensions. Default None: there are none.
        budget: Name of the knob by which `Budget` meets a budget; default None: it is refused.
        latents: The latents by name; a bare distribution or callable means ``Latent(it)``, per weight. A callable that
            returns a tensor is a deterministic node, such as ``phi=lambda t: t / t.sum()``: it has no guide, sees the
            entries of its parents in the shapes of their levels, may reduce over them, and has any shape that
            broadcasts to its own level.

    Attributes:
        nodes: The latents and deterministic nodes by name, in an order in which parents come first.
        noise: Name of the latent that multiplies the weights as noise with a dropout rate (``"weight"``: the weights
            are their own), or None; set by the ready priors that have one.
        map_options: Options of `fit` that stand for an optimizer that was not chosen, where weights are points:
            ``optimizer``, ``learning_rate`` and ``schedule``; set by the ready priors that need others than the usual.
        mean_field_options: The same where they are not all points.
        full_kl: Whether its constants are a paper's, so that a fit that is told no KL weight does not temper it; set by
            the ready priors' `from_paper`.
        tried_on: Shape of the weights that a declaration is tried and compared on which is not for weights of any
            shape; None: `TRIAL_SHAPES`. Set by the ready priors that need it, before this class is begun.
        latents: The latents by name, in an order in which parents come first.
        config: Name and arguments for a ready prior, by which a saved fit finds it; None for one of your own.

    Raises:
        ValueError: For an unknown parent, a cycle, a latent or a knob with a reserved name, a missing `weight`, an
            inclusion event that names no latent or does not fit, or a distribution whose parameters fall outside their
            support; or if it can be run on the weights of neither a linear layer nor a convolution.
    """

    noise: str | None = None
    full_kl: bool = False
    tried_on: tuple[int, ...] | None = None
    map_options: Mapping[str, Any] = MappingProxyType({})
    mean_field_options: Mapping[str, Any] = MappingProxyType({})

    def __init__(
        self,
        *,
        weight: Any = None,
        included: InclusionEvent | None = None,
        factor: Callable[..., Tensor] | None = None,
        default_guide: str = "meanfield",
        improper: str | None = None,
        knobs: Mapping[str, float | Knob] | None = None,
        budget: str | None = None,
        **latents: Any,
    ) -> None:
        if weight is None:
            raise ValueError(
                "the hierarchy declares no weight: add weight=..., a distribution or a function of the latents"
            )
        declared = {name: _as_latent(name, value) for name, value in latents.items()}
        for name in declared:
            if name in RESERVED:
                raise ValueError(f"{name!r} is a reserved argument ({', '.join(RESERVED)}): rename the latent")
        self.weight = weight if isinstance(weight, Latent) else None
        self.weight_value = weight.distribution if isinstance(weight, Latent) else weight
        if not callable(self.weight_value) and not isinstance(self.weight_value, Distribution):
            raise ValueError(f"weight= takes a distribution or a callable of the latents, not {type(weight).__name__}")
        if factor is not None and not callable(factor):
            raise ValueError(
                f"factor= takes a callable that returns a log factor, not {type(factor).__name__}: "
                "give a latent another name"
            )
        if included is not None and not isinstance(included, InclusionEvent):
            raise ValueError(
                f"included= takes an inclusion event, such as exact_zero() or shrinkage_below(), not {included!r}"
            )
        self.included = included
        self.factor = factor
        self.default_guide = default_guide
        self.knobs = declared_knobs(knobs, budget, (*declared, *RESERVED, WEIGHT, "factor"))
        self.budget = budget
        self.improper = improper or (
            "its factor leaves the normaliser unknown, so it cannot be simulated" if factor else None
        )
        self.config: dict[str, Any] | None = None
        self.nodes = _parents_first(declared)
        self._check_parents()
        tried = self._tried()
        self.weight_is_latent = tried.weight_is_latent
        self._probed = self.tried_on or (4, 3, *tried.shape[2:])
        self.latents = {name: spec for name, spec in self.nodes.items() if name not in tried.deterministic}
        self._check_deterministic(tried.deterministic)

    @property
    def parents(self) -> dict[str, tuple[str, ...]]:
        """Names of the arguments of each node, of ``weight`` and of ``factor``, those without being absent."""
        found = {name: arguments(node.distribution) for name, node in self.nodes.items() if is_function(node)}
        if is_function(self.weight_value):
            found[WEIGHT] = arguments(self.weight_value)
        if self.factor is not None:
            found["factor"] = arguments(self.factor)
        return found

    def check_tensor(self, name: str, shape: tuple[int, ...]) -> None:
        """Refuses a tensor of a network that the hierarchy is not meant for; default: none.

        Args:
            name: Name of the tensor.
            shape: Its shape, `(out, in, ...)`.

        Raises:
            ValueError: If it is one, in one sentence.
        """

    @property
    def is_annealed(self) -> bool:
        """Whether the declaration asks for the progress of the fit."""
        return any(PROGRESS in parents for parents in self.parents.values())

    def is_final(self, share: float) -> bool:
        """Whether the declaration at this share of a fit's steps is already the one that the fit ends on."""
        return not self.is_annealed or self.probe(share) == self.probe()

    def _check_parents(self) -> None:
        for name, parents in self.parents.items():
            allowed = (*self.nodes, *RESERVED, *self.knobs, *((WEIGHT,) if name == "factor" else ()))
            for parent in parents:
                if parent not in allowed:
                    raise ValueError(
                        f"{name} depends on {parent!r}, which is not declared: the latents are "
                        f"{', '.join(self.nodes) or 'none'} and the reserved arguments {', '.join(RESERVED)}"
                        + (f", and the knobs {', '.join(self.knobs)}" if self.knobs else "")
                    )
        event = self.included
        for role in ("gate", "slab", "raw", "threshold"):
            latent = getattr(event, role, None)
            if isinstance(latent, str) and latent not in (*self.nodes, WEIGHT):
                raise ValueError(f"included= names the {role} {latent!r}, which is not a latent of this hierarchy")

    def _check_deterministic(self, deterministic: set[str]) -> None:
        for name in self.nodes:
            spec = self.nodes[name]
            if name in deterministic and any(each is not None for each in (spec.guide, spec.init, spec.spread)):
                raise ValueError(
                    f"{name} is a deterministic node, a function of others, so that guide=, init= and spread= mean "
                    "nothing for it: give them to the latents that it depends on"
                )
        for role in ("gate", "slab", "raw"):
            if (latent := getattr(self.included, role, None)) in deterministic:
                raise ValueError(
                    f"included= names {latent!r} as the {role}, but it is a deterministic node: name the latent that "
                    "is drawn"
                )

    def _tried(self) -> TensorPrior:
        """Draws the hierarchy for small tensors until one fits; says what is wrong in the user's words.

        Raises:
            ValueError: If none fits; of the tensor on which the declaration could be run, else of the first.
        """
        problems: list[ValueError] = []
        for shape in (self.tried_on,) if self.tried_on else TRIAL_SHAPES:
            try:
                return self._simulated(shape)
            except ValueError as problem:
                if isinstance(problem, DeclarationError) and not isinstance(problem, WrongShapeError):
                    raise  # no other shape would mend that
                problems.append(problem)
        raise next((one for one in problems if not isinstance(one, NotEvaluatedError)), problems[0])

    def _simulated(self, shape: tuple[int, ...]) -> TensorPrior:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            probe = TensorPrior("a trial tensor", self, shape, data_size=100)
            shares = (1.0, 0.0) if self.is_annealed else (1.0,)
            # One draw of a few entries could miss a scale that is negative half of the time.
            for share in () if self.improper else 3 * shares:
                probe.progress.set(share)
                probe.simulate()
        return probe

    def __copy__(self) -> Hierarchy:
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__)
        return made

    def __deepcopy__(self, memo: dict[int, Any]) -> Hierarchy:
        made = object.__new__(type(self))
        memo[id(self)] = made
        made.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return made

    def __reduce_ex__(self, protocol: Any) -> Any:
        """What is sent to another process; see `bayesprune.models.language.declaration_transport`."""
        return reduced(self)

    def probe(self, share: float = 1.0) -> list[float]:
        """Log densities and weights at fixed points: what a fingerprint compares, whatever the code looks like.

        Args:
            share: The progress that the declaration is given; default 1, its value after a fit.
        """
        bound = TensorPrior("probe", self, self._probed, data_size=100)
        bound.progress.set(share)
        return bound.probe()

    def fingerprint(self) -> str:
        """Sixteen hexadecimal digits that change when the declaration changes."""
        digits = [f"{value:.4e}" for value in self.probe()]
        return hashlib.sha256((self.structure() + " ".join(digits)).encode()).hexdigest()[:16]

    def structure(self) -> str:
        """Names, levels, parents, guides and the event: the printed hierarchy less its formulas.

        Knobs are left out: what they do where they are declared is in the densities.
        """
        of = {name: ", ".join(p for p in parents if p not in self.knobs) for name, parents in self.parents.items()}
        lines = [
            f"{name} per {_level(latent)} of {of.get(name, '')} guide {latent.guide}"
            if name in self.latents
            else f"{name} deterministic per {_level(latent)} of {of.get(name, '')}"
            for name, latent in self.nodes.items()
        ]
        lines.append(f"weight of {of.get(WEIGHT, '')}; included {self.included}")
        return "\n".join(lines)

    def __str__(self) -> str:
        width = max(len(name) for name in (*self.nodes, *self.knobs, WEIGHT, "included"))
        lines = []
        for name, latent in self.nodes.items():
            if name in self.latents:
                lines.append(f"{name:<{width}} ~ {describe(latent.distribution)}, per {_level(latent)}")
            else:
                lines.append(f"{name:<{width}} = {describe(latent.distribution)}")
        symbol = "~" if self.weight_is_latent else "="
        lines.append(f"{WEIGHT:<{width}} {symbol} {describe(self.weight_value)}")
        if self.factor is not None:
            lines.append(f"{'factor':<{width}} = {describe(self.factor)} nats")
        lines.append(f"{'included':<{width}} : {self.included or 'no event declared'}")
        lines += [f"{name:<{width}} : {knob.value:g}, a knob" for name, knob in self.knobs.items()]
        return "\n".join(lines)

    def __repr__(self) -> str:
        if self.config is None:
            return f"Hierarchy({', '.join((*self.latents, WEIGHT))})"
        given = ", ".join(f"{k}={v!r}" for k, v in self.config["arguments"].items() if v is not None)
        return f"{self.config['name']}({given})"


def _as_latent(name: str, value: Any) -> Latent:
    if isinstance(value, Latent):
        return value
    if isinstance(value, Distribution) or callable(value):
        return Latent(value)
    raise ValueError(f"{name}= takes a Latent, a distribution or a callable, not {type(value).__name__}")


def _level(latent: Latent) -> str:
    if latent.dims:
        return " x ".join(f"{k}={v or 'own'}" for k, v in latent.dims.items())
    if latent.per == "edge" and latent.gates > 1:
        return f"edge of {latent.gates} gates"
    return "block of {} x {}".format(*latent.block) if latent.per == "block" else latent.per


def _parents_first(latents: dict[str, Latent]) -> dict[str, Latent]:
    """Orders latents so that parents come first; refuses a cycle by naming it."""
    ordered: dict[str, Latent] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in ordered:
            return
        if name in path:
            raise ValueError(f"the latents depend on one another in a cycle: {' -> '.join((*path, name))}")
        latent = latents[name]
        for parent in arguments(latent.distribution) if is_function(latent) else ():
            if parent in latents:
                visit(parent, (*path, name))
        ordered[name] = latent

    for name in latents:
        visit(name, ())
    return ordered


def describe(value: Any) -> str:
    """Prints a distribution with its parameters, or a callable by its formula where the source is at hand."""
    if isinstance(value, Distribution):
        return _distribution_text(value)
    given = f"f({', '.join(arguments(value))})"
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(value)).strip().rstrip(","))
    except (OSError, SyntaxError, TypeError, ValueError):
        return given
    found = [
        n for n in ast.walk(tree) if isinstance(n, ast.Lambda) and tuple(a.arg for a in n.args.args) == arguments(value)
    ]
    return ast.unparse(found[0].body) if len(found) == 1 else given


def _distribution_text(value: Any) -> str:
    declared = list(getattr(value, "arg_constraints", {}))
    parts = []
    for name in [n for n in declared if n in value.__dict__] or declared:
        parameter = getattr(value, name)
        parts.append(f"{name}={parameter.item():g}" if torch.is_tensor(parameter) and parameter.numel() == 1 else name)
    return f"{type(value).__name__}({', '.join(parts)})"
