import torch

from petlas.petl.parts.version import version


def test_every_change_in_place_is_counted_and_reading_is_not():
    tensor = torch.zeros(3)
    before = version(tensor)
    tensor.sum()
    assert version(tensor) == before
    tensor[1] = 1
    tensor.add_(1)
    assert version(tensor) > before
