"""A fit of several processes from the command line: one of them says how it ended, and none is left behind."""

from __future__ import annotations

import logging
import os
import signal
import socket
import subprocess
import sys
import time
from datetime import timedelta

import psutil
import pytest
from torch.distributed import TCPStore

from bayesprune.cli import app as cli
from bayesprune.cli import launch as launching
from bayesprune.cli import one_message
from bayesprune.cli.exits import Interrupted, Terminated
from bayesprune.cli.launch import ProcessEndedError, launch
from bayesprune.cli.one_message import AlreadySaidError, exit_code_said, is_mine_to_say
from bayesprune.inference.runtime.lost import LostProcessError, NoRendezvousError
from bayesprune.runs.run_folder import read_summary
from tests.oracles.started_commands import MODULES, begun, ended


@pytest.fixture
def one_of_two(monkeypatch):
    """Makes this process look like one of two."""

    def call(rank=0, **more):
        here = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2}
        for name, value in {**here, **more}.items():
            monkeypatch.setenv(name, str(value))

    return call


@pytest.fixture
def arguments(data, networks_file):
    def make(out, *more, epochs=2):
        fixed = ["--network", f"{networks_file}:small", "--epochs", epochs, "--batch-size", 30, "--execution", "plain"]
        given = ["fit", "--data", data, "--prior", "halo", "--out", out, *fixed, "--quiet", *more]
        return [str(one) for one in given]

    return make


# -- what is refused -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["show", "prune", "path", "priors", "refit"])
def test_other_commands_run_in_one_process(name, one_of_two, refused):
    one_of_two()
    refused([name], f"bayesprune {name} runs in one process, but 2 were started", "torchrun")


def test_only_the_first_process_says_what_all_have_found(one_of_two, command):
    one_of_two(rank=1)
    assert command("priors") == (2, "", "")
    one_of_two(rank=0)  # the control
    assert command("priors")[2].count("\n") == 1


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--tune", "kl_weight"), "--tune runs in one process, but 2 were started"),
        (("--epochs", 0), "(--epochs 0) runs in one process"),
        (("--processes", 2), "--processes 2, but 2 processes were started already"),
        (("--batch-norm", "common"), "--batch-norm takes one of apart, synchronised, not 'common'"),
    ],
)
def test_what_several_processes_do_not_do(more, said, one_of_two, refused, arguments, tmp_path):
    one_of_two()
    refused([*arguments(tmp_path / "run"), *more], said)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("count", "said"), [(0, "give 1 or more"), (-3, "give 1 or more"), (10**9, "or fewer")])
def test_numbers_of_processes_that_cannot_be(count, said, refused, arguments, tmp_path):
    refused([*arguments(tmp_path / "run"), "--processes", count], f"--processes is {count}", said)


@pytest.mark.parametrize("given", ["x", "-1", "0", "nan", "inf"])
def test_a_timeout_is_a_number_of_seconds(given, one_of_two, refused, arguments, tmp_path):
    one_of_two(BAYESPRUNE_TIMEOUT=given)
    refused(arguments(tmp_path / "run"), f"BAYESPRUNE_TIMEOUT is '{given}'", "seconds")


def test_processes_that_do_not_meet_say_so_in_time(one_of_two, arguments, refused, tmp_path):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))  # and does not listen
        one_of_two(rank=1, MASTER_ADDR="127.0.0.1", MASTER_PORT=silent.getsockname()[1], BAYESPRUNE_TIMEOUT="1")
        began = time.monotonic()
        refused(arguments(tmp_path / "run"), "the processes of the fit did not find each other")
    assert time.monotonic() - began < 30.0


# -- who says it ---------------------------------------------------------------------------------------------


@pytest.fixture
def store(one_of_two, monkeypatch):
    """The store of a launcher, as its processes see it."""
    monkeypatch.setattr(one_message, "_PATIENCE", 0.3)
    made = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False, timeout=timedelta(seconds=5))
    one_of_two(MASTER_ADDR="127.0.0.1", MASTER_PORT=made.port, TORCHELASTIC_USE_AGENT_STORE="True")
    return made


def test_the_first_that_failed_by_itself_says_it(store, one_of_two):
    one_of_two(rank=1)
    assert is_mine_to_say(2, ValueError("x"))
    assert exit_code_said(store) == 2
    assert not is_mine_to_say(1, ValueError("x"))
    one_of_two(rank=0)
    for problem in (LostProcessError(), Terminated(), Interrupted(), KeyboardInterrupt(), OSError()):
        assert not is_mine_to_say(1, problem)
    assert exit_code_said(store) == 2


def test_of_those_that_lost_another_the_first_process_says_it_or_the_next_if_it_is_silent(store, one_of_two):
    one_of_two(rank=1)
    began = time.monotonic()
    assert is_mine_to_say(1, LostProcessError())  # the first process is that which was lost
    assert time.monotonic() - began > 0.2
    one_of_two(rank=0, TORCHELASTIC_RESTART_COUNT=1)  # torchrun has started both again
    began = time.monotonic()
    assert is_mine_to_say(1, Terminated())
    assert time.monotonic() - began < 0.2
    one_of_two(rank=1)
    assert not is_mine_to_say(1, LostProcessError())


def test_the_launcher_says_what_no_process_is_to_blame_for(store, one_of_two):
    one_of_two(TORCHELASTIC_RUN_ID=one_message.run_id())
    for problem in (LostProcessError(), Terminated(), Interrupted()):
        assert not is_mine_to_say(1, problem)
    assert exit_code_said(store) is None and one_message.has_lost_others(store)
    assert is_mine_to_say(1, OSError())  # the control


def test_without_a_launcher_no_cause_is_lost(one_of_two):
    one_of_two(rank=1)
    assert is_mine_to_say(2, NoRendezvousError())
    assert not is_mine_to_say(2, ValueError()) and not is_mine_to_say(1, LostProcessError())
    one_of_two(rank=0)
    assert is_mine_to_say(2, ValueError()) and is_mine_to_say(1, LostProcessError())


# -- the launcher, with a script in place of Python ----------------------------------------------------------


@pytest.fixture
def launched(tmp_path, monkeypatch):
    """Launches two processes that run a script of the shell."""

    def call(script, *arguments):
        file = tmp_path / "python"
        file.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        file.chmod(0o755)
        monkeypatch.setattr(launching.sys, "executable", str(file))
        launch(arguments, 2)

    return call


def test_the_processes_know_their_numbers_and_get_the_command(launched, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS")
    before = dict(os.environ), [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)]
    launched('echo "$WORLD_SIZE $OMP_NUM_THREADS $@" > "rank $RANK"', "fit", "--set", "a=$b $$", "--out", "a b")
    threads = max(1, (os.cpu_count() or 1) // 2)
    for rank in (0, 1):
        said = (tmp_path / f"rank {rank}").read_text()
        assert said == f"2 {threads} -P -m bayesprune fit --set a=$b $$ --out a b\n"
    assert before == (dict(os.environ), [signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)])
    assert logging.root.manager.disable == 0


@pytest.mark.parametrize(
    ("script", "sentence", "code"),
    [
        ("kill -9 $$", "was ended by SIGKILL", 1),
        ("kill -11 $$", "was ended by SIGSEGV", 1),
        ("exit 3", "ended with exit code 3", 3),
    ],
)
def test_a_process_that_ends_without_a_word_ends_the_others(script, sentence, code, launched, tmp_path, capfd):
    with pytest.raises(ProcessEndedError) as caught:
        launched(f'echo $$ > "rank $RANK"\nif [ $RANK = 1 ]; then {script}; fi\nexec sleep 60')
    assert (str(caught.value), caught.value.exit_code) == (f"process 1 of the fit {sentence}", code)
    assert not psutil.pid_exists(int((tmp_path / "rank 0").read_text()))
    assert capfd.readouterr() == ("", "")  # torch's own report is long


def test_what_was_said_already_is_not_said_again(launched, capfd):
    code = f"{MODULES}from bayesprune.cli.one_message import is_mine_to_say; is_mine_to_say(2, ValueError())"
    with pytest.raises(AlreadySaidError) as caught:
        launched(f'if [ $RANK = 0 ]; then {sys.executable} -c "{code}"; exit 2; fi\nexec sleep 60')
    assert caught.value.exit_code == 2
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("number", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_a_signal_to_the_launcher_ends_all(number, kind, tmp_path):
    """The launcher stands in a process of its own, which the signal may end."""
    file = tmp_path / "python"
    file.write_text(
        f'#!/bin/sh\ncd {tmp_path}\necho $$ > "rank $RANK"\n'
        'if [ $RANK = 0 ]; then until [ -s "rank 1" ]; do sleep 0.1; done\n'
        f"sleep 1; kill -{number:d} $PPID; fi\nexec sleep 60\n"
    )
    file.chmod(0o755)
    code = (
        f"{MODULES}import signal\nfrom bayesprune.cli import launch\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # background jobs of a shell ignore it
        f"launch.sys.executable = {str(file)!r}\n"
        "try:\n    launch.launch([], 2)\nexcept BaseException as end:\n    print(type(end).__name__)"
    )
    done = subprocess.run([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, timeout=100)
    assert done.stdout == f"{kind.__name__}\n"
    assert not any(psutil.pid_exists(int((tmp_path / f"rank {rank}").read_text())) for rank in (0, 1))


def test_no_process_outlives_a_launcher_that_was_killed(tmp_path):
    worker = f"{MODULES}import time; from bayesprune.cli.exits import end_with_parent; end_with_parent(); "
    worker += f"open({str(tmp_path / 'began')!r}, 'w').close(); time.sleep(60)"
    parent = subprocess.Popen(
        [sys.executable, "-c", f"import subprocess; subprocess.run({[sys.executable, '-c', worker]})"]
    )
    while not (tmp_path / "began").exists():
        assert parent.poll() is None
        time.sleep(0.05)
    (child,) = psutil.Process(parent.pid).children()
    time.sleep(1.5)
    assert child.is_running()  # the control: it ends with its parent, and not before
    parent.kill()
    parent.wait()
    psutil.wait_procs([child], timeout=10)
    assert not child.is_running()


# -- whole fits ----------------------------------------------------------------------------------------------


def test_a_killed_process_ends_the_fit_in_one_sentence_and_the_same_command_goes_on(arguments, tmp_path):
    run = tmp_path / "run"
    given = arguments(run, "--processes", "2", epochs=100_000)
    fit = begun(given)
    while not (tmp_path / "run.part" / "command.json").is_file():
        assert fit.poll() is None
        time.sleep(0.1)
    time.sleep(1.0)
    victim = max(psutil.Process(fit.pid).children(), key=lambda one: one.pid)
    victim.kill()
    code, out, err, left = ended(fit)
    assert (code, out, left) == (1, "", 0)
    assert err == "error: process 1 of the fit was ended by SIGKILL\n"  # nothing is kept so soon
    assert not list(tmp_path.iterdir())

    code, out, err, left = ended(begun(arguments(run, "--processes", "2")))
    assert (code, out, err, left) == (0, "", "", 0)
    assert read_summary(run)["processes"] == 2
    assert sorted(one.name for one in tmp_path.iterdir()) == ["run"]


def test_one_process_says_one(arguments, command, tmp_path):
    assert command(*arguments(tmp_path / "run"), "--processes", "1") == (0, "", "")
    assert read_summary(tmp_path / "run")["processes"] == 1
    assert cli.run([*arguments(tmp_path / "other"), "--batch-norm", "synchronised"]) == 0
