from __future__ import annotations

import pytest
import timm
import torch
import torch.nn.functional as F

from petlas.petl import Design, DesignError, Placement, apply, check_design, count_params, family_of, shape_by_name
from petlas.petl.methods.conv_adapter import MODES, ConvBottleneck


def eighths(shape):
    hosts = [next(layer for layer in block.layers if layer.names == ("conv",)) for block in shape.blocks]
    return Design.of(Placement("conv_adapter", index, host.inputs // 8) for index, host in enumerate(hosts))


@pytest.mark.parametrize(
    ("name", "count", "widths", "published"),
    [
        ("resnet50", 199_192, (), 199_192),
        ("convnext_tiny", 743_004, (96, 192, 384), 796_848),
        ("convnext_base", 2_231_376, (128, 256, 512), 2_324_672),
    ],
)
def test_published_counts(name, count, widths, published):
    """Those of ConvNeXt have further ones at the downsamplings from D to 2 D, with kernels of 2 x 2."""
    assert count_params(eighths(shape_by_name(name)), shape_by_name(name)) == count
    between = sum(4 * d + d // 8 + d // 8 * 2 * d + 2 * 2 * d for d in widths)
    assert count + between == published


def by_hand(adapter, x, stride):
    """PyTorch's own convolutions."""
    width = len(adapter.filter_bias)
    weight = adapter.filters.view(width, x.shape[1] // width, *adapter.filters.shape[1:])
    padding = weight.shape[-1] // 2
    hidden = F.relu(F.conv2d(x, weight, adapter.filter_bias, stride, padding, groups=width))
    return F.conv2d(hidden, adapter.up[:, :, None, None], adapter.up_bias) * adapter.gamma[:, None, None]


@pytest.fixture
def resnet():
    """Two blocks, of which the second one halves the map, in evaluation mode."""
    torch.manual_seed(0)
    return timm.create_model("resnet26", layers=(1, 1, 1, 1), channels=(8, 8, 8, 8), num_classes=3).eval()


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("index", [0, 1])
def test_each_mode_adds_what_it_says_where_it_says(mode, index, resnet, shake):
    block = family_of(resnet).blocks(resnet)[index]
    apply(resnet, Design.of([Placement("conv_adapter", index, 4, (("mode", mode),))]))
    shake(resnet)
    adapter, stride = resnet.petl.get_submodule(f"conv_adapter.blocks.{index}.{mode}"), 1 + index
    x = torch.randn(2, 32 if index else 64, 14, 14)
    with torch.no_grad():
        found = block(x)
        before = block.conv1(x)
        before = block.act1(block.bn1(before))
        z = F.batch_norm(
            F.conv2d(before, block.conv2.weight, stride=stride, padding=1),
            *(block.bn2.running_mean, block.bn2.running_var, block.bn2.weight, block.bn2.bias),
        )
        z = z + by_hand(adapter, before, stride) if mode == "conv_parallel" else z
        z = z + by_hand(adapter, z, 1) if mode == "conv_sequential" else z
        branch = F.batch_norm(
            F.conv2d(F.relu(z), block.conv3.weight),
            *(block.bn3.running_mean, block.bn3.running_var, block.bn3.weight, block.bn3.bias),
        )
        branch = branch + by_hand(adapter, x, stride) if mode == "residual_parallel" else branch
        expected = F.relu(branch + (x if block.downsample is None else block.downsample(x)))
        expected = expected + by_hand(adapter, expected, 1) if mode == "residual_sequential" else expected
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["convnext_atto", "swin_tiny_patch4_window7_224", "swinv2_tiny_window8_256"])
@pytest.mark.parametrize("mode", MODES)
def test_the_count_is_that_of_the_module_on_other_families_too(name, mode):
    with torch.device("meta"):
        model = timm.create_model(name, num_classes=0)
    design = Design.of([Placement("conv_adapter", block, 8, (("mode", mode),)) for block in (0, 5)])
    counted = count_params(design, model)
    with torch.device("meta"):
        apply(model, design)
    assert counted == sum(p.numel() for p in model.petl.parameters())


def test_a_narrower_one_sums_more_channels_in_each_hidden_unit():
    wide = ConvBottleneck(8, 6, 4, 3)
    narrow = ConvBottleneck(8, 6, 2, 3)
    narrow.load_state_dict(wide.sliced_state(2))
    x = torch.randn(2, 8, 5, 4)
    wide.narrow(2)
    torch.testing.assert_close(wide(x), narrow(x))
    torch.testing.assert_close(narrow(x), by_hand(narrow, x, 1).flatten(2).transpose(1, 2))


@pytest.mark.parametrize(
    ("name", "placement", "words"),
    [
        ("vit_tiny_patch16_224", Placement("conv_adapter", 0, 8), r"acts at conv.in, .*: it computes on tokens"),
        ("resnet50", Placement("conv_adapter", 0, 7), r"must divide the 64 channels .* got size=7; take one of 1, 2"),
        ("resnet50", Placement("conv_adapter", 0, 8, (("mode", "both"),)), r"must be one of conv_parallel, .*'both'"),
    ],
)
def test_what_makes_no_sense_is_refused(name, placement, words):
    with pytest.raises(DesignError, match=words):
        check_design(Design.of([placement]), shape_by_name(name))
