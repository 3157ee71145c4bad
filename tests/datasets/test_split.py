import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from petlas.datasets.split import stratified_split

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
