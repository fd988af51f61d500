"""``--tune kl_weight`` on the priors that were worst before: HALO, MCP and the continuous spike and slab.

LeNet-300-100 at the settings of earlier versions, KL weight 1 and no fade-in for points (0.2 of the steps else): the
fit as it was, and the same command with ``--tune kl_weight``. Digits, 40 epochs; with ``--data fashion-mnist`` 5,000 of
its training images, 30 epochs, and all of its test images. Printed are test accuracy and nll before and after, what was
chosen, and what the trials cost.
Run ``python -m benchmarks.tuning``; it goes on where it stopped.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

import bayesprune as bp
from bayesprune.commands.fitting import fit_run
from benchmarks.ledger import Ledger

PRIORS = {"halo": 0.0, "continuous-spike-and-slab": 0.2, "mcp": 0.0}
"""Priors, and the share of the steps over which the KL term used to fade in."""
EPOCHS = {"digits": 40, "fashion-mnist": 30}
EXAMPLES = 5000


def named(data: str, folder: Path, root: str | None) -> str:
    """The data as `bayesprune fit` takes them; of Fashion-MNIST a file with the first 5,000 training images."""
    if data == "digits":
        return data
    file = folder / "fashion-5000.npz"
    if not file.exists():
        splits = bp.load_data(data, root=root)
        (x, y), (x_test, y_test) = splits.train, splits.test
        np.savez(file, x=x[:EXAMPLES].numpy(), y=y[:EXAMPLES].numpy(), x_test=x_test.numpy(), y_test=y_test.numpy())
    return str(file)


def fitted(data: str, prior: str, epochs: int, tune: str | None) -> dict[str, Any]:
    """What one command comes to."""
    with tempfile.TemporaryDirectory() as place:
        found = fit_run(
            Path(place) / "run", data, "lenet-300-100", prior, epochs=epochs, kl_weight=1.0, kl_warmup=PRIORS[prior],
            device="cpu", tune=tune,
        )  # fmt: skip
    tried = found["tuned"] or []
    return {
        "accuracy": found["test_accuracy"], "nll": found["nll"], "kl_weight": found["kl_weight"],
        "seconds": found["seconds"], "tuning_seconds": sum(row["seconds"] for row in tried), "trials": tried,
        "sparsity": found["sparsity"],
    }  # fmt: skip


def main() -> None:
    """Runs what is missing and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", choices=list(EPOCHS), default="digits")
    parser.add_argument("--data-root", default=None)
    parser.add_argument("--out", type=Path, default=Path("runs/tuning"))
    given = parser.parse_args()
    ledger = Ledger(given.out / f"{given.data}.json")
    data = named(given.data, given.out, given.data_root)
    print(f"{'prior':<26} {'before':>7} {'after':>7} {'nll':>7} {'after':>7} {'KL':>5} {'fit s':>6} {'trials s':>8}")
    for prior in PRIORS:
        runs = []
        for tune in (None, "kl_weight"):
            name = f"{prior} {'as it was' if tune is None else 'tuned'}"
            runs.append(ledger.run(name, lambda t=tune, p=prior: fitted(data, p, EPOCHS[given.data], t)))
        before, after = runs
        print(
            f"{prior:<26} {100 * before['accuracy']:>7.1f} {100 * after['accuracy']:>7.1f} {before['nll']:>7.3f} "
            f"{after['nll']:>7.3f} {after['kl_weight']:>5.2g} {after['seconds']:>6.1f} {after['tuning_seconds']:>8.1f}"
        )
    print(ledger.cost())


if __name__ == "__main__":
    main()
