"""Runs attacks by number, or all of them, and prints what was wrong."""

from __future__ import annotations

import collections
import os
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.attacks.attack_list import all_attacks
from tests.attacks.targets import make_targets


def main(numbers: list[int], kept: str | None) -> int:
    """Runs them and returns how many had something wrong with them."""
    torch.set_num_threads(1)
    os.environ["MPLBACKEND"] = "Agg"
    bad: collections.Counter[str] = collections.Counter()
    with tempfile.TemporaryDirectory() as place:
        targets = Path(kept or place, "targets")
        if not targets.exists():
            targets.mkdir(parents=True)
            make_targets(targets)
        attacks = all_attacks(targets)
        began = time.perf_counter()
        for number in numbers or range(len(attacks)):
            with tempfile.TemporaryDirectory() as sandbox:
                found, wrong = attacks[number].run(targets, Path(sandbox))
            if len(numbers) == 1:
                print(attacks[number], found, sep="\n")
            for one in wrong:
                bad[one.split(":")[0]] += 1
                command = " ".join(attacks[number].command)[:200]
                print(f"{number}\t{attacks[number].name}\t{command!r}\t{one}", flush=True)
        seconds = time.perf_counter() - began
        print(f"{len(numbers) or len(attacks)} attacks, {seconds:.0f} s: {dict(bad) or 'nothing wrong'}")
    return sum(bad.values())


if __name__ == "__main__":
    given = sys.argv[1:]
    folder = given.pop(0).removeprefix("--targets=") if given and given[0].startswith("--targets=") else None
    sys.exit(1 if main([int(one) for one in given], folder) else 0)
