"""Groups of processes, each started once for all tests, also where several processes of pytest share these out."""

from __future__ import annotations

import pytest
from filelock import FileLock

from tests.inference.runtime.many_processes import found_by, run_checks


@pytest.fixture(scope="session")
def group(tmp_path_factory, worker_id="master"):
    """``group(world, name)``: what so many processes found in the check of this name, one after the other."""
    base = tmp_path_factory.getbasetemp()
    base = base.parent if base.name.startswith("popen-") else base  # that of all processes of pytest-xdist

    def found(world, name):
        folder = base / f"group-of-{world}"
        with FileLock(str(folder) + ".lock"):
            if not (folder / "ended.txt").exists():
                folder.mkdir(exist_ok=True)
                (folder / "ended.txt").write_text(run_checks(folder, world))
        return found_by(folder, world, name, (folder / "ended.txt").read_text())

    return found
