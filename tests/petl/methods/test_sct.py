from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from petlas.petl import (
    Design,
    DesignError,
    Placement,
    apply,
    count_params,
    get_method,
    load_adapter,
    prepare,
    save_adapter,
    shape_by_name,
    tuned_state_dict,
)

DESIGN = Design.of([Placement("sct", 0, 3), Placement("sct", 2, 5)])
every_kind = pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])


def batches_of(images, model, labels=(2, 0, 2, 2, 0, 4, 2), sizes=(3, 4)):
    """The same images and labels, in batches of these sizes."""
    pixels, labels = images(model, len(labels)), torch.tensor(labels)
    return list(zip(pixels.split(sizes), labels.split(sizes), strict=True))


def indices(model):
    state = tuned_state_dict(model)
    return {key.split(".")[2]: value.tolist() for key, value in state.items() if key.endswith("index")}


@pytest.fixture
def salient(by_hand):
    """The channels of each block by falling saliency, from formulas on the bare backbone."""

    def channels(model, batches):
        streams = {}

        class Recorder(by_hand):
            def between(self, i, x):
                streams[i] = x
                return x

        formulas = Recorder(model)
        pixels, labels = (torch.cat(parts) for parts in zip(*batches, strict=True))
        with torch.no_grad():
            formulas.forward(pixels)
        order = {}
        for i, x in streams.items():
            patches = x[:, model.num_prefix_tokens :]
            classes = [patches[labels == label] for label in sorted(set(labels.tolist()))]
            norms = [[members[..., c].norm().item() for c in range(x.shape[-1])] for members in classes]
            order[str(i)] = torch.tensor(norms).mean(0).sort(descending=True).indices.tolist()
        return order

    return channels


@every_kind
@pytest.mark.parametrize("prepared", [False, True])
def test_logits_and_gradients_are_those_of_the_formula(kind, prepared, make, shake, images, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def between(self, i, x):
            key = f"petl.sct.blocks.{i}.adapter"
            if f"{key}.weight" not in self.w:
                return x
            index = tuned_state_dict(self.model)[f"sct.blocks.{i}.adapter.index"].tolist()
            columns = list(x.unbind(-1))
            mixed = x[..., index] @ self.w[f"{key}.weight"].T + self.w[f"{key}.bias"]
            for place, channel in enumerate(index):
                columns[channel] = columns[channel] + mixed[..., place]
            return torch.stack(columns, dim=-1)

    model = apply(make(kind).double(), DESIGN)
    if prepared:
        prepare(model, batches_of(images, model), F.cross_entropy)
    shake(model)
    same_as_by_hand(model, Formulas(model))


@every_kind
def test_the_channels_with_the_largest_mean_norm_over_the_classes_are_chosen(kind, make, images, salient):
    model = make(kind)
    batches = batches_of(images, model)
    order = salient(model, batches)
    assert prepare(apply(model, DESIGN), batches, F.cross_entropy) is model
    assert indices(model) == {"0": order["0"][:3], "2": order["2"][:5]}
    assert indices(model)["2"] != list(range(5))


def test_classes_count_alike_however_many_images_they_have(make, images):
    model = make("gap")
    pixels = images(model, 6)
    for labels in ((0, 0, 0, 0, 0, 1), (0, 0, 0, 0, 0, 0)):
        apply(model, Design.of([Placement("sct", 0, 192)]))
        prepare(model, [(pixels, torch.tensor(labels))], F.cross_entropy)
        order = indices(model)["0"]
        assert sorted(order) == list(range(192))
        if labels[-1]:
            by_classes = order
        model = make("gap")
    assert order != by_classes


def test_the_choice_does_not_depend_on_the_batches_or_on_the_methods_own_start(make, images, shake):
    chosen = []
    for sizes in ((7,), (1, 2, 4)):
        model = apply(make("dinov2"), DESIGN)
        if chosen:
            shake(model, 3.0)
        prepare(model, batches_of(images, model, sizes=sizes), F.cross_entropy)
        chosen.append(indices(model))
    assert chosen[0] == chosen[1]


def test_prompts_do_not_count(make, images):
    model = apply(make("dinov2"), Design.of([Placement("sct", 2, 96)]))
    prepare(model, batches_of(images, model), F.cross_entropy)
    least = indices(model)["2"][-1]
    model = apply(make("dinov2"), Design.of([Placement("sct", 2, 96), Placement("vpt", 2, 4)]))
    with torch.no_grad():
        model.petl.get_submodule("vpt.blocks.2").tokens[:, least] = 1e6
    prepare(model, batches_of(images, model), F.cross_entropy)
    assert least not in indices(model)["2"][:48]


def test_preparing_leaves_values_hooks_and_mode_as_they_were(make, images):
    model = apply(make("gap"), DESIGN).train()
    before = {path: p.clone() for path, p in model.named_parameters()}
    hooks = [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]
    prepare(model, batches_of(images, model), F.cross_entropy)
    assert all(torch.equal(p, before[path]) for path, p in model.named_parameters())
    assert [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()] == hooks
    assert all(m.training for m in model.modules())


def test_an_error_while_preparing_leaves_values_and_hooks_as_they_were(make, images):
    model = apply(make("gap"), DESIGN)
    before = {path: p.clone() for path, p in model.named_parameters()}
    hooks = [len(m._forward_pre_hooks) for m in model.modules()]
    with pytest.raises(RuntimeError):
        prepare(model, [(torch.zeros(1, 4, 48, 48), torch.zeros(1))], F.cross_entropy)
    assert all(torch.equal(p, before[path]) for path, p in model.named_parameters())
    assert [len(m._forward_pre_hooks) for m in model.modules()] == hooks


def test_a_narrower_module_has_the_most_salient_channels(make, images):
    model = apply(make("gap"), DESIGN)
    prepare(model, batches_of(images, model), F.cross_entropy)
    mix = model.petl.get_submodule("sct.blocks.2.adapter")
    state = mix.sliced_state(2)
    assert state["index"].tolist() == indices(model)["2"][:2]
    assert torch.equal(state["weight"], mix.weight[:2, :2])


def test_the_chosen_channels_are_saved_with_the_adapter(make, images, tmp_path):
    model = apply(make("gap"), DESIGN)
    prepare(model, batches_of(images, model), F.cross_entropy)
    save_adapter(model, tmp_path / "a.safetensors")
    loaded = load_adapter(tmp_path / "a.safetensors", make("gap"))
    assert indices(loaded) == indices(model)
    with torch.no_grad():
        assert torch.equal(loaded(images(model)), model(images(model)))


def test_unprepared_it_takes_the_first_channels_with_small_normal_weights(make):
    model = apply(make("gap"), Design.of([Placement("sct", 1, 96)]))
    assert indices(model) == {"1": list(range(96))}
    state = tuned_state_dict(model)
    assert state["sct.blocks.1.adapter.weight"].std().item() == pytest.approx(0.02, rel=0.03)
    assert not state["sct.blocks.1.adapter.bias"].any()


def test_the_count_is_the_published_one():
    method, shape = get_method("sct"), shape_by_name("vit_base_patch16_224")
    assert count_params(Design.of(method.baseline(shape, 96)), shape) == 111_744


def test_more_channels_than_there_are_are_refused(make):
    with pytest.raises(DesignError, match=r"sct chooses at most the 192 channels of vit_tiny.*, got size=193"):
        apply(make("gap"), Design.of([Placement("sct", 0, 193)]))
