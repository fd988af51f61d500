"""Checks of rules, callbacks and records in several processes."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import ClassVar

import torch
from torch import nn

import bayesprune as bp
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule
from bayesprune.inference.training import restart_run
from bayesprune.inference.watching.callbacks import Callback
from tests.inference.runtime.many_processes import check
from tests.inference.runtime.problems import SIZE, X, Y, fitted, network, said, tensors_of

DENSITY, SEEDS = 0.1, (0, 1)


@cache
def digits():
    splits = bp.load_data("digits")
    return splits.train, splits.validation


def small(units=(30,)):
    torch.manual_seed(3)
    sizes = [64, *units, 10]
    layers = [part for a, b in zip(sizes, sizes[1:], strict=False) for part in (nn.Linear(a, b), nn.ReLU())]
    return nn.Sequential(nn.Flatten(), *layers[:-1])


def halo(make, steps=120, **more):
    """HALO at a budget."""
    (x, y), _ = digits()
    bnn = bp.BayesianNetwork(small(), {"*.weight": bp.HALO()}, data_size=len(x))
    return fit_of(make, bnn, steps, rules=[bp.Budget(density=DENSITY)], learning_rate=1e-2, **more)


def spike_and_slab(make, steps=120, **more):
    """Spike and slab at a budget, outputs drawn."""
    (x, y), _ = digits()
    bnn = bp.BayesianNetwork(small(), {"*.weight": bp.SpikeAndSlab()}, data_size=len(x))
    return fit_of(make, bnn, steps, rules=[bp.Budget(density=DENSITY)], kl_weight=0.1, learning_rate=1e-2, **more)


def unit_gates(make, steps=200, **more):
    """Gates of units, which are removed while it is trained, at a budget of MACs."""
    (x, y), _ = digits()
    bnn = bp.BayesianNetwork(small((30, 20)), {}, None, len(x), bp.UnitGates(), x[:1])
    rules = [bp.Gating(remove=20), bp.Budget(macs=0.4)]
    return fit_of(make, bnn, steps, rules=rules, learning_rate=3e-3, **more)


def rigl(make, steps=120, **more):
    """Masks with exact counts, whose weights are exchanged by the dense gradient."""
    (x, y), _ = digits()
    recipe = bp.recipe("rigl", density=DENSITY, every=20)
    return fit_of(make, recipe.model(small(), data_size=len(x)), steps, "map", rules=recipe.rules, **more)


METHODS = {"HALO": halo, "spike and slab": spike_and_slab, "unit gates": unit_gates, "RigL": rigl}


def fit_of(make, bnn, steps, guide=None, **more):
    (x, y), _ = digits()
    how = {"steps": steps, "batch_size": 125, "execution": "plain"}
    return bp.fit(bnn, (x, y), guide, runtime=make(precision="float32"), **{**how, **more})


def facts_of(fit):
    """Its numbers, its sizes, and how well it reads what it has not seen."""
    _, (x, y) = digits()
    shapes = [tuple(p.shape) for p in fit.model.network.parameters()]
    masks = {name: int(m.sum()) for way in fit.model.ways for name, m in getattr(way, "masks", {}).items()}
    settings = {key: fit.settings[key] for key in ("budget", "masks", "gating") if key in fit.settings}
    found = {"tensors": tensors_of(fit), "shapes": shapes, "masks": masks, "settings": settings}
    return found | {"accuracy": fit.score(x, y)["accuracy"], "processes": fit.settings.get("processes")}


@check(2)
def methods_on_digits(make):
    """Each method once."""
    return {name: facts_of(method(make)) for name, method in METHODS.items()}


@check(4)
def methods_at_length(make):
    """Each method with more steps, from two seeds."""
    return {
        (name, seed): facts_of(method(make, steps=900, seed=seed)) for name, method in METHODS.items() for seed in SEEDS
    }


@check(2, 3, 4)
def averaged_iterates(make):
    """The average of iterates at common noise, and how many they were."""
    rule = bp.IterateAverage(0.5)
    fit = fitted(make(noise="common"), "Gaussian", rules=[rule])
    return tensors_of(fit), fit.settings["average"]


# -- who is asked ----------------------------------------------------------------------------------------------


class Counted(Callback):
    """Stops in the middle of an epoch where it is asked to, and counts what it is told."""

    def __init__(self, at=None):
        self.at, self.told = at, dict.fromkeys(("start", "step", "epoch", "end"), 0)

    def on_fit_start(self, state):
        self.told["start"] += 1

    def on_step(self, state):
        self.told["step"] += 1
        if self.at is not None and state.step == self.at:
            state.stop, state.stop_reason = True, "enough steps"

    def on_epoch(self, state):
        self.told["epoch"] += 1

    def on_fit_end(self, state):
        self.told["end"] += 1


@check(2)
def callbacks_and_stops(make):
    """A callback that stops at a step, a rule that stops after an epoch, and one that only counts."""
    runtime, found = make(), {}
    for name, at in (("counts", None), ("stops", 8)):
        watcher = Counted(at)
        watchers = [watcher] if name == "counts" or runtime.rank == 0 else []  # not all need have them
        fit = fitted(runtime, "Gaussian", callbacks=watchers, progress=False)
        found[name] = {"told": watcher.told, **ends_of(fit)}
    asked = []

    def stop(state):
        asked.append(state.epoch)
        return state.epoch == 2

    stop.reason = "two epochs"
    found["rule"] = {"told": asked, **ends_of(fitted(runtime, "Gaussian", stop=stop))}
    return found


def ends_of(fit):
    return {"tensors": tensors_of(fit), "stopped": fit.settings["stopped_early"], "epochs": fit.trace.sizes["epoch"]}


class Draws(Callback):
    """Draws from torch's generator, as predictions do."""

    def on_fit_start(self, state):
        torch.randn(1)

    def on_step(self, state):
        torch.randn(2)

    on_epoch = on_fit_end = on_fit_start


class DrawsAfterEpochs(Draws):
    """Draws where no process but the first one waits."""

    on_step = Callback.on_step


@check(2)
def callbacks_that_draw(make):
    """Numbers that rules draw beside callbacks and a stopping rule that draw in the first process alone."""
    found = {}
    for name, watchers in (("steps", [Draws()]), ("epochs", [DrawsAfterEpochs()]), ("stop", []), ("none", [])):
        rule = Sees(every=1)
        stop = (lambda state: bool(torch.randn(1) > 9.0)) if name == "stop" else None
        fit = fitted(make(), "HALO", rules=[rule], callbacks=watchers, stop=stop, epochs=2)
        found[name] = torch.stack([seen[-1] for seen in rule.seen]), tensors_of(fit)
    return found


class StopsAtOnce(Callback):
    def on_fit_start(self, state):
        state.stop = True


@check(2)
def stops_before_the_first_step(make):
    """What is said where a callback stops a fit that has not begun."""
    return said(fitted, make(), "Gaussian", callbacks=[StopsAtOnce()])


@check(2)
def losses_that_are_not_finite(make):
    """What is said where the examples of the last process alone have a loss that is not finite."""
    x = X.clone()
    x[50] = 1e308
    bnn = bp.BayesianNetwork(network(gated=True), {"*weight": bp.Gaussian()}, data_size=SIZE)
    return said(fitted, make(), data=(x, Y), bnn=bnn)


@check(2)
def validation_scores_and_records(make):
    """Records of a fit with validation data, and who has scored them."""
    runtime, calls = make(), []
    scores = restart_run.validation_scores

    def counted(*given):
        calls.append(1)
        return scores(*given)

    restart_run.validation_scores = counted
    try:
        fit = fitted(runtime, "HALO", validation=(X[:30], Y[:30]))
    finally:
        restart_run.validation_scores = scores
    columns = {name: torch.as_tensor(v.values) for name, v in fit.trace.items() if v.dtype.kind == "f"}
    return {"calls": len(calls), "columns": columns}


@dataclass(frozen=True)
class Sees(Rule):
    """Notes what a rule is shown."""

    seen: list = field(default_factory=list)
    name: ClassVar[str] = "sees"
    every: int = 2

    def begin(self, run):
        return Seeing(self, run)


class Seeing(ActiveRule):
    def __init__(self, rule, run):
        self.rule, self.run = rule, run
        self.needs = Needs(
            batch=lambda step: step % rule.every == 0, weight_gradient=lambda step: step % rule.every == 0
        )

    def after_step(self, taken):
        if taken.step % self.rule.every == 0:
            parts = {site: float(part) for site, part in taken.terms.kl_of.items()}
            terms = [float(taken.terms.loss), float(taken.terms.log_likelihood), float(taken.terms.kl)]
            gradient = {name: g.clone() for name, g in taken.weight_gradient.items()}
            drawn = torch.randn(2)  # rules draw the same numbers everywhere
            self.rule.seen.append((taken.x.clone(), taken.y.clone(), terms, parts, gradient, drawn))
        return Change.NOTHING


@check(2, 3, 4)
def what_rules_are_shown(make):
    """Batches, terms, gradients of weights and random numbers of a rule, with noise in common."""
    rule = Sees()
    fitted(make(noise="common"), "Gaussian", rules=[rule], epochs=2)
    return rule.seen


@check(2)
def several_restarts(make):
    """Two restarts, with rules that a fit brings itself."""
    fit = fitted(make(), "spike and slab", restarts=2, local_reparameterisation=None)
    return {"tensors": [torch.cat([p.detach().flatten() for p in one.guide.parameters()]) for one in fit.restarts]}


@check(2)
def particles_clip_and_other_optimizers(make):
    """Fits at common noise with options that act after the mean: they are those of one process."""
    found = {}
    for name, how in {
        "clip": {"clip": 0.05},
        "particles": {"particles": 2},
        "sgd": {"optimizer": "sgd"},
        "clip, fused": {"clip": 0.05, "execution": "fused", "compiled": False},
        "steps": {"epochs": None, "steps": 7},
    }.items():
        found[name] = tensors_of(fitted(make(noise="common"), "Gaussian", **how))
    return found
