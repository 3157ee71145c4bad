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
    count_tuned,
    get_method,
    merge,
    prepare,
    shape_of,
    tuned_state_dict,
)
from petlas.petl.methods import gps as module
from petlas.petl.methods.gps import Entries

WHOLE = Design.of([Placement("gps", None, 2)])


@pytest.fixture
def batches(images):
    """Two batches of images of three classes."""

    def of(model):
        return [(images(model, 6, seed), torch.tensor([0, 1, 2, 0, 1, 2])) for seed in (1, 2)]

    return of


def entries_of(model):
    return {path: part for path, part in model.petl.get_submodule("gps").named_modules() if isinstance(part, Entries)}


def scattered(w, path):
    """The update of a layer's weight, as rows: each entry times the unit vector of its place."""
    delta, index = w[f"petl.gps.{path}.delta"], w[f"petl.gps.{path}.index"]
    return (delta[..., None] * F.one_hot(index.long(), w[f"{path}.weight"][0].numel())).sum(1)


@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(kind, make, shake, batches, by_hand, same_as_by_hand):
    class Formulas(by_hand):
        def after(self, path, z, x):
            if f"petl.gps.{path}.delta" not in self.w:
                return z
            return z + x @ scattered(self.w, path).T + self.w[f"petl.gps.{path}.bias"]

    model = make(kind).double()
    prepare(apply(model, WHOLE), batches(model), F.cross_entropy)
    shake(model)
    formulas = Formulas(model)
    formulas.w |= dict(model.named_buffers())
    same_as_by_hand(model, formulas)


@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.SGD])
def test_under_weight_decay_and_momentum_only_the_chosen_entries_and_the_biases_change(optimiser, make, batches, decay):
    model = make("gap")
    prepare(apply(model, WHOLE), batches(model), F.cross_entropy)
    chosen = {path: part.index.long() for path, part in entries_of(model).items()}
    decay(model, optimiser)
    merge(model)
    for path, before in make("gap").named_parameters():
        after = model.get_parameter(path)
        layer, _, name = path.rpartition(".")
        if layer in chosen and name == "weight":
            changed = (after != before).flatten(1)
            mask = torch.zeros_like(changed).scatter(1, chosen[layer], True)
            assert not (changed & ~mask).any(), path
            assert changed.any(), path
        elif layer in chosen:
            assert not torch.equal(after, before), path
        elif not path.startswith("head."):
            assert torch.equal(after, before), path


def test_the_entries_chosen_are_those_with_the_largest_summed_gradient(make, batches):
    model = make("gap")
    data = batches(model)
    torch.manual_seed(3)
    prepare(apply(model, WHOLE), data, F.cross_entropy)
    fresh = make("gap")
    torch.manual_seed(3)
    for pixels, labels in data:
        views = torch.cat([module._view(pixels), module._view(pixels)])
        features = F.normalize(fresh.forward_head(fresh.forward_features(views), pre_logits=True), dim=1)
        classes, total = labels.repeat(2).tolist(), 0.0
        for i in range(12):  # the loss of Khosla et al., written out
            others = [j for j in range(12) if j != i]
            scores = torch.stack([features[i] @ features[j] / 0.07 for j in others])
            alike = [n for n, j in enumerate(others) if classes[j] == classes[i]]
            total = total - (scores[alike] - scores.logsumexp(0)).mean()
        (total / 12).backward()
        torch.testing.assert_close(module._contrast(fresh, views, labels.repeat(2)), total / 12, rtol=1e-5, atol=1e-5)
    for path, part in entries_of(model).items():
        gradient = fresh.get_parameter(f"{path}.weight").grad.flatten(1).abs()
        best = gradient.sort(dim=1, descending=True).values[:, :2]
        torch.testing.assert_close(gradient.gather(1, part.index.long()), best, rtol=1e-3, atol=1e-6)
        assert (part.index[:, 0] != part.index[:, 1]).all()
        assert part.index.unique().numel() > 2


def test_views_lie_within_the_image_and_differ():
    torch.manual_seed(0)
    ramp = torch.linspace(-1, 1, 32).expand(64, 3, 32, 32)
    views = module._view(ramp)
    assert views.shape == ramp.shape
    assert views.abs().max() <= 1 and not torch.equal(views, module._view(ramp))
    widths = views[:, 0, 0, -1] - views[:, 0, 0, 0]  # of the crop, negative where it is mirrored
    assert widths.abs().min() / 2 > 0.2**0.5 - 0.05 and widths.abs().max() / 2 > 0.9
    assert 15 < (widths < 0).sum() < 49


def test_without_preparation_the_first_inputs_are_taken(make):
    model = apply(make("gap"), WHOLE)
    for part in entries_of(model).values():
        assert torch.equal(part.index, torch.tensor([0, 1], dtype=torch.int32).expand_as(part.index))


def test_only_indices_and_values_are_stored_and_layers_without_a_bias_have_none(make):
    model = make("gap", qkv_bias=False)
    design = Design.of([Placement("gps", 1, 3)])
    predicted = count_params(design, model)
    apply(model, design)
    state = {key: value for key, value in tuned_state_dict(model).items() if not key.startswith("head.")}
    assert {key.rpartition(".")[2] for key in state} == {"index", "delta", "bias"}
    assert state["gps.blocks.1.attn.qkv.delta"].shape == state["gps.blocks.1.attn.qkv.index"].shape == (576, 3)
    assert "gps.blocks.1.attn.qkv.bias" not in state
    assert predicted == count_tuned(model) == 9 * 192 * 3 + 6 * 192


def test_a_smaller_one_keeps_the_best_entries(make, batches):
    model = make("gap")
    prepare(apply(model, WHOLE), batches(model), F.cross_entropy)
    tree = model.petl.get_submodule("gps")
    state = get_method("gps").sliced(tree, [get_method("gps").placed(Placement("gps", None, 1))])
    for path, part in entries_of(model).items():
        assert torch.equal(state[f"{path}.index"], part.index[:, :1])


def test_parameters_that_another_method_trains_stay_trained(make, batches):
    model = make("gap")
    design = Design.of([*WHOLE.placements, Placement("partial", None, 1)])
    prepare(apply(model, design), batches(model), F.cross_entropy)
    assert model.get_parameter("blocks.2.attn.qkv.weight").requires_grad
    assert not model.get_parameter("blocks.1.attn.qkv.weight").requires_grad


def test_more_connections_than_an_output_has_are_refused(make):
    model = make("gap")
    shape = shape_of(model)
    get_method("gps").check(shape, Placement("gps", None, 192))
    with pytest.raises(
        DesignError, match=r"at most the 192 connections of an output of blocks.0.attn.qkv, got size=193"
    ):
        get_method("gps").check(shape, Placement("gps", None, 193))
    assert 3 * 16 * 16 > 193


def test_beside_a_method_that_reads_the_frozen_weights_it_is_refused(make):
    model = make("gap")
    design = Design.of([*WHOLE.placements, Placement("dora", 0, 2)])
    with pytest.raises(DesignError, match="replace the frozen linear weights, got gps and dora; keep one"):
        apply(model, design)
