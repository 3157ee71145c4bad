"""Every method to every target: it computes the same there, or is refused by its name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.petl import EXPORTS, METHODS, ExportError, export_adapter, get_method
from petlas.petl.exports import get_target

IN_PEFT = {"lora", "dora", "bitfit", "ln_tune", "linear", "partial"}
"""What PEFT can express."""
IN_ONNX = ("lora", "adapter", "vpt")
"""Merged, a hook behind layers, and further tokens: seconds each, and traces follow the hooks of all others."""


ON_TOKENS = [name for name in METHODS if "conv.in" not in get_method(name).needs]


def expressible(method: str, target: str) -> bool:
    if target == "timm":
        return get_method(method).mergeable
    return target != "peft" or method in IN_PEFT


@pytest.mark.parametrize(
    ("method", "target"), [(m, t) for m in ON_TOKENS for t in EXPORTS if t != "onnx" or m in IN_ONNX]
)
def test_a_method_computes_the_same_or_is_refused(
    method: str, target: str, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    try:
        get_target(target)
    except ExportError as error:
        pytest.skip(str(error))
    out = tmp_path / "out"
    if expressible(method, target):
        done = export_adapter(adapter(method), target, out)
        assert done.max_abs_difference <= 1e-4
        assert out.exists()
    else:
        with pytest.raises(ExportError, match=rf"\b{method}\b"):
            export_adapter(adapter(method), target, out)
        assert not out.exists()
    assert not list(tmp_path.glob(".*"))
