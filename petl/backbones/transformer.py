"""What the blocks of timm's transformers have in common: the names of their layers, and where sites are."""

from __future__ import annotations

from petlas.petl.parts.handles import Side

NAMES: dict[str, tuple[str, ...]] = {
    "norm1": ("norm1",),
    "attn.qkv": ("q", "k", "v"),
    "attn.proj": ("proj",),
    "norm2": ("norm2",),
    "mlp.fc1": ("fc1",),
    "mlp.fc2": ("fc2",),
    "norm": ("norm",),
}
"""Of pre-norm blocks and such with norms behind the branches; with the norm behind the last block."""

SITES: dict[str, tuple[str, Side]] = {
    "block.in": ("", "in"),
    "attn.stream": ("norm1", "in"),
    "attn.normed": ("norm1", "out"),
    "attn.in": ("attn.qkv", "in"),
    "attn": ("attn", "out"),
    "attn.out": ("drop_path1", "in"),
    "attn.residual": ("drop_path1", "out"),
    "mlp.stream": ("norm2", "in"),
    "mlp.normed": ("norm2", "out"),
    "mlp.in": ("mlp.fc1", "in"),
    "mlp": ("mlp", "out"),
    "mlp.out": ("drop_path2", "in"),
    "mlp.residual": ("drop_path2", "out"),
    "block": ("", "out"),
    "block.out": ("", "out"),
}
"""Of pre-norm blocks whose branches end in front of drop-path."""

DROP_PATHS = {"attn": "drop_path1", "mlp": "drop_path2"}
"""What drops each branch."""
