"""What a family of backbones is: it knows its blocks, its sites, its head, and how to run in parts."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, NoReturn

import torch
from torch import Tensor, nn

from petlas.errors import UserError
from petlas.petl.backbones.anatomy import Anatomy
from petlas.petl.backbones.called import CalledLayer
from petlas.petl.backbones.site import Layout, Site
from petlas.petl.backbones.still import Still, batch_norms
from petlas.petl.parts.handles import Handle, Side
from petlas.petl.shape import BlockShape, Layer


class BackboneError(UserError):
    """A backbone that cannot be made or loaded: the message says why and what to do."""


@dataclass(frozen=True)
class BlockSites:
    """One block of a model with its sites.

    Args:
        family: The model's.
        model: The model.
        module: The block.
        shape: The block's.
    """

    family: Family
    model: nn.Module
    module: nn.Module
    shape: BlockShape

    def site(self, name: str) -> Site:
        """The site of that name in this block."""
        return self.family.block_site(self.model, name, self.shape.index, self.module)

    def layer(self, layer: Layer) -> nn.Module:
        """The module of one of the block's layers."""
        return self.model.get_submodule(layer.path)

    def matrix(self, layer: Layer) -> Tensor:
        """The weight of one of the block's layers as a matrix (outputs, inputs), to be read or written to."""
        return self.layer(layer).get_parameter("weight").flatten(1)

    def add_to_bias(self, layer: Layer, update: Tensor) -> None:
        """Add to the bias (O,) of one of the block's layers; a layer without one gets one.

        Args:
            layer: The layer.
            update: What is added (O,).
        """
        bias = self.family.bias(self.model, layer)
        self.family.set_bias(self.model, layer, update if bias is None else bias + update)

    def behind(self, layer: Layer) -> Site:
        """The output of one of the block's layers, with its input at hand."""
        return self.family.layer_site(self.model, layer)


class _Entered(Exception):  # no error: it ends a forward pass where the blocks begin
    """Carries what enters the first block out of a forward pass."""

    def __init__(self, x: Tensor) -> None:
        super().__init__()
        self.x = x


class Family(Anatomy):
    """A kind of backbone. Methods, scoring and saving ask it, and know no path of a module.

    A subclass declares where its sites are, and implements what is abstract here. A site that it does not list is one
    that it does not have: methods that need it are refused.
    """

    name: ClassVar[str]
    summary: ClassVar[str]
    """What its models are, for messages: "a plain pre-norm timm VisionTransformer"."""
    layouts: ClassVar[Mapping[str, Layout]] = {}
    """How what flows at a site lies in memory; tokens (B, N, C) where nothing is said."""
    grid_site: ClassVar[str] = "block.in"
    """Where in a block maps have the rows and columns of what methods see in it."""
    recomputed: ClassVar[frozenset[str]] = frozenset()
    """Names of parameters, the last parts of their paths, that are computed anew for an image size.

    Their digits differ from machine to machine.
    """

    drop_paths: ClassVar[Mapping[str, str]] = {}
    """What drops a branch, `attn` or `mlp`, in training, by its place in a block."""
    attention: ClassVar[str | None] = None
    """What attends among all tokens in a block, by its place there: a module as timm's `Attention`; None where none."""
    fallback: ClassVar[bool] = False
    """Whether it takes what no other family does."""
    other_heads: ClassVar[tuple[str, ...]] = ()
    """Beginnings of names that stand for classifiers in files of weights, besides the head."""

    @abstractmethod
    def why_not(self, model: nn.Module) -> str | None:
        """Why a model is none of this family, or None where it is one; empty where that goes without saying."""

    def features(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what the head reads (B, C): timm's `forward_head` up to the head.

        Args:
            model: The model.
            images: The images.
        """
        timm_model: Any = model
        features: Tensor = timm_model.forward_head(timm_model.forward_features(images), pre_logits=True)
        return features

    @abstractmethod
    def leave(self, model: nn.Module, x: Tensor) -> Tensor:
        """What leaves the last block to the logits (B, K), hooks included.

        Args:
            model: The model.
            x: What left the last block.
        """

    def reset_head(self, model: nn.Module, num_classes: int) -> None:
        """Give the model a new linear head: weights normal with a standard deviation of 0.02, bias 0.

        Args:
            model: The model.
            num_classes: Its outputs; 0 for no head.
        """
        timm_model: Any = model
        timm_model.reset_classifier(num_classes)
        if num_classes:
            nn.init.trunc_normal_(model.get_parameter(f"{self.head_place(model)}.weight"), std=0.02)
            nn.init.zeros_(model.get_parameter(f"{self.head_place(model)}.bias"))

    def resize(self, model: nn.Module, size: int) -> bool:
        """Have a model, made without an image size, take images of that one; False where it cannot.

        Args:
            model: The model.
            size: Side in pixels.
        """
        return False

    def step(self, model: nn.Module, index: int, x: Tensor) -> Tensor:
        """Run one block, and what stands between it and the block before, hooks included.

        Args:
            model: The model.
            index: The block's.
            x: What left the block before, or what `enter` gave.
        """
        y: Tensor = self.blocks(model)[index](self.arrive(model, index, x))
        return y

    def arrive(self, model: nn.Module, index: int, x: Tensor) -> Tensor:
        """Run what stands between a block and the block before, hooks included.

        Args:
            model: The model.
            index: The block's.
            x: What left the block before, or what `enter` gave.
        """
        return x

    def exposed(self, model: nn.Module) -> Iterator[Handle]:
        """Have a frozen model behave as one: see `CalledLayer` and `Still`.

        Layers are called whose weights the backbone uses without, so that what is hooked on them acts; batch norms keep
        their statistics.
        """
        for layer in self.shape(model).layers:
            if layer.shadowed:
                parent = model.get_submodule(layer.path.rpartition(".")[0])
                yield CalledLayer(parent, model.get_submodule(layer.path))
        for norm in batch_norms(model):
            yield Still(model, norm)

    def bias(self, model: nn.Module, layer: Layer) -> Tensor | None:
        """The bias (O,) of a layer as the backbone uses it; None where there is none.

        Args:
            model: The model.
            layer: The layer.
        """
        return dict(model.get_submodule(layer.path).named_parameters(recurse=False)).get("bias")

    def set_bias(self, model: nn.Module, layer: Layer, value: Tensor) -> None:
        """Give a layer a bias, in place of the one that it has or has not.

        Args:
            model: The model.
            layer: The layer.
            value: The bias (O,).
        """
        module = model.get_submodule(layer.path)
        if module.bias is None:
            module.bias = nn.Parameter(value.detach().clone(), requires_grad=False)
        else:
            with torch.no_grad():
                module.get_parameter("bias").copy_(value)

    def enter(self, model: nn.Module, images: Tensor) -> Tensor:
        """Images (B, 3, H, W) to what enters the first block, hooks up to there included.

        Args:
            model: The model.
            images: The images.
        """
        handle = self.blocks(model)[0].register_forward_pre_hook(_stop, prepend=True)
        try:
            model(images)
        except _Entered as entered:
            return entered.x
        finally:
            handle.remove()
        raise RuntimeError("the forward pass did not reach the first block")

    def why_whole(self, model: nn.Module) -> str | None:
        """Why a model must not run in parts, by its structure or by what it computes; None where it may.

        Args:
            model: The model.
        """
        return self.gap(model)

    def blocks(self, model: nn.Module) -> Sequence[nn.Module]:
        """The blocks, in the order of the forward pass."""
        return [model.get_submodule(path) for path in self.block_paths(model)]

    def head(self, model: nn.Module) -> nn.Module:
        """The classifier; `nn.Identity` where there is none."""
        return model.get_submodule(self.head_place(model))

    def outputs(self, model: nn.Module) -> int:
        """How many outputs the head has; 0 where there is no head."""
        head = self.head(model)
        if isinstance(head, nn.Identity):
            return 0
        outputs: int = head.out_features if isinstance(head, nn.Linear) else getattr(model, "num_classes", 0)
        return outputs

    def read_other(self, model: nn.Module, path: Path) -> bool:
        """Load a file in a format of the family's own, and say whether it is one.

        Args:
            model: The model.
            path: The file.

        Raises:
            BackboneError: When it holds the weights of another architecture.
        """
        return False

    def converted(self, model: nn.Module, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """Weights from a file under the model's own names, position embeddings interpolated to its grid.

        Args:
            model: The model.
            state: What the file holds.

        Raises:
            BackboneError: When position embeddings are those of no grid.
        """
        return state

    def recomputes(self, path: str) -> bool:
        """Whether a parameter is computed anew for an image size.

        Args:
            path: Of the parameter in the model.
        """
        return path.rpartition(".")[2] in self.recomputed

    def drop_path(self, block: BlockSites, branch: str) -> nn.Module:
        """What drops a branch, `attn` or `mlp`, of a block for whole images in training.

        Args:
            block: The block.
            branch: The branch.
        """
        place = self.drop_paths.get(branch)
        return nn.Identity() if place is None else block.module.get_submodule(place)

    def undecayed(self, model: nn.Module) -> set[str]:
        """Names of the model's own parameters of two and more axes that are no weights: tokens, position embeddings."""
        return set()

    def more_keys(self, block: BlockSites, source: Callable[[], tuple[Tensor, Tensor]]) -> Iterator[Handle]:
        """Let every token of a block attend to further keys and values as well: the site `attn.keys`.

        Args:
            block: The block.
            source: Gives keys (p, A) and values (p, A).
        """
        raise NotImplementedError

    def more_tokens(self, block: BlockSites, source: Callable[[], Tensor]) -> Iterator[Handle]:
        """Let tokens take part in the attention of a block, and leave with it: the site `attn.tokens`.

        Args:
            block: The block.
            source: Gives them (p, D).
        """
        raise NotImplementedError

    def keys_and_values(self, block: BlockSites, see: Callable[[Tensor], None]) -> Iterator[Handle]:
        """Let `see` have the keys and values of a block, in a form that `ask` takes: the site `attn.queries`.

        Args:
            block: The block.
            see: Takes them.
        """
        raise NotImplementedError

    def show_keys(self, block: nn.Module, x: Tensor) -> None:
        """Run a block just far enough for `keys_and_values` to see its keys and values.

        Args:
            block: The block's module.
            x: What enters it (B, N, D).
        """
        raise NotImplementedError

    def ask(self, block: nn.Module, tokens: Tensor, known: Tensor) -> Tensor:
        """What tokens (B, T, D) find among a block's keys and values, through the whole block (B, T, D).

        The layers are run without their hooks: what others insert acts on the stream, its keys and its values.

        Args:
            block: The block's module.
            tokens: What asks.
            known: What `keys_and_values` gave.
        """
        raise NotImplementedError

    def site(self, model: nn.Module, name: str, block: int | None = None) -> Site:
        """A site of a model.

        Args:
            model: The model.
            name: Of the site.
            block: The block's index, for a site in a block.
        """
        if block is not None:
            return self.block_site(model, name, block, self.blocks(model)[block])
        path, side = self.in_model[name]
        return Site(name, model.get_submodule(path), side, self.width(model), self.site_layout(model, name, None))

    def block_site(self, model: nn.Module, name: str, block: int, module: nn.Module) -> Site:
        """A site in a block of a model.

        Args:
            model: The model.
            name: Of the site.
            block: The block's index.
            module: The block.
        """
        place, side = self.place(model, name, block)
        within = module.get_submodule(place)
        return Site(name, within, side, self.width(model), self.site_layout(model, name, block))

    def place(self, model: nn.Module, name: str, block: int) -> tuple[str, Side]:
        """Where in a block a site is: a module by its place in the block, and which side of it.

        Args:
            model: The model.
            name: Of the site.
            block: The block's index.
        """
        return self.in_block[name]

    def site_layout(self, model: nn.Module, name: str, block: int | None) -> Layout:
        """How what flows at a site of a model lies in memory.

        Args:
            model: The model.
            name: Of the site.
            block: The block's index, for a site in a block.
        """
        return self.layouts.get(name, "NLC")

    def layer_site(self, model: nn.Module, layer: Layer) -> Site:
        """The output of a layer, with its input at hand; what stands around linear layers is given tokens.

        Args:
            model: The model.
            layer: The layer.
        """
        module = model.get_submodule(layer.path)
        layout = self.layer_layout(module)
        return Site(layer.place, module, "out", layer.outputs, layout, raw=layer.kind != "linear")

    def layer_layout(self, module: nn.Module) -> Layout:
        """How the output of a layer lies in memory; of linear layers and norms of tokens it matters only where the
        channels are.

        Args:
            module: The layer.
        """
        return "NCHW" if isinstance(module, nn.Conv2d) else "NLC"

    def block_sites(self, model: nn.Module) -> list[BlockSites]:
        """Every block of a model with its sites."""
        blocks = zip(self.blocks(model), self.shape(model).blocks, strict=True)
        return [BlockSites(self, model, module, shape) for module, shape in blocks]


def _stop(block: nn.Module, args: tuple[Any, ...]) -> NoReturn:
    raise _Entered(args[0])
