from __future__ import annotations

import torch

from petlas.petl import Draws


def test_a_stream_of_random_numbers_leaves_the_process_s_own_alone() -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(5)
    draws = Draws(torch.device("cpu"))
    first, again = torch.rand(2), torch.rand(2)
    torch.manual_seed(3)
    found = [torch.rand(2)]
    with draws:
        assert torch.equal(torch.rand(2), first)
    found.append(torch.rand(2))
    with draws:
        assert torch.equal(torch.rand(2), again)
    assert torch.equal(torch.cat(found), expected)
