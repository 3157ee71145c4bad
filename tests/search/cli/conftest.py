"""What a command loads."""

import subprocess
import sys
from collections.abc import Callable

import pytest


@pytest.fixture
def imported() -> Callable[..., set[str]]:
    """The top-level modules that a command loads."""

    def imported(*arguments: str) -> set[str]:
        code = (
            "import sys\nfrom petlas.search.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
            "    assert not end.code, end.code\n"
            "print('MODULES', *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
        )
        done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        return set(done.stderr.rpartition("MODULES")[2].split())

    return imported
