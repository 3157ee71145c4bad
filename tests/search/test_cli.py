import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas.datasets import open_task
from petlas.petl.methods import METHODS
from petlas.search import cli
from petlas.search.config import load_config
from petlas.search.record import StudyRecord

Write = Callable[..., Path]
ROW = {"number", "state", "stage", "design", "key", "params", "val", "epochs", "seconds"}


class Result:
    """What a command gave back."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert "Traceback" not in out + err, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Petlas = Callable[..., Result]


@pytest.fixture
def petlas(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Iterator[Petlas]:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    log = logging.getLogger("petlas")
    handlers, level, propagate, on_term = log.handlers[:], log.level, log.propagate, signal.getsignal(signal.SIGTERM)

    def petlas(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["petlas", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        out, err = capsys.readouterr()
        log.handlers[:] = handlers
        return Result(caught.value.code or 0, out, err)

    yield petlas
    log.handlers[:], log.propagate = handlers, propagate
    log.setLevel(level)
    signal.signal(signal.SIGTERM, on_term)


def imported(*arguments: str) -> set[str]:
    """The top-level modules that a command loads."""
    code = (
        "import sys\nfrom petlas.search.cli import main\ntry:\n    main()\nexcept SystemExit as end:\n"
        "    assert not end.code, end.code\n"
        "print('MODULES', *{name.split('.')[0] for name in sys.modules}, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    return set(done.stderr.rpartition("MODULES")[2].split())


def test_help_and_validate_import_neither_torch_nor_ray(write: Write) -> None:
    for arguments in (["--help"], ["search", "--help"], ["validate", str(write()), "train.epochs=3"]):
        loaded = imported(*arguments)
        assert "petlas" in loaded
        assert not loaded & {"torch", "timm", "ray", "optuna", "sklearn"}


def test_help_names_every_command(petlas: Petlas) -> None:
    result = petlas("--help")
    assert result.status == 0
    for command in ("search", "score", "study", "retrain", "predict", "validate", "plan", "methods", "datasets"):
        assert f" {command} " in result.out
        assert petlas(command, "-h").status == 0


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


def test_the_users_faults_end_with_status_2_and_a_reason(petlas: Petlas, write: Write, tmp_path: Path) -> None:
    good = write()
    (tmp_path / "dir").mkdir()
    (tmp_path / "busy").touch()
    cases: list[tuple[tuple[object, ...], str]] = [
        (("search", "nothing.yaml"), "must be a YAML file or a known name"),
        (("search", tmp_path / "dir"), "must be a YAML file or a known name"),
        (("search", good, "train.epoch=3"), "did you mean epochs?"),
        (("search", good, "train.lr=[1"), "readable YAML"),
        (("search", "train.epochs=3"), "at least one CONFIG"),
        (("validate", "train.epochs=3"), "at least one CONFIG"),
        (("search", good, "task=digist"), "did you mean digits"),
        (("search", good, "backbone.name=vit_mini_patch8_33"), "did you mean vit_mini_patch16_64"),
        (("search", good, "backbone.checkpoint=nowhere.pth"), "nowhere.pth"),
        (("search", good, "space.methods.lora.blocks=[9]"), "blocks 0 to 5"),
        (("search", good, "space.methods.lora.sizes=[1]", "budget.params=3"), "raise the limit"),
        (("search", good, f"runs={tmp_path / 'busy'}"), "runs=FOLDER"),
        (("study", "nothing"), "RUN must be a run folder"),
        (("retrain", "nothing"), "RUN must be a run folder"),
        (("retrain", "nothing", "--trial", "1", "--design", "x.yaml"), "not both"),
        (("retrain", "nothing", "--seeds", "0"), "--seeds"),
        (("predict", "nothing.safetensors", "x.png"), "nothing.safetensors"),
        (("methods", "--backbone", "vit_bse_patch16_224"), "did you mean"),
        (("methods", "--format", "xml"), "--format"),
        (("datasets", "--root", "nowhere"), "does not exist"),
        (("serach", good), "serach"),
        (("search",), "Missing argument"),
    ]
    for arguments, reason in cases:
        result = petlas(*arguments)
        assert (result.status, arguments) == (2, arguments)
        assert reason in " ".join(result.err.split()), (arguments, result.err)
    assert not (tmp_path / "runs").exists()


def test_a_failing_run_ends_with_status_1(petlas: Petlas, write: Write, training: Any) -> None:
    training.curve = lambda design, epoch: float("nan")
    result = petlas("search", write(search={"trials": 1}))
    assert result.status == 1
    assert "came to its end" in result.err


def test_a_fault_of_the_program_ends_with_status_1_and_a_traceback_only_with_debug(
    petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(config: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr("petlas.search.driver.search", fail)
    result = petlas("search", write())
    assert result.status == 1
    assert "ZeroDivisionError: oops" in result.err
    assert "--debug" in result.err
    monkeypatch.setattr(sys, "argv", ["petlas", "--debug", "search", str(write())])
    with pytest.raises(ZeroDivisionError):
        cli.main()


def test_ctrl_c_ends_with_status_130_and_says_how_to_go_on(petlas: Petlas, write: Write, training: Any) -> None:
    def interrupt(design: object, epoch: int) -> float:
        raise KeyboardInterrupt

    training.curve = interrupt
    path = write()
    result = petlas("search", path, "search.trials=2")
    assert result.status == 130
    assert f"To go on: petlas search {path} search.trials=2" in result.err


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_a_real_search_with_status_130_and_finished_trials_stay(
    write: Write, environment: dict[str, str], signal_number: int
) -> None:
    path = write(train={"epochs": 10}, search={"trials": 20})
    config = load_config(str(path))
    heeded = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler)"  # not so in the background
    code = f"{heeded}; from petlas.search.cli import main; main()"
    with subprocess.Popen(
        [sys.executable, "-c", code, "search", str(path)], stdout=-1, stderr=-1, text=True, env=environment
    ) as process:
        assert process.stderr is not None
        lines = iter(process.stderr.readline, "")
        assert any("trial   0  COMPLETE" in line for line in lines)
        time.sleep(0.3)
        process.send_signal(signal_number)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "To go on: petlas search" in err
    assert "Traceback" not in out + err
    trials = StudyRecord.in_folder(config.folder).trials()
    assert trials[0].state.name == "COMPLETE"
    assert "RUNNING" not in {trial.state.name for trial in trials}


def test_search_prints_run_best_and_value_and_repeating_it_resumes(petlas: Petlas, write: Write, training: Any) -> None:
    training.curve = lambda design, epoch: sum(p.size or 0 for p in design.placements) / 10
    path = write()
    first = petlas("search", path, "search.trials=3", "--format", "json")
    assert first.status == 0
    assert set(first.json) == {"run", "best", "value"}
    assert set(first.json["best"]) == ROW
    assert first.json["value"] == first.json["best"]["val"]
    again = petlas("search", path, "search.trials=3", "--format", "json")
    assert (again.status, again.json) == (0, first.json)
    assert len(training.started) == 3
    table = petlas("search", path, "search.trials=5")
    assert table.status == 0
    assert len(training.started) == 5
    assert "COMPLETE" in table.out


def test_several_configurations_are_searched_one_after_the_other(petlas: Petlas, write: Write, training: Any) -> None:
    paths = [write(f"{name}.yaml", name=name) for name in ("a", "b")]
    result = petlas("search", *paths, "search.trials=1", "-f", "json")
    assert [Path(each["run"]).name for each in result.json] == ["a", "b"]


def test_other_settings_are_refused_before_any_search(petlas: Petlas, write: Write, training: Any) -> None:
    a, b = write("a.yaml", name="a"), write("b.yaml", name="b")
    assert petlas("search", b, "search.trials=1").status == 0
    result = petlas("search", a, b, "train.lr=0.5", "search.trials=1")
    assert result.status == 2
    assert "train.lr: 0.001 there, 0.5 now" in result.err
    assert len(training.started) == 1


@pytest.mark.parametrize("name", ["plain.yaml", "a=b.yaml"])
def test_a_path_with_an_equals_sign_is_a_configuration_where_it_exists(petlas: Petlas, write: Write, name: str) -> None:
    assert petlas("validate", write(name), "seed=3").status == 0


def test_study_prints_what_the_contract_says(petlas: Petlas, write: Write, training: Any) -> None:
    def curve(design: Any, epoch: int) -> float:
        sizes = sum(p.size or 0 for p in design.placements)
        return float("nan") if sizes == 3 else sizes / 10

    training.curve = curve
    path = write(train={"epochs": 9})
    petlas("search", path)
    result = petlas("study", "runs/run", "--format", "json")
    assert result.status == 0
    data = result.json
    assert set(data) == {"trials", "best", "pareto"}
    assert all(set(row) == ROW for row in data["trials"] + data["pareto"] + [data["best"]])
    assert {row["state"] for row in data["trials"]} == {"COMPLETE", "PRUNED", "FAIL"}
    assert data["best"]["val"] == 0.4
    assert data["pareto"][-1] == data["best"]
    table = petlas("study", "run")
    assert table.status == 0
    assert "standard error 3.5 points on 200 images" in " ".join(table.out.split())


def test_a_study_is_shown_where_the_data_is_missing(petlas: Petlas, write: Write, training: Any) -> None:
    petlas("search", write(), "search.trials=1")
    path = Path("runs/run/config.yaml")
    data = yaml.safe_load(path.read_text())
    path.write_text(yaml.safe_dump(data | {"task": {"name": "gone", "root": None}}))
    result = petlas("study", "run")
    assert result.status == 0
    assert "best: trial 0" in result.out


def test_retrain_and_predict_print_what_the_contract_says(petlas: Petlas, write: Write, tmp_path: Path) -> None:
    """The whole way with real training: search, retrain with baselines, predict."""
    path = write(search={"trials": 2, "baselines": True}, train={"epochs": 1, "batch_size": 500})
    assert petlas("search", path).status == 0
    result = petlas("retrain", "run", "--seeds", "1", "--baselines", "--format", "json")
    assert result.status == 0
    data = result.json
    assert {"design", "params", "test_mean", "test_std", "seeds", "adapter"} <= data.keys()
    assert (data["seeds"], data["test_std"]) == ([0], 0.0)
    assert 0 < data["test_mean"] < 1
    assert len(data["baselines"]) == 2
    study = petlas("study", "run", "-f", "json").json
    assert (data["design"], data["val"]) == (study["best"]["design"], study["best"]["val"])

    image = tmp_path / "digit.png"
    open_task("digits").splits["val"].source.image(0).save(image)
    result = petlas("predict", data["adapter"], image, "-f", "json")
    assert result.status == 0
    (prediction,) = result.json
    assert set(prediction) == {"image", "label", "confidence", "top5"}
    assert prediction["image"] == str(image)
    assert prediction["top5"][0] == [prediction["label"], prediction["confidence"]]
    assert len(prediction["top5"]) == 5
    assert petlas("predict", data["adapter"], image).out.count("digit.png") == 1
    missing = petlas("predict", data["adapter"], image, "gone.png")
    assert missing.status == 2
    assert "gone.png" in missing.err


def test_a_run_that_is_searched_cannot_be_retrained_meanwhile(petlas: Petlas, write: Write, training: Any) -> None:
    from petlas.search.run_folder import opened

    path = write()
    petlas("search", path, "search.trials=1")
    with opened(load_config(str(path), ["search.trials=1"])):
        result = petlas("retrain", "run")
    assert result.status == 2
    assert "one process at a time" in result.err


def test_score_prints_sites_and_designs_and_draws_them(petlas: Petlas, write: Write, tmp_path: Path) -> None:
    small = {"batches": 1, "batch_size": 8, "rule": "proportional", "budgets": [2_000]}
    files = [str(write(f"{name}.yaml", name=name, sensitivity=small)) for name in ("one", "two")]
    result = petlas("score", *files, "-f", "json")
    assert result.status == 0
    reports = json.loads(result.out)
    assert [len(report["sites"]) for report in reports] == [6, 6]
    assert [report["designs"][0]["budget"] for report in reports] == [2_000, 2_000]
    assert {path.name for path in (tmp_path / "runs").rglob("sensitivity*")} == {
        "sensitivity.json", "sensitivity.png", "sensitivity.html",
    }  # fmt: skip
    result = petlas("score", files[0])
    assert result.status == 0 and "budget" in result.out and "sensitivity of digits" in result.out


def test_methods_lists_every_method(petlas: Petlas) -> None:
    result = petlas("methods", "--backbone", "vit_mini_patch16_64", "--format", "json")
    assert [row["method"] for row in result.json] == list(METHODS)
    keys = {"method", "size", "params", "sites", "mergeable", "elastic", "paper"}
    assert all(keys <= row.keys() for row in result.json)
    table = petlas("methods")
    assert table.status == 0
    assert "vit_base_patch16_224" in table.out
    assert all(name in table.out for name in METHODS)


def test_datasets_lists_digits_with_its_counts(petlas: Petlas) -> None:
    rows = {row["name"]: row for row in petlas("datasets", "-f", "json").json}
    assert rows["digits"]["found"]
    assert rows["digits"]["counts"] == {"train": 800, "val": 200, "trainval": 1000, "test": 797}
    table = petlas("datasets")
    assert "train 800, val 200" in table.out
    assert "not found" in table.out


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("petlas")
    if not script.exists():
        pytest.skip(f"petlas is not installed with its script: {script}")
    done = subprocess.run([script], capture_output=True, text=True, check=False, env=os.environ)
    assert "Usage" in done.stdout + done.stderr
