"""The attacks, each with a number: the same number is the same attack, as long as this folder stays as it is."""

from __future__ import annotations

import json
import os
import random
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from bayesprune.cli import app as cli
from bayesprune.cli import exits
from tests.attacks import binary_mutations, json_mutations, option_mutations
from tests.attacks.targets import FIT, INTERRUPTED, go_on
from tests.attacks.verdict import LIMIT, SENTINEL, Outcome, complaints, run_under_alarm

__all__ = ["Attack", "all_attacks", "attack"]

SEED = 13
Command = tuple[str, ...]
Harm = Callable[[Path], object]

_INPUT = ("--input", "inputs.npy", "--out", "out.npz")
_PRUNE = ("--sparsity", "0.5", "--quiet", "--out", "out")
_LABELS = (*FIT, "--prior", "spike-and-slab", "--epochs", "1", "--out", "out")
_GENOME = ("--prior", "gaussian", "--epochs", "1", "--quiet", "--out", "out")
_HALO = (*FIT, "--prior", "halo", "--epochs", "1", "--out", "out")

READ: dict[str, list[Command]] = {
    "spike": [
        ("show", "spike"), ("prune", "spike", *_PRUNE), ("predict", "spike", *_INPUT), ("compare", "spike"),
        ("predict", "spike", "--raw", *_INPUT), ("python", "load_fit"),
        ("refit", "spike", "--gates", "0.4", "--epochs", "1", "--quiet", "--out", "out"),
    ],
    "gates": [
        ("show", "gates"), ("prune", "gates", "--min-inclusion", "0.5", "--quiet", "--out", "out"),
        ("prune", "gates", "--min-inclusion", "0.5", "--compact", "--quiet", "--out", "out"), ("compare", "gates"),
        ("predict", "gates", *_INPUT),
    ],
    "halo": [("show", "halo"), ("compare", "halo", "spike"), ("predict", "halo", "--restart", "1", *_INPUT)],
    "horseshoe": [("show", "horseshoe"), ("prune", "horseshoe", *_PRUNE)],
    "numbers": [("show", "numbers"), ("predict", "numbers", "--raw", *_INPUT)],
    "pruned": [
        ("predict", "pruned", *_INPUT), ("predict", "pruned", "--raw", *_INPUT),
        ("refit", "spike", "--gates", "pruned", "--epochs", "1", "--quiet", "--out", "out"),
    ],
    "linear": [("reference", "linear", "--draws", "20", "--quiet", "--out", "out")],
    "compact": [("predict", "compact", *_INPUT), ("predict", "compact", "--raw", *_INPUT)],
    "path": [
        ("prune", "path", "--sparsity", "0.1", "--quiet", "--out", "out"),
        ("prune", "path", "--value", "0.1", "--quiet", "--out", "out"),
        ("path", "--data", "{targets}/labels.npz", *FIT, "--epochs", "2", "--prior", "spike-and-slab", "--knob",
         "expected_density", "--values", "0.3,0.1", "--restarts", "1", "--sparsities", "0.3,0.8", "--out", "path"),
    ],
    "search": [
        ("show", "search"),
        ("search", "--data", "{targets}/labels.npz", "--trainings", "5", "--population", "3", "--epochs", "1",
         "--widths", "4", "--quiet", "--out", "search"),
        ("fit", "--data", "labels.npz", "--network", "genome", "--network-set", "genome=search", *_GENOME),
    ],
    "sweep": [
        ("show", "sweep"), ("show", "sweep", "--plots"),
        ("sweep", "--data", "{targets}/labels.npz", *FIT, "--epochs", "1", "--prior", "spike-and-slab", "--set",
         "set.expected_density=0.3,0.6", "--out", "sweep"),
    ],
    "by-layer": [
        ("prune", "spike", "--budget", "by-layer/uniform.json", "--quiet", "--out", "out"),
        ("fit", "--data", "labels.npz", *_HALO, "--budget", "by-layer/uniform.json"),
    ],
    "table": [
        ("prune", "spike", "--budget", "table/uniform.csv", "--quiet", "--out", "out"),
        ("fit", "--data", "labels.npz", *_HALO, "--budget", "table/uniform.csv"),
    ],
    "checkpoint": [("python", "go_on")],
    "killed.part": [
        ("show", "killed"), ("show", "killed", "--plots"),
        ("fit", "--data", "{targets}/labels.npz", *INTERRUPTED, "--out", "killed"),
        ("fit", "--data", "labels.npz", *FIT, "--prior", "gaussian", "--epochs", "1", "--out", "killed"),
    ],
}  # fmt: skip
"""What reads the files of a folder."""

QUOTAS = {
    "spike/summary.json": 220, "spike/fit.json": 120, "gates/summary.json": 110, "gates/fit.json": 110,
    "halo/summary.json": 40, "numbers/summary.json": 40, "horseshoe/fit.json": 30, "pruned/summary.json": 70,
    "compact/summary.json": 80, "compact/plan.json": 70, "path/path.json": 120, "path/point-000/fit.json": 40,
    "search/search.json": 60, "sweep/sweep.json": 60, "killed.part/progress.json": 60, "killed.part/command.json": 60,
}  # fmt: skip
"""How many values are replaced in a JSON file; 30 in one that is not named."""
QUOTA = 30
NOT_READ = (
    "arviz.nc", "front.png", "network.py", "compact/masks.safetensors", "compact/weights.safetensors", "/lock",
    "/budget.json", "search.png", "/front.json",
)  # fmt: skip
"""Ends of names of files that are written for others; no command reads them."""
ALIKE = ("halo/", "horseshoe/", "numbers/", "linear/", "path/point-001")
"""Where these begin a file's name, it is of the same form as another: it gets a third of the kinds."""
OWN_CODE = ("evil:f", "evil.py:f", "subprocess:call")
"""Code that is run where the command line itself names it."""
BESIDE = ("labels.npz", "numbers.npz", "inputs.npy", "evil.py", "a.txt")
"""What every sandbox has."""


@dataclass(frozen=True)
class Attack:
    """One of them.

    Attributes:
        name: What is done, for people.
        command: The command line, or ``("python", name)`` of a function below.
        needs: What of the targets lies in the sandbox.
        harm: What is done to it; its argument is the sandbox.
        refuse: Whether the command must not succeed.
    """

    name: str
    command: Command
    needs: tuple[str, ...] = ()
    harm: Harm | None = None
    refuse: bool = False

    def run(self, targets: Path, sandbox: Path, limit: float = LIMIT) -> tuple[Outcome, list[str]]:
        """Carries it out in an empty folder; returns what happened, and what is wrong with it."""
        for name in dict.fromkeys((*BESIDE, *self.needs)):
            source, place = targets / name, sandbox / name
            place.parent.mkdir(parents=True, exist_ok=True)
            if source.is_dir():
                shutil.copytree(source, place)
            else:
                shutil.copy(source, place)
        os.mkfifo(sandbox / "pipe")
        (sandbox / "dangling").symlink_to("nothing-there")
        (sandbox / "loop").symlink_to("loop")
        if self.harm is not None:
            self.harm(sandbox)
        if self.command[:1] == ("python",):
            function = FROM_PYTHON[self.command[1]]
            found = run_under_alarm(lambda: _as_a_command(function), sandbox, limit)
        else:
            line = [part.replace("{targets}", str(targets)) for part in self.command]  # what a folder was made of
            found = run_under_alarm(lambda: cli.run(line), sandbox, limit)
        if any(part.split("=")[-1] in OWN_CODE for part in self.command):  # it may run, and fail
            sys.modules.pop("evil", None)  # the tests that come after look whether anybody else imports it
            own = (SENTINEL, "__pycache__")  # what Python writes beside a module that it is told to import
            left = tuple(name for name in found.left if name.split("/")[0] not in own)
            found = replace(found, executed=False, left=left)
            return found, complaints(found, own_code=True, may_stay=self._may_stay())
        return found, complaints(found, may_stay=self._may_stay(), refuse=self.refuse)

    def _may_stay(self) -> tuple[str, ...]:
        """What is gone on with later, and plots that were drawn before another could not be."""
        may = {part.rstrip("/") for part in self.command if part in ("killed", "path", "search", "sweep")}
        if self.command[:1] in (("path",), ("search",), ("sweep",)):
            may |= {"out", *(part.removeprefix("--out=").split("/")[0] for part in self.command)}
        return (*may, *(f"{name}.part" for name in (*may, "out")), "checkpoint", "spike")


def _as_a_command(function: Callable[[], int]) -> int:
    """Runs a function of the library, with errors as the command line reports them."""
    try:
        return function()
    except Exception as problem:
        return cli._fail(exits.sentence(problem), exits.exit_code(problem), problem, False)


def _load_fit() -> int:
    from bayesprune.inference.fit_result import Fit

    Fit.load("spike").summary()
    return 0


FROM_PYTHON = {"go_on": go_on, "load_fit": _load_fit}


def attack(number: int, targets: Path) -> Attack:
    """The attack of that number."""
    return all_attacks(targets)[number]


def all_attacks(targets: Path) -> list[Attack]:
    """All of them, in order; what depends on the moment at which a fit was killed comes last."""
    return [
        *_wrong_options(), *_wrong_data(targets), *_wrong_documents(targets), *_wrong_binaries(targets),
        *_wrong_places(targets),
    ]  # fmt: skip


def _wrong_options() -> Iterator[Attack]:
    rng = random.Random(SEED)
    lines = list(option_mutations.LINES) + list(option_mutations.TOGETHER)
    # A share of the options with each value, and of the settings: each option and each value comes.
    lines += option_mutations.flag_lines()
    lines += _share(list(option_mutations.option_lines()), 5, rng)
    lines += _share(list(option_mutations.setting_lines()), 7, rng)
    for line in lines:
        name = " ".join(part if len(part) < 60 else f"{part[:25]}...({len(part)})" for part in line)
        yield Attack(f"options: {name!r}", line, _named_in(line))


def _share(lines: list[Command], parts: int, rng: random.Random) -> list[Command]:
    return [rng.choice(lines[start : start + parts]) for start in range(0, len(lines), parts)]


def _named_in(line: Command) -> tuple[str, ...]:
    """Targets that a command line names."""
    known = ("spike", "halo", "gates", "pruned", "compact", "path", "search", "sweep", "killed.part", "pictures",
             "named", "weights.safetensors", "weights.pth")  # fmt: skip
    named = [name for name in known if name in line or f"{name.removesuffix('.part')}" in line]
    # A command of that name names no folder by itself.
    return tuple(one for one in named if line[:1] != (one,) or one in line[1:] or any(f"={one}" in p for p in line))


def _wrong_data(targets: Path) -> Iterator[Attack]:
    """Files of data, of inputs and of weights."""
    files: list[tuple[str, str, dict[str, binary_mutations.Harm], list[Command]]] = [
        ("labels.npz", "labels.npz", binary_mutations.NPZ, [("fit", "--data", "labels.npz", *_LABELS)]),
        ("numbers.npz", "numbers.npz", binary_mutations.NPZ,
         [("fit", "--data", "numbers.npz", *FIT, "--prior", "gaussian", "--epochs", "1", "--out", "out")]),
        ("inputs.npy", "inputs.npy", binary_mutations.NPY,
         [("predict", "pruned", *_INPUT), ("predict", "pruned", "--raw", *_INPUT)]),
        ("weights.safetensors", "weights.safetensors", binary_mutations.TENSORS,
         [("fit", "--data", "labels.npz", "--weights", "weights.safetensors", *_LABELS)]),
        ("weights.pth", "weights.pth", {}, [("fit", "--data", "labels.npz", "--weights", "weights.pth", *_LABELS)]),
        ("pictures", "pictures/b/3.png", {}, [("fit", "--data", "pictures", *_LABELS)]),
        ("named", "named/MNIST/raw/t10k-images-idx3-ubyte.gz", {},
         [("fit", "--data", "mnist", "--data-root", "named", *_LABELS)]),
        ("named", "named/MNIST/raw/train-labels-idx1-ubyte", {},
         [("fit", "--data", "mnist", "--data-root", "named", *_LABELS), ("data", "--data-root", "named")]),
        ("named", "named/MNIST/raw/t10k-labels-idx1-ubyte", {}, [("data", "--data-root", "named")]),
    ]  # fmt: skip
    for need, file, own, commands in files:
        harms = {**own, **binary_mutations.BYTES, **binary_mutations.PLACES}
        for number, kind in enumerate(harms):
            command = commands[number % len(commands)]
            needs = (need, *(name for name in ("pruned",) if name in command))
            refuse = own is binary_mutations.TENSORS and kind in binary_mutations.REFUSED_TENSORS
            yield Attack(f"data: {file}: {kind}", command, needs, _harming(file, harms[kind], kind), refuse)
    for kind, harm in {**binary_mutations.NPZ, **binary_mutations.PLACES}.items():  # what a run was fitted to
        moved = _moved(_harming("x.npz", harm, kind))
        yield Attack(f"data of a run: {kind}", ("prune", "away", *_PRUNE), ("spike",), moved)
    for kind, harm in binary_mutations.PLACES.items():
        for data, place in (("pictures", "pictures/b"), ("pictures", "pictures"), ("mnist", "named/MNIST/raw")):
            command = ("fit", "--data", data, "--data-root", "named", *_LABELS)
            harmed = _harming(place, harm, kind)
            yield Attack(f"data: {place}: {kind}", command, ("pictures", "named"), harmed)


def _moved(harm: Harm) -> Harm:
    """A run whose data lie in the sandbox, as ``x.npz``."""

    def prepare(sandbox: Path) -> None:
        shutil.copy(sandbox / "labels.npz", sandbox / "x.npz")
        os.rename(sandbox / "spike", sandbox / "away")
        file = sandbox / "away" / "summary.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "data": str(sandbox / "x.npz")}))
        harm(sandbox)

    return prepare


def _files(targets: Path) -> list[str]:
    """The files of the folders in `READ`, in their order."""
    return [
        str(file.relative_to(targets))
        for folder in READ
        for file in sorted((targets / folder).rglob("*"))
        if file.is_file() and not str(file).endswith(NOT_READ)
    ]


def _kinds(file: str, kinds: Iterable[str]) -> list[tuple[int, str]]:
    """The kinds of harm that a file gets, numbered."""
    return list(enumerate(kinds))[sum(file.encode()) % 3 :: 3] if file.startswith(ALIKE) else list(enumerate(kinds))


def _needs(file: str, command: Command) -> tuple[str, ...]:
    return (file.split("/")[0], *(name for name in ("spike",) if name in command))


def _wrong_documents(targets: Path) -> Iterator[Attack]:
    for file in _files(targets):
        if not file.endswith(".json"):
            continue
        rng = random.Random(f"{SEED} {file}")
        text = (targets / file).read_text()
        commands = READ[file.split("/")[0]]
        places = list(json_mutations.paths(json.loads(text)))
        kinds = [json_mutations.DROP, *json_mutations.VALUES]
        chosen = [(places[n % len(places)], rng.choice(kinds)) for n in range(QUOTAS.get(file, QUOTA))]
        if len(places) > len(chosen):
            chosen = [(where, kind) for where, (_, kind) in zip(rng.sample(places, len(chosen)), chosen, strict=True)]
        for number, (where, kind) in enumerate(chosen):
            command = commands[(number + rng.randrange(2)) % len(commands)]
            yield Attack(
                f"{file}: {'.'.join(map(str, where))}: {kind}", command, _needs(file, command),
                lambda sandbox, f=file, w=where, k=kind: json_mutations.replace(sandbox / f, w, k),
            )  # fmt: skip
        for number, kind in _kinds(file, json_mutations.TEXTS):
            command = commands[number % len(commands)]
            yield Attack(f"{file}: {kind}", command, _needs(file, command), _respelt(file, kind))
    # Code that a document names, with arguments: the form with which a command was run.
    call = {"network": "subprocess:call", "input_shape": ["touch", "PWNED"], "outputs": -1, "width": 1.0}
    for folder, commands in READ.items():
        if (targets / folder / "summary.json").exists():
            for command in commands:
                yield Attack(
                    f"{folder}/summary.json: subprocess:call", command, _needs(folder, command),
                    lambda sandbox, f=folder: _updated(sandbox / f / "summary.json", call),
                )  # fmt: skip


def _updated(file: Path, more: dict[str, object]) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **more}))


def _respelt(file: str, kind: str) -> Harm:
    def harm(sandbox: Path) -> None:
        text = (sandbox / file).read_text()
        (sandbox / file).write_bytes(json_mutations.spoilt(kind, text, random.Random(f"{SEED} {file} {kind}")))

    return harm


def _harming(file: str, harm: binary_mutations.Harm, kind: str) -> Harm:
    return lambda sandbox: harm(sandbox / file, random.Random(f"{SEED} {file} {kind}"))


def _wrong_binaries(targets: Path) -> Iterator[Attack]:
    for file in _files(targets):
        if file.endswith(".json"):
            continue
        tensors = binary_mutations.TENSORS if file.endswith(".safetensors") else {}
        commands = READ[file.split("/")[0]]
        harms = {**tensors, **binary_mutations.BYTES}
        for number, kind in _kinds(file, harms):
            command = _reading(file, commands, number)
            read = not file.startswith("path/")  # of a path one fit is read
            refuse = kind in binary_mutations.REFUSED_TENSORS and read
            yield Attack(f"{file}: {kind}", command, _needs(file, command), _harming(file, harms[kind], kind), refuse)


def _reading(file: str, commands: list[Command], number: int) -> Command:
    """A command that reads this file: `compare` only summaries, a state of training the fit that goes on."""
    fitting = [command for command in commands if command[0] != "compare" or file.endswith("summary.json")]
    if "/state/" in file:
        fitting = [command for command in commands if command[0] == "fit"]
    if file.startswith("pruned/"):  # a refit reads masks, and all others weights
        fitting = [command for command in commands if (command[0] == "refit") == file.endswith("masks.safetensors")]
    return fitting[number % len(fitting)]


def _wrong_places(targets: Path) -> Iterator[Attack]:
    """Files and folders that are something else, or not there."""
    places = [*_files(targets), *READ]
    for file in places:
        for number, kind in _kinds(file, binary_mutations.PLACES):
            command = _reading(file, READ[file.split("/")[0]], number)
            harm = _harming(file, binary_mutations.PLACES[kind], kind)
            yield Attack(f"{file}: {kind}", command, _needs(file, command), harm)
