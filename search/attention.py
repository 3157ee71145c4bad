"""What an adapter attends to in an image, beside what the backbone alone attends to."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from petlas.datasets import DataError
from petlas.petl import (
    AdapterError,
    attention_maps,
    family_of,
    load_adapter,
    over_patches,
    plain_backbone,
    read_adapter_info,
    rollout,
)
from petlas.search.given import Given
from petlas.search.predict import check_adapter


@dataclass(frozen=True)
class Attention:
    """What the output attends to in one image; shares of patches, rows by columns.

    Args:
        image: The file.
        block: The block of which single heads are told.
        rollout: Over all blocks and heads, by `backbone` and `design`.
        heads: Of one block (H, rows, columns), by `backbone` and `design`.
        pixels: The image as the model sees it, (S, S, 3), before normalisation.
    """

    image: str
    block: int
    rollout: dict[str, npt.NDArray[np.float32]]
    heads: dict[str, npt.NDArray[np.float32]]
    pixels: npt.NDArray[np.float32]

    def to_dict(self) -> dict[str, Any]:
        """What `petlas attention --format json` prints."""
        told = {name: {which: found.tolist() for which, found in getattr(self, name).items()} for name in _TOLD}
        return {"image": self.image, "block": self.block} | told


_TOLD = ("rollout", "heads")


def attention(adapter: Path, image: Path, block: int = -1, checkpoint: str | None = None) -> Attention:
    """What the output attends to in an image, with the design and without.

    Args:
        adapter: The adapter file.
        image: The image's file.
        block: The block whose heads are told; negative from the end.
        checkpoint: The backbone's weights, where the adapter file does not know them or they were moved.

    Raises:
        AdapterError: When the adapter cannot be loaded, or has no such block.
        BackboneError: When the backbone does not attend among all tokens.
        DataError: When the image cannot be read.
    """
    check_adapter(adapter)
    if image.is_dir():
        raise DataError(f"attention is shown of one image, and {image} is a folder; give a file in it")
    info = read_adapter_info(adapter)
    ((_, batch),) = Given.of(info).parts([image])
    models = {"backbone": plain_backbone(info, checkpoint).float(), "design": load_adapter(adapter, None, checkpoint)}
    depth = len(family_of(models["design"]).blocks(models["design"]))
    if not -depth <= block < depth:
        raise AdapterError(f"--block must be in 0..{depth - 1} for {info.backbone}, got {block}")
    size = (batch.shape[-2], batch.shape[-1])
    flows, heads = {}, {}
    for which, model in models.items():
        maps = attention_maps(model.float(), batch)
        flows[which] = over_patches(model, rollout(maps), size)[0].numpy()
        heads[which] = over_patches(model, maps[block], size)[0].numpy()
    pixels = batch[0].permute(1, 2, 0).numpy() * np.array(info.input.std) + np.array(info.input.mean)
    return Attention(str(image), block % depth, flows, heads, pixels.clip(0, 1).astype(np.float32))
