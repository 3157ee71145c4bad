import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy.exc import DataError as DatabaseDataError

import petlas as package
from petlas.errors import UserError
from petlas.search import api, cli
from petlas.search.cli.app import COMMANDS
from petlas.search.run_log import ASIDE

Write = Callable[..., Path]
Petlas = Callable[..., Any]


def test_help_and_validate_import_neither_torch_nor_ray(write: Write, imported: Callable[..., set[str]]) -> None:
    named = ["validate", str(write()), "search.sampler=evolution", "strategy=supernet"]
    for arguments in (["--help"], ["search", "--help"], ["validate", str(write()), "train.epochs=3"], named):
        loaded = imported(*arguments)
        assert "petlas" in loaded
        assert not loaded & {"torch", "timm", "ray", "optuna", "sklearn"}


def test_help_names_every_command(petlas: Petlas) -> None:
    result = petlas("--help")
    assert result.status == 0
    assert set(COMMANDS) == {
        "search", "score", "study", "retrain", "predict", "validate", "plan", "methods", "datasets",
        "evaluate", "export", "report", "attention", "tsne",
    }  # fmt: skip
    for command in COMMANDS:
        assert f" {command} " in result.out
        assert petlas(command, "-h").status == 0


def test_the_version_is_that_of_the_package(petlas: Petlas) -> None:
    result = petlas("--version")
    assert (result.status, result.out) == (0, f"{package.__version__}\n")


def test_one_more_command_is_one_line(petlas: Petlas, monkeypatch: pytest.MonkeyPatch) -> None:
    from petlas.search.cli import app

    monkeypatch.setitem(COMMANDS, "toy", "petlas.search.cli.methods:methods")
    app._app.cache_clear()
    try:
        assert " toy " in petlas("--help").out
    finally:
        monkeypatch.undo()
        app._app.cache_clear()


def test_the_users_faults_end_with_status_2_and_a_reason(petlas: Petlas, write: Write, tmp_path: Path) -> None:
    good = write()
    (tmp_path / "dir").mkdir()
    (tmp_path / "busy").touch()
    cases: list[tuple[tuple[object, ...], str]] = [
        (("search", "nothing.yaml"), "must be a YAML file or a known name"),
        (("search", tmp_path / "dir"), "must be a YAML file or a known name"),
        (("search", "x" * 5000), "must be a YAML file or a known name"),
        (("search", good, "train.epoch=3"), "did you mean epochs?"),
        (("search", good, "train.lr=[1"), "readable YAML"),
        (("search", "train.epochs=3"), "at least one CONFIG"),
        (("search", good, "name", "=", "x"), "without blanks around"),
        (("search", good, good), "must have a name of its own, and 'run' is given twice"),
        (("validate", "train.epochs=3"), "at least one CONFIG"),
        (("search", good, "task=digist"), "did you mean digits"),
        (("search", good, "task.metric=acuracy"), "did you mean accuracy"),
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
        assert reason in " ".join(result.err.replace("│", " ").split()), (arguments, result.err)
    assert not (tmp_path / "runs").exists()


def test_markup_in_what_the_user_wrote_is_printed_as_it_is(petlas: Petlas, write: Write) -> None:
    for arguments in (("search", "[red]x[/]"), ("study", "[/b]"), ("validate", write(), "seed=[/red]"), ("[/x]",)):
        result = petlas(*arguments)
        assert result.status == 2
        assert str(arguments[-1]).removeprefix("seed=").strip("[]") in result.err


def test_a_fault_of_the_program_ends_with_status_1_and_a_traceback_only_with_debug(
    petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*given: object) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(api, "search", fail)
    result = petlas("search", write())
    assert result.status == 1
    assert "ZeroDivisionError: oops" in result.err
    assert "--debug" in result.err
    for arguments in (["--debug", "search"], ["search", "--debug"]):
        monkeypatch.setattr(sys, "argv", ["petlas", *arguments, str(write())])
        with pytest.raises(ZeroDivisionError):
            cli.main()


class SomeRoomsError(UserError):
    """A user's fault that the command line never heard of."""


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (SomeRoomsError("rule, value"), 2),
        (DatabaseDataError("INSERT", {}, Exception("value too long")), 1),
        (type("DataError", (Exception,), {})("same name"), 1),
        (FileNotFoundError(2, "gone"), 1),
    ],
)
def test_faults_are_told_apart_by_their_base_class(
    petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int
) -> None:
    def fail(*given: object) -> None:
        raise error

    monkeypatch.setattr(api, "search", fail)
    assert petlas("search", write()).status == status


def test_a_line_that_is_for_the_runs_log_alone_is_not_on_the_terminal(
    petlas: Petlas, write: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    def tell(*given: object) -> None:
        logging.getLogger("petlas").info("for the log", extra=ASIDE)
        logging.getLogger("petlas").info("for all")
        raise UserError("told")

    monkeypatch.setattr(api, "score", tell)
    assert petlas("score", write()).err == "for all\npetlas: told\n"


def test_a_name_that_is_no_text_is_printed_without_a_crash(tmp_path: Path, environment: dict[str, str]) -> None:
    ascii_only = {"PYTHONIOENCODING": "ascii"}
    cases = [
        ([b"validate", b"\xff.yaml"], {}),
        ([b"validate", b"\xff.yaml"], ascii_only),
        ([b"study", b"\xff[/red]"], {}),
    ]
    for arguments, more in cases:
        command = [sys.executable.encode(), b"-c", b"from petlas.search.cli import main; main()", *arguments]
        done = subprocess.run(command, capture_output=True, env=environment | more, cwd=tmp_path, check=False)
        assert done.returncode == 2, done.stderr
        assert b"Traceback" not in done.stderr


def test_the_console_script_is_installed() -> None:
    script = Path(sys.executable).with_name("petlas")
    if not script.exists():
        pytest.skip(f"petlas is not installed with its script: {script}")
    done = subprocess.run([script], capture_output=True, text=True, check=False, env=os.environ)
    assert "Usage" in done.stdout + done.stderr
