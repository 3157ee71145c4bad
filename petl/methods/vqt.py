"""Visual query tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.design import Placement
from petlas.petl.methods.base import Elastic, Handle, Method, Tree
from petlas.petl.shape import BackboneShape


class Logits:
    """What the queries of all blocks add to the logits in one forward pass, from the images to the head."""

    def __init__(self) -> None:
        self._sum: Tensor | float | None = None

    def open(self, layer: nn.Module, args: tuple[Tensor]) -> None:
        """Pre-hook of the patch embedding: a forward pass begins."""
        self._sum = 0.0

    def add(self, logits: Tensor) -> None:
        """Take a block's part; outside a forward pass, where checkpointing repeats a block, nothing is kept."""
        if self._sum is not None:
            self._sum = self._sum + logits

    def close(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """Hook of the head: add the sum."""
        added, self._sum = self._sum, None
        assert added is not None
        return output + added


class Queries(Elastic):
    """T learned tokens (T, D), drawn as prompts are, that only ask; and the columns (C, T, D) that the head gets.

    The columns are made, zero, when the model's number of classes C is known.
    """

    axes = {"tokens": 0, "head": 1}
    summed = "head"

    def __init__(self, count: int, shape: BackboneShape, dropout: float) -> None:
        super().__init__(count)
        self.dropout = dropout
        bound = math.sqrt(6.0 / (3 * shape.patch[0] * shape.patch[1] + shape.width))
        self.tokens = nn.Parameter(torch.empty(count, shape.width).uniform_(-bound, bound))
        self.head: nn.Parameter | None
        self.register_parameter("head", None)
        self._qkv: Tensor | None = None

    def widen(self, classes: int) -> None:
        """Make the head's columns."""
        if self.head is None:
            self.head = nn.Parameter(self.tokens.new_zeros(classes, *self.tokens.shape))

    def listen(self, layer: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        """Hook of qkv: keep the block's keys and values (B, N, 3 A) until its queries have asked."""
        self._qkv = output

    def ask(self, logits: Logits, block: nn.Module, args: tuple[Tensor], output: Tensor) -> None:
        """Hook of the block: what the queries find there, through the whole block, as logits (B, C).

        The layers are run without their hooks: what others insert acts on the stream, its keys and its values.
        """
        qkv, self._qkv = self._qkv, None
        assert qkv is not None
        tokens = F.dropout(self.part("tokens").expand(len(qkv), -1, -1), self.dropout, self.training)
        found = tokens + _run(block, "ls1", _attend(block.get_submodule("attn"), _run(block, "norm1", tokens), qkv))
        found = found + _run(block, "ls2", _run(block, "mlp", _run(block, "norm2", found)))
        logits.add(F.linear(found.flatten(1), self.part("head").flatten(1)))


class VQT(Method):
    """T learned queries at a block gather from its tokens, and the head reads what they found besides its own input.

    At block i, [Q_i; x] runs with keys and values of x alone, so that x is unchanged: its path is the backbone's,
    and gradients touch the T query rows only. Their outputs Z_i (T, D), not normalised, leave the stream, and the head
    reads [x_cls, Z_1, ..., Z_L], or what the backbone pools in place of x_cls: its columns for Z_i stand beside Q_i as
    `head`. They belong to the head, so they are not counted, and start at zero, so that the model computes what the
    backbone computed; the public code draws the whole head anew. Neither its options to pool, weigh or normalise
    Z_i, nor its selection of features, are taken. A backbone without a head has nothing to read Z_i with.

    `size` is the number of queries T. Count: T D per block (9,216 for ViT-B/16 at T = 1). Zero-start, not mergeable.
    Queries are drawn as VPT's tokens, with dropout 0.1; drop-path does not act on them. Source: Tu et al., Visual
    Query Tuning, 2023.
    """

    name = "vqt"
    summary = "learned queries whose findings the head reads"
    paper = "VQT (Tu et al., 2023)"
    sites = ("attn.q", "head")
    size_means = "queries"
    default_size = 1
    zero_start = True
    mergeable = False
    blockwise = False
    options = {"dropout": 0.1}

    def count(self, shape: BackboneShape, placements: Sequence[Placement]) -> int:
        """T tokens of D channels for each placement."""
        return sum(shape.width * (p.size or 0) for p in placements)

    def build(self, shape: BackboneShape, placements: Sequence[Placement]) -> Tree:
        """The queries under `blocks.N`."""
        tree = Tree()
        for placement in placements:
            assert placement.size is not None
            dropout = float(self.option(placement, "dropout") or 0.0)
            tree.add(placement.path, Queries(placement.size, shape, dropout))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placement]) -> Iterator[Handle]:
        """Behind qkv and behind each block, and from the images to the head."""
        head = model.get_submodule("head")
        if not isinstance(head, nn.Linear):
            return
        logits = Logits()
        yield model.get_submodule("patch_embed").register_forward_pre_hook(logits.open)
        for placement in placements:
            block, queries = model.get_submodule(placement.path), module.get_submodule(placement.path)
            assert isinstance(queries, Queries)
            queries.widen(head.out_features)
            yield block.get_submodule("attn.qkv").register_forward_hook(queries.listen)
            yield block.register_forward_hook(partial(queries.ask, logits))
        yield head.register_forward_hook(logits.close)


def _attend(attn: nn.Module, a: Tensor, qkv: Tensor) -> Tensor:
    """The attention of queries from a (B, T, D) to the keys and values of qkv (B, N, 3 A)."""
    heads = attn.num_heads
    _, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    q, _, _ = _run(attn, "qkv", a).unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4)
    found = F.scaled_dot_product_attention(_run(attn, "q_norm", q), _run(attn, "k_norm", k), v)
    found = _run(attn, "norm", found.transpose(1, 2).flatten(2))
    if attn.gate is not None:
        found = found * _run(attn, "gate", a).sigmoid()
    return _run(attn, "proj", found)


def _run(parent: nn.Module, name: str, x: Tensor) -> Tensor:
    """A layer's output, without its hooks."""
    y: Tensor = parent.get_submodule(name).forward(x)
    return y
