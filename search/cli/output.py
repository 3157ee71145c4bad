"""Results on standard output."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any


def print_json(data: Any) -> None:
    """Print plain data as JSON that any program reads: what is no finite number is null."""
    print(json.dumps(_finite(data), indent=2, default=str))


def print_json_of(items: Sequence[Any]) -> None:
    """The same of what there is one of for each configuration: alone where there is one."""
    print_json(items if len(items) != 1 else items[0])


def _finite(data: Any) -> Any:
    if isinstance(data, float):
        return data if math.isfinite(data) else None
    if isinstance(data, Mapping):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, list | tuple):
        return [_finite(value) for value in data]
    return data
