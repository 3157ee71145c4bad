"""What families with stages share: blocks under modules of stages, and what changes maps between these."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from torch import Tensor, nn

from petlas.petl.backbones.base import Family


class StageFamily(Family):
    """A family on maps, whose blocks stand in stages and run one behind the other."""

    stages_path: ClassVar[str]
    """Where the stages stand in a model."""
    blocks_path: ClassVar[str] = ""
    """Where the blocks stand in a stage; empty where the stage itself is the sequence."""
    between: ClassVar[str | None] = None
    """What runs in a stage in front of its first block, by its place in the stage."""

    def stage_paths(self, model: nn.Module) -> Sequence[str]:
        """Where each stage stands."""
        return [f"{self.stages_path}.{name}" for name, _ in model.get_submodule(self.stages_path).named_children()]

    def stage_modules(self, model: nn.Module) -> list[nn.Module]:
        """The stages."""
        return [model.get_submodule(path) for path in self.stage_paths(model)]

    def blocks_of(self, stage: nn.Module) -> list[nn.Module]:
        """The blocks of a stage.

        Args:
            stage: The stage.
        """
        return list(stage.get_submodule(self.blocks_path).children())

    def block_paths(self, model: nn.Module) -> Sequence[str]:
        """Stage by stage."""
        paths = [".".join(filter(None, (path, self.blocks_path))) for path in self.stage_paths(model)]
        return [f"{path}.{name}" for path in paths for name, _ in model.get_submodule(path).named_children()]

    def prefix_tokens(self, model: nn.Module) -> int:
        """None."""
        return 0

    def arrive(self, model: nn.Module, index: int, x: Tensor) -> Tensor:
        """What stands between stages runs in front of the first block of a stage."""
        path = self.block_paths(model)[index]
        first = f".{self.blocks_path}.0"
        if self.between and path.endswith(first):
            x = model.get_submodule(f"{path.removesuffix(first)}.{self.between}")(x)
        return x
