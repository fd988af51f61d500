"""`bayesprune fit`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayesprune.cli.exits import ended_by_hand
from bayesprune.cli.launch import check_processes, launch
from bayesprune.cli.one_message import AlreadySaidError, launched_by_us
from bayesprune.cli.options import (
    BatchSize,
    Data,
    DataRoot,
    Device,
    FitBudget,
    FitPrior,
    Guide,
    KlWarmup,
    KlWeight,
    LearningRate,
    Likelihood,
    Network,
    NetworkSettings,
    NewHead,
    On,
    Optimizer,
    Particles,
    Precision,
    Quiet,
    Recipe,
    RecipeSettings,
    Schedule,
    Seed,
    Settings,
    Standardise,
    Tune,
    Weights,
    Width,
    example,
    fit_option,
    place_option,
)
from bayesprune.inference.runtime.environment import processes_here
from bayesprune.inference.training.fit_options import FitOptions
from bayesprune.models.checks.renamed_arguments import old_name
from bayesprune.sweeps.fit_settings import OUTPUTS_DRAWN

EXAMPLES = example(
    "bayesprune fit --data fashion-mnist --network lenet-300-100 --prior spike-and-slab \\",
    "    --set expected_density=0.1 --guide paired --epochs 20 --seed 0 --out runs/spike",
    "bayesprune fit --data digits --prior own_prior.py:student --out runs/own",
    "bayesprune fit --data digits --weights trained.safetensors --prior reduction --out runs/reduced",
    "bayesprune fit --data digits --prior unit-gates --out runs/units",
    "bayesprune fit --data images --network torchvision.models:resnet18 --weights resnet18.pth --new-head \\",
    "    --prior unit-gates --out runs/resnet",
    "bayesprune fit --data digits --prior halo --budget density=0.02 --out runs/halo-2",
    "bayesprune fit --data digits --prior halo --budget runs/str-2/budget.json --out runs/halo-as-str",
    "bayesprune fit --data digits --recipe rigl --budget density=0.02 --out runs/rigl",
    "bayesprune fit --data digits --prior halo --processes 2 --out runs/halo-two",
    "bayesprune fit --data digits --prior halo --tune kl_weight,expected_density --out runs/tuned",
)


def fit(
    context: typer.Context,
    data: Data,
    out: Annotated[Path, place_option("The run folder to make.")],
    prior: FitPrior = None,
    network: Network = "lenet-300-100",
    network_set: NetworkSettings = None,
    width: Width = 1.0,
    settings: Settings = None,
    gating: Annotated[
        list[str] | None,
        typer.Option("--gating", metavar="KEY=VALUE", help="How the gates of unit-gates are trained; repeatable."),
    ] = None,
    recipe: Recipe = None,
    recipe_set: RecipeSettings = None,
    budget: FitBudget = None,
    on: On = None,
    guide: Guide = None,
    likelihood: Likelihood = None,
    standardise: Standardise = FitOptions.standardise,
    weights: Weights = None,
    new_head: NewHead = False,
    epochs: Annotated[
        int | None,
        fit_option(
            "epochs",
            more="; 0: none, a Laplace approximation around --weights.  "
            "[default: 30, and 2,500 steps at least; --prior reduction with --weights: 0]",
        ),
    ] = FitOptions.epochs,
    steps: Annotated[int | None, fit_option("steps")] = FitOptions.steps,
    batch_size: BatchSize = FitOptions.batch_size,
    learning_rate: LearningRate = FitOptions.learning_rate,
    optimizer: Optimizer = FitOptions.optimizer,
    schedule: Schedule = FitOptions.schedule,
    kl_warmup: KlWarmup = FitOptions.kl_warmup,
    kl_weight: KlWeight = FitOptions.kl_weight,
    particles: Particles = FitOptions.particles,
    tune: Tune = None,
    seed: Seed = FitOptions.seed,
    restarts: Annotated[int, fit_option("restarts")] = FitOptions.restarts,
    device: Device = FitOptions.device,
    precision: Precision = FitOptions.precision,
    execution: Annotated[
        str | None,
        fit_option("execution", more=f".  [default: {FitOptions.execution}]", show_default=False),
    ] = None,  # FitOptions.execution, unless its old name is given
    path: Annotated[str | None, typer.Option("--path", hidden=True, help="Old name of --execution.")] = None,
    local_reparameterisation: Annotated[
        str | None, fit_option("local_reparameterisation", metavar="exact|approximate|off")
    ] = FitOptions.local_reparameterisation,  # type: ignore[assignment]  # None: words are for the command line alone
    processes: Annotated[
        int | None,
        typer.Option(
            help="Processes on this machine that fit together, each its share of every batch (needs "
            "bayesprune[distributed]); on several machines: torchrun.  [default: 1]",
            show_default=False,
        ),
    ] = None,
    batch_norm: Annotated[
        str,
        typer.Option(
            metavar="apart|synchronised",
            help="Whether the processes normalise batches apart, or as one.",
        ),
    ] = "apart",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, and remove what an interrupted fit has left for RUN.")
    ] = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Fit a prior to data, or train a sparse network by a recipe, and write a run folder.

    While it runs, its state is kept in RUN.part: when it was interrupted, killed or out of room, the same command goes
    on where it stopped, with the same numbers.
    It also runs in several processes, by --processes or torchrun -m bayesprune fit.
    """
    from bayesprune.commands.asked_budget import budget_of_fit
    from bayesprune.commands.fitting import fit_run, parse_settings, print_run

    with ended_by_hand():
        if _is_launched(processes, context.obj, out):
            return
        summary = fit_run(
            out,
            data=data,
            network=network,
            network_settings=parse_settings(network_set or [], "--network-set"),
            width=width,
            prior=prior,
            settings=parse_settings(settings or []),
            gating=parse_settings(gating or [], "--gating"),
            recipe=(recipe, parse_settings(recipe_set or [], "--recipe-set")),
            budget=budget_of_fit(budget or []),
            on=tuple(on) if on else None,
            likelihood=likelihood,
            standardise=standardise,
            weights=weights,
            new_head=new_head,
            data_root=data_root,
            guide=guide,
            epochs=epochs,
            steps=steps,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=optimizer,
            schedule=schedule,
            kl_warmup=kl_warmup,
            kl_weight=kl_weight,
            particles=particles,
            tune=tune,
            seed=seed,
            restarts=restarts,
            device=device,
            precision=precision,
            execution=_execution(execution, path),
            **_outputs_drawn(local_reparameterisation),
            batch_norm=batch_norm,
            fresh=fresh,
            progress=not quiet,
        )
    if not summary:  # the first of several processes has it
        return
    if path is not None:
        # A sentence like the others of the command line: a warning of Python's would show a file and a line of ours.
        # It is said once the fit is there, as an error stands alone on its line.
        typer.echo(f"note: {old_name('--path of bayesprune fit', f'--execution {path}')}", err=True)
    if not quiet:
        print_run(out, summary)


def _is_launched(processes: int | None, arguments: list[str], run: Path) -> bool:
    """Whether the command has run in so many processes, which this one has started."""
    world = processes_here()[1]
    if processes is None or launched_by_us():
        return False
    if world > 1:
        raise ValueError(f"--processes {processes}, but {world} processes were started already: leave --processes out")
    check_processes(processes)
    if processes == 1:
        return False
    try:
        launch(arguments, processes)
    except AlreadySaidError:
        raise
    except BaseException as problem:
        from bayesprune.commands.fitting import note_what_is_left

        note_what_is_left(run, problem)
        raise
    return True


def _execution(execution: str | None, old: str | None) -> str:
    """What --execution says, or its old name --path, which goes with the next release."""
    if old is None:
        return FitOptions.execution if execution is None else execution
    if execution is not None:
        raise ValueError("--execution, which was called --path, is given twice: leave --path out")
    return old


def _outputs_drawn(word: str | None) -> dict[str, Any]:
    """What --local-reparameterisation says, and nothing where it was not given: so earlier commands are the same."""
    if word is None:
        return {}
    if word not in OUTPUTS_DRAWN:
        raise ValueError(f"--local-reparameterisation takes one of {', '.join(OUTPUTS_DRAWN)}, not {word!r}")
    return {"local_reparameterisation": OUTPUTS_DRAWN[word]}
