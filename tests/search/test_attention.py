from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from petlas.datasets import DataError
from petlas.petl import AdapterError, BackboneError, apply, everywhere, load_backbone, save_adapter
from petlas.search import attention

pytestmark = pytest.mark.usefixtures("some_digits")


@pytest.fixture
def adapter(tmp_path: Path) -> Path:
    model = load_backbone("vit_mini_patch16_64", num_classes=3, img_size=64)
    apply(model, everywhere("lora", model, 2))
    with torch.no_grad():
        for parameter in model.petl.parameters():
            parameter.add_(0.2)
    save_adapter(model, tmp_path / "adapter.safetensors")
    Image.effect_noise((40, 30), 90).save(tmp_path / "photo.png")
    return tmp_path / "adapter.safetensors"


def test_the_design_is_shown_beside_the_backbone_alone(adapter: Path, tmp_path: Path) -> None:
    found = attention(adapter, tmp_path / "photo.png", out=tmp_path / "seen.png")
    assert found.block == 5
    assert found.rollout["design"].shape == found.rollout["backbone"].shape == (4, 4)
    assert found.heads["design"].shape == found.heads["backbone"].shape == (4, 4, 4)
    assert not np.allclose(found.heads["design"], found.heads["backbone"], atol=1e-3)
    with Image.open(tmp_path / "seen.png") as image:
        assert len(set(image.convert("L").tobytes())) > 50
    first = attention(adapter, tmp_path / "photo.png", block=0)
    assert first.to_dict()["block"] == 0
    assert np.allclose(first.rollout["design"], found.rollout["design"])


def test_an_image_of_16_bits_is_read_as_the_training_images_were(tmp_path: Path) -> None:
    model = load_backbone("vit_mini_patch16_64", num_classes=3, img_size=64)
    apply(model, everywhere("lora", model, 2))
    save_adapter(model, tmp_path / "a.safetensors", task={"value_range": "[0, 4095]"})
    Image.fromarray(np.full((64, 64), 4095, np.uint16)).save(tmp_path / "white.png")
    assert attention(tmp_path / "a.safetensors", tmp_path / "white.png").pixels.min() == pytest.approx(1.0)


def test_what_cannot_be_shown_is_told(adapter: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AdapterError, match=r"--block must be in 0..5 for vit_mini_patch16_64, got 6"):
        attention(adapter, tmp_path / "photo.png", block=6)
    with pytest.raises(DataError, match="is a folder"):
        attention(adapter, tmp_path)
    monkeypatch.setattr("petlas.petl.backbones.vit.ViT.attention", None)
    with pytest.raises(BackboneError, match="take a vision transformer"):
        attention(adapter, tmp_path / "photo.png")
