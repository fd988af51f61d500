"""Folders with code in and beside them that leaves a mark where it is run."""

from __future__ import annotations

import json
import os
import pickle
import shutil
import sys

from bayesprune.cli import app as cli

OWN = """
from pathlib import Path
import pyro.distributions as dist
from torch import nn
import bayesprune as bp

Path({sentinel!r}).touch()

def net(input_shape, outputs):
    return nn.Sequential(nn.Linear(input_shape[0], 5), nn.ReLU(), nn.Linear(5, outputs))

prior = bp.Hierarchy(weight=dist.Laplace(0.0, 0.1))

def by_scale(scale):
    return bp.Hierarchy(weight=dist.Laplace(0.0, scale))
"""
MODULES = ("evilmod", "evil", "victim", "victim.evil")


def commands(*arguments):
    return cli.run([str(argument) for argument in arguments])


class Attack:
    """A copy of the folders in a place of its own, with code in and beside them that leaves a mark where it is run."""

    def __init__(self, made, place, capsys, monkeypatch):
        self.place, self.sentinel, self.capsys, self.monkeypatch = place, place / "PWNED", capsys, monkeypatch
        for name in ("run", "pruned", "compact", "path"):
            shutil.copytree(made / name, place / name)
        self.run = shutil.copytree(made / "run", place / "victim")
        self.inputs = shutil.copy(made / "x.npy", place / "x.npy")
        mark = (
            OWN.format(sentinel=str(self.sentinel)) + f"\ndef f(*_, **__):\n    Path({str(self.sentinel)!r}).touch()\n"
        )
        for folder in (place, self.run, place / "pruned", place / "compact", place / "path"):
            for file in ("evil.py", "evilmod.py", "weights.txt"):
                (folder / file).write_text(mark)
        monkeypatch.setenv("HOME", str(place))

    def pickled(self):
        """Bytes that leave the mark where they are unpickled."""
        return pickle.dumps(Leaves(self.sentinel))

    def edit(self, file, **changes):
        found = json.loads(file.read_text())
        (found["declaration"] if file.name == "path.json" else found).update(changes)
        file.write_text(json.dumps(found))

    def withstood(self, *arguments, codes=(2,)):
        """Runs a command; nothing may be executed, and a refusal is one sentence."""
        before = set(sys.modules)
        code = commands(*arguments)
        out, err = self.capsys.readouterr()
        assert code in codes, (arguments, out, err)
        assert "Traceback" not in out + err
        assert err == "" if code == 0 else (err.startswith("error: ") and err.count("\n") == 1), err
        assert not self.sentinel.exists(), arguments
        assert not set(MODULES) & (set(sys.modules) - before), arguments
        assert not [name for name in set(sys.modules) - before if name.startswith("bayesprune_file_")], arguments
        return out + err

    def everywhere(self, changes, shown=(0, 2), also=()):
        """The changes in every JSON that is read back, through every command that reads it."""
        place = self.place
        for file in (self.run / "summary.json", *(place / name / "summary.json" for name in ("pruned", "compact"))):
            self.edit(file, **changes)
        self.edit(place / "path" / "path.json", **changes)
        said = [
            self.withstood("show", self.run, codes=shown),
            self.withstood("show", self.run, "--plots"),
            self.withstood("prune", self.run, "--sparsity", 0.5, "--out", place / "out"),
            self.withstood("prune", place / "path", "--sparsity", 0.5, "--out", place / "out"),
            self.withstood("predict", self.run, "--input", self.inputs, "--out", place / "out.npz"),
        ]
        for name in also:
            said.append(self.withstood("predict", place / name, "--input", self.inputs, "--out", place / "out.npz"))
        self.withstood("compare", self.run, place / "run", codes=(0, 2))
        assert not (place / "out").exists() and not (place / "out.npz").exists()
        return said


class Leaves:
    """Makes a file when it is unpickled."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return (os.mkdir, (str(self.file),))
