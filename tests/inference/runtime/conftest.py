"""Groups of processes, each started once for all tests, also where several processes of pytest share these out."""

from __future__ import annotations

import pytest
from filelock import FileLock

from tests.inference.runtime.many_processes import found_by, run_checks


@pytest.fixture(scope="session")
def group_folder(tmp_path_factory):
    """``group_folder(world)``: where the group of so many processes writes."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base  # that of all processes of pytest-xdist
    return lambda world: base / f"group-of-{world}"


@pytest.fixture(scope="session")
def group(group_folder):
    """``group(world, name)``: what so many processes found in the check of this name, one after the other."""

    def found(world, name):
        folder = group_folder(world)
        with FileLock(f"{folder}.lock"):
            if not (folder / "ended.txt").exists():
                folder.mkdir(exist_ok=True)
                (folder / "ended.txt").write_text(run_checks(folder, world))
        return found_by(folder, world, name, (folder / "ended.txt").read_text())

    return found
