"""What every method of the list must do, on every kind of backbone: a new method joins by its line in METHODS."""

from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch

from petlas.petl import (
    METHODS,
    Design,
    DesignError,
    apply,
    count_params,
    count_tuned,
    get_method,
    load_adapter,
    merge,
    remove,
    save_adapter,
    shape_by_name,
    shape_of,
    tuned_state_dict,
)
from petlas.petl.methods.base import Elastic, SubsetMethod
from petlas.petl.tuning import methods_of

every_kind = pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
every_method = pytest.mark.parametrize("name", METHODS)
sized = pytest.mark.parametrize("name", [name for name in METHODS if get_method(name).size_means])
mergeable = pytest.mark.parametrize("name", [name for name in METHODS if get_method(name).mergeable])
fixed = pytest.mark.parametrize("name", [name for name in METHODS if not get_method(name).mergeable])
COMBINING = [name for name in METHODS if get_method(name).combines]
pairs = pytest.mark.parametrize("pair", list(itertools.combinations(COMBINING, 2)), ids="+".join)


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_state(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


def together(names, model, usual):
    return Design.of(p for name in names for p in usual(name, model).placements)


@every_method
def test_a_method_describes_itself(name):
    method = get_method(name)
    assert method.name == name
    assert method.summary and method.paper and method.sites
    assert (method.size_means is None) == (method.default_size is None)
    assert get_method(name) is method


@every_kind
@every_method
def test_only_the_method_and_the_head_are_trained(name, kind, make, usual):
    model = make(kind)
    own = {path for path, _ in model.named_parameters()}
    apply(model, usual(name, model))
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in model.petl.parameters()}
    allowed = {"head.weight", "head.bias"}
    if isinstance(get_method(name), SubsetMethod):
        allowed |= {key.removeprefix(f"{name}.") for key in tuned_state_dict(model)}
    assert {path for path, p in model.named_parameters() if path in own and p.requires_grad} == allowed & own


@every_kind
@every_method
def test_training_with_weight_decay_leaves_frozen_tensors_bit_identical(name, kind, make, usual, train):
    model = make(kind)
    apply(model, usual(name, model))
    trained = {path for path, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    before = state_of(model)
    train(model)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= trained
    assert {"head.weight", "head.bias"} <= changed


@every_kind
@every_method
def test_a_zero_start_computes_what_the_backbone_computed(name, kind, make, usual, images):
    model = make(kind)
    expected = model(images(model))
    apply(model, usual(name, model))
    with torch.no_grad():
        assert torch.equal(model(images(model)), expected) is get_method(name).zero_start


@every_kind
@every_method
def test_the_predicted_count_is_the_counted_one(name, kind, make, usual):
    model = make(kind)
    design = usual(name, model)
    predicted = count_params(design, model)
    assert predicted == count_params(design, shape_of(model))
    apply(model, design)
    head = sum(p.numel() for p in model.head.parameters())
    assert predicted == sum(p.numel() for p in model.parameters() if p.requires_grad) - head
    assert predicted == count_tuned(model)
    assert predicted == count_params(design, model)


@pytest.mark.parametrize("name", [name for name in METHODS if get_method(name).in_blocks])
def test_the_count_holds_at_a_single_block(name, make):
    method, model = get_method(name), make("dinov2")
    design = Design.from_dict({"placements": [{"method": name, "block": 1, "size": 3 if method.size_means else None}]})
    predicted = count_params(design, model)
    apply(model, design)
    assert predicted == count_tuned(model) > 0
    assert all(f"{name}.blocks.1." in key or key.startswith("head.") for key in tuned_state_dict(model))


@every_kind
@every_method
def test_an_adapter_file_gives_identical_logits(name, kind, tuned, make, images, tmp_path):
    model = tuned(name, kind)
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", make(kind))
    with torch.no_grad():
        assert torch.equal(loaded(images(model)), model(images(model)))
    assert not loaded.training


@every_kind
@every_method
def test_remove_restores_the_backbone_bit_for_bit(name, kind, make, usual, train, images):
    model = make(kind)
    before, flags = state_of(model), {path: p.requires_grad for path, p in model.named_parameters()}
    with torch.no_grad():
        expected = model(images(model))
    apply(model, usual(name, model))
    train(model)
    assert remove(model) is model
    assert_same_state(model, before)
    assert {path: p.requires_grad for path, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with torch.no_grad():
        assert torch.equal(model(images(model)), expected)


@every_kind
@mergeable
def test_a_merged_model_is_plain_timm_and_computes_the_same(name, kind, tuned, make, images):
    model = tuned(name, kind, double=True)
    with torch.no_grad():
        expected = model(images(model))
    assert merge(model) is model
    assert not hasattr(model, "petl")
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    fresh = make(kind).double()
    assert list(model.state_dict()) == list(fresh.state_dict())
    fresh.load_state_dict(model.state_dict(), strict=True)
    with torch.no_grad():
        torch.testing.assert_close(model(images(model)), expected, rtol=1e-9, atol=1e-9)
        assert torch.equal(fresh(images(model)), model(images(model)))
    assert all(p.requires_grad for p in model.parameters())


@mergeable
def test_merging_in_single_precision_stays_within_1e_5(name, tuned, images):
    model = tuned(name, "dinov2")
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-5, atol=1e-5)


@every_kind
@fixed
def test_what_cannot_be_merged_is_refused_and_stays_intact(name, kind, tuned, images):
    model = tuned(name, kind)
    before = state_of(model)
    with torch.no_grad():
        expected = model(images(model))
        with pytest.raises(DesignError, match=rf"linear in the features.*{name}"):
            merge(model)
        assert_same_state(model, before)
        assert torch.equal(model(images(model)), expected)


@fixed
def test_a_fixed_method_refuses_to_merge_by_itself_too(name, tuned):
    model = tuned(name, "gap")
    placements = model.petl.design.by_method[name]
    with pytest.raises(DesignError, match=f"{name} cannot be merged"):
        get_method(name).merge(model, model.petl.get_submodule(name), placements)


@every_kind
@sized
@pytest.mark.parametrize("size", [1, 3, 4])
def test_a_narrowed_module_equals_a_fresh_smaller_one(name, size, kind, tuned, make, usual, images):
    large = tuned(name, kind)
    small = make(kind)
    apply(small, usual(name, small, size))
    small.head.load_state_dict(large.head.state_dict())
    modules = {path: m for path, m in large.petl.named_modules() if isinstance(m, Elastic)}
    assert modules, f"{name} has a size, so its modules must be elastic"
    with torch.no_grad():
        full = large(images(large))
    for path, module in modules.items():
        small.petl.get_submodule(path).load_state_dict(module.sliced_state(size))
        module.narrow(size)
    with torch.no_grad():
        torch.testing.assert_close(large(images(large)), small(images(large)), rtol=1e-5, atol=1e-5)
        for module in modules.values():
            module.narrow(4)
        assert torch.equal(large(images(large)), full)


@sized
def test_a_module_cannot_be_narrowed_beyond_its_size(name, tuned):
    module = next(m for m in tuned(name, "gap").petl.modules() if isinstance(m, Elastic))
    for size in (0, 5, -1):
        with pytest.raises(DesignError, match=rf"narrowed to 1\.\.4, got size={size}"):
            module.narrow(size)
    assert module.active == 4


@sized
def test_every_parameter_that_grows_with_the_size_is_an_axis(name, make, usual):
    models = [make("dinov2") for _ in range(2)]
    shapes = []
    for model, size in zip(models, (2, 5), strict=True):
        apply(model, usual(name, model, size))
        shapes.append({key: value.shape for key, value in tuned_state_dict(model).items()})
    for key, shape in shapes[0].items():
        grows = [axis for axis, (a, b) in enumerate(zip(shape, shapes[1][key], strict=True)) if a != b]
        path, _, leaf = key.rpartition(".")
        module = models[0].petl.get_submodule(path)
        if grows:
            assert isinstance(module, Elastic) and grows == [module.axes[leaf]]


@every_kind
@every_method
def test_gradients_reach_every_tuned_tensor_within_two_steps(name, kind, make, usual, images):
    model = make(kind)
    apply(model, usual(name, model))
    trained = {path: p for path, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.SGD(trained.values(), lr=0.1)
    reached = set()
    for _ in range(2):
        optimiser.zero_grad()
        model(images(model, 4)).square().sum().backward()
        reached |= {path for path, p in trained.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimiser.step()
    assert reached == set(trained)


@every_method
def test_frozen_tensors_get_no_gradient(name, tuned, images):
    model = tuned(name, "gap")
    model(images(model)).sum().backward()
    assert all(p.grad is None for p in model.parameters() if not p.requires_grad)


@every_kind
@every_method
def test_a_deep_copy_computes_the_same_and_is_independent(name, kind, tuned, make, images):
    model = tuned(name, kind)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        expected = model(images(model))
        assert torch.equal(twin(images(model)), expected)
        for p in twin.parameters():
            if p.requires_grad:
                p.zero_()
        assert torch.equal(model(images(model)), expected)
        assert not torch.equal(twin(images(model)), expected)
        remove(twin)
        assert_same_state(twin, state_of(make(kind)))
        assert torch.equal(model(images(model)), expected)


@every_method
def test_a_pickled_model_computes_the_same(name, tuned, make, images):
    model = tuned(name, "gap")
    twin = pickle.loads(pickle.dumps(model))
    with torch.no_grad():
        assert torch.equal(twin(images(model)), model(images(model)))
    assert_same_state(remove(twin), state_of(make("gap")))


@every_method
def test_train_and_eval_switch_what_was_inserted(name, make, usual, images, shake):
    model = make("dinov2", drop_path_rate=0.5)
    apply(model, usual(name, model))
    assert not any(m.training for m in model.petl.modules())
    assert model.train() is model
    assert all(m.training for m in model.petl.modules())
    assert not any(m.training for m in model.eval().petl.modules())
    shake(model)
    with torch.no_grad():
        assert torch.equal(model(images(model)), model(images(model)))
    training = make("gap").train()
    apply(training, usual(name, training))
    assert all(m.training for m in training.petl.modules())


@every_kind
@every_method
def test_bf16_autocast_runs_forward_and_backward(name, kind, tuned, images):
    model = tuned(name, kind)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(model))
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    with torch.no_grad():
        exact = model(images(model))
    assert (logits.float() - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@every_method
def test_a_model_in_bf16_gets_bf16_parameters(name, make, usual, images):
    model = make("gap").to(torch.bfloat16)
    apply(model, usual(name, model))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(images(model)).isfinite().all()


@every_method
@pytest.mark.parametrize("size", [(32, 64), (64, 16), (16, 16)])
def test_other_grids_work(name, size, make, usual, images):
    model = make("dinov2", model_name="vit_tiny_patch16_224", img_size=size)
    with torch.no_grad():
        features = model.forward_features(images(model)).shape
    design = usual(name, model)
    assert apply(model, design).forward_features(images(model)).shape == features
    assert count_tuned(model) == count_params(design, model)


@every_method
def test_images_of_changing_size_work(name, make, usual, shake):
    model = make("plain", dynamic_img_size=True, depth=2)
    apply(model, usual(name, model))
    shake(model)
    with torch.no_grad():
        assert all(model(torch.randn(2, 3, side, side)).shape == (2, 5) for side in (32, 64, 48))


@every_method
def test_gradient_checkpointing_gives_the_same_gradients(name, tuned, images):
    model = tuned(name, "dinov2")
    gradients = []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(images(model).requires_grad_()).square().sum().backward()
        gradients.append([p.grad.clone() for p in model.parameters() if p.requires_grad])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed)


@every_method
def test_a_backbone_without_a_head_can_be_tuned(name, make, usual, images):
    model = make("gap", num_classes=0)
    apply(model, usual(name, model))
    assert not any(key.startswith("head") for key in tuned_state_dict(model))
    assert model(images(model)).shape == (2, 192)
    remove(model)


@pairs
def test_two_methods_together_add_up_and_come_off_again(pair, make, usual, train, images):
    model = make("dinov2")
    before = state_of(model)
    design = together(pair, model, usual)
    apply(model, design)
    assert count_tuned(model) == count_params(design, model) == sum(count_params(usual(n, model), model) for n in pair)
    train(model)
    with torch.no_grad():
        assert model(images(model)).isfinite().all()
    assert_same_state(remove(model), before)


@pairs
def test_two_methods_merge_together_if_both_can(pair, make, usual, shake, images):
    model = make("dinov2").double()
    apply(model, together(pair, model, usual))
    shake(model)
    with torch.no_grad():
        expected = model(images(model))
        if all(get_method(name).mergeable for name in pair):
            torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-9, atol=1e-9)
        else:
            with pytest.raises(DesignError, match="cannot"):
                merge(model)
            assert torch.equal(model(images(model)), expected)


@every_kind
def test_all_zero_start_methods_together_still_start_at_zero(kind, make, usual, images):
    model = make(kind)
    with torch.no_grad():
        expected = model(images(model))
        names = [name for name in COMBINING if get_method(name).zero_start]
        apply(model, together(names, model, usual))
        assert torch.equal(model(images(model)), expected)


def test_all_methods_together_train_and_come_off_again(make, usual, train, images):
    model = make("plain")
    before = state_of(model)
    apply(model, together(COMBINING, model, usual))
    assert [m.name for m in methods_of(model.petl.design)] == [n for n in COMBINING if n in model.petl.design.by_method]
    train(model)
    assert model(images(model)).isfinite().all()
    assert_same_state(remove(model), before)


@pytest.mark.parametrize("name", [name for name in METHODS if not get_method(name).combines])
def test_a_method_that_stands_alone_refuses_company(name, make, usual):
    model = make("gap")
    with pytest.raises(DesignError, match=f"{name} stands alone in a design, got it together with lora"):
        apply(model, together((name, "lora"), model, usual))
    assert not hasattr(model, "petl")


@every_method
def test_the_formula_needs_no_weights(name):
    method = get_method(name)
    shape = shape_by_name("vit_large_patch14_clip_224")
    size = method.default_size
    count = method.count(shape, method.baseline(shape, size))
    assert isinstance(count, int) and count >= 0


@every_method
def test_impossible_placements_are_refused_with_the_rule(name, make):
    method, model = get_method(name), make("gap")
    size = method.default_size
    block = 0 if method.in_blocks else None

    def refused(match, **placement):
        with pytest.raises(DesignError, match=match):
            apply(model, Design.from_dict({"placements": [{"method": name, "size": size, "block": block} | placement]}))
        assert not hasattr(model, "petl")

    if method.in_blocks:
        refused(r"block must be in 0\.\.2 for vit_tiny.*, got block=3", block=3)
    else:
        refused("covers the whole backbone, got block=0", block=0)
    if not method.in_backbone:
        refused(r"is placed at blocks, got no block; give block: 0\.\.2", block=None)
    if method.size_means is None:
        refused("has no size, got size=4", size=4)
    else:
        refused(rf"needs a size \({method.size_means}\), for example size: {size}", size=None)
    refused(r"has no option 'colour' \(value 'red'\); its options:", options={"colour": "red"})
    for option, default in method.options.items():
        if not isinstance(default, str):
            refused(f"option {option} of {name} must be a", options={option: "much"})
        if not isinstance(default, bool):
            refused(f"option {option} of {name} must be a", options={option: True})
    if "dropout" in method.options:
        for value in (-0.1, 1.0, 7):
            refused(r"option dropout of .* must be in \[0, 1\)", options={"dropout": value})
