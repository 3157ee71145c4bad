from __future__ import annotations

import pytest
import timm
import torch
from timm.models.mlp_mixer import MlpMixer

from petlas.petl.backbones.followed import follow


def followed(name, size=64, **arguments):
    with torch.device("meta"):
        return follow(timm.create_model(name, num_classes=3, **arguments), (size, size))


def test_blocks_are_what_stands_in_containers_and_the_rest_runs_between_and_behind():
    found = followed("mobilevit_xxs")
    assert found.blocks == tuple(f"stages.{s}.{b}" for s, d in enumerate((1, 3, 2, 2, 2)) for b in range(d))
    assert found.first == "stem" and found.behind[-1] == ("final_conv",) and found.gap is None
    assert found.maps[0] == (16, 32, 32) and found.maps[-1] == (80, 2, 2)
    dense = followed("densenet121")
    assert dense.blocks[:2] == ("features.denseblock1", "features.transition1")
    assert dense.behind[-1] == ("features.norm5",)


@pytest.mark.parametrize(
    ("name", "gap"),
    [
        ("twins_svt_small", "blocks.0.0 is given, or gives, more than the stream"),
        ("convit_tiny", "something else happens between blocks.9 and blocks.10"),
    ],
)
def test_what_hands_on_more_than_the_stream_does_not_run_in_parts(name, gap):
    assert followed(name, 224).gap == gap


def test_a_model_is_left_as_it_is():
    model = MlpMixer(img_size=64, num_blocks=1, embed_dim=16, num_classes=3).train()
    before = {path: value.clone() for path, value in model.state_dict().items()}
    follow(model, (64, 64))
    assert all(torch.equal(value, before[path]) for path, value in model.state_dict().items())
    assert all(module.training and not module._forward_hooks for module in model.modules())
    assert "forward_head" not in vars(model) and model(torch.randn(1, 3, 64, 64)).isfinite().all()
