"""Every ready prior at its bare defaults, on eight data sets and networks, beside a plain network of equal steps.

A fit is `bayesprune.fit(model, train, validation=..., seed=...)` and nothing else. What is recorded of it: its scores
on test data, its notes, its length and its cost; the network pruned by its own rule (`prune(fit, min_inclusion=0.5)`,
where it has inclusion probabilities) and at 95 % zeros (`prune(fit, sparsity=0.95, data=train)`), both scored on test
data, with what `prune` warned of. One line of JSON a fit is appended at once, so that the same command goes on where it
was stopped, and two may run side by side on different data. A fit that raises is recorded with its sentence, and does
not stop the rest.

Run ``OMP_NUM_THREADS=1 python -m benchmarks.defaults``, with ``--data`` and ``--priors`` for some of it; it ends with
what all the runs cost. ``--table`` fits nothing and prints the tables.
"""

from __future__ import annotations

import argparse
import functools
import json
import resource
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch._inductor import config as inductor

import bayesprune as bp
from bayesprune.data.sets import DataSplits
from bayesprune.inference.predictions.plain_scores import plain_scores
from bayesprune.models.priors.ready import PRIORS
from benchmarks.default_cases import CASES, constant_figures, plain_figures, train_plain
from benchmarks.defaults_table import PLAIN, table

READY = tuple(name for name in PRIORS if not name.endswith("-paper") and name not in ("weight-decay", "low-rank"))
TARGET = 0.95
PLAIN_SEEDS = 3
UNDECIDED = (0.05, 0.95)
"""An inclusion probability strictly between these is undecided."""
Record = dict[str, Any]
Key = tuple[str, str, int, str]


class Lines:
    """Records in a file of one JSON object a line, to which processes may append side by side.

    Args:
        path: The file; made with its folder.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.found = {_key(record): record for record in map(json.loads, lines)}  # the last of a key counts

    def run(self, record: Record, function: Callable[[], Record], again: bool = False) -> Record:
        """Returns the record of a run: from the file where it is there, else by running it.

        Args:
            record: What names the run: data, prior, seed, length.
            function: What else is known of it once it has run; an exception is recorded in its place.
            again: Whether a run that raised is made once more.
        """
        known = self.found.get(_key(record))
        if known is not None and not (again and "error" in known):
            return known
        begin, busy = time.perf_counter(), _processor_seconds()
        try:
            record = {**record, **function()}
        except Exception as problem:  # whatever it is, it is a finding about the prior, and the other runs go on
            record = {**record, "error": f"{type(problem).__name__}: {' '.join(str(problem).split())}"}
        record |= {
            "minutes": (_processor_seconds() - busy) / 60, "wall_minutes": (time.perf_counter() - begin) / 60,
        }  # fmt: skip
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")
        self.found[_key(record)] = record
        print(_line(record), flush=True)
        return record

    def cost(self) -> str:
        """Says what all the runs cost, as runs x minutes of processor time."""
        minutes = [record["minutes"] for record in self.found.values()]
        mean = statistics.mean(minutes) if minutes else 0.0
        return f"{len(minutes)} runs x {mean:.2f} processor minutes = {sum(minutes):.1f} minutes"


def fit_once(data: str, prior: str, seed: int, length: dict[str, int]) -> Record:
    """One fit at bare defaults, scored and pruned on the test data.

    Args:
        data: A name in `CASES`.
        prior: A name in `READY`.
        seed: Of the validation split, of the network and of the fit.
        length: ``epochs`` or ``steps``; empty for the default.
    """
    case = CASES[data]
    splits = case.load(seed)
    fit = bp.fit(case.model(splits, prior, seed), splits.train, validation=splits.validation, seed=seed, **length)
    found = fit.summary()
    result: Record = {"test": fit.score(*splits.test), "constant": constant_figures(splits)}
    result |= {
        name: found.get(name) for name in ("notes", "kl_weight", "tempered", "kl_warmup", "steps", "chosen", "seconds")
    }
    result |= {"path": found["execution"]["name"], "compile_seconds": found["execution"]["compile_seconds"]}
    result |= {"fitted_sparsity": found["sparsity"], "undecided": _undecided(fit)}
    result["own"] = _pruned(fit, splits, min_inclusion=0.5)
    if any(isinstance(layer, torch.nn.BatchNorm2d) for layer in fit.model.network.modules()):
        result["own_with_data"] = _pruned(fit, splits, min_inclusion=0.5, data=splits.train)
    result["sparse"] = _pruned(fit, splits, sparsity=TARGET, data=splits.train)
    return result


def plain_once(data: str, seed: int, steps: int) -> Record:
    """The plain network of as many steps."""
    case = CASES[data]
    splits = case.load(seed)
    network = train_plain(case.start(splits, seed), splits, steps, seed)
    return {"test": plain_figures(network, splits), "constant": constant_figures(splits), "steps": steps}


def _pruned(fit: bp.Fit, splits: DataSplits, **how: Any) -> Record:
    """The pruned network's sparsity, scores on test data, and what `prune` warned of; or why there is none."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            result = bp.prune(fit, **how)
        except ValueError as reason:  # a MAP has no probabilities; some fits are sparser by themselves
            return {"refused": str(reason)}
    said = [str(one.message) for one in caught if one.category is UserWarning]
    said += list(result.report.notes)
    scores = plain_scores(result.network, result.likelihood, *splits.test)
    return {"sparsity": result.report.sparsity, "test": scores, "warnings": said}


def _undecided(fit: bp.Fit) -> float | None:
    """Share of inclusion probabilities that are undecided, those of removed units counted as 0; None without any."""
    try:
        probabilities = fit.inclusion_probabilities()
    except ValueError:
        return None
    flat = np.concatenate([variable.values.ravel() for variable in probabilities.values()])
    low, high = UNDECIDED
    return int(((flat > low) & (flat < high)).sum()) / sum(fit.model.declared_sizes.values())


def _key(record: Record) -> Key:
    return record["data"], record["prior"], record["seed"], json.dumps(record["length"], sort_keys=True)


def _processor_seconds() -> float:
    """Of this process and of those that it has waited for, such as compilers."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(one.ru_utime + one.ru_stime for one in used)


def _line(record: Record) -> str:
    head = f"{record['data']}, {record['prior']}, seed {record['seed']}, {record['minutes']:.2f} min: "
    if "error" in record:
        return head + record["error"]
    scores = ", ".join(f"{name} {value:.4g}" for name, value in record["test"].items())
    return head + scores + "".join(f"; {note}" for note in record.get("notes") or ())


def run_case(
    lines: Lines,
    data: str,
    priors: list[str],
    seeds: int | None = None,
    length: dict[str, int] | None = None,
    again: bool = False,
) -> None:
    """Makes the runs on one data set that are not there yet, and those of plain networks of equal steps.

    Args:
        lines: Where records are kept.
        data: A name in `CASES`.
        priors: Names in `READY`.
        seeds: How many; default None: as the case says, and three of plain networks.
        length: ``epochs`` or ``steps``; default None: what `fit` does by itself.
        again: Whether runs that raised are made once more.
    """
    case, length, lengths = CASES[data], length or {}, set()
    for seed in range(seeds or case.seeds):
        for prior in priors:
            once = functools.partial(fit_once, data, prior, seed, length)
            record = lines.run({"data": data, "prior": prior, "seed": seed, "length": length}, once, again)
            lengths |= {record["steps"]} if "steps" in record else set()
    for seed in range(seeds or PLAIN_SEEDS):
        for steps in sorted(lengths):
            once = functools.partial(plain_once, data, seed, steps)
            lines.run({"data": data, "prior": PLAIN, "seed": seed, "length": {"steps": steps}}, once, again)


def main() -> None:
    """Makes the runs that are not there yet, or prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", nargs="+", choices=CASES, default=list(CASES), help="default all")
    parser.add_argument("--priors", nargs="+", choices=READY, default=list(READY), help="default all")
    parser.add_argument("--seeds", type=int, help="how many, from 0; default 3, of fashion-60000 one")
    parser.add_argument("--epochs", type=int, help="passes over the data; default: what fit does by itself")
    parser.add_argument("--steps", type=int, help="steps, in place of --epochs")
    parser.add_argument("--out", default="runs/benchmarks/defaults.jsonl")
    parser.add_argument("--again", action="store_true", help="make the runs that raised once more")
    parser.add_argument("--table", action="store_true", help="fit nothing, print the tables of what is there")
    options = parser.parse_args()
    torch.set_num_threads(1)  # matrices this small gain nothing from a second one
    inductor.compile_threads = 1  # compilers are then children of this process, whose time is counted
    lines = Lines(options.out)
    length = {name: value for name in ("epochs", "steps") if (value := getattr(options, name)) is not None}
    if options.table:
        print(
            table([record for record in lines.found.values() if record["length"] == length or record["prior"] == PLAIN])
        )
        return
    for data in options.data:
        run_case(lines, data, options.priors, options.seeds, length, options.again)
    print(f"cost: {lines.cost()}")


if __name__ == "__main__":
    main()
