"""Controls of the judge: what it is to catch is caught, and what is right is let through."""

from __future__ import annotations

import signal
import sys
import time
import traceback
import warnings

import pytest

from bayesprune.cli import app as cli
from tests.attacks.verdict import complaints, run_under_alarm


@pytest.fixture
def judged(tmp_path, monkeypatch):
    """The complaints about `bayesprune data` where another function stands in the place of its work."""

    def judge(work, limit=5.0, **how):
        monkeypatch.setattr("bayesprune.commands.tables.list_data", work)
        return complaints(run_under_alarm(lambda: cli.run(["data"]), tmp_path, limit), **how)

    return judge


def raising(problem):
    def work(root):
        raise problem

    return work


def test_a_sentence_and_a_success_are_let_through(judged):
    assert judged(lambda root: print("a table")) == []
    assert judged(raising(ValueError("the file is damaged: make it again"))) == []


@pytest.mark.parametrize("problem", [KeyError("format"), RuntimeError("[enforce fail]"), RecursionError("too deep")])
def test_a_raw_exception_class_is_caught(judged, problem):
    (one,) = judged(raising(problem))
    assert one.startswith("raw exception class")


def test_a_class_name_within_a_sentence_is_caught(judged):
    problem = ValueError("own.py failed (NameError: name 'x' is not defined): correct it there")
    assert judged(raising(problem))[0].startswith("raw exception class")
    assert judged(raising(problem), own_code=True) == []  # the user's own error is named


def test_a_command_that_takes_too_long_is_caught(judged):
    def sleep(root):
        time.sleep(20)

    def stubborn(root):
        try:
            time.sleep(20)
        except Exception:  # what catches all errors does not catch the alarm
            time.sleep(20)

    for work in (sleep, stubborn):
        (one,) = judged(work, limit=0.2)
        assert one.startswith("hang")
    assert signal.getitimer(signal.ITIMER_REAL)[1] == 0.0  # no alarm of the judge's is left


def test_a_traceback_is_caught(judged):
    def show(root):
        try:
            raise KeyError("x")
        except KeyError:
            traceback.print_exc()
        raise ValueError("the file is damaged: make it again")

    assert judged(show)[0].startswith("traceback")


def test_a_traceback_of_a_destructor_is_caught(judged):
    class Broken:
        def __del__(self):
            raise AttributeError("_writable")

    def drop(root):
        Broken()

    assert judged(drop)[0].startswith("traceback")


def test_two_lines_a_silent_failure_and_an_odd_exit_code_are_caught(judged, tmp_path):
    def two(root):
        print("a warning", file=sys.stderr)
        raise ValueError("the file is damaged: make it again")

    assert judged(two)[0].startswith("no single sentence")
    assert judged(raising(ValueError("")))[0].startswith("no single sentence")
    assert complaints(run_under_alarm(lambda: 3, tmp_path))[0] == "exit code 3"


def test_an_exception_that_comes_out_is_caught(tmp_path):
    def escape():
        raise SystemExit(2)

    assert complaints(run_under_alarm(escape, tmp_path))[0].startswith("traceback")


def test_what_was_executed_or_left_behind_is_caught(judged, tmp_path):
    def run(root):
        (tmp_path / "PWNED").touch()

    assert judged(run) == ["executed: the sentinel is there"]
    (tmp_path / "PWNED").unlink()

    def half(root):
        (tmp_path / ".out-x1").mkdir()
        raise ValueError("the disk is full: make room")

    assert judged(half) == ["left behind: .out-x1"]


def test_control_characters_are_caught_on_both_streams(judged):
    assert judged(lambda root: print("\x1b[31mred"))[0].startswith("control characters on standard output")
    assert judged(lambda root: print("\x1b[31mred", file=sys.stderr))[0].startswith(
        "control characters on standard err"
    )


def test_what_cannot_be_printed_and_what_a_library_says_alone_is_caught(judged):
    assert judged(lambda root: print("\ud800"))[0].startswith("text of a library")
    assert judged(lambda root: int("x"))[0].startswith("text of a library")


def test_memory_is_bounded_and_the_network_is_away(judged):
    import urllib.request

    assert "MemoryError" in judged(lambda root: bytearray(1 << 40))[0]
    with warnings.catch_warnings():
        assert judged(lambda root: urllib.request.urlopen("http://example.org")) == []


def test_what_had_to_be_refused_and_was_not_is_caught(judged):
    assert judged(lambda root: None, refuse=True) == ["accepted: what had to be refused"]
