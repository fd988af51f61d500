"""Examples per second of one process and of several: plain DDP, the objective under DDP by hand, and `bp.fit`.

Three ways of training the same network on the same batches, each alone and in all processes:

* **plain**: the network without a prior, cross entropy, under torch's DistributedDataParallel;
* **by hand**: `bayesprune`'s objective in a loop of one's own, under DistributedDataParallel;
* **fit**: `bp.fit` in the plain execution, with `OneProcess` and with `FabricRuntime`.

A batch has the same size however many processes there are: each takes its share of it. All ways run by turns in the
same processes, pass by pass over the data; ratios are taken within turns. Where one is measured, the others wait.
Adam everywhere, one draw a step, every weight drawn (no local reparameterisation), random data: no accuracy is implied.

Bytes are those that all processes together have sent over the loopback device, divided by their number; what is
expected beside them is a ring's: 2 (W - 1) / W times the bytes of the gradient (and the least of all turns is taken,
because other programs may use the device too). Linux only. The exchange is that vector alone, summed over all processes
with nothing else going on: a step that waits for nothing else takes its share of the time of one process, and that.
What a fit does between two passes (the record, what processes agree on) is told apart from its steps.

    python -m benchmarks.many_processes
    python -m benchmarks.many_processes --networks lenet-300-100 --models halo --batches 512 --blocks 3

The first one takes about eight minutes on two cores. Results are kept in a ledger, so that a run that was broken off
goes on; `--fresh` measures anew.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, distributed, nn
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

import bayesprune as bp
from bayesprune.inference.rules.rule import never
from bayesprune.inference.training.optimizers import make_optimizer
from benchmarks.contenders import LOOPS, NETWORKS, Case, make_objective
from benchmarks.flat_network import Setup
from benchmarks.ledger import Ledger
from benchmarks.started import in_processes

WAYS = ("plain", "by hand", "fit")
MODELS = ("normal", "spike-and-slab", "halo")
Turn = Callable[[], tuple[float, int, float]]
LEAST_STEPS, MOST_STEPS = 6, 100
"""Steps of a pass over the data."""
RATE = 1e-3
BAR = 0.10
"""The overhead over plain DDP that is allowed."""


@dataclass(frozen=True)
class Trial:
    """What is measured in one set of processes.

    Attributes:
        network: One of `benchmarks.contenders.NETWORKS`.
        model: One of `benchmarks.contenders.LOOPS`.
        batch: Examples a step, of all processes together.
        processes: How many there are.
        ways: Of `WAYS`.
        blocks: Turns.
        pass_seconds: About how long a pass over the data takes the objective in one process.
        threads: PyTorch's threads in each process.
    """

    network: str
    model: str
    batch: int
    processes: int = 2
    ways: tuple[str, ...] = WAYS
    blocks: int = 5
    pass_seconds: float = 0.6
    threads: int = 1


@dataclass
class Place:
    """A process among those that share a batch.

    Attributes:
        rank: Its number.
        world: How many share the batch; 1: this one has all of it.
        order: What permutes the data; the same numbers in all processes.
    """

    rank: int = 0
    world: int = 1
    order: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def batches(self, x: Tensor, y: Tensor, size: int) -> Iterator[tuple[Tensor, Tensor]]:
        """This process's share of each batch of one pass."""
        for rows in torch.randperm(len(x), generator=self.order).split(size):
            mine = rows.tensor_split(self.world)[self.rank]
            yield x[mine], y[mine]


def make_trial_case(trial: Trial, steps: int) -> Case:
    """The network and the model of a trial, with random data of so many batches."""
    torch.manual_seed(0)
    build, shape = NETWORKS[trial.network]
    count = trial.batch * steps
    x, y = torch.rand(count, *shape), torch.randint(10, (count,))
    return Case(build(), trial.model, x, y, trial.network, Setup(data_size=count, learning_rate=RATE))


def loop(trial: Trial, case: Case, way: str, place: Place) -> Callable[[], float]:
    """A loop by hand; what it returns trains for a pass over the data and says how many seconds that took.

    Args:
        trial: What is measured.
        case: Its network, model and data.
        way: ``"plain"`` or ``"by hand"``.
        place: This process.
    """
    module: nn.Module
    if way == "plain":
        module = copy.deepcopy(case.network).train()
        optimizer: torch.optim.Optimizer = torch.optim.Adam(module.parameters(), lr=RATE, fused=True)
    else:
        module = make_objective(case)
        optimizer = make_optimizer("adam", module, RATE)
    whole = DistributedDataParallel(module) if place.world > 1 else module
    size = 1 if way == "plain" else case.setup.data_size

    def passed() -> float:
        began = time.perf_counter()
        for x, y in place.batches(case.x, case.y, trial.batch):
            optimizer.zero_grad(set_to_none=True)
            loss = functional.cross_entropy(whole(x), y) if way == "plain" else whole(x, y) / size
            loss.backward()
            optimizer.step()
        return time.perf_counter() - began

    return passed


@dataclass(frozen=True)
class Clock(bp.Rule):
    """Reads a clock and counts bytes around the steps of each pass over the data, in every process."""

    name: ClassVar[str] = "clock"

    def begin(self, run: Any) -> bp.ActiveRule:
        """Begins to read."""
        return Ticking()


class Ticking(bp.ActiveRule):
    """`Clock` at work: reports seconds and bytes of the steps of the last pass, and of what came before it."""

    needs = bp.Needs(batch=never)

    def __init__(self) -> None:
        self.read: list[list[tuple[float, int]]] = [[]]

    def before_step(self, step: int) -> None:
        """Reads before the first step of a pass."""
        if not self.read[-1]:
            self.read[-1].append((time.perf_counter(), bytes_sent()))

    def after_epoch(self) -> bp.Change:
        """Reads after the last one: this is the first that happens after a pass."""
        self.read[-1].append((time.perf_counter(), bytes_sent()))
        self.read.append([])
        return bp.Change.NOTHING

    def report(self) -> dict[str, Any]:
        """Seconds and bytes of the steps of a pass, and between two passes."""
        (_, (ended, sent_before)), ((began, sent_first), (last, sent)) = self.read[0], self.read[1]
        return {"steps": [last - began, sent - sent_first], "between": [began - ended, sent_first - sent_before]}


def fitted(trial: Trial, case: Case, runtime: Any) -> dict[str, list[float]]:
    """A fit of two passes over the data; what its clock reports.

    Args:
        trial: What is measured.
        case: Its network, model and data.
        runtime: As for `bp.fit`.
    """
    fit = bp.fit(
        make_objective(case).model,
        (case.x, case.y),
        epochs=2,
        batch_size=trial.batch,
        learning_rate=RATE,
        schedule="constant",
        kl_weight=1.0,
        kl_warmup=0.0,
        execution="plain",
        local_reparameterisation=False,
        device="cpu",
        rules=[Clock()],
        runtime=runtime,
    )
    (told,) = fit.settings["clock"]
    return dict(told)


def bytes_sent() -> int:
    """What all processes of the machine have sent over the loopback device so far, in bytes."""
    for line in Path("/proc/net/dev").read_text().splitlines():
        name, _, numbers = line.partition(":")
        if name.strip() == "lo":
            return int(numbers.split()[8])
    raise RuntimeError("/proc/net/dev has no loopback device: bytes are counted on Linux only")


def gradient_bytes(case: Case, way: str) -> int:
    """Bytes of the gradients that a step shares."""
    module = case.network if way == "plain" else make_objective(case)
    return sum(p.numel() * p.element_size() for p in module.parameters() if p.requires_grad)


def measure_here(trial: Trial) -> dict[str, Any]:
    """What each of the processes does: all ways by turns, alone and together.

    Args:
        trial: What is measured.

    Returns:
        ``"steps"`` of a pass; ``"seconds"`` a step in each turn, by ``"WAY, PROCESSES"``, by the first process's clock;
        ``"moved"``, bytes a step and process by way, and ``"expected"`` beside them; ``"exchange"``, seconds of summing
        as many numbers as a way's gradient has, and nothing else; ``"between"``, seconds between two passes of a fit.
    """
    torch.set_num_threads(trial.threads)
    # Fabric makes the group of processes, which the loops by hand use too.
    shared = bp.FabricRuntime(device="cpu") if "fit" in trial.ways else None
    if shared is None:
        distributed.init_process_group("gloo")
    rank, world = distributed.get_rank(), distributed.get_world_size()

    case = make_trial_case(trial, LEAST_STEPS)
    alone = loop(trial, case, "by hand", Place())
    alone()
    took = torch.tensor(alone() / LEAST_STEPS)
    distributed.broadcast(took, 0)
    steps = min(MOST_STEPS, max(LEAST_STEPS, round(trial.pass_seconds / float(took))))
    case = make_trial_case(trial, steps)

    turns: dict[str, Turn] = {}
    for way in trial.ways:
        for count in (1, world):
            turns[f"{way}, {count}"] = _turn(trial, case, way, Place(rank, world) if count > 1 else Place(), shared)
    for turn in turns.values():  # not measured: memory is found, connections are made
        turn()
        distributed.barrier()
    seconds: dict[str, list[float]] = {name: [] for name in turns}
    moved: dict[str, list[int]] = {name: [] for name in turns}
    between: dict[str, list[float]] = {name: [] for name in turns}
    names, exchange = list(turns), {way: list[float]() for way in trial.ways}
    numbers = {way: torch.zeros(gradient_bytes(case, way) // 4) for way in trial.ways}
    for block in range(trial.blocks):
        first = block % len(names)
        for name in names[first:] + names[:first]:
            distributed.barrier()
            if rank == 0 or name.endswith(f", {world}"):
                took_now, sent, waited = turns[name]()
                seconds[name].append(took_now / steps)
                moved[name].append(sent)
                between[name].append(waited)
            distributed.barrier()
        for way in trial.ways:
            began = time.perf_counter()
            for _ in range(steps):
                distributed.all_reduce(numbers[way])
            exchange[way].append((time.perf_counter() - began) / steps)
    expected = {way: 2 * (world - 1) / world * gradient_bytes(case, way) for way in trial.ways}
    found = {way: min(moved[f"{way}, {world}"]) / steps / world for way in trial.ways}
    distributed.destroy_process_group()
    return {
        "steps": steps,
        "seconds": seconds,
        "moved": found,
        "expected": expected,
        "exchange": exchange,
        "between": between,
    }


def _turn(trial: Trial, case: Case, way: str, place: Place, shared: Any) -> Turn:
    """One pass over the data as a function, which returns its seconds, the bytes sent, and seconds between passes."""
    if way == "fit":
        runtime = shared if place.world > 1 else bp.OneProcess(torch.device("cpu"), torch.float32)

        def fit_turn() -> tuple[float, int, float]:
            told = fitted(trial, case, runtime)
            return told["steps"][0], int(told["steps"][1]), told["between"][0]

        return fit_turn
    passed = loop(trial, case, way, place)

    def loop_turn() -> tuple[float, int, float]:
        before = bytes_sent()
        took = passed()
        return took, bytes_sent() - before, 0.0

    return loop_turn


def measure(trial: Trial) -> dict[str, Any]:
    """`measure_here` in as many processes, started by torch's own launcher."""
    return in_processes(measure_here, trial.processes, trial)


def compared(seconds: Mapping[str, Sequence[float]], processes: int) -> dict[str, dict[str, float]]:
    """What the seconds of the turns say, by way; every ratio is a median of those within turns.

    Args:
        seconds: A step, turn by turn, by ``"WAY, PROCESSES"``.
        processes: How many there were.

    Returns:
        By way ``"ms"`` a step of one process and ``"ms_shared"`` of all; ``"speedup"``; ``"behind_plain"``, by how much
        the speed-up stays behind that of the plain network under DDP, 0.1 being 10 %; and ``"over_by_hand"``, by how
        much a step of all processes takes longer than that of the objective under DDP by hand. Ratios to a way that was
        not measured, and of the plain network to the objective, are left out.
    """
    ways = [way for way in WAYS if f"{way}, 1" in seconds]
    speedups = {way: _ratios(seconds[f"{way}, 1"], seconds[f"{way}, {processes}"]) for way in ways}
    found: dict[str, dict[str, float]] = {}
    for way in ways:
        one, all_of_them = seconds[f"{way}, 1"], seconds[f"{way}, {processes}"]
        found[way] = {
            "ms": 1e3 * statistics.median(one),
            "ms_shared": 1e3 * statistics.median(all_of_them),
            "speedup": statistics.median(speedups[way]),
            "speedup_least": min(speedups[way]),
            "speedup_most": max(speedups[way]),
        }
        if way != "plain" and "plain" in ways:
            found[way]["behind_plain"] = statistics.median(_ratios(speedups["plain"], speedups[way])) - 1.0
        if way == "fit" and "by hand" in ways:
            by_hand = seconds[f"by hand, {processes}"]
            found[way]["over_by_hand"] = statistics.median(_ratios(all_of_them, by_hand)) - 1.0
    return found


def _ratios(these: Sequence[float], others: Sequence[float]) -> list[float]:
    return [this / other for this, other in zip(these, others, strict=True)]


def show(title: str, trial: Trial, result: Mapping[str, Any]) -> str:
    """A table of one trial."""
    count = trial.processes
    lines = [
        f"\n{title} ({result['steps']} steps a pass, {trial.blocks} turns)",
        f"  {'':10}{'ex/s, 1':>10}{f'ex/s, {count}':>10}{'speed-up':>10}{'range':>14}{'behind plain':>14}"
        f"{'over by hand':>14}{'MB a step':>11}{'expected':>10}{'exchange, ms':>14}",
    ]
    for way, found in compared(result["seconds"], count).items():
        ratios = [f"{100 * found[name]:.1f} %" if name in found else "" for name in ("behind_plain", "over_by_hand")]
        spread = f"{found['speedup_least']:.2f} to {found['speedup_most']:.2f}"
        lines.append(
            f"  {way:10}{1e3 * trial.batch / found['ms']:10.0f}{1e3 * trial.batch / found['ms_shared']:10.0f}"
            f"{found['speedup']:10.2f}{spread:>14}{ratios[0]:>14}{ratios[1]:>14}"
            f"{result['moved'][way] / 1e6:11.3f}{result['expected'][way] / 1e6:10.3f}"
            f"{1e3 * statistics.median(result['exchange'][way]):14.2f}"
        )
    if "fit" in trial.ways:
        each = [f"{1e3 * statistics.median(result['between'][f'fit, {number}']):.1f}" for number in (1, count)]
        lines.append(f"  between two passes a fit takes {each[0]} ms in one process, {each[1]} ms in {count}")
    return "\n".join(lines)


def as_markdown(trials: Mapping[str, Trial], results: Mapping[str, Any]) -> str:
    """The same as rows of a table of docs/many.md: examples per second of one process and of all, and their ratio."""
    lines = [
        "| network, model, batch | plain DDP | by hand, DDP | `fit` | `fit` over by hand, % | MB a step, ring |",
        "|---|---|---|---|---|---|",
    ]
    for name, trial in trials.items():
        told, cells = compared(results[name]["seconds"], trial.processes), []
        for way in WAYS:
            one = told.get(way, {})
            rates = [f"{1e3 * trial.batch / one[key]:,.0f}" for key in ("ms", "ms_shared") if one]
            cells.append(f"{rates[0]}, {rates[1]}: **{one['speedup']:.2f}**" if one else "")
        over = f"{100 * told['fit']['over_by_hand']:.0f}" if "over_by_hand" in told.get("fit", {}) else ""
        last = list(told)[-1]
        moved = f"{results[name]['moved'][last] / 1e6:.2f}, {results[name]['expected'][last] / 1e6:.2f}"
        lines.append(f"| {trial.network}, {trial.model}, {trial.batch} | {' | '.join(cells)} | {over} | {moved} |")
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures, prints tables and one line of JSON; returns results by name."""
    parser = argparse.ArgumentParser(description="Examples per second of one process and of several.")
    parser.add_argument("--networks", nargs="+", default=["lenet-300-100", "lenet-5"], choices=NETWORKS)
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=LOOPS)
    parser.add_argument("--batches", nargs="+", type=int, default=[512, 128], help="examples a step, in all")
    parser.add_argument("--processes", type=int, default=2, help="how many (default 2)")
    parser.add_argument("--ways", nargs="+", default=list(WAYS), choices=WAYS)
    parser.add_argument("--blocks", type=int, default=5, help="turns (default 5)")
    parser.add_argument("--pass-seconds", type=float, default=0.6, help="of a pass in one process (default 0.6)")
    parser.add_argument("--threads", type=int, default=1, help="PyTorch's threads in each process (default 1)")
    parser.add_argument("--out", type=Path, default=Path("runs/benchmarks/many_processes.json"), help="the ledger")
    parser.add_argument("--fresh", action="store_true", help="forget earlier results")
    options = parser.parse_args(arguments)
    if options.fresh:
        options.out.unlink(missing_ok=True)
    ledger, results, trials = Ledger(options.out), {}, dict[str, Trial]()
    for network in options.networks:
        for batch in options.batches:
            for model in options.models:
                ways = tuple(way for way in WAYS if way in options.ways)
                how = (options.processes, ways, options.blocks, options.pass_seconds, options.threads)
                trial = Trial(network, model, batch, *how)
                name = f"{network}, {model}, batch {batch}, {options.processes} processes, {'/'.join(ways)}"
                trials[name] = trial
                results[name] = ledger.run(name, lambda trial=trial: measure(trial))  # type: ignore[misc]
                print(show(name, trial, results[name]), flush=True)
    told = {name: compared(found["seconds"], options.processes) for name, found in results.items()}
    fits = {name: ways["fit"] for name, ways in told.items() if "fit" in ways}
    for key, words in (("over_by_hand", "a step over DDP by hand"), ("behind_plain", "speed-up behind plain DDP")):
        over = {name: found[key] for name, found in fits.items() if key in found}
        if over:
            worst = max(over, key=lambda name: over[name])
            print(
                f"\nfit, {words}: {100 * statistics.median(over.values()):.1f} % (median of {len(over)}), at most "
                f"{100 * over[worst]:.1f} % ({worst}); allowed are {100 * BAR:.0f} %"
            )
    print("\n" + as_markdown(trials, results))
    print(f"\n{sum(run['wall_minutes'] for run in results.values()):.1f} minutes of measuring")
    print(json.dumps(told))
    return results


if __name__ == "__main__":
    main()
