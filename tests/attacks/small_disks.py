"""Disks that fill: a file system of 1 MB, and a limit on the size of files."""

from __future__ import annotations

import contextlib
import os
import resource

from bayesprune.cli import app as cli

FREE = (0, 4, 40, 140, 300)  # KB; what is written takes 350 to 800


class SmallDisk:
    """A file system of 1 MB, and a file on it that takes the room."""

    told = "No space left on device"

    def __init__(self, place):
        self.place = place

    @contextlib.contextmanager
    def filled(self, free):
        filler = self.place / "filler"
        room = os.statvfs(self.place)
        filler.write_bytes(b"x" * max(0, room.f_bavail * room.f_bsize - free * 1024))
        yield
        filler.unlink()


class SmallFiles:
    """A limit on the size of files, which any process may set itself."""

    told = "File too large"

    def __init__(self, place):
        self.place = place

    @contextlib.contextmanager
    def filled(self, free):
        before = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (free * 1024, before[1]))
        try:
            yield
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)


def listed(place):
    return sorted(str(path.relative_to(place)) for path in place.rglob("*") if path.name != "filler")


def fails_until_there_is_room(disk, call, named, before=()):
    """Calls on disks of less and more room; returns how many were too small."""
    failures = 0
    for free in FREE:
        with disk.filled(free):
            problem = call()
            if problem is None:
                return failures
            failures += 1
            assert str(named) in problem and disk.told in problem and "make room there" in problem, problem
            assert "\n" not in problem and ".fit-" not in problem
            assert listed(disk.place) == list(before)
    assert call() is None  # the same call, with room
    return failures


def command(capsys, *arguments):
    """What a command says on standard error where it fails; None where it does not."""
    code = cli.run([str(argument) for argument in arguments])
    said = capsys.readouterr().err
    assert (code, said == "") in ((0, True), (1, False)), said
    return said.rstrip("\n") if code else None
