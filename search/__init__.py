"""How a design is chosen: searches as typed calls. The command line is a thin skin over these.

Names are looked up when they are first used, so that nothing heavy comes before it is needed.
"""

from __future__ import annotations

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from petlas.search.api import (
        RetrainResult,
        SearchResult,
        evaluate,
        export,
        plan,
        predict,
        report,
        retrain,
        score,
        search,
        study,
    )
    from petlas.search.config import ConfigError, RunConfig, load_config
    from petlas.search.run_folder import RunError, find_run
    from petlas.search.workbench import Workbench

_HOME = {
    "api": (
        "RetrainResult",
        "SearchResult",
        "evaluate",
        "export",
        "plan",
        "predict",
        "report",
        "retrain",
        "score",
        "search",
        "study",
    ),
    "config": ("ConfigError", "RunConfig", "load_config"),
    "run_folder": ("RunError", "find_run"),
    "workbench": ("Workbench",),
}
_MODULE_OF = {name: module for module, names in _HOME.items() for name in names}

__all__ = [
    "ConfigError",
    "RetrainResult",
    "RunConfig",
    "RunError",
    "SearchResult",
    "Workbench",
    "evaluate",
    "export",
    "find_run",
    "load_config",
    "plan",
    "predict",
    "report",
    "retrain",
    "score",
    "search",
    "study",
]


def __getattr__(name: str) -> Any:
    """Import a public name from its module at first use."""
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULE_OF[name]}"), name)


def __dir__() -> list[str]:
    return __all__


class _Room(ModuleType):
    """This package: `petlas.search.study(...)` is a call, also when the room of that name has been imported.

    Python binds a submodule to its parent under its name, which would take the call's place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in _MODULE_OF and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room
