from __future__ import annotations

import json
import os
import stat

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from petlas import __version__
from petlas.petl import (
    AdapterError,
    AdapterInfo,
    BackboneError,
    Design,
    DesignError,
    InputConfig,
    Placement,
    adapter_file,
    apply,
    load_adapter,
    load_backbone,
    read_adapter_info,
    save_adapter,
    tuned_state_dict,
)

DESIGN = Design.of([Placement("lora", 0, 2), Placement("adapter", 2, 3)], "vit_tiny_patch16_224")
NAMES = ("ant", "bee", "cat", "dog", "eel")


@pytest.fixture
def model(tuned):
    return tuned(DESIGN, "gap")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "deep" / "er" / "adapter.safetensors"


def rewrite(path, change):
    """The file with a changed header."""
    with safe_open(str(path), framework="pt") as file:
        header = json.loads(file.metadata()["petlas"])
    change(header)
    save_file(load_file(path), path, metadata={"petlas": json.dumps(header)})


def test_the_header_says_what_the_file_belongs_to(model, path):
    written = save_adapter(model, path, classes=NAMES, score={"test": 0.5}, task={"name": "mnist", "print": "ab"})
    info = read_adapter_info(path)
    assert info == written
    assert info.backbone.split(".")[0] == "vit_tiny_patch16_224"
    assert info.design == DESIGN and info.design.key == DESIGN.key
    assert info.classes == NAMES
    assert info.score == {"test": 0.5} and info.task == {"name": "mnist", "print": "ab"}
    assert (info.input.size, info.input.mean, info.input.interpolation) == (48, (0.5, 0.5, 0.5), "bicubic")
    assert AdapterInfo.from_json(info.to_json()) == info


def test_the_file_holds_the_tuned_values_and_nothing_else(model, path):
    save_adapter(model, path)
    stored, tuned = load_file(path), tuned_state_dict(model)
    assert set(stored) == set(tuned)
    assert all(torch.equal(stored[key], tuned[key]) for key in tuned)
    assert path.stat().st_size < 100_000


def test_classes_are_numbered_where_no_names_are_given(model, path):
    assert save_adapter(model, path).classes == ("0", "1", "2", "3", "4")


@pytest.mark.parametrize("names", [("a",), (*NAMES, "fox")])
def test_names_that_do_not_match_the_head_are_refused(names, model, path):
    with pytest.raises(AdapterError, match=f"classes must name the head's 5 outputs, got {len(names)} names"):
        save_adapter(model, path, classes=names)
    assert not path.exists()


def test_a_model_without_a_design_cannot_be_saved(make, path):
    with pytest.raises(DesignError, match="carries no design"):
        save_adapter(make("gap"), path)


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_failed_write_leaves_the_old_file_and_no_other(step, model, path, monkeypatch):
    save_adapter(model, path, score={"test": 1.0})
    before = path.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, {"write": "fsync", "replace": "replace"}[step], fail)
    with pytest.raises(OSError, match="disk full"):
        save_adapter(model, path, score={"test": 2.0})
    assert path.read_bytes() == before
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_a_write_replaces_the_old_file_and_leaves_nothing_else(model, path):
    save_adapter(model, path, score={"test": 1.0})
    save_adapter(model, path, score={"test": 2.0})
    assert read_adapter_info(path).score == {"test": 2.0}
    assert [file.name for file in path.parent.iterdir()] == [path.name]


def test_the_file_has_the_permissions_that_the_umask_gives(model, path):
    save_adapter(model, path)
    plain = path.with_name("plain")
    plain.touch()
    assert stat.S_IMODE(path.stat().st_mode) == stat.S_IMODE(plain.stat().st_mode)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(AdapterError, match=r"cannot read .*none\.safetensors as an adapter file"):
        read_adapter_info(tmp_path / "none.safetensors")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(AdapterError, match="cannot read"):
        read_adapter_info(tmp_path)


@pytest.mark.parametrize("content", [b"", b"not safetensors at all", b"\xff" * 64])
def test_a_file_of_another_kind_is_refused(content, tmp_path):
    file = tmp_path / "a.safetensors"
    file.write_bytes(content)
    for read in (read_adapter_info, load_adapter):
        with pytest.raises(AdapterError, match=r"cannot read .* as an adapter file"):
            read(file)


def test_a_truncated_file_is_refused(model, path):
    save_adapter(model, path)
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(AdapterError, match=r"cannot read .* as an adapter file"):
        read_adapter_info(path)


@pytest.mark.parametrize("metadata", [None, {"format": "pt"}])
def test_other_safetensors_are_refused(metadata, tmp_path):
    file = tmp_path / "weights.safetensors"
    save_file({"a": torch.zeros(2)}, file, metadata=metadata)
    with pytest.raises(AdapterError, match="has no petlas header: it is a safetensors file, but no adapter file"):
        load_adapter(file)


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[]",
        "3",
        "{}",
        '{"format": 1}',
        '{"format": 1, "input": 3}',
    ],
)
def test_a_damaged_header_is_refused(text, tmp_path):
    file = tmp_path / "a.safetensors"
    save_file({"a": torch.zeros(2)}, file, metadata={"petlas": text})
    with pytest.raises(AdapterError, match="the adapter file's header is damaged"):
        read_adapter_info(file)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        (lambda h: h.update(format=4), "has another format than 1 to 3; install a petlas that knows it"),
        (lambda h: h["design"]["placements"][0].update(rank=3), "header is damaged.*unknown key 'rank'"),
        (lambda h: h.update(colour="red"), "header is damaged"),
        (lambda h: h.pop("classes"), "header is damaged"),
    ],
)
def test_a_header_that_breaks_a_rule_is_refused(change, match, model, path):
    save_adapter(model, path)
    rewrite(path, change)
    with pytest.raises(AdapterError, match=match):
        read_adapter_info(path)


def assert_untouched(backbone):
    assert not hasattr(backbone, "petl")
    assert all(p.requires_grad for p in backbone.parameters())
    assert not any(m._forward_hooks for m in backbone.modules())


def test_other_weights_are_refused_and_the_model_is_left_as_it_was(model, path, make):
    save_adapter(model, path)
    other = make("gap")
    with torch.no_grad():
        other.blocks[1].mlp.fc1.weight[0, 0] += 1e-3
    before = {key: value.clone() for key, value in other.state_dict().items()}
    with pytest.raises(AdapterError, match=r"was trained on other weights of vit_tiny.*give the same checkpoint"):
        load_adapter(path, other)
    assert_untouched(other)
    assert all(torch.equal(value, before[key]) for key, value in other.state_dict().items())


@pytest.mark.parametrize("change", [{"num_classes": 3}, {"num_classes": 0}, {"img_size": 32}])
def test_another_head_or_image_size_is_refused(change, model, path, make):
    save_adapter(model, path)
    other = make("gap", **change)
    with pytest.raises(AdapterError, match="is for 5 classes and images of 48 pixels, and the model has"):
        load_adapter(path, other)
    assert_untouched(other)


def test_a_design_that_does_not_fit_the_model_is_refused(model, path, make):
    save_adapter(model, path)
    other = make("gap", depth=2)
    with pytest.raises(AdapterError, match=r"does not fit vit_tiny.*block must be in 0\.\.1"):
        load_adapter(path, other)
    assert_untouched(other)


def test_values_that_do_not_fit_the_design_are_refused(model, path, make):
    save_adapter(model, path)
    rewrite(path, lambda h: h["design"]["placements"][0].update(size=7))
    other = make("gap")
    with pytest.raises(AdapterError, match="does not hold the values of its design"):
        load_adapter(path, other)
    assert_untouched(other)


def test_another_architecture_is_refused(model, path):
    save_adapter(model, path)
    with pytest.raises((AdapterError, BackboneError), match="VisionTransformer"):
        load_adapter(path, torch.nn.Linear(2, 2))


def test_a_backbone_that_cannot_be_made_is_refused(model, path):
    save_adapter(model, path)
    rewrite(path, lambda h: h.update(backbone="vit_none"))
    with pytest.raises(AdapterError, match="needs the backbone vit_none: backbone must be a timm model"):
        load_adapter(path)


def test_the_backbone_is_made_by_name_with_the_same_checkpoint(tmp_path, shake, images):
    torch.manual_seed(0)
    weights = tmp_path / "mini.safetensors"
    save_file(load_backbone("vit_mini_patch16_64", pretrained=False).state_dict(), weights)
    model = load_backbone("vit_mini_patch16_64", weights, num_classes=3, img_size=48)
    apply(model, Design.of([Placement("lora", 0, 2), Placement("vpt", 1, 2)]))
    shake(model)
    save_adapter(model, tmp_path / "a.safetensors", classes=["a", "b", "c"])
    loaded = load_adapter(tmp_path / "a.safetensors", checkpoint=weights)
    assert loaded.patch_embed.img_size == (48, 48)
    with torch.no_grad():
        assert torch.equal(loaded(images(model)), model(images(model)))


def test_the_fingerprint_ignores_training_but_not_the_frozen_weights(tuned, train, make):
    for method in ("lora", "bitfit", "ssf"):
        model = tuned(method, "gap")
        before = adapter_file.frozen_fingerprint(model)
        train(model)
        assert adapter_file.frozen_fingerprint(model) == before
        with torch.no_grad():
            model.blocks[0].attn.proj.weight[0, 0] += 1e-3
        assert adapter_file.frozen_fingerprint(model) != before


def test_position_embeddings_that_round_differently_do_not_matter(model, path, make):
    save_adapter(model, path)
    other = make("gap")
    with torch.no_grad():
        other.pos_embed += 1e-7
    load_adapter(path, other)


def test_a_model_that_is_given_stays_in_the_mode_that_it_is_in(model, path, make):
    save_adapter(model, path)
    for training in (True, False):
        loaded = load_adapter(path, make("gap").train(training))
        assert all(m.training is training for m in loaded.modules())


LORA = Design.of([Placement("lora", block, 4) for block in range(6)])


def mini(design=LORA, classes=5, dtype=torch.float32):
    torch.manual_seed(0)
    return apply(load_backbone("vit_mini_patch16_64", num_classes=classes).to(dtype), design).eval()


@pytest.fixture
def pixels():
    return torch.randn(8, 3, 64, 64)


@pytest.mark.parametrize(
    "how", ["reset_classifier", "assigned", "of fewer outputs", "new weight", "loaded by assignment"]
)
def test_the_head_that_the_model_has_is_what_is_saved(how, path, pixels):
    model = mini()
    if how == "assigned":
        model.head = torch.nn.Linear(128, 5)
    elif how == "new weight":
        model.head.weight = torch.nn.Parameter(torch.empty(5, 128))
    elif how == "loaded by assignment":
        state = {key: value.clone() for key, value in model.state_dict().items()}
        model.load_state_dict(state, assign=True)
    else:
        model.reset_classifier(3 if how == "of fewer outputs" else 5)
    torch.nn.init.normal_(model.head.weight)
    info = save_adapter(model, path)
    assert len(info.classes) == len(model.head.weight)
    with torch.no_grad():
        assert torch.equal(load_adapter(path)(pixels), model(pixels))


@pytest.mark.parametrize("design", [Design.of([Placement("vqt", 0, 1)]), Design.of([Placement("hst")])])
def test_a_head_that_no_longer_fits_what_reads_it_is_refused(design, path):
    model = mini(design)
    model.reset_classifier(3)
    with pytest.raises(AdapterError, match="would not load again"):
        save_adapter(model, path)
    assert not path.exists() and not list(path.parent.glob("*"))


def test_a_head_of_several_layers_is_refused(path):
    model = load_backbone("vit_mini_patch16_64", num_classes=3)
    model.head = torch.nn.Sequential(torch.nn.Linear(128, 3))
    with pytest.raises(DesignError, match=r"hst gives the head .* must be one linear layer, got a Sequential"):
        apply(model, Design.of([Placement("hst")]))
    assert not hasattr(model, "petl")
    with pytest.raises(AdapterError, match="a head of one linear layer, got a Sequential; set it with"):
        save_adapter(apply(model, LORA), path)
    assert not path.exists()


@pytest.mark.parametrize("freeze", [False, True])
@pytest.mark.parametrize("design", [LORA, Design.of([Placement("bitfit")]), Design.of([Placement("full")])])
def test_a_model_that_is_frozen_for_inference_is_saved_as_any_other(design, freeze, path, pixels):
    model = mini(design)
    if freeze:
        model.requires_grad_(False)
    save_adapter(model, path)
    with torch.no_grad():
        assert torch.equal(load_adapter(path)(pixels), model(pixels))


@pytest.mark.parametrize("part", ["norm", "", "blocks.0.attn"])
def test_what_is_trained_beside_the_design_is_refused_when_writing(part, path):
    model = mini()
    model.get_submodule(part).requires_grad_(True)
    with pytest.raises(AdapterError, match=r"holds what its design trains, and \S+.* can be trained, too; freeze"):
        save_adapter(model, path)
    assert not path.exists()


def test_an_adapter_of_a_bfloat16_backbone_loads_by_itself(path, pixels):
    model = mini(dtype=torch.bfloat16)
    assert save_adapter(model, path).dtype == "bfloat16"
    loaded = load_adapter(path)
    assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert torch.equal(loaded(pixels.bfloat16()), model(pixels.bfloat16()))
    load_adapter(path, load_backbone("vit_mini_patch16_64", num_classes=5))


def test_an_adapter_of_a_float32_backbone_on_a_rounded_one_says_what_to_do(path):
    save_adapter(mini(), path)
    rounded = load_backbone("vit_mini_patch16_64", num_classes=5).bfloat16()
    with pytest.raises(AdapterError, match=r"on weights of type float32, and the model has only torch.bfloat16"):
        load_adapter(path, rounded)
    assert_untouched(rounded)


def test_saving_draws_nothing(path):
    model = mini()
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    save_adapter(model, path)
    assert torch.equal(torch.rand(2), expected)


def test_a_file_that_would_load_otherwise_is_never_written(path, monkeypatch):
    model = mini()
    monkeypatch.setattr(
        adapter_file, "tuned_state_dict", lambda model: {**tuned_state_dict(model), "more": torch.ones(1)}
    )
    with pytest.raises(AdapterError, match="would not load again"):
        save_adapter(model, path)
    assert not path.exists() and not list(path.parent.glob("*"))


def test_the_header_keeps_how_images_are_normalised_where_the_weights_lay_and_what_wrote_it(tmp_path):
    weights = tmp_path / "mini.safetensors"
    save_file(load_backbone("vit_mini_patch16_64", pretrained=False).state_dict(), weights)
    model = apply(load_backbone("vit_mini_patch16_64", weights, num_classes=2), LORA)
    own = InputConfig(64, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), "bilinear", 0.9)
    path = tmp_path / "a.safetensors"
    written = save_adapter(model, path, input=own, kind="multi_label", metric="mAP")
    info = read_adapter_info(path)
    assert info == written and info.input == own
    assert (info.kind, info.metric, info.version) == ("multi_label", "mAP", __version__)
    assert info.checkpoint == str(weights)
    load_adapter(path)  # found where it lay
    weights.rename(tmp_path / "moved.safetensors")
    with pytest.raises(AdapterError, match=r"fingerprint|weights lay at .*mini\.safetensors, where no file is now"):
        load_adapter(path)
    load_adapter(path, checkpoint=tmp_path / "moved.safetensors")
    save_file(load_backbone("vit_mini_patch16_64").state_dict(), weights)
    with pytest.raises(AdapterError, match="trained on other weights"):
        load_adapter(path)


def test_a_file_of_the_first_format_loads(model, path, make, images):
    save_adapter(model, path)

    def as_it_was(header):
        for key in ("checkpoint", "dtype", "kind", "metric", "version"):
            del header[key]
        header["format"] = 1

    rewrite(path, as_it_was)
    with torch.no_grad():
        assert torch.equal(load_adapter(path, make("gap"))(images(model)), model(images(model)))


def test_a_folder_says_to_name_the_file(tmp_path):
    with pytest.raises(AdapterError, match=r"is a folder; name the \.safetensors file"):
        load_adapter(tmp_path)
