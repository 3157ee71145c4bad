from __future__ import annotations

from pathlib import Path

import pytest

from petlas.petl import Design, Placement, apply
from petlas.petl.exports import ExportError
from petlas.petl.exports.base import merged_if_possible, unmergeable
from petlas.petl.exports.torchscript import TorchScript


class Lacking(TorchScript):
    packages = ("torch", "no_such_package")


def test_a_missing_package_is_named_with_what_installs_it() -> None:
    with pytest.raises(ExportError, match=r"needs no_such_package; pip install 'petlas\[export\]'"):
        Lacking().check_packages()
    TorchScript().check_packages()


def test_a_design_is_merged_only_where_all_its_methods_can_be(make) -> None:
    both = apply(make(), Design.of([Placement("lora", 0, 2), Placement("adapter", 1, 2)]))
    assert unmergeable(both) == ["adapter"]
    assert hasattr(merged_if_possible(both), "petl")
    assert not hasattr(merged_if_possible(apply(make(), Design.of([Placement("lora", 0, 2)]))), "petl")


def test_a_note_is_a_file_in_a_folder(tmp_path: Path) -> None:
    from petlas.petl.exports.timm import Timm

    Timm().note(tmp_path, "{}")
    assert (tmp_path / "petlas.json").read_text() == "{}\n"
