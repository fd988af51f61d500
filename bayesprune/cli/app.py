"""The command line: `bayesprune fit | show | path | sweep | prune | predict | ...`, each command in its own file.

This module puts the commands together and says how they end; the arguments and the help of each are in its own file
here, and its work is in `bayesprune.commands`, imported when the command runs, so that `bayesprune --help` does not
wait for PyTorch.

Exit codes: 0; 1 for a run that failed (a loss that is not finite, a disk that is full); 2 for wrong usage
(bad input, unknown names, a folder that exists); 130 after Ctrl-C and 143 after SIGTERM. Errors are one line on
standard error, with a traceback only by `--debug`; of several processes of a fit (torchrun, srun, `--processes`) one
says it for all.
"""

from __future__ import annotations

import contextlib
import os
import sys
import traceback
import warnings
from collections.abc import Iterator
from typing import Annotated, NoReturn

import typer

import bayesprune
from bayesprune.cli import fit, lists, path, predict, prune, reference, refit, search, show, sweep
from bayesprune.cli.exits import (
    INTERRUPTED,
    TERMINATED,
    Terminated,
    end_with_parent,
    exit_code,
    ignore_signals,
    listen_to_signals,
    sentence,
    what_is_left,
)
from bayesprune.cli.one_message import AlreadySaidError, is_mine_to_say
from bayesprune.cli.options import example
from bayesprune.commands.plain_text import neutral, plain_warnings
from bayesprune.inference.runtime.environment import processes_here

app = typer.Typer(
    add_completion=False, rich_markup_mode=None, pretty_exceptions_enable=False, no_args_is_help=False,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)  # fmt: skip


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
    context: typer.Context,
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback of an error; also after a command.")
    ] = False,
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Bayesian sparsity priors for PyTorch networks: declare a prior, fit it, inspect it, prune."""
    world = processes_here()[1]
    if world > 1 and context.invoked_subcommand != "fit":
        raise ValueError(
            f"bayesprune {context.invoked_subcommand} runs in one process, but {world} were started: start it without "
            "torchrun or srun; only bayesprune fit takes several"
        )


# In the order of the help.
app.command("fit", epilog=fit.EXAMPLES)(fit.fit)
app.command("show", epilog=show.EXAMPLES)(show.show)
app.command("path", epilog=path.EXAMPLES)(path.path)
app.command("search", epilog=search.EXAMPLES)(search.search)
app.command("sweep", epilog=sweep.EXAMPLES)(sweep.sweep)
app.command("prune", epilog=prune.EXAMPLES)(prune.prune)
app.command("refit", epilog=refit.EXAMPLES)(refit.refit)
app.command("predict", epilog=predict.EXAMPLES)(predict.predict)
app.command("reference", epilog=reference.EXAMPLES)(reference.reference)
app.command("compare", epilog=lists.COMPARE_EXAMPLES)(lists.compare)
app.command("priors", epilog=lists.PRIORS_EXAMPLES)(lists.priors)
app.command("recipes", epilog=lists.RECIPES_EXAMPLES)(lists.recipes)
app.command("data", epilog=lists.DATA_EXAMPLES)(lists.data)


def run(arguments: list[str]) -> int:
    """Runs the command line on these arguments and returns the exit code."""
    debug = "--debug" in arguments
    given = [argument for argument in arguments if argument != "--debug"] or ["--help"]
    try:
        with plain_warnings(), _warned_once():
            code = app(args=given, prog_name="bayesprune", standalone_mode=False, obj=arguments)
        if code == INTERRUPTED:  # some versions of typer turn the exception into this code
            raise KeyboardInterrupt
        return code if isinstance(code, int) else 0
    except KeyboardInterrupt as stop:
        return _fail(f"interrupted; {what_is_left(stop)}", INTERRUPTED, stop, debug)
    except Terminated as stop:
        return _fail(f"{_terminated()}; {what_is_left(stop)}", TERMINATED, stop, debug)
    except AlreadySaidError as end:
        return end.exit_code
    except Exception as problem:
        return _fail(sentence(problem), exit_code(problem), problem, debug)


def _fail(sentence: str, code: int, problem: BaseException, debug: bool) -> int:
    """Says why the command ends, unless another process of the same fit does."""
    ignore_signals()
    if not is_mine_to_say(code, problem):
        return code
    if debug:
        traceback.print_exc()
    with contextlib.suppress(OSError):  # the terminal may be closed
        print(f"error: {neutral(sentence)}", file=sys.stderr, flush=True)
    return code


def _terminated() -> str:
    """What SIGTERM means: of several processes the launcher sends it to all when one has ended."""
    return "terminated" if processes_here()[1] == 1 else "terminated, or another process of the fit has ended"


@contextlib.contextmanager
def _warned_once() -> Iterator[None]:
    """Of several processes the first alone warns: all would say the same."""
    with warnings.catch_warnings() if processes_here()[0] > 0 else contextlib.nullcontext():
        if processes_here()[0] > 0:
            warnings.simplefilter("ignore")
        yield


def main() -> NoReturn:
    """The entry point of `bayesprune` and `python -m bayesprune`."""
    if processes_here()[1] > 1:
        _run_as_one_of_many()
    listen_to_signals()
    sys.exit(run(sys.argv[1:]))


def _run_as_one_of_many() -> NoReturn:
    """Runs the command in one of several processes, which gets signals from the launcher when another one ends."""
    os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "FATAL")  # torch reports every connection that breaks
    listen_to_signals(once=True)
    if "TORCHELASTIC_RUN_ID" in os.environ:
        end_with_parent()
    code = TERMINATED
    with contextlib.suppress(Terminated, KeyboardInterrupt):  # as something else was just said
        code = run(sys.argv[1:])
        ignore_signals()
    with contextlib.suppress(OSError, ValueError):
        sys.stdout.flush()
        sys.stderr.flush()
    if code:
        os._exit(code)  # the end of the interpreter may wait for processes that are no more
    sys.exit(0)
