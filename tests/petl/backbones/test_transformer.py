from __future__ import annotations

import pytest

from petlas.petl import get_family
from petlas.petl.backbones.transformer import DROP_PATHS, NAMES, SITES


@pytest.mark.parametrize("family", ["swin", "swinv2"])
def test_what_the_tables_name_stands_in_every_block(family, small):
    model = small(family)
    for block in get_family(family).block_sites(model):
        places = {*NAMES, *DROP_PATHS.values(), *(place for place, _ in SITES.values())} - {"norm"}
        assert all(block.module.get_submodule(place) is not None for place in places)
        dropped = [get_family(family).drop_path(block, branch) for branch in DROP_PATHS]
        assert dropped == [block.module.drop_path1, block.module.drop_path2]
