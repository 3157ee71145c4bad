import pickle

import numpy as np
import torch
from torch import nn

from petlas.petl import fingerprint, load_backbone
from petlas.search.supplies import packed


def test_a_module_that_was_packed_is_the_same_and_reads_the_parcels_memory() -> None:
    module = nn.Sequential(nn.Linear(3, 2, bias=False), nn.BatchNorm1d(2), nn.Linear(2, 2)).double()
    module[2].weight.requires_grad_(False)
    module[2].bias = module[1].bias  # shared within the module
    module.register_buffer("rare", torch.tensor([1.5, float("nan")], dtype=torch.bfloat16), persistent=False)
    module.eval()
    parcel = pickle.loads(pickle.dumps(packed(module)))
    other = parcel.unpacked()
    for name, value in (*module.state_dict().items(), ("rare", module.rare)):
        mine = dict((*other.state_dict().items(), ("rare", other.rare)))[name]
        assert mine.dtype == value.dtype
        assert torch.equal(mine.nan_to_num(), value.nan_to_num())
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in module.parameters()]
    assert other[2].bias is other[1].bias
    assert not other.training
    assert len(parcel.skeleton) < 10_000
    first = other[0].weight
    assert any(np.shares_memory(first.detach().numpy(), array) for array in parcel.arrays)


def test_a_backbone_that_was_packed_computes_the_same() -> None:
    model = load_backbone("vit_mini_patch16_64", img_size=32)
    other = packed(model).unpacked()
    assert fingerprint(other.state_dict()) == fingerprint(model.state_dict())
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(model(images), other(images))
    assert other.pretrained_cfg == model.pretrained_cfg
