"""Options and arguments that several commands of the command line have."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from bayesprune.models.files.places import expanded
from bayesprune.models.likelihoods.names import likelihood_names


def example(*lines: str) -> str:
    """The end of a help text: commands to copy, their lines left as they are."""
    return "\b\n" + "\n".join(["Example:", *(f"  {line}" for line in lines)])


def place_option(text: str, *names: str, metavar: str = "PATH") -> Any:
    """An option that takes a path; its parser sees `./~x`, a file called ~x, before pathlib shortens it to `~x`."""
    return typer.Option(*names, metavar=metavar, parser=expanded, help=text, show_default=False)


def place_argument(text: str, metavar: str) -> Any:
    """An argument that is a path."""
    return typer.Argument(metavar=metavar, parser=expanded, help=text, show_default=False)


DataRoot = Annotated[Path | None, place_option("Folder where a named data set is looked for first.", "--data-root")]
Run = Annotated[Path, place_argument("A run folder, made by fit --out.", "RUN")]

Quiet = Annotated[bool, typer.Option("--quiet", help="Print nothing but errors.")]
# What `fit` and `path` have in common.
Data = Annotated[
    str, typer.Option(help="A name (see: bayesprune data), a folder of images or a FILE.npz.", show_default=False)
]
Prior = Annotated[str, typer.Option(help="A name (see: bayesprune priors) or FILE.py:NAME.", show_default=False)]
Network = Annotated[
    str,
    typer.Option(help="lenet-300-100, lenet-5, vgg-16-bn, resnet-18, resnet-20, resnet-32, resnet-56 or MODULE:NAME."),
]
NetworkSettings = Annotated[
    list[str] | None,
    typer.Option(
        "--network-set", metavar="KEY=VALUE", help="An argument of a network of your own, MODULE:NAME; repeatable."
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
    typer.Option(
        "--standardise/--no-standardise",
        help="Whether a regression standardises inside.  [default: where noise is learned and no --weights are given]",
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
BatchSize = Annotated[int, typer.Option(help="Examples a step.")]
LearningRate = Annotated[float, typer.Option(help="Of the optimizer.")]
Optimizer = Annotated[str, typer.Option(help="adam or sgd.")]
Schedule = Annotated[str, typer.Option(help="Of the learning rate: hold-cosine, cosine or constant.")]
KlWarmup = Annotated[
    float | None,
    typer.Option(help="Share of the steps (path: of the first value) over which the KL term fades in.  [default: 0.6]"),
]
KlWeight = Annotated[
    float | None,
    typer.Option(
        help="Final weight of the KL term: 1 is the ELBO, less is tempered.  [default: 0.1 to 1, by weights and data]"
    ),
]
Particles = Annotated[int, typer.Option(help="Draws of the weights a step.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda, ...")]
Precision = Annotated[str, typer.Option(help="float32, float64 or bfloat16 (autocast).")]
MinScore = Annotated[
    float | None,
    typer.Option(
        help="Keep weights whose score by --criterion exceeds this: log alpha < 3 is dropout-rate and -3.",
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
