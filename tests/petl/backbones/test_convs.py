from __future__ import annotations

import pytest
import torch

from petlas.petl import Design, Placement, apply, count_params, family_of, get_family, remove, shape_by_name, shape_of

CONVS = ["resnet", "resnet_clip", "efficientnet"]


@pytest.mark.parametrize("family", CONVS)
def test_sizes_are_found_without_computing_a_number(family, small):
    model, found = small(family), get_family(family)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    shape = shape_of(model)
    with torch.no_grad():
        x = found.enter(model, torch.randn(1, 3, 32, 32))
        assert tuple(x.shape[2:]) == shape.grid == found.grid(model, (32, 32))
        for index, block in enumerate(shape.blocks):
            x = found.step(model, index, x)
            assert tuple(x.shape[1:]) == (block.width, *block.grid)
    assert shape.width == found.width(model) == x.shape[1]
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert not any("forward" in vars(module) for module in model.modules())


@pytest.mark.parametrize("family", CONVS)
def test_the_branch_ends_behind_its_last_norm(family, small, images):
    """What is added there is added to the sum, in front of the block's last activation."""
    model, found = small(family), get_family(family)
    seen, sums = [], []
    found.site(model, "mlp.out", 1).read(lambda tokens: seen.append(tokens.clone()))  # the sum is in place
    block = found.blocks(model)[1]
    block.register_forward_hook(lambda block, args, output: sums.append((args[0], output)))
    with torch.no_grad():
        model(images(model))
    (tokens,), ((entered, left),) = seen, sums
    branch = tokens.transpose(1, 2).unflatten(2, left.shape[2:])
    past = getattr(block, "shortcut", None) or torch.nn.Identity()
    expected = branch + past(entered) if entered.shape == left.shape else branch
    expected = expected if family == "efficientnet" else expected.relu()
    torch.testing.assert_close(left, expected)


def test_published_counts():
    shape = shape_by_name("resnet50")
    assert shape.params == 23_508_032 and shape_by_name("resnet101").params == 42_500_160
    assert count_params(Design.of([Placement("ln_tune", None)]), shape) == 53_120
    assert count_params(Design.of([Placement("bitfit", None)]), shape) == 26_560
    assert [(stage.depth, stage.width, stage.grid) for stage in shape.stages] == [
        *((3, 256, (56, 56)), (4, 512, (28, 28))),
        *((6, 1024, (14, 14)), (3, 2048, (7, 7))),
    ]


@pytest.mark.parametrize("family", CONVS)
def test_images_of_any_size_go_through_a_tuned_model(family, small):
    model = small(family)
    apply(model, Design.of([Placement("adapter", block, 2) for block in range(3)]))
    with torch.no_grad():
        assert model(torch.randn(1, 3, 40, 64)).shape == (1, 5)
    assert family_of(model) is get_family(family)
    remove(model)
