"""What an adapter file can be handed over as. To add one: write its file, and add its line. Torch-free to import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from petlas.lazy import look_up
from petlas.petl.exports.errors import ExportError, InexactError

if TYPE_CHECKING:
    from petlas.petl.exports.base import Target

EXPORTS: dict[str, str] = {
    "timm": "petlas.petl.exports.timm:Timm",
    "peft": "petlas.petl.exports.peft:Peft",
    "onnx": "petlas.petl.exports.onnx:Onnx",
    "torchscript": "petlas.petl.exports.torchscript:TorchScript",
}
"""By the name that `petlas export --to` takes."""


def get_target(name: str) -> Target:
    """A target; its file is imported when it is first asked for.

    Raises:
        ExportError: When there is no such target, or it needs a package that is not installed.
    """
    if name not in EXPORTS:
        raise ExportError(f"an export goes to one of {', '.join(EXPORTS)}, got {name!r}")
    target: Target = look_up(EXPORTS[name])()
    target.check_packages()
    return target


__all__ = ["EXPORTS", "ExportError", "InexactError", "get_target"]
