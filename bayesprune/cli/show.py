"""`bayesprune show`: its arguments, and the call of its work."""

from __future__ import annotations

from typing import Annotated

import typer

from bayesprune.cli.options import (
    OwnNetwork,
    OwnPrior,
    Run,
    TrustCode,
    example,
)

EXAMPLES = example(
    "bayesprune show runs/spike --plots",
    "bayesprune show runs/own --prior own_prior.py:student",
    "bayesprune show runs/sweep --plots         # writes its front.png and front.json",
    "watch -n 10 bayesprune show runs/spike     # while bayesprune fit --out runs/spike is running",
)


def show(
    run: Run,
    plots: Annotated[bool, typer.Option("--plots", help="Write plots to RUN/plots.")] = False,
    network: OwnNetwork = None,
    prior: OwnPrior = None,
    trust_code: TrustCode = False,
) -> None:
    """Show what a run came to, layer by layer, or how far it is; of a sweep its settings and fronts."""
    from bayesprune.commands.showing import show_run
    from bayesprune.sweeps.loading import is_sweep
    from bayesprune.sweeps.table import show_sweep

    if is_sweep(run):
        return show_sweep(run, plots)
    show_run(run, plots, trust_code, network, prior)
