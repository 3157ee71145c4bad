"""How a design is chosen: searches as typed calls. The command line is a thin skin over these.

Names are looked up when they are first used, so that nothing heavy comes before it is needed.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from petlas.lazy import offered

if TYPE_CHECKING:
    from petlas.search.api import (
        attention,
        evaluate,
        export,
        plan,
        predict,
        report,
        retrain,
        score,
        search,
        study,
        tsne,
    )
    from petlas.search.config import ConfigError, RunConfig, load_config, load_configs
    from petlas.search.reports.readable import readable_study
    from petlas.search.results import RetrainResult, SearchesStopped, SearchResult
    from petlas.search.run_folder import RunError, find_run
    from petlas.search.workbench import Workbench

_HOME = {
    "api": (
        "attention",
        "evaluate",
        "export",
        "plan",
        "predict",
        "report",
        "retrain",
        "score",
        "search",
        "study",
        "tsne",
    ),
    "config": ("ConfigError", "RunConfig", "load_config", "load_configs"),
    "reports.readable": ("readable_study",),
    "results": ("RetrainResult", "SearchResult", "SearchesStopped"),
    "run_folder": ("RunError", "find_run"),
    "workbench": ("Workbench",),
}

__all__ = [
    "ConfigError",
    "RetrainResult",
    "RunConfig",
    "RunError",
    "SearchResult",
    "SearchesStopped",
    "Workbench",
    "attention",
    "evaluate",
    "export",
    "find_run",
    "load_config",
    "load_configs",
    "plan",
    "predict",
    "readable_study",
    "report",
    "retrain",
    "score",
    "search",
    "study",
    "tsne",
]


__getattr__ = offered(__name__, _HOME)


def __dir__() -> list[str]:
    return __all__


class _Room(ModuleType):
    """This package: `petlas.search.study(...)` is a call, also when the room of that name has been imported.

    Python binds a submodule to its parent under its name, which would take the call's place.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if not (name in __all__ and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Room
