"""A PostgreSQL server of a test's own: Debian's, on a loopback port, in a temporary folder."""

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path


def missing() -> str:
    """Why there can be no server here; empty where there can."""
    if _programs() is None:
        return "no PostgreSQL server is installed; apt-get install postgresql"
    if find_spec("psycopg") is None and find_spec("psycopg2") is None:
        return "no driver of PostgreSQL is installed; pip install 'petlas[postgres]'"
    if os.getuid() == 0 and (shutil.which("runuser") is None or not _has_user()):
        return "PostgreSQL does not run as root, and there is no user postgres"
    return ""


def _programs() -> Path | None:
    found = shutil.which("initdb")
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[4]))
    return Path(found).parent if found else debian[-1].parent if debian else None


def _has_user() -> bool:
    return subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode == 0


@contextmanager
def server() -> Iterator[str]:
    """A server until the block is left; gives the URL of its empty database."""
    programs = _programs()
    assert programs is not None, missing()
    scratch = Path(tempfile.mkdtemp(prefix="petlas-pg-"))  # not pytest's: only root may look into that
    prefix = ["runuser", "-u", "postgres", "--"] if os.getuid() == 0 else []
    if prefix:
        shutil.chown(scratch, "postgres")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def call(program: str, *arguments: str) -> None:
        subprocess.run([*prefix, programs / program, *arguments], check=True, stdout=subprocess.DEVNULL, cwd="/")

    data = str(scratch / "data")
    options = f"-c listen_addresses=127.0.0.1 -c port={port} -c unix_socket_directories={scratch} -c fsync=off"
    try:
        call("initdb", "-D", data, "-U", "petlas", "-A", "trust", "--no-sync")
        call("pg_ctl", "-D", data, "-w", "-l", str(scratch / "log"), "-o", options, "start")
        try:
            yield f"postgresql://petlas@127.0.0.1:{port}/postgres"
        finally:
            call("pg_ctl", "-D", data, "-m", "immediate", "stop")
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
