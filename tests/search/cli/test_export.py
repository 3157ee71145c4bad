from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas.petl import Design, apply, load_backbone, save_adapter

pytestmark = pytest.mark.usefixtures("some_digits")

Petlas = Callable[..., Any]


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    """That of a run called `mine`."""
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=10, img_size=32), Design((), "vit_mini_patch16_64"))
    path = tmp_path / "runs" / "mine" / "best" / "adapter.safetensors"
    save_adapter(model, path)
    return path


def test_the_difference_and_the_place_are_printed(petlas: Petlas, adapter: Path) -> None:
    result = petlas("export", adapter, "--to", "timm", "out", "--task", "digits")
    assert result.status == 0
    assert result.out.startswith("wrote out: logits differ by at most ")
    assert "on 32 images (task digits)" in result.out
    data = petlas("export", "mine", "--to", "torchscript", "model.pt", "-f", "json").json
    assert (data["path"], data["target"], data["source"]) == ("model.pt", "torchscript", "noise")
    assert data["max_abs_difference"] <= 1e-4


def test_what_the_user_can_mend_ends_with_status_2_and_a_difference_with_1(
    petlas: Petlas, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for arguments, told in (
        (("export", adapter, "--to", "keras", "out"), "one of timm, peft, onnx, torchscript, got 'keras'"),
        (("export", adapter, "--to", "timm", "."), "remove it, or choose another name"),
        (("export", "nothing", "--to", "timm", "out"), "nothing"),
    ):
        result = petlas(*arguments)
        assert result.status == 2
        assert told in result.err
    monkeypatch.setattr("petlas.petl.exports.export.TOLERANCE", -1.0)
    result = petlas("export", adapter, "--to", "timm", "out")
    assert result.status == 1
    assert "nothing was written" in result.err
    assert not Path("out").exists()


def test_a_push_without_a_token_ends_with_status_2_before_anything_is_written(
    petlas: Petlas, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    result = petlas("export", adapter, "--to", "timm", "out", "--push", "flowers")
    assert result.status == 2
    assert "set HF_TOKEN" in result.err
    monkeypatch.setenv("HF_TOKEN", "secret")
    (adapter.parent / "card.md").write_text("card")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    result = petlas("export", adapter, "--to", "timm", "out", "--push", "flowers")
    assert result.status == 2
    assert "check the network" in result.err
    assert "secret" not in result.out + result.err
    assert not Path("out").exists()
