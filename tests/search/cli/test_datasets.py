from collections.abc import Callable
from typing import Any


def test_datasets_lists_digits_with_its_counts(petlas: Callable[..., Any]) -> None:
    rows = {row["name"]: row for row in petlas("datasets", "-f", "json").json}
    assert rows["digits"]["found"]
    assert rows["digits"]["counts"] == {"train": 800, "val": 200, "trainval": 1000, "test": 797}
    table = petlas("datasets")
    assert "train 800, val 200" in table.out
    assert "not found" in table.out
