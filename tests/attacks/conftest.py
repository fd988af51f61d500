"""What several attacks begin with: small folders that the command line made."""

from __future__ import annotations

import shutil
import subprocess

import numpy as np
import pytest

from tests.attacks.armed_folders import OWN, Attack, commands
from tests.attacks.small_disks import SmallDisk, SmallFiles


@pytest.fixture(scope="session")
def small_folders(tmp_path_factory):
    """One small run, its pruned and compact networks, a path, and the same of code of one's own."""
    place = tmp_path_factory.mktemp("made")
    generator = np.random.default_rng(0)
    y = np.arange(90) % 3
    x = (generator.normal(size=(90, 4)) + 2.0 * np.eye(3, 4)[y]).astype(np.float32)
    np.savez(place / "data.npz", x=x, y=y)
    np.save(place / "x.npy", x)
    (place / "own.py").write_text(OWN.format(sentinel=str(place / "ran")))
    data = ("--data", place / "data.npz", "--epochs", 1, "--quiet")
    ready, own = ("--width", 0.02, *data), ("--network", f"{place / 'own.py'}:net", *data)
    knob = ("--first-epochs", 1, "--restarts", 1, "--sparsities", "0.5", "--knob")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("bayesprune.runs.run_folder.ARVIZ_DRAWS", 3)
        assert commands("fit", "--prior", "spike-and-slab", *ready, "--out", place / "run") == 0
        assert commands("prune", place / "run", "--sparsity", 0.5, "--quiet", "--out", place / "pruned") == 0
        more = ("--min-inclusion", 0.0, "--compact", "--quiet")
        assert commands("prune", place / "run", *more, "--out", place / "compact") == 0
        given = ("path", "--prior", "halo", *knob, "kappa", "--values", 3, "--quiet", *ready, "--out", place / "path")
        assert commands(*given) == 0
        prior = ("--prior", f"{place / 'own.py'}:prior")
        assert commands("fit", *prior, *own, "--out", place / "own-run") == 0
        prior = ("--prior", f"{place / 'own.py'}:by_scale")
        given = ("path", *prior, *knob, "scale", "--values", 0.1, *own, "--out", place / "own-path")
        assert commands(*given) == 0
    return place


@pytest.fixture
def attack(small_folders, tmp_path, capsys, monkeypatch):
    return Attack(small_folders, tmp_path, capsys, monkeypatch)


@pytest.fixture
def own(small_folders, tmp_path, capsys):
    """Copies of the folders that name code of one's own, and what tells whether it was run."""
    for name in ("own-run", "own-path"):
        shutil.copytree(small_folders / name, tmp_path / name)
    (small_folders / "ran").unlink(missing_ok=True)
    capsys.readouterr()
    return tmp_path


@pytest.fixture(params=[pytest.param("disk", marks=pytest.mark.slow), "files"])
def disk(request, tmp_path):
    if request.param == "files":
        yield SmallFiles(tmp_path)
        return
    place = tmp_path / "disk"
    place.mkdir()
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "none", str(place)], capture_output=True)
    if done.returncode:
        pytest.skip("no file system may be mounted here, which takes root: the limit on files stands in for it")
    yield SmallDisk(place)
    subprocess.run(["umount", "-l", str(place)], check=True)
