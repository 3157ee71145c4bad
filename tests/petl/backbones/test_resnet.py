from __future__ import annotations

import pytest
import timm
import torch

from petlas.petl import get_family


@pytest.mark.parametrize(
    ("name", "family", "reason"),
    [
        ("resnet18", "resnet", None),
        ("seresnet50", "resnet", None),
        ("resnet50_gn", "resnet", "other norms (GroupNorm)"),
        ("resnet50_clip", "resnet_clip", None),
        ("repvgg_a0", "resnet_clip", "other blocks"),
        ("convnext_atto", "resnet", ""),
    ],
)
def test_what_is_one_and_what_is_not(name, family, reason):
    with torch.device("meta"):
        assert get_family(family).why_not(timm.create_model(name)) == reason


def test_a_squeeze_and_excitation_ends_the_branch():
    with torch.device("meta"):
        model = timm.create_model("seresnet50")
    assert get_family("resnet").branch_end(model.layer1[0]) == "se"
