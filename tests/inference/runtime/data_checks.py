"""Checks of data and checkpoints in several processes."""

from __future__ import annotations

import contextlib
import shutil
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import bayesprune as bp
from bayesprune.inference.rules.rule import ActiveRule, Change, Needs, Rule, never
from bayesprune.inference.training import checkpoint as checkpoints
from bayesprune.inference.training.restart_run import RestartRun
from tests.inference.runtime import many_processes
from tests.inference.runtime.many_processes import alone, check
from tests.inference.runtime.problems import SIZE, X, Y, fitted, model_of, network, tensors_of

# -- data ------------------------------------------------------------------------------------------------------


class Pairs(Dataset):
    """The data one by one; it notes which of them were asked for."""

    def __init__(self):
        self.asked = []

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        self.asked.append(index)
        return X[index], Y[index]


class Stream(IterableDataset):
    """The data one by one, without a length."""

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


def parts():
    return [(X[at : at + 17], Y[at : at + 17]) for at in range(0, SIZE, 17)]


def loader(shuffle, **more):
    return DataLoader(TensorDataset(X, Y), batch_size=17, shuffle=shuffle, **more)


KINDS = {
    "tensors": lambda: (X, Y),
    "data set": Pairs,
    "loader": lambda: loader(False),
    "loader that shuffles": lambda: loader(True),
    "loader with a generator": lambda: loader(True, generator=torch.Generator().manual_seed(4)),
    "loader that drops the last": lambda: loader(True, drop_last=True),
    "list of batches": parts,
    "stream": Stream,
    "loader of a stream": lambda: DataLoader(Stream(), batch_size=17),
}
"""Of all but the last two a fit takes two epochs, which are 12 steps (10 where the last batch is dropped)."""


@check(2, 3)
def batches_of_all_kinds(make):
    """What a process trains on in each step, with which weight, and what it asked of a data set for that."""
    found = {}
    for kind, made in KINDS.items():
        data, seen, counts = made(), [], []
        length = {"epochs": None, "steps": 12} if "stream" in kind else {"epochs": 2}
        with watched(data, seen, counts):
            torch.manual_seed(1)
            fit = fitted(make(noise="common"), "Gaussian", data, **length)
        found[kind] = {"seen": seen, "counts": counts, "tensors": tensors_of(fit)}
    return found


@contextlib.contextmanager
def watched(data, seen, counts):
    """Notes batches as steps are taken on them, and how many examples were asked for meanwhile."""
    take_step, train = RestartRun.take_step, RestartRun.train

    def noted_step(self, x, y, weight=1.0):
        seen.append((x.clone(), y.clone(), weight))
        return take_step(self, x, y, weight)

    def noted_training(self, *given):
        before = len(getattr(data, "asked", ()))
        train(self, *given)
        counts.append(len(getattr(data, "asked", ())) - before)

    RestartRun.take_step, RestartRun.train = noted_step, noted_training
    try:
        yield
    finally:
        RestartRun.take_step, RestartRun.train = take_step, train


@check(2)
def sizes_of_data(make):
    """What is said of data that have another number of examples than the model says, be it that of a share."""
    found = {}
    for kind in ("tensors", "data set", "loader", "list of batches", "stream", "loader of a stream"):
        for size in (SIZE, SIZE // 2, 51):
            found[kind, size] = said(fit_to, make(), kind, size)
    return found


def fit_to(runtime, kind, size):
    """Fits data of a kind with a model that was made for so many examples."""
    bnn = bp.BayesianNetwork(network(), {"*weight": bp.Gaussian()}, data_size=size)
    length = {"epochs": None, "steps": 14} if "stream" in kind else {"epochs": 2}
    return fitted(runtime, data=KINDS[kind](), bnn=bnn, **length)


def said(action, *given, **how):
    """The sentence with which something is refused; empty if it is not."""
    try:
        action(*given, **how)
    except (ValueError, ImportError) as problem:
        return f"{type(problem).__name__}: {problem}"
    return ""


# -- checkpoints -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Breaks(Rule):
    """Breaks a fit off in all processes, at a step that no checkpoint knows of."""

    name: ClassVar[str] = "breaks"
    at: ClassVar[int | None] = None

    def begin(self, run):
        return Breaking()


class Breaking(ActiveRule):
    needs = Needs(batch=never)

    def after_step(self, taken):
        if taken.step == Breaks.at:
            raise KeyboardInterrupt
        return Change.NOTHING


STEPS = 36
FITS = {
    "HALO": ({}, {}),
    "gates and average": ({"travel": 0.5, "delay": 0.0, "remove": 6}, {"learning_rate": 0.02}),
    "batch normalisation": ({}, {"batch_norm": "apart"}),
}


def kept_fit(runtime, name, folder, at=None):
    """A fit that keeps its state after each epoch of six steps, and is broken off at a step."""
    gating, how = FITS[name]
    rules = [Breaks()]
    if gating:
        bnn = bp.BayesianNetwork(network(True, True), {}, None, SIZE, bp.UnitGates(kappa=0.02, weight_scale=0.3), X[:1])
        bnn, rules = bnn.float(), [bp.Gating(**gating), bp.IterateAverage(0.2), *rules]
    else:
        bnn = model_of("HALO" if name == "HALO" else "Gaussian", normalised=name == "batch normalisation")
    how = {name: value for name, value in how.items() if name != "batch_norm"}
    before = checkpoints.SHARE, checkpoints.LEAST, Breaks.at
    checkpoints.SHARE, checkpoints.LEAST, Breaks.at = 1.0, 0.0, at
    try:
        return fitted(runtime, bnn=bnn, rules=rules, epochs=6, checkpoint=folder, **how)
    except KeyboardInterrupt:
        return None
    finally:
        checkpoints.SHARE, checkpoints.LEAST, Breaks.at = before


def result_of(fit):
    shapes = [tuple(p.shape) for p in fit.model.network.parameters()]
    return {"tensors": tensors_of(fit), "shapes": shapes, "resumed": fit.settings["resumed_at_epoch"]}


@check(2)
def fits_broken_off_and_taken_up_again(make):
    """A whole fit, and one that was broken off in the fourth epoch; its folder is left for other numbers of them."""
    found = {}
    for noise, names in (("apart", FITS), ("common", ("HALO",))):
        for name in names:
            runtime = make(noise=noise)
            folder = many_processes.FOLDER / f"{name}, {noise}".replace(" ", "-")
            mine = folder / "whole" if runtime.rank == 0 else folder / "nowhere"  # only the first process needs one
            whole = result_of(kept_fit(runtime, name, mine))
            mine = folder / "broken" if runtime.rank == 0 else folder / "nowhere"
            broken = kept_fit(runtime, name, mine, at=20)
            if runtime.rank == 0:
                shutil.copytree(folder / "broken", folder / "left")
            runtime.agreed(None)
            again = result_of(kept_fit(runtime, name, mine))
            known = sorted(one.name for one in folder.iterdir())
            found[name, noise] = {"whole": whole, "broken": broken, "again": again, "known": known}
    return found


@check(3)
def fits_of_one_process_taken_up_by_three(make):
    """A fit that one process began goes on in three."""
    found = {}
    for name in FITS:
        runtime = make(noise="common")
        folder = many_processes.FOLDER / f"{name} of one".replace(" ", "-")
        if runtime.rank == 0:
            kept_fit(alone(), name, folder, at=20)
        runtime.agreed(None)
        found[name] = result_of(kept_fit(runtime, name, folder))
    return found
