"""Options and arguments that several commands of the command line have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayesprune.inference.training.fit_options import help_of
from bayesprune.models.files.places import expanded
from bayesprune.models.likelihoods.names import likelihood_names
from bayesprune.models.networks.names import NETWORK_NAMES


def example(*lines: str) -> str:
    """The end of a help text: commands to copy, their lines left as they are."""
    return "\b\n" + "\n".join(["Example:", *(f"  {line}" for line in lines)])


def place_option(text: str, *names: str, metavar: str = "PATH") -> Any:
    """An option that takes a path; its parser sees `./~x`, a file called ~x, before pathlib shortens it to `~x`."""
    return typer.Option(*names, metavar=metavar, parser=expanded, help=text, show_default=False)


def place_argument(text: str, metavar: str) -> Any:
    """An argument that is a path."""
    return typer.Argument(metavar=metavar, parser=expanded, help=text, show_default=False)


def fit_option(name: str, *names: str, more: str = "", **settings: Any) -> Any:
    """An option that `FitOptions` has: its help text is that of the field, as the signature's default is.

    Args:
        name: The field.
        *names: Names of the option; default: by the argument.
        more: What the command line says besides, to the end of the sentence.
        **settings: Of `typer.Option`.
    """
    text, bracket, default = help_of(name).partition("  [default")
    return typer.Option(*names, help=(text.removesuffix(".") + more if more else text) + bracket + default, **settings)


DataRoot = Annotated[Path | None, place_option("Folder where a named data set is looked for first.", "--data-root")]
Run = Annotated[Path, place_argument("A run folder, made by fit --out.", "RUN")]

Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
# What `fit` and `path` have in common.
Data = Annotated[
    str, typer.Option(help="A name (see: bayesprune data), a folder of images or a FILE.npz.", show_default=False)
]
Prior = Annotated[str, typer.Option(help="A name (see: bayesprune priors) or FILE.py:NAME.", show_default=False)]
FitPrior = Annotated[
    str | None,
    typer.Option(
        "--prior", help="A name (see: bayesprune priors) or FILE.py:NAME; with --recipe there is one already."
    ),
]
Recipe = Annotated[
    str | None, typer.Option(help="Sparse training by a name (see: bayesprune recipes), with --budget density=0.01.")
]
RecipeSettings = Annotated[
    list[str] | None, typer.Option("--recipe-set", metavar="KEY=VALUE", help="A setting of the recipe; repeatable.")
]
Network = Annotated[str, typer.Option(help=f"{', '.join(NETWORK_NAMES)}, genome, or MODULE:NAME.")]
NetworkSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--network-set",
        metavar="KEY=VALUE",
        help="An argument of a network of your own, MODULE:NAME; repeatable. Of genome: genome=PLACE of a search.",
    ),
]
Width = Annotated[float, typer.Option(help="Multiplies the widths of the network's hidden layers.")]
Settings = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="A setting of the prior; repeatable.")
]
On = Annotated[
    list[str] | None,
    typer.Option(metavar="PATTERN", help="Parameters that get the prior; repeatable.  [default: all weights]"),
]
Guide = Annotated[str | None, typer.Option(help="map, meanfield or paired.  [default: the prior's own]")]
Likelihood = Annotated[
    str | None, typer.Option(help=f"{likelihood_names()}.  [default: categorical for labels, normal for numbers]")
]
Standardise = Annotated[
    bool | None,
    fit_option(
        "standardise",
        "--standardise/--no-standardise",
        more=".  [default: where noise is learned and no --weights are given]",
    ),
]
Interval = Annotated[float, typer.Option(help="Probability of the predictive intervals of a regression.")]
Weights = Annotated[
    Path | None,
    place_option("Start from this state dict of a trained network: safetensors or of torch.save.", metavar="FILE"),
]
NewHead = Annotated[
    bool, typer.Option("--new-head", help="Start the layer of the outputs anew, and take all else from --weights.")
]
Tune = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KNOB[=A,B,...],...",
        help="Choose kl_weight and settings of the prior on validation data, by a few short fits; repeatable.",
    ),
]
# What `FitOptions` has, `fit` and `path` take as it says; defaults stand in their signatures, as its fields.
BatchSize = Annotated[int, fit_option("batch_size")]
LearningRate = Annotated[float | None, fit_option("learning_rate")]
Optimizer = Annotated[str | None, fit_option("optimizer")]
Schedule = Annotated[str | None, fit_option("schedule")]
KlWarmup = Annotated[float | None, fit_option("kl_warmup")]
KlWeight = Annotated[float | None, fit_option("kl_weight")]
Particles = Annotated[int, fit_option("particles")]
Seed = Annotated[int, fit_option("seed", more=" and of the validation split.")]
Device = Annotated[str, fit_option("device")]
Precision = Annotated[str, fit_option("precision")]
MinScore = Annotated[
    float | None,
    typer.Option(
        help="Keep weights whose score by --criterion exceeds this: log alpha < 3 is dropout-rate and -3.",
        show_default=False,
    ),
]

FitBudget = Annotated[
    list[str] | None,
    typer.Option(
        "--budget",
        metavar="KIND=VALUE|FILE",
        help="End with this share or number of weights, MACs or parameters: density=0.02, macs=0.25, or "
        "parameters=0.1; or with the densities by layer of a FILE.json or .csv; repeatable for settings of the rule.",
    ),
]
PruneBudget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        metavar="density=VALUE|FILE",
        help="Keep exactly this share or number of weights, or those of a FILE.json or .csv in each layer.",
        show_default=False,
    ),
]

# What `prune` does with the network that it has pruned.
Finetune = Annotated[
    int | None,
    typer.Option(
        metavar="EPOCHS", help="Train the pruned network further by maximum likelihood, zeros held.  [default: not]"
    ),
]
Compact = Annotated[
    bool, typer.Option("--compact", help="Also write the network without its dead units, which is really smaller.")
]
OnnxFile = Annotated[
    Path | None,
    place_option("Write the compact network as ONNX too (needs bayesprune[export]).", metavar="FILE"),
]
TimeIt = Annotated[
    bool, typer.Option("--latency", help="Time the compact network beside the one with zeros; takes a while.")
]
RoundTo = Annotated[
    int | None, typer.Option(help="Keep widths of the compact network at multiples of this.", show_default=False)
]

# Code of the user's own in a folder that is read back: see bayesprune.runs.code_trust.
OwnNetwork = Annotated[
    str | None,
    typer.Option(
        "--network", metavar="MODULE:NAME", help="The run's network of your own, repeated to let its code run."
    ),
]
OwnPrior = Annotated[
    str | None,
    typer.Option("--prior", metavar="FILE.py:NAME", help="The run's prior of your own, repeated to let its code run."),
]
TrustCode = Annotated[bool, typer.Option("--trust-code", help="Run whatever code of its own the folder names.")]
