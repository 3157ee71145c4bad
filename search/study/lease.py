"""Who works on a run: a lease on its folder and on its study, which lasts as long as its holder shows signs of life.

A newcomer never compares the clocks of two machines. It takes a lease at once when it knows that the holder has ended,
it is refused at once when it knows that the holder lives, and otherwise it watches whether the holder's count of signs
of life goes on, for `TERM` seconds of its own clock.
"""

from __future__ import annotations

import json
import logging
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import cache
from pathlib import Path
from typing import Any, Protocol

from filelock import FileLock, Timeout
from sqlalchemy import Column, Integer, MetaData, String, Table, Text, delete, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from petlas.errors import UserError
from petlas.files import write_json
from petlas.search.study.storage import connect, made, without_passwords

log = logging.getLogger("petlas")

BEAT = 5.0
"""Seconds between two signs of life."""
TERM = 30.0
"""Seconds without one after which a lease has run out."""

LOCK, HOLDER = "run.lock", "run.holder"
"""Files in a run folder: what its holder keeps locked, and its lease."""

_LOOKS_EVERY, _SETTLES_FOR, _LOCK_WAIT = 0.5, 2.0, 0.2  # seconds


class LeaseError(UserError):
    """A run that another process works on: the message says which, where and since when."""


@dataclass(frozen=True)
class Lease:
    """Who works on a run.

    Args:
        host: The name of its machine.
        process: Its number there.
        since: When it began, by its own clock.
        machine: What tells its machine from others, also after a restart and from within containers.
        folder: The run folder that it works in.
        token: Its own.
        beat: Counts its signs of life.
    """

    host: str
    process: int
    since: str
    machine: str
    folder: str
    token: str
    beat: int = 0

    @classmethod
    def mine(cls, folder: Path) -> Lease:
        """A new one of this process."""
        since = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
        place = str(folder.absolute())
        return cls(socket.gethostname(), os.getpid(), since, machine(), place, secrets.token_hex(8))

    @property
    def holder(self) -> str:
        """Who holds it, in words."""
        return f"process {self.process} on {self.host}, since {self.since}," if self.process else "another one"


_UNREADABLE = Lease("", 0, "", "", "", "")


@cache
def machine() -> str:
    """What tells this machine from others: two may have one name, and a restarted one runs none of its processes."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
    except OSError:
        return socket.gethostname()


class Place(Protocol):
    """Where a lease is kept."""

    def __str__(self) -> str:
        """What it is of, as in `one process at a time may work in ...`."""

    def read(self) -> Lease | None:
        """The lease that is there."""

    def swap(self, before: Lease | None, after: Lease | None) -> bool:
        """Put one lease in the place of another, of all that try it at once exactly one; whether it was this one.

        Args:
            before: What must be there; its count of signs of life must be that, too, unless this process holds it.
            after: What is there then.
        """

    def ended(self, lease: Lease) -> bool | None:
        """Whether its holder has ended; None where that cannot be known from here."""


class FolderPlace:
    """A run folder, whose lock this process holds: where locks reach, nobody else gets as far as the lease in it.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / HOLDER

    def __str__(self) -> str:
        return f"in {self._folder}"

    def read(self) -> Lease | None:
        """The lease that is there; one without a holder if it cannot be read."""
        try:
            return Lease(**json.loads(self._path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, TypeError):
            return _UNREADABLE

    def swap(self, before: Lease | None, after: Lease | None) -> bool:
        """Put one lease in the place of another, or fail.

        Args:
            before: What must be there.
            after: What is there then.
        """
        if before is None and after is not None:
            return self._create(after)
        found = self.read()
        if found is None or before is None or found.token not in ("", before.token) or not self._folder.is_dir():
            return False
        if after is None:
            self._path.unlink(missing_ok=True)
            return True
        write_json(self._path, asdict(after))
        if after.token != before.token and before.machine != machine():
            time.sleep(_SETTLES_FOR)  # the locks of a shared folder may not reach another newcomer: the last one stays
            return self.read() == after
        return True

    def _create(self, lease: Lease) -> bool:
        try:
            with self._path.open("x", encoding="utf-8") as file:
                json.dump(asdict(lease), file)
        except FileExistsError:
            return False
        return True

    def ended(self, lease: Lease) -> bool | None:
        """Whether its holder has ended: it held the lock that this process holds now."""
        return True if lease.machine == machine() else None


_TABLE = Table(
    "petlas_leases",
    MetaData(),
    Column("study", String(512), primary_key=True),
    Column("token", String(64), nullable=False),
    Column("beat", Integer, nullable=False),
    Column("lease", Text, nullable=False),
)


class DatabasePlace:
    """A study in a database: a row of a table of petlas's own, changed by single statements, which are atomic.

    Args:
        url: Of the database.
        study: The study's name.
        ended: The token of a lease whose holder is known to have ended.
    """

    def __init__(self, url: str, study: str, ended: str = "") -> None:
        self._url, self._study, self._ended = url, study, ended
        self._engine = connect(url)
        made(url, lambda: _TABLE.create(self._engine, checkfirst=True))

    def __str__(self) -> str:
        return f"on the study {self._study!r} of {without_passwords(self._url)}"

    def read(self) -> Lease | None:
        """The lease that is there."""
        asked = select(_TABLE.c.lease, _TABLE.c.beat).where(_TABLE.c.study == self._study)
        with self._engine.connect() as connection:
            row = connection.execute(asked).first()
        return None if row is None else Lease(**json.loads(row.lease) | {"beat": row.beat})

    def swap(self, before: Lease | None, after: Lease | None) -> bool:
        """Put one lease in the place of another, or fail.

        Args:
            before: What must be there.
            after: What is there then.
        """
        values: dict[str, Any] = {}
        if after is not None:
            values = {"token": after.token, "beat": after.beat, "lease": json.dumps(asdict(after))}
        with self._engine.connect() as connection:
            if before is None:
                with suppress(IntegrityError):
                    connection.execute(insert(_TABLE).values(study=self._study, **values))
                    return True
                return False
            here = (_TABLE.c.study == self._study) & (_TABLE.c.token == before.token) & (_TABLE.c.beat == before.beat)
            change = delete(_TABLE).where(here) if after is None else update(_TABLE).where(here).values(**values)
            return connection.execute(change).rowcount == 1

    def ended(self, lease: Lease) -> bool | None:
        """Whether its holder has ended: on this machine, it would keep its own folder locked."""
        if lease.token == self._ended:
            return True
        folder = Path(lease.folder)
        if lease.machine != machine() or getattr(FolderPlace(folder).read(), "token", None) != lease.token:
            return None
        with ExitStack() as stack:
            return _locks(folder, stack)


class Holding:
    """The leases of a run that this process holds, and gives signs of life for.

    Args:
        folder: The run folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: list[tuple[Place, Lease]] = []
        self._lost: LeaseError | None = None
        self._mutex = threading.Lock()
        self._seen = time.time()

    def take(self, place: Place) -> Lease | None:
        """Take the lease of a place, at once or when it has run out; whose it was, if it was not given back.

        Raises:
            LeaseError: When its holder lives.
        """
        mine = replace(self._held[0][1], beat=0) if self._held else Lease.mine(self.folder)
        while True:
            found = place.read()
            if found is not None and not _has_ended(place, found):
                raise LeaseError(
                    f"one process at a time may work {place}, and {found.holder} does; wait for it or end it"
                )
            if place.swap(found, mine):
                self._held.append((place, mine))
                return found

    def beat(self) -> None:
        """Give a sign of life in all places; where that fails, the next one may reach them."""
        with self._mutex:
            for index, (place, mine) in enumerate(self._held):
                after = replace(mine, beat=mine.beat + 1)
                with suppress(OSError, SQLAlchemyError):
                    if place.swap(mine, after):
                        self._held[index], self._seen = (place, after), time.time()
                    elif (found := place.read()) is not None and found.token == mine.token:
                        self._held[index] = place, found  # the answer to the last one was lost on its way
                    else:
                        by = "it was removed" if found is None else f"{found.holder} took it over"
                        self._lost = LeaseError(f"this process no longer works {place}: {by}; nothing more is written")

    def check(self) -> None:
        """Make sure that nobody took over, as may be after a pause of this machine: call it before writing.

        Raises:
            LeaseError: When somebody did.
        """
        if abs(time.time() - self._seen) > TERM - BEAT:  # a clock that was set costs a sign of life, and no more
            self.beat()
        if self._lost is not None:
            raise self._lost

    def give_back(self) -> None:
        """Let others in."""
        with self._mutex:
            for place, mine in reversed(self._held):
                with suppress(OSError, SQLAlchemyError):
                    place.swap(mine, None)
            self._held = []


@contextmanager
def held(folder: Path, url: str | None = None) -> Iterator[Holding]:
    """Keep other processes out of a run, on this machine and on others, as long as this one lives.

    Args:
        folder: The run folder, which is made; its name is the study's in a database.
        url: The database of the study; None for the journal in the folder.

    Raises:
        LeaseError: When another process works on the run.
        StorageError: When the database cannot be reached.
        OSError: When the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    holding, over = Holding(folder), threading.Event()

    def beat() -> None:
        while not over.wait(BEAT):
            holding.beat()

    with ExitStack() as stack:
        place = FolderPlace(folder)
        if not _locks(folder, stack):
            holder = (place.read() or _UNREADABLE).holder
            raise LeaseError(f"one process at a time may work {place}, and {holder} does; wait for it or end it")
        stack.callback(holding.give_back)
        before = holding.take(place)
        heart = threading.Thread(target=beat, name="petlas-lease", daemon=True)
        stack.callback(heart.join)
        stack.callback(over.set)
        heart.start()
        if url is not None:
            holding.take(DatabasePlace(url, folder.absolute().name, before.token if before else ""))
        yield holding


def _locks(folder: Path, stack: ExitStack) -> bool:
    """Lock a run folder until a stack is left; False where another process has locked it. A killed one has not."""
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=_LOCK_WAIT)
    except Timeout:
        return False
    stack.callback(lock.release)
    return True


def _has_ended(place: Place, lease: Lease) -> bool:
    """Whether a holder has ended, or has shown no sign of life for so long that its lease has run out."""
    known = place.ended(lease)
    if known is not None:
        return known
    log.info("%s worked %s; waiting up to %.0f s for a sign of life", lease.holder.rstrip(","), place, TERM)
    until = time.monotonic() + TERM
    while time.monotonic() < until:
        time.sleep(_LOOKS_EVERY)
        found = place.read()
        if found != lease:
            return found is None  # given back just now
    return True
