"""`bayesprune path`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.exits import ended_by_hand
from bayesprune.cli.options import (
    BatchSize,
    Data,
    DataRoot,
    Device,
    Guide,
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
    Prior,
    Quiet,
    Schedule,
    Seed,
    Settings,
    Standardise,
    Weights,
    Width,
    example,
    fit_option,
    place_option,
)
from bayesprune.inference.training.fit_options import FitOptions

EXAMPLES = example(
    "bayesprune path --data fashion-mnist --prior spike-and-slab --knob expected_density \\",
    "    --values 0.3,0.1,0.05,0.02 --first-epochs 10 --epochs 4 --out runs/front",
    "bayesprune path --data digits --prior halo --knob kappa --values 1,3,10 --out runs/halo",
)


def path(
    data: Data,
    prior: Prior,
    knob: Annotated[str, typer.Option(help="The setting of the prior that changes.", show_default=False)],
    values: Annotated[
        str, typer.Option(metavar="A,B,...", help="Its values, from dense to sparse.", show_default=False)
    ],
    out: Annotated[
        Path,
        place_option("The folder to make, or to go on with."),
    ],
    network: Network = "lenet-300-100",
    network_set: NetworkSettings = None,
    width: Width = 1.0,
    settings: Settings = None,
    on: On = None,
    guide: Guide = None,
    likelihood: Likelihood = None,
    standardise: Standardise = FitOptions.standardise,
    weights: Weights = None,
    new_head: NewHead = False,
    epochs: Annotated[
        int | None,
        typer.Option(help="Passes over the training data at each value.  [default: 10, and 834 steps at least]"),
    ] = None,
    first_epochs: Annotated[
        int | None, typer.Option(help="Those at the first value, which starts cold.  [default: 3 times as many]")
    ] = None,
    sparsities: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="What fits are pruned to.  [default: gates: the median-probability model; else 0.5 to 0.99]",
        ),
    ] = None,
    batch_size: BatchSize = FitOptions.batch_size,
    learning_rate: LearningRate = FitOptions.learning_rate,
    optimizer: Optimizer = FitOptions.optimizer,
    schedule: Schedule = FitOptions.schedule,
    kl_warmup: Annotated[float | None, fit_option("kl_warmup", more=", at the first value.")] = FitOptions.kl_warmup,
    kl_weight: KlWeight = FitOptions.kl_weight,
    particles: Particles = FitOptions.particles,
    seed: Seed = FitOptions.seed,
    restarts: Annotated[int, typer.Option(help="Independent paths.")] = 3,
    cold: Annotated[
        bool, typer.Option("--cold", help="Begin each fit cold, as long as the first, and not at the fit before.")
    ] = False,
    workers: Annotated[
        int,
        typer.Option(help="Processes, one thread each, for restarts side by side; with --cold for all fits."),
    ] = 1,
    latency: Annotated[bool, typer.Option("--latency", help="Time the compact networks too.")] = False,
    device: Device = FitOptions.device,
    precision: Precision = FitOptions.precision,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Fit along the values of a prior's setting, each from the fit before (or cold), and draw the front.

    Every finished value is written at once: the same command goes on where an earlier one was stopped, and one with
    further values goes on with these.
    """
    from bayesprune.commands.fitting import parse_settings
    from bayesprune.commands.following_path import follow_path, parse_numbers, print_path

    with ended_by_hand():
        found = follow_path(
            out,
            data=data,
            network=network,
            network_settings=parse_settings(network_set or [], "--network-set"),
            width=width,
            prior=prior,
            knob=knob,
            values=parse_numbers(values, "--values"),
            settings=parse_settings(settings or []),
            on=tuple(on) if on else None,
            likelihood=likelihood,
            standardise=standardise,
            weights=weights,
            new_head=new_head,
            data_root=data_root,
            seed=seed,
            sparsities=None if sparsities is None else parse_numbers(sparsities, "--sparsities"),
            guide=guide,
            epochs=epochs,
            first_epochs=first_epochs,
            batch_size=batch_size,
            learning_rate=learning_rate,
            optimizer=optimizer,
            schedule=schedule,
            kl_warmup=kl_warmup,
            kl_weight=kl_weight,
            particles=particles,
            restarts=restarts,
            warm=not cold,
            workers=workers,
            latency=latency,
            device=device,
            precision=precision,
            progress=not quiet,
        )
    if not quiet:
        print_path(out, found)
