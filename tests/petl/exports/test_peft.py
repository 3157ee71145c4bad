from __future__ import annotations

import json
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from petlas.petl import MINI, ExportError, Placement, export_adapter, load_adapter, load_backbone

pytestmark = pytest.mark.skipif(find_spec("peft") is None, reason="the extra export is not installed")


def lora(block: int, size: int, targets: str, **options: float) -> Placement:
    return Placement("lora", block, size, tuple({"targets": targets, **options}.items()))


def dora(block: int, size: int, targets: str, **options: float) -> Placement:
    return Placement("dora", block, size, tuple({"targets": targets, **options}.items()))


def test_fused_layers_get_their_updates_as_one_of_the_sum_of_their_ranks(
    adapter: Callable[..., Path], tmp_path: Path
) -> None:
    file = adapter(lora(1, 3, "q,v"), lora(5, 2, "k,fc1", alpha=8.0))
    export_adapter(file, "peft", tmp_path / "out")
    config = json.loads((tmp_path / "out" / "adapter_config.json").read_text())
    assert sorted(config["rank_pattern"].values()) == [2, 2, 6]
    assert config["rank_pattern"] == config["alpha_pattern"]
    assert config["base_model_name_or_path"] == MINI
    state = load_file(tmp_path / "out" / "adapter_model.safetensors")
    up = state["base_model.model.blocks.1.attn.qkv.lora_B.weight"]
    width = len(up) // 3
    rows = [up[i * width : (i + 1) * width] for i in range(3)]
    assert (rows[0][:, 3:] == 0).all() and (rows[2][:, :3] == 0).all() and (rows[1] == 0).all()
    assert not any("blocks.0." in name for name in state)


@pytest.mark.parametrize(
    "parts",
    [
        (dora(0, 2, "q,v", alpha=4.0), dora(3, 4, "proj")),
        (dora(0, 2, "q,v"), lora(3, 2, "k,fc2")),
        (lora(0, 2, "q,proj"), "bitfit"),
        (dora(0, 2, "q"), "bitfit", "ln_tune"),
        ("linear",),
    ],
)
def test_what_peft_loads_computes_what_the_adapter_does(
    parts: tuple[str | Placement, ...], adapter: Callable[..., Path], tmp_path: Path
) -> None:
    if "ln_tune" in parts:
        parts = tuple(part for part in parts if part != "bitfit")  # norms' biases have one owner
    file = adapter(*parts)
    done = export_adapter(file, "peft", tmp_path / "out")
    assert done.max_abs_difference < 1e-4
    import peft  # which takes a second

    base = load_backbone(MINI, num_classes=5, img_size=32)
    loaded = peft.PeftModel.from_pretrained(base, str(tmp_path / "out")).eval()
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(loaded(images), load_adapter(file)(images), atol=1e-4, rtol=0)
        merged = loaded.merge_and_unload()
        torch.testing.assert_close(merged(images), load_adapter(file)(images), atol=1e-4, rtol=0)


def test_dora_beside_lora_in_one_layer_scales_only_its_own(adapter: Callable[..., Path], tmp_path: Path) -> None:
    file = adapter(dora(0, 2, "q,v"), lora(0, 3, "q,k"))
    assert export_adapter(file, "peft", tmp_path / "out").max_abs_difference < 1e-4


@pytest.mark.parametrize(
    ("parts", "named"),
    [
        (("lora", "adapter"), "adapter"),
        (("ssf",), "ssf"),
        (("full",), "full"),
        (("vpt", "fact_tt"), "fact_tt, vpt"),
    ],
)
def test_methods_without_a_place_in_peft_are_named(
    parts: tuple[str, ...], named: str, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    with pytest.raises(ExportError, match=f"this design has {named}; export to onnx"):
        export_adapter(adapter(*parts), "peft", tmp_path / "out")
    assert not (tmp_path / "out").exists()
