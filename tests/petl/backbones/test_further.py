"""Further keys and tokens, against attention that is written out here."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import Design, Placement, apply, shape_of

TABLES = ["swin", "swinv2", "beit"]


def at_every_block(name, model, size=3):
    return Design.of(Placement(name, block, size) for block in range(shape_of(model).depth))


def attended(attention, family, x, mask, keys, values):
    """What timm's attention gives for x (B, N, D) among its own keys and further ones, which stand nowhere."""
    heads, (count, length, _) = attention.num_heads, x.shape
    bias = attention.qkv.bias
    if getattr(attention, "q_bias", None) is not None:
        bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    q, k, v = F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)
    k, v = (torch.cat((own, more.expand(count, -1, -1)), dim=1) for own, more in ((k, keys), (v, values)))
    q, k, v = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in (q, k, v))
    if family == "swinv2":
        scale = attention.logit_scale.clamp(max=math.log(100)).exp()
        scores = F.normalize(q, dim=-1) @ F.normalize(k, dim=-1).mT * scale
        table = 16 * attention.cpb_mlp(attention.relative_coords_table).flatten(0, 2).sigmoid()
    else:
        scores, table = q @ k.mT / math.sqrt(q.shape[-1]), attention.relative_position_bias_table
    scores[..., :length] += table[attention.relative_position_index].permute(2, 0, 1)
    if mask is not None:
        scores.unflatten(0, (-1, len(mask)))[..., :length] += mask[:, None]
    return projected(attention, scores.softmax(-1) @ v)


def projected(attention, found):
    """(B, h, N, d) through the projection alone, without what is hooked on it."""
    return F.linear(found.transpose(1, 2).flatten(2), attention.proj.weight, attention.proj.bias)


def seen(model):
    """What goes into and comes out of each attention."""
    calls = []
    for block in (module for module in model.modules() if hasattr(module, "attn")):
        block.attn.register_forward_hook(
            lambda module, args, named, output: calls.append((module, args[0], named.get("mask"), output)),
            with_kwargs=True,
        )
    return calls


@pytest.mark.parametrize("name", ["prefix", "vpt"])
@pytest.mark.parametrize("family", TABLES)
def test_windows_attend_to_what_joins_them(family, name, small, images, shake):
    model = small(family).double()
    norms = [block.norm1 for block in model.modules() if hasattr(block, "attn")]
    shake(apply(model, at_every_block(name, model)))
    calls, state = seen(model), model.petl
    model(images(model, 3))
    assert len(calls) == len(norms)
    for index, ((attention, x, mask, found), norm) in enumerate(zip(calls, norms, strict=True)):
        own = state.get_submodule(f"{name}.blocks.{index}")
        if name == "prefix":
            keys, values = own.keys, own.values
        else:
            tokens = own.tokens if family == "swinv2" else norm(own.tokens)
            _, keys, values = F.linear(tokens, attention.qkv.weight).chunk(3, dim=-1)
            if attention.qkv.bias is not None:
                _, more, other = attention.qkv.bias.chunk(3)
                keys, values = keys + more, values + other
            if getattr(attention, "v_bias", None) is not None:
                values = values + attention.v_bias
        torch.testing.assert_close(found, attended(attention, family, x, mask, keys, values))


@pytest.mark.parametrize("family", TABLES)
def test_no_image_gets_the_prompts_of_another(family, small, images, shake):
    """In VPT's own code windows and prompts are laid out in other orders."""
    model = small(family)
    shake(apply(model, at_every_block("vpt", model)))
    pixels = images(model, 3)
    with torch.no_grad():
        together, alone = model(pixels), torch.cat([model(image[None]) for image in pixels])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-5)


def test_shifted_windows_are_masked_as_they_were(small):
    """The case that the others are to cover."""
    model = small("swin")
    assert any(block.attn_mask is not None for block in model.layers[0].blocks)


def test_a_table_that_all_blocks_share_is_lengthened_too(small, images):
    model = small("beit", use_rel_pos_bias=False, use_shared_rel_pos_bias=True)
    expected = model(images(model))
    apply(model, at_every_block("prefix", model))
    with torch.no_grad():
        for own in model.petl.parameters():
            own.zero_()
    calls = seen(model)
    found = model(images(model))
    assert found.shape == expected.shape and not torch.equal(found, expected)
    # A key of 0 has a score of 0 and a value of 0: it takes its share of the sum and gives nothing.
    attention, x, _, output = calls[0]
    bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    q, k, v = (
        t.unflatten(-1, (attention.num_heads, -1)).transpose(1, 2)
        for t in F.linear(x, attention.qkv.weight, bias).chunk(3, dim=-1)
    )
    scores = q @ k.mT * attention.scale + model.rel_pos_bias()
    weights = F.pad(scores, (0, 3)).softmax(-1)[..., :-3]
    torch.testing.assert_close(output, projected(attention, weights @ v), rtol=1e-4, atol=1e-5)


def test_nothing_stays_on_an_attention_that_failed(small, images):
    model = apply(small("swin"), at_every_block("prefix", small("swin")))
    attention = model.layers[0].blocks[0].attn
    before = {name: value for name, value in vars(attention).items() if not name.startswith("_")}
    with pytest.raises(RuntimeError):
        attention(torch.zeros(2, 5, 32))
    after = {name: value for name, value in vars(attention).items() if not name.startswith("_")}
    assert after == before
