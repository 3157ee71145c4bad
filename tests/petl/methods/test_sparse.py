from __future__ import annotations

import copy
import itertools
import pickle

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode

from petlas.petl import Design, DesignError, Placement, apply, count_params, merge, prepare, tuned_state_dict
from petlas.petl.methods import sparse as module
from petlas.petl.methods.sparse import ChosenEntries

VECTORS = "norm1.weight,v.bias,fc2.bias"


def sparse(size=300, blocks=(0, 2), **options):
    return Design.of(Placement("sparse", block, size, options) for block in blocks)


def parts_of(model):
    tree = model.petl.get_submodule("sparse")
    return {path: part for path, part in tree.named_modules() if isinstance(part, ChosenEntries)}


def order_of(model, block):
    """The parameters of a block in the order in which their entries are numbered."""
    places = ["norm1", "attn.qkv", "attn.proj", "ls1", "norm2", "mlp.fc1", "mlp.fc2", "ls2"]
    own = {path for path, _ in model.named_parameters()}
    paths = [f"{block}.{place}.{leaf}" for place in places for leaf in ("weight", "bias", "gamma")]
    return [path for path in paths if path in own]


def effective(model):
    """The parameters with the updates that their entries have, and those of LoRA."""
    weights = dict(model.named_parameters())
    for block, part in parts_of(model).items():
        paths = order_of(model, block)
        sizes = [weights[path].numel() for path in paths]
        update = part.delta.new_zeros(sum(sizes)).index_add(0, part.index.long(), part.delta)
        for path, values in zip(paths, update.split(sizes), strict=True):
            weights[path] = weights[path] + values.view_as(weights[path])
    for path in [path for path in weights if path.startswith("petl.lora.") and path.endswith("up")]:
        block, name = path.removeprefix("petl.lora.").split(".")[1:3]
        weight = f"blocks.{block}.attn.qkv.weight"
        rows = list(weights[weight].chunk(3))
        rows["qkv".index(name)] = rows["qkv".index(name)] + weights[path] @ weights[path.replace("up", "down")]
        weights[weight] = torch.cat(rows)
    return weights


@pytest.fixture
def scattered():
    """Entries anywhere in the block, from every tensor."""

    def scatter(model, seed=0):
        for part in parts_of(model).values():
            total = sum(tensor.entries for tensor in part.tensors)
            numbers = torch.randperm(total, generator=torch.Generator().manual_seed(seed))
            single, start = [], 0
            for tensor in part.tensors:
                single.append(start)
                start += tensor.entries
            rest = numbers[~torch.isin(numbers, torch.tensor(single))]
            part.index.copy_(torch.cat((torch.tensor(single), rest))[: part.size])
        return model

    return scatter


@pytest.fixture
def batches(images):
    def of(model, number=2):
        return [(images(model, 4, seed), torch.tensor([0, 1, 2, 0])) for seed in range(number)]

    return of


@pytest.fixture
def gradients(images):
    """The gradient of each trained tensor for some loss."""

    def of(model):
        model.zero_grad()
        model(images(model, 3)).square().sum().backward()
        return {path: p.grad.clone() for path, p in model.named_parameters() if p.requires_grad}

    return of


@pytest.mark.parametrize(("chunk", "share"), [(256, 1.0), (4, 1.0), (256, 0.0)])
@pytest.mark.parametrize("kind", ["plain", "dinov2", "gap"])
def test_logits_and_gradients_are_those_of_the_formula(
    kind, chunk, share, make, shake, scattered, by_hand, same_as_by_hand, monkeypatch
):
    monkeypatch.setattr(module, "CHUNK", chunk)
    monkeypatch.setattr(module, "DENSE_SHARE", share)
    model = apply(make(kind).double(), sparse())
    shake(scattered(model))
    formulas = by_hand(model)
    formulas.w = effective(model)
    same_as_by_hand(model, formulas)


def test_beside_lora_each_adds_its_own(make, shake, scattered, by_hand, same_as_by_hand):
    lora = [Placement("lora", 0, 2, {"targets": "q"}), Placement("lora", 1, 2, {"targets": "v"})]
    model = apply(make("gap").double(), Design.of([*sparse(skip="q").placements, *lora]))
    shake(scattered(model))
    formulas = by_hand(model)
    formulas.w = effective(model)
    same_as_by_hand(model, formulas)


def test_no_product_gives_the_gradient_of_a_whole_weight(make, scattered):
    layer = scattered(apply(make("gap"), sparse(100, (0,)))).blocks[0].mlp.fc1
    x = torch.randn(2, 7, 192, requires_grad=True)
    with FlopCounterMode(display=False) as counter:
        layer(x).sum().backward()
    assert counter.get_total_flops() == 2 * (2 * 14 * 192 * 768)  # forward, and the gradient of the input


@pytest.mark.parametrize("optimiser", [torch.optim.AdamW, torch.optim.SGD])
def test_under_weight_decay_and_momentum_only_the_chosen_entries_change(optimiser, make, batches, decay):
    model = make("gap")
    prepare(apply(model, sparse()), batches(model), F.cross_entropy)
    chosen = {block: part.index.long() for block, part in parts_of(model).items()}
    decay(model, optimiser)
    merge(model)
    before, after = dict(make("gap").named_parameters()), dict(model.named_parameters())
    for block, numbers in chosen.items():
        paths = order_of(model, block)
        changed = torch.cat([(after[path] != before[path]).flatten() for path in paths])
        assert changed[numbers].float().mean() > 0.99  # an update may be too small for its weight
        changed[numbers] = False
        assert not changed.any()
    touched = {path for block in chosen for path in order_of(model, block)}
    assert all(torch.equal(after[p], before[p]) for p in before if p not in touched and not p.startswith("head."))


@pytest.mark.parametrize(("skip", "whole"), [("", ""), ("fc1, k.bias", ""), ("v,fc2", VECTORS)])
def test_the_most_sensitive_entries_are_chosen(skip, whole, make, batches):
    model = make("dinov2").double()
    data = batches(model)
    prepare(apply(model, sparse(600, skip=skip, whole=whole)), data, F.cross_entropy)
    fresh = make("dinov2").double()
    for block, part in parts_of(model).items():
        paths = order_of(fresh, block)
        scores = 0
        for pixels, labels in data:
            grads = torch.autograd.grad(F.cross_entropy(fresh(pixels), labels), [*map(fresh.get_parameter, paths)])
            scores = scores + torch.cat([grad.flatten() for grad in grads]).square()
        names = torch.cat([torch.full((t.entries,), i) for i, t in enumerate(part.tensors)])
        of = {tensor.name: names == i for i, tensor in enumerate(part.tensors)}
        left = torch.ones_like(names, dtype=torch.bool)
        for name in filter(None, skip.replace(" ", "").split(",")):
            left[of[name]] = False
        first = [of[name] for name in filter(None, whole.split(","))]
        vectors = torch.stack(first).any(0) if first else torch.zeros_like(left)
        expected = []
        for mask, count in ((vectors, int(vectors.sum())), (left & ~vectors, 600 - int(vectors.sum()))):
            ranked = scores.masked_fill(~mask, -1).argsort(descending=True)
            expected += ranked[:count].tolist()
        assert part.index.tolist() == expected
        assert set(expected[: int(vectors.sum())]) == set(vectors.nonzero().flatten().tolist())


def test_of_equal_entries_those_that_come_first_are_chosen(make):
    part = parts_of(apply(make("dinov2"), sparse(500, skip="norm1.weight,q,k,v", whole="v.bias")))["blocks.0"]
    part.choose({path: torch.ones_like(make("dinov2").get_parameter(path)) for path in part.paths})
    first = 2 * 96 + 3 * 96 * 96
    expected = [*range(first + 2 * 96, first + 3 * 96), *range(96, 192), *range(first, first + 2 * 96)]
    assert part.index[: len(expected)].tolist() == expected
    assert part.index[len(expected)] == first + 3 * 96


def test_unprepared_the_whole_vectors_and_the_first_entries_are_taken(make):
    part = parts_of(apply(make("gap"), sparse(390, skip="norm1.weight", whole="norm1.bias")))["blocks.2"]
    assert part.index.tolist() == [*range(192, 384), *range(384, 384 + 198)]
    assert part.index.dtype == torch.int32


def test_sixteen_batches_are_looked_at_and_no_more(make, batches):
    def endless(data):
        yield from itertools.islice(itertools.cycle(data), 16)
        raise AssertionError("a seventeenth batch was asked for")

    model = make("gap")
    seen = []
    prepare(
        apply(model, sparse(8, (0,))), (seen.append(1) or batch for batch in endless(batches(model))), F.cross_entropy
    )
    assert len(seen) == 16


def test_whole_vectors_may_be_all_that_is_trained(make, batches, images):
    model = make("gap")
    prepare(apply(model, sparse(2 * 192, (1,), whole="norm2.bias, q.bias")), batches(model), F.cross_entropy)
    model(images(model)).square().sum().backward()
    part = parts_of(model)["blocks.1"]
    assert set(part.shares()) == {"blocks.1.norm2.bias", "blocks.1.attn.qkv.bias"}
    assert part.delta.grad.all()


def test_only_numbers_and_updates_are_stored(make):
    model = make("gap", qkv_bias=False)
    design = sparse(50, (1,))
    assert count_params(design, model) == 50
    state = {k: v for k, v in tuned_state_dict(apply(model, design)).items() if not k.startswith("head.")}
    assert {key: value.shape for key, value in state.items()} == {
        "sparse.blocks.1.index": (50,),
        "sparse.blocks.1.delta": (50,),
    }


def test_a_narrower_one_keeps_the_most_sensitive(make, batches, images):
    models = []
    for size in (40, 15):
        model = make("gap").double()
        models.append(prepare(apply(model, sparse(size)), batches(model), F.cross_entropy))
    large, small = models
    for block, part in parts_of(large).items():
        assert torch.equal(part.sliced_state(15)["index"], parts_of(small)[block].index)
        torch.nn.init.normal_(part.delta)
        parts_of(small)[block].load_state_dict(part.sliced_state(15))
        part.narrow(15)
    torch.testing.assert_close(large(images(large)), small(images(large)))


@pytest.mark.parametrize("change", ["write", "load", "narrow", "copy", "pickle", "double"])
def test_the_places_are_found_anew_when_they_change(change, make, shake, scattered, images, gradients):
    model = scattered(apply(make("gap"), sparse(60)))
    shake(model)
    gradients(model)  # places are found here
    other = scattered(copy.deepcopy(model), seed=7)
    if change == "write":
        scattered(model, seed=7)
    elif change == "load":
        model.petl.load_state_dict(other.petl.state_dict())
    elif change == "narrow":
        for each in (model, other):
            scattered(each, seed=3)
            each.petl.connect(each, sparse(20))
    elif change in ("copy", "pickle"):
        model = copy.deepcopy(model) if change == "copy" else pickle.loads(pickle.dumps(model))
        scattered(model, seed=7)
    else:
        model, other = (scattered(each, seed=7).double() for each in (model, other))
    fresh = make("gap").to(next(model.parameters()).dtype)
    apply(fresh, sparse(60))
    fresh.petl.load_state_dict(other.petl.state_dict())
    if change == "narrow":
        fresh.petl.connect(fresh, sparse(20))
    assert torch.equal(model(images(model)), fresh(images(model)))
    ours, theirs = gradients(model), gradients(fresh)
    assert all(torch.equal(ours[path], theirs[path]) for path in theirs)


def test_what_is_found_in_inference_mode_serves_training(make, scattered, images):
    model = scattered(apply(make("gap"), sparse(60)))
    with torch.inference_mode():
        model(images(model))
    model(images(model)).square().sum().backward()
    assert all(part.delta.grad.any() for part in parts_of(model).values())


def test_in_bfloat16_the_gradients_are_about_those_of_single_precision(make, shake, scattered, images):
    model = scattered(apply(make("gap"), sparse(2000, (1,))))
    shake(model)
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            logits = model(images(model, 4))
        logits.float().square().sum().backward()
        found.append(parts_of(model)["blocks.1"].delta.grad.clone())
    assert found[1].dtype == torch.float32
    assert F.cosine_similarity(*found, dim=0) > 0.99


def test_compiled_it_gives_the_same_output_and_gradients(make, shake, scattered):
    model = scattered(apply(make("gap"), sparse(50, (0,))))
    shake(model)
    layer, part = model.blocks[0].mlp.fc2, parts_of(model)["blocks.0"]
    x = torch.randn(2, 9, 768, requires_grad=True)
    torch._dynamo.reset()
    found = []
    for call in (layer, torch.compile(layer, backend="eager")):
        output = call(x)
        found.append([output, *torch.autograd.grad(output.square().sum(), [x, part.delta])])
    torch.testing.assert_close(*found)


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"skip": "q,x"}, "option skip of sparse must name some of norm1.weight, .*got skip='q,x'"),
        ({"skip": "q,q"}, "option skip of sparse must name .*each once and with commas between, got skip='q,q'"),
        ({"whole": "q"}, "option whole of sparse must name some of norm1.weight, norm1.bias, q.bias, .*got whole='q'"),
        ({"whole": "ls1.gamma"}, "option whole of sparse must name .*got whole='ls1.gamma'"),
        ({"whole": "q.bias", "skip": "k,q.bias"}, "skip and whole of sparse must name different.*got q.bias in both"),
        ({"whole": "fc1.bias"}, "block 0 at least the 768 entries of its whole vectors and at most .*got size=300"),
    ],
)
def test_names_that_do_not_fit_are_refused(options, rule, make):
    with pytest.raises(DesignError, match=rule):
        apply(make("gap"), sparse(**options))


def test_more_entries_than_there_are_are_refused(make):
    model, skip = make("gap"), "q,k,v,proj,fc1,fc2,norm1.weight"
    entries = (3 + 1 + 3 + 4 + 1) * 192
    with pytest.raises(DesignError, match=f"at most the {entries} that are not skipped, got size={entries + 1}"):
        apply(model, sparse(entries + 1, skip=skip))
    apply(model, sparse(entries, skip=skip))


def test_it_replaces_what_gps_and_dora_replace(make):
    for other in (Placement("dora", 0, 2), Placement("gps", None, 1)):
        with pytest.raises(DesignError, match=r"one method may replace the frozen linear weights.*keep one"):
            apply(make("gap"), Design.of([*sparse().placements, other]))


def test_norms_and_linear_layers_without_a_bias_work(make, scattered, shake, images):
    model = make("gap", qkv_bias=False)
    model.blocks[0].norm1.register_parameter("bias", None)
    scattered(apply(model, sparse(500)))
    assert {"q.bias", "norm1.bias"}.isdisjoint(tensor.name for tensor in parts_of(model)["blocks.0"].tensors)
    shake(model)
    with torch.no_grad():
        expected = model(images(model))
        torch.testing.assert_close(merge(model)(images(model)), expected, rtol=1e-4, atol=1e-4)


def test_the_matrix_of_places_has_its_entries_where_they_are():
    pattern = module._pattern(torch.tensor([1, 4, 5, 11]), 4, 3, torch.float32)
    assert pattern.to_dense().shape == (4, 3)
    assert pattern.crow_indices().tolist() == [0, 1, 3, 3, 4]
    assert pattern.col_indices().tolist() == [1, 1, 2, 2]
    assert pattern.dtype == torch.float32
    assert module._pattern(torch.tensor([0]), 2, 2, torch.bfloat16).dtype == torch.float32
    assert module._pattern(torch.tensor([0]), 2, 2, torch.float64).dtype == torch.float64
