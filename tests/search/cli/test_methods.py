from collections.abc import Callable
from typing import Any

from petlas.petl import METHODS


def test_methods_lists_every_method(petlas: Callable[..., Any]) -> None:
    result = petlas("methods", "--backbone", "vit_mini_patch16_64", "--format", "json")
    assert [row["method"] for row in result.json] == list(METHODS)
    keys = {"method", "size", "params", "sites", "mergeable", "elastic", "paper"}
    assert all(keys <= row.keys() for row in result.json)
    table = petlas("methods")
    assert table.status == 0
    assert "vit_base_patch16_224" in table.out
    assert all(name in table.out for name in METHODS)
