"""Things that are imported when they are first used, so that what is light stays quick to import."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from importlib import import_module
from typing import Any


def look_up(place: str) -> Any:
    """What stands at a place such as `petlas.petl.methods.lora:LoRA`: the value of a registry's line.

    Raises:
        ImportError: When there is no such module.
        AttributeError: When it has no such name.
    """
    module, _, name = place.partition(":")
    return getattr(import_module(module), name)


def offered(package: str, homes: Mapping[str, tuple[str, ...]]) -> Callable[[str], Any]:
    """A package's `__getattr__` that imports its public names from their modules at first use.

    Args:
        package: Its `__name__`.
        homes: For each of its modules, the names that it holds.
    """
    module_of = {name: module for module, names in homes.items() for name in names}

    def get(name: str) -> Any:
        if name not in module_of:
            raise AttributeError(f"module {package!r} has no attribute {name!r}")
        return getattr(import_module(f"{package}.{module_of[name]}"), name)

    return get
