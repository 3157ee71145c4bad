from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from petlas.petl import (
    AdapterError,
    AdapterInfo,
    BackboneError,
    Design,
    DesignError,
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

    def half_written(file, content):
        file.write_text("half")
        raise OSError("disk full")

    def fail(*_):
        raise OSError("disk full")

    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", half_written)
    else:
        monkeypatch.setattr(os, "replace", fail)
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
        (lambda h: h.update(format=2), "has another format than 1; install a petlas that knows it"),
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


def test_loading_puts_the_model_in_evaluation_mode(model, path, make):
    save_adapter(model, path)
    loaded = load_adapter(path, make("gap").train())
    assert not any(m.training for m in loaded.modules())
