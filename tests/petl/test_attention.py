import pytest
import timm
import torch

from petlas.petl import BackboneError, apply, attention_maps, everywhere, over_patches, rollout


def by_hand(model, images, block):
    """The weights of a plain backbone's block, from its own parameters."""
    x = model.norm_pre(model.patch_drop(model._pos_embed(model.patch_embed(images))))
    for earlier in model.blocks[:block]:
        x = earlier(x)
    attn = model.blocks[block].attn
    q, k, _ = attn.qkv(model.blocks[block].norm1(x)).unflatten(-1, (3, attn.num_heads, -1)).permute(2, 0, 3, 1, 4)
    return (q @ k.transpose(-2, -1) / q.shape[-1] ** 0.5).softmax(-1)


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_the_weights_are_those_that_the_blocks_use_and_nothing_is_left_behind(kind, make, images):
    model = make(kind)
    pixels = images(model)
    before, fused = model(pixels), [block.attn.fused_attn for block in model.blocks]
    maps = attention_maps(model.train(), pixels)
    assert model.training
    model.eval()
    for block in range(3):
        torch.testing.assert_close(maps[block], by_hand(model, pixels, block), rtol=1e-4, atol=1e-6)
    assert [block.attn.fused_attn for block in model.blocks] == fused
    assert torch.equal(model(pixels), before)


@pytest.mark.parametrize("method", ["lora", "vpt", "vpt_shallow", "prefix", "bitfit", "vqt"])
def test_of_a_design_the_backbones_own_tokens_are_told(method, make, shake, images):
    model = make()
    pixels = images(model)
    before = attention_maps(model, pixels)
    shake(apply(model, everywhere(method, model)))
    maps = attention_maps(model, pixels)
    assert [m.shape for m in maps] == [m.shape for m in before]
    for weights in (*maps, rollout(maps)):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    if method != "vqt":  # it only asks
        assert not torch.allclose(maps[-1], before[-1], atol=1e-3)


def test_a_roll_out_multiplies_the_blocks_up():
    one = torch.tensor([[[[0.0, 1.0], [1.0, 0.0]], [[1.0, 0.0], [0.0, 1.0]]]])  # heads: swap, keep
    mixed = torch.tensor([[0.75, 0.25], [0.25, 0.75]])  # half the shortcut, a quarter of each head
    torch.testing.assert_close(rollout([one]), mixed[None])
    torch.testing.assert_close(rollout([one, one]), (mixed @ mixed)[None])
    last = torch.tensor([[[[1.0, 0.0], [1.0, 0.0]]]])
    torch.testing.assert_close(rollout([one, last]), (torch.tensor([[1.0, 0.0], [0.5, 0.5]]) @ mixed)[None])


def test_the_class_token_or_the_mean_of_patches_looks_over_the_image(make):
    weights = torch.arange(25.0).view(1, 5, 5)
    assert over_patches(make(), weights, (32, 32)).tolist() == [[[1.0, 2.0], [3.0, 4.0]]]
    nine = torch.arange(81.0).view(1, 9, 9)
    assert over_patches(make("gap"), nine, (48, 48)).flatten().tolist() == nine.mean(1).flatten().tolist()


def test_a_family_without_attention_among_all_tokens_is_refused():
    model = timm.create_model("convnext_atto", num_classes=2)
    with pytest.raises(BackboneError, match="take a vision transformer"):
        attention_maps(model, torch.zeros(1, 3, 32, 32))


@pytest.mark.parametrize(
    "name", ["eva02_tiny_patch14_224", "beit_base_patch16_224", "vit_small_patch16_dinov3"], ids=lambda name: name[:4]
)
def test_families_with_positions_of_their_own_are_told_as_well(name):
    size = 28 if "14" in name else 32
    model = timm.create_model(name, img_size=size, depth=2, embed_dim=96, num_heads=3, num_classes=2).eval()
    pixels = torch.randn(2, 3, size, size)
    before = model(pixels)
    maps = attention_maps(model, pixels)
    assert over_patches(model, rollout(maps), (size, size)).shape == (2, 2, 2)
    for weights in maps:
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights.sum(-1)))
    assert torch.equal(model(pixels), before)
