import shutil
from pathlib import Path

import pytest

from petlas.petl import MINI
from petlas.petl.mini import mini_file


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of the small backbone as a file of the user's."""
    return Path(shutil.copy(mini_file(MINI), tmp_path / "weights.safetensors"))
