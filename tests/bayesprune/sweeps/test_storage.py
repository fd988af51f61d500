"""Storages by their address: what cannot be opened is said in a sentence, and never its password."""

from __future__ import annotations

import importlib
import sys

import pytest

from bayesprune.sweeps.storage import (
    LostStorageError,
    NoStorageError,
    open_storage,
    require_optuna,
    storage_kept,
    told_address,
)


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with files of others, which is the current one."""
    (tmp_path / "text.txt").write_text("no journal\n")
    (tmp_path / "empty.db").touch()
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("address", ["sqlite:///new.db", "journal:///new.log", "sqlite:////{here}/new.db"])
def test_a_file_is_made_once_and_keeps_a_study(address, here):
    address = address.format(here=here)
    optuna = require_optuna()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    optuna.create_study(storage=open_storage(address), study_name="one", direction="maximize")
    again = optuna.load_study(storage=open_storage(address, must_exist=True), study_name="one")
    assert again.direction.name == "MAXIMIZE" and [path.name for path in here.glob("new.*")]


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("nonsense", "'nonsense' is no address of a storage: give sqlite:///FILE"),
        ("", "'' is no address of a storage"),
        ("postgresql://me:secret@host:port/x", r"'postgresql://\.\.\.@host:port/x' is no address of a storage"),
        ("redis://host/0", "the storage redis://host/0 is of an unknown kind: give sqlite:///FILE"),
        ("postgresql+asyncnothing://me:secret@host/x", r"me:\*\*\*@host/x is of an unknown kind"),
        ("sqlite://", "names no file, so no other process could share it"),
        ("sqlite:///:memory:", "names no file"),
        ("journal:///", "names no file"),
        ("sqlite://new.db", "names 'new.db' as a machine: write three slashes"),
        ("sqlite:///no/new.db", "the folder of the storage sqlite:///no/new.db does not exist: make it first"),
        ("journal:///no/new.log", "the folder of the storage journal:///no/new.log does not exist"),
        ("sqlite:///folder", "the storage sqlite:///folder is a folder: name a file"),
        ("sqlite:///text.txt", r"cannot be opened \(file is not a database\)"),
        ("journal:///text.txt", "text.txt is no journal of optuna"),
    ],
)
def test_what_cannot_be_opened_is_told_in_a_sentence(address, message, here):
    before = sorted(path.name for path in here.iterdir())
    with pytest.raises(ValueError, match=message) as caught:
        open_storage(address)
    assert "\n" not in str(caught.value) and "secret" not in str(caught.value)
    assert sorted(path.name for path in here.iterdir()) == before
    assert (here / "text.txt").read_text() == "no journal\n"


@pytest.mark.parametrize(
    ("address", "message"),
    [
        ("sqlite:///none.db", "there is no storage sqlite:///none.db: give that of the sweep"),
        ("journal:///none.log", "there is no storage journal:///none.log"),
        ("sqlite:///empty.db", "the storage sqlite:///empty.db holds no sweep"),
    ],
)
def test_what_is_read_only_is_not_made(address, message, here):
    before = {path.name: path.stat().st_size for path in here.iterdir()}
    with pytest.raises(NoStorageError, match=message):
        open_storage(address, must_exist=True)
    assert {path.name: path.stat().st_size for path in here.iterdir()} == before


def test_a_server_that_does_not_answer_is_told_in_a_sentence(monkeypatch):
    sqlalchemy = importlib.import_module("sqlalchemy")

    real = sqlalchemy.engine.create_engine
    # SQLite's driver in the place of one that is not installed: what it raises comes as SQLAlchemy's own error.
    monkeypatch.setattr(
        sqlalchemy.engine, "create_engine", lambda url, **more: real("sqlite://", creator=nobody_of(sqlalchemy))
    )
    with pytest.raises(ValueError, match=r"me:\*\*\*@host/x cannot be opened \(no answer\): check the address"):
        open_storage("postgresql://me:secret@host/x")


def nobody_of(sqlalchemy):
    """A driver's way to say that nobody answers."""

    def creator():
        raise sqlalchemy.exc.OperationalError("connect", {}, Exception("no answer\nis the server running?"))

    return creator


@pytest.mark.parametrize(
    ("address", "module", "remedy"),
    [
        ("postgresql+psycopg", "psycopg", r"psycopg\[binary\]"),
        ("postgresql+psycopg2", "psycopg2", "psycopg2-binary"),
        ("mysql", "MySQLdb", "mysqlclient"),
        ("mysql+pymysql", "pymysql", "pymysql"),
    ],
)
def test_a_driver_that_is_not_installed_is_named(address, module, remedy, monkeypatch):
    monkeypatch.setitem(sys.modules, module, None)  # as where it is not installed
    with pytest.raises(ValueError, match=f"needs a driver that is not installed: pip install {remedy}$"):
        open_storage(f"{address}://me:secret@127.0.0.1:1/x")


def test_without_optuna_it_is_said_what_installs_it(monkeypatch):
    real = importlib.import_module

    def without(name, *more):
        if name == "optuna":
            raise ImportError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(ValueError, match=r"needs the package optuna, .*: pip install bayesprune\[sweep\]"):
        open_storage("sqlite:///x.db")


def test_a_storage_that_is_lost_later_is_no_wrong_usage(here):
    optuna = require_optuna()
    storage = open_storage("sqlite:///new.db")
    study = optuna.create_study(storage=storage, study_name="one")
    (here / "new.db").write_text("something else")
    storage.engine.dispose()
    with pytest.raises(LostStorageError, match="sqlite:///new.db does not answer any more .*: see that it is there"):
        with storage_kept("sqlite:///new.db"):
            study.set_user_attr("a", 1)
    with pytest.raises(LostStorageError, match="does not answer any more"):
        with storage_kept("sqlite:///new.db"):
            try:
                study.set_user_attr("a", 1)
            finally:  # as in Optuna 5.0, which forgets that telling the end of a trial may fail
                raise UnboundLocalError("cannot access local variable")
    with pytest.raises(KeyError):  # control: errors of others stay what they are
        with storage_kept("sqlite:///new.db"):
            raise KeyError("a")


def test_a_password_is_never_told():
    assert told_address("postgresql://me:secret@host/x") == "postgresql://me:***@host/x"
    assert told_address("me:secret@host") == "...@host"
    assert told_address("sqlite:///x.db") == "sqlite:///x.db"
