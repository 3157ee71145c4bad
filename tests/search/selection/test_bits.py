import numpy as np
import pytest

from petlas.search.selection.bits import pack_bits, pack_numbers, unpack_bits, unpack_numbers


@pytest.mark.parametrize("count", [1, 7, 8, 9, 200])
def test_what_was_packed_comes_back_in_its_order(count: int) -> None:
    rng = np.random.default_rng(count)
    right, classes = rng.random(count) < 0.6, rng.integers(0, 70_000, count)
    assert unpack_bits(pack_bits(right), count) == tuple(right.tolist())
    assert unpack_numbers(pack_numbers(classes)) == tuple(classes.tolist())


def test_a_thousand_images_take_less_than_two_hundred_letters() -> None:
    assert len(pack_bits(np.ones(1000, np.bool_))) < 200
