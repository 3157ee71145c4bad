"""What the tests of several methods share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from petlas.petl import merge
from petlas.petl.backbones.vit import ViT

LINEARS = {place: names for place, names in ViT.names.items() if "norm" not in place}


class Split(nn.Module):
    """The linear layers of a block with q, k and v apart: modules that peft can find by name."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        for path, names in LINEARS.items():
            layer = block.get_submodule(path)
            for share, name in enumerate(names):
                outputs = layer.out_features // len(names)
                part = nn.Linear(layer.in_features, outputs, dtype=layer.weight.dtype)
                rows = slice(share * outputs, (share + 1) * outputs)
                part.weight.data, part.bias.data = layer.weight.data[rows].clone(), layer.bias.data[rows].clone()
                self.add_module(name, part)

    def forward(self, path: str, x: Tensor) -> Tensor:
        return torch.cat([self.get_submodule(name)(x) for name in LINEARS[path]], dim=-1)


@pytest.fixture
def against_peft() -> Callable[..., None]:
    """The layers of block 2 of a tuned model give what peft's give: outputs, gradients and merged weights."""
    peft: Any = pytest.importorskip("peft")

    def compare(model: nn.Module, method: str, targets: str, **config: Any) -> None:
        block, names = model.blocks[2], targets.split(",")
        split = Split(block)
        settings = peft.LoraConfig(target_modules=names, lora_dropout=0.0, **config)
        theirs = peft.get_peft_model(split, settings, autocast_adapter_dtype=False)
        pairs = []
        for name in names:
            layer = theirs.get_submodule(f"base_model.model.{name}")
            twins = {"down": layer.lora_A["default"].weight, "up": layer.lora_B["default"].weight}
            if config.get("use_dora"):
                twins["magnitude"] = layer.lora_magnitude_vector["default"].weight
            mine = dict(model.petl.get_submodule(f"{method}.blocks.2.{name}").named_parameters())
            assert set(mine) == set(twins)
            for key, twin in twins.items():
                twin.data = mine[key].data.clone()
                pairs.append((mine[key], twin))
        for path in LINEARS:
            layer = block.get_submodule(path)
            x = torch.randn(2, 7, layer.in_features, dtype=torch.float64)
            weights = torch.randn(2, 7, layer.out_features, dtype=torch.float64)
            mine, other = layer(x), theirs.base_model.model(path, x)
            torch.testing.assert_close(mine, other, rtol=1e-10, atol=1e-10)
            for output in (mine, other):
                if output.requires_grad:
                    (output * weights).sum().backward()
        for our, their in pairs:
            torch.testing.assert_close(our.grad, their.grad, rtol=1e-9, atol=1e-9)
        theirs.merge_and_unload()
        merge(model)
        for path, parts in LINEARS.items():
            together = torch.cat([split.get_submodule(name).weight for name in parts])
            torch.testing.assert_close(block.get_submodule(path).weight, together, rtol=1e-10, atol=1e-10)

    return compare


@pytest.fixture
def decay(images):
    """A few steps over all parameters with strong weight decay, and with momentum."""

    def steps(model, optimiser):
        extra = {"momentum": 0.9} if optimiser is torch.optim.SGD else {}
        stepping = optimiser(model.parameters(), lr=0.05, weight_decay=0.3, **extra)
        for _ in range(3):
            stepping.zero_grad()
            model(images(model)).square().mean().backward()
            stepping.step()

    return steps
