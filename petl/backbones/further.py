"""Further keys and values, or whole tokens, in attentions of timm's, which take q, k and v of one length.

Rows join the input of the attention, and what their queries found is dropped in front of its projection: the attention
itself stays timm's, fused or not, and what is hooked on its projection sees its own rows only.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.parts.handles import ForwardOverride, Handle, bare_forward

Keys: TypeAlias = Callable[[], tuple[Tensor, Tensor]]
"""Gives keys (p, A) and values (p, A)."""
Tokens: TypeAlias = Callable[[], Tensor]
"""Gives tokens (p, D)."""
Attend: TypeAlias = Callable[..., Tensor]
"""An attention's own forward on (B, N + p, D), of the attention, these rows, p, and whatever else it is handed."""


def with_keys(block: BlockSites, source: Keys, attend: Attend) -> Iterator[Handle]:
    """Let every token of a block attend to further keys and values: those of empty rows, replaced behind their layers.

    Args:
        block: The block, with its attention at `attn`.
        source: Gives them.
        attend: The attention on longer inputs.
    """
    attention = block.module.get_submodule("attn")
    yield ForwardOverride(attention, partial(_attend, attend, partial(_empty, source), attention))
    for layer in block.shape.linears:
        if {"k", "v"} & set(layer.names):
            yield block.layer(layer).register_forward_hook(partial(_insert, source, layer.names))
    yield attention.get_submodule("proj").register_forward_pre_hook(partial(_drop_keys, source))


def with_tokens(block: BlockSites, source: Tokens, attend: Attend) -> Iterator[Handle]:
    """Let tokens take part in the attention of a block, in each of its windows, and leave with it.

    Args:
        block: The block, with its attention at `attn`.
        source: Gives them as the attention reads them.
        attend: The attention on longer inputs.
    """
    attention = block.module.get_submodule("attn")
    yield ForwardOverride(attention, partial(_attend, attend, partial(_join, source), attention))
    yield attention.get_submodule("proj").register_forward_pre_hook(partial(_drop_tokens, source))


def normed(block: BlockSites, source: Tokens) -> Tokens:
    """Tokens through the norm in front of a block's attention, without what is hooked on it: that is for the stream.

    Args:
        block: The block, with that norm at `norm1`.
        source: Gives them.
    """
    return partial(_normed, block.module.get_submodule("norm1"), source)


def attend_with_table(attention: nn.Module, x: Tensor, rows: int, *masks: Any, **named: Any) -> Tensor:
    """The forward of an attention with a table of relative positions: the last rows stand nowhere, and add nothing.

    Args:
        attention: timm's of BEiT, Swin or Swin V2.
        x: (B, N + p, D).
        rows: p.
        masks: What is added where N queries meet N keys (..., N, N).
        named: Likewise.
    """
    longer = [mask if mask is None else F.pad(mask, (0, rows, 0, rows)) for mask in masks]
    more = {name: mask if mask is None else F.pad(mask, (0, rows, 0, rows)) for name, mask in named.items()}
    with _standing_in(attention, _tables(attention, rows)):
        attended: Tensor = type(attention).forward(attention, x, *longer, **more)
    return attended


def _tables(attention: Any, rows: int) -> dict[str, Any]:
    """What stands for an attention's table, and for all by which it reads it, with one more entry: of no position."""
    index: Tensor | None = getattr(attention, "relative_position_index", None)
    if index is None:
        return {}
    height, width = attention.window_size
    others = len(index) - height * width  # BEiT's class token, which is of no window
    entries = (2 * height - 1) * (2 * width - 1) + 3 * others
    found = {
        "relative_position_index": F.pad(index, (0, rows, 0, rows), value=entries),
        "window_size": (len(index) - others + rows, 1),
        "window_area": len(index) + rows,
    }
    table: Tensor | None = getattr(attention, "relative_position_bias_table", None)
    if table is None:
        return found | {"cpb_mlp": partial(_computed, attention.cpb_mlp)}
    return found | {"relative_position_bias_table": torch.cat((table, torch.zeros_like(table[:1])))}


def _computed(network: nn.Module, coordinates: Tensor) -> Tensor:
    """Swin V2's table, of which 16 sigmoid(t) is added: (1, R, S, h) to (R S + 1, h)."""
    table: Tensor = network(coordinates).flatten(0, 2)
    return torch.cat((table, torch.full_like(table[:1], -torch.inf)))


@contextmanager
def _standing_in(module: nn.Module, values: dict[str, Any]) -> Iterator[None]:
    """Other values in place of a module's parameters, buffers, modules and plain attributes."""
    own = vars(module)
    before = {name: own[name] for name in values if name in own}
    own.update(values)
    try:
        yield
    finally:
        for name in values:
            del own[name]
        own.update(before)


def _attend(
    attend: Attend, lengthen: Callable[[Tensor], Tensor], attention: nn.Module, x: Tensor, *masks: Any, **named: Any
) -> Tensor:
    longer = lengthen(x)
    return attend(attention, longer, longer.shape[1] - x.shape[1], *masks, **named)


def _normed(norm: nn.Module, source: Tokens) -> Tensor:
    tokens: Tensor = bare_forward(norm)(source())
    return tokens


def _empty(source: Keys, x: Tensor) -> Tensor:
    return F.pad(x, (0, 0, 0, len(source()[0])))


def _join(source: Tokens, x: Tensor) -> Tensor:
    tokens = source().to(x.dtype)
    return torch.cat((x, tokens.expand(x.shape[0], -1, -1)), dim=1)


def _insert(source: Keys, names: tuple[str, ...], layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
    """Behind a layer: the keys and values of the last p rows of its shares (B, N + p, ...)."""
    keys, values = source()
    own = {"k": keys, "v": values}
    rows = torch.cat([own.get(name, torch.zeros_like(keys)) for name in names], dim=-1).to(output.dtype)
    return torch.cat((output[:, : -len(keys)], rows.expand(output.shape[0], -1, -1)), dim=1)


def _drop_keys(source: Keys, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """In front of the projection: (B, N + p, A) to (B, N, A)."""
    return (args[0][:, : -len(source()[0])],)


def _drop_tokens(source: Tokens, layer: nn.Module, args: tuple[Tensor]) -> tuple[Tensor]:
    """Likewise."""
    return (args[0][:, : -len(source())],)
