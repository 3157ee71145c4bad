import math
from collections.abc import Hashable

import numpy as np
import pytest
import torch

from petlas.petl import MINI, Design, Placement, input_config, load_backbone
from petlas.petl.backbones.base import Family
from petlas.petl.supernet import Supernet
from petlas.search.objectives.single_label import SingleLabel
from petlas.search.stages.scoring import ActivationCache, Scorer, _prefixes
from petlas.search.training import ImageBatches, evaluate

SIZES = {"vpt": 4, "lora": 4, "adapter": 4}
CPU = torch.device("cpu")
OBJECTIVE = SingleLabel()


@pytest.fixture(scope="module")
def supernet() -> Supernet:
    torch.manual_seed(0)
    model = load_backbone(MINI, num_classes=5, img_size=32)
    largest = Design.of(Placement(name, block, size) for name, size in SIZES.items() for block in range(6))
    supernet = Supernet(model, largest)
    with torch.no_grad():
        for parameter in supernet.tuning.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return supernet


@pytest.fixture(scope="module")
def data(supernet: Supernet) -> ImageBatches:
    rng = np.random.default_rng(0)
    pixels, labels = rng.integers(256, size=(30, 3, 32, 32), dtype=np.uint8), rng.integers(5, size=30)
    return ImageBatches(pixels, labels, input_config(supernet.model), CPU, size=20)


def designs(count: int) -> list[Design]:
    """Designs with many first blocks in common."""
    rng = np.random.default_rng(0)
    sizes = {(name, block): int(rng.integers(5)) for name in SIZES for block in range(6)}
    drawn = []
    for _ in range(count):
        name, block = list(SIZES)[rng.integers(3)], int(rng.integers(6))
        sizes[name, block] = int(rng.integers(5))
        drawn.append(Design.of(Placement(n, b, s) for (n, b), s in sizes.items() if s))
    return drawn


@pytest.mark.parametrize("cache", [0, 200_000, 2**30])
def test_a_score_is_the_accuracy_of_the_whole_model_whatever_is_cached(
    supernet: Supernet, data: ImageBatches, cache: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(supernet, data, OBJECTIVE, cache)
    logits: list[torch.Tensor] = []
    inner = scorer._logits
    monkeypatch.setattr(scorer, "_logits", lambda *args: logits.append(inner(*args)) or logits[-1])
    for design in designs(12):
        logits.clear()
        score = scorer.score(design)
        model = supernet.activate(design).eval()
        assert score == evaluate(model, data, OBJECTIVE)
        with torch.inference_mode():
            for (images, _), found in zip(data, logits, strict=True):
                assert torch.equal(found, model(images))


def test_blocks_that_designs_share_run_once(supernet: Supernet, data: ImageBatches) -> None:
    runs: list[int] = []
    handles = [
        block.register_forward_hook(lambda *args, number=number: runs.append(number))
        for number, block in enumerate(supernet.model.blocks)
    ]
    first = Design.of([Placement("lora", 1, 2), Placement("vpt", 3, 1)])
    second = Design.of([Placement("lora", 1, 2), Placement("vpt", 3, 2)])
    scorer = Scorer(supernet, data, OBJECTIVE, 2**30)
    scorer.score(first)
    assert runs == [0, 1, 2, 3, 4, 5] * 2
    runs.clear()
    scorer.score(second)
    assert runs == [3, 4, 5] * 2
    runs.clear()
    scorer.score(first)
    assert runs == [5] * 2
    for handle in handles:
        handle.remove()


def test_a_backbone_that_does_not_run_in_parts_is_scored_whole(
    supernet: Supernet, data: ImageBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = [Scorer(supernet, data, OBJECTIVE, 0).score(design) for design in designs(3)]
    monkeypatch.setattr(Family, "gap", lambda family, model: "it is one piece")
    monkeypatch.setattr(Family, "enter", None)
    assert [Scorer(supernet, data, OBJECTIVE, 2**30).score(design) for design in designs(3)] == expected


def test_a_placement_over_the_whole_backbone_is_part_of_every_prefix(data: ImageBatches) -> None:
    torch.manual_seed(0)
    model = load_backbone(MINI, num_classes=5, img_size=32)
    whole = Placement("bitfit")
    supernet = Supernet(model, Design.of([whole, Placement("lora", 5, 2)]))
    with torch.no_grad():
        for parameter in supernet.tuning.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    scorer = Scorer(supernet, data, OBJECTIVE, 2**30)
    for design in (Design(), Design.of([whole]), Design.of([Placement("lora", 5, 2)]), Design()):
        assert scorer.score(design) == evaluate(supernet.activate(design), data, OBJECTIVE)


def test_tokens_that_the_next_block_replaces_are_no_part_of_what_enters_it(
    supernet: Supernet, data: ImageBatches
) -> None:
    """Whether block 1 has tokens decides what block 0 hands on, and it must not be handed to the other design."""
    alone, replaced = (Design.of(Placement("vpt", block, 2) for block in blocks) for blocks in ([0], [0, 1]))
    scorer = Scorer(supernet, data, OBJECTIVE, 2**30)
    (images, _), *_ = data
    with torch.inference_mode():
        for design in (alone, replaced, alone):
            scorer.score(design)
            keys: list[Hashable] = [(0, prefix) for prefix in _prefixes(design, 6)]
            assert torch.equal(scorer._logits(supernet.model, images, keys), supernet.model(images))


def test_an_output_that_is_not_finite_is_no_score_and_is_forgotten_first(
    supernet: Supernet, data: ImageBatches
) -> None:
    head = supernet.model.get_parameter("head.bias")
    before = head.detach().clone()
    scorer = Scorer(supernet, data, OBJECTIVE, 2**30)
    with torch.no_grad():
        head.fill_(torch.nan)
    assert np.isnan(scorer.score(Design()))
    with torch.no_grad():
        head.copy_(before)
    scorer.score(Design.of([Placement("vpt", 0, 1)]))
    first, *_, last = sorted(scorer._cache._ranks.values())
    assert first[0] == -math.inf < last[0] <= 1


def test_what_a_failed_scoring_left_is_forgotten_first(
    supernet: Supernet, data: ImageBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer(supernet, data, OBJECTIVE, 2**30)
    with monkeypatch.context() as patch:
        patch.setattr(supernet.model, "forward_head", lambda x: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            scorer.score(Design())
    assert {score for score, _ in scorer._cache._ranks.values()} == {-math.inf}


def test_the_cache_stays_within_its_bytes_and_drops_what_the_worst_designs_computed() -> None:
    cache = ActivationCache(100)
    tensors = {name: torch.zeros(10) for name in "abcd"}  # 40 bytes each
    cache.put("a", tensors["a"])
    cache.rank("a", 0.3)
    cache.put("b", tensors["b"])
    cache.rank("b", 0.5)
    cache.put("c", tensors["c"])  # not ranked yet: of the design that is being scored
    assert [cache.get(name) is tensors[name] for name in "abc"] == [False, True, True]
    cache.rank("c", 0.4)
    cache.rank("c", 0.6)  # another design has it too
    cache.put("d", tensors["d"])
    assert [cache.get(name) is tensors[name] for name in "bcd"] == [False, True, True]
    cache.rank("d", 0.6)  # as good as c, and newer
    cache.put("a", tensors["a"])
    assert [cache.get(name) is tensors[name] for name in "acd"] == [True, False, True]
    cache.put("large", torch.zeros(26))
    assert cache.get("large") is None
    assert cache.used == 80


def test_a_cache_that_is_too_small_for_one_design_keeps_its_first_blocks() -> None:
    cache = ActivationCache(80)
    for block in range(4):
        cache.put(block, torch.zeros(10))
    assert [cache.get(block) is not None for block in range(4)] == [True, True, False, False]


def test_the_activations_of_good_designs_outlive_those_of_bad_ones(
    supernet: Supernet, data: ImageBatches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for two designs; the better one comes back after two bad ones, and only its last block runs again."""
    runs: list[int] = []
    handles = [
        block.register_forward_hook(lambda *args, number=number: runs.append(number))
        for number, block in enumerate(supernet.model.blocks)
    ]
    tokens = 2 * 2 + supernet.model.num_prefix_tokens
    scorer = Scorer(supernet, data, OBJECTIVE, 2 * 6 * 30 * tokens * supernet.model.embed_dim * 4)
    drawn = [Design.of([Placement("lora", 0, size)]) for size in (1, 2, 3, 4)]
    ranked = sorted(drawn, key=lambda design: evaluate(supernet.activate(design), data, OBJECTIVE))
    assert evaluate(supernet.activate(ranked[-1]), data, OBJECTIVE) > evaluate(
        supernet.activate(ranked[1]), data, OBJECTIVE
    )
    for design in (ranked[-1], ranked[0], ranked[1]):
        scorer.score(design)
    runs.clear()
    scorer.score(ranked[-1])
    assert runs == [5] * 2
    for handle in handles:
        handle.remove()
