"""What every method must do on every family: a family joins by its small model, a method by its line in METHODS."""

from __future__ import annotations

import re
from contextlib import suppress

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import (
    FAMILIES,
    METHODS,
    Adapters,
    Design,
    DesignError,
    Pack,
    Placement,
    Streams,
    Supernet,
    apply,
    check_design,
    count_params,
    count_tuned,
    family_of,
    frozen_casts,
    get_family,
    get_method,
    groups,
    load_adapter,
    merge,
    prefix_of,
    prepare,
    remove,
    resume,
    run_prefix,
    save_adapter,
    shape_of,
)

OTHERS = [name for name in FAMILIES if name != "vit"]


every_family = pytest.mark.parametrize("family", OTHERS)
everywhere = pytest.mark.parametrize(("name", "family"), [(n, f) for f in OTHERS for n in METHODS])


def refusal_of(design, shape):
    try:
        check_design(design, shape)
    except DesignError as refusal:
        return str(refusal)
    return None


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.fixture
def insert(images):
    """Apply a design as a training run does: a method that fits the task chooses for some images first."""

    def insert_design(model, design):
        apply(model, design)
        return prepare(model, [(images(model, 4), torch.tensor([0, 1, 1, 0]))], F.cross_entropy)

    return insert_design


@everywhere
def test_a_method_does_on_a_family_what_it_does(name, family, small, usual, insert, shake, images, tmp_path):
    """One pass, as each insertion takes time: what it holds is said by the parts."""
    model, method, found = small(family), get_method(name), get_family(family)
    before, flags = state_of(model), {path: p.requires_grad for path, p in model.named_parameters()}
    pixels, design = images(model), usual(name, model, 1 if name == "partial" else 4)
    if refusal := refusal_of(design, shape_of(model)):
        lacks = r"acts at .*, which .* does not have: .*; choose another method$"
        assert re.match(rf"{name} (cuts every weight into squares .*; take a backbone whose MLP|{lacks})", refusal)
        return
    with torch.no_grad():
        expected = model(pixels)
    insert(model, design)
    starts_and_counts(model, method, design, pixels, expected)
    shake(model)
    trains_what_is_tuned_alone(model, pixels)
    with torch.no_grad():
        x = found.enter(model, pixels)
        for index in range(shape_of(model).depth):
            x = found.step(model, index, x)
        trained = found.leave(model, x)
        assert torch.equal(model(pixels), trained) and not torch.equal(trained, expected)
        save_adapter(model, tmp_path / "a.safetensors")
        remove(model)
        assert_same(model, before)
        assert {path: p.requires_grad for path, p in model.named_parameters()} == flags
        assert not any(m._forward_hooks or m._forward_pre_hooks or "forward" in vars(m) for m in model.modules())
        assert torch.equal(load_adapter(tmp_path / "a.safetensors", model)(pixels), trained)
        merges_or_is_refused(model, method, pixels, trained)


def starts_and_counts(model, method, design, pixels, expected):
    with torch.no_grad():
        assert torch.equal(model(pixels), expected) is method.zero_start
    assert count_params(design, model) == count_params(design, shape_of(model)) == count_tuned(model)


def trains_what_is_tuned_alone(model, pixels):
    model.train()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    model(pixels).square().mean().backward()
    tuned = dict(model.petl.named_parameters())
    assert all(p.grad is not None and p.grad.isfinite().all() and p.grad.any() for p in tuned.values())
    assert {id(p) for p in tuned.values()} == {id(p) for p in model.parameters() if p.requires_grad}
    optimiser.step()
    model.eval()


def merges_or_is_refused(model, method, pixels, expected):
    before = state_of(model)
    try:
        merge(model)
    except DesignError as refusal:
        keyless = any(layer.shadowed for layer in shape_of(model).layers)
        assert not method.mergeable or (method.shifts_keys and keyless and "the keys a bias" in str(refusal))
        assert_same(model, before)
    else:
        assert not any(module._forward_hooks for module in model.modules())
        torch.testing.assert_close(model(pixels), expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["lora", "adapter", "mona", "fact_tt", "conv_adapter"])
@every_family
def test_a_narrowed_module_is_a_narrower_one(name, family, small, usual, images, shake):
    if refusal_of(usual(name, small(family)), shape_of(small(family))):
        return
    net = Supernet(small(family), usual(name, small(family), 4))
    shake(net.model)
    less = Design.of(p for p in usual(name, net.model, 2).placements if p.block != 1)
    alone = apply(small(family), less)
    alone.petl.load_state_dict(net.inherited(less))
    with torch.no_grad():
        torch.testing.assert_close(net.activate(less)(images(alone)), alone(images(alone)), rtol=1e-5, atol=1e-5)


def together(model, usual, names=METHODS):
    """The methods' usual designs in one, leaving out what cannot stand beside those before."""
    design, shape = Design(), shape_of(model)
    for name in names:
        if name not in METHODS:
            continue
        try:
            more = Design.of((*design.placements, *usual(name, model).placements))
            check_design(more, shape)
        except DesignError:
            continue
        design = more
    return design


@every_family
def test_many_methods_together_train_in_bf16_and_with_checkpoints_and_come_off(family, small, usual, insert, images):
    model = small(family)
    before = state_of(model)
    design = together(model, usual, ("bitfit", "lora", "ssf", "repadapter", "adapter", "mona", "conv_adapter"))
    insert(model, design)
    pixels, gradients = images(model), []
    for enable in (False, True):
        model.set_grad_checkpointing(enable)
        model.zero_grad()
        model(pixels.clone().requires_grad_()).square().sum().backward()
        gradients.append({path: p.grad for path, p in model.petl.named_parameters()})
    for path, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][path], gradient, msg=path)
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(pixels)
        with frozen_casts(model)():
            assert torch.equal(model(pixels), logits)
    logits.float().square().mean().backward()
    assert logits.isfinite().all() and all(p.grad.isfinite().all() for p in model.petl.parameters())
    assert_same(remove(model), before)


@pytest.mark.parametrize("family", ["convnext", "resnet", "efficientnet"])
def test_images_of_other_sizes_and_shapes_pass_what_was_inserted(family, small, usual, insert, images, shake):
    model = small(family)
    insert(model, together(model, usual, ("adapter", "convpass", "mona", "conv_adapter", "pad_prompt")))
    shake(model)
    pixels, others = images(model), torch.randn(2, 3, 40, 24)
    with torch.no_grad():
        before, found, after = model(pixels), model(others), model(pixels)
        assert torch.equal(before, after)
        torch.testing.assert_close(torch.cat([model(image[None]) for image in others]), found)


@every_family
def test_a_family_is_found_and_runs_in_parts(family, small, images):
    model = small(family)
    assert family_of(model) is get_family(family)
    found, shape = get_family(family), shape_of(model)
    assert shape.depth == len(found.blocks(model)) == len(shape.blocks) == len(shape.block_paths)
    with torch.no_grad():
        x = found.enter(model, images(model))
        for index, block in enumerate(shape.blocks):
            seen = []
            hook = found.site(model, "block.out", index).read(seen.append) if "block.out" in found.sites else None
            x = found.step(model, index, x)
            (tokens,) = seen if hook else (x,)
            if hook:
                hook.remove()
            rows, columns = block.grid
            assert tokens.shape == (2, block.prefix_tokens + rows * columns, block.width)
        assert torch.equal(found.leave(model, x), model(images(model)))
        features = found.features(model, images(model))
        torch.testing.assert_close(found.head(model)(features), model(images(model)))


@every_family
@pytest.mark.parametrize("block", [1, 2, 3])
def test_training_from_the_lowest_placement_on_is_the_same_to_the_digit(family, block, small, images, shake):
    model = small(family)
    depth = len(family_of(model).blocks(model))
    placements = [Placement("lora", b, 2) for b in range(block, depth)] if "attn.q" in family_of(model).sites else []
    apply(model, Design.of(placements))
    shake(model)
    model.train()
    prefix, pixels = prefix_of(model), images(model, 3)
    if prefix is None:
        pytest.skip("its blocks, or what stands around them, depend on the batch or draw random numbers in training")
    assert prefix.blocks == (block if placements else depth)
    streams = Streams(prefix, run_prefix(model, pixels, prefix), (pixels.shape[-2], pixels.shape[-1]))
    found, expected = resume(model, streams), model(pixels)
    assert torch.equal(found, expected)
    trained = [p for p in model.parameters() if p.requires_grad]
    ours, theirs = (torch.autograd.grad(logits.square().mean(), trained) for logits in (found, expected))
    assert all(map(torch.equal, ours, theirs))


@every_family
def test_designs_that_are_run_at_once_compute_what_they_compute_alone(family, small, usual, images, shake):
    adapters = Adapters(small(family).double())
    for name in ("lora", "ssf", "adapter", "conv_adapter", "bitfit", "hydra", "prefix"):
        with suppress(DesignError):
            shake(adapters.add(name, usual(name, adapters.backbone)), 0.05)
    ((*names,), *others), _ = groups(adapters, adapters)
    assert len(names) >= (2 if family == "generic" else 5) and not others
    models = {name: adapters[name] for name in names}
    inputs = {name: images(adapters.backbone, 1 + n % 2, seed=n) for n, name in enumerate(names)}
    expected = {name: gradients_of(model, model(inputs[name])) for name, model in models.items()}
    logits = Pack(adapters, names)(inputs)
    sum(value.square().sum() for value in logits.values()).backward()
    for name, model in models.items():
        for path, parameter in model.named_parameters():
            if path in expected[name]:
                torch.testing.assert_close(parameter.grad, expected[name][path], rtol=1e-7, atol=1e-9)


def gradients_of(model, logits):
    logits.square().sum().backward()
    found = {path: p.grad for path, p in model.named_parameters() if p.requires_grad and p.grad is not None}
    model.zero_grad()
    assert found
    return found
