"""Results on standard output."""

from __future__ import annotations

import csv
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(data: Any) -> None:
    """Print plain data as JSON that any program reads: what is no finite number is null."""
    print(json.dumps(_finite(data), indent=2, default=str))


def print_json_of(items: Sequence[Any]) -> None:
    """The same of what there is one of for each configuration: alone where there is one."""
    print_json(items if len(items) != 1 else items[0])


def print_csv(rows: Sequence[Mapping[str, Any]]) -> None:
    """Print rows with a head line, as spreadsheets take them: what is no finite number is empty.

    Args:
        rows: With the same keys each, of plain values.
    """
    if not rows:
        return
    table = csv.DictWriter(sys.stdout, fieldnames=list(rows[0]), lineterminator="\n")
    table.writeheader()
    table.writerows({key: "" if value is None else value for key, value in _finite(row).items()} for row in rows)


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
