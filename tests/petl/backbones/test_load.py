from __future__ import annotations

import pickle
from pathlib import Path
from unittest import mock

import huggingface_hub
import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import petlas.petl.mini
from petlas.petl import (
    BackboneError,
    Design,
    Placement,
    apply,
    family_of,
    input_config,
    load_adapter,
    load_backbone,
    remove,
    reset_head,
    save_adapter,
    shape_by_name,
    shape_of,
)
from petlas.petl.backbones import checkpoint as module
from petlas.petl.backbones.anatomy import backbone_name
from petlas.petl.backbones.load import MINI, fingerprint
from petlas.petl.mini import MINIS

NAME = "vit_tiny_patch16_224"


@pytest.fixture(scope="module")
def source():
    """A random ViT-Tiny at 32 pixels whose every tensor matters."""
    torch.manual_seed(0)
    model = timm.create_model(NAME, img_size=32, num_classes=7).eval()
    with torch.no_grad():
        for p in model.parameters():
            p.add_(0.05 * torch.randn(p.shape))
    return model


@pytest.fixture
def features(images):
    def compute(model):
        with torch.no_grad():
            return model.forward_features(images(model))

    return compute


def in_googles_layout(model):
    """The weights as Google's original .npz files hold them."""
    w = {key: value.numpy() for key, value in model.state_dict().items()}
    heads, width = model.blocks[0].attn.num_heads, model.embed_dim
    out = {
        "embedding/kernel": w["patch_embed.proj.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": w["patch_embed.proj.bias"],
        "cls": w["cls_token"],
        "Transformer/posembed_input/pos_embedding": w["pos_embed"],
        "Transformer/encoder_norm/scale": w["norm.weight"],
        "Transformer/encoder_norm/bias": w["norm.bias"],
        "head/kernel": w["head.weight"].T,
        "head/bias": w["head.bias"],
    }
    for i in range(len(model.blocks)):
        to, of = f"Transformer/encoderblock_{i}/", f"blocks.{i}."
        for ours, theirs in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            out[f"{to}{theirs}/scale"], out[f"{to}{theirs}/bias"] = w[f"{of}{ours}.weight"], w[f"{of}{ours}.bias"]
        attention = f"{to}MultiHeadDotProductAttention_1/"
        for part, name in enumerate(("query", "key", "value")):
            rows = slice(part * width, (part + 1) * width)
            out[f"{attention}{name}/kernel"] = w[f"{of}attn.qkv.weight"][rows].T.reshape(width, heads, -1)
            out[f"{attention}{name}/bias"] = w[f"{of}attn.qkv.bias"][rows].reshape(heads, -1)
        out[f"{attention}out/kernel"] = w[f"{of}attn.proj.weight"].T.reshape(heads, -1, width)
        out[f"{attention}out/bias"] = w[f"{of}attn.proj.bias"]
        for ours, theirs in (("fc1", "Dense_0"), ("fc2", "Dense_1")):
            out[f"{to}MlpBlock_3/{theirs}/kernel"] = w[f"{of}mlp.{ours}.weight"].T
            out[f"{to}MlpBlock_3/{theirs}/bias"] = w[f"{of}mlp.{ours}.bias"]
    return out


def write(source, path, change=lambda state: None):
    state = dict(source.state_dict())
    change(state)
    if path.suffix == ".npz":
        np.savez(path, **in_googles_layout(source))
    elif path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return path


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_a_checkpoint_file_gives_the_same_features(suffix, source, features, tmp_path):
    model = load_backbone(NAME, write(source, tmp_path / f"w{suffix}"), img_size=32)
    assert torch.equal(features(model), features(source))
    assert isinstance(model.head, torch.nn.Identity) and not model.training


def test_a_checkpoint_inside_a_training_state_is_found(source, features, tmp_path):
    torch.save({"epoch": 3, "model": {f"module.{k}": v for k, v in source.state_dict().items()}}, tmp_path / "w.pth")
    assert torch.equal(features(load_backbone(NAME, tmp_path / "w.pth", img_size=32)), features(source))


def test_the_checkpoints_head_is_not_used(source, tmp_path):
    model = load_backbone(NAME, write(source, tmp_path / "w.safetensors"), img_size=32, num_classes=7)
    assert not torch.equal(model.head.weight, source.head.weight)
    assert model.num_classes == 7


def test_half_precision_weights_become_single_precision(source, features, tmp_path):
    def halve(state):
        state.update({key: value.half() for key, value in state.items()})

    model = load_backbone(NAME, write(source, tmp_path / "w.safetensors", halve), img_size=32)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert torch.equal(model.norm.weight, source.norm.weight.half().float())
    torch.testing.assert_close(features(model), features(source), rtol=0.05, atol=0.05)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_position_embeddings_are_interpolated_to_another_image_size(suffix, source, tmp_path):
    def smooth(state):
        ramp = torch.linspace(-1, 1, 2)
        state["pos_embed"] = state["pos_embed"].clone()
        state["pos_embed"][0, 1:, 0] = (ramp[:, None] + 0 * ramp).flatten()

    state = source.state_dict()
    before = state["pos_embed"].clone()
    smooth(state)
    with torch.no_grad():
        source.pos_embed.copy_(state["pos_embed"])
    file = write(source, tmp_path / f"w{suffix}")
    with torch.no_grad():
        source.pos_embed.copy_(before)
    model = load_backbone(NAME, file, img_size=64)
    assert model.pos_embed.shape == (1, 1 + 16, 192)
    assert torch.equal(model.pos_embed[:, 0], state["pos_embed"][:, 0])
    grid = model.pos_embed[0, 1:, 0].view(4, 4)
    torch.testing.assert_close(grid, grid[:, :1].expand(4, 4))
    assert (grid[:, 0].diff() > 0).all() and abs(grid.mean()) < 1e-5
    assert model(torch.randn(1, 3, 64, 64)).isfinite().all()
    others = [key for key in model.state_dict() if key != "pos_embed"]
    assert all(torch.equal(model.state_dict()[key], state[key]) for key in others)


def test_missing_unexpected_and_misshapen_keys_are_all_listed(source, tmp_path):
    def spoil(state):
        del state["norm.weight"], state["blocks.3.mlp.fc1.bias"]
        state["extra.weight"] = torch.zeros(1)
        state["norm.bias"] = torch.zeros(7)

    file = write(source, tmp_path / "w.safetensors", spoil)
    with pytest.raises(BackboneError) as caught:
        load_backbone(NAME, file, img_size=32)
    text = str(caught.value)
    assert f"{file} does not hold the weights of {NAME}" in text
    assert "missing: blocks.3.mlp.fc1.bias, norm.weight" in text
    assert "unexpected: extra.weight" in text
    assert "wrong shape: norm.bias: (7,) in the file, (192,) in the model" in text


def test_the_weights_of_another_size_are_refused(source, tmp_path):
    file = write(source, tmp_path / "w.safetensors")
    with pytest.raises(BackboneError, match=r"wrong shape: .*\(192,\) in the file, \(384,\) in the model"):
        load_backbone("vit_small_patch16_224", file, img_size=32)


class Malicious:
    def __init__(self, target):
        self.target = target

    def __reduce__(self):
        return Path.touch, (self.target,)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False])
def test_a_malicious_pickle_is_refused_and_not_run(zipped, tmp_path):
    target, file = tmp_path / "owned", tmp_path / "w.pth"
    if zipped:
        torch.save({"model": Malicious(target)}, file)
    else:
        file.write_bytes(pickle.dumps({"model": Malicious(target)}))
    with pytest.raises(BackboneError, match=r"cannot read .*w.pth as weights"):
        load_backbone(NAME, file, img_size=32)
    assert not target.exists()


def test_only_weights_are_unpickled_with_every_timm(source, tmp_path, monkeypatch):
    file = write(source, tmp_path / "w.pth")
    seen = {}
    monkeypatch.setattr(
        module, "load_state_dict", lambda path, **more: seen.update(more) or torch.load(path, weights_only=True)
    )
    load_backbone(NAME, file, img_size=32)
    assert seen["weights_only"] is True


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".npz"])
def test_a_damaged_file_is_refused(suffix, tmp_path):
    file = tmp_path / f"w{suffix}"
    file.write_bytes(b"nothing of the kind")
    with pytest.raises(BackboneError, match=f"cannot read .*w{suffix} as weights of {NAME}"):
        load_backbone(NAME, file, img_size=32)


def test_an_npz_without_weights_is_refused(tmp_path):
    np.savez(tmp_path / "w.npz", a=np.zeros(3))
    with pytest.raises(BackboneError, match="cannot read"):
        load_backbone(NAME, tmp_path / "w.npz", img_size=32)


@pytest.mark.parametrize("name", ["none.safetensors", ""])
def test_a_missing_checkpoint_is_refused(name, tmp_path):
    with pytest.raises(BackboneError, match="checkpoint must be a file, and there is none at"):
        load_backbone(NAME, tmp_path / name)


@pytest.mark.parametrize(
    ("name", "near"),
    [("vit_bse_patch16_224", "vit_base_patch16_224"), ("vit_mini_patch16_46", MINI), ("vit_tiny_patch16", NAME)],
)
def test_an_unknown_name_gives_near_names(name, near):
    with pytest.raises(BackboneError, match=f"must be a timm model, got '{name}'; did you mean .*{near}"):
        load_backbone(name, pretrained=False)


def test_a_name_near_to_nothing_says_where_to_look():
    with pytest.raises(BackboneError, match=r"see timm\.list_models"):
        load_backbone("qqqqqqqqqqq", pretrained=False)


def test_an_unknown_tag_is_refused():
    with pytest.raises(BackboneError, match=f"cannot create {NAME}.nonsense.*nonsense"):
        load_backbone(f"{NAME}.nonsense", pretrained=False)


@pytest.mark.parametrize(
    "name",
    [
        "deit_tiny_distilled_patch16_224",
        "levit_128s",
        "coat_lite_tiny",
    ],
)
def test_an_unsupported_architecture_is_refused(name):
    with (
        torch.device("meta"),
        pytest.raises(BackboneError, match=f"must be a plain pre-norm timm VisionTransformer, .* and {name} is a"),
    ):
        load_backbone(name, pretrained=False)


@pytest.mark.parametrize("name", ["regnetx_002", "vit_tiny_r_s16_p8_224", "vit_small_patch16_18x2_224"])
def test_what_is_of_no_family_of_its_own_is_generic(name):
    with torch.device("meta"):
        assert family_of(load_backbone(name, pretrained=False)).name == "generic"


HUB = r"from the Hub \(ConnectionError: no network\); give a local file .*: backbone\.checkpoint=FILE in a run"


def offline(*_, **__):
    raise ConnectionError("no\nnetwork")


def test_a_backbone_that_cannot_be_fetched_says_at_once_and_in_one_line_to_give_a_file(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_session", offline)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(timm, "create_model", lambda *_, **__: pytest.fail("the Hub's client was asked"))
    with pytest.raises(BackboneError, match=HUB) as caught:
        load_backbone(NAME)
    assert "\n" not in str(caught.value)


def test_a_download_that_breaks_off_says_to_give_a_file(monkeypatch):
    monkeypatch.setattr(huggingface_hub, "get_session", mock.Mock)
    monkeypatch.setattr(timm, "create_model", offline)
    with pytest.raises(BackboneError, match=HUB):
        load_backbone(NAME)


def test_weights_that_were_fetched_before_are_taken_where_the_hub_does_not_answer(source, tmp_path, monkeypatch):
    asked = []
    file = write(source, tmp_path / "model.safetensors")
    monkeypatch.setattr(huggingface_hub, "get_session", offline)
    monkeypatch.setattr(
        huggingface_hub, "try_to_load_from_cache", lambda repo, name: asked.append((repo, name)) or str(file)
    )
    model = load_backbone(NAME, img_size=32)
    assert torch.equal(model.blocks[5].mlp.fc2.weight, source.blocks[5].mlp.fc2.weight)
    assert asked == [("timm/vit_tiny_patch16_224.augreg_in21k_ft_in1k", "model.safetensors")]


def test_an_impossible_image_size_is_refused():
    with pytest.raises(BackboneError, match=f"cannot create {NAME} with img_size=-3"):
        load_backbone(NAME, pretrained=False, img_size=-3)


def test_the_embedded_backbone_is_a_plain_vit_of_its_declared_shape():
    model = load_backbone(MINI, pretrained=False, num_classes=4)
    shape = shape_of(model)
    assert (shape.name, shape.width, shape.depth, shape.patch, shape.grid) == (MINI, 128, 6, (16, 16), (4, 4))
    config = input_config(model)
    assert (config.size, config.mean, config.std) == (64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    assert model(torch.zeros(1, 3, 64, 64)).shape == (1, 4)
    assert load_backbone(MINI, pretrained=False, img_size=96)(torch.zeros(1, 3, 96, 96)).shape == (1, 128)
    assert not model.training


@pytest.mark.parametrize(
    ("name", "family", "widths", "grids"),
    [
        ("swin_mini_patch4_64", "swin", ((1, 32), (1, 64), (4, 128)), [(16, 16), (8, 8), (4, 4)]),
        ("convnext_mini_64", "convnext", ((1, 32), (1, 64), (3, 128), (1, 192)), [(16, 16), (8, 8), (4, 4), (2, 2)]),
    ],
)
def test_the_embedded_backbones_with_stages_load_at_any_size_and_save_adapters(name, family, widths, grids, tmp_path):
    model = load_backbone(name, num_classes=4)
    shape, config = shape_of(model), input_config(model)
    assert (shape.name, family_of(model).name, shape.widths) == (name, family, widths)
    assert [stage.grid for stage in shape.stages] == grids
    assert (config.size, config.mean, config.std) == (64, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    apply(model, Design.of([Placement("adapter", 3, 4)]))
    save_adapter(model, tmp_path / "a.safetensors")
    x = torch.randn(1, 3, 64, 64)
    assert torch.equal(load_adapter(tmp_path / "a.safetensors")(x), model(x))
    assert load_backbone(name, img_size=96)(torch.randn(1, 3, 96, 96)).isfinite().all()
    assert shape_by_name(name, 32).grid == (8, 8) and not torch.equal(
        load_backbone(name).state_dict()[next(iter(model.state_dict()))],
        load_backbone(name, pretrained=False).state_dict()[next(iter(model.state_dict()))],
    )


def test_the_input_is_normalised_as_the_backbone_was_pretrained():
    vit = load_backbone(f"{NAME}.augreg_in21k", pretrained=False, img_size=32)
    dino = load_backbone("vit_small_patch14_dinov2", pretrained=False, img_size=28)
    assert (input_config(vit).size, input_config(vit).mean) == (32, (0.5, 0.5, 0.5))
    assert (input_config(dino).size, input_config(dino).mean) == (28, (0.485, 0.456, 0.406))
    assert backbone_name(vit) == f"{NAME}.augreg_in21k"
    assert backbone_name(dino) == "vit_small_patch14_dinov2.lvd142m"


def test_a_backbone_that_is_not_square_has_no_input_config(make):
    with pytest.raises(BackboneError, match="takes 32 x 64"):
        input_config(make("plain", img_size=(32, 64), depth=2))


def test_drop_path_rises_from_0_at_the_first_block():
    model = load_backbone(MINI, pretrained=False, drop_path_rate=0.5)
    rates = [getattr(block.drop_path2, "drop_prob", 0.0) for block in model.blocks]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_new_head_is_small_and_has_no_bias():
    model = load_backbone(MINI, pretrained=False, num_classes=1000)
    assert model.head.weight.std().item() == pytest.approx(0.02, rel=0.02)
    assert not model.head.bias.any()
    reset_head(model, 3)
    assert model.head.weight.shape == (3, 128) and model.num_classes == 3


def test_the_fingerprint_tells_weights_and_names_apart():
    one = {"a": torch.zeros(3), "b": torch.ones(2)}
    assert fingerprint(one) == fingerprint(dict(reversed(one.items())))
    assert fingerprint(one) == fingerprint({key: value.half() for key, value in one.items()})
    assert len({fingerprint(s) for s in (one, one | {"a": torch.ones(3)}, {"a": one["a"], "c": one["b"]})}) == 3


def test_the_real_dinov2_weights_load_at_another_image_size(dinov2_file, tmp_path):
    model = load_backbone("vit_small_patch14_dinov2", dinov2_file, num_classes=3, img_size=70)
    stored = load_file(dinov2_file)
    assert model.pos_embed.shape == (1, 1 + 25, 384)
    assert torch.equal(model.blocks[5].mlp.fc2.weight, stored["blocks.5.mlp.fc2.weight"].float())
    overlay = {"file": str(dinov2_file), "num_classes": 0}
    reference = timm.create_model(
        "vit_small_patch14_dinov2", img_size=70, num_classes=0, pretrained=True, pretrained_cfg_overlay=overlay
    ).eval()
    pixels = torch.randn(2, 3, 70, 70)
    with torch.no_grad():
        before = model.forward_features(pixels)
        torch.testing.assert_close(before, reference.forward_features(pixels))
        apply(model, Design.of([Placement("lora", 11, 4), Placement("adapter", 0, 4)]))
        assert torch.equal(model.forward_features(pixels), before)
        save_adapter(model, tmp_path / "a.safetensors")
        loaded = load_adapter(tmp_path / "a.safetensors", checkpoint=dinov2_file)
        assert torch.equal(loaded(pixels), model(pixels))
        assert torch.equal(remove(model).forward_features(pixels), before)


@pytest.mark.parametrize("name", MINIS)
def test_the_embedded_weights_are_small_and_in_half_precision(name):
    file = Path(petlas.petl.mini.__path__[0]) / f"{name}.safetensors"
    assert file.stat().st_size <= 4 * 2**20
    assert {value.dtype for value in load_file(file).values()} == {torch.float16}


def test_a_linear_probe_on_the_embedded_weights_makes_a_quarter_fewer_errors_than_on_random_ones():
    digits = load_digits()
    pixels = torch.from_numpy(digits.images[:1000] / 16).float()[:, None].expand(-1, 3, -1, -1)

    def errors(model):
        with torch.no_grad():
            x = model(torch.nn.functional.interpolate(pixels, size=64, mode="bicubic") * 2 - 1).numpy()
        probe = make_pipeline(StandardScaler(), LogisticRegression(C=0.1, max_iter=500))
        return (probe.fit(x[:500], digits.target[:500]).predict(x[500:]) != digits.target[500:1000]).sum()

    torch.manual_seed(0)
    assert errors(load_backbone(MINI)) <= 0.75 * errors(load_backbone(MINI, pretrained=False))
