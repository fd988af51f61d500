"""`bayesprune predict`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.options import (
    DataRoot,
    Interval,
    OwnNetwork,
    OwnPrior,
    Quiet,
    TrustCode,
    example,
    place_argument,
    place_option,
)

EXAMPLES = example(
    "bayesprune predict runs/spike --input inputs.npy --out predictions.npz",
    "bayesprune predict runs/spike-median --input images.npy --out predictions.csv",
)


def predict(
    source: Annotated[
        Path,
        place_argument("A run folder, or a folder made by bayesprune prune.", "RUN|DIR"),
    ],
    inputs: Annotated[
        Path,
        place_option("An array of inputs (n, ...).", "--input", metavar="FILE.npy"),
    ],
    out: Annotated[Path, place_option("The file to write, .npz or .csv.", metavar="FILE")],
    draws: Annotated[
        int | None, typer.Option(help="Draws of a run's weights to average over.  [default: 32; map: 1]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a forward pass.")] = 1024,
    restart: Annotated[int | None, typer.Option(help="Which restart of a run, from 0.  [default: 0]")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The inputs are in the units of the data file: scale them first.")
    ] = False,
    interval: Interval = 0.9,
    network: OwnNetwork = None,
    prior: OwnPrior = None,
    trust_code: TrustCode = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Predict with a run, or with a pruned or compact network.

    A run's predictions are averaged over draws of its weights; sd is the standard deviation over them. A pruned
    network is one network and has no sd. FILE gets mean (probabilities of the classes, or numbers), sd and, for
    labels, class, for regressions the ends of predictive intervals, lower and upper.

    bayesprune fit standardises inputs: bytes of images are divided by 255 (digits: 16), then all inputs are shifted
    and divided by the mean and standard deviation of the training data, per channel of images, else per feature.
    The floating-point numbers of --input are taken as standardised in this way already; with --raw it is done to
    them first, and to bytes of images (uint8) always.
    """
    from bayesprune.commands.predicting import predict_file, print_predicted

    predicted = predict_file(
        source, inputs, out, draws, batch_size, restart, raw, data_root, trust_code, network, prior, interval
    )
    if not quiet:
        print_predicted(source, out, predicted)
