"""Writes small files of every kind with the version of bayesprune that is found: see 6f6d170/README.md."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import fits  # the file beside this one: `tests` may be that of the other version
import numpy as np
import torch

import bayesprune as bp

COMMANDS = {
    "run": "fit --data digits --prior spike-and-slab --width 0.03 --epochs 8 --learning-rate 0.01 --seed 1 "
    "--device cpu --path plain --out run",
    "units": "fit --data digits --prior unit-gates --set kappa=0.003 --gating travel=0.5 --width 0.06 "
    "--epochs 20 --learning-rate 0.02 --device cpu --path plain --out units",
    "path": "path --data digits --prior spike-and-slab --knob expected_density --values 0.3,0.1 --width 0.02 "
    "--first-epochs 4 --epochs 2 --learning-rate 0.01 --restarts 1 --device cpu --out path",
    "pruned": "prune run --sparsity 0.9 --out pruned",
    "compact": "prune units --min-inclusion 0.5 --compact --out compact",
    "of the path": "prune path --sparsity 0.5 --out of-the-path",
}
READ = ("run", "units", "pruned", "compact")
KILLED = "fit --data digits --prior halo --width 0.03 --epochs 2000 --device cpu --path plain --out killed"


class Interrupted(bp.Callback):
    """Ends a fit in the middle, as control-C does."""

    is_resumable = True

    def on_step(self, state):
        if state.step == 34:
            raise KeyboardInterrupt


def called(command: str) -> str:
    """What a command printed."""
    done = subprocess.run([sys.executable, "-m", "bayesprune", *command.split()], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def edited(file: Path, **changed: object) -> None:
    """Replaces values of a JSON file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    assert found.keys() >= changed.keys()
    file.write_text(json.dumps(found | changed, indent=2) + "\n", encoding="utf-8")


def main() -> None:
    """Writes into the present folder, which has to be empty."""
    torch.set_num_threads(1)
    expected: dict[str, object] = {"printed": {}, "predicted": {}, "fits": {}}
    for name, command in COMMANDS.items():
        expected["printed"][name] = called(command)
    for name in ("run", "units"):
        expected["printed"][f"show {name}"] = called(f"show {name}")
    shutil.copytree("path", "whole")
    called(COMMANDS["path"].replace("0.3,0.1", "0.3,0.1,0.05").replace("--out path", "--out whole"))
    whole = json.loads(Path("whole/path.json").read_text())["points"][2]
    expected["path continued"] = {key: whole[key] for key in ("fits", "networks")}
    shutil.rmtree("whole")
    np.save("digits.npy", fits.digits())
    for name in READ:
        called(f"predict {name} --input digits.npy --out {name}.npz")
        with np.load(f"{name}.npz") as found:
            expected["predicted"][name] = {key: value.tolist() for key, value in found.items()}
        Path(f"{name}.npz").unlink()
    Path("digits.npy").unlink()
    for name in ("run", "units"):
        expected["fits"][name] = fits.answers(bp.Fit.load(name), torch.as_tensor(fits.digits()))

    killed = subprocess.Popen([sys.executable, "-m", "bayesprune", *KILLED.split(), "--quiet"])
    progress = Path("killed.part/progress.json")
    while not (progress.exists() and json.loads(progress.read_text()).get("epoch", 0) >= 3):
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()

    for name in ("regression", "own", "halo", "gates"):
        data = fits.patients() if name == "regression" else fits.waves()
        fit = bp.fit(fits.model(name), data, **fits.options(name))
        fit.save(name)
        expected["fits"][name] = fits.answers(fit, data[0])
    given = fits.options("checkpoint")
    try:
        bp.fit(fits.model("checkpoint"), fits.waves(), **given, checkpoint="checkpoint", callbacks=[Interrupted()])
    except KeyboardInterrupt:
        pass
    whole = bp.fit(fits.model("checkpoint"), fits.waves(), **given, callbacks=[bp.Callback()])
    expected["fits"]["checkpoint"] = fits.answers(whole, fits.waves()[0])
    # This machine is nobody's business.
    edited(Path("killed.part/progress.json"), process=1, host="elsewhere")
    edited(Path("pruned/summary.json"), run="run")
    edited(Path("compact/summary.json"), run="units")
    for stale in [*Path().rglob("arviz.nc"), Path("path/front.png")]:
        stale.unlink()  # large, and nothing reads it back
    shutil.rmtree("of-the-path")
    Path("expected.json").write_text(json.dumps(expected, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
