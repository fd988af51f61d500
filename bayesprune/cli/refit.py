"""`bayesprune refit`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.exits import ended_by_hand
from bayesprune.cli.options import (
    DataRoot,
    Device,
    KlWeight,
    LearningRate,
    Optimizer,
    OwnNetwork,
    OwnPrior,
    Quiet,
    Run,
    Schedule,
    TrustCode,
    example,
    fit_option,
    place_option,
)
from bayesprune.inference.training.fit_options import FitOptions

EXAMPLES = example(
    "bayesprune refit runs/spike --out runs/spike-refit",
    "bayesprune refit runs/spike --gates 0.9 --epochs 10 --out runs/spike-sure",
    "bayesprune refit runs/spike --gates runs/spike-98 --out runs/spike-98-refit",
)
_AS_BEFORE = ".  [default: as in RUN]"


def refit(
    run: Run,
    out: Annotated[Path, place_option("The run folder to make.")],
    gates: Annotated[
        str,
        typer.Option(
            metavar="median|THRESHOLD|PRUNED",
            help="Which weights are in: the median-probability model, those of a higher inclusion probability than a "
            "number, or those that a folder of bayesprune prune keeps.",
        ),
    ] = "median",
    restart: Annotated[
        int | None, typer.Option(help="Which restart is trained on, from 0.  [default: all]", show_default=False)
    ] = None,
    epochs: Annotated[
        int | None,
        fit_option("epochs", more=".  [default: half as many steps as RUN had, at least 1,000]", show_default=False),
    ] = None,
    steps: Annotated[int | None, fit_option("steps", show_default=False)] = None,
    batch_size: Annotated[int | None, typer.Option(help=f"Examples a step{_AS_BEFORE}", show_default=False)] = None,
    learning_rate: LearningRate = None,
    optimizer: Optimizer = None,
    schedule: Schedule = None,
    kl_warmup: Annotated[
        float, typer.Option(help="Share of the steps over which the KL term fades in.", show_default=True)
    ] = 0.0,
    kl_weight: KlWeight = None,
    seed: Annotated[int | None, typer.Option(help=f"Of the first restart{_AS_BEFORE}", show_default=False)] = None,
    device: Device = FitOptions.device,
    execution: Annotated[str, fit_option("execution")] = FitOptions.execution,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, and remove what an interrupted refit has left for --out.")
    ] = False,
    network: OwnNetwork = None,
    prior: OwnPrior = None,
    trust_code: TrustCode = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Fix which weights are in, train their posterior on, and write a run folder.

    What is not given is as in RUN. Scores are printed before and after, of three forms apart: the prediction averaged
    over draws, the structure averaged over draws of its weights, and one network, the structure at its means.
    A refit that was interrupted goes on by the same command.
    """
    from bayesprune.commands.refitting import print_refit, refit_run

    with ended_by_hand():
        summary = refit_run(
            run, out, gates, restart, data_root, trust_code=trust_code, network=network, prior=prior, fresh=fresh,
            progress=not quiet, epochs=epochs, steps=steps, batch_size=batch_size, learning_rate=learning_rate,
            optimizer=optimizer, schedule=schedule, kl_warmup=kl_warmup, kl_weight=kl_weight, seed=seed, device=device,
            execution=execution,
        )  # fmt: skip
    if not quiet:
        print_refit(out, summary)
