"""Mistakes on purpose: whether the quick tests kill what they ought to kill.

    python -m tests.mutations                all, each with the tests of its wing; those that survive, with all tests
    python -m tests.mutations 3 17           some of them
    python -m tests.mutations --list         what they are, and whether each text is found once; runs nothing

Each is one plausible mistake: a sign, an off-by-one, a dropped term, a wrong default, a swapped branch. It is made in a
copy of the last commit, so that the checkout stays as it is. The text is searched for in the whole package, wherever
its file stands by now, and has to be there once.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLOORS = ("models", "inference", "analysis", "bayesprune")
LIMIT = 1800
"""Seconds that a run of the tests may take; a mistake that makes them hang is killed as well."""


@dataclass(frozen=True)
class Mutation:
    """One mistake.

    Attributes:
        name: What is wrong, for people.
        old: A text of the package.
        new: What takes its place.
        tests: Where the tests of the wing are, apart by spaces.
    """

    name: str
    old: str
    new: str
    tests: str


MUTATIONS = [
    # -- models
    Mutation(
        "the log odds of the slab have the scales the wrong way round",
        "torch.logit(self.density) + self.spike_sd.log() - self.slab_sd.log()",
        "torch.logit(self.density) - self.spike_sd.log() + self.slab_sd.log()",
        "tests/models/distributions tests/models/priors",
    ),
    Mutation(
        "the concave penalty is twice as curved",
        "size * (0.5 / self.gamma * size - self.lam)",
        "size * (1.0 / self.gamma * size - self.lam)",
        "tests/models/priors",
    ),
    Mutation(
        "HALO's kappa is by the quantile of another Gamma",
        "gamma.isf(density, a=3.0)",
        "gamma.isf(density, a=2.0)",
        "tests/models/priors",
    ),
    Mutation(
        "the horseshoe's default scale is not by the odds",
        "expected_density / (1.0 - expected_density) / math.sqrt(fan_in)",
        "expected_density / math.sqrt(fan_in)",
        "tests/models/priors",
    ),
    Mutation(
        "the slab of the regularised horseshoe bounds by the scale, not its square",
        "(c2 / (c2 + scale.square())).sqrt()",
        "(c2 / (c2 + scale)).sqrt()",
        "tests/models/priors",
    ),
    Mutation(
        "the probability of an open hard concrete gate has its shift the wrong way",
        "return log_alpha - TEMPERATURE * math.log(-LOWER / UPPER)",
        "return log_alpha + TEMPERATURE * math.log(-LOWER / UPPER)",
        "tests/models/priors tests/inference/terms tests/inference/training/test_noise_fits.py",
    ),
    Mutation(
        "the Gamma of SWS lacks the one that keeps its scale off zero",
        "dist.Gamma(size + 1.0, psi(size))",
        "dist.Gamma(size + 0.0, psi(size))",
        "tests/models/priors",
    ),
    Mutation(
        "a fan-in is the number of outputs",
        '"fan_in": size // shape[0] if len(shape) > 1 else 1',
        '"fan_in": size // shape[1] if len(shape) > 1 else 1',
        "tests/models/language tests/models/priors",
    ),
    Mutation(
        "the distribution function of counts is off by one",
        "torch.special.gammaincc(count.clamp_min(0.0) + 1.0, self.rate)",
        "torch.special.gammaincc(count.clamp_min(0.0), self.rate)",
        "tests/models/likelihoods tests/inference/predictions",
    ),
    Mutation(
        "multiply-accumulates are counted as two",
        "halves = 2 * _batch_size(inputs)",
        "halves = _batch_size(inputs)",
        "tests/models/costs",
    ),
    Mutation(
        "a unit lives only if all that read it do",
        "(read & found.live[row]).any(dim=1)",
        "(read & found.live[row]).all(dim=1)",
        "tests/models/units tests/models/test_unit_removal.py",
    ),
    Mutation(
        "a folded constant is taken off the bias",
        "bias.copy_((bias.double().cpu() + shift).to(bias))",
        "bias.copy_((bias.double().cpu() - shift).to(bias))",
        "tests/models/units tests/models/test_unit_removal.py",
    ),
    # -- inference
    Mutation(
        "the divergence of two Normals lacks its constant",
        "0.5 * (precision * squares - 1.0)",
        "0.5 * (precision * squares)",
        "tests/inference/terms tests/models/priors/test_laws.py",
    ),
    Mutation(
        "the log-likelihood is that of the batch, not of all data",
        "nll({}).sum() * (data_size / batch)",
        "nll({}).sum()",
        "tests/inference/objective",
    ),
    Mutation(
        "the KL weight is left out",
        "loss = (kl if untempered else kl_weight * kl) - log_likelihood",
        "loss = kl - log_likelihood",
        "tests/inference/objective",
    ),
    Mutation(
        "opposite noise of gates is counted twice",
        "return 0.5 * (up + down)",
        "return up + down",
        "tests/inference/objective tests/models/language",
    ),
    Mutation(
        "the score function's baseline is biased",
        "advantage = (detached - detached.mean()) * (self.particles / (self.particles - 1))",
        "advantage = detached - detached.mean()",
        "tests/inference/objective",
    ),
    Mutation(
        "a toggled gate has its effect with the wrong sign",
        "effects = (1.0 - 2.0 * open_before) *",
        "effects = (2.0 * open_before - 1.0) *",
        "tests/inference/objective",
    ),
    Mutation(
        "the trapezoid rule adds its two ends instead of averaging them",
        "0.5 * (gate / held + (1.0 - gate) / (1.0 - held))",
        "(gate / held + (1.0 - gate) / (1.0 - held))",
        "tests/inference/objective",
    ),
    Mutation(
        "Adam in the graph corrects its second moment the wrong way",
        "float((1.0 - beta2**step) ** -0.5)",
        "float((1.0 - beta2**step) ** 0.5)",
        "tests/inference/execution",
    ),
    Mutation(
        "the cosine schedule rises",
        "0.5 * (1.0 + math.cos(math.pi * min(progress, 1.0)))",
        "0.5 * (1.0 - math.cos(math.pi * min(progress, 1.0)))",
        "tests/inference/rules",
    ),
    Mutation(
        "a learning rate falls one step after its milestone",
        "sum(progress >= milestone for milestone in milestones)",
        "sum(progress > milestone for milestone in milestones)",
        "tests/inference/rules tests/inference/data/test_batches.py",
    ),
    Mutation(
        "the last, smaller batch is not counted",
        "return -(-len(self.tensors[0]) // self.batch_size)",
        "return len(self.tensors[0]) // self.batch_size",
        "tests/inference/data",
    ),
    Mutation(
        "the negative log-likelihood is a sum",
        ".clamp(min=smallest).log().mean())",
        ".clamp(min=smallest).log().sum())",
        "tests/inference/predictions",
    ),
    Mutation(
        "the signal to noise ratio is a product",
        "weights.mean(dim=0).abs() / weights.std(dim=0)",
        "weights.mean(dim=0).abs() * weights.std(dim=0)",
        "tests/inference/pruning",
    ),
    Mutation(
        "the dropout rate keeps what is noisy",
        "2.0 * (size.log() - factor.log_scale)",
        "2.0 * (size.log() + factor.log_scale)",
        "tests/inference/pruning tests/inference/training/test_noise_fits.py",
    ),
    Mutation(
        "a resumed fit says that it went on one epoch earlier",
        'self._kept["counts"]["epoch"] + 1',
        'self._kept["counts"]["epoch"]',
        "tests/inference/training/test_checkpoint.py tests/bayesprune/commands/test_resume.py",
    ),
    Mutation(
        "the first fit of a path is no longer than the others",
        "first_epochs = 3 * epochs if first_epochs is None else first_epochs",
        "first_epochs = epochs if first_epochs is None else first_epochs",
        "tests/inference/sparsity_path",
    ),
    Mutation(
        "of a path the networks below an accuracy are allowed",
        "allowed &= scores >= min_accuracy",
        "allowed &= scores <= min_accuracy",
        "tests/inference/sparsity_path",
    ),
    Mutation(
        "of a path no network of exactly the asked sparsity is allowed",
        'self.table["nonzero"] <= weights - (sparsity * weights).round()',
        'self.table["nonzero"] < weights - (sparsity * weights).round()',
        "tests/inference/sparsity_path",
    ),
    Mutation(
        "an exchange of weights keeps those of the lowest scores",
        "stay = kept(mask, drop[name], counts[name] - comes[name], temperature)",
        "stay = kept(mask, -drop[name], counts[name] - comes[name], temperature)",
        "tests/inference/masks",
    ),
    Mutation(
        "weights come among those that were kept as well",
        "return mask | kept(~mask, scores, count, temperature)",
        "return mask | kept(torch.ones_like(mask), scores, count, temperature)",
        "tests/inference/masks",
    ),
    Mutation(
        "the momentum of what goes or comes is not cleared",
        "held.piece.of(state).mul_(both)",
        "held.piece.of(state)",
        "tests/inference/masks",
    ),
    Mutation(
        "the mask of a unit is repeated row by row over its gates",
        "mask.repeat(gates, 1)",
        "mask.repeat_interleave(gates, 0)",
        "tests/models/structure",
    ),
    Mutation(
        "the spread of a tensor is over the weights that are gone, too",
        "of[name].to(score.device)[there].double()",
        "of[name].to(score.device).flatten().double()",
        "tests/inference/pruning",
    ),
    Mutation(
        "the hash of a genome does not tell edges from a vertex from those to it",
        'colours[vertex],\n                    "from", *sorted(colours[one] for one in graph.inputs[vertex]),',
        "colours[vertex],",
        "tests/models/genomes",
    ),
    # -- analysis
    Mutation(
        "the rows that are predicted are among those that a regressor is fitted on",
        "model = fitted(make(), features[kept][:, columns], scores[kept])",
        "model = fitted(make(), features[:, columns], scores)",
        "tests/analysis/structure",
    ),
    Mutation(
        "the largest reliable tail index is by the natural logarithm",
        "1.0 - 1.0 / math.log10(draws)",
        "1.0 - 1.0 / math.log(draws)",
        "tests/analysis/diagnostics",
    ),
    Mutation(
        "the table's total of root mean squares adds roots",
        'row["rms"] ** 2 * n for row',
        'row["rms"] * n for row',
        "tests/analysis/tables",
    ),
    # -- bayesprune
    Mutation(
        "holding out may empty a class",
        "np.where(give < sizes - 1, quota - give, -1.0)",
        "np.where(give < sizes, quota - give, -1.0)",
        "tests/bayesprune/data",
    ),
    Mutation(
        "the name of a module is taken for a path",
        'if colon and place.endswith(".py") else reference',
        "if colon else reference",
        "tests/bayesprune/runs tests/attacks/test_code_execution.py",
    ),
    Mutation(
        "control characters reach the terminal",
        "found[0] if found[0] in keep else _written_out(found[0])",
        "found[0]",
        "tests/attacks/test_terminal_escapes.py tests/bayesprune/commands",
    ),
]


class NotFoundError(Exception):
    """A text that is not in the package exactly once."""


def home_of(mutation: Mutation, root: Path) -> Path:
    """The one file of the package that holds the text; links are not followed.

    Raises:
        NotFoundError: If it is in none, in several, or several times in one.
    """
    found: list[Path] = []
    for floor in FLOORS:
        for folder, _, names in os.walk(root / floor):
            files = [Path(folder, name) for name in sorted(names) if name.endswith(".py")]
            found += [file for file in files for _ in range(file.read_text().count(mutation.old))]
    if len(found) != 1:
        places = ", ".join(str(file.relative_to(root)) for file in found) or "nowhere"
        raise NotFoundError(
            f"{mutation.name}: {mutation.old!r} has to be in the package once, and is in: {places}; "
            "write it as it stands now in tests/mutations.py"
        )
    return found[0]


def verdict(tests: list[str], root: Path, processes: int) -> tuple[str, str]:
    """Runs quick tests in a copy: ``"killed"``, ``"survived"`` or ``"broken"``, and the line that says why."""
    options = ["-x", "-q", "-p", "no:cacheprovider", "-n", str(processes), "--dist", "worksteal"]
    # Compiled modules are not kept: a change of the same length within a second would be overlooked.
    more = {"PYTHONPATH": str(root), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "pytest", *options, *tests],
            cwd=root, env={**os.environ, **more}, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        return "killed", f"by the limit of {LIMIT} s"
    lines = done.stdout.splitlines() or [""]
    if done.returncode == 0:
        return "survived", lines[-1]
    reasons = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
    # A mistake that keeps test files from being imported is seen too: pytest then ends with 2.
    return ("killed" if done.returncode in (1, 2) else "broken"), (reasons or lines[-1:])[0]


def tried(mutation: Mutation, root: Path, processes: int, wing_only: bool) -> tuple[str, str]:
    """Makes the mistake in a copy, runs the tests, and takes it back."""
    file = home_of(mutation, root)
    before = file.read_text()
    file.write_text(before.replace(mutation.old, mutation.new))
    try:
        found = verdict(mutation.tests.split(), root, processes)
        if found[0] == "survived" and not wing_only:
            found = verdict([], root, processes)
            found = (found[0], f"{found[1]} (not by the tests of its wing)") if found[0] == "killed" else found
        return found
    finally:
        file.write_text(before)


def dirty() -> str:
    """What git sees that is not committed."""
    asked = ["git", "status", "--porcelain"]
    return subprocess.run(asked, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def copied(place: Path) -> Path:
    """A copy of the last commit, links and all."""
    archive = place / "commit.tar"
    subprocess.run(["git", "archive", "--output", str(archive), "HEAD"], cwd=ROOT, check=True)
    root = place / "copy"
    shutil.unpack_archive(archive, root, "tar", filter="tar")
    return root


def main() -> int:
    """Returns the number of mistakes that survive, or that could not be tried."""
    parser = argparse.ArgumentParser(prog="python -m tests.mutations", description="Mistakes on purpose.")
    parser.add_argument("numbers", nargs="*", type=int, help="which ones; default all")
    parser.add_argument("--list", action="store_true", help="say what they are, and run nothing")
    parser.add_argument("--processes", type=int, default=2, help="processes of the tests; default 2")
    parser.add_argument("--wing-only", action="store_true", help="only the tests of the wing, not all after them")
    given = parser.parse_args()
    numbers = given.numbers or list(range(len(MUTATIONS)))
    homes = [home_of(MUTATIONS[number], ROOT) for number in numbers]  # all of them, before the first run
    if given.list:
        for number, home in zip(numbers, homes, strict=True):
            print(f"{number:3d}  {MUTATIONS[number].name}   ({home.relative_to(ROOT)})")
        return 0
    if dirty():
        print("the checkout has changes that are not committed: commit or stash them first", file=sys.stderr)
        return 1
    left = 0
    with tempfile.TemporaryDirectory() as place:
        root = copied(Path(place))
        for number in numbers:
            began = time.perf_counter()
            found, why = tried(MUTATIONS[number], root, given.processes, given.wing_only)
            left += found != "killed"
            seconds = time.perf_counter() - began
            print(f"{number:3d}  {found:8s} {seconds:5.0f} s  {MUTATIONS[number].name}\n       {why}", flush=True)
    print(f"{len(numbers) - left} of {len(numbers)} killed")
    return left


if __name__ == "__main__":
    sys.exit(main())
