"""FabricRuntime: one fit in many processes, on Lightning Fabric."""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import timedelta
from typing import Any, Literal, TypeVar, get_args

import torch
import torch.distributed
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Optimizer

from bayesprune.inference.runtime.environment import processes_here, processes_on_this_node
from bayesprune.inference.runtime.flat_reduction import overwritten, sums_of_gradients
from bayesprune.inference.runtime.lost import NoRendezvousError, talking
from bayesprune.inference.runtime.one_process import OneProcess, derived_seed
from bayesprune.inference.runtime.precision import PRECISIONS
from bayesprune.inference.runtime.shared_statistics import SharedStatistics

__all__ = ["BatchNorm", "FabricRuntime"]

T = TypeVar("T")
BatchNorm = Literal["apart", "synchronised"]
Noise = Literal["apart", "common"]


class FabricRuntime(OneProcess):
    """One fit in many processes, each on a device of its own, which share out every batch; see `Runtime`.

    Made once in each process, before `bayesprune.fit`: under ``torchrun`` or ``srun``, or in a script that Fabric
    starts again for each further process (``processes=4``). Processes that nothing has started are one.

    Args:
        device: ``"auto"`` (default: GPUs if there are, else the CPU), ``"cpu"`` or ``"cuda"``.
        precision: ``"float32"`` (default), ``"bfloat16"`` (autocast) or ``"float64"``.
        processes: How many on this machine; default None: as many as the launcher has started, else 1.
        nodes: How many machines; default None: as the launcher says, else 1.
        batch_norm: ``"apart"`` (default): layers of batch normalisation in training mode normalise by the examples of
            their process, and running statistics are averaged after each epoch; ``"synchronised"``: by those of the
            whole batch, in plain steps, for two exchanges a layer.
        noise: ``"apart"`` (default): each process draws its own, so that the gradient is a mean over as many draws as
            there are processes; ``"common"``: all draw what one process would.
        timeout: Seconds that a process waits for the others; default 1800.

    Attributes:
        fabric: The `lightning_fabric.Fabric` at work.

    Raises:
        ImportError: Without Lightning Fabric.
        ValueError: For an unknown device, precision or mode, or another one than in other processes; more processes
            than GPUs.
        NoRendezvousError: A ValueError, if the processes do not find each other in time.
    """

    def __init__(
        self,
        device: str = "auto",
        precision: Literal["float32", "bfloat16", "float64"] = "float32",
        processes: int | None = None,
        nodes: int | None = None,
        batch_norm: BatchNorm = "apart",
        noise: Noise = "apart",
        timeout: float = 1800.0,
    ) -> None:
        for name, given, known in (
            ("precision", precision, tuple(PRECISIONS)),
            ("batch_norm", batch_norm, get_args(BatchNorm)),
            ("noise", noise, get_args(Noise)),
            ("device", device, ("auto", "cpu", "cuda")),
        ):
            if given not in known:
                raise ValueError(f"{name} takes one of {', '.join(known)}, not {given!r}")
        local, world = processes_on_this_node(), processes_here()[1]
        started = world > 1
        if started and processes not in (None, local):
            raise ValueError(f"processes={processes}, but {local} were started on this machine: leave processes out")
        if started:  # else Fabric would start the script once more for each other process
            os.environ.setdefault("LOCAL_RANK", str(processes_here()[0] % local))
        count = local if processes is None else processes
        across = nodes if nodes is not None else max(1, world // local)
        if count < 1 or across < 1:
            raise ValueError(f"processes and nodes are at least 1, not {count} and {across}")
        on_gpu = device != "cpu" and torch.cuda.is_available()
        if device == "cuda" and not on_gpu:
            raise ValueError("device='cuda', but there is no CUDA device here: leave device out")
        if on_gpu and count > torch.cuda.device_count():
            raise ValueError(
                f"{count} processes on {torch.cuda.device_count()} GPUs: start one for each GPU, or give device='cpu'"
            )
        self.fabric = _launched("cuda" if on_gpu else "cpu", count, across, timeout)
        super().__init__(self.fabric.device, *PRECISIONS[precision])
        self.rank, self.world = self.fabric.global_rank, self.fabric.world_size
        self.batch_norm, self._noise, self._seed = batch_norm, noise, 0
        self._synchronises = batch_norm == "synchronised" and self.world > 1
        # Tensors of other kinds, or more exchanges than others make, would leave processes waiting for each other.
        self.expect_same({"precision": precision, "batch_norm": batch_norm, "noise": noise, "device": self.device.type})

    @contextmanager
    def restart(self, seed: int) -> Iterator[None]:
        """See `Runtime.restart`."""
        self._seed = derived_seed(f"noise of processes, seed {seed}")
        with super().restart(seed):
            yield

    @contextmanager
    def noise(self, step: int) -> Iterator[None]:
        """See `Runtime.noise`: numbers by seed, step and rank, so that a checkpoint has none of theirs to keep."""
        with ExitStack() as stack:
            if self._synchronises:
                stack.enter_context(SharedStatistics(self._sum))
            if self.world > 1 and self._noise == "apart":
                devices = [self.device] if self.device.type == "cuda" else []
                stack.enter_context(torch.random.fork_rng(devices=devices))
                torch.manual_seed(_scattered(self._seed + step * self.world + self.rank))
            yield

    def setup(self, objective: nn.Module, optimizer: Optimizer) -> None:
        """All begin at what the first process has, after its shapes were compared.

        Raises:
            ValueError: If another process has another network.
        """
        if self.world > 1:
            shapes = ", ".join(str(tuple(one.shape)) for one in _tensors(objective))
            self.expect_same({"the shapes of parameters and buffers": shapes})
            overwritten(_tensors(objective), self._from_first)
        layers = any(isinstance(one, _BatchNorm) for one in objective.modules())
        self.plain = "batch normalisation is synchronised" if self._synchronises and layers else ""

    def level(self, objective: nn.Module) -> None:
        """See `Runtime.level`."""
        if self.world == 1:
            return
        layers = [one for one in objective.modules() if isinstance(one, _BatchNorm)]
        running = [one for layer in layers for one in (layer.running_mean, layer.running_var) if one is not None]
        overwritten(running, self._averaged)
        known = {id(one) for one in running}
        overwritten([one for one in _tensors(objective) if id(one) not in known], self._from_first)

    def reduce(self, tensors: Sequence[Tensor], numbers: Tensor, weight: float = 1.0) -> Tensor:
        """See `Runtime.reduce`: one flat vector of a dtype."""
        if self.world == 1:
            return numbers
        return sums_of_gradients(tensors, weight / self.world, numbers / self.world, self._sum)

    def agreed(self, decision: T) -> T:
        """See `Runtime.agreed`."""
        if self.world == 1:
            return decision
        with talking():
            found: T = self.fabric.broadcast(decision)
            return found

    def expect_same(self, facts: Mapping[str, str]) -> None:
        """See `Runtime.expect_same`."""
        if self.world == 1:
            return
        every: list[dict[str, str] | None] = [None] * self.world
        with talking():
            torch.distributed.all_gather_object(every, dict(facts))
        known = {name: None for one in every for name in one or {}}  # one that only some have is missing in others
        for rank, other in enumerate(every):
            for name in known:
                first = (every[0] or {}).get(name)
                if (found := (other or {}).get(name)) != first:
                    raise ValueError(
                        f"process {rank} has other than process 0 as {name} ({_short(found)}, not {_short(first)}): "
                        "all processes have to fit the same"
                    )

    # -- inside ----------------------------------------------------------------------------------------------

    def _sum(self, value: Tensor) -> None:
        with talking():
            torch.distributed.all_reduce(value)

    def _averaged(self, value: Tensor) -> None:
        self._sum(value)
        value /= self.world

    def _from_first(self, value: Tensor) -> None:
        with talking():
            torch.distributed.broadcast(value, 0)


def _launched(accelerator: str, count: int, nodes: int, timeout: float) -> Any:
    """Fabric, with its processes running and known to each other."""
    try:
        fabric = importlib.import_module("lightning_fabric")
        strategies = importlib.import_module("lightning_fabric.strategies")
    except ImportError as problem:
        raise ImportError(
            "a fit in many processes needs Lightning Fabric: pip install 'bayesprune[distributed]'"
        ) from problem
    log = logging.getLogger("lightning_fabric")
    before = log.level
    log.setLevel(logging.WARNING)
    try:
        backend = strategies.DDPStrategy(timeout=timedelta(seconds=timeout))
        made = fabric.Fabric(accelerator=accelerator, devices=count, num_nodes=nodes, strategy=backend)
        made.launch()
    except (RuntimeError, ValueError) as problem:
        reason = " ".join(str(problem).split())[:300]
        raise NoRendezvousError(
            f"the processes of the fit did not find each other ({reason}): start all of them, with the same address "
            "and port of the first"
        ) from problem
    finally:
        log.setLevel(before)
    return made


def _tensors(objective: nn.Module) -> list[Tensor]:
    """Parameters and buffers, in the same order in all processes."""
    return [*objective.parameters(), *objective.buffers()]


def _scattered(number: int) -> int:
    """A number of 32 bits, of which torch's generator on a CPU takes a seed; another one for each of 2^32 in a row.

    The last part of MurmurHash3, which is a bijection: numbers that differ by one give seeds that differ anyhow.
    """
    h = number & 0xFFFFFFFF
    h = ((h ^ (h >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return h ^ (h >> 16)


def _short(fact: str | None) -> str:
    text = str(fact)
    return text if len(text) <= 80 else f"{text[:77]}..."
