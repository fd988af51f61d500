"""Refit: train the posterior of the weights on, given which of them are in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Unpack

from torch import Tensor

from bayesprune.inference.data.batches import Data
from bayesprune.inference.fit_result import Fit
from bayesprune.inference.pruning.report import PruneResult
from bayesprune.inference.pruning.what_is_pruned import refuse_what_is_no_fit
from bayesprune.inference.refitting.asked_gates import MEDIAN, asked_gates
from bayesprune.inference.refitting.fixed_gates import FixedGates
from bayesprune.inference.samplers.langevin import SAMPLERS
from bayesprune.inference.training.fit import fit as fit_model
from bayesprune.inference.training.fit_options import FitKeywords, FitOptions, options_of, with_options
from bayesprune.inference.watching.callbacks import Callback, FitState
from bayesprune.models.checks.given_numbers import restart_number

__all__ = ["LEAST_STEPS", "SHARE", "refit"]

SHARE, LEAST_STEPS = 0.5, 1000
"""Length of a refit by default: as a share of the fit's steps, and at least."""
_AS_BEFORE = (
    "batch_size", "optimizer", "learning_rate", "schedule", "kl_weight", "seed", "precision", "particles", "clip",
    "sticking_the_landing", "local_reparameterisation",
)  # fmt: skip
"""Options that are those of the fit where nothing else is asked for."""


def refit(
    fit: Fit,
    data: Data,
    gates: str | float | PruneResult | Mapping[str, Any] = MEDIAN,
    *,
    restart: int | None = None,
    callbacks: Sequence[Callback] = (),
    validation: tuple[Tensor, Tensor] | None = None,
    stop: Callable[[FitState], bool] | None = None,
    options: FitOptions | None = None,
    **more: Unpack[FitKeywords],
) -> Fit:
    """Fixes which weights are in, and trains their posterior on: the posterior given the structure.

    The gates of a spike and slab are 0 or 1 from the first step on, so that what is left is a posterior over the
    weights that are in: draws, intervals and scores are of this one structure, the inclusion probabilities are the ones
    and zeros that were given. What the objective bounds is log p(data, gates): its difference between two refits
    compares their structures, and says nothing about those that were not tried. Hubin & Storvik (2019) train on in the
    same way before they report the median-probability model. Under a prior without such gates, or masks that part what
    one gate holds together, the weights that are out are masked, as in sparse training, and cost nothing.

    Each restart begins where the fit has left it: guide, point estimates, buffers, and knobs, which stay there. One
    network without a posterior is made by `prune` and `finetune`. A refit of a MAP is a MAP.

    It is a function beside `prune` and `finetune`, which take a fit too.

    Args:
        fit: The fit; it is left as it was.
        data: Training data, those of the fit.
        gates: Which weights are in. ``"median"`` (default): the median-probability model (Barbieri & Berger 2004), of
            each restart its own: inclusion probability > 1/2. A number in (0, 1): another threshold. What `prune` or
            `finetune` has returned: the weights that its masks keep, whose values stay the fit's. Or booleans by name
            of tensor, `(out, in, ...)`, of each tensor with a prior. Weights that masks of the fit's own leave out
            stay out.
        restart: Which restart is trained on; default None: all of them.
        callbacks: `Callback`s, as in `fit`.
        validation: `(x, y)` tensors scored after each epoch at the guide's centre; default None.
        stop: A stopping rule, as in `fit`.
        options: Options of the training at once, see `FitOptions`; default None: those below.
        **more: Options by name. Those that are not given are the fit's own (batch size, optimizer, learning rate,
            schedule, KL weight, seed, precision, particles, ...), but for ``kl_warmup``, which is 0, and the length:
            half as many steps as the fit had, at least 1,000. ``restarts`` and ``standardise`` are the fit's.

    Returns:
        A fit, whose settings say under ``"refit"`` how the weights were chosen and how many are in, an object a
        restart.

    Raises:
        ValueError: For what is no fit, gates of another kind, probabilities of a MAP, masks that do not go into the
            model or leave a layer empty, a fit with gates of units, or an option that is out of range.
        TypeError: For an argument that there is not.
        NonFiniteLossError: If the loss becomes NaN or infinite.
    """
    if not isinstance(fit, Fit):
        refuse_what_is_no_fit(fit)
        raise ValueError("refit trains the posterior of a fit on: give what fit(...) returned")
    if "restarts" in more or "standardise" in more:
        raise ValueError("restarts= and standardise= are those of the fit: say by restart= which one is trained on")
    how = _options(fit, options, more)
    first = None if restart is None else restart_number(restart, len(fit.restarts))
    start = fit if first is None else Fit([fit.restarts[first]], fit.trace, fit.settings, fit.inputs, fit.examples)
    asked = asked_gates(start, gates)
    knobs = tuple(one.model.knobs.moved() for one in start.restarts)
    rule = FixedGates(asked.words, asked.masks, knobs, first)
    made = fit_model(
        start.model,
        data,
        fit.settings["guide"],
        start=start,
        rules=[rule],
        callbacks=callbacks,
        validation=validation,
        stop=stop,
        options=how,
        restarts=len(start.restarts),
    )
    return made


def _options(fit: Fit, options: FitOptions | None, more: FitKeywords) -> FitOptions:
    """The options of the training: those that were given, else the fit's, as far as it says them."""
    if options is not None:
        return options_of(options, more)
    known = {one.name for one in fields(FitOptions)}
    own: dict[str, Any] = {
        name: value
        for name in _AS_BEFORE
        if name in known and (value := fit.settings.get(name)) is not None and value != "custom"
    }
    own |= {"kl_warmup": 0.0}
    if more.get("optimizer") is not None or own.get("optimizer") in SAMPLERS:  # its rate and schedule go with it
        own = {name: value for name, value in own.items() if name not in ("optimizer", "learning_rate", "schedule")}
    found = {**own, **more}
    if found.get("epochs") is None and found.get("steps") is None:
        found["steps"] = max(LEAST_STEPS, round(SHARE * (fit.settings.get("steps") or 0)))
    return options_of(None, found)  # type: ignore[arg-type]  # a TypedDict is a dict


refit.__signature__ = with_options(refit)  # type: ignore[attr-defined]
