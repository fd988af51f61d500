"""The command line: `bayesprune fit | show | path | prune | predict | compare | priors | data`.

This module holds arguments, help and exit codes; each command's work is in `bayesprune.commands`, imported
when the command runs, so that `bayesprune --help` does not wait for PyTorch.

Exit codes: 0; 1 for a run that failed (a loss that is not finite, a disk that is full); 2 for wrong usage
(bad input, unknown names, a folder that exists); 130 after Ctrl-C and 143 after SIGTERM. Errors are one line on
standard error, with a traceback only by `--debug`.
"""

from __future__ import annotations

import contextlib
import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import bayesprune
from bayesprune.cli.exits import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    ended_by_hand,
    exit_code,
    listen_to_signals,
    sentence,
    what_is_left,
)
from bayesprune.commands.plain_text import neutral, plain_warnings

# isort: off
from bayesprune.cli.options import (
    BatchSize, Compact, Data, DataRoot, Device, Finetune, Guide, Interval, KlWarmup, KlWeight, LearningRate, Likelihood,
    MinScore, Network, NetworkSettings, NewHead, On, OnnxFile, Optimizer, OwnNetwork, OwnPrior, Particles, Precision,
    Prior, Quiet, RoundTo, Run, Schedule, Settings, Standardise, TimeIt, TrustCode, Tune, Weights, Width,
    place_argument, place_option,
)  # fmt: skip
# isort: on

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip


def example(*lines: str) -> str:
    """The end of a help text: commands to copy, their lines left as they are."""
    return "\b\n" + "\n".join(["Example:", *(f"  {line}" for line in lines)])


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bayesprune {bayesprune.__version__}")
        raise typer.Exit


@app.callback(
    epilog=example(
        "bayesprune fit --data digits --prior spike-and-slab --out runs/first",
        "bayesprune show runs/first",
        "bayesprune prune runs/first --min-inclusion 0.5 --out runs/first-pruned",
    )
)
def bayesprune_command(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after a command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Bayesian sparsity priors for PyTorch networks: declare a prior, fit it, inspect it, prune."""


@app.command(
    epilog=example(
        "bayesprune fit --data fashion-mnist --network lenet-300-100 --prior spike-and-slab \\",
        "    --set expected_density=0.1 --guide paired --epochs 20 --seed 0 --out runs/spike",
        "bayesprune fit --data digits --prior own_prior.py:student --out runs/own",
        "bayesprune fit --data digits --weights trained.safetensors --prior reduction --out runs/reduced",
        "bayesprune fit --data digits --prior unit-gates --out runs/units",
        "bayesprune fit --data images --network torchvision.models:resnet18 --weights resnet18.pth --new-head \\",
        "    --prior unit-gates --out runs/resnet",
        "bayesprune fit --data digits --prior halo --tune kl_weight,expected_density --out runs/tuned",
    )
)
def fit(
    data: Data,
    prior: Prior,
    out: Annotated[Path, place_option("The run folder to make.")],
    network: Network = "lenet-300-100",
    network_set: NetworkSettings = None,
    width: Width = 1.0,
    settings: Settings = None,
    gating: Annotated[
        list[str] | None,
        typer.Option("--gating", metavar="KEY=VALUE", help="How the gates of unit-gates are trained; repeatable."),
    ] = None,
    on: On = None,
    guide: Guide = None,
    likelihood: Likelihood = None,
    standardise: Standardise = None,
    weights: Weights = None,
    new_head: NewHead = False,
    epochs: Annotated[
        int | None,
        typer.Option(
            help="Passes over the training data; 0: none, a Laplace approximation around --weights.  "
            "[default: 30, and 2,500 steps at least; --prior reduction with --weights: 0]"
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(help="Steps of the optimizer, in place of --epochs.")] = None,
    batch_size: BatchSize = 128,
    learning_rate: LearningRate = 1e-3,
    optimizer: Optimizer = "adam",
    schedule: Schedule = "hold-cosine",
    kl_warmup: KlWarmup = None,
    kl_weight: KlWeight = None,
    particles: Particles = 1,
    tune: Tune = None,
    seed: Annotated[int, typer.Option(help="Of the first restart and of the validation split.")] = 0,
    restarts: Annotated[int, typer.Option(help="Independent fits.")] = 1,
    device: Device = "auto",
    precision: Precision = "float32",
    path: Annotated[
        str, typer.Option(help="plain, fused (one traced graph, compiled where that pays) or auto.")
    ] = "auto",
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin anew, and remove what an interrupted fit has left for RUN.")
    ] = False,
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Fit a prior to data and write a run folder.

    While it runs, its state is kept in RUN.part: when it was interrupted, killed or out of room, the same command goes
    on where it stopped, with the same numbers.
    """
    from bayesprune.commands.fitting import fit_run, parse_settings, print_run

    with ended_by_hand():
        summary = fit_run(
            out,
            data=data,
            network=network,
            network_settings=parse_settings(network_set or [], "--network-set"),
            width=width,
            prior=prior,
            settings=parse_settings(settings or []),
            gating=parse_settings(gating or [], "--gating"),
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
            path=path,
            fresh=fresh,
            progress=not quiet,
        )
    if not quiet:
        print_run(out, summary)


@app.command(
    epilog=example(
        "bayesprune show runs/spike --plots",
        "bayesprune show runs/own --prior own_prior.py:student",
        "watch -n 10 bayesprune show runs/spike     # while bayesprune fit --out runs/spike is running",
    )
)
def show(
    run: Run,
    plots: Annotated[bool, typer.Option("--plots", help="Write plots to RUN/plots.")] = False,
    network: OwnNetwork = None,
    prior: OwnPrior = None,
    trust_code: TrustCode = False,
) -> None:
    """Show what a run came to, layer by layer, or how far it is."""
    from bayesprune.commands.showing import show_run

    show_run(run, plots, trust_code, network, prior)


@app.command(
    epilog=example(
        "bayesprune path --data fashion-mnist --prior spike-and-slab --knob expected_density \\",
        "    --values 0.3,0.1,0.05,0.02 --first-epochs 10 --epochs 4 --out runs/front",
        "bayesprune path --data digits --prior halo --knob kappa --values 1,3,10 --out runs/halo",
    )
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
    standardise: Standardise = None,
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
    batch_size: BatchSize = 128,
    learning_rate: LearningRate = 1e-3,
    optimizer: Optimizer = "adam",
    schedule: Schedule = "hold-cosine",
    kl_warmup: KlWarmup = None,
    kl_weight: KlWeight = None,
    particles: Particles = 1,
    seed: Annotated[int, typer.Option(help="Of the first restart and of the validation split.")] = 0,
    restarts: Annotated[int, typer.Option(help="Independent paths.")] = 3,
    latency: Annotated[bool, typer.Option("--latency", help="Time the compact networks too.")] = False,
    device: Device = "auto",
    precision: Precision = "float32",
    data_root: DataRoot = None,
    quiet: Quiet = False,
) -> None:
    """Fit along the values of a prior's setting, each from the fit before, and draw the front.

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
            latency=latency,
            device=device,
            precision=precision,
            progress=not quiet,
        )
    if not quiet:
        print_path(out, found)


@app.command(
    epilog=example(
        "bayesprune prune runs/spike --sparsity 0.95 --out runs/spike-95",
        "bayesprune prune runs/spike --min-inclusion 0.5 --out runs/spike-median",
        "bayesprune prune runs/units --min-inclusion 0.5 --compact --latency --onnx units.onnx --out runs/units-small",
        "bayesprune prune runs/spike --sparsity 0.98 --finetune 5 --compact --out runs/spike-98",
        "bayesprune prune runs/front --min-accuracy 0.88 --out runs/front-88",
    )
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
    per: Annotated[str, typer.Option(help="Reach the sparsity in the whole network, or in each layer.")] = "network",
    criterion: Annotated[
        str | None,
        typer.Option(
            help="What a sparsity ranks by: inclusion, magnitude, signal-to-noise, dropout-rate or reduction.  "
            "[default: by the prior]"
        ),
    ] = None,
    min_score: MinScore = None,
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

    Of a path the network is taken that has the best validation score among those that meet --sparsity and --value.
    The zeros stand in place; units that nothing reads any more are removed by --compact, which changes no output.
    Nothing is fine-tuned, unless --finetune says for how long; the zeros stay.
    """
    from bayesprune.commands.pruning import print_pruned, prune_run

    summary = prune_run(
        run, out, sparsity, min_inclusion, per, criterion, restart, data_root,
        compact=compact, onnx=onnx, latency=latency, round_to=round_to, value=value, min_accuracy=min_accuracy,
        finetune_epochs=finetune, trust_code=trust_code, network=network, prior=prior, min_score=min_score,
    )  # fmt: skip
    if not quiet:
        print_pruned(out, summary)


@app.command(
    epilog=example(
        "bayesprune predict runs/spike --input inputs.npy --out predictions.npz",
        "bayesprune predict runs/spike-median --input images.npy --out predictions.csv",
    )
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


@app.command(
    epilog=example(
        "bayesprune compare runs/spike runs/halo",
    )
)
def compare(
    runs: Annotated[list[Path], place_argument("Run folders.", "RUN...")],
) -> None:
    """Compare runs in a table."""
    from bayesprune.commands.tables import compare_runs

    compare_runs(runs)


@app.command(
    epilog=example(
        "bayesprune priors",
    )
)
def priors() -> None:
    """List the ready priors and their settings."""
    from bayesprune.commands.tables import list_priors

    list_priors()


@app.command(
    "data",
    epilog=example(
        "bayesprune data",
    ),
)
def data_sets(data_root: DataRoot = None) -> None:
    """List the data sets that have a name."""
    from bayesprune.commands.tables import list_data

    list_data(data_root)


def run(arguments: list[str]) -> int:
    """Runs the command line on these arguments and returns the exit code."""
    debug = "--debug" in arguments
    given = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        with plain_warnings():
            code = app(args=given, prog_name="bayesprune", standalone_mode=False)
        if code == INTERRUPTED:  # some versions of typer turn the exception into this code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt as stop:
        return _fail(f"interrupted; {what_is_left(stop)}", INTERRUPTED, debug)
    except Terminated as stop:
        return _fail(f"terminated; {what_is_left(stop)}", TERMINATED, debug)
    except Exception as problem:
        return _fail(sentence(problem), exit_code(problem), debug)


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"error: {neutral(sentence)}", file=sys.stderr, flush=True)
    return code


def main() -> NoReturn:
    """The entry point of `bayesprune` and `python -m bayesprune`."""
    listen_to_signals()
    sys.exit(run(sys.argv[1:]))
