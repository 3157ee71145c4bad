import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from petlas.petl.design import Design
from petlas.search import retrain
from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.identity import check_identity, claim, identity_of
from petlas.search.run_folder import RunError
from petlas.search.study import StudyRecord
from petlas.search.workbench import Workbench

Make = Callable[..., RunConfig]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for number, name in enumerate(("ant", "bee")):
        for index in range(10):
            path = tmp_path / "data" / name / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = np.random.default_rng([number, index]).integers(0, 256, (16, 16, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(path)
    return tmp_path / "data"


def test_what_a_study_is_of_names_its_settings_data_weights_and_version(make: Make, data: Path) -> None:
    first = identity_of(Workbench(make(task={"name": str(data)})))
    assert first == identity_of(Workbench(make(task={"name": str(data)})))
    Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(data / "ant" / "0.png")
    changed = identity_of(Workbench(make(task={"name": str(data)}, train={"lr": 0.5})))
    assert {key for key in first if first[key] != changed[key]} == {"contents of train and val", "train.lr"}
    assert {"petlas", "weights of the backbone"} <= first.keys()


def test_a_study_without_trials_binds_nobody(make: Make, tmp_path: Path, data: Path) -> None:
    record = StudyRecord.create(tmp_path)
    claim(record, Workbench(make()))
    claim(record, Workbench(make(train={"lr": 0.5})))
    assert record.about["identity"]["train.lr"] == 0.5
    check_identity(record, Workbench(make(train={"lr": 0.5})))
    with pytest.raises(RunError, match=r"begun .*\n.*train\.lr: 0\.5 there, 0\.001 now"):
        check_identity(record, Workbench(make()))


def test_what_was_selected_on_other_data_is_not_retrained(make: Make, data: Path) -> None:
    """Test images of now may be among those that it was selected on."""
    config = make(task={"name": str(data)}, search={"trials": 1})
    search(config)
    shutil.copy(data / "ant" / "1.png", data / "spare.png")
    (data / "ant" / "1.png").unlink()
    with pytest.raises(RunError, match="contents of train and val"):
        retrain(config)
    shutil.move(data / "spare.png", data / "ant" / "1.png")
    assert retrain(config, seeds=1).outcome.seeds == [0]


def test_a_design_of_a_file_is_retrained_without_a_study(make: Make, data: Path, tmp_path: Path) -> None:
    (tmp_path / "d.yaml").write_text("placements: []")
    result = retrain(make(task={"name": str(data)}), design=tmp_path / "d.yaml", seeds=1)
    assert Design.from_dict(result.outcome.design) == Design()
