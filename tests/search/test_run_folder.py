import json
import logging
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import optuna
import pytest
import yaml

import petlas
from petlas.errors import UserError
from petlas.search.config import RunConfig, load_config
from petlas.search.run_folder import (
    DATABASE,
    JOURNAL,
    RunError,
    check_distinct,
    check_same,
    find_run,
    has_trials,
    opened,
    refuse_changes,
    settings_of,
)
from petlas.search.study import StudyRecord

Make = Callable[..., RunConfig]
log = logging.getLogger("petlas")


def begin_trial(config: RunConfig) -> None:
    """Let the run's study have one more trial."""
    record = StudyRecord.create(config.folder, config.storage)
    optuna.load_study(storage=record.storage, study_name=record.name).ask()


def searched(config: RunConfig) -> Path:
    """The folder of a run whose search began."""
    with opened(config) as run:
        begin_trial(config)
    return run.folder


def test_a_run_folder_holds_the_resolved_configuration_and_a_log(make: Make) -> None:
    config = make()
    with opened(config) as run:
        folder = run.folder
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
    with opened(config) as run:
        folder = run.folder
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
    folder = searched(make())
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
    searched(make(space=str(space)))
    space.write_text("methods: {lora: {blocks: all, sizes: [0, 2]}}")
    with pytest.raises(RunError, match=r"space\.methods\.lora\.sizes"):
        check_same(make(space=str(space)))


def test_settings_that_leave_trials_comparable_may_change_and_are_kept(make: Make) -> None:
    searched(make())
    now = make(
        search={"trials": 99, "seconds": 5, "retry_failed": True},
        protocol={"retrain_seeds": 7, "folds": 3},
        resources={"concurrent": 2, "runner": "ray"},
    )
    with opened(now) as run:
        folder = run.folder
        assert load_config(str(folder / "config.yaml")) == now


def test_a_run_is_found_by_its_folder_its_name_and_from_inside(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make()
    with opened(config) as run:
        folder = run.folder
    assert find_run(str(folder)) == config
    assert find_run(f"{folder}/") == config
    monkeypatch.chdir(tmp_path)
    assert find_run("runs/run").folder == Path("runs/run")
    assert find_run("run").folder == Path("runs/run")
    monkeypatch.chdir(folder)
    assert find_run(".").folder == folder.resolve()


def test_a_run_that_was_moved_and_renamed_works_in_its_new_place(make: Make, tmp_path: Path) -> None:
    with opened(make()) as run:
        folder = run.folder
    moved = folder.rename(tmp_path / "moved")
    config = find_run(str(moved))
    assert config.folder == moved
    with opened(config) as now:
        assert now.folder == moved


def test_relative_paths_of_a_run_lead_from_where_it_was_started_and_else_from_here(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in ("begun", "other", "begun/images", "other/images"):
        (tmp_path / folder).mkdir()
    monkeypatch.chdir(tmp_path / "begun")
    folder = searched(make(task="images", runs="../runs")).resolve()
    kept = (folder / "config.yaml").read_text()
    assert find_run(str(folder)).locate("images") == "images"
    monkeypatch.chdir(tmp_path / "other")
    config = find_run("../runs/run")
    assert config.locate("images") == str(tmp_path / "begun/images")
    assert config.locate("/elsewhere") == "/elsewhere"
    with opened(config):  # it is the same run, and stays so
        assert (folder / "config.yaml").read_text() == kept
    folder.rename(folder.with_name("again"))
    with opened(find_run("../runs/again")):
        assert "name: again\n" in Path("../runs/again/config.yaml").read_text()
    (tmp_path / "begun").rename(tmp_path / "moved")
    assert config.locate("images") == "images"
    assert config.locate("gone") == str(tmp_path / "begun/gone")  # that is where it was


def test_a_run_of_a_petlas_that_did_not_keep_where_it_was_started_is_taken_from_here(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = searched(make())
    kept = yaml.safe_load((folder / "config.yaml").read_text())
    del kept["paths_from"]
    (folder / "config.yaml").write_text(yaml.safe_dump(kept))
    monkeypatch.chdir(tmp_path)
    assert find_run(str(folder)).paths_from == str(tmp_path)
    with opened(make()):
        pass


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
    with opened(make()) as run:
        folder = run.folder
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"colour": "red"}))
    with pytest.raises(RunError, match="another version"):
        find_run(str(folder))


def test_a_run_goes_on_under_a_petlas_with_more_settings(make: Make) -> None:
    folder = searched(make())
    data = yaml.safe_load((folder / "config.yaml").read_text())
    del data["sensitivity"], data["search"]["seed_designs"]
    (folder / "config.yaml").write_text(yaml.safe_dump(data))
    with opened(make()):
        assert "seed_designs" in (folder / "config.yaml").read_text()


def test_whoever_works_in_a_folder_is_told_with_host_process_and_time(make: Make) -> None:
    config = make()
    with opened(config), pytest.raises(RunError) as caught, opened(config):
        pass
    assert f"process {os.getpid()} on {socket.gethostname()}, since 20" in str(caught.value)
    assert not (config.folder / "run.holder").exists()


def test_a_holder_that_cannot_be_read_is_another_one(make: Make) -> None:
    config = make()
    with opened(config) as run:
        folder = run.folder
        (folder / "run.holder").write_text("{")
        with pytest.raises(RunError, match="another one does"), opened(config):
            pass


def test_the_log_says_versions_command_and_seeds(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/usr/bin/petlas", "search", "a b", "storage=postgresql://me:secret@host/db"])
    with opened(make(seed=4, task={"name": "digits", "split_seed": 7}, protocol={"retrain_seeds": 2})) as run:
        folder = run.folder
    text = (folder / "log.txt").read_text()
    for fact in (
        f"petlas {petlas.__version__}, python 3.",
        f"optuna {optuna.__version__}",
        "command: petlas search 'a b' storage=postgresql://me:***@host/db",
        "seed 4, split seed 7, for retraining 4, 5",
    ):
        assert fact in text
    assert "secret" not in text


def test_the_log_takes_names_that_are_no_text(make: Make) -> None:
    with opened(make()) as run:
        folder = run.folder
        log.warning("image \udcff.png")
    assert "image \\udcff.png" in (folder / "log.txt").read_text()


def test_a_start_that_failed_does_not_block_the_corrected_command(make: Make) -> None:
    config = make()
    with pytest.raises(RunError), opened(config) as run:
        folder = run.folder
        StudyRecord.create(folder, None, ["accuracy", "params"])
        (folder / DATABASE).touch()
        raise RunError("too few CPUs")
    corrected = make(train={"lr": 0.5})
    assert not has_trials(config)
    check_same(corrected)
    with opened(corrected) as run:
        folder = run.folder
        assert not list(folder.glob("study.*"))
        assert load_config(str(folder / "config.yaml")) == corrected


def test_a_supernet_is_not_overwritten_by_other_settings(make: Make) -> None:
    with opened(make()) as run:
        folder = run.folder
        StudyRecord.create(folder).spend(60)
        (folder / "supernet.safetensors").touch()
    with opened(make()):
        assert StudyRecord.read(folder).elapsed == 60
    with pytest.raises(RunError, match=r"train\.lr"):
        check_same(make(train={"lr": 0.5}))


def test_a_folder_that_was_only_scored_may_be_searched_with_other_settings(make: Make) -> None:
    with opened(make()) as run:
        folder = run.folder
        (folder / "sensitivity.json").touch()
    check_same(make(train={"lr": 0.5}))


def test_trials_in_a_database_of_several_runs_count(make: Make, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'all.db'}"
    config, other = make(storage=url), make(storage=url, name="other")
    with opened(config), opened(other):
        begin_trial(other)
    assert (has_trials(config), has_trials(other)) == (False, True)
    check_same(make(storage=url, train={"lr": 0.5}))
    with pytest.raises(RunError, match=r"train\.lr"):
        check_same(make(storage=url, name="other", train={"lr": 0.5}))


def test_a_run_of_another_version_of_petlas_does_not_go_on(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make()
    folder = searched(config)
    monkeypatch.setattr(petlas, "__version__", "99.0")
    with pytest.raises(RunError, match=r"version: '.*' there, '99.0' now"):
        check_same(config)
    assert find_run(str(folder)) == config


@pytest.mark.parametrize("what", ["no version", "no journal"])
def test_a_run_of_an_older_petlas_is_refused_with_a_new_name_offered(make: Make, what: str) -> None:
    config = make()
    folder = searched(config)
    if what == "no version":
        kept = yaml.safe_load((folder / "config.yaml").read_text())
        (folder / "config.yaml").write_text(yaml.safe_dump({k: v for k, v in kept.items() if k != "version"}))
    else:
        (folder / JOURNAL).rename(folder / DATABASE)
    with pytest.raises(RunError, match=r"older petlas.*name=NAME"):
        check_same(config)
    if what == "no journal":
        with pytest.raises(RunError, match="older petlas"):
            find_run(str(folder))


def test_what_determines_numbers_can_be_kept_and_compared(make: Make) -> None:
    before = settings_of(make()) | {"data": "ab12"}
    assert before["train.lr"] == 1e-3
    assert not any(key.startswith(("resources", "protocol", "name", "runs", "search.trials")) for key in before)
    refuse_changes(before, json.loads(json.dumps(before)), "there")
    now = settings_of(make(train={"lr": 0.5})) | {"data": "cd34"}
    with pytest.raises(RunError) as caught:
        refuse_changes(before, now, "the study 'x'")
    for line in (
        "the study 'x' holds",
        "data: 'ab12' there, 'cd34' now",
        "train.lr: 0.001 there, 0.5 now",
        "name=NAME",
    ):
        assert line in str(caught.value)


def test_a_setting_that_only_begins_like_one_that_may_change_is_compared(make: Make) -> None:
    assert "search.trials" not in settings_of({"search": {"trials": 1, "trials_of_old": 2}})
    assert "search.trials_of_old" in settings_of({"search": {"trials": 1, "trials_of_old": 2}})


def test_one_run_is_not_worked_on_twice_at_once(make: Make, tmp_path: Path) -> None:
    a, b = make(name="a"), make(name="b")
    check_distinct([a, b])
    with pytest.raises(RunError, match="'a' is given twice"):
        check_distinct([a, b, a])
    with pytest.raises(RunError, match="given twice"):
        check_distinct([a, make(name="a", runs=f"{tmp_path}/x/../runs")])
    url = "sqlite:///all.db"
    with pytest.raises(RunError, match="given twice"):
        check_distinct([make(name="a", storage=url), make(name="a", storage=url, runs=str(tmp_path / "other"))])


@pytest.mark.parametrize("run", ["x" * 5000, "a\0b", "[red]no"])
def test_a_name_that_no_run_can_have_is_an_unknown_run(
    run: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match="RUN must be a run folder"):
        find_run(run)


def test_a_configuration_that_was_damaged_is_told_with_what_to_do(make: Make) -> None:
    folder = searched(make())
    (folder / "config.yaml").write_bytes(b"a: [\xff")
    with pytest.raises(RunError, match="remove the folder, or set name=NAME"):
        check_same(make())


@pytest.mark.parametrize("name", ["q?1", "x%20y", "x y", "#1", "[red]", "日本"])
def test_a_run_with_an_odd_name_has_its_own_folder_and_study(make: Make, name: str) -> None:
    config = make(name=name)
    folder = searched(config)
    assert folder.name == name
    assert find_run(str(folder)) == config
    assert has_trials(config)
    assert not has_trials(make(name=f"{name[:-1]}x"))


def test_faults_of_run_folders_are_the_users() -> None:
    assert issubclass(RunError, UserError)
