"""The options of a fit: one field each, from which its signature, settings, checkpoints and the command line are made.

It imports no PyTorch, so that the command line knows names, defaults and help texts at once.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace
from os import PathLike
from typing import Any, TypedDict

from bayesprune.inference.execution.executions import EXECUTIONS
from bayesprune.models.checks.given_numbers import checked_seed, real_number, whole_number
from bayesprune.models.checks.plain_numbers import plain_number
from bayesprune.models.checks.shown_values import shown

__all__ = ["PRECISIONS", "USUAL", "FitKeywords", "FitOptions", "filled_in", "help_of", "options_of", "with_options"]

USUAL = {"optimizer": "adam", "learning_rate": 1e-3, "schedule": "hold-cosine"}
"""How a fit is trained that was not told, where no prior asks for something else."""
PRECISIONS = ("float32", "float64", "bfloat16")


def _option(default: Any, text: str, in_settings: bool = True, marks: bool = True) -> Any:
    """A field of `FitOptions`.

    Args:
        default: Its default.
        text: What it is, for help texts.
        in_settings: Whether `FitOptions.settings` holds it as it is; what `fit` finds itself it puts there.
        marks: Whether a checkpoint is of another fit where it is another; what only says where or how often is not.
    """
    return field(default=default, metadata={"help": text, "in_settings": in_settings, "marks": marks})


@dataclass(frozen=True, kw_only=True)
class FitOptions:
    """How a model is fitted; `fit` takes each of these fields by its name, or all of them as ``options=``.

    Numbers may be those of NumPy and torch; they are kept as Python's own.

    Attributes:
        epochs: Passes over the data; default None: `steps`, or else 30, and so many more that there are 2,500 steps.
        steps: Optimizer steps in all, in place of `epochs`; default None.
        batch_size: Examples a step; default 128. A batch of one example that batch normalisation cannot be trained on
            is left out, and counts as a step.
        optimizer: ``"adam"`` (log scales, log odds and the likelihood's learn ten times as fast), ``"sgd"``
            (momentum 0.9), ``"sgld"`` or ``"sghmc"`` (with noise, so that points are samples of the posterior:
            docs/cyclical_sampling.md), or a callable from parameter groups to a torch optimizer. It sees the loss
            divided by `data_size`, so that learning rates are those of a mean loss. Default None: Adam, or what a rule
            or the prior asks for under that guide (`SoftThreshold`), with its learning rate and schedule.
        learning_rate: Of the named optimizers; default None: 1e-3, or the prior's.
        schedule: Factor on the learning rate: ``"hold-cosine"`` (1 for half of the steps, then to 0), ``"constant"``,
            ``"cosine"``, ``"cyclical"`` (four times that), ``"warmup-cosine"`` (`warmup_cosine`, up in 5 epochs, of
            fewer than 20 in a quarter), or a callable of progress in [0, 1]. Default None: ``"hold-cosine"``, or the
            prior's.
        kl_warmup: Share of the steps over which the KL weight rises from 0 to `kl_weight`; default None: 0.6, or
            0 with gates of units and for points under a paper's constants (`default_kl_warmup`, also for restarts).
        kl_weight: Final weight of the KL term; anything but 1 is a tempered objective, and the summary says so.
            Default None: by a rule (`default_kl_weight`): 1 for linear models, 0.1 for networks of many weights. 1 is
            the ELBO.
        seed: Of the first restart, below 2^62 in size; the r-th takes `seed` + r. The global random state is left as
            it was. The order of the data is drawn by a generator of its own.
        device: ``"auto"`` (default: the GPU where there is one), ``"cpu"``, ``"cuda"``, ...
        precision: ``"float32"`` (default), ``"float64"`` or ``"bfloat16"`` (autocast of the network only).
        restarts: Independent fits; default 1. All but the first start from re-initialised layers where the
            network's modules have `reset_parameters`, and from gates whose log odds have been moved at random; of a
            linear model every second has no fade-in by default. `Fit.combined` weighs them.
        only_restart: Which of the `restarts` is fitted alone, from 0, as it would be among them; default None: all.
            Several processes may so fit one each into the same `checkpoint`, and a call without it then puts them
            together.
        particles: Draws an evaluation; default 1.
        gate_estimator: How gradients pass Bernoulli gates; default None: `moment_matched`, or `ScoreFunction`
            where a gate is a parameter of another distribution.
        execution: ``"plain"``, which runs the declaration anew in every step; ``"fused"``, which traces it once into
            one graph of tensor operations, with the same loss, gradients and draws (docs/speed.md); ``"auto"``
            (default): fused where compiling the graph is expected to be repaid. ``settings["execution"]`` says which
            one it was and why. Its old name ``path`` is taken for one release, with a `FutureWarning`.
        compiled: Whether the fused execution is compiled; default None: where the steps to come repay it.
        clip: Largest norm of the gradient that the optimizer sees, that of the loss divided by `data_size`; default
            None: no limit.
        sticking_the_landing: Whether terms of drawn sites are estimated from the draw with the parameters of log q
            held fixed (Roeder et al. 2017), in place of closed forms; default False.
        local_reparameterisation: Which layers draw their outputs in place of their weights (Kingma et al. 2015;
            docs/local_reparameterisation.md): less variance of the gradient for a second matrix product and no draw of
            weights. Default None: linear layers on inputs `(batch, in)` with at least 20 inputs whose weights have a
            gate each (spike and slab), unless `gate_estimator` is given. True: those on `(batch, in)` wherever
            weights are Normal, or have such gates, given what else is drawn. ``"approximate"``: convolutions and inputs
            of more dimensions too, where it drops correlations between places. False: none.
            ``settings["outputs_drawn"]`` names their weights.
        channels_last: Whether images `(batch, channels, height, width)` are laid out channels last; default False.
        workers: Processes that load a `Dataset` in the background; default 0: none. A `DataLoader` has its own.
        progress: Whether to show a progress line on standard error; default False.
        checkpoint: A folder in which the whole state of training is kept between epochs, at most a hundredth of the
            time: the same call then goes on after the last state, with the numbers of a fit that was not interrupted
            (docs/checkpoints.md). Default None.
        standardise: Whether the fitted network standardises inputs and targets inside, by the training data, and puts
            its outputs back into the data's units (docs/regression.md); default None: where targets are real numbers
            with a noise to learn, unless the network predicts them already. ``"noise"``: neither, but a learned noise
            starts at the error that the network makes. `settings["standardised"]` says what was done.

    Raises:
        ValueError: If a value is out of range or of another type.
    """

    epochs: int | None = _option(None, "Passes over the training data.", in_settings=False, marks=False)
    steps: int | None = _option(None, "Steps of the optimizer, in place of epochs.", in_settings=False, marks=False)
    batch_size: int = _option(128, "Examples a step.")
    optimizer: Any = _option(None, "adam, sgd, sgld or sghmc.  [default: adam, or as the prior asks for]")
    learning_rate: float | None = _option(None, "Of the optimizer.  [default: 0.001, or as the prior asks for]")
    schedule: Any = _option(
        None,
        "Of the learning rate: hold-cosine, cosine, cyclical, warmup-cosine or constant.  [default: hold-cosine, or "
        "the prior's]",
    )
    kl_warmup: float | None = _option(
        None, "Share of the steps over which the KL term fades in.  [default: 0.6]", in_settings=False
    )
    kl_weight: float | None = _option(
        None, "Final weight of the KL term: 1 is the ELBO, less is tempered.  [default: 0.1 to 1, by weights and data]"
    )
    seed: int = _option(0, "Of the first restart.")
    device: str = _option("auto", "auto, cpu, cuda, ...", in_settings=False, marks=False)
    precision: str = _option("float32", "float32, float64 or bfloat16 (autocast).")
    restarts: int = _option(1, "Independent fits.", in_settings=False)
    only_restart: int | None = _option(None, "Which of them is fitted alone.", in_settings=False, marks=False)
    particles: int = _option(1, "Draws of the weights a step.")
    gate_estimator: Any = _option(None, "How gradients pass Bernoulli gates.", in_settings=False)
    execution: str = _option(
        "auto", "plain, fused (one traced graph, compiled where that pays) or auto.", in_settings=False
    )
    compiled: bool | None = _option(None, "Whether the fused execution is compiled.", in_settings=False)
    clip: float | None = _option(None, "Largest norm of the gradient that the optimizer sees.")
    sticking_the_landing: bool = _option(False, "Whether terms are estimated from draws with log q held fixed.")
    local_reparameterisation: bool | str | None = _option(
        None, "Which layers draw their outputs in place of their weights.  [default: linear ones of gated weights]"
    )
    channels_last: bool = _option(False, "Whether images are laid out channels last.", in_settings=False)
    workers: int = _option(0, "Processes that load a Dataset in the background.", in_settings=False)
    progress: bool = _option(False, "Whether to show a progress line.", in_settings=False, marks=False)
    checkpoint: Any = _option(None, "Folder of the state of training.", in_settings=False, marks=False)
    standardise: Any = _option(None, "Whether a regression standardises inside.", in_settings=False)

    def __post_init__(self) -> None:
        if self.epochs is not None and self.steps is not None:
            raise ValueError("give either epochs= or steps=, the length of the fit, not both")
        counts = {name: 1 for name in ("epochs", "steps") if getattr(self, name) is not None}
        counts |= {"batch_size": 1, "restarts": 1, "particles": 1, "workers": 0}
        counts |= {} if self.only_restart is None else {"only_restart": 0}
        found: dict[str, Any] = {n: whole_number(n, getattr(self, n), least) for n, least in counts.items()}
        found["seed"] = checked_seed(self.seed)
        others = [one.name for one in fields(self) if one.name not in found]
        found |= {name: plain_number(getattr(self, name)) for name in others}
        _check_types(found)
        for name, known in (("precision", PRECISIONS), ("execution", EXECUTIONS)):
            if found[name] not in known:
                raise ValueError(f"{name} {found[name]!r} is unknown: expected one of {', '.join(known)}")
        numbers = [name for name in ("kl_weight", "kl_warmup", "clip") if found[name] is not None]
        numbers += ["learning_rate"] if not callable(self.optimizer) and self.learning_rate is not None else []
        found |= {name: real_number(name, found[name]) for name in numbers}
        _check_ranges(found)
        for name, value in found.items():
            object.__setattr__(self, name, value)  # Python's own numbers, which settings and checkpoints write down

    def settings(self) -> dict[str, Any]:
        """What a fit's settings say of them, by name: what JSON holds; a callable is ``"custom"``."""
        kept = {one.name: getattr(self, one.name) for one in fields(self) if one.metadata["in_settings"]}
        return {name: "custom" if callable(value) else value for name, value in kept.items()}

    def marks(self) -> dict[str, Any]:
        """What the numbers of a fit depend on, by name: a checkpoint with others is of another fit."""
        return {one.name: getattr(self, one.name) for one in fields(self) if one.metadata["marks"]}


class FitKeywords(TypedDict, total=False):
    """The fields of `FitOptions` for type checkers, who cannot make them of it; a test holds the two equal."""

    epochs: int | None
    steps: int | None
    batch_size: int
    optimizer: Any
    learning_rate: float | None
    schedule: Any
    kl_warmup: float | None
    kl_weight: float | None
    seed: int
    device: str
    precision: str
    restarts: int
    only_restart: int | None
    particles: int
    gate_estimator: Any
    execution: str
    compiled: bool | None
    clip: float | None
    sticking_the_landing: bool
    local_reparameterisation: bool | str | None
    channels_last: bool
    workers: int
    progress: bool
    checkpoint: Any
    standardise: Any


def options_of(options: FitOptions | None, more: FitKeywords) -> FitOptions:
    """The options of a call of `fit`: those that were given by name, in place of the ones of ``options=``.

    Args:
        options: What was given as ``options=``; None: the defaults.
        more: What was given by name.

    Raises:
        TypeError: For a name that is none; it says which one is meant.
        ValueError: As `FitOptions`.
    """
    if options is not None and not isinstance(options, FitOptions):
        raise ValueError(f"options= takes FitOptions(...), not {shown(options)}")
    known = [one.name for one in fields(FitOptions)]
    for name in more:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            meant = f", did you mean {near[0]}=?" if near else f": its options are {', '.join(known)}"
            raise TypeError(f"fit() got an unexpected keyword argument {name!r}{meant}")
    return replace(options or FitOptions(), **more)


def with_options(function: Callable[..., Any]) -> inspect.Signature:
    """The signature of a function that takes the options as ``**more``, with each of them by name and its default."""
    signature = inspect.signature(function)
    own = [one for one in signature.parameters.values() if one.kind is not inspect.Parameter.VAR_KEYWORD]
    single = [
        inspect.Parameter(one.name, inspect.Parameter.KEYWORD_ONLY, default=one.default, annotation=one.type)
        for one in fields(FitOptions)
    ]
    return signature.replace(parameters=[*own, *single])


def filled_in(asked: Mapping[str, Any]) -> dict[str, Any]:
    """What was asked for, as earlier versions wrote it: how a fit is usually trained, in place of what was left open.

    Args:
        asked: Arguments by name; those that are not there are not added.
    """
    return {name: USUAL.get(name) if value is None else value for name, value in asked.items()}


def help_of(name: str) -> str:
    """The help text of an option."""
    return str(FitOptions.__dataclass_fields__[name].metadata["help"])


def _check_types(options: Mapping[str, Any]) -> None:
    """Refuses what is of no type that the option takes."""
    either, named = "a name, a callable or None", "a name"
    expected: list[tuple[str, str, Callable[[Any], bool]]] = [
        ("optimizer", either, lambda v: v is None or isinstance(v, str) or callable(v)),
        ("schedule", either, lambda v: v is None or isinstance(v, str) or callable(v)),
        ("precision", named, lambda v: isinstance(v, str)),
        ("execution", named, lambda v: isinstance(v, str)),
        ("gate_estimator", "a callable or None", lambda v: v is None or callable(v)),
        ("checkpoint", "a folder or None", lambda v: v is None or isinstance(v, (str, PathLike))),
    ]
    flags = ("sticking_the_landing", "channels_last", "progress")
    expected += [(name, "True or False", _is_flag) for name in flags]
    expected += [
        (
            "local_reparameterisation",
            "True, False, 'approximate' or None",
            lambda v: v is None or _is_flag(v) or _is_name(v, "approximate"),
        ),
        ("compiled", "True, False or None", lambda v: v is None or _is_flag(v)),
        ("standardise", "True, False, 'noise' or None", lambda v: v is None or _is_flag(v) or _is_name(v, "noise")),
    ]
    for name, what, fits in expected:
        value = options[name]
        if not fits(value):
            raise ValueError(f"{name}= takes {what}, not {shown(value)}")


def _check_ranges(options: Mapping[str, Any]) -> None:
    only, restarts = options["only_restart"], options["restarts"]
    if only is not None and only >= restarts:
        raise ValueError(f"only_restart= is one of the {restarts} of restarts=, counted from 0, not {only}")
    share, weight, clip, rate = (options[name] for name in ("kl_warmup", "kl_weight", "clip", "learning_rate"))
    if share is not None and not 0.0 <= share < 1.0:
        raise ValueError(f"kl_warmup is a share of the steps in [0, 1), not {share}")
    if weight is not None and weight < 0.0:
        raise ValueError(f"kl_weight must not be negative, not {weight}: 1 is the ELBO, less is tempered")
    if clip is not None and not clip > 0:
        raise ValueError(f"clip is the largest norm of the gradient, a positive number, not {clip}")
    if not callable(options["optimizer"]) and rate is not None and rate <= 0:
        raise ValueError(f"learning_rate must be positive, not {rate}")


def _is_name(value: Any, name: str) -> bool:
    return isinstance(value, str) and value == name


def _is_flag(value: Any) -> bool:
    try:
        return value in (True, False)
    except (TypeError, ValueError, RuntimeError):  # arrays and tensors of several values
        return False
