from __future__ import annotations

import re
from pathlib import Path

import pytest

import petlas.spaces
from petlas.spaces import Choices, Range, SpaceError, load_space

CONFIGS = Path(petlas.spaces.__file__).resolve().parent.parent / "configs" / "spaces"


@pytest.mark.parametrize(
    ("name", "depth"), [("noah", 12), ("noah_depth", 12), ("noah_lr", 12), ("demo", 6), ("swin", 12), ("convnext", 18)]
)
def test_the_spaces_shipped_have_the_number_of_designs_that_they_state(name: str, depth: int):
    path = CONFIGS / f"{name}.yaml"
    stated = re.search(rf"^# ([\d,]+) designs at {depth} blocks.*", path.read_text(encoding="utf-8"), re.MULTILINE)
    assert stated is not None
    stages = [(int(blocks), int(width)) for blocks, width in re.findall(r"(\d+) x (\d+)", stated[0])]
    assert load_space(path, depth, stages=stages).count() == int(stated[1].replace(",", ""))


def test_a_file_and_its_mapping_give_the_same_space(tmp_path: Path):
    path = tmp_path / "space.yaml"
    path.write_text("methods:\n  lora: {blocks: 0-1, sizes: [0, 2], options: {scale: 0.5}}\n", encoding="utf-8")
    data = {"methods": {"lora": {"blocks": [1, 0], "sizes": [0, 2], "options": {"scale": 0.5}}}}
    spaces = [load_space(source, 2, backbone="vit") for source in (path, str(path), data)]
    assert spaces[0] == spaces[1] == spaces[2]


def test_settings_are_read_whichever_way_their_numbers_are_written(tmp_path: Path):
    path = tmp_path / "space.yaml"
    methods = "methods: {lora: {blocks: all, sizes: [0, 2]}}\n"
    settings = "settings: {lr: {low: 3e-4, high: 0.02, log: true}, weight_decay: [1e-4, 1.0e-2]}\n"
    path.write_text(methods + settings, encoding="utf-8")
    space = load_space(path, 2, known_settings=("lr", "weight_decay"))
    assert space.settings == (Range("lr", 3e-4, 2e-2, log=True), Choices("weight_decay", (1e-4, 1e-2)))
    with pytest.raises(SpaceError, match=r"settings\.lr: unknown setting; known are weight_decay"):
        load_space(path, 2, known_settings=("weight_decay",))


def test_faults_of_a_file_come_with_its_path(tmp_path: Path):
    with pytest.raises(SpaceError, match=r"cannot read a space from .*none\.yaml"):
        load_space(tmp_path / "none.yaml", 2)
    path = tmp_path / "space.yaml"
    path.write_text("methods: {lora: [", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"cannot read a space from .*space\.yaml"):
        load_space(path, 2)
    path.write_text("methods: {}", encoding="utf-8")
    with pytest.raises(SpaceError, match=r"space\.yaml: the space breaks the rules:\n  methods: must map"):
        load_space(path, 2)
