"""What numbers depend on beside the configuration: versions, the command, seeds. Torch-free."""

from __future__ import annotations

import platform
import shlex
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import petlas
from petlas.search.config import RunConfig
from petlas.search.study.storage import without_passwords

_PACKAGES = ("torch", "timm", "optuna", "ray", "numpy", "pillow", "scikit-learn")


def versions() -> dict[str, str]:
    """The versions of petlas, of Python, and of the packages that numbers depend on."""
    found = {"petlas": petlas.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def command() -> str:
    """The command that runs, as a shell takes it, without the passwords of URLs."""
    program, *arguments = sys.argv or ["python"]
    return without_passwords(shlex.join([Path(program).name, *arguments]))


def provenance(config: RunConfig) -> dict[str, Any]:
    """All of this as plain data, for `metrics.json` and the card."""
    drawn = {"seed": config.seed, "split_seed": config.task.split_seed}
    return {"versions": versions(), "command": command()} | drawn


def provenance_lines(config: RunConfig) -> list[str]:
    """The same for people."""
    final = ", ".join(str(config.seed + i) for i in range(config.protocol.retrain_seeds))
    return [
        ", ".join(f"{package} {number}" for package, number in versions().items()),
        f"command: {command()}",
        f"seed {config.seed}, split seed {config.task.split_seed}, for retraining {final}",
    ]
