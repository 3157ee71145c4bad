from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petlas.search import hub
from petlas.search.hub import HubError, Push


class Api:
    """The Hub, in memory."""

    def __init__(self, token: str) -> None:
        self.token, self.files = token, {}
        self.error: Exception | None = None

    def create_repo(self, repo: str, private: bool, exist_ok: bool) -> Any:
        if self.error:
            raise self.error
        assert private
        return SimpleNamespace(repo_id=f"me/{repo}")

    def create_commit(self, repo: str, operations: list[Any], commit_message: str) -> Any:
        if self.error:
            raise self.error
        self.files |= {o.path_in_repo: Path(o.path_or_fileobj).read_text() for o in operations}
        return SimpleNamespace(commit_url=f"https://hub/{repo}/commit/1")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Api:
    made = Api("secret")
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr(hub.huggingface_hub, "HfApi", lambda token: made if token == "secret" else None)
    return made


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    path = tmp_path / "best/adapter.safetensors"
    path.parent.mkdir()
    path.write_text("values")
    (path.parent / "card.md").write_text("card")
    return path


def test_the_export_goes_with_adapter_and_card(api: Api, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "out/deep").mkdir(parents=True)
    (tmp_path / "out/deep/a.txt").write_text("a")
    push = Push("flowers", adapter)
    assert push.upload(tmp_path / "out") == "https://hub/me/flowers/commit/1"
    assert api.files == {"deep/a.txt": "a", "adapter.safetensors": "values", "README.md": "card"}
    api.files = {}
    push.upload(tmp_path / "out/deep/a.txt")
    assert api.files == {"a.txt": "a", "adapter.safetensors": "values", "README.md": "card"}


def test_what_is_missing_is_told_before_any_work(
    api: Api, adapter: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with pytest.raises(HubError, match=r"no card.md beside .*petlas retrain writes it"):
        Push("flowers", tmp_path / "adapter.safetensors")
    api.error = ConnectionError("no route")
    with pytest.raises(HubError, match=r"did not take flowers \(ConnectionError: no route\).*check the network"):
        Push("flowers", adapter)
    api.error = None
    push = Push("flowers", adapter)
    api.error = PermissionError("403")
    with pytest.raises(HubError, match="is written; check the network"):
        push.upload(adapter)
    monkeypatch.delenv("HF_TOKEN")
    monkeypatch.delenv("HUGGING_FACE_HUB_TOKEN", raising=False)
    with pytest.raises(HubError, match="set HF_TOKEN"):
        Push("flowers", adapter)


def test_a_hub_that_is_switched_off_is_told(adapter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_TOKEN", "secret")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(HubError, match="HF_HUB_OFFLINE"):
        Push("flowers", adapter)
