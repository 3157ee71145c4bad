"""Every command of README, of the pages in docs/ and of the configurations' headers is understood, and runs."""

import json
import re
import shlex
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import click
import pytest
import typer
import yaml
from PIL import Image

from petlas.petl import METHODS
from petlas.search.cli import app
from petlas.search.config import load_config, load_configs
from petlas.spaces import check_space

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
CONFIGURED = ("search", "plan", "score", "validate")
TINY = """
    task.shots=null backbone.name=vit_mini_patch16_64 backbone.img_size=16 seed=0
    search.trials=1 search.baselines=false search.scores=2 search.ranking_check=0
    train.epochs=1 train.warmup_epochs=0 train.batch_size=256 supernet.epochs=1 supernet.warmup_epochs=0
    sensitivity.batches=1 sensitivity.batch_size=8 resources.runner=inline resources.cpus=1 resources.gpus=0
"""
DROPPED = (
    "task=",
    "task.",
    "backbone",
    "storage=",
    "resources.",
    "search.",
    "train.",
    "name=",
    "sensitivity.budgets",
    "budget.",
)

Petlas = Callable[..., Any]


def _blocks(*languages: str) -> list[str]:
    """What stands between fences that open with one of the languages."""
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", text, re.M | re.S)
    return [block for language, block in fenced if language in languages]


def _commands() -> list[str]:
    lines = [line for block in _blocks("", "bash", "sh") for line in block.splitlines()]
    for page in PAGES:
        prose = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
        lines += re.findall(r"`(petlas [^`]+)`", prose)
    for file in sorted((ROOT / "configs").rglob("*.yaml")):
        lines += [
            part
            for line in file.read_text().splitlines()
            if line.startswith("# petlas ")
            for part in line[2:].split("&&")
        ]
    found = [line.strip() for line in lines if re.match(r"petlas [a-z]+ ", line.strip())]
    return sorted(
        {shlex.join(shlex.split(line, comments=True)) for line in found if not re.search(r"…|\.\.\.|\w\|\w", line)}
    )


COMMANDS = [*_commands()]


@cache
def _command(name: str) -> click.Command:
    return typer.main.get_command(app._app()).commands[name]  # type: ignore[attr-defined, no-any-return]


def _arguments(command: str) -> dict[str, Any]:
    name, *words = shlex.split(command)[1:]
    return dict(_command(name).make_context(name, list(words)).params)


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A folder with what commands name: the pages' own configurations, under their names."""
    monkeypatch.chdir(tmp_path)
    held = [yaml.safe_load(block) for block in _blocks("yaml")]
    own = [each for each in held if "name" in each and "task" in each]
    minimal = {"task": "digits", "backbone": "vit_mini_patch16_64", "space": "demo"}
    for each in [*own, {"name": "a"} | minimal, {"name": "b"} | minimal]:
        (tmp_path / f"{each['name']}.yaml").write_text(yaml.safe_dump(each, sort_keys=False))
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    (tmp_path / "benchmarks").symlink_to(ROOT / "benchmarks")
    return tmp_path


def test_there_are_commands_of_every_kind() -> None:
    assert len(COMMANDS) > 40
    assert {shlex.split(command)[1] for command in COMMANDS} == set(app.COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_a_documented_command_is_understood(command: str, named: Path) -> None:
    """Its options and arguments are the command's, and its configurations and keys are known."""
    given = _arguments(command)
    if shlex.split(command)[1] in CONFIGURED:
        words = given["arguments"]
        names = [word for word in words if "=" not in word and not re.fullmatch(r"CONFIG", word)]
        for name in names:
            assert load_configs(name, [word for word in words if "=" in word])


def test_other_commands_name_what_there_is() -> None:
    lines = [line.strip() for block in _blocks("", "bash", "sh") for line in block.splitlines()]
    targets = {word for line in lines if line.startswith("make ") for word in shlex.split(line, comments=True)[1:]}
    made = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
    assert targets
    assert targets <= made
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    extras = {name for group in re.findall(r"pip install '[^']*\[([a-z,]+)\]'", text) for name in group.split(",")}
    assert extras
    assert extras <= set(
        re.findall(r"^([a-z]+) ?=", (ROOT / "setup.cfg").read_text().partition("extras_require]")[2], re.M)
    )


def test_documented_configurations_and_spaces_are_sound(named: Path) -> None:
    for block in _blocks("yaml"):
        held = yaml.safe_load(block)
        if "task" in held:
            (named / "one.yaml").write_text(block)
            load_config("one.yaml", ["task.root=."])
        elif "methods" in held:
            assert check_space(held, METHODS) == []


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, some_digits: None) -> Path:
    """The run of the notebook, whose cells are run in their order: a search and a retraining in earnest."""
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "docs/first_search.ipynb").read_text(encoding="utf-8"))
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert len(cells) > 3
    names: dict[str, object] = {}
    for cell in cells:
        exec(compile(cell, "first_search.ipynb", "exec"), names)
    return tmp_path / "runs/notebook"


def test_the_notebook_runs_and_what_is_documented_for_a_run_works_on_its_own(
    run: Path, petlas: Petlas, tmp_path: Path
) -> None:
    assert (run / "best/adapter.safetensors").is_file()
    Image.new("L", (8, 8)).save(tmp_path / "photo.jpg")
    done = set()
    for command in COMMANDS:
        name, *words = shlex.split(command)[1:]
        apart = {"onnx", "peft", "--push", "--dashboard"} & set(words)  # the last serves until Ctrl-C
        if name in CONFIGURED or name in ("methods", "datasets") or apart:
            continue
        words = [
            re.sub(r"^(runs/)?(mine|dtd|noah-dtd|spt-dtd|adapter-plus-dtd|vtab-dtd|vtab-\*|demo)(?=$|/)", "notebook", w)
            for w in words
        ]
        words = [word.replace("notebook/best/", "runs/notebook/best/") for word in words]
        words = ["digits" if w == "TASK" else "notebook" if w == "ADAPTER" else w for w in words if w != "--baselines"]
        words = ["notebook" if word == "NAME" else word for word in words]
        few = "2" if {"--together", "--distil"} & set(words) else "1"  # seeds that are told from each other
        words = [str(run / "best/design.yaml") if word == "FILE" else few if word == "3" else word for word in words]
        if (name, *words) not in done:
            done.add((name, *words))
            result = petlas(name, *words)
            assert result.status == 0, (command, words, result.err)
    assert {name for name, *_ in done} == {
        *("study", "report", "retrain", "predict", "evaluate", "attention", "tsne", "export")
    }


def test_documented_searches_run(petlas: Petlas, named: Path, training: Any, few_digits: str) -> None:
    """On some digits with the mini backbone and for one epoch; whatever else they say, they keep. One of each kind."""
    done = set()
    for command in COMMANDS:
        name, *words = shlex.split(command)[1:]
        if name != "search" or "*" in command or "CONFIG" in words:
            continue
        kept = [word for word in words if not word.startswith(DROPPED)]
        names, overrides = (
            [word for word in kept if "=" not in word and word[0] != "-"],
            [word for word in kept if "=" in word],
        )
        configs = [config for each in names for config in load_configs(each, overrides)]
        kind = tuple((config.strategy, str(config.space), config.search.sampler) for config in configs)
        if kind in done:
            continue
        done.add(kind)
        few_blocks = ["space.depth=[3, 6]"] if "noah" in kept else []
        result = petlas(name, *kept, f"task.name={few_digits}", *TINY.split(), *few_blocks, f"runs={named}/{len(done)}")
        assert result.status == 0, (command, result.err)
    assert len(done) > 5
