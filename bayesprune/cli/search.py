"""`bayesprune search`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.exits import ended_by_hand
from bayesprune.cli.options import BatchSize, Data, DataRoot, LearningRate, Quiet, Seed, example, place_option
from bayesprune.inference.training.fit_options import FitOptions

EXAMPLES = example(
    "bayesprune search --data digits --trainings 40 --epochs 3 --out runs/search",
    "bayesprune search --data digits --strategy random --workers 2 --out runs/random",
    "bayesprune fit --data digits --network genome --network-set genome=runs/search \\",
    "    --prior spike-and-slab --out runs/found",
)


def search(
    data: Data,
    out: Annotated[Path, place_option("The folder to make, or to go on with.")],
    trainings: Annotated[int, typer.Option(help="Networks to be trained, in all.")] = 40,
    strategy: Annotated[str, typer.Option(help="evolution or random.")] = "evolution",
    surrogate: Annotated[
        str | None,
        typer.Option(
            help="random-forest, gaussian-process, bayesian-ridge or none.  [default: random-forest for evolution]",
            show_default=False,
        ),
    ] = None,
    population: Annotated[int, typer.Option(help="Random genomes at first; the last ones that have children.")] = 10,
    tournament: Annotated[int, typer.Option(help="Of how many of the population the best has a child.")] = 3,
    crossover: Annotated[float, typer.Option(help="Probability that a child has two parents.")] = 0.25,
    epochs: Annotated[int, typer.Option(help="Passes over the training data in each training.")] = 3,
    operations: Annotated[
        str | None,
        typer.Option(
            metavar="A,B,...",
            help="What vertices may do: linear, conv3x3, conv1x1, conv3x3-bn, max-pool, average-pool, global-pool, "
            "gru, lstm, identity.  [default: by kind of the inputs]",
            show_default=False,
        ),
    ] = None,
    widths: Annotated[str, typer.Option(metavar="A,B,...", help="Channels or units of a vertex.")] = "8,16,32",
    most_vertices: Annotated[int, typer.Option(help="Vertices of a genome at most.")] = 7,
    most_edges: Annotated[int, typer.Option(help="Edges of a genome at most.")] = 14,
    most_parameters: Annotated[int, typer.Option(help="Parameters of a network at most.")] = 1_000_000,
    workers: Annotated[int, typer.Option(help="Processes that train, in one thread each.")] = 1,
    batch: Annotated[
        int | None, typer.Option(help="Trainings of a round.  [default: as many as workers]", show_default=False)
    ] = None,
    batch_size: BatchSize = FitOptions.batch_size,
    learning_rate: LearningRate = FitOptions.learning_rate,
    seed: Seed = FitOptions.seed,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Search for an architecture by short trainings: a graph of layers that scores well on validation data.

    Every finished training is written at once: the same command goes on where an earlier one was stopped, and one with
    more trainings goes on with these.
    """
    from bayesprune.commands.following_path import parse_numbers
    from bayesprune.commands.searching import print_search, search_architecture

    how = {} if learning_rate is None else {"learning_rate": learning_rate}
    wide = parse_numbers(widths, "--widths")
    if wrong := [width for width in wide if not width.is_integer()]:
        raise ValueError(f"--widths takes whole numbers, not {wrong[0]:g}")
    with ended_by_hand():
        found = search_architecture(
            out,
            data=data,
            trainings=trainings,
            strategy=strategy,
            surrogate=surrogate,
            operations=None if operations is None else operations.split(","),
            widths=[int(width) for width in wide],
            most_vertices=most_vertices,
            most_edges=most_edges,
            most_parameters=most_parameters,
            data_root=data_root,
            seed=seed,
            progress=not quiet,
            population=population,
            tournament=tournament,
            crossover=crossover,
            epochs=epochs,
            workers=workers,
            batch=batch,
            batch_size=batch_size,
            **how,
        )
    if not quiet:
        print_search(out, found, data)
