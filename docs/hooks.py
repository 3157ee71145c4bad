"""Shows mkdocstrings the rooms as the one package that they install as: they lie side by side here."""

import atexit
import shutil
import tempfile
from pathlib import Path
from typing import Any

from mkdocs.plugins import event_priority

ROOT = Path(__file__).parent.parent
ROOMS = ("datasets", "petl", "spaces", "search", "configs")
_IGNORED = shutil.ignore_patterns("__pycache__", "*.safetensors")


@event_priority(100)  # before mkdocstrings looks for the package
def on_config(config: Any) -> Any:
    """Called by mkdocs before it builds."""
    folder = Path(tempfile.mkdtemp())
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    package = shutil.copytree(ROOT / "petlas", folder / "petlas", ignore=_IGNORED)
    for room in ROOMS:  # copies, for links are not followed
        shutil.copytree(ROOT / room, package / room, ignore=_IGNORED)
    config.plugins["mkdocstrings"].config["handlers"]["python"]["paths"] = [str(folder)]
    return config
