"""`bayesprune reference`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.options import DataRoot, OwnNetwork, OwnPrior, Quiet, Run, TrustCode, example, place_option

EXAMPLES = example(
    "bayesprune fit --data numbers.npz --network linear --prior spike-and-slab --out runs/linear",
    "bayesprune reference runs/linear --out runs/linear-reference",
)


def reference(
    run: Run,
    out: Annotated[Path, place_option("The folder to make.", metavar="DIR")],
    method: Annotated[
        str | None, typer.Option(help="enumeration, gibbs or nuts.  [default: the most exact that applies]")
    ] = None,
    draws: Annotated[int | None, typer.Option(help="Draws a chain that are kept.  [default: 2000; nuts: 500]")] = None,
    warmup: Annotated[int, typer.Option(help="Draws of a chain before.")] = 500,
    chains: Annotated[int, typer.Option(help="Chains of a sampler.")] = 4,
    seed: Annotated[int, typer.Option(help="Of the draws.")] = 0,
    points: Annotated[
        str,
        typer.Option(help="Parameters without a prior: integrated out (flat), or held where the fit has them (fixed)."),
    ] = "flat",
    kl_weight: Annotated[
        float, typer.Option(help="Of a tempered fit: the likelihood counts to the power of one over it.")
    ] = 1.0,
    restart: Annotated[int, typer.Option(help="Which restart is compared, from 0.")] = 0,
    network: OwnNetwork = None,
    prior: OwnPrior = None,
    trust_code: TrustCode = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Compare a run of a linear model with its posterior without a guide.

    For networks without hidden layers (--network linear): all states of up to 14 gates are enumerated, of more a Gibbs
    sampler draws, and priors without gates are sampled by NUTS, on the run's training data and in its units.

    DIR gets reference.json (inclusion probabilities, means and sds of both, R-hat and effective draws), reference.nc
    (the draws, for ArviZ) and reference.png.
    """
    from bayesprune.commands.referring import print_reference, refer_run

    found = refer_run(
        run, out, method, draws, warmup, chains, seed, points, kl_weight, restart, data_root, trust_code, network, prior
    )
    if not quiet:
        print_reference(out, *found)
