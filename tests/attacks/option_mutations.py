"""Impossible values of every option of every command, as the command line itself lists them."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

import typer

from bayesprune.cli import app as cli
from bayesprune.inference.recipes.ready_recipes import RECIPES
from bayesprune.inference.rules.gate_training import Gating
from bayesprune.models.priors.ready import PRIORS
from tests.attacks.targets import FIT

HUGE = "1180591620717411303424"
"""2 ** 70."""

TEXTS = (
    "", " ", "nan", "inf", "-inf", "-1", "0", "0.5", "1e309", "1e-320", HUGE, f"-{HUGE}", "9" * 400, "null", "[]", "x",
    "true", "é", "\u202e", "\x1b[31mred", "a\nb", "\udcff", "long" * 2000, ".", "..", "/", "~", "~nobody/x", "a.txt",
    "a.txt/b", "nowhere", "nowhere/x", "pipe", "dangling", "loop", "/dev/zero", "/dev/null", "evil:f", "evil.py:f",
    "subprocess:call", "x=y", "--", "--quiet", "%s%n", "meta", "cuda:99", "cpu:-1", "mps",
)  # fmt: skip
"""Values for any option: numbers, texts and paths alike."""

ENDLESS = {"epochs", "first_epochs", "restarts", "draws", "steps", "finetune", "trainings"}
"""Options of which a large number is a long wait that was asked for: they get the others only."""
LARGE = {HUGE, "9" * 400}

LABELS = ("--data", "labels.npz")
BASES: dict[str, list[tuple[str, ...]]] = {
    "fit": [("fit", *LABELS, *FIT, "--prior", "spike-and-slab", "--epochs", "1", "--out", "out")],
    "path": [
        ("path", *LABELS, *FIT, "--prior", "halo", "--knob", "kappa", "--values", "3,9", "--epochs", "1",
         "--restarts", "1", "--out", "out"),
    ],
    "search": [
        ("search", *LABELS, "--trainings", "4", "--population", "3", "--epochs", "1", "--widths", "4", "--quiet",
         "--out", "out"),
    ],
    "sweep": [
        ("sweep", *LABELS, *FIT, "--prior", "halo", "--epochs", "1", "--set", "set.kappa=3", "--out", "out"),
    ],
    "show": [("show", "spike")],
    "prune": [
        ("prune", "spike", "--sparsity", "0.5", "--quiet", "--out", "out"),
        ("prune", "path", "--sparsity", "0.1", "--quiet", "--out", "out"),
        ("prune", "spike", "--sparsity", "0.5", "--compact", "--quiet", "--out", "out"),
    ],
    "refit": [
        ("refit", "spike", "--epochs", "1", "--quiet", "--out", "out"),
        ("refit", "spike", "--gates", "pruned", "--epochs", "1", "--quiet", "--out", "out"),
    ],
    "predict": [
        ("predict", "spike", "--input", "inputs.npy", "--out", "out.npz"),
        ("predict", "pruned", "--raw", "--input", "inputs.npy", "--out", "out.csv"),
    ],
    "reference": [("reference", "linear", "--draws", "20", "--quiet", "--out", "out")],
    "compare": [("compare", "spike", "halo")],
    "priors": [("priors",)],
    "recipes": [("recipes",)],
    "data": [("data", "--data-root", "named")],
}  # fmt: skip
"""Commands that end well; an attack puts one value in the place of another."""

LINES: tuple[tuple[str, ...], ...] = (
    (), ("",), ("--",), ("nothing",), ("fit",), ("fit", "--data"), ("fit", "--nothing", "1"), ("--version", "fit"),
    ("show", "spike", "halo"), ("compare",), ("prune", "spike"), ("predict", "spike"), ("fit", "--help", "--out"),
    ("fit", "fit"), ("\x1b[31m",), ("show", "\x1b[31mred"), ("show", "--plots=1", "spike"), ("data", "x"), ("-h", "-x"),
    ("priors", "--set", "x=1"), ("show",), ("show", "--", "--plots"), ("compare", "spike", "pruned"), ("--debugger",),
    ("compare", *["spike"] * 200), ("show", "a" * 300), ("prune", "pruned", "--sparsity", "0.5", "--out", "out"),
    ("predict", "path", "--input", "inputs.npy", "--out", "out.npz"), ("show", "path"), ("show", "compact"),
    ("show", "killed.part"), ("show", "spike", "--plots"), ("show", "killed", "--plots"), ("compare", "killed"),
    ("compare", "path"),
)  # fmt: skip
"""Command lines of a wrong form."""

BUDGETS = (
    "density=0", "density=1.5", "density=-1", "density=nan", "density=1e309", f"density={HUGE}", "density=x",
    "density=[]", "density={}", 'density={"fc1.weight": 0}', 'density={"*": "x"}', 'density={"*": {"a": 1}}',
    'density={"x": 0.1}', "density=null", "density=true", "macs=0.5",
    "nowhere.json", "a.txt", "pipe", ".json", ".csv", "nowhere/x.csv",
)  # fmt: skip
"""Values of --budget."""

RECIPE = ("fit", *LABELS, *FIT, "--recipe", "rigl", "--budget", "density=0.5", "--epochs", "1", "--out", "out")
"""Sparse training that ends well."""

TOGETHER: tuple[tuple[str, ...], ...] = (
    (*BASES["fit"][0], "--epochs", "1000000000000", "--seed", "-1"),
    (*BASES["fit"][0], "--epochs", HUGE, "--data", "nowhere"),
    (*BASES["fit"][0], "--seed", HUGE),
    (*BASES["fit"][0], "--seed", "9223372036854775807", "--restarts", "2"),
    (*BASES["fit"][0], "--seed", "-1"),
    (*BASES["path"][0], "--seed", HUGE),
    (*BASES["fit"][0], "--device", "cpu:7"),
    (*BASES["fit"][0], "--epochs", "0"),
    (*BASES["fit"][0], "--epochs", "0", "--weights", "weights.safetensors"),
    (*BASES["fit"][0], "--epochs", "0", "--weights", "weights.safetensors", "--prior", "reduction", "--guide", "map"),
    (*BASES["fit"][0], "--prior", "reduction", "--weights", "weights.safetensors", "--seed", HUGE),
    (*BASES["fit"][0], "--width", "1e9"),
    (*BASES["fit"][0], "--width", "1e4"),
    (*BASES["fit"][0], "--width", "1e300"),
    (*BASES["fit"][0], "--width", "1e9", "--network", "resnet-18"),
    (*BASES["fit"][0], "--network", "lenet-5"),
    (*BASES["fit"][0], "--network", "resnet-20", "--data", "pictures"),
    (*BASES["fit"][0], "--network", "vgg-16-bn", "--data", "pictures"),
    (*BASES["fit"][0], "--data", "mnist", "--data-root", "nowhere"),
    (*BASES["fit"][0], "--data", "cifar10", "--data-root", "a.txt"),
    (*BASES["fit"][0], "--data", "numbers.npz", "--likelihood", "categorical"),
    (*BASES["fit"][0], "--data", "numbers.npz", "--likelihood", "poisson"),
    (*BASES["fit"][0], "--data", "numbers.npz", "--likelihood", "bernoulli"),
    (*BASES["fit"][0], "--likelihood", "poisson"),
    (*BASES["fit"][0], "--likelihood", "bernoulli"),
    (*BASES["fit"][0], "--on", "fc1.weight", "--on", "*.weight"),
    (*BASES["fit"][0], "--on", "*.bias", "--on", "nothing.*"),
    (*BASES["fit"][0], "--on", "[", "--on", "*"),
    (*BASES["fit"][0], "--prior", "unit-gates", "--set", "kappa=0.01", "--guide", "paired"),
    (*BASES["fit"][0], "--prior", "unit-gates", "--set", "kappa=0.01", "--on", "*"),
    (*BASES["fit"][0], "--gating", "travel=0.5"),
    (*BASES["fit"][0], "--recipe", "rigl"),
    (*BASES["fit"][0], "--recipe", "rigl", "--budget", "macs=0.5"),
    (*BASES["fit"][0], "--recipe-set", "every=3"),
    (*RECIPE, "--gating", "travel=0.5"),
    (*RECIPE, "--epochs", "0"),
    (*RECIPE, "--tune", "kl_weight"),
    (*RECIPE, "--prior", "unit-gates"),
    (*RECIPE, "--guide", "paired"),
    (*RECIPE, "--on", "*.bias"),
    (*RECIPE, "--recipe", "east"),
    (*RECIPE, "--recipe", "cyclic", "--recipe-set", "ends=2"),
    (*RECIPE, "--recipe", "synflow", "--restarts", "2"),
    ("prune", "halo", "--out", "out"),
    ("prune", "spike", "--per", "layer", "--out", "out"),
    (*BASES["fit"][0], "--learning-rate", "1e10"),
    (*BASES["fit"][0], "--learning-rate", "1e30", "--optimizer", "sgd"),
    (*BASES["fit"][0], "--batch-size", "1"),
    (*BASES["fit"][0], "--device", "cuda", "--precision", "float64"),
    (*BASES["fit"][0], "--device", "meta", "--epochs", "2"),
    (*BASES["fit"][0], "--out", "spike"),
    (*BASES["fit"][0], "--out", "killed.part"),
    (*BASES["fit"][0], "--out", "a.txt/x/y"),
    (*BASES["fit"][0], "--out", "/proc/x"),
    (*BASES["fit"][0], "--out", "/dev/null/x"),
    (*BASES["fit"][0], "--out", "n" * 255),
    (*BASES["path"][0], "--values", "3,3"),
    (*BASES["path"][0], "--values", "9,3,x"),
    (*BASES["path"][0], "--values", ",,,"),
    (*BASES["path"][0], "--values", "nan,inf"),
    (*BASES["path"][0], "--values", "1e400"),
    (*BASES["path"][0], "--values", ",".join(["3"] * 100_000)),
    (*BASES["path"][0], "--values", "3," + "9" * 5000),
    (*BASES["path"][0], "--sparsities", "0.5,2"),
    (*BASES["path"][0], "--sparsities", "-0.1"),
    (*BASES["path"][0], "--sparsities", "nan"),
    (*BASES["path"][0], "--knob", "nothing"),
    (*BASES["path"][0], "--knob", "kappa", "--set", "kappa=3"),
    (*BASES["path"][0], "--prior", "unit-gates"),
    (*BASES["path"][0], "--prior", "horseshoe", "--knob", "halfcauchy"),
    (*BASES["path"][0], "--prior", "spike-and-slab", "--knob", "level", "--values", "1,2"),
    (*BASES["path"][0], "--out", "path"),
    (*BASES["path"][0], "--out", "spike"),
    (*BASES["path"][0], "--epochs", "1000000000000", "--values", "x"),
    (*BASES["prune"][0], "--sparsity", "0.5", "--min-inclusion", "0.5"),
    (*BASES["prune"][0], "--sparsity", "0.5", "--min-score", "0.5", "--criterion", "magnitude"),
    (*BASES["prune"][0], "--budget", "density=0.5"),
    (*BASES["prune"][1], "--budget", "density=0.5"),
    *((*BASES["fit"][0], "--budget", one) for one in BUDGETS),
    *(("prune", "spike", "--out", "out", "--budget", one) for one in BUDGETS),
    (*BASES["prune"][0], "--value", "0.3"),
    (*BASES["prune"][0], "--round-to", "4"),
    (*BASES["prune"][0], "--onnx", "x.onnx"),
    (*BASES["prune"][2], "--round-to", "0"),
    (*BASES["prune"][2], "--round-to", HUGE),
    (*BASES["prune"][2], "--onnx", "x.txt"),
    (*BASES["prune"][2], "--onnx", "nowhere/x.onnx"),
    (*BASES["prune"][2], "--onnx", "/proc/x.onnx"),
    (*BASES["prune"][1], "--value", "0.3", "--min-accuracy", "0.99"),
    (*BASES["prune"][1], "--criterion", "magnitude"),
    (*BASES["prune"][1], "--restart", "7"),
    ("prune", "halo", "--min-inclusion", "0.5", "--out", "out"),
    ("prune", "halo", "--sparsity", "0.5", "--criterion", "dropout-rate", "--out", "out"),
    ("prune", "halo", "--min-score", "nan", "--criterion", "magnitude", "--out", "out"),
    ("prune", "halo", "--min-score", "0.5", "--out", "out"),
    ("prune", "gates", "--sparsity", "0.01", "--out", "out"),
    ("predict", "halo", "--draws", "0", "--input", "inputs.npy", "--out", "out.npz"),
    ("predict", "halo", "--restart", "2", "--input", "inputs.npy", "--out", "out.npz"),
    ("predict", "pruned", "--draws", "2", "--input", "inputs.npy", "--out", "out.npz"),
    ("predict", "spike", "--input", "inputs.npy", "--out", "inputs.npy"),
    ("predict", "spike", "--input", "inputs.npy", "--out", "spike.npz/x.npz"),
    ("predict", "spike", "--input", "labels.npz", "--out", "out.npz"),
    ("predict", "spike", "--raw", "--data-root", "nowhere", "--input", "inputs.npy", "--out", "out.npz"),
)
"""Options that are wrong together, or dear."""

SETTINGS = (
    "abc", "", "null", "true", "[]", "[1,2]", "{}", '{"a":1}', "-1", "0", "NaN", "Infinity", "-Infinity", "1e309",
    HUGE, f"-{HUGE}", "9" * 5000, "1e-320", "0.5", "2", '"1"', "[" * 100_000, "\x1b[31m", "é", "long" * 2000, "[null]",
    "[1,[2]]", "1e30",
)  # fmt: skip
"""Values of a setting of a prior, or of --gating."""

NEEDED = {"unit-gates": {"kappa": "0.01"}}
"""What a prior has to be given; one setting may stand in the place of another."""


def option_lines() -> Iterator[tuple[str, ...]]:
    """Each option and argument of each command with each of the values."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, bases in BASES.items():
        for number, option in enumerate(commands[name].params):
            for place, value in enumerate(TEXTS):
                if option.name in ENDLESS and value in LARGE:
                    continue
                base = bases[(number + place) % len(bases)]
                if getattr(option, "is_flag", False):
                    continue
                if option.opts[0].startswith("-"):
                    yield (*base, f"{option.opts[0]}={value}")
                elif option.nargs == 1:
                    yield (base[0], *base[2:], "--", value)
                else:
                    yield (*base, "--", value)


def flag_lines() -> Iterator[tuple[str, ...]]:
    """Each flag of each command: given, given twice, and with a value."""
    commands = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]
    for name, bases in BASES.items():
        for option in commands[name].params:
            if getattr(option, "is_flag", False) and "latency" not in option.name:  # which measures for seconds
                flag = option.opts[0]
                yield from ((*bases[0], flag), (*bases[0], flag, flag), (*bases[0], f"{flag}=1"))
            elif getattr(option, "is_flag", False):
                yield (*bases[0], f"{option.opts[0]}=1")


def setting_lines() -> Iterator[tuple[str, ...]]:
    """Each setting of each prior, of --gating, and of each recipe, with each of the values."""
    fit = BASES["fit"][0]
    for name, entry in PRIORS.items():
        needed = {key: "1" for key, value in entry.settings.items() if value is inspect.Parameter.empty}
        for key in (*entry.settings, "nothing"):
            for value in SETTINGS:
                given = {**(needed or NEEDED.get(name, {})), key: value}
                if name == "unit-gates" and key in ("log_gamma", "cost", "probability", "beta"):
                    del given["kappa"]
                yield (*fit, "--prior", name, *_pairs("--set", given))
    gates = (*fit, "--prior", "unit-gates", "--set", "kappa=0.01")
    for key in (*(one.name for one in fields(Gating)), "nothing"):
        for value in SETTINGS:
            yield (*gates, *_pairs("--gating", {key: value}))
    for name, recipe in RECIPES.items():
        for key in (*recipe.own, *(("share", "every", "start", "nothing") if name == "rigl" else ())):
            for value in SETTINGS:
                yield (*RECIPE, "--recipe", name, *_pairs("--recipe-set", {key: value}))
    for pair in ("", "=", "=1", "kappa", "a=b=c", "slab_sd=1 2", "slab_sd==1", "SLAB_SD=1", " slab_sd=1", "x" * 5000):
        yield (*fit, "--set", pair)
        yield (*gates, "--gating", pair)
        yield (*RECIPE, "--recipe-set", pair)


def _pairs(option: str, given: dict[str, Any]) -> list[str]:
    return [part for key, value in given.items() for part in (option, f"{key}={value}")]
