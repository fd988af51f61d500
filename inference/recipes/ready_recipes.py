"""The methods of sparse training by name; each is a few settings of `DynamicMasks`, with where they come from."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from bayesprune.inference.masks.density_schedules import CubicDensity, CyclicDensity, IteratedDensity
from bayesprune.inference.masks.dynamic_masks import DynamicMasks
from bayesprune.inference.masks.layouts import LAYOUTS
from bayesprune.inference.recipes.recipe import Recipe
from bayesprune.models.checks.setting_types import checked_types
from bayesprune.models.checks.shown_values import shown
from bayesprune.models.costs.layer_budgets import LayerBudget
from bayesprune.models.costs.layer_shares import checked_share

__all__ = ["RECIPES", "ReadyRecipe", "ready_recipe", "recipe"]

ITOP_EVERY = 4000 / 88_000
"""Share of the fit between updates of RigL-ITOP: 4,000 of 250 epochs of 352 steps."""
CLIP = 1.0
"""Largest norm of the gradient where weights come by the gradient, as in the code of EAST: normalisation makes the
gradients of a channel with next to no weights huge (docs/sparse_training.md has figures of both)."""
OF_CALL = ("density", "layout", "schedule")
"""Fields of `DynamicMasks` that no setting is: what `recipe` takes itself, and what a recipe is."""
CHECK_THEMSELVES = ("start",)
"""Fields that `DynamicMasks` checks, as they are of no plain type."""


@dataclass(frozen=True)
class ReadyRecipe:
    """A recipe by name.

    Attributes:
        name: Its name.
        summary: What it is, in a line.
        make: Makes it of its own settings, arguments with defaults and annotations of plain types; its density and
            layout are set afterwards.
    """

    name: str
    summary: str
    make: Callable[..., Recipe]

    @property
    def own(self) -> dict[str, Any]:
        """Its own settings with their defaults."""
        return {name: one.default for name, one in inspect.signature(self.make).parameters.items()}

    @property
    def settings(self) -> dict[str, Any]:
        """All settings with their defaults: its own, and those of its masks."""
        made = self.make()
        masks = made.masks
        return (
            self.own
            | {"clip": made.clip}
            | {one.name: getattr(masks, one.name) for one in fields(masks) if one.name not in OF_CALL}
        )


class Recipes(dict[str, ReadyRecipe]):
    """The recipes of sparse training by name, those of the user's own too; ``str()`` is a table of them."""

    def __str__(self) -> str:
        width = max(map(len, self), default=0)
        return "\n".join(f"{name:<{width}}  {entry.summary}" for name, entry in self.items())


RECIPES = Recipes()


def ready_recipe(name: str, summary: str) -> Callable[[Callable[..., Recipe]], Callable[..., Recipe]]:
    """Decorator: a recipe by name, in `RECIPES`; see `ReadyRecipe`."""

    def register(make: Callable[..., Recipe]) -> Callable[..., Recipe]:
        RECIPES[name] = ReadyRecipe(name, summary, make)
        return make

    return register


def recipe(
    name: str,
    density: float | int | None = None,
    layout: str | LayerBudget | Mapping[str, Any] = "erk",
    **settings: Any,
) -> Recipe:
    """Makes a recipe of sparse training.

    Args:
        name: A key of `RECIPES`.
        density: Share of the weights with a prior that are in at the end, in (0, 1], or their number from 2 on.
        layout: How they are spread over the tensors: ``"erk"`` (default), ``"uniform"``, or a budget by layer, in place
            of a density; weights then go from each layer, whatever the recipe says.
        **settings: Of the recipe, or of `DynamicMasks`, in place of the recipe's; or ``clip`` (`Recipe.clip`).

    Raises:
        ValueError: If the name or a setting is unknown (close ones are suggested), one is out of range or of another
            type, or nothing says how dense the network is to be.
    """
    if not isinstance(name, str) or name not in RECIPES:
        raise ValueError(
            f"recipe {shown(name)} is unknown{_meant(name, RECIPES)}: expected one of {', '.join(RECIPES)}"
        )
    entry, known = RECIPES[name], RECIPES[name].settings
    for key in settings:
        if key not in known:
            listed = f"its settings are {', '.join(known)}"
            raise ValueError(f"the recipe {name} has no setting {shown(key)}{_meant(key, known)}: {listed}")
    if not isinstance(layout, (LayerBudget, Mapping)) and (not isinstance(layout, str) or layout not in LAYOUTS):
        raise ValueError(f"layout {shown(layout)} is unknown: expected {', '.join(LAYOUTS)} or a budget by layer")
    if isinstance(layout, str) and density is None and isinstance(settings.get("start", ""), str):
        raise ValueError(f"the recipe {name} needs a density: give density=0.01, or a budget by layer")
    if density is not None:
        checked_share(density, f"the density of the recipe {name}")
    what = f"the recipe {name}"
    own = checked_types(what, entry.make, {key: value for key, value in settings.items() if key in entry.own})
    of_masks = {key: value for key, value in settings.items() if key not in entry.own}
    clip = checked_types(what, Recipe, {key: of_masks.pop(key) for key in ("clip",) if key in of_masks})
    if clip.get("clip") is not None and not clip["clip"] > 0.0:
        raise ValueError(f"{what} takes a clip above 0 or None, not {clip['clip']:g}")
    plain = {key: value for key, value in of_masks.items() if key not in CHECK_THEMSELVES}
    of_masks |= checked_types(what, DynamicMasks, plain)
    by_layer = {} if isinstance(layout, str) else {"across": "layer"}
    made = entry.make(**own)
    return replace(made, **clip, masks=replace(made.masks, density=density, layout=layout, **{**by_layer, **of_masks}))


def _meant(given: Any, known: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(str(given), list(known), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""


@ready_recipe("static", "random masks that never move")
def static() -> Recipe:
    """A random network of fixed density: what every other recipe has to beat.

    The control of Evci et al. 2020 ("static"): Erdos-Renyi-kernel layout, no update.
    """
    return Recipe("static", DynamicMasks(grow=None, share=0.0))


@ready_recipe("set", "drop by magnitude, grow at random (Mocanu et al. 2018)")
def sparse_evolutionary_training() -> Recipe:
    """SET as In-Time Over-Parameterization trains it (Mocanu et al. 2018; Liu et al. 2021).

    Half of the weights of each layer at the first update, along a cosine to 0.005 at the end. ITOP updates every 1,500
    of 88,000 steps; here it is that share of the fit, so that a shorter one has as many updates. ITOP grows with a
    probability, so that its counts hold in expectation only; here they are exact.
    """
    return Recipe("set", DynamicMasks(grow="random", share=0.5, last_share=0.005, until=1.0, every=1500 / 88_000))


@ready_recipe("rigl", "drop by magnitude, grow by the gradient (Evci et al. 2020)")
def rigl() -> Recipe:
    """RigL: 0.3 of each layer, along a cosine to nothing at three quarters of the fit, every 100 steps.

    Evci et al. 2020, whose fits had 32,000 steps and stopped at 25,000. In fits of less than 800 steps an eighth of
    the fit lies between updates.
    """
    return Recipe("rigl", DynamicMasks(share=0.3, until=0.75, every=100), CLIP)


@ready_recipe("rigl-itop", "RigL with long intervals and updates to the end (Liu et al. 2021)")
def rigl_itop() -> Recipe:
    """RigL with In-Time Over-Parameterization (Liu et al. 2021), the base of EAST.

    Half of the weights of each layer at the first update, along a cosine to 0.005 at the end of the fit. Updates every
    4,000 of 88,000 steps (250 epochs of 352); here a 22nd of the fit, whatever its length.
    """
    return Recipe("rigl-itop", _itop(), CLIP)


@ready_recipe("granet", "from half dense to the density along a cubic, with exchange (Liu et al. 2021)")
def granet(first: float = 0.5, ends: float = 0.5) -> Recipe:
    """GraNet: gradual pruning by a magnitude ranked over the network, and at each update an exchange as in RigL.

    Liu et al. 2021, settings of its CIFAR scripts: density 0.5 at first, the final one at 80 of 160 epochs, exchange of
    0.5 along a cosine over the whole fit. It updates every 1,000 of 62,560 steps; here that share of the fit.

    Args:
        first: Density in the beginning; default 0.5.
        ends: Share of the fit at which the density is the final one; default 0.5.
    """
    schedule = CubicDensity(start=first, ends=ends)
    every = 1000 / (160 * 391)
    return Recipe("granet", DynamicMasks(schedule=schedule, share=0.5, until=1.0, every=every, across="network"), CLIP)


@ready_recipe("gradual-magnitude", "from dense to the density along a cubic (Zhu & Gupta 2017)")
def gradual_magnitude(begins: float = 0.1, ends: float = 0.7) -> Recipe:
    """Gradual magnitude pruning, by a magnitude ranked over the whole network; nothing comes back.

    Zhu & Gupta 2017, equation 1, which leaves begin and end to the user: from a tenth to seven tenths of the fit, every
    100 steps, as in the baseline of `benchmarks/magnitude.py`.

    Args:
        begins: Share of the fit at which the density begins to fall; default 0.1.
        ends: Share at which it is the final one; default 0.7.
    """
    schedule = CubicDensity(begins=begins, ends=ends)
    return Recipe("gradual-magnitude", DynamicMasks(schedule=schedule, grow=None, share=0.0, across="network"))


@ready_recipe("iterative-magnitude", "from dense to the density step by step, the same share in each (Han et al. 2015)")
def iterative_magnitude(steps: int = 8, begins: float = 0.1, ends: float = 0.8, goes: str = "share") -> Recipe:
    """Iterative magnitude pruning, with training between the steps; nothing comes back.

    Magnitudes are ranked over the whole network (class-blind of See, Luong & Manning 2016). With `layout="uniform"` and
    `across="layer"` each tensor loses the same share (class-uniform); `across="distribution"` divides magnitudes by the
    sd of their tensor. Eight steps to a density of 0.1 take a quarter of what is left each, as in arXiv:2107.12917.

    Args:
        steps: How many; default 8.
        begins: Share of the fit after which the first step is; default 0.1.
        ends: Share after which the last one is; default 0.8.
        goes: ``"share"`` of what is left (default) or ``"number"``: of what the same goes in each step.
    """
    schedule = IteratedDensity(steps=steps, begins=begins, ends=ends, goes=goes)
    return Recipe("iterative-magnitude", DynamicMasks(schedule=schedule, grow=None, share=0.0, across="network"))


@ready_recipe("synflow", "masks by synaptic flow before training, which never move (Tanaka et al. 2020)")
def synflow() -> Recipe:
    """SynFlow: the weights through which most flows in a network of their absolute values, without data.

    Tanaka et al. 2020: 100 rounds, ranked over the whole network, so that the layout is not looked at.
    """
    return Recipe("synflow", DynamicMasks(start="synflow", grow=None, share=0.0))


@ready_recipe("cyclic", "RigL-ITOP with a density that rises threefold and falls, twice (Li et al. 2024)")
def cyclic(cycles: int = 2, top: float = 3.0, ends: float = 0.4, shape: str = "cosine") -> Recipe:
    """RigL-ITOP with cyclic density, the third part of EAST (arXiv:2411.13545, settings of its code ES2).

    Two cycles in the first 100 of 250 epochs, from the density to three times that and back along a cosine; then
    RigL-ITOP. Inside of the cycles ES2 updates every 100 of 88,000 steps by default; what the paper used is not known.
    Here it is a 200th of the fit, 40 updates a cycle, so that a shorter fit follows the schedule as well.

    Args:
        cycles: How many; default 2.
        top: Density in the middle of a cycle, as a multiple of the final one; default 3.
        ends: Share of the fit that the cycles take together, at most 1; default 0.4.
        shape: ``"cosine"`` (default) or ``"triangular"``.
    """
    return Recipe("cyclic", _with_cycles(cycles, top, ends, shape), CLIP)


@ready_recipe("east", "cyclic, with dynamic ReLUs that are faded out and shared blocks (Li et al. 2024)")
def east(
    dyrelu: bool = True,
    shared: int | None = 2,
    cyclic: bool = True,
    cycles: int = 2,
    top: float = 3.0,
    ends: float = 0.4,
    shape: str = "cosine",
) -> Recipe:
    """EAST (arXiv:2411.13545), implemented anew after its authors' code ES2: three tricks over RigL-ITOP.

    Its versions contradict each other in places; where they do, the abstract is followed (DyReLU from the first step
    on). It is trained by SGD from 0.1 with gradients of a norm up to 1; the rate falls along a cosine here, while ES2
    divides it by ten at a half and at three quarters. The density is of the network without sharing, so that the same
    number of weights is left.

    Args:
        dyrelu: Whether every ReLU is a DyReLU-B at first, faded out by `Phasing` before half of the fit; default True.
        shared: Blocks of each residual stage that own their convolutions; default 2. None: no block is shared.
        cyclic: Whether the density has cycles, see the recipe cyclic; default True.
        cycles: How many; default 2.
        top: Density in the middle of a cycle, as a multiple of the final one; default 3.
        ends: Share of the fit that the cycles take together; default 0.4.
        shape: ``"cosine"`` (default) or ``"triangular"``.
    """
    masks = _with_cycles(cycles, top, ends, shape) if cyclic else _itop()
    return Recipe("east", masks, CLIP, shared, dyrelu)


def _itop() -> DynamicMasks:
    return DynamicMasks(share=0.5, last_share=0.005, until=1.0, every=ITOP_EVERY)


def _with_cycles(cycles: int, top: float, ends: float, shape: str) -> DynamicMasks:
    return replace(_itop(), schedule=CyclicDensity(cycles, top, ends, shape), within=1 / 200)
