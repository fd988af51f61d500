"""Workers: jobs that follow each other, killed processes, errors that come back, and the end with the parent."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
import torch

from bayesprune.inference.workers.processes import LostWorkerError, in_order, worker_processes


class Awkward(OSError):
    """An exception that can be written by pickle and not read."""

    def __init__(self, first, second):
        super().__init__(f"{first} and {second}")
        self.add_note("twice")


def done(folder, job):
    """Does a job: sleeps, says who it is, raises, or has its process killed, once or each time."""
    what, number = job
    if what == "die" or (what == "die once" and not (folder / f"died-{number}").exists()):
        (folder / f"died-{number}").touch()
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "raise":
        problem = ValueError(f"job {number} is wrong")
        problem.add_note("as it was asked for")
        raise problem
    if what == "awkward":
        raise Awkward(1, 2)
    if what == "sleep":
        (folder / f"asleep-{number}").write_text(str(os.getpid()))
        time.sleep(number)
    return number, torch.get_num_threads(), os.getpid(), torch.full((2,), float(number))


def test_jobs_follow_each_other_in_order_and_a_killed_process_takes_no_other_with_it(tmp_path):
    with worker_processes(partial(done, tmp_path), 2, "test") as workers:
        jobs = [("sleep", 0.3), *(("do", number) for number in range(3)), ("die once", 7), ("do", 4)]
        first = list(workers.in_order(jobs))
        assert [result[0] for result in first] == [0.3, 0, 1, 2, 7, 4]
        assert all(result[1] == 1 and torch.equal(result[3], torch.full((2,), float(result[0]))) for result in first)
        pids = {result[2] for result in first}
        assert (tmp_path / "died-7").exists() and os.getpid() not in pids
        assert len(pids) <= 3 and first[0][2] != first[1][2]  # side by side

        # Chains: each number is followed by its next job until there is none, and idle processes may be killed.
        os.kill(first[-1][2], signal.SIGKILL)
        told = list(
            workers.as_they_end([("do", 0), ("do", 10)], lambda n, r: ("do", r[0] + 1) if r[0] % 10 < 3 else None)
        )
        assert [r[0] for n, r in told if n == 0] == [0, 1, 2, 3] and [r[0] for n, r in told if n == 1] == [
            10,
            11,
            12,
            13,
        ]

        with pytest.raises(ValueError, match="job 5 is wrong") as caught:
            list(workers.in_order([("raise", 5)]))
        assert caught.value.__notes__ == ["as it was asked for"]
        with pytest.raises(OSError, match="1 and 2") as caught:
            list(workers.in_order([("awkward", 0)]))
        assert type(caught.value) is OSError and str(caught.value) == "1 and 2" and caught.value.__notes__ == ["twice"]
        with pytest.raises(LostWorkerError, match="2 processes of the test were killed at the same job"):
            list(workers.in_order([("die", 8)]))
        assert [result[0] for result in workers.in_order([("do", 9)])] == [9]
        alive = {result[2] for result in workers.in_order([("sleep", 0.2), ("do", 1)])}
    assert not any(is_there(pid) for pid in alive)


def is_there(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    state = Path(f"/proc/{pid}/stat")
    return not state.exists() or state.read_text().rpartition(")")[2].split()[0] != "Z"


def gone(pid, within=10.0):
    end = time.monotonic() + within
    while is_there(pid) and time.monotonic() < end:
        time.sleep(0.05)
    return not is_there(pid)


SCRIPT = """
import pathlib, sys
from functools import partial
from bayesprune.inference.workers.processes import worker_processes
from tests.inference.workers.test_processes import done
def main():
    with worker_processes(partial(done, pathlib.Path(sys.argv[1])), 1, "test") as workers:
        list(workers.in_order([("sleep", 60)]))
{guard}main()
"""


def begun(tmp_path, guard):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(guard=guard))
    paths = os.pathsep.join([str(Path(__file__).parents[3]), os.environ.get("PYTHONPATH", "")])
    return subprocess.Popen(
        [sys.executable, script, tmp_path], stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": paths},
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    )  # fmt: skip


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_a_worker_ends_with_its_parent_in_the_middle_of_a_job(tmp_path, how):
    parent = begun(tmp_path, "if __name__ == '__main__': ")
    while not (file := tmp_path / "asleep-60").exists() or not file.read_text():
        assert parent.poll() is None, parent.stderr.read()
        time.sleep(0.05)
    pid = int(file.read_text())
    if how == signal.SIGINT:
        os.killpg(parent.pid, how)  # as a terminal does, to all processes
    else:
        parent.kill()
    told = parent.communicate(timeout=30)[1]
    assert gone(pid)
    if how == signal.SIGINT:
        assert told.count("Traceback") == told.count("KeyboardInterrupt") == 1  # the parent's alone


def test_a_script_without_a_guard_is_told(tmp_path):
    told = begun(tmp_path, "").communicate(timeout=60)[1]
    assert "ValueError: a process of the test has ended before it could begin: guard the script by" in told


def test_what_cannot_be_sent_is_refused_before_a_process_is_started():
    with (
        pytest.raises(ValueError, match="what the test computes cannot be sent to other processes"),
        worker_processes(lambda job: job, 2, "test"),
    ):
        pass


def test_in_this_process_jobs_have_one_thread_too(tmp_path):
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        with in_order(partial(done, tmp_path), 1, "test") as run:
            assert [(result[1], result[2]) for result in run([("do", 1), ("do", 2)])] == [(1, os.getpid())] * 2
            with pytest.raises(ValueError, match="job 3 is wrong"):
                list(run([("raise", 3)]))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
