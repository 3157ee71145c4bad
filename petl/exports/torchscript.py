"""TorchScript."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from petlas.petl.adapter_file import AdapterInfo
from petlas.petl.exports.base import Loaded, Target, example, merged_if_possible

NOTE = "petlas.json"
"""The extra file in the archive, for `torch.jit.load(..., _extra_files={...})`."""


class TorchScript(Target):
    """One TorchScript file for `torch.jit.load`, and for C++; merged where the design can be, else with it inside.

    Made by `torch.jit.trace`: scripting cannot compile timm's models with hooks, and what `torch.export` saves is read
    by Python only. A trace holds for the image size that it was made with, and for any batch, which is checked.
    """

    name = "torchscript"
    is_file = True

    def write(self, model: nn.Module, info: AdapterInfo, path: Path) -> None:
        """Follow the model's computation."""
        plain = merged_if_possible(model).requires_grad_(False)
        with warnings.catch_warnings(), torch.no_grad():  # operations with a backward pass of their own are no trace
            warnings.simplefilter("ignore")  # of checks of sizes in Python, and that newer forms exist
            torch.jit.save(torch.jit.trace(plain, example(info), check_trace=False), str(path))

    def load(self, path: Path, backbone: Callable[[], nn.Module]) -> Loaded:
        """By torch alone."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that newer forms exist
            model: nn.Module = torch.jit.load(str(path), map_location="cpu")
        return model

    def note(self, path: Path, about: str) -> None:
        """As an extra file in the archive."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.save(torch.jit.load(str(path), map_location="cpu"), str(path), _extra_files={NOTE: about})
