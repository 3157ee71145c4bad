from __future__ import annotations

import pytest
import torch

from petlas.petl import get_family, shape_of


@pytest.mark.parametrize("family", ["swin", "convnext"])
def test_blocks_are_numbered_through_the_stages(family, small):
    model, found = small(family), get_family(family)
    paths, stages = list(found.block_paths(model)), found.stage_modules(model)
    assert paths == sorted(paths) and [len(found.blocks_of(stage)) for stage in stages] == [
        stage.depth for stage in shape_of(model).stages
    ]
    assert [model.get_submodule(path) for path in paths] == [b for stage in stages for b in found.blocks_of(stage)]


def test_what_stands_between_stages_runs_in_front_of_the_first_block_alone(small, images):
    model, found = small("swin"), get_family("swin")
    seen = []
    model.layers[1].downsample.register_forward_hook(lambda layer, args, output: seen.append(output))
    with torch.no_grad():
        x = found.step(model, 1, found.step(model, 0, found.enter(model, images(model))))
        assert not seen
        assert torch.equal(found.step(model, 2, x), model.layers[1].blocks[0](*seen))
