import shutil
from pathlib import Path

import pytest

from petlas import petl
from petlas.petl import mini


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of the small backbone as a file of the user's."""
    return Path(shutil.copy(Path(mini.__path__[0]) / f"{petl.MINI}.safetensors", tmp_path / "weights.safetensors"))
