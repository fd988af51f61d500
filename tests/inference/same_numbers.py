"""What small fits come to, in a few numbers that must not change while the code is rearranged.

`python -m tests.inference.same_numbers` writes same_numbers.json anew. That is right only in a commit that means to
change numbers, whose message says which of them and why (`git diff` of the file shows the cases); to a change that
only moves, splits or renames, a difference is a mistake.

`python -m tests.inference.same_numbers digest` writes nothing and prints a digest of every case to the last bit: to
compare two checkouts on one machine. What is stored is rounded by contrast, as another processor adds in another
order: see `TOLERANCE`.

Only public names are used, so that this file needs no change when modules move.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyro.distributions as dist
import torch
from torch import Tensor, nn

import bayesprune as bp

FILE = Path(__file__).with_name("same_numbers.json")
TOLERANCE = 1e-10
"""Largest difference that is no difference, as a share of an array's norm.

Digests would fail on the next processor, which adds in another order: 20 steps in float64 carry that to 1e-15 (measured
with PyTorch's kernels without vector instructions), and the stored numbers are rounded to 1e-13. What has to be seen is
larger: a prior's constant off by a millionth moves the loss by 2e-9 of itself or more."""
SIZE, FEATURES, HIDDEN, CLASSES = 40, 6, 8, 3
WIDE = 24
"""Hidden units from which on the layer behind draws its outputs, under gates of single weights."""
STEPS, DRAWS = 20, 4
BOTH, ONE = ("plain", "fused"), ("plain",)
WEIGHTS = "*.weight"
Numbers = Mapping[str, list[Any]]
"""Of each array by name: shape, norm and two dot products."""


@dataclass(frozen=True)
class Case:
    """A fit: what is declared, given the factor on a constant of the prior, and how it is fitted.

    Both executions have to learn the same numbers. With gates of units there is the plain one only, and where it is the
    only one otherwise, another case takes the same way through the fused one: tracing is what this costs.
    """

    model: Callable[[float], bp.BayesianNetwork]
    guide: Any = None
    options: Callable[[], dict[str, Any]] = field(default=dict)
    executions: tuple[str, ...] = BOTH
    has_constant: bool = True


# -- data and network, by formula: no random numbers, no other library's data -------------------------------------


def inputs() -> Tensor:
    """40 inputs of 6 numbers."""
    return torch.sin(torch.arange(SIZE * FEATURES, dtype=torch.float64) * 1.7).reshape(SIZE, FEATURES)


def labels() -> Tensor:
    """The class of each, of 3."""
    x = inputs()
    return (x[:, 0] > 0).long() + (x[:, 1] + 0.5 * x[:, 2] > 0.2).long()


def numbers() -> Tensor:
    """A real number for each, in units far from 1."""
    x = inputs()
    return 30.0 + 12.0 * x[:, 0] - 7.0 * x[:, 1] * x[:, 2] + 2.0 * torch.cos(9.0 * x[:, 3])


def network(outputs: int = CLASSES, hidden: int = HIDDEN) -> nn.Module:
    """6-hidden-outputs."""
    made = bp.lenet_300_100(FEATURES, outputs, hidden=(hidden,)).double()
    with torch.no_grad():
        for tensor in made.parameters():
            count = torch.arange(tensor.numel(), dtype=torch.float64)
            tensor.copy_(0.6 * torch.sin(1.0 + 2.3 * count + tensor.numel()).reshape(tensor.shape))
    return made


def on_weights(prior: Callable[[float], bp.Hierarchy]) -> Callable[[float], bp.BayesianNetwork]:
    """The network with a prior on its weights."""
    return lambda factor: bp.BayesianNetwork(network(), {WEIGHTS: prior(factor)}, data_size=SIZE)


def gated(prior: Callable[[float], bp.Hierarchy] | None = None, **gates: Any) -> Callable[[float], bp.BayesianNetwork]:
    """The network with gates on its units, whose price is the constant."""

    def made(factor: float) -> bp.BayesianNetwork:
        units = bp.UnitGates(**{"weight_scale": 0.3, **gates, "kappa": gates["kappa"] * factor})
        priors = {} if prior is None else {WEIGHTS: prior(1.0)}
        return bp.BayesianNetwork(network(), priors, data_size=SIZE, gates=units, example_input=inputs()[:2])

    return made


def on_regression(factor: float) -> bp.BayesianNetwork:
    """A regression, which is fitted in standard units."""
    priors = {WEIGHTS: bp.SpikeAndSlab(expected_density=0.3 * factor)}
    return bp.BayesianNetwork(network(1), priors, likelihood=bp.Normal(), data_size=SIZE)


def wide(factor: float) -> bp.BayesianNetwork:
    """A network whose second layer draws its outputs, as is the default from 20 inputs on; the first draws weights."""
    priors = {WEIGHTS: bp.SpikeAndSlab(expected_density=0.3 * factor)}
    return bp.BayesianNetwork(network(hidden=WIDE), priors, data_size=SIZE)


def own(factor: float) -> bp.Hierarchy:
    """A declaration of three levels that no ready prior has."""
    return bp.Hierarchy(
        tau=bp.Latent(lambda fan_in: dist.HalfCauchy(factor / math.sqrt(fan_in)), "layer"),
        lam=bp.Latent(dist.Gamma(2.0, 2.0), "output"),
        weight=lambda tau, lam: dist.Normal(0.0, tau * lam),
        included=bp.shrinkage_below(0.5),
    )


CASES: dict[str, Case] = {
    "Gaussian meanfield": Case(on_weights(lambda f: bp.Gaussian(sd=0.5 * f)), "meanfield"),
    "Laplace": Case(on_weights(lambda f: bp.Laplace(scale=0.3 * f))),
    "HALO map": Case(on_weights(lambda f: bp.HALO(kappa=0.5 * f)), "map"),
    "HALO meanfield": Case(on_weights(lambda f: bp.HALO(expected_density=0.2 * f)), "meanfield"),
    "Horseshoe": Case(on_weights(lambda f: bp.Horseshoe(expected_density=0.2 * f)), "meanfield"),
    "RegularisedHorseshoe": Case(
        on_weights(lambda f: bp.RegularisedHorseshoe(tau0=0.3 * f, slab_sd=1.0)), executions=ONE
    ),
    "GroupHorseshoe": Case(on_weights(lambda f: bp.GroupHorseshoe(tau0=0.5 * f)), executions=ONE),
    "SpikeAndSlab": Case(on_weights(lambda f: bp.SpikeAndSlab(expected_density=0.3 * f))),
    "SpikeAndSlab meanfield": Case(
        on_weights(lambda f: bp.SpikeAndSlab(0.3, slab_sd=0.8 * f)), "meanfield", executions=ONE
    ),
    "ContinuousSpikeAndSlab": Case(on_weights(lambda f: bp.ContinuousSpikeAndSlab(expected_density=0.3 * f))),
    "SWS": Case(on_weights(lambda f: bp.SWS(kappa=2.0 * f))),
    "MCP": Case(on_weights(lambda f: bp.MCP(lam=2.0 * f, gamma=1.5)), "map"),
    "SparseVariationalDropout": Case(on_weights(lambda f: bp.SparseVariationalDropout()), has_constant=False),
    "L0HardConcrete": Case(on_weights(lambda f: bp.L0HardConcrete(lam=0.4 * f))),
    "VIB": Case(on_weights(lambda f: bp.VIB(strength=0.7 * f, slab_sd=1.0))),
    "StructuredBayesianPruning": Case(on_weights(lambda f: bp.StructuredBayesianPruning(slab_sd=0.9 * f))),
    "GroupNormalJeffreys": Case(on_weights(lambda f: bp.GroupNormalJeffreys()), has_constant=False),
    "Reduction": Case(on_weights(lambda f: bp.Reduction(expected_density=0.2, sd=0.6 * f))),
    "own hierarchy": Case(on_weights(own), "meanfield"),
    "units that stay": Case(
        gated(kappa=0.004, estimator="exact-toggle"),
        options=lambda: {"rules": [bp.Gating(delay=0.0, remove=None)]},
        executions=ONE,
    ),
    "units removed": Case(
        gated(kappa=0.002),
        options=lambda: {"rules": [bp.Gating(delay=0.0, travel=0.5, remove=4, round_at=None)]},
        executions=ONE,
    ),
    "units removed under a prior": Case(
        gated(lambda f: bp.SpikeAndSlab(expected_density=0.3), kappa=0.015),
        options=lambda: {"rules": [bp.Gating(delay=0.0, travel=0.3, remove="epoch")]},
        executions=ONE,
    ),
    "iterates averaged": Case(
        on_weights(lambda f: bp.Gaussian(sd=0.5 * f)),
        "meanfield",
        lambda: {"rules": [bp.IterateAverage(0.4)], "schedule": "constant"},
    ),
    "two restarts": Case(
        on_weights(lambda f: bp.SpikeAndSlab(expected_density=0.3 * f)), None, lambda: {"restarts": 2}, ONE
    ),
    "regression": Case(on_regression),
    "outputs drawn": Case(wide),
}
REMOVING = ("units removed", "units removed under a prior")


# -- fits -----------------------------------------------------------------------------------------------------------


def fitted(name: str, execution: str = "plain", factor: float = 1.0, **changed: Any) -> bp.Fit:
    """The fit of a case, by one execution; `changed` options are other ones of `fit`."""
    case = CASES[name]
    # The argument `path` is to be called `execution`, and the old word is to warn for a release: either will do here.
    word = "execution" if "execution" in inspect.signature(bp.fit).parameters else "path"
    options: dict[str, Any] = {
        "steps": STEPS, "batch_size": 10, "learning_rate": 0.02, "seed": 3, "device": "cpu", "precision": "float64",
        word: execution, "compiled": False if execution == "fused" else None, **case.options(), **changed,
    }  # fmt: skip
    targets = numbers() if name == "regression" else labels()
    return bp.fit(case.model(factor), (inputs(), targets), case.guide, **options)


def taken(fit: bp.Fit) -> str:
    """Which execution the steps of a fit took, as its settings say."""
    report = fit.settings.get("execution") or fit.settings["path"]
    return str(report["name"])


# -- what they come to ------------------------------------------------------------------------------------------------


def learned(fit: bp.Fit) -> Iterator[tuple[str, np.ndarray]]:
    """The last loss, and every tensor that a fit has learned, by name: of the guide and of the model."""
    yield "loss", fit.trace["loss"].values[..., -1]
    for number, one in enumerate(fit.restarts):
        for owner, module in (("guide", one.guide), ("model", one.model)):
            for name, tensor in module.state_dict().items():
                yield f"{owner} {number}: {name}", tensor.detach().double().numpy()


def asked(fit: bp.Fit) -> Iterator[tuple[str, np.ndarray]]:
    """What is cheap to ask of a fit, by name; a refusal as an empty array."""
    prediction = fit.predict(inputs(), draws=DRAWS)
    yield "predicted mean", prediction.mean.double().numpy()
    yield "predicted sd", prediction.sd.double().numpy()
    summary = fit.summary()
    questions: dict[str, Callable[[], Mapping[str, Any]]] = {
        "inclusion": lambda: fit.inclusion_probabilities(draws=DRAWS),
        "unit inclusion": fit.unit_inclusion,
        "shrinkage": lambda: fit.shrinkage_factors(draws=DRAWS),
        "effective": lambda: fit.effective_parameters(draws=DRAWS),
        "included weights": fit.included_weights,
        "draws": lambda: fit.draws(2),
        "pruned": lambda: bp.prune(fit, sparsity=0.8).network.state_dict(),
    }
    if summary["kinds"] == ["atom"]:  # for the others it takes 200 draws
        questions["median model"] = lambda: bp.prune(fit, min_inclusion=0.5).network.state_dict()
    for name, value in _plain_numbers(summary, SUMMARY).items():
        yield f"summary: {name}", np.asarray(value)
    for what, ask in questions.items():
        try:
            answer = ask()
        except ValueError:  # of a MAP, of a prior without gates: a refusal is to stay one
            yield f"{what}: refused", np.empty(0)
            continue
        for name, value in answer.items():
            array = np.asarray(value.detach() if torch.is_tensor(value) else value)
            if array.dtype.kind in "fbiu":
                yield f"{what}: {name}", array.astype(np.float64)
    for row in bp.layer_table(fit, draws=DRAWS).rows:
        for name, value in _plain_numbers(row, TABLE).items():
            yield f"table: {row['tensor']} {name}", np.asarray(value)


SUMMARY = ("weights", "nonzero", "sparsity", "elbo", "expected_log_likelihood", "kl")
TABLE = ("weights", "included", "effective", "effective_lower", "effective_upper", "rms", "kl")


def _plain_numbers(found: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, float]:
    return {name: float(found[name]) for name in names if found.get(name) is not None}


def measured(arrays: Iterable[tuple[str, np.ndarray]]) -> Numbers:
    """Of each array the shape, the norm, and its dot products with two fixed vectors."""
    found = {}
    for name, array in arrays:
        flat = np.asarray(array, dtype=np.float64).reshape(-1)
        index = np.arange(flat.size, dtype=np.float64)
        numbers = [np.linalg.norm(flat), flat @ np.cos(index), flat @ np.sin(0.7 + 2.0 * index)]
        found[name] = [list(array.shape), *(float(f"{number:.13g}") for number in numbers)]
    return found


def differences(stored: Numbers, now: Numbers) -> list[str]:
    """What is not the same, a line each."""
    lines = [f"{name}: there is none any more" for name in stored if name not in now]
    lines += [f"{name}: there was none" for name in now if name not in stored]
    for name, (shape, norm, *dots) in stored.items():
        if name not in now:
            continue
        if now[name][0] != shape:
            lines.append(f"{name}: shape {now[name][0]}, not {shape}")
            continue
        off = max(abs(a - b) for a, b in zip([norm, *dots], now[name][1:], strict=True))
        if not off <= TOLERANCE * norm:
            lines.append(f"{name}: off by {off:.3g}, of a norm of {norm:.3g}")
    return lines


@functools.cache
def stored() -> dict[str, dict[str, Numbers]]:
    """What each case has learned and answered when the file was written."""
    found: dict[str, dict[str, Numbers]] = json.loads(FILE.read_text(encoding="utf-8"))
    return found


def written(cases: Mapping[str, Mapping[str, Numbers]]) -> str:
    """The file's text, one array a line so that a diff shows what has changed."""
    blocks = []
    for name, case in cases.items():
        halves = []
        for half, found in case.items():
            rows = ",\n".join(f"   {json.dumps(part)}: {json.dumps(value)}" for part, value in found.items())
            halves.append(f"  {json.dumps(half)}: {{\n{rows}\n  }}")
        blocks.append(f" {json.dumps(name)}: {{\n" + ",\n".join(halves) + "\n }")
    return "{\n" + ",\n".join(blocks) + "\n}\n"


def digest(fit: bp.Fit) -> str:
    """What a fit has learned and answers, to the last bit."""
    found = hashlib.sha256()
    for name, array in itertools.chain(learned(fit), asked(fit)):
        found.update(f"{name} {array.shape} ".encode() + np.ascontiguousarray(array, dtype=np.float64).tobytes())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1:] == ["digest"]:
        for case, one in CASES.items():
            for execution in one.executions:
                print(digest(fitted(case, execution)), case, execution)
    elif not sys.argv[1:]:
        fits = {case: fitted(case) for case in CASES}
        found = {case: {"learned": measured(learned(fit)), "asked": measured(asked(fit))} for case, fit in fits.items()}
        FILE.write_text(written(found), encoding="utf-8")
        print(f"{FILE.name}: {len(CASES)} cases")
    else:
        sys.exit("usage: python -m tests.inference.same_numbers [digest]")
