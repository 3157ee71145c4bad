from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

from petlas.petl import InputConfig, export_adapter, load_backbone, save_adapter
from petlas.petl.design import Design, Placement
from petlas.petl.tuning import apply


@pytest.mark.parametrize("crop", [None, 0.8])
def test_the_names_of_classes_and_the_transform_come_with_it(tmp_path: Path, crop: float | None) -> None:
    mean = (0.1, 0.2, 0.3)
    model = apply(load_backbone("vit_mini_patch16_64", num_classes=2, img_size=32), Design.of([Placement("ssf")]))
    box = InputConfig(32, mean, (0.5, 0.4, 0.3), "bilinear", crop)
    save_adapter(model, tmp_path / "a.safetensors", classes=("no", "yes"), input=box)
    export_adapter(tmp_path / "a.safetensors", "timm", tmp_path / "out")
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert plain.pretrained_cfg["label_names"] == ["no", "yes"]
    config = timm.data.resolve_data_config(model=plain)
    assert (tuple(config["mean"]), config["interpolation"]) == (mean, "bilinear")
    wide = Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 90, 3), dtype=np.uint8))
    # 40 x 90 pixels to 40 x 90, as 40 = 32 / 0.8, of which the centre is taken.
    mine = wide.resize((32, 32), Image.Resampling.BILINEAR) if crop is None else wide.crop((29, 4, 61, 36))
    mine = torch.from_numpy(np.asarray(mine)).permute(2, 0, 1) / 255
    scaled = (mine - torch.tensor(mean)[:, None, None]) / torch.tensor(box.std)[:, None, None]
    torch.testing.assert_close(timm.data.create_transform(**config)(wide), scaled, atol=0.03, rtol=0)


def test_another_image_size_than_the_architecture_s_own_is_written_down(tmp_path: Path) -> None:
    weights = tmp_path / "weights.safetensors"
    model = load_backbone("vit_tiny_patch16_224", pretrained=False, img_size=48)
    from safetensors.torch import save_file

    save_file(model.state_dict(), weights)
    tuned = apply(load_backbone("vit_tiny_patch16_224", weights, num_classes=2, img_size=48), Design(()))
    save_adapter(tuned, tmp_path / "a.safetensors")
    export_adapter(tmp_path / "a.safetensors", "timm", tmp_path / "out")
    plain = timm.create_model(f"local-dir:{tmp_path / 'out'}", pretrained=True)
    assert plain.pos_embed.shape == (1, 1 + 9, 192)
    assert "head.weight" in load_file(tmp_path / "out" / "model.safetensors")
