import pytest
import torch
import torch.nn.functional as F

from petlas.petl.parts.conv_branch import Place, add_conv_branch

WIDE = {"dtype": torch.float64, "requires_grad": True}


def quick_gelu(z):
    return z * torch.sigmoid(1.702 * z)


def by_formula(base, n, given, place, scale, keep):
    down, down_bias, conv, conv_bias, up, up_bias = given
    z = quick_gelu(F.linear(n, down, down_bias))
    rows, columns = place.size
    patches = z[:, place.first : place.first + rows * columns].transpose(1, 2).unflatten(2, place.size)
    patches = F.conv2d(patches, conv, conv_bias, padding=1).flatten(2).transpose(1, 2)
    alone = F.linear(z, conv[:, :, 1, 1], conv_bias)
    z = torch.cat((alone[:, : place.first], patches, alone[:, place.first + rows * columns :]), dim=1)
    branch = F.linear(quick_gelu(z), up, up_bias)
    return base + scale * (branch if keep is None else keep * branch)


@pytest.mark.parametrize(("first", "behind"), [(0, 0), (1, 0), (5, 2)], ids=["patches", "class", "registers, prompts"])
@pytest.mark.parametrize(("scale", "keep"), [(1.0, None), (0.1, (0.0, 2.0))])
def test_output_and_gradients_are_those_of_the_formula(first, behind, scale, keep):
    torch.manual_seed(0)
    place, width, channels = Place(first, (2, 3)), 4, 7
    base, n = (torch.randn(2, first + 6 + behind, channels, **WIDE) for _ in range(2))
    sizes = ((width, channels), (width,), (width, width, 3, 3), (width,), (channels, width), (channels,))
    given = tuple(torch.randn(s, **WIDE) for s in sizes)
    keep = None if keep is None else torch.tensor(keep, dtype=torch.float64).view(2, 1, 1)
    found = add_conv_branch(base, n, given, place, scale=scale, keep=keep)
    expected = by_formula(base, n, given, place, scale, keep)
    torch.testing.assert_close(found, expected)
    with torch.no_grad():
        assert torch.equal(add_conv_branch(base, n, given, place, scale=scale, keep=keep), found)
    weights = torch.randn_like(expected)
    pairs = zip(*(torch.autograd.grad(y, (base, n, *given), weights) for y in (found, expected)), strict=True)
    for mine, theirs in pairs:
        torch.testing.assert_close(mine, theirs)


def test_dropped_hidden_units_reach_neither_output_nor_gradient():
    """With Up the identity the units that are dropped are seen: the others are twice as large."""
    torch.manual_seed(0)
    place, width = Place(1, (2, 3)), 7
    n = torch.randn(2, 7, width, **WIDE)
    sizes = ((width, width), (width,), (width, width, 3, 3), (width,))
    given = (*(torch.randn(s, dtype=torch.float64) for s in sizes), torch.eye(width).double(), torch.zeros(7).double())
    whole = add_conv_branch(torch.zeros_like(n), n, given, place)
    half = add_conv_branch(torch.zeros_like(n), n, given, place, dropout=0.5)
    kept = half != 0
    assert 0.2 < kept.double().mean() < 0.8
    torch.testing.assert_close(half, whole * kept * 2)
    weights = torch.randn_like(whole)
    gradients = [torch.autograd.grad(y, n, w)[0] for y, w in ((half, weights), (whole, weights * kept * 2))]
    torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("turned", [False, True])
def test_surroundings_are_those_of_each_image_whatever_batches_came_before(turned):
    place, tokens = Place(1, (2, 3)), 8
    for images in (2, 3, 2):
        units = torch.randn(4, images * tokens)
        found = place.surroundings(units, tokens, turned).view(4, 9, images, tokens)
        patches = units.view(4, images, tokens)[..., 1:7].unflatten(-1, (2, 3))
        windows = F.unfold(patches.transpose(0, 1), 3, padding=1).view(images, 4, 9, 6).permute(1, 2, 0, 3)
        expected = torch.zeros_like(found)
        expected[..., 1:7] = windows.flip(1) if turned else windows
        for alone in (0, 7):
            expected[:, 4, :, alone] = units.view(4, images, tokens)[..., alone]
        assert torch.equal(found, expected)
    other = Place(1, (3, 2)).surroundings(units, tokens, turned).view(4, 9, images, tokens)
    assert not torch.equal(other, found)
