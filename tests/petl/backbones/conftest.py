"""A small model of each family, with weights that hide nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import timm
import torch
from timm.models.byobnet import ByoBlockCfg, ByobNet, ByoModelCfg
from timm.models.mlp_mixer import MlpMixer
from torch import nn

from petlas.petl import get_family
from petlas.petl.copies import copied


def _bottlenecks(**arguments: Any) -> nn.Module:
    """As CLIP's ResNets are, whose sizes no argument changes."""
    blocks = (ByoBlockCfg("bottle", d=2, c=32, s=1, br=0.25), ByoBlockCfg("bottle", d=1, c=64, s=2, br=0.25))
    stem: dict[str, Any] = {"stem_chs": (8, 8, 16), "stem_type": "", "stem_pool": "avg2"}
    config = ByoModelCfg(blocks, **stem, downsample="avg", aa_layer="avg", head_type="attn_abs")
    return ByobNet(config, img_size=32, **arguments)


SMALL: dict[str, dict[str, Any]] = {
    # Separate q, k and v and a gated MLP with norms; the other kinds are in test_eva.py.
    "eva": {
        "model_name": "eva02_base_patch14_224",
        **{"img_size": 28, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    },
    "beit": {
        "model_name": "beitv2_base_patch16_224",
        **{"img_size": 32, "embed_dim": 32, "depth": 2, "num_heads": 2, "mlp_ratio": 2.0},
    },
    # Maps of 8 x 8 and 4 x 4 are padded to windows of 3 x 3.
    "swin": {
        "model_name": "swin_tiny_patch4_window7_224",
        **{"img_size": 32, "window_size": 3, "embed_dim": 32, "depths": (2, 1), "num_heads": (2, 4)},
    },
    "swinv2": {
        "model_name": "swinv2_tiny_window8_256",
        **{"img_size": 32, "window_size": 3, "embed_dim": 32, "depths": (2, 1), "num_heads": (2, 4)},
    },
    "resnet": {"model_name": "resnet26", "layers": (2, 1, 1, 1), "channels": (8, 8, 16, 16), "size": 32},
    "resnet_clip": {"make": _bottlenecks, "size": 32},
    "efficientnet": {"model_name": "test_efficientnet", "size": 32},
    "convnext": {"model_name": "convnext_tiny", "depths": (1,) * 4, "dims": (32, 32, 64, 64), "size": 32},
    # Linear layers over patches and over channels; the other kinds are in test_generic.py.
    "generic": {"make": MlpMixer, "img_size": 32, "num_blocks": 2, "embed_dim": 32},
}
"""For each family that `vit` and the tests beside this folder do not cover."""

CLASSES = 5


@pytest.fixture(scope="session")
def _small_models() -> dict[str, nn.Module]:
    return {}


@pytest.fixture
def small(_small_models: dict[str, nn.Module]) -> Callable[..., nn.Module]:
    """A fresh copy of the small model of a family, in evaluation mode.

    No norm is 1, no bias is 0 and no branch is inert, so that no zero hides a fault.
    """

    def make(family: str, **arguments: Any) -> nn.Module:
        name = f"{family} {sorted(arguments.items())}"
        if name not in _small_models:
            torch.manual_seed(0)
            given = {"num_classes": CLASSES, "drop_path_rate": 0.0} | SMALL[family] | arguments
            size = given.pop("size", None)
            model = given.pop("make", timm.create_model)(**given)
            if size:
                assert get_family(family).resize(model, size)
            _small_models[name] = _wake(model).eval()
        return copied(_small_models[name])

    return make


@torch.no_grad()
def _wake(model: nn.Module) -> nn.Module:
    for path, parameter in model.named_parameters():
        if parameter.ndim == 1 and path.endswith(("weight", "gamma", "gamma_1", "gamma_2")):
            parameter.fill_(1.0)  # some norms and scales start at or near 0
        parameter.add_(torch.randn(parameter.shape) * 0.05)
    for path, buffer in model.named_buffers():
        if path.endswith("running_mean"):
            buffer.normal_(0.0, 0.1)
        elif path.endswith("running_var"):
            buffer.uniform_(0.5, 1.5)
    return model
