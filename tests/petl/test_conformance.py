"""What every method of the list must do, on every kind of backbone: a new method joins by its line in METHODS."""

from __future__ import annotations

import copy
import pickle
import re
from dataclasses import replace
from functools import cache, partial
from inspect import signature

import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from petlas.petl import (
    FAMILIES,
    METHODS,
    Design,
    DesignError,
    Family,
    Placement,
    apply,
    check_design,
    count_params,
    count_tuned,
    family_of,
    frozen_casts,
    get_method,
    load_adapter,
    merge,
    prepare,
    remove,
    save_adapter,
    shape_by_name,
    shape_of,
    tuned_state_dict,
    undecayed,
)
from petlas.petl.check import methods_of
from petlas.petl.parts.block_method import BlockMethod
from petlas.petl.parts.elastic import Elastic
from petlas.petl.parts.placed import NoOptions
from petlas.petl.parts.tuned_copies import TunedCopies

SIDE = 24


class ToyBlock(nn.Module):
    """A transformer block with other names, and with q, k and v in layers of their own."""

    def __init__(self, width):
        super().__init__()
        self.before, self.after = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 2 * width), nn.Linear(2 * width, width)
        self.join, self.add = nn.Identity(), nn.Identity()

    def forward(self, x):
        a = self.before(x)
        q, k, v = (layer(a).unflatten(-1, (4, -1)).transpose(1, 2) for layer in (self.query, self.key, self.value))
        found = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self.join(self.out(found))
        return x + self.add(self.down(F.gelu(self.up(self.after(x)))))


class Toy(nn.Module):
    """A family from outside: patches of 8 pixels, no class token, the mean of the tokens for the head."""

    def __init__(self, width=96, depth=2, classes=5):
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, stride=8)
        self.steps = nn.ModuleList(ToyBlock(width) for _ in range(depth))
        self.final = nn.LayerNorm(width)
        self.classify = nn.Linear(width, classes)

    def forward(self, images):
        x = self.stem(images).flatten(2).transpose(1, 2)
        for step in self.steps:
            x = step(x)
        return self.classify(self.final(x).mean(dim=1))


class ToyFamily(Family):
    name = "toy"
    summary = "a toy"
    head_path = "classify"
    names = {
        **{"before": ("norm1",), "query": ("q",), "key": ("k",), "value": ("v",), "out": ("proj",)},
        **{"after": ("norm2",), "up": ("fc1",), "down": ("fc2",), "final": ("norm",)},
    }
    in_block = {
        **{"block.in": ("", "in"), "block": ("", "out"), "block.out": ("", "out")},
        **{"attn.stream": ("before", "in"), "attn.normed": ("before", "out"), "attn.in": ("before", "out")},
        **{"attn.out": ("out", "out"), "attn.residual": ("join", "out")},
        **{"mlp.stream": ("after", "in"), "mlp.normed": ("after", "out"), "mlp.in": ("after", "out")},
        **{"mlp.out": ("down", "out"), "mlp.residual": ("add", "out")},
    }
    in_model = {
        **{"images": ("stem", "in"), "norm.in": ("final", "in"), "norm.out": ("final", "out")},
        **{"head.in": ("classify", "in"), "head.out": ("classify", "out")},
    }
    other_sites = frozenset(
        ("backbone", "tokens", "head", "norm", "patch_embed", "norm1", "norm2", "ls1", "ls2", "attn.qkv", "shortcut1")
    ) | {"shortcut2"}

    def why_not(self, model):
        return None if isinstance(model, Toy) else ""

    def block_paths(self, model):
        return [f"steps.{index}" for index in range(len(model.steps))]

    def width(self, model):
        return model.final.normalized_shape[0]

    def prefix_tokens(self, model):
        return 0

    def patch(self, model):
        return 8, 8

    def image_size(self, model):
        return SIDE, SIDE

    def grid(self, model, size):
        return size[0] // 8, size[1] // 8

    def features(self, model, images):
        x = self.enter(model, images)
        for block in self.blocks(model):
            x = block(x)
        return model.final(x).mean(dim=1)

    def leave(self, model, x):
        return model.classify(model.final(x).mean(dim=1))

    def reset_head(self, model, num_classes):
        model.classify = nn.Linear(self.width(model), num_classes)


def allowed(name, kind):
    """Whether a kind of backbone has the sites of a method."""
    method, there = get_method(name), ToyFamily().sites
    fits = not there.isdisjoint(method.sites) if method.any_site else there.issuperset(method.sites)
    return kind != "toy" or (fits and there.issuperset(method.needs))


@pytest.fixture(autouse=True)
def toy_family(monkeypatch):
    monkeypatch.setitem(FAMILIES, "toy", f"{__name__}:ToyFamily")


# The kinds of the other tests, smaller still; `gap` has no class token and pools by the mean.
TINY = {
    "plain": {"embed_dim": 96, "num_heads": 3, "depth": 2},
    "dinov2": {"depth": 2},
    "gap": {"model_name": "vit_base_patch16_siglip_gap_224", "embed_dim": 96, "num_heads": 3, "depth": 2},
}
LARGEST = 4

KINDS = (*TINY, "toy")

every_kind = pytest.mark.parametrize("kind", TINY)
ON_TOKENS = [name for name in METHODS if not {"conv.in", "pixels"} & {*get_method(name).sites, *get_method(name).needs}]
"""What a vision transformer takes."""

every_method = pytest.mark.parametrize("name", ON_TOKENS)
combining = [name for name in ON_TOKENS if get_method(name).combines]
pairs = pytest.mark.parametrize(
    "pair", [(name, other) for name in combining for other in ("lora", "adapter", "vpt") if name != other], ids="+".join
)


def those(wanted):
    return pytest.mark.parametrize("name", [name for name in ON_TOKENS if wanted(get_method(name))])


def everywhere(wanted=lambda method: True, kinds=KINDS):
    """All methods on all kinds of backbones that have their sites."""
    pairs = [(n, k) for k in kinds for n in ON_TOKENS if wanted(get_method(n)) and allowed(n, k)]
    return pytest.mark.parametrize(("name", "kind"), pairs)


sized = those(lambda method: method.size_means)
mergeable = those(lambda method: method.mergeable)
fixed = those(lambda method: not method.mergeable)
fitted = those(lambda method: method.fits_task)


def accepted(design, shape):
    try:
        check_design(design, shape)
    except DesignError:
        return False
    return True


@cache
def compatible_groups(most=12, without=()):
    """All methods, in groups that can stand together in a design."""
    shape = shape_by_name("vit_tiny_patch16_224")
    groups = []
    for name in ON_TOKENS:
        if name in without:
            continue
        placements = get_method(name).baseline(shape, get_method(name).default_size)
        for names, design in groups:
            more = Design.of((*design, *placements))
            if len(names) < most and accepted(more, shape):
                names.append(name)
                design.extend(placements)
                break
        else:
            groups.append(([name], list(placements)))
    return [names for names, _ in groups]


@cache
def sizes_of(name, shape):
    """The sizes up to `LARGEST` that a method takes: some must divide by something."""
    method = get_method(name)
    sizes = [s for s in range(1, LARGEST + 1) if accepted(Design.of(method.baseline(shape, s)), shape)]
    assert sizes, f"{name} takes none of the sizes 1 to {LARGEST}"
    return sizes


def placed(design):
    """The placements of a design of one method, as the method gets them."""
    return [get_method(p.method).placed(p) for p in design.placements]


def state_of(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_same_state(model, before):
    after = model.state_dict()
    assert list(after) == list(before)
    for key, value in before.items():
        assert torch.equal(after[key], value), key


@pytest.fixture
def make(make):
    def make_backbone(kind="plain", **arguments):
        if kind != "toy":
            return make(kind, **TINY[kind] | arguments)
        torch.manual_seed(0)
        return Toy(**arguments).eval()

    return make_backbone


def head_of(model):
    return family_of(model).head(model)


def head_names(model):
    return {f"{family_of(model).head_path}.{name}" for name in ("weight", "bias")}


@pytest.fixture
def usual():
    """A method's usual design on a model, with the largest size of a few if it has one."""

    def usual_design(name, model, size=None):
        method, shape = get_method(name), shape_of(model)
        return Design.of(method.baseline(shape, (size or sizes_of(name, shape)[-1]) if method.size_means else None))

    return usual_design


@pytest.fixture
def insert(images):
    """Apply a design as a training run does: a method that fits the task chooses for some images first."""

    def insert_design(model, design):
        apply(model, design)
        batches = [(images(model, 4, seed), torch.tensor([0, 1, 1, 0])) for seed in (1, 2)]
        return prepare(model, batches, F.cross_entropy)

    return insert_design


@pytest.fixture
def tuned(make, usual, insert, shake):
    """A backbone with a method's usual design whose trained values are far from their start."""

    def tuned_model(name, kind="plain", double=False, **arguments):
        model = make(kind, **arguments)
        insert(model.double() if double else model, usual(name, model))
        shake(model)
        return model

    return tuned_model


def as_many_as_fit(names, model, usual):
    """The methods' usual designs together, leaving out what cannot stand beside those before."""
    design, shape = Design(), shape_of(model)
    for name in names:
        more = Design.of((*design.placements, *usual(name, model).placements))
        design = more if accepted(more, shape) else design
    return design


@every_method
def test_a_method_describes_itself(name):
    method = get_method(name)
    assert method.name == name
    assert method.summary and method.paper and method.sites
    assert (method.size_means is None) == (method.default_size is None)
    assert method.in_blocks or method.in_backbone
    assert get_method(name) is method


@everywhere()
def test_a_method_does_on_a_backbone_what_it_does(name, kind, make, usual, insert, shake, images, tmp_path):
    """One pass, as each insertion takes time: what it holds is said by the parts."""
    model = make(kind)
    before, flags = state_of(model), {path: p.requires_grad for path, p in model.named_parameters()}
    forwards, pixels, design = forwards_of(model), images(model), usual(name, model)
    predicted = count_params(design, model)
    assert predicted == count_params(design, shape_of(model))
    with torch.no_grad():
        expected = model(pixels)
    insert(model, design)
    trains_the_method_and_the_head_alone(model, flags)
    counts_what_was_predicted(model, design, predicted)
    with torch.no_grad():
        assert torch.equal(model(pixels), expected) is get_method(name).zero_start
    learns_and_leaves_what_is_frozen_bit_identical(model, images(model, 4))
    shake(model)
    runs_in_parts(model, pixels)
    is_the_same_from_its_files(model, lambda: make(kind), pixels, tmp_path)
    trains_on_a_batch_of_one(model, images(model, 1))
    assert remove(model) is model
    assert_same_state(model, before)
    assert {path: p.requires_grad for path, p in model.named_parameters()} == flags
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert forwards_of(model) == forwards
    assert all(p.grad is None for p in model.parameters())
    with torch.no_grad():
        assert torch.equal(model(pixels), expected)


def forwards_of(model):
    """The modules whose `forward` was replaced."""
    return {path for path, m in model.named_modules() if "forward" in vars(m)}


def trains_the_method_and_the_head_alone(model, own):
    assert {id(p) for p in model.parameters() if p.requires_grad} == {id(p) for p in model.petl.parameters()}
    trained = {id(p) for m in model.petl.modules() if isinstance(m, TunedCopies) for _, p in m.placed()}
    expected = {path for path, p in model.named_parameters() if id(p) in trained} | head_names(model)
    assert {path for path, p in model.named_parameters() if path in own and p.requires_grad} == expected & set(own)


def counts_what_was_predicted(model, design, predicted):
    trained = {path: p for path, p in model.petl.named_parameters() if "head" not in path.split(".")}
    assert predicted == sum(p.numel() for p in trained.values())
    assert predicted == count_tuned(model)
    assert predicted == count_params(design, model)


def learns_and_leaves_what_is_frozen_bit_identical(model, pixels):
    """Gradients reach every tuned tensor within two steps and no frozen one, which weight decay leaves as it is."""
    trained = {path for path, p in model.named_parameters(remove_duplicate=False) if p.requires_grad}
    tuned = {path: p for path, p in model.named_parameters() if p.requires_grad}
    before, reached = state_of(model), set()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-2, weight_decay=0.5)
    model.train()
    for _ in range(2):
        optimiser.zero_grad()
        model(pixels).square().sum().backward()
        assert all(p.grad is None for p in model.parameters() if not p.requires_grad)
        reached |= {path for path, p in tuned.items() if p.grad is not None and p.grad.abs().sum() > 0}
        optimiser.step()
    model.eval()
    assert reached == set(tuned)
    changed = {key for key, value in model.state_dict().items() if not torch.equal(value, before[key])}
    assert changed <= trained | {f"petl.{key}" for key, _ in model.petl.named_buffers()}
    assert head_names(model) <= changed


def runs_in_parts(model, pixels):
    """What it computes as a whole."""
    family = family_of(model)
    with torch.no_grad():
        expected = model(pixels)
        x = family.enter(model, pixels)
        for block in family.blocks(model):
            x = block(x)
        assert torch.equal(family.leave(model, x), expected)
        assert torch.equal(model(pixels), expected)


def is_the_same_from_its_files(model, fresh, pixels, folder):
    """From an adapter file, and from a state dict, of which no two names share memory."""
    with torch.no_grad():
        expected = model(pixels)
        save_adapter(model, folder / "a.safetensors")
        loaded = load_adapter(folder / "a.safetensors", fresh())
        assert torch.equal(loaded(pixels), expected)
        assert not loaded.training  # as it was given
        save_file(model.state_dict(), folder / "model.safetensors")
        twin = apply(fresh(), model.petl.design)
        twin.load_state_dict(load_file(folder / "model.safetensors"))
        assert torch.equal(twin(pixels), expected)


def trains_on_a_batch_of_one(model, image):
    model.train()
    model.zero_grad()
    model(image).sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in model.parameters())
    model.eval()


@those(lambda method: method.in_blocks)
def test_the_count_holds_at_a_single_block(name, make, usual):
    model = make("dinov2")
    size = usual(name, model).placements[0].size
    design = Design.of([Placement(name, 1, size)])
    predicted = count_params(design, model)
    apply(model, design)
    assert predicted == count_tuned(model) > 0
    assert all(f"{name}.blocks.1." in key or key.startswith("head.") for key in tuned_state_dict(model))


@those(lambda method: any(isinstance(default, bool) for default in method.options.values()))
def test_the_count_holds_with_every_switch_turned(name, make, usual):
    model = make("dinov2")
    turned = {option: not default for option, default in get_method(name).options.items() if isinstance(default, bool)}
    design = Design.of(replace(p, options=turned) for p in usual(name, model).placements)
    assert count_params(design, model) == count_tuned(apply(model, design))


@everywhere(lambda method: method.mergeable)
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


@fixed
def test_what_cannot_be_merged_is_refused_and_stays_intact(name, tuned, images):
    model = tuned(name, "gap")
    before = state_of(model)
    with torch.no_grad():
        expected = model(images(model))
        with pytest.raises(DesignError, match=rf"linear in the features.*{name}"):
            merge(model)
        assert_same_state(model, before)
        assert torch.equal(model(images(model)), expected)
    placements = placed(model.petl.design)
    with pytest.raises(DesignError, match=f"{name} cannot be merged"):
        get_method(name).merge(model, model.petl.get_submodule(name), placements)


@everywhere(lambda method: method.size_means)
def test_narrowed_it_computes_what_a_fresh_smaller_one_with_its_slices_does(name, kind, tuned, make, usual, images):
    large = tuned(name, kind)
    method, module = get_method(name), large.petl.get_submodule(name)
    with torch.no_grad():
        full = large(images(large))
    for size in sizes_of(name, shape_of(large))[::2]:
        small = make(kind)
        design = usual(name, small, size)
        apply(small, design)
        state = {f"{name}.{key}": value for key, value in method.sliced(module, placed(design)).items()}
        head = {f"head.{key}": value for key, value in head_of(large).state_dict().items()}
        small.petl.load_state_dict(state | head)
        large.petl.connect(large, design)
        with torch.no_grad():
            torch.testing.assert_close(large(images(large)), small(images(large)), rtol=1e-5, atol=1e-5)
    large.petl.connect(large, large.petl.design)
    with torch.no_grad():
        assert torch.equal(large(images(large)), full)


@sized
def test_a_module_cannot_be_narrowed_beyond_its_size(name, tuned):
    for module in tuned(name, "gap").petl.modules():
        if isinstance(module, Elastic):
            for size in (0, module.size + 1, -1):
                with pytest.raises(DesignError, match=rf"narrowed to 1\.\.{module.size}, got size={size}"):
                    module.narrow(size)
            assert module.active == module.size


@sized
def test_every_parameter_that_grows_with_the_size_is_an_axis(name, make, usual):
    models = [make("dinov2") for _ in range(2)]
    shapes = []
    sizes = sizes_of(name, shape_of(models[0]))
    for model, size in zip(models, (sizes[0], sizes[-1]), strict=True):
        apply(model, usual(name, model, size))
        shapes.append({key: value.shape for key, value in tuned_state_dict(model).items()})
    for key, shape in shapes[0].items():
        grows = [axis for axis, (a, b) in enumerate(zip(shape, shapes[1][key], strict=True)) if a != b]
        path, _, leaf = key.rpartition(".")
        if grows:
            module = models[0].petl.get_submodule(path)
            assert isinstance(module, Elastic) and module.axes[leaf] in (grows[0], tuple(grows)), key


@fitted
def test_what_is_fitted_depends_on_the_images_but_not_on_chance_and_leaves_no_trace(name, make, usual, images):
    states = []
    for seed in (1, 1, 2):
        model = apply(make("plain"), usual(name, make("plain")))
        parameters = {path: (p.clone(), p.requires_grad) for path, p in model.named_parameters()}
        torch.manual_seed(0)
        prepare(model.train(), [(images(model, 6, seed), torch.tensor([0, 1, 2, 0, 1, 2]))], F.cross_entropy)
        assert model.training
        assert all(p.grad is None for p in model.parameters())
        for path, (value, trained) in parameters.items():
            parameter = model.get_parameter(path)
            assert parameter.requires_grad is trained
            assert trained or torch.equal(parameter, value), path
        states.append(tuned_state_dict(model))
    first, again, other = states
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert any(not torch.equal(first[key], other[key]) for key in first)


@every_method
def test_a_deep_copy_computes_the_same_and_is_independent(name, tuned, make, images):
    model = tuned(name, "dinov2")
    model(images(model))  # what a forward pass leaves behind must be possible to copy
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
        assert_same_state(twin, state_of(make("dinov2")))
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


@every_method
def test_bf16_autocast_runs_forward_and_backward(name, tuned, images):
    model = tuned(name, "dinov2")
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(images(model))
    logits.float().square().mean().backward()
    assert logits.isfinite().all()
    gradients = {path: p.grad.clone() for path, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    with torch.autocast("cpu", torch.bfloat16), frozen_casts(model)():
        again = model(images(model))
    again.float().square().mean().backward()
    assert torch.equal(again, logits) and all(torch.equal(model.get_parameter(p).grad, g) for p, g in gradients.items())
    with torch.no_grad():
        exact = model(images(model))
        with torch.autocast("cpu", torch.bfloat16):
            assert torch.equal(model(images(model)), logits)  # what is measured is what was trained
    assert (logits.float() - exact).abs().max() < 0.1 * exact.abs().max()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


@every_method
def test_a_model_in_bf16_gets_bf16_parameters(name, make, usual, images):
    model = make("gap").to(torch.bfloat16)
    apply(model, usual(name, model))
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert model(images(model)).isfinite().all()


@every_method
@pytest.mark.parametrize("size", [(32, 64), (16, 16)])
def test_other_grids_work(name, size, make, usual, images):
    model = make("dinov2", model_name="vit_tiny_patch16_224", img_size=size)
    with torch.no_grad():
        features = model.forward_features(images(model)).shape
    design = usual(name, model)
    assert apply(model, design).forward_features(images(model)).shape == features
    assert count_tuned(model) == count_params(design, model)


@every_method
def test_images_of_changing_size_work(name, make, usual, shake):
    model = make("plain", dynamic_img_size=True)
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
    copy.deepcopy(model)  # nothing of the graph is left in the modules


@every_method
def test_a_backbone_without_a_head_can_be_tuned(name, make, usual, images):
    model = make("gap", num_classes=0)
    design = usual(name, model)
    apply(model, design)
    assert not any(key.startswith("head") for key in tuned_state_dict(model))
    own = get_method(name).head_inputs(shape_of(model), placed(design))
    assert model(images(model)).shape == (2, own or 96)
    remove(model)


@pytest.mark.parametrize("group", compatible_groups(), ids="+".join)  # tracing the backbone is what takes the time
def test_a_compiled_model_computes_the_same(group, make, usual, insert, shake, images):
    model = make("plain", depth=1)
    insert(model, Design.of(p for name in group for p in usual(name, model).placements))
    shake(model)
    expected = model(images(model))
    torch._dynamo.reset()
    compiled = torch.compile(model, backend="eager")
    torch.testing.assert_close(compiled(images(model)), expected, rtol=1e-5, atol=1e-5)


def test_a_compiled_model_does_not_run_the_graph_of_an_earlier_design(make, usual, insert, shake, images):
    torch._dynamo.reset()
    for name in ("sparse", "mona"):  # sparse breaks the graph, and the pieces are kept
        model = make("plain", depth=1)
        shake(insert(model, usual(name, model)))
        compiled = torch.compile(model, backend="eager")
        torch.testing.assert_close(compiled(images(model)), model(images(model)), rtol=1e-5, atol=1e-5)


def test_models_compiled_side_by_side_run_their_own_graphs(make, usual, insert, shake, images):
    torch._dynamo.reset()
    models = []
    for name in ("sparse", "mona", "lora"):
        models.append(make("plain", depth=1))
        shake(insert(models[-1], usual(name, models[-1])))
    apart = {"isolate_recompiles": True} if "isolate_recompiles" in signature(torch.compile).parameters else {}
    if not apart:
        pytest.skip("this torch compiles models with other hooks into one cache")
    for model in models:
        compiled = torch.compile(model, backend="eager", **apart)
        torch.testing.assert_close(compiled(images(model)), model(images(model)), rtol=1e-5, atol=1e-5)


@pairs
def test_two_methods_together_add_up_merge_if_both_can_and_come_off_again(pair, make, usual, insert, train, images):
    model = make("dinov2").double()
    before, shape = state_of(model), shape_of(model)
    designs = [usual(name, model) for name in pair]
    design = Design.of(p for one in designs for p in one.placements)
    if not accepted(design, shape):
        with pytest.raises(DesignError, match=r"keep one|leave out") as refusal:
            apply(model, design)
        assert all(name in str(refusal.value) for name in pair)
        assert not hasattr(model, "petl")
        return
    insert(model, design)
    assert count_tuned(model) == count_params(design, shape) == sum(count_params(one, shape) for one in designs)
    train(model)
    with torch.no_grad():
        expected = model(images(model))
        assert expected.isfinite().all()
        twin = copy.deepcopy(model)
        if all(get_method(name).mergeable for name in pair):
            torch.testing.assert_close(merge(twin)(images(model)), expected, rtol=1e-9, atol=1e-9)
        else:
            with pytest.raises(DesignError, match="cannot"):
                merge(twin)
            assert torch.equal(twin(images(model)), expected)
    assert_same_state(remove(model), before)


@every_kind
def test_all_zero_start_methods_together_still_start_at_zero(kind, make, usual, insert, images):
    model = make(kind)
    with torch.no_grad():
        expected = model(images(model))
    design = as_many_as_fit([name for name in combining if get_method(name).zero_start], model, usual)
    insert(model, design)
    with torch.no_grad():
        torch.testing.assert_close(model(images(model)), expected)


def test_as_many_methods_as_fit_together_train_and_come_off_again(make, usual, insert, train, images):
    model = make("plain")
    before = state_of(model)
    design = as_many_as_fit(combining, model, usual)
    insert(model, design)
    assert [m.name for m in methods_of(design)] == [n for n in METHODS if n in design.by_method]
    train(model)
    assert model(images(model)).isfinite().all()
    assert_same_state(remove(model), before)


@those(lambda method: not method.combines)
def test_a_method_that_stands_alone_refuses_company(name, make, usual):
    model = make("gap")
    with pytest.raises(DesignError, match=f"{name} stands alone in a design, got it together with lora"):
        apply(model, Design.of((*usual(name, model).placements, *usual("lora", model).placements)))
    assert not hasattr(model, "petl")


@every_method
def test_the_formula_needs_no_weights(name):
    method = get_method(name)
    shape = shape_by_name("vit_large_patch14_clip_224")
    size = method.default_size
    count = count_params(Design.of(method.baseline(shape, size)), shape)
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
        refused(r"block must be in 0\.\.1 for vit_base.*, got block=2", block=2)
    else:
        refused("covers the whole backbone, got block=0", block=0)
    if not method.in_backbone:
        refused(r"is placed at blocks, got no block; give block: 0\.\.1", block=None)
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
    for option in {"dropout", "drop_path"} & set(method.options):
        for value in (-0.1, 1.0, 7):
            refused(rf"option {option} of .* must be in \[0, 1\)", options={option: value})


@pytest.mark.parametrize("name", [name for name in METHODS if not allowed(name, "toy")])
def test_a_family_that_lacks_a_site_refuses_the_methods_that_need_it(name, make):
    model, method = make("toy"), get_method(name)
    design = Design.of(method.baseline(shape_of(model), method.default_size))
    with pytest.raises(DesignError, match=rf"{name} acts at .*, which Toy does not have; choose another method"):
        apply(model, design)
    assert not hasattr(model, "petl") and all(p.requires_grad for p in model.parameters())


def test_a_family_from_outside_takes_most_methods():
    assert sum(allowed(name, "toy") for name in METHODS) >= 30


@every_method
@pytest.mark.parametrize("norm", [False, True])
def test_features_between_blocks_are_the_backbones_own_or_refused(name, norm, tuned, images):
    model = tuned(name, "dinov2")
    streams = []
    for block in model.blocks:
        block.register_forward_hook(lambda _, __, output: streams.append(output))
    with torch.no_grad():
        logits = model(images(model))
        expected = [model.norm(x) if norm and not get_method(name).final_norm else x for x in streams]
        grid = shape_of(model).grid
        try:
            maps = model.forward_intermediates(images(model), norm=norm, intermediates_only=True)
        except DesignError as refusal:
            assert get_method(name).final_norm or name == "vpt_shallow"
            assert re.search(r"between blocks (must be|cannot be)", str(refusal)) and name in str(refusal)
        else:
            for features, stream in zip(maps, expected, strict=True):
                assert features.shape[-2:] == grid
                assert torch.equal(features.flatten(2).transpose(1, 2), stream[:, 5 : 5 + grid[0] * grid[1]])
        assert torch.equal(model(images(model)), logits)
    copy.deepcopy(model)  # nothing of a pass that did not reach the head is left


@pytest.mark.parametrize("group", compatible_groups(without=("sparse",)), ids="+".join)
def test_tuned_models_can_be_exported_with_a_free_batch_size(group, make, usual, shake, images):
    """All but sparse: its products are no part of torch.export's operations."""
    model = make("dinov2", depth=1)
    shake(apply(model, Design.of(p for name in group for p in usual(name, model).placements)))
    free = ({0: torch.export.Dim("batch", min=2, max=16)},)
    exported = torch.export.export(model, (images(model, 4),), dynamic_shapes=free).module()
    for number in (2, 7):
        with torch.no_grad():
            pixels = images(model, number, seed=9)
            torch.testing.assert_close(exported(pixels), model(pixels), rtol=1e-4, atol=1e-4)


@every_method
def test_weight_decay_is_for_weights_and_not_for_prompts_biases_and_positions(name, tuned):
    model = tuned(name, "dinov2")
    spared = undecayed(model)
    for path, parameter in model.named_parameters():
        leaf = path.rpartition(".")[2]
        meant = "bias" in leaf or "pos_embed" in leaf or leaf in ("tokens", "cls_token", "reg_token", "keys", "values")
        assert (path in spared) == (parameter.ndim <= 1 or meant), path


class Doubling(BlockMethod[NoOptions]):
    """A method from outside: one learned scale of what leaves a block."""

    name = "doubling"
    summary = "a scale behind a block"
    paper = "none"
    sites = ("block.out",)
    zero_start = True
    mergeable = False
    option_type = NoOptions

    def count_block(self, block, placement):
        return 1

    def build_block(self, block, placement):
        scale = nn.Linear(1, 1, bias=False)
        nn.init.ones_(scale.weight)
        return scale

    def attach_block(self, block, module):
        yield block.site("block.out").change(partial(_scale, module))


def _scale(module, x):
    return x * module.weight


@pytest.mark.parametrize("kind", KINDS)
def test_a_method_from_outside_is_one_class_and_one_line(kind, make, monkeypatch, images, train, tmp_path):
    monkeypatch.setitem(METHODS, "doubling", f"{__name__}:Doubling")
    model = make(kind)
    with torch.no_grad():
        expected = model(images(model))
        design = Design.of([Placement("doubling", 1)])
        assert count_params(design, model) == 1
        assert torch.equal(apply(model, design)(images(model)), expected)
    train(model)
    with torch.no_grad():
        trained = model(images(model))
        assert not torch.equal(trained, expected)
        save_adapter(model, tmp_path / "a.safetensors")
        assert torch.equal(load_adapter(tmp_path / "a.safetensors", make(kind))(images(model)), trained)
        assert torch.equal(remove(model)(images(model)), expected)


class Operations(TorchDispatchMode):
    """Counts operations that move data."""

    count = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        self.count += not func.is_view and "empty" not in name and name not in ("detach", "_unsafe_view")
        return func(*args, **(kwargs or {}))


def operations(model, images, amp):
    model.train()
    for _ in range(2):  # what is made once is there in the second pass
        model.zero_grad()
        with Operations() as counted:
            with torch.autocast("cpu", torch.bfloat16, enabled=amp), frozen_casts(model)():
                logits = model(images.clone().requires_grad_())
            logits.float().sum().backward()
    return counted.count


@pytest.mark.parametrize(
    ("name", "single", "half"),
    [
        ("lora", 18, 28),
        ("adapter", 26, 42),
        ("adapter_plus", 50, 62),
        ("ssf", 48, 54),
        ("convpass", 122, 154),
        ("vpt", 8, 12),
    ],
)
def test_what_is_inserted_adds_no_more_operations_than_it_did(name, single, half, make, usual, images):
    """In two blocks and the head; on a GPU each is a launch: see `benchmarks/engine/modules.md`."""
    plain = make("dinov2", depth=2).requires_grad_(False)
    tuned = apply(make("dinov2", depth=2), usual(name, plain))
    for amp, most in ((False, single), (True, half)):
        beyond = operations(tuned, images(plain), amp) - operations(plain, images(plain), amp)
        assert beyond <= most + 1
