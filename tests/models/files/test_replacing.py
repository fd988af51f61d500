"""Replacing folders and files: nothing foreign goes, and a kill at any step leaves one whole."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time

import pytest

from bayesprune.models.files.new_file import new_file, replaced_file, written_over
from bayesprune.models.files.new_folder import check_new_folder, new_folder, replaced_folder
from bayesprune.models.files.processes import this_process
from bayesprune.models.files.replaced_files import replaced_files
from bayesprune.models.files.staging import OWNER_FILE, clear_leftovers
from bayesprune.models.files.unwritable import Unwritable


def is_ours(folder):
    return (folder / "mark").is_file()


def fill(folder, text):
    (folder / "mark").write_text(text)
    (folder / "more").write_text(text)


def replace(path, text):
    with replaced_folder(path, is_ours, "one of ours") as staged:
        fill(staged, text)


def content(path):
    return {file.name: file.read_text() for file in path.iterdir()}


def whole(text):
    return {"mark": text, "more": text}


# ------------------------------------------------------------------------------------------------ what is replaced


def test_one_of_its_kind_is_replaced_and_nothing_is_left_beside_it(tmp_path):
    for text in ("first", "second"):
        replace(tmp_path / "a", text)
        assert content(tmp_path / "a") == whole(text) and os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("kind", ["folder", "file", "link", "dangling"])
def test_what_is_of_another_kind_is_refused_and_stays(tmp_path, kind):
    path = tmp_path / "a"
    if kind == "folder":
        path.mkdir()
        (path / "thesis.tex").write_text("mine")
    elif kind == "file":
        path.write_text("mine")
    else:
        if kind == "link":
            replace(tmp_path / "other", "first")
        path.symlink_to(tmp_path / "other")
    before = sorted(os.listdir(tmp_path))
    with pytest.raises(ValueError, match="exists already.*is not one of ours, so it is not replaced") as refusal:
        replace(path, "second")
    assert "\n" not in str(refusal.value) and (kind != "dangling" or "a link that leads nowhere" in str(refusal.value))
    assert sorted(os.listdir(tmp_path)) == before
    if kind == "folder":
        assert content(path) == {"thesis.tex": "mine"}


@pytest.mark.parametrize("path", ["", ".", "..", "../..", "/", "./", "sub/..", "sub/../../here"])
def test_the_current_folder_and_those_above_are_refused(tmp_path, monkeypatch, path):
    here = tmp_path / "here"
    (here / "sub").mkdir(parents=True)
    fill(here, "mine")
    monkeypatch.chdir(here)
    with pytest.raises(ValueError, match="is the current folder, one above it, or no name"):
        replace(path, "second")
    assert sorted(os.listdir(here)) == ["mark", "more", "sub"] and (here / "mark").read_text() == "mine"


def test_a_link_to_the_current_folder_is_refused(tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(ValueError, match="is the current folder"):
        replace(tmp_path / "link", "second")


def test_an_empty_folder_may_be_replaced(tmp_path):
    (tmp_path / "a").mkdir()
    replace(tmp_path / "a", "first")
    assert content(tmp_path / "a") == whole("first")


def test_what_comes_to_the_place_in_the_meantime_stays(tmp_path):
    with pytest.raises(ValueError, match="exists already"), new_folder(tmp_path / "a") as staged:
        fill(staged, "first")
        (tmp_path / "a").mkdir()
        (tmp_path / "a" / "theirs").touch()
    with pytest.raises(ValueError, match="is not one of ours"), replaced_folder(tmp_path / "b", is_ours, "one of ours"):
        (tmp_path / "b").write_text("theirs")
    assert os.listdir(tmp_path / "a") == ["theirs"] and (tmp_path / "b").read_text() == "theirs"
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


# ------------------------------------------------------------------------------------------------ kills


class Killed(BaseException):
    pass


def killing_at(monkeypatch, step, after):
    """Raises at the `step`-th rename, before or after it is done."""
    count = [0]

    def wrap(rename):
        def call(source, target):
            count[0] += 1
            if count[0] == step and not after:
                raise Killed
            rename(source, target)
            if count[0] == step and after:
                raise Killed

        return call

    monkeypatch.setattr(os, "rename", wrap(os.rename))
    monkeypatch.setattr(os, "replace", wrap(os.replace))


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", [1, 2])
def test_an_interruption_at_each_rename_leaves_one_of_the_two(tmp_path, monkeypatch, step, after):
    replace(tmp_path / "a", "first")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killing_at(patched, step, after)
        replace(tmp_path / "a", "second")
    assert content(tmp_path / "a") == whole("second" if (step, after) == (2, True) else "first")
    assert os.listdir(tmp_path) == ["a"]


CHILD = """
import os, signal, sys
from pathlib import Path
step, after = int(sys.argv[1]), sys.argv[2] == "after"
count = 0
def wrap(rename):
    def call(source, target):
        global count
        count += 1
        if count == step and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        rename(source, target)
        if count == step:
            os.kill(os.getpid(), signal.SIGKILL)
    return call
from bayesprune.models.files.new_folder import new_folder, replaced_folder
from bayesprune.models.files.processes import this_process
from bayesprune.models.files.replaced_files import replaced_files
what = sys.argv[3]
os.rename, os.replace = wrap(os.rename), wrap(os.replace)
if what == "files":
    with replaced_files(Path("a"), "mark") as (staged, removed):
        (staged / "mark").write_text("second"); (staged / "more").write_text("second")
        removed.append("plan")
else:
    with replaced_folder("a", lambda one: True, "ours") as staged:
        (staged / "mark").write_text("second"); (staged / "more").write_text("second")
"""


def killed_child(folder, step, when, what):
    done = subprocess.run([sys.executable, "-c", CHILD, str(step), when, what], cwd=folder, timeout=60)
    assert done.returncode == -9


@pytest.mark.parametrize(
    ("step", "when", "expected"),
    [(1, "before", "first"), (1, "after", "second"), (2, "before", "second"), (2, "after", "second")],
)
def test_a_kill_at_each_rename_leaves_one_which_the_next_call_finds(tmp_path, step, when, expected):
    path = tmp_path / "a"
    replace(path, "first")
    killed_child(tmp_path, step, when, "folder")
    assert len(os.listdir(tmp_path)) > 1 or not path.exists()  # it did leave something
    clear_leftovers(path)
    assert content(path) == whole(expected) and os.listdir(tmp_path) == ["a"]


def test_what_was_removed_after_a_kill_does_not_come_back(tmp_path):
    path = tmp_path / "a"
    replace(path, "first")
    killed_child(tmp_path, 2, "after", "folder")  # in its place, but the old one is still put aside
    assert any(name.startswith(".a-") for name in os.listdir(tmp_path))
    for file in path.iterdir():
        file.unlink()
    path.rmdir()
    clear_leftovers(path)
    assert os.listdir(tmp_path) == []


# ------------------------------------------------------------------------------------------------ several files


def several(folder, text, remove=()):
    with replaced_files(folder, "mark") as (staged, removed):
        fill(staged, text)
        removed += remove


@pytest.mark.parametrize("after", [False, True])
@pytest.mark.parametrize("step", range(1, 7))
def test_several_files_are_replaced_together_or_not_at_all(tmp_path, monkeypatch, step, after):
    folder = tmp_path / "a"
    folder.mkdir()
    several(folder, "first")
    (folder / "plan").write_text("first")
    (folder / "notes").write_text("mine")
    with monkeypatch.context() as patched, pytest.raises(Killed):
        killing_at(patched, step, after)
        several(folder, "second", ["plan"])
    assert content(folder) == {**whole("first"), "plan": "first", "notes": "mine"}
    several(folder, "second", ["plan"])  # control
    assert content(folder) == {**whole("second"), "notes": "mine"}


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("step", range(1, 7))
def test_a_kill_amid_several_files_leaves_no_mixture_that_could_be_used(tmp_path, step, when):
    folder = tmp_path / "a"
    folder.mkdir()
    several(folder, "first")
    (folder / "plan").write_text("first")
    killed_child(tmp_path, step, when, "files")
    found = {name: (folder / name).read_text() for name in ("mark", "more", "plan") if (folder / name).exists()}
    old, new = {**whole("first"), "plan": "first"}, whole("second")
    assert found in (old, new) or "mark" not in found
    with pytest.raises(Killed), replaced_files(folder, "mark"):  # the next call ends it before it begins
        raise Killed
    assert content(folder) == (old if (step, when) == (1, "before") else new)


@pytest.mark.parametrize("step", [1, 2, 3])
def test_what_was_made_after_a_kill_is_not_taken_for_what_was_to_go(tmp_path, step):
    folder = tmp_path / "a"
    folder.mkdir()
    several(folder, "first")
    killed_child(tmp_path, step, "after", "files")
    (folder / "mark").write_text("mine")
    with pytest.raises(Killed), replaced_files(folder, "mark"):
        raise Killed
    assert (folder / "mark").read_text() == "mine"


# ------------------------------------------------------------------------------------------------ files


def test_a_file_of_another_kind_is_not_written_over(tmp_path):
    def write(path, text):
        with written_over(path, lambda file: file.read_text().startswith("ours"), "one of ours") as staged:
            staged.write_text(text)

    path = tmp_path / "file"
    path.touch()  # what holds nothing may go
    for text in ("ours 1", "ours 2"):
        write(path, text)
        assert path.read_text() == text
    path.write_text("mine")
    with pytest.raises(ValueError, match="is not one of ours"):
        write(path, "ours")
    assert path.read_text() == "mine"
    (tmp_path / "link").symlink_to(path)
    with pytest.raises(ValueError, match="is a link to"):
        write(tmp_path / "link", "ours")
    (tmp_path / "dangling").symlink_to(tmp_path / "none")
    with pytest.raises(ValueError, match="a link that leads nowhere"):
        write(tmp_path / "dangling", "ours")
    assert sorted(os.listdir(tmp_path)) == ["dangling", "file", "link"]


# ------------------------------------------------------------------------------------------------ leftovers


def left_behind(folder, script="new_folder('a')"):
    """What a process leaves that is killed while it fills a folder."""
    code = (
        "import os, signal\nfrom bayesprune.models.files.new_folder import new_folder\n"
        f"with {script} as staged:\n    (staged / 'half').write_text('x')\n    os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    assert subprocess.run([sys.executable, "-c", code], cwd=folder, timeout=60).returncode == -9
    return next(folder.glob(".a-*"))


def test_what_a_dead_process_left_is_removed_by_the_next_call(tmp_path):
    left = left_behind(tmp_path)
    assert (left / "a" / "half").exists()
    check_new_folder(tmp_path / "b")
    assert left.exists()  # control: it is of another place
    check_new_folder(tmp_path / "a")
    assert os.listdir(tmp_path) == []


def test_what_a_live_process_is_writing_is_left_alone(tmp_path):
    code = (
        "import sys\nfrom bayesprune.models.files.new_folder import new_folder\n"
        "with new_folder('a') as staged:\n    (staged / 'half').write_text('x')\n"
        "    print('filled', flush=True)\n    sys.stdin.read()\n"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path, **pipes) as child:
        assert child.stdout.readline() == b"filled\n"
        clear_leftovers(tmp_path / "a")
        assert len(list(tmp_path.glob(".a-*/a/half"))) == 1
        child.stdin.close()
        assert child.wait(timeout=60) == 0
    assert content(tmp_path / "a") == {"half": "x"} and os.listdir(tmp_path) == ["a"]


def test_a_recycled_process_number_is_told_by_its_start(tmp_path):
    def leave(**changes):
        folder = tmp_path / ".a-01234567"
        folder.mkdir(exist_ok=True)
        (folder / OWNER_FILE).write_text(json.dumps({**this_process(), "place": "a", **changes}))
        clear_leftovers(tmp_path / "a")
        return folder.exists()

    assert leave()  # this very process
    assert leave(host="elsewhere", process=1, started=0.0)  # nothing is known of it
    assert leave(started=None)  # any process of the number
    assert not leave(started=this_process()["started"] - 100)
    assert not leave(process=2**22 + 1)


def test_hidden_folders_of_others_stay(tmp_path):
    left = left_behind(tmp_path, "new_folder('a-b')")  # .a-b-xxxxxxxx begins like what is of a
    (tmp_path / ".a-notes").mkdir()
    (tmp_path / ".a-notes" / "x").touch()
    (tmp_path / ".a-01234567").mkdir()
    clear_leftovers(tmp_path / "a")
    assert left.exists() and (tmp_path / ".a-notes" / "x").exists() and (tmp_path / ".a-01234567").exists()
    long_ago = time.time() - 3600
    os.utime(tmp_path / ".a-01234567", (long_ago, long_ago))  # of a process killed before it wrote its name
    clear_leftovers(tmp_path / "a")
    assert not (tmp_path / ".a-01234567").exists() and (tmp_path / ".a-notes" / "x").exists()


def test_names_with_signs_of_patterns_are_taken_as_they_are(tmp_path):
    for name in ("a[1]", "a*", "a?"):
        replace(tmp_path / name, "first")
        replace(tmp_path / name, "second")
        assert content(tmp_path / name) == whole("second")


# ------------------------------------------------------------------------------------------------ flushing, errors


@pytest.mark.parametrize("how", ["new_folder", "replaced_folder", "new_file", "written_over", "replaced_file", "files"])
def test_what_is_renamed_was_flushed_before(tmp_path, monkeypatch, how):
    log, opened = [], {}
    for name in ("open", "fsync", "rename", "replace"):
        original = getattr(os, name)

        def call(*given, _name=name, _original=original, **more):
            result = _original(*given, **more)
            if _name == "open":
                opened[result] = str(given[0])
            log.append((_name, opened.get(given[0], "") if _name == "fsync" else str(given[0])))
            return result

        monkeypatch.setattr(os, name, call)
    place = tmp_path / "a"
    if how in ("new_folder", "replaced_folder"):
        made = new_folder(place) if how == "new_folder" else replaced_folder(place, is_ours, "ours")
        with made as staged:
            fill(staged, "x")
        written = ["mark", "more"]
    elif how == "files":
        place.mkdir()
        several(place, "x")
        written = ["mark", "more"]
    else:
        made = {
            "new_file": lambda: new_file(place),
            "written_over": lambda: written_over(place, is_ours, "ours"),
            "replaced_file": lambda: replaced_file(place),
        }[how]()
        with made as staged:
            staged.write_text("x")
        written = [staged.name]
    renames = [number for number, (name, _) in enumerate(log) if name in ("rename", "replace")]
    for name in written:
        flushed = [number for number, (what, path) in enumerate(log) if what == "fsync" and path.endswith(f"/{name}")]
        assert flushed and flushed[0] < renames[0], (name, log)


def test_errors_of_writing_name_the_place_and_not_the_hidden_one(tmp_path):
    for error in (OSError(28, "No space left on device"), OSError(28, "No space left on device", "STAGED")):
        with pytest.raises(Unwritable) as problem, new_folder(tmp_path / "a") as staged:
            if error.filename is not None:
                error.filename = str(staged / "half")
            raise error
        expected = f"{tmp_path / 'a'} cannot be written (No space left on device): make room there and try again"
        assert str(problem.value) == expected and problem.value.errno == 28 and os.listdir(tmp_path) == []
    with pytest.raises(OSError, match="theirs") as problem, new_folder(tmp_path / "a"):
        raise OSError(5, "Input/output error", "/theirs")  # control: of something else
    assert not isinstance(problem.value, Unwritable)


def test_the_folders_above_are_made_and_go_again(tmp_path):
    with pytest.raises(Killed), new_folder(tmp_path / "x" / "y" / "a"):
        raise Killed
    assert os.listdir(tmp_path) == []
    with new_folder(tmp_path / "x" / "y" / "a"):
        pass
    assert (tmp_path / "x" / "y" / "a").is_dir()
