from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.search.config import ConfigError, Fault, load_config


@pytest.fixture
def faults_of() -> Callable[..., dict[str, Fault]]:
    """The faults of a configuration with overrides, by their paths; all of them are told."""

    def faults_of(path: Path | str, *overrides: str) -> dict[str, Fault]:
        with pytest.raises(ConfigError) as caught:
            load_config(str(path), overrides)
        for fault in caught.value.faults:
            assert str(fault) in str(caught.value)
        return {fault.path: fault for fault in caught.value.faults}

    return faults_of
