import pytest

from petlas.petl import Design, DesignError, Placement, everywhere


def test_one_method_with_one_size_stands_at_every_block(make):
    model = make()
    assert everywhere("lora", model, 8) == Design.of(Placement("lora", block, 8) for block in range(3))
    assert everywhere("lora", model).placements[0].size == 8
    assert everywhere("ssf", model).placements
    placed = everywhere("lora", model, 2, targets="q,k").placements
    assert [dict(p.options) for p in placed] == [{"targets": "q,k"}] * 3


def test_what_there_is_not_is_refused(make):
    with pytest.raises(DesignError, match="did you mean lora"):
        everywhere("lorra", make())
    with pytest.raises(DesignError, match="size"):
        everywhere("ssf", make(), 3)
    with pytest.raises(DesignError, match="nothing"):
        everywhere("lora", make(), 3, nothing=1)
