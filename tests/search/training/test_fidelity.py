import subprocess
import sys

import pytest

from petlas.errors import UserError
from petlas.search.training import Fidelity


def test_equal_fidelities_are_one() -> None:
    assert len({Fidelity(3, 0), Fidelity(3, 0), Fidelity(3, 1), Fidelity(3, 0, 1, 5), Fidelity(3, 0, 1, 5)}) == 3


def test_every_part_of_it_is_in_its_name() -> None:
    assert str(Fidelity(100, 2)) == "e100-s2"
    assert str(Fidelity(100, 2, 0, 5)) == "e100-s2-f0of5"
    assert str(Fidelity(100, 2, 0, 5, 1)) == "e100-s2-f0of5-r1"


@pytest.mark.parametrize(("fold", "folds"), [(0, None), (None, 3), (3, 3), (-1, 3)])
def test_a_fold_is_one_of_the_folds(fold: int | None, folds: int | None) -> None:
    with pytest.raises(UserError, match=f"fold={fold}"):
        Fidelity(1, 0, fold, folds)


@pytest.mark.parametrize("place", [(None, None, 1), (0, 5, -1)])
def test_only_folds_are_dealt_anew(place: tuple[int | None, int | None, int]) -> None:
    with pytest.raises(UserError, match=f"repeat={place[2]}"):
        Fidelity(1, 0, *place)


def test_it_needs_no_torch() -> None:
    code = (
        "import sys; from petlas.search.training import EpochResult, Fidelity, Work; sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
