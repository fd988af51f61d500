"""Every method on one GPU, in both executions and as a captured CUDA graph: what a step costs, and whether it is right.

For each of the four models that have a hand-written loop, each ready prior at its defaults and gates of units, on
LeNet-300-100: milliseconds a step, by turns in one process, of the plain execution, of the graph captured operation by
operation and (while there is time) compiled and captured; ratios within blocks to the hand-written loop, of the same
model where there is one and else of mean-field Normals; memory; and four checks.

* The loss and its gradient on the device, in float64 and in float32, against those of the CPU in float64 at the same
  draws: the largest difference relative to the largest number of its tensor.
* The captured step against the plain one on the device at the same draws: the difference of losses over their parts.
* Whether the host waits for the device in a step (`torch.cuda.set_sync_debug_mode`).
* Whether the capture succeeded.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --hidden 8 6 --batch 4 --blocks 1 --block-seconds 0

The first command says 'not run' where there is no GPU; with ``--device cpu`` the same arithmetic runs without capture.
A case that fails says why and does not stop the rest; what the time does not suffice for is named.
"""

from __future__ import annotations

import argparse
import json
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

import bayesprune as bp
from bayesprune.inference.execution.fused import FusedStep
from bayesprune.inference.execution.objective_graph import trace
from bayesprune.inference.execution.stepper import Stepper
from bayesprune.inference.guides.guide import Guide
from bayesprune.inference.objective.objective import Objective
from bayesprune.inference.training.optimizers import make_optimizer
from bayesprune.models.checks.first_line import first_line
from bayesprune.models.networks.lenet import lenet_300_100
from bayesprune.models.priors.ready import PRIORS, make_prior
from benchmarks.alternation import alternate, summarise, synchronize
from benchmarks.contenders import LOOPS, Case, make_objective
from benchmarks.flat_network import Setup
from benchmarks.step_cost import machine

FEATURES, CLASSES, DATA = 784, 10, 60_000
READY = tuple(name for name in PRIORS if name not in ("weight-decay", "unit-gates") and not name.endswith("-paper"))
GATED = ("trapezoid", "exact-toggle")
HAND = "hand-written"
RESERVE = 60.0
"""Seconds that a case may take at most: none is begun with less left."""
DRAWS = (torch.randn_like, torch.rand_like, torch.rand, torch.randn, torch.bernoulli, torch.randperm)


class Draws(TorchFunctionMode):
    """Notes random draws, or gives those noted before, on the device and in the number format that are asked for.

    Args:
        given: Draws to give, in order; default None: they are noted.

    Attributes:
        noted: The draws, in order.
    """

    def __init__(self, given: Sequence[Tensor] | None = None) -> None:
        super().__init__()
        self._left = None if given is None else list(given)
        self.noted: list[Tensor] = []

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Calls `func`; where it draws, notes what it gives or gives what was noted."""
        result = func(*args, **(kwargs or {}))
        if func in DRAWS:
            if self._left is not None:
                return self._left.pop(0).to(result)
            self.noted.append(result)
        return result


@dataclass(frozen=True)
class Sizes:
    """What the cases are measured on, and for how long.

    Attributes:
        hidden: Widths of the two hidden layers.
        batch: Examples a step.
        device: Where it runs.
        blocks: Timed blocks.
        block_seconds: About how long each execution runs in a block.
    """

    hidden: tuple[int, int] = (300, 100)
    batch: int = 128
    device: str = "cuda"
    blocks: int = 9
    block_seconds: float = 0.05


@dataclass
class Budget:
    """Seconds that are left of what the command may take.

    Attributes:
        seconds: All of them.
        begun: When it began, by `time.perf_counter`.
    """

    seconds: float
    begun: float = field(default_factory=time.perf_counter)

    def suffices(self, reserve: float = RESERVE) -> bool:
        """Whether so many are left."""
        return time.perf_counter() - self.begun + reserve <= self.seconds


def network_of(sizes: Sizes) -> nn.Module:
    """LeNet-300-100, or one of other widths, on the CPU."""
    torch.manual_seed(0)
    return lenet_300_100(FEATURES, CLASSES, sizes.hidden)


def batch_of(sizes: Sizes) -> tuple[Tensor, Tensor]:
    """Random images and labels, on the CPU."""
    generator = torch.Generator().manual_seed(1)
    x = torch.rand(sizes.batch, FEATURES, generator=generator)
    return x, torch.randint(CLASSES, (sizes.batch,), generator=generator)


def makers(sizes: Sizes) -> dict[str, Callable[[], Objective]]:
    """Objectives on the CPU by name of the method."""
    x, y = batch_of(sizes)

    def by_prior(name: str) -> Objective:
        model = bp.BayesianNetwork(network_of(sizes), {"*.weight": make_prior(name)}, data_size=DATA)
        return Objective(model, Guide(model)).train()

    def by_gates(estimator: str) -> Objective:
        gates = bp.UnitGates(estimator=estimator)
        model = bp.BayesianNetwork(network_of(sizes), {}, data_size=DATA, gates=gates, example_input=x[:2])
        return Objective(model, Guide(model)).train()

    found: dict[str, Callable[[], Objective]] = {}
    for model in LOOPS:
        found[f"{model}, as by hand"] = lambda model=model: make_objective(  # type: ignore[misc]
            Case(network_of(sizes), model, x, y, setup=Setup(data_size=DATA))
        )
    found |= {name: lambda name=name: by_prior(name) for name in READY}  # type: ignore[misc]
    return found | {f"unit gates, {name}": lambda name=name: by_gates(name) for name in GATED}  # type: ignore[misc]


def evaluated(objective: Objective, x: Tensor, y: Tensor, draws: Draws) -> dict[str, Tensor]:
    """Loss and gradients of an objective by name, in float64 on the CPU."""
    parameters = {name: p for name, p in objective.named_parameters() if p.requires_grad}
    with draws:
        loss = objective.terms(x, y).loss / DATA
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    found = {"loss": loss, **dict(zip(parameters, gradients, strict=True))}
    return {name: value.detach().double().cpu() for name, value in found.items() if value is not None}


def farthest(ones: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> float:
    """Largest difference relative to the largest number of its tensor; infinite where other tensors are there."""
    if ones.keys() != others.keys():
        return float("inf")
    apart = [0.0]
    for name, one in ones.items():
        size = float(others[name].abs().max()) if one.numel() else 0.0
        difference = float((one - others[name]).abs().max()) if one.numel() else 0.0
        apart.append(difference / size if size > 0 else float("inf") if difference > 0 else 0.0)
    return max(apart)


def differences(make: Callable[[], Objective], sizes: Sizes) -> dict[str, float]:
    """How far loss and gradient on the device are from those of the CPU in float64, by number format."""
    x, y = batch_of(sizes)
    noted = Draws()
    expected = evaluated(make().double(), x.double(), y, noted)
    found = {}
    for dtype in (torch.float64, torch.float32):
        objective = make().to(sizes.device, dtype)
        own = evaluated(objective, x.to(sizes.device, dtype), y.to(sizes.device), Draws(noted.noted))
        found[str(dtype).removeprefix("torch.")] = farthest(own, expected)
    return found


@contextmanager
def no_waiting(device: str) -> Iterator[None]:
    """An error where the host waits for a GPU inside."""
    if torch.device(device).type != "cuda":
        yield
        return
    torch.cuda.set_sync_debug_mode("error")
    try:
        yield
    finally:
        torch.cuda.set_sync_debug_mode("default")


def waits(step: Callable[[], object], device: str) -> str:
    """Empty if a step waits for nothing, else why it does."""
    try:
        with no_waiting(device):
            step()
    except RuntimeError as problem:
        return first_line(problem)[:120]
    return ""


def taker(make: Callable[[], Objective], execution: str, sizes: Sizes) -> tuple[Callable[[], object], dict[str, Any]]:
    """A function that takes one step, and what is known of it: the capture, and the difference to the plain step."""
    x, y = (tensor.to(sizes.device) for tensor in batch_of(sizes))
    objective = make().to(sizes.device)
    optimizer = make_optimizer("adam", objective, 1e-3)
    others = [p for p in objective.parameters() if not any(p is q for g in optimizer.param_groups for q in g["params"])]

    def freed(step: Callable[[], object]) -> Callable[[], object]:
        def run() -> object:
            for parameter in others:  # what a rule moves, and takes the gradient of
                parameter.grad = None
            return step()

        return run

    if execution == "plain":
        stepper = Stepper(objective, optimizer, 10**9, "plain")
        return freed(lambda: stepper.step(x, y, 1.0)), {}
    fused = FusedStep(objective, optimizer, trace(objective, x, y), compiled=execution == "compiled")
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        fused(x, y, 1.0)  # captures
    problem = next((first_line(one.message) for one in said if "captured" in str(one.message)), "")
    # The step after it is a replay, at parameters that have moved.
    torch.manual_seed(0)
    plain = fused.plain_terms(x, y, 1.0)
    torch.manual_seed(0)
    found = fused(x, y, 1.0, None if fused.traced.has_random_numbers else fused.noise)
    size = float(plain.kl.abs() + plain.log_likelihood.abs())
    known = {
        "difference": abs(float(plain.loss) - float(found.loss)) / size,
        "capture": problem or ("captured" if x.is_cuda else "on a CPU"),
    }
    return freed(lambda: fused(x, y, 1.0)), known


def by_hand(name: str, sizes: Sizes) -> Callable[[], object]:
    """One step of the hand-written loop of a method, or of that of mean-field Normals."""
    x, y = (tensor.to(sizes.device) for tensor in batch_of(sizes))
    model = name.partition(",")[0] if name.endswith("as by hand") else "normal"
    loop = LOOPS[model](network_of(sizes).to(sizes.device), Setup(data_size=DATA))
    return lambda: loop.step(x, y)


def measure(name: str, make: Callable[[], Objective], sizes: Sizes, executions: Sequence[str]) -> dict[str, Any]:
    """All that is known of one method.

    Args:
        name: Of the method.
        make: Makes its objective on the CPU.
        sizes: What it is measured on.
        executions: Of ``"plain"``, ``"captured"`` and ``"compiled"``.

    Returns:
        ``"differences"`` by number format; and by execution ``"costs"`` (milliseconds and ratios to the loop by hand),
        ``"memory"`` (MiB above what was held before; 0 on the CPU), ``"waits"``, ``"difference"``, ``"capture"`` and
        ``"problems"``, a reason for what could not be had.
    """
    result: dict[str, Any] = {"differences": {}, "memory": {}, "waits": {}, "known": {}, "problems": {}}
    try:
        result["differences"] = differences(make, sizes)
    except Exception as problem:  # it is reported, and the rest goes on
        result["problems"]["differences"] = _reason(problem)
    steps: dict[str, Callable[[], object]] = {HAND: by_hand(name, sizes)}
    for execution in executions:
        before = _reset_memory(sizes.device)
        try:
            step, result["known"][execution] = taker(make, execution, sizes)
            for _ in range(2):
                step()
            result["waits"][execution] = waits(step, sizes.device)
            result["memory"][execution] = _peak_memory(sizes.device) - before
            steps[execution] = step
        except Exception as problem:
            result["problems"][execution] = _reason(problem)
    times = alternate(steps, sizes.blocks, sizes.block_seconds, device=sizes.device)
    return {**result, "costs": {one: cost.as_json() for one, cost in summarise(times, HAND).items()}}


def _reason(problem: Exception) -> str:
    return f"{type(problem).__name__}: {first_line(problem)[:200]}"


def _reset_memory(device: str) -> float:
    if torch.device(device).type != "cuda":
        return 0.0
    synchronize(device)
    torch.cuda.reset_peak_memory_stats()
    return torch.cuda.memory_allocated() / 2**20


def _peak_memory(device: str) -> float:
    return torch.cuda.max_memory_allocated() / 2**20 if torch.device(device).type == "cuda" else 0.0


def show(name: str, result: dict[str, Any]) -> str:
    """One method as text."""
    apart = ", ".join(f"{value:.1e} in {dtype}" for dtype, value in result["differences"].items())
    lines = [f"{name}: from the CPU in float64 {apart or 'not known'}"]
    for execution, cost in result["costs"].items():
        line = f"    {execution:14}{cost['ms']:9.3f} ms a step{cost['ratio']:8.2f} x by hand"
        low, high = cost["ratio_quartiles"]
        line += f" ({low:.2f} to {high:.2f})"
        if execution in result["memory"]:
            line += f"{result['memory'][execution]:9.1f} MiB"
            waits_for = result["waits"][execution]
            line += f"  waits: {waits_for}" if waits_for else "  no waiting"
        known = result["known"].get(execution, {})
        if known:
            line += f"  {known['difference']:.1e} from the plain step, {known['capture']}"
        lines.append(line)
    return "\n".join([*lines, *(f"    {what} failed: {why}" for what, why in result["problems"].items())])


def main(arguments: Sequence[str] | None = None) -> dict[str, Any]:
    """Measures and prints method by method, then one line of JSON; returns results by name."""
    parser = argparse.ArgumentParser(
        description="Every method on one GPU: step costs, memory, and whether it is right."
    )
    parser.add_argument("--device", default="cuda", help="cuda (default), or cpu to try the arithmetic")
    parser.add_argument("--methods", nargs="+", help="default: all")
    parser.add_argument("--hidden", nargs=2, type=int, default=(300, 100), help="widths (default 300 100)")
    parser.add_argument("--batch", type=int, default=128, help="examples a step (default 128)")
    parser.add_argument("--blocks", type=int, default=9, help="timed blocks (default 9)")
    parser.add_argument("--block-seconds", type=float, default=0.05, help="of each execution in a block (default 0.05)")
    parser.add_argument("--seconds", type=float, default=560.0, help="what the command may take (default 560)")
    options = parser.parse_args(arguments)
    is_gpu = torch.device(options.device).type == "cuda"
    if is_gpu and not torch.cuda.is_available():
        print("gpu: not run, there is no CUDA device here")
        return {}
    sizes = Sizes(tuple(options.hidden), options.batch, options.device, options.blocks, options.block_seconds)
    budget, results, skipped = Budget(options.seconds), dict[str, Any](), list[str]()
    methods = {
        name: make for name, make in makers(sizes).items() if options.methods in (None, []) or name in options.methods
    }
    print(f"{machine(options.device, torch.get_num_threads())}; a captured graph is one on a GPU only")
    # Graphs as they are first, for every method; then compiled ones, which take their time.
    for executions in (("plain", "captured"), *([("compiled",)] if is_gpu else [])):
        for name, make in methods.items():
            if not budget.suffices():
                skipped.append(f"{name} ({', '.join(executions)})")
                continue
            what = name if len(executions) > 1 else f"{name}, compiled"
            try:
                results[what] = measure(name, make, sizes, executions)
                print(show(what, results[what]), flush=True)
            except Exception as problem:
                results[what] = {"error": _reason(problem)}
                print(f"{what}: failed: {_reason(problem)}", flush=True)
    if skipped:
        print(f"not run, because {options.seconds:.0f} s do not suffice: {'; '.join(skipped)}")
    print(json.dumps(results))
    return results


if __name__ == "__main__":
    main()
