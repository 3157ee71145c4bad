"""Where a study lies: a journal in the run folder, which is quick and made for crashes, or a database."""

from __future__ import annotations

import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy import URL, Engine, NullPool, create_engine, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, NoSuchModuleError

from petlas.errors import UserError
from petlas.files import replacing

T = TypeVar("T")

JOURNAL = "study.journal"
"""The working study, in Optuna's journal format."""
DATABASE = "study.db"
"""Its copy in SQLite, made when a search ends, for tools that read databases."""

_LOCK_SECONDS = 5
"""A lock on the journal that is older was left by a killed process: an operation takes a millisecond."""

_DRIVERS = {"postgresql": "pip install 'petlas[postgres]'", "mysql": "pip install pymysql"}
"""What brings a driver, by the first word of a URL."""
_HASTE: dict[str, Any] = {"connect_timeout": 5}  # seconds
_SERVERS = {"psycopg2": _HASTE, "psycopg": _HASTE, "pymysql": _HASTE, "mysqldb": _HASTE}
"""What keeps drivers from waiting for minutes for a server that is not there."""
_POSTGRES = ("psycopg", "psycopg2")
_TRIES, _TRIES_EVERY = 10, 0.3
"""Several processes may make the tables of a new database at once: but for one, each finds some half made."""


class StorageError(UserError):
    """A study that cannot be opened: the message says which, why and what to do."""


def open_storage(folder: Path, url: str | None) -> BaseStorage:
    """The storage of a run: the journal in its folder, or the database at a URL.

    Args:
        folder: The run folder.
        url: Such as `postgresql://user:password@host/name`; None for the run folder.

    Raises:
        StorageError: When it cannot be opened.
    """
    if url is not None:
        return _open_database(url)
    path = folder / JOURNAL
    try:
        return JournalStorage(JournalFileBackend(str(path), lock_obj=JournalFileOpenLock(str(path), _LOCK_SECONDS)))
    except OSError as error:
        raise StorageError(f"the study {path} cannot be opened ({error}); check the folder's permissions") from error
    except ValueError as error:
        raise StorageError(
            f"the study {path} must be what petlas wrote, and a line of it is none ({error}); restore the file, or "
            "remove the folder to search anew"
        ) from error


def mend_journal(folder: Path) -> None:
    """Take off a last line that a full disk or a power cut left half written: what comes next would be lost with it.

    Only whoever holds the run folder may call it.
    """
    path = folder / JOURNAL
    if not path.is_file():
        return
    with path.open("rb+") as file:
        data = file.read()
        whole = data.rfind(b"\n") + 1
        if whole < len(data):
            file.truncate(whole)


def _open_database(url: str) -> BaseStorage:
    place = connect(url).url
    whole = place.render_as_string(hide_password=False)
    options = {"connect_args": _haste(place), "pool_pre_ping": True}  # a server may be started anew on the way
    return made(url, lambda: RDBStorage(whole, engine_kwargs=options))


def connect(url: str) -> Engine:
    """A database, for single statements that are done at once; somebody answers there.

    Args:
        url: Of the database.

    Raises:
        StorageError: When nobody does, telling what helps.
    """
    with _told(url):
        place = _with_driver(make_url(url))
        if place.get_backend_name() == "sqlite" and place.database in (None, "", ":memory:"):
            raise ValueError("a database in memory ends with its process; name a file")
        engine = create_engine(place, isolation_level="AUTOCOMMIT", poolclass=NullPool, connect_args=_haste(place))
        engine.connect().close()
        return engine


def made(url: str, make: Callable[[], T]) -> T:
    """What needs tables that are made where they are missing, also where others make them at the same time.

    Args:
        url: Of the database.
        make: Makes it, or raises what SQLAlchemy raises.

    Raises:
        StorageError: When it cannot be made.
    """
    with _told(url):
        for _ in range(_TRIES - 1):
            try:
                return make()
            except DBAPIError:
                time.sleep(_TRIES_EVERY)
        return make()


def _with_driver(place: URL) -> URL:
    """A database with a driver that is installed where its URL names none: SQLAlchemy's default changed in 2.1."""
    installed = [name for name in _POSTGRES if find_spec(name) is not None]
    return (
        place.set(drivername=f"postgresql+{installed[0]}") if place.drivername == "postgresql" and installed else place
    )


def _haste(place: URL) -> dict[str, Any]:
    return _SERVERS.get(place.get_driver_name(), {})


@contextmanager
def _told(url: str) -> Iterator[None]:
    """Let what is wrong with a database be told with what helps, and without its password."""
    shown, kind = without_passwords(url), url.partition(":")[0].partition("+")[0]
    try:
        yield
    except NoSuchModuleError as error:
        known = ", ".join(f"{name}://" for name in ("sqlite", *_DRIVERS))
        install = _DRIVERS.get(kind, f"write {known}, or install the driver that its URL names")
        raise StorageError(f"storage needs a driver for {shown} ({error}); {install}") from error
    except ImportError as error:
        install = _DRIVERS.get(kind, "install the driver that its URL names")
        raise StorageError(f"storage needs a driver for {shown} ({error}); {install}") from error
    except (ArgumentError, ValueError) as error:
        raise StorageError(f"storage must be a database URL, got {shown} ({error})") from error
    except DBAPIError as error:
        why = without_passwords(str(error.orig).strip().splitlines()[0])
        raise StorageError(f"storage: no database answers at {shown} ({why}); start it, or correct the URL") from error


def without_passwords(text: str) -> str:
    """A text with URLs such as `postgresql://user:password@host/name`, fit to be shown."""
    return re.sub(r"(://[^:@/\s]*):[^@\s]*@", r"\1:***@", text)


def sqlite_url(path: Path) -> str:
    """The URL of a SQLite file, whatever marks its path holds."""
    return URL.create("sqlite", database=str(path.absolute())).render_as_string()


def export_database(storage: BaseStorage, name: str, path: Path) -> None:
    """Copy a study to a SQLite file, whole or not at all: Optuna's own tools and dashboards read it.

    Args:
        storage: Where the study lies.
        name: Its name.
        path: The file; it is replaced at once.
    """
    with tempfile.TemporaryDirectory(prefix="petlas-study-") as scratch:
        copy = Path(scratch) / DATABASE
        database = RDBStorage(sqlite_url(copy))
        optuna.copy_study(from_study_name=name, from_storage=storage, to_storage=database)
        database.remove_session()
        database.engine.dispose()
        with replacing(path) as file, copy.open("rb") as source:
            shutil.copyfileobj(source, file)
