from petlas.datasets.names import ALIASES, GROUPS, VTAB, class_names


def test_the_19_data_sets_have_940_classes() -> None:
    assert len(VTAB) == 19
    assert sum(VTAB.values()) == 940


def test_each_of_them_is_in_one_group() -> None:
    assert [name for names in GROUPS.values() for name in names] == [*VTAB]
    assert {group: (len(names), names[0]) for group, names in GROUPS.items()} == {
        "natural": (7, "cifar"),
        "specialised": (4, "patch_camelyon"),
        "structured": (8, "clevr_count"),
    }


def test_every_known_data_set_has_its_number_of_different_names() -> None:
    for dataset, count in VTAB.items():
        names = class_names(dataset)
        assert names is not None
        assert len(set(names)) == len(names) == count, dataset


def test_other_names_mean_the_same_data_set() -> None:
    for alias, dataset in ALIASES.items():
        assert class_names(alias) == class_names(dataset) is not None
    assert class_names("emoji_group") is None
