import os
import socket
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from petlas.search.run_folder import RunError
from petlas.search.runners import knock
from petlas.search.runners.knock import MODE, TOKEN, TOKEN_PATH, check_address, find_token, mode_kept

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
GOOD, REFUSED = b"@\x0bgrpc-status\x010", b"\x00\x0bgrpc-status\x0216\x00\x0cgrpc-message>InvalidAuthToken: missing"
Cluster = Callable[[str | None], str]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token lies where Ray looks for it, nor the address of a cluster; and Ray has not been imported."""
    for name in (TOKEN, TOKEN_PATH, MODE, "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    monkeypatch.setattr(knock, "uses_token", threading.Event())


def _cluster() -> Iterator[Cluster]:
    """Starts what answers as a head node of Ray 2.60 does, whether it asks for a token or not; gives its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer(wanted: str | None) -> None:
            for _ in range(2):  # whether it asks, and whether it takes what is here
                try:
                    place, _ = server.accept()
                except OSError:  # the test is over
                    return
                with place:
                    asked = place.recv(4096)
                    place.sendall(SETTINGS)
                    good = wanted is None or f"Bearer {wanted}".encode() in asked
                    place.sendall(GOOD if good else REFUSED)
                    place.recv(1)

        def start(wanted: str | None) -> str:
            threading.Thread(target=answer, args=(wanted,), daemon=True).start()
            return f"127.0.0.1:{server.getsockname()[1]}"

        yield start


cluster, another = pytest.fixture(_cluster), pytest.fixture(_cluster)


@pytest.mark.parametrize("token", ["a" * 64, "b" * 200])
def test_a_cluster_that_takes_the_token_passes(
    cluster: Cluster, another: Cluster, monkeypatch: pytest.MonkeyPatch, token: str
) -> None:
    check_address(cluster(None))
    monkeypatch.setenv(TOKEN, token)
    monkeypatch.setenv(MODE, "token")
    check_address(another(token))


def test_a_token_that_lies_here_is_used_where_the_cluster_asks_for_one_and_there_alone(
    cluster: Cluster, another: Cluster, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A head that uses none can not speak with a driver that does, and takes its workers for dropped: they all end."""
    imported: list[tuple[str, str | None]] = []
    monkeypatch.setattr(knock, "import_module", lambda name: imported.append((name, os.environ.get(MODE))))
    monkeypatch.setenv(TOKEN, "x")
    check_address(cluster(None))
    assert imported == []
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text(another("x"))
    check_address("auto")
    assert imported == [("petlas.search.runners.ray.cluster", "token")]
    assert MODE not in os.environ  # or whatever this process starts later would use it everywhere


def test_that_ray_has_used_a_token_is_remembered_and_what_then_helps_is_told(
    cluster: Cluster, another: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a notebook after a search on a cluster with a token, or with a Ray of its own, which makes one."""
    monkeypatch.setenv(TOKEN, "x")
    monkeypatch.setitem(sys.modules, "ray", None)
    with mode_kept():
        os.environ[MODE] = "token"  # as ray.init does for a Ray of its own
    assert MODE not in os.environ
    check_address(another("x"))
    with pytest.raises(RunError, match=r"uses no token, and Ray has used one in this process; .*start Python anew"):
        check_address(cluster(None))
    monkeypatch.setenv(MODE, "disabled")
    with mode_kept():
        os.environ[MODE] = "token"
    assert os.environ[MODE] == "disabled"


def test_what_ray_was_imported_with_or_told_that_does_not_fit_the_cluster_is_refused(
    cluster: Cluster, another: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(TOKEN, "x")
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(RunError, match=r"asks for a token, and Ray was imported here without one; .*start Python anew"):
        check_address(cluster("x"))
    monkeypatch.setenv(MODE, "token")
    with pytest.raises(RunError, match=r"uses no token, and RAY_AUTH_MODE is token here, .*unset RAY_AUTH_MODE here"):
        check_address(another(None))


def test_a_cluster_that_ray_has_written_down_and_that_is_gone_is_told(tmp_path: Path) -> None:
    """Ray itself tries for minutes to reach it."""
    (tmp_path / "ray").mkdir()
    (tmp_path / "ray/ray_current_cluster").write_text("127.0.0.1:1")
    with pytest.raises(
        RunError, match=r"running cluster, got 'auto' \(127\.0\.0\.1:1: .*start one with ray start --head"
    ):
        check_address("auto")


def test_a_token_that_is_missing_wrong_or_not_used_is_told_with_the_command_that_helps(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RunError, match=r"asks for a token, and there is none here; .*ray get-auth-token.*auth_token"):
        check_address(cluster("right"))
    monkeypatch.setenv(TOKEN, "wrong")
    with pytest.raises(RunError, match="the one here is not it"):
        check_address(cluster("right"))
    monkeypatch.setenv(MODE, "disabled")
    with pytest.raises(RunError, match="RAY_AUTH_MODE is disabled here"):
        check_address(cluster("wrong"))


def test_the_token_is_found_where_ray_looks_for_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert find_token() is None
    (tmp_path / ".ray").mkdir()
    (tmp_path / ".ray/auth_token").write_text("home\n")
    assert find_token() == "home"
    (tmp_path / "other").write_text("file")
    monkeypatch.setenv(TOKEN_PATH, str(tmp_path / "other"))
    assert find_token() == "file"
    monkeypatch.setenv(TOKEN, "variable")
    assert find_token() == "variable"


@pytest.mark.parametrize("address", ["auto", "local", "ray://somewhere", "host"])
def test_words_that_only_ray_knows_pass(address: str) -> None:
    check_address(address)
