import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import pytest
from postgres_server import missing, server

from petlas.search.study import StudyRecord
from petlas.search.study import lease as lease_module
from petlas.search.study.lease import HOLDER, DatabasePlace, FolderPlace, Lease, LeaseError, held

Url = Callable[[Path], str | None]
HOLDS = """if True:
    import sys
    from pathlib import Path
    from petlas.search.study import held
    with held(Path(sys.argv[1]), sys.argv[2] or None):
        print("held", flush=True)
        sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases that run out soon."""
    monkeypatch.setattr(lease_module, "BEAT", 0.1)
    monkeypatch.setattr(lease_module, "TERM", 0.6)
    monkeypatch.setattr(lease_module, "_LOOKS_EVERY", 0.02)
    monkeypatch.setattr(lease_module, "_SETTLES_FOR", 0.3)


@pytest.fixture(params=["folder", "sqlite"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """Of the database; None for the journal in the folder."""
    return None if request.param == "folder" else f"sqlite:///{tmp_path / 'all.db'}"


def elsewhere(monkeypatch: pytest.MonkeyPatch, name: str = "elsewhere") -> None:
    """From here on this process is on another machine, whose locks of files do not reach this one's."""
    monkeypatch.setattr(lease_module, "machine", lambda: name)
    monkeypatch.setattr(lease_module, "LOCK", f"run.lock.{name}")


@pytest.fixture
def other(tmp_path: Path, url: str | None) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the run `a/run`."""
    command = [sys.executable, "-c", HOLDS, str(tmp_path / "a/run"), url or ""]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        yield process
        process.kill()


def test_a_live_holder_is_named_and_stays_and_one_that_was_killed_gives_way_at_once(
    tmp_path: Path, url: str | None, other: subprocess.Popen[str]
) -> None:
    folder = tmp_path / "a/run" if url is None else tmp_path / "b/run"
    other.send_signal(signal.SIGSTOP)  # it shows no sign of life, and lives
    time.sleep(1)
    with pytest.raises(LeaseError) as caught, held(folder, url):
        pass
    assert f"process {other.pid} on {socket.gethostname()}, since 20" in str(caught.value)
    other.kill()
    other.wait()
    began = time.monotonic()
    with held(folder, url):
        pass
    assert time.monotonic() - began < 0.6


def test_from_another_machine_signs_of_life_are_watched_and_a_lease_runs_out(
    tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "a/run" if url is None else tmp_path / "b/run"
    with held(tmp_path / "a/run", url) as first, monkeypatch.context() as there:
        elsewhere(there)
        with pytest.raises(LeaseError, match=f"process {os.getpid()} on"), held(folder, url):
            pass
        there.setattr(first, "beat", lambda: None)  # the machine is suspended, or its network is gone
        first._seen -= 60
        with held(folder, url), pytest.raises(LeaseError, match="took it over; nothing more is written"):
            type(first).beat(first)
            first.check()
    with held(tmp_path / "a/run", url):
        pass


def test_clocks_that_differ_do_not_matter(tmp_path: Path, url: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a/run" if url is None else tmp_path / "b/run"
    with held(tmp_path / "a/run", url):
        elsewhere(monkeypatch)
        real = time.time
        for hours in (-5, 5):
            monkeypatch.setattr(lease_module.time, "time", lambda hours=hours: real() + 3600 * hours)
            with pytest.raises(LeaseError), held(folder, url):
                pass


def places(tmp_path: Path, url: str | None, count: int) -> list[FolderPlace] | list[DatabasePlace]:
    if url is None:
        return [FolderPlace(tmp_path) for _ in range(count)]
    with ThreadPoolExecutor(count) as pool:  # all make the table at once
        return list(pool.map(lambda _: DatabasePlace(url, "run"), range(count)))


def test_of_many_newcomers_exactly_one_gets_a_new_lease(tmp_path: Path, url: str | None) -> None:
    together = threading.Barrier(4)

    def take(place: FolderPlace | DatabasePlace) -> bool:
        mine = Lease.mine(tmp_path)
        together.wait()
        return place.swap(None, mine)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, places(tmp_path, url, 4))) == 1


def test_of_many_newcomers_exactly_one_takes_an_old_lease_over(tmp_path: Path, url: str | None) -> None:
    several = places(tmp_path, url, 4)
    old = replace(Lease.mine(tmp_path), machine="gone")
    assert several[0].swap(None, old)
    together = threading.Barrier(4)

    def take(place: FolderPlace | DatabasePlace) -> bool:
        mine = Lease.mine(tmp_path)
        together.wait()
        return place.swap(old, mine)

    with ThreadPoolExecutor(4) as pool:
        assert sum(pool.map(take, several)) == 1


def test_a_lease_that_gave_a_sign_of_life_meanwhile_is_not_taken(tmp_path: Path) -> None:
    place, old = DatabasePlace(f"sqlite:///{tmp_path / 'all.db'}", "run"), Lease.mine(tmp_path)
    place.swap(None, old)
    place.swap(old, replace(old, beat=1))
    assert not place.swap(old, Lease.mine(tmp_path))
    assert place.read() == replace(old, beat=1)


def test_what_fails_for_a_while_is_no_loss_and_a_lease_that_is_gone_is_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held(tmp_path / "run") as holding:
        with monkeypatch.context() as full:
            full.setattr(lease_module, "write_json", lambda *args: (_ for _ in ()).throw(OSError("disk full")))
            holding.beat()
        holding.check()
        (tmp_path / "run" / HOLDER).unlink()
        holding.beat()
        with pytest.raises(LeaseError, match="it was removed"):
            holding.check()


def test_a_lease_that_cannot_be_read_runs_out(tmp_path: Path) -> None:
    (tmp_path / HOLDER).write_text("{")
    with held(tmp_path):
        assert json.loads((tmp_path / HOLDER).read_text())["process"] == os.getpid()
    assert not (tmp_path / HOLDER).exists()


def test_runs_of_one_database_do_not_keep_each_other_out(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    with held(tmp_path / "x", url), held(tmp_path / "y", url):
        found = DatabasePlace(url, "x").read()
    assert found is not None
    assert asdict(found)["folder"] == str(tmp_path / "x")
    assert DatabasePlace(url, "x").read() is None


DRIVERS = """if True:
    import os, sys, time
    from pathlib import Path
    from petlas.petl.design import Design, Placement
    from petlas.search.study import Ending, Entry, StudyRecord, held
    from petlas.search.training.fidelity import Fidelity
    from petlas.spaces import Candidate

    def search(folder, url):
        with held(folder, url) as holding:
            record = StudyRecord.create(folder, url, check=holding.check)
            record.recover()
            for size in range(1, 6):
                entry = Entry(Candidate(Design.of([Placement("lora", 0, size)])), Fidelity(1, 0), "search", size)
                if entry.identity in record.known():
                    continue
                number = record.begin(entry, {}, {}, {})
                if size == 3:
                    Path(sys.argv[1], name).touch()
                while size == 3 and not Path(sys.argv[1], "go").exists():
                    time.sleep(0.02)
                record.report(number, 1, size / 10)
                record.finish(number, Ending(1, size / 10, 0.1))

    for name in sys.argv[3:]:
        if not os.fork():
            search(Path(sys.argv[1], "runs", name), sys.argv[2])
            os._exit(0)
    print("started", flush=True)
    ended = [os.waitpid(-1, 0)[1] for _ in sys.argv[3:]]
    sys.exit(any(ended[1:]))
"""


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_four_drivers_share_a_postgresql_server_and_one_that_is_killed_is_taken_over(tmp_path: Path) -> None:
    names = ["a", "b", "c", "d"]
    with server() as url:
        command = [sys.executable, "-c", DRIVERS, str(tmp_path), url, *names]
        with subprocess.Popen(command, stdout=-1, text=True) as drivers:
            try:
                until = time.monotonic() + 60
                while not all((tmp_path / name).exists() for name in names) and time.monotonic() < until:
                    time.sleep(0.1)
                with pytest.raises(LeaseError, match=r"on the study 'b' of postgresql.*since 20"):
                    held(tmp_path / "elsewhere/b", url).__enter__()
                victim = DatabasePlace(url, "a").read()
                assert victim is not None
                os.kill(victim.process, signal.SIGKILL)
            finally:
                (tmp_path / "go").touch()
            drivers.wait(60)
        with held(tmp_path / "elsewhere/a", url) as holding:  # without the folder of before
            record = StudyRecord.create(holding.folder, url, check=holding.check)
            assert record.recover() == 1
            assert [entry.params for entry in record.cut_off()] == [3]
            assert [trial.state.name for trial in record.trials()] == ["COMPLETE", "COMPLETE", "FAIL"]
        for name in names[1:]:
            others = StudyRecord.read(tmp_path / "runs" / name, url).trials()
            assert [trial.values for trial in others] == [[0.1], [0.2], [0.3], [0.4], [0.5]]


@pytest.mark.skipif(bool(missing()), reason=missing())
def test_of_many_newcomers_on_postgresql_exactly_one_gets_each_lease(tmp_path: Path) -> None:
    with server() as url:
        several = places(tmp_path, url, 8)
        old = None
        for _ in range(5):
            together = threading.Barrier(8)

            def take(place: FolderPlace | DatabasePlace, old: Lease | None = old) -> Lease | None:
                mine = Lease.mine(tmp_path)
                together.wait()  # noqa: B023
                return mine if place.swap(old, mine) else None

            with ThreadPoolExecutor(8) as pool:
                (old,) = [mine for mine in pool.map(take, several) if mine is not None]
