"""The command line: `bayesprune fit | show | prune | predict | compare | priors | data`.

This module holds arguments, help and exit codes; each command's work is in `bayesprune.commands`, imported
when the command runs, so that `bayesprune --help` does not wait for PyTorch.

Exit codes: 0; 1 for a run that failed (a loss that is not finite, a disk that is full); 2 for wrong usage
(bad input, unknown names, a folder that exists). Errors are one line on standard error, with a traceback only
by `--debug`.
"""

from __future__ import annotations

import sys
import traceback
from pathlib import Path
from typing import Annotated, NoReturn

import typer

import bayesprune

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip

DataRoot = Annotated[
    Path | None, typer.Option("--data-root", help="Folder where a named data set is looked for first.")
]
Run = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, made by fit --out.", show_default=False)]


def example(*lines: str) -> str:
    """The end of a help text: commands to copy, their lines left as they are."""
    return "\b\n" + "\n".join(["Example:", *(f"  {line}" for line in lines)])


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bayesprune {bayesprune.__version__}")
        raise typer.Exit


@app.callback(
    epilog=example(
        "bayesprune fit --data digits --prior spike-and-slab --epochs 100 --out runs/first",
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
        "bayesprune fit --data digits --prior own_prior.py:student --epochs 100 --out runs/own",
    )
)
def fit(
    data: Annotated[
        str,
        typer.Option(help="A name (see: bayesprune data), a folder of images or a FILE.npz.", show_default=False),
    ],
    prior: Annotated[str, typer.Option(help="A name (see: bayesprune priors) or FILE.py:NAME.", show_default=False)],
    out: Annotated[Path, typer.Option(help="The run folder to make.", show_default=False)],
    network: Annotated[
        str, typer.Option(help="lenet-300-100, lenet-5, vgg-16-bn, resnet-18, resnet-20 or MODULE:NAME.")
    ] = "lenet-300-100",
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the prior; repeatable."),
    ] = None,
    on: Annotated[
        list[str] | None,
        typer.Option(metavar="PATTERN", help="Parameters that get the prior; repeatable.  [default: all weights]"),
    ] = None,
    guide: Annotated[str | None, typer.Option(help="map, meanfield or paired.  [default: the prior's own]")] = None,
    likelihood: Annotated[
        str | None,
        typer.Option(help="categorical, normal, bernoulli or poisson.  [default: by the targets]"),
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="Start from this state dict of a trained network, FILE.safetensors.")
    ] = None,
    epochs: Annotated[int, typer.Option(help="Passes over the training data.")] = 30,
    batch_size: Annotated[int, typer.Option(help="Examples a step.")] = 128,
    learning_rate: Annotated[float, typer.Option(help="Of the optimizer.")] = 1e-3,
    optimizer: Annotated[str, typer.Option(help="adam or sgd.")] = "adam",
    schedule: Annotated[
        str, typer.Option(help="Of the learning rate: hold-cosine, cosine or constant.")
    ] = "hold-cosine",
    kl_warmup: Annotated[
        float | None,
        typer.Option(help="Share of the steps over which the KL term fades in.  [default: 0.2; map: 0]"),
    ] = None,
    seed: Annotated[int, typer.Option(help="Of the first restart and of the validation split.")] = 0,
    restarts: Annotated[int, typer.Option(help="Independent fits.")] = 1,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, ...")] = "auto",
    precision: Annotated[str, typer.Option(help="float32, float64 or bfloat16 (autocast).")] = "float32",
    path: Annotated[
        str, typer.Option(help="plain, fused (one traced graph, compiled where that pays) or auto.")
    ] = "auto",
    data_root: DataRoot = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Fit a prior to data and write a run folder."""
    from bayesprune.commands.fitting import fit_run, parse_settings, print_run

    summary = fit_run(
        out,
        data=data,
        network=network,
        prior=prior,
        settings=parse_settings(settings or []),
        on=tuple(on) if on else None,
        likelihood=likelihood,
        weights=weights,
        data_root=data_root,
        guide=guide,
        epochs=epochs,
        batch_size=batch_size,
        learning_rate=learning_rate,
        optimizer=optimizer,
        schedule=schedule,
        kl_warmup=kl_warmup,
        seed=seed,
        restarts=restarts,
        device=device,
        precision=precision,
        path=path,
        progress=not quiet,
    )
    if not quiet:
        print_run(out, summary)


@app.command(
    epilog=example(
        "bayesprune show runs/spike --plots",
    )
)
def show(
    run: Run,
    plots: Annotated[bool, typer.Option("--plots", help="Write plots to RUN/plots.")] = False,
) -> None:
    """Show what a run came to, layer by layer."""
    from bayesprune.commands.showing import show_run

    show_run(run, plots)


@app.command(
    epilog=example(
        "bayesprune prune runs/spike --sparsity 0.95 --out runs/spike-95",
        "bayesprune prune runs/spike --min-inclusion 0.5 --out runs/spike-median",
        "bayesprune prune runs/units --min-inclusion 0.5 --compact --latency --onnx units.onnx --out runs/units-small",
    )
)
def prune(
    run: Run,
    out: Annotated[Path, typer.Option(metavar="DIR", help="The folder to make.", show_default=False)],
    sparsity: Annotated[float | None, typer.Option(help="Fraction of zeros to reach.", show_default=False)] = None,
    min_inclusion: Annotated[
        float | None, typer.Option(help="Keep weights of a higher inclusion probability.", show_default=False)
    ] = None,
    per: Annotated[str, typer.Option(help="Reach the sparsity in the whole network, or in each layer.")] = "network",
    criterion: Annotated[
        str | None,
        typer.Option(
            help="What a sparsity ranks by: inclusion, magnitude or signal-to-noise.  [default: by the prior]"
        ),
    ] = None,
    restart: Annotated[int, typer.Option(help="Which restart, from 0.")] = 0,
    compact: Annotated[
        bool, typer.Option("--compact", help="Also write the network without its dead units, which is really smaller.")
    ] = False,
    onnx: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Write the compact network as ONNX too (needs bayesprune[export])."),
    ] = None,
    latency: Annotated[
        bool, typer.Option("--latency", help="Time the compact network beside the one with zeros; takes a while.")
    ] = False,
    round_to: Annotated[
        int | None,
        typer.Option(help="Keep widths of the compact network at multiples of this.", show_default=False),
    ] = None,
    data_root: DataRoot = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Prune a run to a plain network with zeros, and with --compact to a smaller one.

    The zeros stand in place; units that nothing reads any more are removed by --compact, which changes no output.
    Nothing is fine-tuned.
    """
    from bayesprune.commands.pruning import print_pruned, prune_run

    summary = prune_run(
        run, out, sparsity, min_inclusion, per, criterion, restart, data_root,
        compact=compact, onnx=onnx, latency=latency, round_to=round_to,
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
        typer.Argument(
            metavar="RUN|DIR", help="A run folder, or a folder made by bayesprune prune.", show_default=False
        ),
    ],
    inputs: Annotated[
        Path, typer.Option("--input", metavar="FILE.npy", help="An array of inputs (n, ...).", show_default=False)
    ],
    out: Annotated[Path, typer.Option(metavar="FILE", help="The file to write, .npz or .csv.", show_default=False)],
    draws: Annotated[
        int | None, typer.Option(help="Draws of a run's weights to average over.  [default: 32; map: 1]")
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Examples a forward pass.")] = 1024,
    restart: Annotated[int | None, typer.Option(help="Which restart of a run, from 0.  [default: 0]")] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="The inputs are in the units of the data file: scale them first.")
    ] = False,
    data_root: DataRoot = None,
    quiet: Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")] = False,
) -> None:
    """Predict with a run, or with a pruned or compact network.

    A run's predictions are averaged over draws of its weights; sd is the standard deviation over them. A pruned
    network is one network and has no sd. FILE gets mean (probabilities of the classes, or numbers), sd and, for
    labels, class.

    bayesprune fit standardises inputs: bytes of images are divided by 255 (digits: 16), then all inputs are shifted
    and divided by the mean and standard deviation of the training data, per channel of images, else per feature.
    The floating-point numbers of --input are taken as standardised in this way already; with --raw it is done to
    them first, and to bytes of images (uint8) always.
    """
    from bayesprune.commands.predicting import predict_file, print_predicted

    predicted = predict_file(source, inputs, out, draws, batch_size, restart, raw, data_root)
    if not quiet:
        print_predicted(source, out, predicted)


@app.command(
    epilog=example(
        "bayesprune compare runs/spike runs/halo",
    )
)
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Run folders.", show_default=False)],
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
        code = app(args=given, prog_name="bayesprune", standalone_mode=False)
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt:
        return _fail("interrupted; nothing was written", 130, debug)
    except Exception as problem:
        return _fail(_sentence(problem), _exit_code(problem), debug)


def _exit_code(problem: Exception) -> int:
    """2 for what the user can put right in the command, 1 for a run that failed."""
    usage = isinstance(problem, ValueError) or hasattr(problem, "format_message")
    return 2 if usage else int(getattr(problem, "exit_code", 1))


def _sentence(problem: Exception) -> str:
    if hasattr(problem, "format_message"):  # an error of the parser, whose class depends on typer's version
        return f"{problem.format_message()} See: bayesprune --help"
    text = " ".join(str(problem).split())
    if isinstance(problem, (ValueError, OSError)) or type(problem).__module__.startswith("bayesprune"):
        return text
    return f"{type(problem).__name__}: {text} (--debug shows where)"


def _fail(sentence: str, code: int, debug: bool) -> int:
    if debug:
        traceback.print_exc()
    print(f"error: {sentence}", file=sys.stderr)
    return code


def main() -> NoReturn:
    """The entry point of `bayesprune` and `python -m bayesprune`."""
    sys.exit(run(sys.argv[1:]))
