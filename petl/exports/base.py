"""What a target of exports is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from petlas.files import write_text
from petlas.petl.adapter_file import AdapterInfo
from petlas.petl.check import methods_of
from petlas.petl.design import DesignError
from petlas.petl.exports.errors import ExportError
from petlas.petl.tuning import merge, tuning_of

Loaded: TypeAlias = Callable[[Tensor], Tensor]
"""Normalised images (B, 3, S, S) to logits (B, K), as others compute them."""


class Target(ABC):
    """A form that an adapter file can be handed over in. To add one: write its file, and add its line to `EXPORTS`."""

    name: ClassVar[str]
    """As `petlas export --to` takes it."""
    is_file: ClassVar[bool] = False
    """Whether it is one file; else it is a folder."""
    packages: ClassVar[tuple[str, ...]] = ()
    """What must be installed beyond what petlas itself needs: the extra `export`."""

    @abstractmethod
    def write(self, model: nn.Module, info: AdapterInfo, path: Path) -> None:
        """Write the model.

        Args:
            model: The tuned model in evaluation mode, in float32, on the CPU; it may be changed.
            info: The header of its adapter file.
            path: The file, or an empty folder.

        Raises:
            ExportError: When the design cannot be expressed.
        """

    @abstractmethod
    def load(self, path: Path, backbone: Callable[[], nn.Module]) -> Loaded:
        """Load what was written, as whoever gets it does: without petlas.

        Args:
            path: The file or folder.
            backbone: Makes the plain pretrained backbone with a fresh head, for forms that hold no whole model.
        """

    def note(self, path: Path, about: str) -> None:
        """Keep with the export what it is of and how it was checked.

        Args:
            path: The file or folder.
            about: JSON.
        """
        write_text(path / "petlas.json", about + "\n")

    def check_packages(self) -> None:
        """Refuse to begin without what is needed.

        Raises:
            ExportError: Naming the packages.
        """
        missing = [name for name in self.packages if find_spec(name) is None]
        if missing:
            raise ExportError(f"an export to {self.name} needs {', '.join(missing)}; pip install 'petlas[export]'")


def unmergeable(model: nn.Module) -> list[str]:
    """The methods of a model's design that cannot be folded into the backbone's weights."""
    return [method.name for method in methods_of(tuning_of(model).design) if not method.mergeable]


def merged_if_possible(model: nn.Module) -> nn.Module:
    """The model with its design folded into the weights, where all methods can be; else with the design inside."""
    if not unmergeable(model):
        try:
            return merge(model)
        except DesignError as error:
            raise ExportError(f"the design cannot be merged: {error}") from error
    return model


def example(info: AdapterInfo) -> Tensor:
    """Two images (2, 3, S, S) to follow a model's computation with; 1 would be taken for a fixed size."""
    return torch.zeros(2, 3, info.input.size, info.input.size)
