"""Pictures as files, drawn by matplotlib, which need not be installed."""

from __future__ import annotations

import io
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from petlas.errors import UserError
from petlas.files import write_bytes

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class PictureError(UserError):
    """A picture that cannot be drawn or written: the message says why and what to do."""


def check_picture(path: Path) -> None:
    """Refuse, before any work, what could not be drawn.

    Args:
        path: The PNG.

    Raises:
        PictureError: When matplotlib is missing, or the name is no PNG's.
    """
    if find_spec("matplotlib") is None:
        raise PictureError("a picture is drawn with matplotlib, which is not installed; pip install 'petlas[report]'")
    if path.suffix.lower() != ".png" or path.is_dir():
        raise PictureError(f"a picture is a PNG, got --out {path}; take a name that ends in .png")


def write_picture(figure: Figure, path: Path) -> None:
    """Write a PNG, whole or not at all.

    Args:
        figure: What is drawn.
        path: The file.

    Raises:
        PictureError: When it cannot be written.
    """
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=120)
    try:
        write_bytes(path, file.getvalue())
    except OSError as error:
        raise PictureError(f"the picture cannot be written to {path} ({error}); choose another place") from error
