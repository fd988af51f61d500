"""`bayesprune sweep`: its arguments, and the call of its work."""

from __future__ import annotations

import contextlib
import copy
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from bayesprune.cli import fit
from bayesprune.cli.exits import ended_by_hand
from bayesprune.cli.options import Quiet, example, place_option
from bayesprune.sweeps.fit_settings import OPTIONS

EXAMPLES = example(
    "bayesprune sweep --data digits --prior halo --set learning-rate=0.001,0.003,0.01 --set set.kappa=1,3,10 \\",
    "    --seeds 0-4 --workers 2 --out runs/sweep",
    "bayesprune sweep --data digits --recipe rigl --space space.toml --seeds 0-2 --trials 30 \\",
    "    --objective validation_accuracy --objective density --out runs/rigl-sweep",
    "bayesprune sweep --data digits --prior halo --space space.toml --trials 100 \\",
    "    --storage postgresql://me@server/sweeps --out /shared/halo     # on every machine",
)

_PAIRS = {"network_set": "network-set", "gating": "gating", "recipe_set": "recipe-set"}
"""Arguments that take KEY=VALUE, and the names of their settings."""


def sweep(
    out: Annotated[Path, place_option("The folder to make, or to go on with.")],
    sets: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="NAME=A,B,...",
            help="Values to try of an option of bayesprune fit, such as learning-rate or prior, or of its settings: "
            "set.NAME of the prior, budget.NAME, gating.NAME, network-set.NAME, recipe-set.NAME; repeatable. "
            "A single value is the same in all trials.",
        ),
    ] = None,
    space: Annotated[
        Path | None,
        place_option(
            "More to try: TOML with [NAME] and choices = [...], or low = and high =, log = true or step =.",
            metavar="FILE",
        ),
    ] = None,
    seeds: Annotated[str, typer.Option(metavar="A-B,C", help="Seeds that each setting is fitted with.")] = "0",
    trials: Annotated[
        int | None,
        typer.Option(help="Settings to sample.  [default: all, where all are listed]", show_default=False),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME",
            help="validation_nll, validation_accuracy, validation_rmse, validation_ece, density, nonzero, macs, "
            "latency or seconds; repeatable: a front.  [default: validation_nll]",
        ),
    ] = None,
    storage: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS",
            help="Where the trials stand: sqlite:///FILE, journal:///FILE or postgresql://USER@HOST/DATABASE.  "
            "[default: SQLite in OUT, for one machine]",
            show_default=False,
        ),
    ] = None,
    workers: Annotated[int, typer.Option(help="Processes that fit here; more than one have one thread each.")] = 1,
    prune: Annotated[
        bool, typer.Option("--prune/--no-prune", help="End fits early that are worse than most at the same epoch.")
    ] = True,
    timed: Annotated[bool, typer.Option("--latency", help="Time the network of each fit; takes a while.")] = False,
    sampler_seed: Annotated[int, typer.Option(help="Seed of the settings that are sampled.")] = 0,
    quiet: Quiet = False,
    **given: Any,
) -> None:
    """Fit many settings, in any number of processes on any number of machines, and show which are on the front.

    All other options are those of bayesprune fit, and the same in all trials; --set is what is tried, also of the
    prior: --set set.kappa=1,3,10. The same command goes on where an earlier one was stopped; given once more, here or
    on another machine with the same OUT and --storage, it helps.
    """
    from bayesprune.commands.plain_text import neutral
    from bayesprune.sweeps.front import write_front
    from bayesprune.sweeps.loading import SweepReader
    from bayesprune.sweeps.plan import SweepPlan
    from bayesprune.sweeps.space import SweepSpace, parsed_seeds
    from bayesprune.sweeps.storage import LostStorageError
    from bayesprune.sweeps.sweep import NoFitError
    from bayesprune.sweeps.sweep import sweep as sweep_fits
    from bayesprune.sweeps.table import SweepView, print_sweep

    arguments = _arguments(given)
    searched = SweepSpace.parsed(sets or []) if space is None else SweepSpace.read(space, sets or [])
    with ended_by_hand(), contextlib.ExitStack() as shown:
        reader = shown.enter_context(SweepReader(out, storage))
        view = None if quiet else shown.enter_context(SweepView())

        def watch(plan: SweepPlan) -> None:
            if view is not None:
                view.total = plan.fits
                with contextlib.suppress(ValueError, LostStorageError, OSError):  # a worker will say so
                    view.show(reader.read())

        sweep_fits(
            out,
            arguments,
            searched,
            objectives=objective or ["validation_nll"],
            seeds=parsed_seeds(seeds),
            trials=trials,
            storage=storage,
            workers=workers,
            prune=prune,
            timed=timed,
            sampler_seed=sampler_seed,
            watch=None if quiet else watch,
        )
        found = reader.read()
    written = write_front(found)
    if not quiet:
        print_sweep(found)
        typer.echo(neutral(f"written to {out}: {', '.join(file.name for file in written) or 'no front'}"))
    if not found.settings:
        problem = next((one.problem for one in found.fits if one.problem), "see above")
        raise NoFitError(f"no fit of the sweep is complete, the first says: {problem}")


def _arguments(given: Mapping[str, Any]) -> dict[str, Any]:
    """Options of a fit that were given, as settings by their names."""
    from bayesprune.commands.fitting import parse_settings

    found: dict[str, Any] = {}
    for name, value in given.items():
        option = name.replace("_", "-")
        if value is None or value == []:
            continue
        if name in _PAIRS:
            pairs = parse_settings(value, f"--{option}")
            found |= {f"{_PAIRS[name]}.{key}": one for key, one in pairs.items()}
        else:
            found[option] = str(value) if isinstance(value, Path) else value
    return found


def _with_options_of_fit() -> inspect.Signature:
    """The signature of `sweep` with the options of `fit`: none is asked for, and what is not given is as in `fit`."""
    own = [one for one in inspect.signature(sweep, eval_str=True).parameters.values() if one.name != "given"]
    taken = [one.replace("-", "_") for one in OPTIONS if one != "seed"] + list(_PAIRS)
    theirs = []
    for one in inspect.signature(fit.fit, eval_str=True).parameters.values():
        if one.name not in taken:
            continue
        kind, option = get_args(one.annotation)
        option = copy.copy(option)
        if one.default not in (None, False, inspect.Parameter.empty):
            option.help = f"{option.help}  [default: {one.default}]"
        theirs.append(one.replace(kind=one.KEYWORD_ONLY, default=None, annotation=Annotated[kind | None, option]))
    return inspect.Signature([*own, *theirs])


sweep.__signature__ = _with_options_of_fit()  # type: ignore[attr-defined]
