import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from petlas.datasets.split import deal, even_sample, stratified_split

labelled = st.lists(st.integers(0, 6), min_size=1, max_size=120).map(lambda labels: np.array(labels, dtype=np.int64))


@given(labelled, st.floats(0, 1), st.integers(0, 2**32 - 1))
def test_the_parts_are_disjoint_cover_all_and_hold_every_class(labels: np.ndarray, share: float, seed: int) -> None:
    count = round(share * len(labels))
    kept, held = stratified_split(labels, count, seed)
    assert sorted([*kept, *held]) == list(range(len(labels)))
    assert list(kept) == sorted(kept) and list(held) == sorted(held)
    sizes = np.bincount(labels)
    for label in np.flatnonzero(sizes):
        inside = int((labels[held] == label).sum())
        if sizes[label] == 1:
            assert inside == 0
        else:
            assert 1 <= inside <= sizes[label] - 1
    fewest, most = int((sizes >= 2).sum()), int((sizes - 1)[sizes > 0].sum())
    assert len(held) == min(max(count, fewest), most)


@given(labelled, st.floats(0.1, 0.9))
def test_every_class_gives_its_share_to_within_one_image(labels: np.ndarray, share: float) -> None:
    labels = np.concatenate([labels, np.repeat(np.arange(7), 20)])  # large enough that no class hits its bounds
    _, held = stratified_split(labels, count := round(share * len(labels)), seed=0)
    quota = count * np.bincount(labels) / len(labels)
    assert (np.abs(np.bincount(labels[held], minlength=7) - quota) < 1).all()


def test_a_seed_decides_who_is_held() -> None:
    labels = np.repeat(np.arange(4), 25)
    first, again, other = (stratified_split(labels, 20, seed)[1].tolist() for seed in (1, 1, 2))
    assert first == again != other


def test_the_choice_of_seed_0_never_changes() -> None:
    assert stratified_split(np.repeat([0, 1], 10), 4, seed=0)[1].tolist() == [2, 8, 13, 15]


@pytest.mark.parametrize("kind", ["single_label", "multi_label"])
def test_dealing_spreads_every_class_by_the_shares(kind: str) -> None:
    labels = np.repeat([0, 1, 2], [50, 30, 7])
    targets = labels if kind == "single_label" else np.eye(3, dtype=bool)[labels]
    part = deal(targets, (0.5, 0.3, 0.2), seed=0)
    for held, share in enumerate((0.5, 0.3, 0.2)):
        counts = np.bincount(labels[part == held], minlength=3)
        assert (np.abs(counts - share * np.array([50, 30, 7])) <= 1).all()
    assert (deal(targets, (0.5, 0.3, 0.2), seed=0) == part).all()
    assert (deal(targets, (0.5, 0.3, 0.2), seed=1) != part).any()


def test_images_of_no_class_are_dealt_as_well() -> None:
    part = deal(np.zeros((10, 3), dtype=bool), (0.5, 0.5), seed=0)
    assert np.bincount(part).tolist() == [5, 5]


@given(labelled, st.integers(2, 5), st.integers(0, 2**32 - 1))
def test_parts_of_equal_shares_are_of_equal_size_to_within_their_classes(
    labels: np.ndarray, parts: int, seed: int
) -> None:
    part = deal(labels, [1 / parts] * parts, seed)
    assert len(part) == len(labels) and part.min() >= 0 and part.max() < parts
    for label in np.unique(labels):
        counts = np.bincount(part[labels == label], minlength=parts)
        assert counts.max() - counts.min() <= 1


@given(labelled, st.integers(1, 130), st.integers(0, 2**32 - 1))
def test_a_sample_is_of_different_images_and_as_even_as_it_can_be(labels: np.ndarray, count: int, seed: int) -> None:
    chosen = even_sample(labels, count, seed)
    assert len(set(chosen.tolist())) == len(chosen) == min(count, len(labels))
    sizes, counts = np.bincount(labels), np.bincount(labels[chosen], minlength=labels.max() + 1)
    most = counts.max()
    assert ((counts >= most - 1) | (counts == sizes)).all()


def test_a_sample_of_several_labels_has_the_rare_ones() -> None:
    targets = np.zeros((100, 3), dtype=bool)
    targets[:, 0] = True
    targets[:5, 1] = True
    targets[5:8, 2] = True
    counts = targets[even_sample(targets, 12, seed=0)].sum(axis=0)
    assert counts[1] >= 3 and counts[2] == 3
