"""What families of convolutional networks share: they take images of any size."""

from __future__ import annotations

from typing import Any

from torch import nn

from petlas.petl.backbones.stages import StageFamily


class MapFamily(StageFamily):
    """A family whose models are made for no image size: the one that they are used at is written on them."""

    def image_size(self, model: nn.Module) -> tuple[int, int]:
        """That which `resize` has set, or that of the pretrained weights."""
        cfg: dict[str, Any] = getattr(model, "pretrained_cfg", None) or {}
        height, width = getattr(model, "image_size", None) or cfg.get("input_size", (3, 224, 224))[1:]
        return height, width

    def resize(self, model: nn.Module, size: int) -> bool:
        """Write the size on the model."""
        vars(model)["image_size"] = (size, size)
        return True


def conv_grid(module: nn.Module, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns that the convolutions of a module leave of maps, one behind the other.

    Args:
        module: The module; what else is in it leaves them as they are.
        size: Rows and columns that enter.
    """
    rows, columns = size
    for conv in module.modules():
        if isinstance(conv, nn.Conv2d):
            pads = (0, 0) if isinstance(conv.padding, str) else conv.padding
            rows, columns = (
                (side + 2 * pad - reach * (kernel - 1) - 1) // stride + 1
                for side, pad, reach, kernel, stride in zip(
                    (rows, columns), pads, conv.dilation, conv.kernel_size, conv.stride, strict=True
                )
            )
    return rows, columns


def is_dense(module: nn.Module) -> bool:
    """Whether a layer is a 1 x 1 convolution that computes a linear layer at each place of a map.

    Args:
        module: The layer.
    """
    if not isinstance(module, nn.Conv2d):
        return False
    plain = module.kernel_size == (1, 1) and module.stride == (1, 1) and module.groups == 1
    return plain and not any(module.padding) and not isinstance(module.padding, str)
