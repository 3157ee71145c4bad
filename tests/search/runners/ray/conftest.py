import shutil
from pathlib import Path

import pytest

from petlas import petl


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """The weights of the small backbone as a file of the user's."""
    (mini,) = (Path(petl.__path__[0]) / "mini").glob("*.safetensors")
    return Path(shutil.copy(mini, tmp_path / "weights.safetensors"))
