"""Processes that are started once, as torchrun starts them, and go through many checks; tests read what they found.

A check is a function of `make`, which makes the runtime that it wants: the tests call the same function in one process.
"""

from __future__ import annotations

import importlib
import os
import socket
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch

import bayesprune as bp
from bayesprune.inference.runtime.one_process import OneProcess

ROOT = Path(__file__).parents[3]
MODULES = ("step_checks", "statistics_checks", "rule_checks", "data_checks", "refusal_checks")
CHECKS = {}
FOLDER = Path()
"""Where started processes may write."""
DTYPES = {"float32": torch.float32, "float64": torch.float64}
PATIENCE = 1200.0
"""Seconds that all checks of a group may take: the machine may be busy."""


def check(*worlds):
    """Has groups of so many processes run a function, and keep what it returns."""

    def registered(function):
        CHECKS[function.__name__] = (function, worlds)
        return function

    return registered


def alone(precision="float64", **_):
    """The runtime of one process."""
    return OneProcess(torch.device("cpu"), DTYPES[precision])


def together(precision="float64", **how):
    """That of the processes that were started."""
    return bp.FabricRuntime(**{"device": "cpu", "precision": precision, "timeout": 60.0, **how})


def environment_of(rank, world, port):
    """What torchrun tells a process."""
    told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": world, "LOCAL_WORLD_SIZE": world, "MASTER_PORT": port}
    own = {"MASTER_ADDR": "127.0.0.1", "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return os.environ | own | {name: str(value) for name, value in told.items()}


def free_port():
    """A port that nobody listens at."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def run_checks(folder, world, *names):
    """Starts processes that run the checks of their number, or those of these names, and waits for their end.

    Returns:
        What they said, where one of them failed; else an empty text.
    """
    port, running = free_port(), []
    for rank in range(world):
        with (folder / f"said-{rank}.txt").open("w") as said:
            command = [sys.executable, "-m", "tests.inference.runtime.many_processes", str(folder), *names]
            how = {"cwd": ROOT, "env": environment_of(rank, world, port), "stdout": said, "stderr": said}
            running.append(subprocess.Popen(command, **how))
    until = time.monotonic() + PATIENCE
    try:
        codes = [one.wait(max(0.1, until - time.monotonic())) for one in running]
    except subprocess.TimeoutExpired:
        codes = [-9]
    finally:
        for one in running:
            one.kill()
            one.wait()
    said = [(folder / f"said-{rank}.txt").read_text()[-3000:] for rank in range(world)]
    return "" if not any(codes) else "\n".join(f"process {rank}: {text}" for rank, text in enumerate(said))


def found_by(folder, world, name, said=""):
    """What the processes found in a check, one after the other."""
    files = [folder / f"{name}-{rank}.pt" for rank in range(world)]
    for file in files:
        assert file.exists(), f"{name} of {world} processes has no result: {said}"
    found = [torch.load(file, weights_only=False) for file in files]
    for rank, one in enumerate(found):
        assert not (isinstance(one, dict) and "error" in one), f"process {rank} of {world}: {one['error']}"
    return found


def main(folder, *names):
    """What a started process does."""
    global FOLDER
    FOLDER = Path(folder)
    for module in MODULES:
        importlib.import_module(f"tests.inference.runtime.{module}")
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    together()
    torch.set_num_threads(1)
    chosen = [one for one, (_, worlds) in CHECKS.items() if one in names or (not names and world in worlds)]
    for name in chosen:
        began = time.perf_counter()
        try:
            found = CHECKS[name][0](together)
        except Exception:
            found = {"error": traceback.format_exc()}
        torch.save(found, FOLDER / f"{name}-{rank}.pt")
        print(f"{name}: {time.perf_counter() - began:.2f} s", flush=True)
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    # Checks register themselves with the module of this name, not with the one that Python runs as __main__.
    from tests.inference.runtime import many_processes

    many_processes.main(*sys.argv[1:])
