from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.petl import Design, apply, load_backbone, save_adapter

pytestmark = pytest.mark.usefixtures("some_digits")

Petlas = Callable[..., Any]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=10, img_size=32), Design((), "vit_mini_patch16_64"))
    path = tmp_path / "adapter.safetensors"
    save_adapter(model, path)
    return path


def test_metrics_and_classes_are_printed(petlas: Petlas, adapter: Path) -> None:
    result = petlas("evaluate", adapter, "digits", "--view", "val")
    assert result.status == 0
    assert "digits, val: " in result.out
    assert "accuracy " in result.out and "(standard error " in result.out
    assert "expected calibration error" in result.out
    data = petlas("evaluate", adapter, "digits", "-f", "json").json
    assert set(data) >= {"metrics", "errors", "per_class", "confusion", "calibration", "view", "images", "notes"}
    assert data["view"] == "test"
    assert len(data["per_class"]) == len(data["confusion"]) == 10


def test_an_unknown_task_or_view_ends_with_status_2(petlas: Petlas, adapter: Path) -> None:
    for arguments in (("evaluate", adapter, "digit"), ("evaluate", adapter, "digits", "--view", "all")):
        assert petlas(*arguments).status == 2
