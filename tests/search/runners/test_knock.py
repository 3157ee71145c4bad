import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from petlas.search.run_folder import RunError
from petlas.search.runners.knock import MODE, TOKEN, TOKEN_PATH, check_address, find_token

SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
GOOD, REFUSED = b"@\x0bgrpc-status\x010", b"\x00\x0bgrpc-status\x0216\x00\x0cgrpc-message>InvalidAuthToken: missing"
Cluster = Callable[[str | None], str]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No token lies where Ray looks for it."""
    for name in (TOKEN, TOKEN_PATH, MODE, "RAY_USE_TLS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    """Starts what answers as a head node of Ray 2.60 does, whether it asks for a token or not; gives its address."""
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()

        def answer(wanted: str | None) -> None:
            place, _ = server.accept()
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


@pytest.mark.parametrize("token", ["a" * 64, "b" * 200])
def test_a_cluster_that_takes_the_token_passes(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, token: str) -> None:
    check_address(cluster(None))
    monkeypatch.setenv(TOKEN, token)
    check_address(cluster(token))


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
