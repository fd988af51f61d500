"""What `bayesprune sweep` refuses of storages and folders: one sentence each, exit code 2, and nothing is written."""

from __future__ import annotations

import contextlib
import sys

import pytest

from bayesprune.cli.app import run
from bayesprune.sweeps import plan
from bayesprune.sweeps.plan import asked_plan
from bayesprune.sweeps.space import SweepSpace
from bayesprune.sweeps.study import begun, loaded, planned_trials

ASKED = ["sweep", "--data", "digits", "--prior", "halo", "--set", "set.kappa=1,3", "--quiet"]


def planned(out, kappas):
    """A sweep as it is asked for."""
    space, arguments = SweepSpace({"set.kappa": kappas}), {"data": "digits", "prior": "halo"}
    return asked_plan(out, arguments, space, ("validation_nll",), (0,), None, None, True, False, 0)


@pytest.fixture
def there(tmp_path, monkeypatch):
    """A sweep that has begun, in OUT, and folders of others."""
    begun(planned(tmp_path / "OUT", [1, 3]))
    (tmp_path / "files").mkdir()
    (tmp_path / "files" / "notes.txt").touch()
    (tmp_path / "text.txt").write_text("no database, but long enough to be taken for one at first sight\n" * 3)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def content(folder):
    """All files by name, with their content; SQLite writes to its own where it is opened."""
    return {
        str(path): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in ("trials.db", "lock")
    }


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--out", "new", "--storage", "redis://host/0"], "the storage redis://host/0 is of an unknown kind"),
        (["--out", "new", "--storage", "nothing"], "'nothing' is no address of a storage"),
        (["--out", "new", "--storage", "sqlite:///no/t.db"], "the folder of the storage sqlite:///no/t.db does not"),
        (["--out", "new", "--storage", "sqlite:///text.txt"], "sqlite:///text.txt cannot be opened (file is not a"),
        (["--out", "new", "--storage", "mysql://me:secret@h/x"], "me:***@h/x needs a driver that is not installed"),
        (["--out", "OUT", "--storage", "sqlite:///other.db"], "OUT keeps its trials in "),
        (["--out", "OUT", "--seeds", "0-3"], "--seeds"),
        (["--out", "OUT", "--set", "learning-rate=0.1,0.2"], "OUT"),
        (["--out", "files"], "files exists and is no sweep: choose another folder for --out"),
        (["--out", "text.txt"], "text.txt"),
    ],
)
def test_a_storage_or_a_folder_that_is_wrong_is_refused(more, message, there, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "MySQLdb", None)
    before = content(there)
    assert run([*ASKED, *more]) == 2
    told = capsys.readouterr()
    assert told.out == "" and told.err.startswith("error: ") and len(told.err.splitlines()) == 1
    assert message in told.err and "secret" not in told.err
    assert content(there) == before


def test_a_sweep_without_optuna_says_what_installs_it(there, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    assert run([*ASKED, "--out", "new"]) == 2
    assert "needs the package optuna, which is not installed: pip install bayesprune[sweep]" in capsys.readouterr().err
    assert not (there / "new").exists()


def test_who_is_refused_removes_nothing_of_a_sweep_that_was_begun_meanwhile(tmp_path, monkeypatch):
    real, began = plan.locked, []

    @contextlib.contextmanager
    def after_another(out):  # a process that was quicker: it has begun before this one gets the lock
        if not began:
            began.append(True)
            began.append(begun(planned(tmp_path / "OUT", [1, 3])))
        with real(out) as alive:
            yield alive

    monkeypatch.setattr(plan, "locked", after_another)
    with pytest.raises(ValueError, match="OUT keeps a sweep with"):
        begun(planned(tmp_path / "OUT", [1, 4]))
    assert [one.settings["set.kappa"] for one in planned_trials(loaded(began[1]))] == [1, 3]
    assert {path.name for path in (tmp_path / "OUT").iterdir()} == {"sweep.json", "trials.db", "lock"}


def test_show_of_a_sweep_says_how_far_it_is(there, capsys):
    assert run(["show", "OUT"]) == 0
    assert capsys.readouterr().out.startswith("2 waiting: none is complete yet")
    (there / "OUT" / "sweep.json").write_text("{")
    assert run(["show", "OUT"]) == 2
    assert "sweep.json is damaged" in capsys.readouterr().err
