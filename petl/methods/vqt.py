"""Visual query tuning."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones import family_of
from petlas.petl.backbones.base import Family
from petlas.petl.design import Placement
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import Handle
from petlas.petl.parts.method import Method
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.side import Side
from petlas.petl.parts.tree import Tree
from petlas.petl.shape import BackboneShape, BlockShape


class Logits(Side):
    """What the queries of all blocks add to the logits in one forward pass, from the images to the head."""

    def add_to(self, logits: Tensor) -> Tensor:
        """At the head's output (B, C): add what was kept."""
        added: Tensor = logits + sum(self.close())
        return added


class Queries(Elastic):
    """T learned tokens (T, D), drawn as prompts are, that only ask; and the columns (C, T, D) that the head gets.

    The columns are made, zero, when the model's number of classes C is known.
    """

    axes = {"tokens": 0, "head": 1}
    undecayed = ("tokens",)
    summed = "head"

    def __init__(self, count: int, shape: BlockShape, dropout: float) -> None:
        super().__init__(count)
        self.dropout = dropout
        bound = math.sqrt(6.0 / (3 * shape.patch[0] * shape.patch[1] + shape.width))
        self.tokens = nn.Parameter(torch.empty(count, shape.width).uniform_(-bound, bound))
        self.head: nn.Parameter | None
        self.register_parameter("head", None)
        self._known: Tensor | None = None

    def widen(self, classes: int) -> None:
        """Make the head's columns."""
        if self.head is None:
            self.head = nn.Parameter(self.tokens.new_zeros(classes, *self.tokens.shape))

    def listen(self, known: Tensor) -> None:
        """Keep the block's keys and values until its queries have asked."""
        self._known = known

    def ask(self, logits: Logits, family: Family, block: nn.Module, stream: Tensor) -> None:
        """Behind the block: what the queries find there, through the whole block, as logits (B, C).

        Args:
            logits: Take it in.
            family: Runs the queries through the block.
            block: The block.
            stream: What leaves the block (B, N, D).
        """
        known, self._known = self._known, None
        if not logits.opened and not torch.is_grad_enabled():
            return  # the block runs for what leaves it alone; in a backward pass a checkpointed block asks again
        if known is None:
            raise RuntimeError("a block's queries were asked out of turn: run the model as a whole")
        asking = self.part("tokens").expand(stream.shape[0], -1, -1)
        found = family.ask(block, F.dropout(asking, self.dropout, self.training), known)
        logits.keep(F.linear(found.flatten(1), self.part("head").flatten(1)))


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    dropout: float = 0.1


class VQT(Method[Options]):
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
    needs = ("attn.queries", "images", "block.out", "head.out")
    size_means = "queries"
    default_size = 1
    zero_start = True
    mergeable = False
    blockwise = False
    option_type = Options

    def count(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> int:
        """T tokens of D channels for each placement."""
        return sum(shape.blocks[p.block].width * p.size for p in placements)

    def untouched(self, placements: Sequence[Placement], depth: int) -> int:
        """All: queries only ask."""
        return depth

    def asks(self, placements: Sequence[Placement]) -> frozenset[int]:
        """Those of its placements."""
        return frozenset(placement.block for placement in placements if placement.block is not None)

    def build(self, shape: BackboneShape, placements: Sequence[Placed[Options]]) -> Tree:
        """The queries under `blocks.N`, and what collects their findings."""
        tree = Tree()
        tree.add("logits", Logits())
        for placement in placements:
            block = shape.blocks[placement.block]
            tree.add(placement.path, Queries(placement.size, block, placement.options.dropout))
        return tree

    def attach(self, model: nn.Module, module: nn.Module, placements: Sequence[Placed[Options]]) -> Iterator[Handle]:
        """Where keys and values are known and behind each block, and from the images to the head."""
        family = family_of(model)
        outputs = family.outputs(model)
        if not outputs:
            return
        logits, blocks = module.get_submodule("logits"), family.block_sites(model)
        assert isinstance(logits, Logits)
        yield family.site(model, "images").read(logits.open)
        for placement in placements:
            block, queries = blocks[placement.block], module.get_submodule(placement.path)
            assert isinstance(queries, Queries)
            queries.widen(outputs)
            yield from family.keys_and_values(block, queries.listen)
            yield block.site("block.out").read(partial(queries.ask, logits, family, block.module))
        yield family.site(model, "head.out").change(logits.add_to)
