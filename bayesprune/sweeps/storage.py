"""The storage of a sweep: a database or a journal file by its address, opened by Optuna or refused in a sentence."""

from __future__ import annotations

import contextlib
import importlib
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bayesprune.models.files.places import expanded

__all__ = [
    "LostStorageError", "NoStorageError", "open_storage", "quiet", "require_optuna", "storage_kept", "told_address",
]  # fmt: skip

JOURNAL = "journal"
"""Scheme of a journal file, Optuna's log that processes append to; SQLAlchemy knows the others."""
BUSY_SECONDS = 100
"""How long SQLite waits for other processes that write."""
ANSWER_SECONDS = 15
"""How long a server has to answer a call."""
_EXPECTED = "give sqlite:///FILE, journal:///FILE or postgresql://USER@HOST/DATABASE"
_DRIVERS = {"psycopg": "psycopg[binary]", "psycopg2": "psycopg2-binary", "MySQLdb": "mysqlclient"}
"""Packages whose names are not those of the modules that they install; none is part of the extra."""
_SERVERS = ("postgresql", "mysql")
"""What has a driver by default that knows a `connect_timeout`."""
_NO_TABLE = ("no such table", "does not exist", "doesn't exist")
"""What SQLite, PostgreSQL and MySQL say of a table that is not there."""
_TIMED = ("psycopg2", "psycopg", "pymysql", "mysqldb")
"""Drivers that know a `connect_timeout`."""


class NoStorageError(ValueError):
    """There is nothing at an address, or a database without a sweep."""


@dataclass
class _Quiet:
    """How many are in `quiet`, and what puts back what was."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    put_back: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    depth: int = 0


_QUIET = _Quiet()


class LostStorageError(RuntimeError):
    """A storage that could be opened does not answer any more."""


def require_optuna() -> Any:
    """The package optuna.

    Raises:
        ValueError: If it is not installed, with what installs it.
    """
    try:
        return importlib.import_module("optuna")
    except ImportError as problem:
        raise ValueError(
            "a sweep needs the package optuna, which is not installed: pip install bayesprune[sweep]"
        ) from problem


def open_storage(
    address: str,
    must_exist: bool = False,
    heartbeat: int | None = None,
    grace: int | None = None,
    silent: Callable[[Any, Any], None] | None = None,
) -> Any:
    """Opens the storage that several processes and machines share.

    Args:
        address: ``sqlite:///FILE`` and ``journal:///FILE`` (three slashes: from the current folder; four: from the
            root), or a server as SQLAlchemy writes it, ``postgresql://USER:PASSWORD@HOST/DATABASE``.
        must_exist: Whether a file that is not there is refused, in place of being made; default False.
        heartbeat: Seconds between two signs of life of a trial; a journal keeps none. Default None: no sign.
        grace: Seconds without a sign after which a trial is held for dead; default None: twice `heartbeat`.
        silent: Is called with the study and a trial that was found dead; default None.

    Returns:
        Optuna's storage.

    Raises:
        NoStorageError: If `must_exist`, and there is none.
        ValueError: In a sentence, without the password: if optuna or a driver is not installed, the address is none,
            its scheme is unknown, the storage cannot be reached or holds something else.
    """
    optuna = require_optuna()
    sqlalchemy = importlib.import_module("sqlalchemy")
    try:
        url = sqlalchemy.engine.make_url(address)
    except (sqlalchemy.exc.ArgumentError, ValueError) as problem:  # the second of a port that is no number
        raise ValueError(f"{_without_password(address)!r} is no address of a storage: {_EXPECTED}") from problem
    if url.drivername == JOURNAL:
        return _journal(optuna, url, must_exist)
    kind = url.get_backend_name()
    connect: dict[str, Any] = {}
    if kind == "sqlite":
        _file(url, must_exist)
        connect["timeout"] = BUSY_SECONDS
    elif url.drivername.rpartition("+")[2] in _TIMED or url.drivername in _SERVERS:
        connect["connect_timeout"] = ANSWER_SECONDS
    try:
        with quiet():
            return optuna.storages.RDBStorage(
                address,
                engine_kwargs={"connect_args": connect, "pool_pre_ping": kind != "sqlite"},
                heartbeat_interval=heartbeat,
                grace_period=grace,
                heartbeat_stale_trial_callback=silent,
                skip_table_creation=must_exist,  # whose database it is, is not known yet
            )
    except sqlalchemy.exc.NoSuchModuleError as problem:
        raise ValueError(f"the storage {told_address(address)} is of an unknown kind: {_EXPECTED}") from problem
    except ImportError as problem:
        module = getattr(problem.__cause__, "name", None) or kind
        package = _DRIVERS.get(module, module)
        raise ValueError(
            f"the storage {told_address(address)} needs a driver that is not installed: pip install {package}"
        ) from problem
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as problem:
        if must_exist and any(words in _reason(problem) for words in _NO_TABLE):
            raise NoStorageError(
                f"the storage {told_address(address)} holds no sweep: give that of the sweep"
            ) from problem
        raise ValueError(
            f"the storage {told_address(address)} cannot be opened ({_reason(problem)}): check the address, and that "
            "it can be reached from here"
        ) from problem
    except RuntimeError as problem:  # of Optuna, about its version
        raise ValueError(f"the storage {told_address(address)} is of another version of optuna: {problem}") from problem


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without Optuna's log lines, and without its word on what is experimental.

    Both are of the whole process: where several threads are in such blocks, the first puts them out and the last back.
    """
    optuna = require_optuna()
    with _QUIET.lock:
        if not _QUIET.depth:
            _QUIET.put_back.callback(optuna.logging.set_verbosity, optuna.logging.get_verbosity())
            optuna.logging.set_verbosity(optuna.logging.CRITICAL)
            _QUIET.put_back.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        _QUIET.depth += 1
    try:
        yield
    finally:
        with _QUIET.lock:
            _QUIET.depth -= 1
            if not _QUIET.depth:
                _QUIET.put_back.close()


@contextlib.contextmanager
def storage_kept(address: str) -> Iterator[None]:
    """Says in a sentence that a storage which could be opened does not answer any more.

    Raises:
        LostStorageError: In place of what Optuna, SQLAlchemy or the disk raise.
    """
    optuna, sqlalchemy = require_optuna(), importlib.import_module("sqlalchemy")
    try:
        yield
    except ValueError:  # a sentence of ours
        raise
    except Exception as problem:
        kinds = (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError)
        # Optuna may stumble over an error of its own while it handles that of the storage.
        lost = next((one for one in _before(problem) if isinstance(one, kinds)), None)
        if lost is None:
            raise
        raise LostStorageError(
            f"the storage {told_address(address)} does not answer any more ({_reason(lost)}): see that it is there"
        ) from problem


def told_address(address: str) -> str:
    """The address as it may be printed: without its password."""
    sqlalchemy = importlib.import_module("sqlalchemy")
    try:
        return str(sqlalchemy.engine.make_url(address).render_as_string(hide_password=True))
    except (sqlalchemy.exc.ArgumentError, ValueError):
        return _without_password(address)


def _before(problem: BaseException | None) -> Iterator[BaseException]:
    """An error, and those in whose handling it was raised."""
    while problem is not None:
        yield problem
        problem = problem.__cause__ or (None if problem.__suppress_context__ else problem.__context__)


def _without_password(text: str) -> str:
    """A text that is no address, without what may be the password of one."""
    before, at, after = text.rpartition("@")
    scheme, slashes, _ = before.partition("://")
    return f"{scheme}{slashes}...@{after}" if at and slashes else f"...@{after}" if at else text


def _file(url: Any, must_exist: bool) -> Path:
    """The file of an address, whose folder is there."""
    told = url.render_as_string(hide_password=True)
    if url.host:
        raise ValueError(
            f"the storage {told} names {url.host!r} as a machine: write three slashes before a relative path, four "
            "before an absolute one"
        )
    if not url.database or url.database == ":memory:":
        raise ValueError(f"the storage {told} names no file, so no other process could share it: {_EXPECTED}")
    file = expanded(url.database)
    if not file.absolute().parent.is_dir():
        raise ValueError(f"the folder of the storage {told} does not exist: make it first, or choose another place")
    if file.is_dir():
        raise ValueError(f"the storage {told} is a folder: name a file")
    if must_exist and not file.exists():
        raise NoStorageError(f"there is no storage {told}: give that of the sweep")
    return file


def _journal(optuna: Any, url: Any, must_exist: bool) -> Any:
    """A journal; a file of something else is not appended to."""
    file = _file(url, must_exist)
    told = url.render_as_string(hide_password=True)
    journal = importlib.import_module("optuna.storages.journal")
    try:
        with quiet():
            if file.exists() and not _is_log(file):
                raise ValueError(f"{file} is no journal of optuna: choose another file for the storage {told}")
            return optuna.storages.JournalStorage(journal.JournalFileBackend(str(file.absolute())))
    except (OSError, json.JSONDecodeError) as problem:
        raise ValueError(
            f"the storage {told} cannot be opened ({_reason(problem)}): check the address, and that you may write there"
        ) from problem


def _is_log(file: Path) -> bool:
    """Whether a file is empty, or begins as a journal does."""
    with file.open("rb") as opened:
        first = opened.readline(1_000_000)
    try:
        return not first or "op_code" in json.loads(first)
    except (ValueError, TypeError):
        return False


def _reason(problem: BaseException) -> str:
    """The first line of what a library says, that of its driver where there is one."""
    inner = getattr(problem, "orig", None) or problem.__cause__ or problem
    inner = getattr(inner, "orig", None) or inner
    return (getattr(inner, "strerror", None) or str(inner)).strip().split("\n")[0][:200]
