from __future__ import annotations

import pytest
import torch
from torch import nn

from petlas.petl import family_of
from petlas.petl.parts.stream import Between


@pytest.mark.parametrize("kind", ["plain", "dinov2"])
def test_the_adapter_reads_and_changes_what_the_mlp_and_the_block_see(kind, make):
    model = make(kind).double()
    sites = family_of(model).block_sites(model)[1]
    block, adapter = sites.module, nn.Linear(make(kind).embed_dim, make(kind).embed_dim).double()
    x = torch.randn(2, 7, make(kind).embed_dim, dtype=torch.float64)
    between = Between(adapter)
    with torch.no_grad():
        middle = x + block.ls1(block.attn(block.norm1(x)))
        middle = middle + adapter(middle)
        expected = middle + block.ls2(block.mlp(block.norm2(middle)))
        handles = list(between.attach(sites))
        torch.testing.assert_close(block(x), expected, rtol=1e-12, atol=1e-12)
    assert between._carried is None
    for handle in handles:
        handle.remove()
    assert not torch.allclose(block(x), expected)
