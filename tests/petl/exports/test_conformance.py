"""Every method to every target: it computes the same there, or is refused by its name.

In groups that can stand together in a design, as an export takes seconds; what all can be merged apart from the rest.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

from petlas.petl import (
    EXPORTS,
    METHODS,
    MINI,
    Design,
    DesignError,
    ExportError,
    Placement,
    check_design,
    export_adapter,
    get_method,
    shape_by_name,
)
from petlas.petl.exports import get_target

IN_PEFT = {"lora", "dora", "bitfit", "ln_tune", "linear", "partial"}
"""What PEFT can express."""
IN_ONNX = {"lora"}
"""Merged; the test beside this one has a hook behind layers, and further tokens: traces follow the hooks of all."""
MOST = 12
"""Methods in a group."""

ON_TOKENS = [name for name in METHODS if not {"conv.in", "pixels"} & {*get_method(name).sites, *get_method(name).needs}]


def expressible(method: str, target: str) -> bool:
    if target == "timm":
        return get_method(method).mergeable
    return target != "peft" or method in IN_PEFT


def usual(name: str) -> list[Placement]:
    """A method's usual design on the small backbone, but for the blocks in the middle."""
    shape, method = shape_by_name(MINI, 32), get_method(name)
    own = method.baseline(shape, 2 if method.size_means else None)
    return [placement for placement in own if placement.block in (None, 0, shape.depth - 1)]


def groups(names: Iterable[str]) -> list[list[str]]:
    """The methods in groups whose usual designs can stand together on the small backbone."""
    shape, found = shape_by_name(MINI, 32), list[tuple[list[str], list[Placement]]]()
    for name in names:
        own = usual(name)
        for members, placements in found:
            try:
                check_design(Design.of((*placements, *own)), shape)
            except DesignError:
                continue
            if len(members) < MOST:
                members.append(name)
                placements.extend(own)
                break
        else:
            found.append(([name], list(own)))
    return [members for members, _ in found]


@pytest.mark.parametrize("mergeable", [True, False])
@pytest.mark.parametrize("target", EXPORTS)
def test_methods_compute_the_same_or_are_refused(
    target: str, mergeable: bool, adapter: Callable[..., Path], tmp_path: Path
) -> None:
    try:
        get_target(target)
    except ExportError as error:
        pytest.skip(str(error))
    those = [name for name in ON_TOKENS if get_method(name).mergeable is mergeable]
    fit = [name for name in those if expressible(name, target) and (target != "onnx" or name in IN_ONNX)]
    for number, group in enumerate([[name] for name in fit] if target == "peft" else groups(fit)):
        out = tmp_path / f"out{number}"
        done = export_adapter(adapter(*(part for name in group for part in usual(name))), target, out)
        assert done.max_abs_difference <= 1e-4, group
        assert out.exists()
    for group in groups(name for name in those if not expressible(name, target)):
        with pytest.raises(ExportError) as refusal:
            export_adapter(adapter(*group), target, tmp_path / "refused")
        assert set(re.findall(r"\w+", str(refusal.value))) >= set(group), refusal.value
        assert not (tmp_path / "refused").exists()
    assert not list(tmp_path.glob(".*"))
