import logging
import os
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas.search.config import RunConfig, load_config
from petlas.search.run_folder import RunError, check_same, find_run, opened, write_json, write_text

Make = Callable[..., RunConfig]
log = logging.getLogger("petlas")


def test_a_file_is_written_with_its_folder_and_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    write_text(path, "löng text")
    write_text(path, "short")
    assert path.read_text(encoding="utf-8") == "short"
    write_json(path, {"a": [1]})
    assert path.read_text() == '{\n  "a": [\n    1\n  ]\n}\n'
    assert os.listdir(path.parent) == ["a.txt"]


def test_a_file_has_the_rights_that_any_new_file_has(tmp_path: Path) -> None:
    (tmp_path / "plain").touch()
    write_text(tmp_path / "ours", "x")
    plain, ours = (stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("plain", "ours"))
    assert ours == plain


@pytest.mark.parametrize("step", ["write_bytes", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "a.txt"
    write_text(path, "old")

    def half(self: Path, data: bytes) -> None:
        with self.open("wb") as file:
            file.write(data[: len(data) // 2])
        raise OSError("disk full")

    def fail(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(*((Path, "write_bytes", half) if step == "write_bytes" else (os, "replace", fail)))
        with pytest.raises((OSError, KeyboardInterrupt)):
            write_text(path, "a new and longer text")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_run_folder_holds_the_resolved_configuration_and_a_log(make: Make) -> None:
    config = make()
    with opened(config) as folder:
        log.warning("hello")
    log.warning("not here")
    assert folder == config.folder
    assert load_config(str(folder / "config.yaml")) == config
    text = (folder / "log.txt").read_text()
    assert "WARNING hello" in text
    assert "not here" not in text


def test_the_log_goes_on_and_the_folder_opens_again_after_an_error(make: Make) -> None:
    config = make()
    with pytest.raises(ZeroDivisionError), opened(config):
        log.warning("first")
        raise ZeroDivisionError
    with opened(config) as folder:
        log.warning("second")
    text = (folder / "log.txt").read_text()
    assert text.index("first") < text.index("second")


@pytest.fixture
def other_process(make: Make) -> Iterator[subprocess.Popen[str]]:
    """A process that works in the run folder until it is killed."""
    lock = make().folder / "run.lock"
    lock.parent.mkdir(parents=True)
    code = f"""if True:
        import filelock, sys
        with filelock.FileLock({str(lock)!r}):
            print("locked", flush=True)
            sys.stdin.read()
    """
    with subprocess.Popen([sys.executable, "-c", code], stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "locked\n"
        yield process
        process.kill()


def test_one_process_at_a_time_and_a_killed_one_does_not_count(
    make: Make, other_process: subprocess.Popen[str]
) -> None:
    config = make()
    with pytest.raises(RunError, match="one process at a time"), opened(config):
        pass
    assert not (config.folder / "config.yaml").exists()
    other_process.kill()
    other_process.wait()
    with opened(config):
        assert (config.folder / "config.yaml").exists()


def test_the_same_process_cannot_open_a_folder_twice(make: Make) -> None:
    config = make()
    with opened(config), pytest.raises(RunError, match="one process at a time"), opened(config):
        pass


def test_a_folder_that_cannot_be_made_is_told_with_what_to_do(make: Make, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="runs=FOLDER"), opened(make(runs=str(tmp_path / "file"))):
        pass


def test_settings_that_change_a_trial_are_refused_and_all_listed(make: Make) -> None:
    with opened(make()) as folder:
        before = (folder / "config.yaml").read_text()
    space = {"methods": {"lora": {"blocks": [0, 5], "sizes": [0, 1, 4]}}}
    changed = make(train={"lr": 0.5}, seed=3, space=space, budget={"params": 9})
    with pytest.raises(RunError) as caught:
        check_same(changed)
    for line in (
        "train.lr: 0.001 there, 0.5 now",
        "seed: 0 there, 3 now",
        "space.methods.lora.sizes: [0, 1, 2] there, [0, 1, 4] now",
        "budget.params: None there, 9 now",
        "name=NAME",
    ):
        assert line in str(caught.value)
    assert "epochs" not in str(caught.value)
    with pytest.raises(RunError), opened(changed):
        pass
    assert (folder / "config.yaml").read_text() == before


def test_a_space_file_that_changed_is_a_changed_setting(make: Make, tmp_path: Path) -> None:
    space = tmp_path / "space.yaml"
    space.write_text("methods: {lora: {blocks: all, sizes: [0, 1]}}")
    with opened(make(space=str(space))):
        pass
    space.write_text("methods: {lora: {blocks: all, sizes: [0, 2]}}")
    with pytest.raises(RunError, match=r"space\.methods\.lora\.sizes"):
        check_same(make(space=str(space)))


def test_settings_that_leave_trials_comparable_may_change_and_are_kept(make: Make) -> None:
    with opened(make()):
        pass
    now = make(
        search={"trials": 99, "seconds": 5}, protocol={"retrain_seeds": 7}, resources={"concurrent": 2, "runner": "ray"}
    )
    with opened(now) as folder:
        assert load_config(str(folder / "config.yaml")) == now


def test_a_run_is_found_by_its_folder_its_name_and_from_inside(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    with opened(config) as folder:
        pass
    assert find_run(str(folder)) == config
    assert find_run(f"{folder}/") == config
    monkeypatch.chdir(tmp_path)
    assert find_run("runs/run").folder == Path("runs/run")
    assert find_run("run").folder == Path("runs/run")
    monkeypatch.chdir(folder)
    assert find_run(".").folder == folder.resolve()


def test_a_run_that_was_moved_and_renamed_works_in_its_new_place(make: Make, tmp_path: Path) -> None:
    with opened(make()) as folder:
        pass
    moved = folder.rename(tmp_path / "moved")
    config = find_run(str(moved))
    assert config.folder == moved
    with opened(config) as now:
        assert now == moved


def test_an_unknown_run_is_told_with_those_that_there_are(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="none yet"):
        find_run("rnu")
    with opened(make()):
        pass
    with pytest.raises(RunError, match="there are runs/run"):
        find_run("rnu")


def test_a_run_of_another_version_is_told_as_such(make: Make) -> None:
    with opened(make()) as folder:
        pass
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"colour": "red"}))
    with pytest.raises(RunError, match="another version"):
        find_run(str(folder))


def test_a_run_goes_on_under_a_petlas_with_more_settings(make: Make) -> None:
    with opened(make()) as folder:
        data = yaml.safe_load((folder / "config.yaml").read_text())
    del data["sensitivity"], data["search"]["seed_designs"]
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with opened(make()):
        assert "seed_designs" in (folder / "config.yaml").read_text()
