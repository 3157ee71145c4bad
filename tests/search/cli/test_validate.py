from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Write = Callable[..., Path]
Petlas = Callable[..., Any]


def test_validate_accepts_a_sound_configuration(petlas: Petlas, write: Write) -> None:
    result = petlas("validate", write(), "demo", "train.epochs=12")
    assert (result.status, result.out.count(": ok")) == (0, 2)
    result = petlas("validate", write(), "--format", "json")
    assert (result.status, result.json) == (0, [])


def test_validate_lists_all_faults_of_all_files(petlas: Petlas, write: Write) -> None:
    a = write("a.yaml", train={"epoch": 3, "warmup_epochs": 5})
    b = write("b.yaml", seed=-1)
    result = petlas("validate", a, b, "trian.lr=1")
    assert result.status == 2
    for text in ("a.yaml: train.epoch = 3", "did you mean epochs?", "train.warmup_epochs = 5", "b.yaml: seed = -1"):
        assert text in result.err
    assert result.err.count("did you mean train?") == 2
    result = petlas("validate", a, b, "--format", "json")
    assert result.status == 2
    assert {(Path(f["config"]).name, f["path"]) for f in result.json} == {
        ("a.yaml", "train.epoch"),
        ("a.yaml", "train.warmup_epochs"),
        ("b.yaml", "seed"),
    }
    assert all(set(fault) == {"config", "path", "value", "rule"} for fault in result.json)


@pytest.mark.parametrize("name", ["plain.yaml", "a=b.yaml"])
def test_a_path_with_an_equals_sign_is_a_configuration_where_it_exists(petlas: Petlas, write: Write, name: str) -> None:
    assert petlas("validate", write(name), "seed=3").status == 0


def test_paths_that_lead_nowhere_are_faults(petlas: Petlas, write: Write) -> None:
    result = petlas("validate", write(), "task=/nope", "backbone.checkpoint=gone.pth")
    assert result.status == 2
    assert "task.name = '/nope': must be a folder of images that exists" in result.err
    assert "backbone.checkpoint = 'gone.pth'" in result.err
    assert "ok" not in result.out


def test_what_petlas_ships_is_sound(petlas: Petlas) -> None:
    assert petlas("validate", "demo", "folder", "noah", "vtab").status == 0
