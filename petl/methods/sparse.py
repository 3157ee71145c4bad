"""Single entries of a block's own parameters (SPT)."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import groupby, islice
from operator import attrgetter
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from petlas.petl.backbones.base import BlockSites
from petlas.petl.design import DesignError
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.handles import ForwardOverride, Handle
from petlas.petl.parts.method import Batch, Loss
from petlas.petl.parts.placed import Placed
from petlas.petl.parts.version import version
from petlas.petl.sensitivity import sensitivities
from petlas.petl.shape import BackboneShape, BlockShape, BlockTensor

BATCHES = 16
"""How many batches the sensitivity is summed over, as in SPT."""

CHUNK = 256
"""Tokens whose sums are formed at a time: on a CPU as many as stay in its cache while they are turned round."""

DENSE_SHARE = 0.08
"""The share of a matrix above which its whole gradient takes no longer than the sums of the single entries."""


@dataclass(frozen=True)
class Share:
    """The chosen entries of one parameter: their places in `delta`, and in the flattened parameter, rising.

    For a matrix there is also the sparse matrix (rows, columns) of zeros that has its entries there.
    """

    slots: Tensor
    places: Tensor
    pattern: Tensor | None

    def sums(self, gradient: Tensor, x: Tensor) -> Tensor:
        """The gradient of each entry, (n,), from those of the layer's output (T, rows) and its input (T, columns).

        Args:
            gradient: Of the layer's output.
            x: The layer's input.
        """
        assert self.pattern is not None
        pattern = self.pattern
        if len(self.places) > DENSE_SHARE * pattern.shape[0] * pattern.shape[1]:
            return (gradient.t() @ x.to(gradient.dtype)).flatten()[self.places]
        size = CHUNK if x.device.type == "cpu" else len(x)
        for rows, columns in zip(gradient.split(size), x.split(size), strict=True):
            pattern = torch.sparse.sampled_addmm(pattern, rows.to(pattern.dtype).t(), columns.to(pattern.dtype))
        return pattern.values()


class ChosenEntries(Elastic):
    """Updates of K entries of a block's parameters, zero at the start; the parameters are never written to.

    `index` (K,) numbers the entries through all tensors of the block, in the order of `block_tensors`; those of the
    vectors that are trained whole come first, and the most sensitive before the others. `delta` (K,) is added to them.
    """

    axes = {"index": 0, "delta": 0}
    index: Tensor

    def __init__(self, tensors: Sequence[BlockTensor], count: int, skip: Iterable[str], whole: Iterable[str]) -> None:
        super().__init__(count)
        self.tensors = tuple(tensors)
        self.whole = frozenset(whole)
        self.single = frozenset(tensor.name for tensor in tensors) - self.whole - frozenset(skip)
        self.register_buffer("index", torch.cat((self._numbers(self.whole), self._numbers(self.single)))[:count].int())
        self.delta = nn.Parameter(torch.zeros(count))
        self._found: tuple[Tensor, tuple[int, int, torch.dtype], dict[str, Share]] | None = None

    def __getstate__(self) -> dict[str, Any]:
        return vars(self) | {"_found": None}

    @property
    def paths(self) -> list[str]:
        """The paths of the parameters from which entries can be taken, each once."""
        return list(dict.fromkeys(t.path for t in self.tensors if t.name in self.whole | self.single))

    @torch.no_grad()
    def choose(self, scores: dict[str, Tensor]) -> None:
        """Take the entries with the highest scores, given for each parameter; of equal ones those that come first."""
        chosen: list[Tensor] = []
        for names in (self.whole, self.single):
            count = self.size - sum(map(len, chosen))
            flat = [scores[t.path].flatten()[t.start : t.start + t.entries] for t in self.tensors if t.name in names]
            if flat and count:
                numbers = self._numbers(names).to(self.index.device)
                chosen.append(numbers[_best(torch.cat(flat), min(count, len(numbers)))])
        self.index.copy_(torch.cat(chosen))

    def shares(self) -> dict[str, Share]:
        """The active entries of each parameter that has some, by its path in the block; found anew when they change."""
        key = (version(self.index), self.active, self.delta.dtype)
        if self._found is None or self._found[0] is not self.index or self._found[1] != key:
            self._found = (self.index, key, dict(self._find()))
        return self._found[2]

    def values(self, share: Share) -> Tensor:
        """What is added to the entries of a share, (n,)."""
        return self.part("delta").index_select(0, share.slots)

    def updated(self, path: str, parameter: Tensor, frozen: bool = False) -> Tensor:
        """A parameter of the block with the updates.

        Args:
            path: Of the parameter.
            parameter: Its frozen value.
            frozen: Leave the updates out of its gradient.
        """
        share = self.shares().get(path)
        if share is None:
            return parameter
        values = self.values(share).to(parameter.dtype)
        values = values.detach() if frozen else values
        return parameter.flatten().scatter_add(0, share.places, values).view_as(parameter)

    def _numbers(self, names: Iterable[str]) -> Tensor:
        """The numbers of all entries of some tensors, rising."""
        runs, start = [torch.empty(0, dtype=torch.long)], 0
        for tensor in self.tensors:
            if tensor.name in names:
                runs.append(torch.arange(start, start + tensor.entries))
            start += tensor.entries
        return torch.cat(runs)

    @torch.inference_mode(False)  # what is found while scoring serves training, too
    @torch.no_grad()
    def _find(self) -> Iterator[tuple[str, Share]]:
        numbers, slots = self.part("index").long().sort()
        start = low = 0
        for path, group in groupby(self.tensors, attrgetter("path")):  # shares of one parameter stand together
            tensors = list(group)
            size, columns = sum(tensor.entries for tensor in tensors), tensors[0].columns
            high = int((numbers < start + size).sum())
            if low < high:
                places, pattern = numbers[low:high] - start, None
                if not tensors[0].is_vector:
                    pattern = _pattern(places, size // columns, columns, self.delta.dtype)
                yield path, Share(slots[low:high], places, pattern)
            start, low = start + size, high


@dataclass(frozen=True)
class Options:
    """What a placement may set."""

    skip: str = ""
    whole: str = ""


class Sparse(BlockMethod[Options]):
    """The most sensitive K entries of a block's own parameters are trained: y = f(x; W + D), with D zero elsewhere.

    The entries lie in the weights `q`, `k`, `v`, `proj`, `fc1` and `fc2` and in the vectors `q.bias`, `k.bias`,
    `v.bias`, `proj.bias`, `fc1.bias`, `fc2.bias`, `norm1.weight`, `norm1.bias`, `norm2.weight`, `norm2.bias`,
    `ls1.gamma` and `ls2.gamma`, as far as the backbone has them; q, k and v are thirds of timm's fused layer. The
    option `skip` names those from which none is taken, because they have a module of their own; `whole` names vectors
    all of whose entries are trained, and count among the K. Names stand between commas. Only the entries' numbers and
    updates are stored, so that no decay or momentum can reach another entry. `size` is K. Count: K (12,000 for
    ViT-B/16 at K = 1000 in each block). Zero-start, mergeable: W <- W + D.

    `prepare` chooses: the sensitivity of an entry is the sum over 16 batches of the squared gradient of the batch's
    mean loss, and the K highest win in each block. Without it the first entries are taken. In SPT one ranking over all
    blocks says how many entries each block has, which matrices have a module (`lora` or `linear_adapter`) instead, and
    which vectors are trained whole: those are the sizes and options here. SPT also trains the class token, and its code
    counts the norms' entries without training them; here they are trained, and the token is not. Source: He et al.,
    Sensitivity-Aware Visual Parameter-Efficient Fine-Tuning, 2023.
    """

    name = "sparse"
    summary = "the most sensitive entries of a block's own parameters"
    paper = "SPT (He et al., 2023)"
    sites = ("norm1", "attn.qkv", "attn.proj", "ls1", "norm2", "mlp.fc1", "mlp.fc2", "ls2")
    any_site = True
    size_means = "entries"
    default_size = 1000
    zero_start = True
    mergeable = True
    replaces = "the frozen linear weights"
    fits_task = True
    option_type = Options

    def count_block(self, block: BlockShape, placement: Placed[Options]) -> int:
        """K."""
        return placement.size

    def build_block(self, block: BlockShape, placement: Placed[Options]) -> nn.Module:
        """One `ChosenEntries`."""
        options = placement.options
        return ChosenEntries(block.tensors, placement.size, _names(options.skip), _names(options.whole))

    def attach_block(self, block: BlockSites, module: nn.Module) -> Iterator[Handle]:
        """In place of each layer's own `forward`, so that there is one product only."""
        assert isinstance(module, ChosenEntries)
        for path in dict.fromkeys(path.rpartition(".")[0] for path in module.paths):
            layer = block.model.get_submodule(path)
            yield ForwardOverride(layer, partial(_forward, module, path, layer))

    @torch.no_grad()
    def merge_block(self, block: BlockSites, module: nn.Module) -> None:
        """Into the entries, and no others."""
        assert isinstance(module, ChosenEntries)
        for path, share in module.shares().items():
            block.model.get_parameter(path).view(-1).index_add_(0, share.places, module.values(share))

    def prepare(
        self,
        model: nn.Module,
        module: nn.Module,
        placements: Sequence[Placed[Options]],
        batches: Iterable[Batch],
        loss: Loss,
    ) -> None:
        """Choose the entries by their sensitivity, in all blocks at once."""
        parts = [part for part in module.modules() if isinstance(part, ChosenEntries)]
        paths = [path for part in parts for path in part.paths]
        scores = sensitivities(model, islice(batches, BATCHES), paths, loss)
        for part in parts:
            part.choose(scores)

    def check_fit(self, shape: BackboneShape, placement: Placed[Options]) -> None:
        """Beyond the common rules, refuse unknown and repeated names, and a K that does not fit them."""
        tensors = {tensor.name: tensor for tensor in shape.blocks[placement.block].tensors}
        options = placement.options
        skip, whole = _names(options.skip), _names(options.whole)
        vectors = [name for name, tensor in tensors.items() if tensor.is_vector]
        for option, given, names, known in (
            ("skip", options.skip, skip, list(tensors)),
            ("whole", options.whole, whole, vectors),
        ):
            if not set(names) <= set(known) or len(set(names)) < len(names):
                raise DesignError(
                    f"option {option} of sparse must name some of {', '.join(known)}, each once and with commas "
                    f"between, got {option}={given!r}"
                )
        if both := [name for name in whole if name in skip]:
            raise DesignError(
                f"options skip and whole of sparse must name different tensors, got {', '.join(both)} in both"
            )
        least = sum(tensors[name].entries for name in whole)
        most = sum(tensor.entries for tensor in tensors.values() if tensor.name not in skip)
        if not least <= placement.size <= most:
            raise DesignError(
                f"sparse takes from block {placement.block} at least the {least} entries of its whole vectors and at "
                f"most the {most} that are not skipped, got size={placement.size}"
            )


def _names(option: str) -> list[str]:
    return [name.strip() for name in option.split(",")] if option.strip() else []


@torch.compiler.disable  # type: ignore[untyped-decorator]
def _forward(entries: ChosenEntries, path: str, layer: nn.Module, x: Tensor, **more: Any) -> Tensor:
    """What the layer computes with the updated parameters."""
    if isinstance(layer, nn.Linear):
        share = entries.shares().get(f"{path}.weight")
        weight = entries.updated(f"{path}.weight", layer.weight, frozen=True)
        bias = None if layer.bias is None else entries.updated(f"{path}.bias", layer.bias)
        output = F.linear(x, weight, bias)
        return output if share is None else _Sums.apply(output, x, entries.values(share), share)
    if isinstance(layer, nn.LayerNorm) and type(layer).forward is nn.LayerNorm.forward:
        updated = {name: entries.updated(f"{path}.{name}", p) for name, p in layer.named_parameters()}
        return F.layer_norm(x, layer.normalized_shape, updated["weight"], updated.get("bias"), layer.eps)
    for name, parameter in layer.named_parameters(recurse=False):
        vars(layer)[name] = entries.updated(f"{path}.{name}", parameter)
    try:
        computed: Tensor = type(layer).forward(layer, x, **more)
        return computed
    finally:
        for name, _ in layer.named_parameters(recurse=False):
            del vars(layer)[name]


class _Sums(torch.autograd.Function):
    """A layer's output as it is; backward, the gradient of the weight's chosen entries, without that of the weight."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, x: Tensor, values: Tensor, share: Share) -> Tensor:
        ctx.save_for_backward(x)
        ctx.share, ctx.dtype = share, values.dtype
        ctx.mark_dirty(output)
        return output

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, Tensor | None, None]:
        sums = None
        if ctx.needs_input_grad[2]:
            (x,) = ctx.saved_tensors
            sums = ctx.share.sums(gradient.flatten(0, -2), x.flatten(0, -2)).to(ctx.dtype)
        return gradient, None, sums, None


def _pattern(places: Tensor, rows: int, columns: int, dtype: torch.dtype) -> Tensor:
    """Zeros at rising places of the flattened (rows, columns) matrix, of a type in which sums are exact enough."""
    starts = torch.searchsorted(places, columns * torch.arange(rows + 1, device=places.device))
    zeros = torch.zeros(len(places), dtype=torch.promote_types(dtype, torch.float32), device=places.device)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that sparse tensors are young
        return torch.sparse_csr_tensor(starts, places % columns, zeros, (rows, columns), check_invariants=False)


def _best(scores: Tensor, count: int) -> Tensor:
    """Where the highest scores stand, the highest first and equal ones in their order."""
    candidates = (scores >= scores.topk(count).values[-1]).nonzero().flatten()
    return candidates[scores[candidates].argsort(descending=True, stable=True)[:count]]
