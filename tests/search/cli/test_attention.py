from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from petlas.search import api

pytestmark = pytest.mark.usefixtures("some_digits")


def test_what_is_asked_for_is_passed_on_and_told(
    petlas: Callable[..., Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked: list[Any] = []
    found = SimpleNamespace(block=3, to_dict=lambda: {"block": 3})
    monkeypatch.setattr(api, "attention", lambda *args, **kwargs: asked.append((args, kwargs)) or found)
    best = tmp_path / "runs/mine/best"
    best.mkdir(parents=True)
    (best / "adapter.safetensors").touch()
    assert petlas("attention", "mine", "a.png", "--block", 3).out.startswith("wrote attention.png")
    assert petlas("attention", "mine", "a.png", "--out", "b.png", "-f", "json").json == {"block": 3, "path": "b.png"}
    (adapter, image), options = asked[0]
    assert (adapter, image) == (Path("runs/mine/best/adapter.safetensors"), Path("a.png"))
    assert options == {"out": Path("attention.png"), "block": 3, "checkpoint": None}


def test_a_name_that_is_no_pictures_ends_with_status_2(petlas: Callable[..., Any]) -> None:
    result = petlas("attention", "x.safetensors", "a.png", "--out", "a.pdf")
    assert result.status == 2
    assert "ends in .png" in result.err
