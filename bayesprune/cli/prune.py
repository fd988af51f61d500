"""`bayesprune prune`: its arguments, and the call of its work."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from bayesprune.cli.options import (
    Compact,
    DataRoot,
    Finetune,
    MinScore,
    OnnxFile,
    OwnNetwork,
    OwnPrior,
    PruneBudget,
    Quiet,
    RoundTo,
    TimeIt,
    TrustCode,
    example,
    place_argument,
    place_option,
)

EXAMPLES = example(
    "bayesprune prune runs/spike --sparsity 0.95 --out runs/spike-95",
    "bayesprune prune runs/spike --min-inclusion 0.5 --out runs/spike-median",
    "bayesprune prune runs/spike --budget runs/str-2/budget.json --out runs/spike-as-str",
    "bayesprune prune runs/map --share 0.25 --per distribution --only 'fc*' --finetune 2 --out runs/map-quarter",
    "bayesprune prune runs/units --min-inclusion 0.5 --compact --latency --onnx units.onnx --out runs/units-small",
    "bayesprune prune runs/spike --sparsity 0.98 --finetune 5 --compact --out runs/spike-98",
    "bayesprune prune runs/front --min-accuracy 0.88 --out runs/front-88",
)


def prune(
    run: Annotated[
        Path,
        place_argument("A run folder, or a folder made by bayesprune path.", "RUN|PATH"),
    ],
    out: Annotated[Path, place_option("The folder to make.", metavar="DIR")],
    sparsity: Annotated[
        float | None, typer.Option(help="Fraction of zeros to reach; of a path the least.", show_default=False)
    ] = None,
    min_inclusion: Annotated[
        float | None, typer.Option(help="Keep weights of a higher inclusion probability.", show_default=False)
    ] = None,
    value: Annotated[float | None, typer.Option(help="Of a path: the value of its knob.", show_default=False)] = None,
    min_accuracy: Annotated[
        float | None,
        typer.Option(
            help="Of a path: the least accuracy on validation data; the sparsest is taken.", show_default=False
        ),
    ] = None,
    share: Annotated[
        float | None, typer.Option(help="Fraction of the weights that are left which goes.", show_default=False)
    ] = None,
    count: Annotated[int | None, typer.Option(help="How many of the weights left go.", show_default=False)] = None,
    per: Annotated[
        str,
        typer.Option(
            help="Over what weights are ranked: the whole network, each layer by itself, or distribution: the network, "
            "by scores over the sd of their tensor."
        ),
    ] = "network",
    only: Annotated[
        list[str] | None,
        typer.Option(
            help="Prune these tensors alone, by name or shell pattern; may be repeated.",
            metavar="PATTERN",
            show_default=False,
        ),
    ] = None,
    criterion: Annotated[
        str | None,
        typer.Option(
            help="What weights are ranked by: inclusion, magnitude, signal-to-noise, sign, dropout-rate, reduction, "
            "random, optimal-brain-damage or deletion.  [default: by the prior]"
        ),
    ] = None,
    min_score: MinScore = None,
    budget: PruneBudget = None,
    restart: Annotated[
        int | None, typer.Option(help="Which restart, from 0.  [default: 0; of a path the best on validation data]")
    ] = None,
    finetune: Finetune = None,
    compact: Compact = False,
    onnx: OnnxFile = None,
    latency: TimeIt = False,
    round_to: RoundTo = None,
    network: OwnNetwork = None,
    prior: OwnPrior = None,
    trust_code: TrustCode = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Prune a run to a plain network with zeros, and with --compact to a smaller one.

    Without a rule it is the network as the fit leaves it, for runs that have zeros by themselves, as --recipe makes.
    Of a path the network is taken that has the best validation score among those that meet --sparsity and --value.
    What is left of each layer is kept beside the network, in budget.json, which --budget of fit and prune reads.
    The zeros stand in place; units that nothing reads any more are removed by --compact, which changes no output.
    Nothing is fine-tuned, unless --finetune says for how long; the zeros stay.
    """
    from bayesprune.commands.asked_budget import budget_of_pruning
    from bayesprune.commands.pruning import print_pruned, prune_run

    summary = prune_run(
        run, out, sparsity, min_inclusion, per, criterion, restart, data_root,
        compact=compact, onnx=onnx, latency=latency, round_to=round_to, value=value, min_accuracy=min_accuracy,
        finetune_epochs=finetune, trust_code=trust_code, network=network, prior=prior, min_score=min_score,
        budget=None if budget is None else budget_of_pruning(budget), share=share, count=count, only=only or None,
    )  # fmt: skip
    if not quiet:
        print_pruned(out, summary)
