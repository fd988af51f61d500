"""Checks of what several processes refuse: each says the same sentence, and all go on."""

from __future__ import annotations

import os

import bayesprune as bp
from bayesprune.inference.training import same_fit
from tests.inference.runtime import many_processes
from tests.inference.runtime.data_checks import said
from tests.inference.runtime.many_processes import check
from tests.inference.runtime.problems import X, Y, fitted, model_of, network
from tests.inference.runtime.rule_checks import Sees


@check(2, 3)
def too_few_examples(make):
    """Batches and data that are too small for so many processes, and the smallest that are not."""
    runtime = make()
    least, found = 2 * runtime.world, {}
    for name, how in {
        "batch": {"batch_size": least - 1},
        "data": {"data": (X[: least - 1], Y[: least - 1]), "bnn": model_of("Gaussian", data_size=least - 1)},
        "loader": {"data": [(X[at : at + 1], Y[at : at + 1]) for at in range(101)]},
        "enough": {"batch_size": least},
        "data enough": {"data": (X[:least], Y[:least]), "bnn": model_of("Gaussian", data_size=least)},
    }.items():
        found[name] = said(fitted, runtime, **{"prior": "Gaussian", "epochs": 1, **how})
    return found


@check(2, 3)
def unlike_processes(make):
    """The last process fits something else than the others, in one respect after the other."""
    runtime, found = make(), {}
    last = runtime.rank == runtime.world - 1
    for name, how in {
        "prior": {"prior": "HALO"},
        "network": {"bnn": bp.BayesianNetwork(network(gated=True), {"*weight": bp.Gaussian()}, data_size=101)},
        "data": {"data": (X + 1e-12, Y)},
        "kind of data": {"data": [(X, Y)]},
        "learning rate": {"learning_rate": 0.02},
        "seed": {"seed": 3},
        "rule": {"rules": [Sees(every=3)]},
        "length": {"epochs": 2},
        "guide": {"bnn": model_of("Gaussian"), "guide": "map"},
        "execution": {"execution": "fused"},
        "checkpoint": {"checkpoint": many_processes.FOLDER / "of-the-last-one"},
        "another rule": {"rules": [Sees(every=4), bp.IterateAverage()]},
        "no rule": {"rules": []},
        "nothing": {},
    }.items():
        asked = {"prior": "Gaussian", "epochs": 1, "rules": [Sees(every=4)], **(how if last else {})}
        found[name] = said(fit_with, runtime, **asked)
    digest = same_fit.code_digest
    same_fit.code_digest = lambda: f"{digest()}-changed" if last else digest()
    try:
        found["code"] = said(fitted, runtime, "Gaussian", epochs=1)
    finally:
        same_fit.code_digest = digest
    return found


def fit_with(runtime, guide=None, **how):
    if guide is None:
        return fitted(runtime, **how)
    more = {key: value for key, value in how.items() if key not in ("prior", "bnn")}
    more |= {
        "batch_size": 17,
        "learning_rate": 0.01,
        "execution": "plain",
        "seed": 2,
        "local_reparameterisation": False,
    }
    return bp.fit(how["bnn"], (X, Y), guide, runtime=runtime, **more)


@check(2, 3)
def unlike_runtimes(make):
    """The last process computes in another precision, or in another way."""
    runtime, found = make(), {}
    last = runtime.rank == runtime.world - 1
    for name, (first, other) in {
        "precision": ({"precision": "float64"}, {"precision": "float32"}),
        "noise": ({"noise": "apart"}, {"noise": "common"}),
        "batch_norm": ({"batch_norm": "apart"}, {"batch_norm": "synchronised"}),
    }.items():
        how = other if last else first
        found[name] = said(lambda h=how: fitted(make(**h), "Gaussian", epochs=1))
    return found


@check(2)
def other_numbers_of_processes(make):
    """Numbers that are not those that were started, and what one has to be told."""
    world = int(os.environ["WORLD_SIZE"])
    found = {number: said(make, processes=number) for number in (0, 1, world, world + 1)}
    runtime = make()
    return found | {"rank and world": (runtime.rank, runtime.world), "rank": int(os.environ["RANK"])}
