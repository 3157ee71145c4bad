from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from petlas.petl import MINI, Design, Placement, apply, get_method, load_backbone, save_adapter, shape_by_name
from petlas.petl.copies import copied

SIZE, CLASSES = 32, ("ant", "b<ee", "cat & dog", "d", "eel")


@pytest.fixture(scope="session")
def backbone() -> nn.Module:
    """The mini backbone, to be copied."""
    return load_backbone(MINI, num_classes=len(CLASSES), img_size=SIZE)


@pytest.fixture
def adapter(tmp_path: Path, backbone: nn.Module) -> Callable[..., Path]:
    """The adapter file of a design on the mini backbone, or of some methods' usual ones, far from its start."""

    def adapter(*parts: str | Placement, seed: int = 1, **more: object) -> Path:
        shape = shape_by_name(MINI, SIZE)
        placements: list[Placement] = []
        for part in parts:
            if isinstance(part, Placement):
                placements.append(part)
            else:
                method = get_method(part)
                placements += method.baseline(shape, 2 if method.size_means else None)
        model = apply(copied(backbone), Design.of(placements, MINI))
        noise = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for parameter in model.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn(parameter.shape, generator=noise) * 0.05)
        path = tmp_path / "adapter.safetensors"
        save_adapter(model.eval(), path, classes=CLASSES, **more)  # type: ignore[arg-type]
        return path

    return adapter
