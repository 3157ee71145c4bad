from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from petlas.petl import AdapterError, ExportError, InexactError, export_adapter, load_adapter, read_adapter_info
from petlas.petl.exports import EXPORTS
from petlas.petl.exports.export import TOLERANCE, largest_difference, noise
from petlas.petl.exports.timm import Timm


class Wrong(Timm):
    """Forgets a little of the head."""

    def write(self, model: nn.Module, info: object, path: Path) -> None:
        with torch.no_grad():
            model.get_parameter("head.bias").add_(2 * TOLERANCE)
        super().write(model, info, path)  # type: ignore[arg-type]


def test_the_difference_is_returned_and_kept_with_what_the_images_were(
    adapter: Callable[..., Path], tmp_path: Path
) -> None:
    file = adapter("lora")
    images = noise(read_adapter_info(file), 3)
    done = export_adapter(file, "timm", tmp_path / "out", images, "task ants")
    assert 0 < done.max_abs_difference <= TOLERANCE
    assert (done.images, done.source) == (3, "task ants")
    kept = json.loads((tmp_path / "out" / "petlas.json").read_text())
    assert kept["export"] == {**vars(done), "path": "out"}
    assert kept["input"]["size"] == 32
    assert kept["classes"] == ["ant", "b<ee", "cat & dog", "d", "eel"]


def test_what_does_not_compute_the_same_fails_and_leaves_nothing(
    adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(EXPORTS, "wrong", f"{__name__}:Wrong")
    monkeypatch.setattr("petlas.petl.exports.look_up", lambda place: Wrong)
    file = adapter("lora")
    before = set(tmp_path.iterdir())
    with pytest.raises(InexactError, match=r"differ by up to 0\.0002 .*0\.0001 is allowed; nothing was written"):
        export_adapter(file, "wrong", tmp_path / "out")
    assert set(tmp_path.iterdir()) == before


def test_what_is_there_is_not_overwritten(adapter: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="out exists; remove it, or choose another name"):
        export_adapter(adapter("lora"), "timm", tmp_path / "out")


def test_what_is_no_adapter_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(AdapterError, match="missing"):
        export_adapter(tmp_path / "missing.safetensors", "timm", tmp_path / "out")


def test_noise_is_seeded_and_in_the_range_of_images(adapter: Callable[..., Path]) -> None:
    info = read_adapter_info(adapter("linear"))
    images = noise(info)
    assert images.shape == (8, 3, 32, 32)
    assert torch.equal(images, noise(info))
    assert -1 <= images.min() < -0.99 and 0.99 < images.max() <= 1  # with means and deviations of 0.5


def test_a_batch_of_one_is_compared_too_and_nan_is_no_agreement(adapter: Callable[..., Path]) -> None:
    model, images = load_adapter(file := adapter("lora")), noise(read_adapter_info(file))
    with torch.no_grad():
        wanted = model(images)

    def fixed(batch: Tensor) -> Tensor:
        return model(batch) if len(batch) > 1 else model(batch) + 1

    assert largest_difference(model, images, wanted) < 1e-5
    assert largest_difference(fixed, images, wanted) == pytest.approx(1, abs=1e-4)
    assert not largest_difference(lambda batch: model(batch) * torch.nan, images, wanted) <= TOLERANCE


def test_a_place_that_cannot_be_written_is_told_before_anything_is_loaded(
    adapter: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setattr("petlas.petl.exports.export.load_adapter", lambda *given, **more: pytest.fail("it was loaded"))
    for target in ("timm", "torchscript"):
        with pytest.raises(ExportError, match=r"cannot be written to .*; choose another place"):
            export_adapter(adapter("lora"), target, tmp_path / "file" / "out")
