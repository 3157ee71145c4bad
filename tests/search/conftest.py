"""Tiny runs: configurations in a temporary folder, and training that costs nothing."""

import json
import logging
import math
import os
import signal
import sys
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
import typer
import yaml

from petlas.datasets import open_task
from petlas.datasets.readers import digits
from petlas.petl.design import Design, Placement
from petlas.search import cli
from petlas.search.config import RunConfig, load_config
from petlas.search.stages import open_work
from petlas.search.study import export_database
from petlas.search.training import EpochResult

if TYPE_CHECKING:
    from petlas.search.workbench import Workbench

sys.path.insert(0, str(Path(__file__).parent))  # For `study_cases`, in every import mode.

BACKBONE = "vit_mini_patch16_64"
BASE: dict[str, Any] = {
    "name": "run",
    "task": {"name": "digits"},
    "backbone": {"name": BACKBONE, "img_size": 32},
    "space": {"methods": {"lora": {"blocks": [0, 5], "sizes": [0, 1, 2]}}},
    "search": {"baselines": False, "sampler": "random"},
    "train": {"epochs": 2, "batch_size": 256, "warmup_epochs": 0},
    "protocol": {"retrain_seeds": 1},
    "resources": {"runner": "inline"},
}


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """One cache for all tests, no data folder, no cluster, one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PETLAS_CACHE", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("COLUMNS", "200")
        for name in ("PETLAS_DATA", "RAY_ADDRESS"):
            patch.delenv(name, raising=False)
        yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="session")
def few_digits(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A folder of 160 digits to learn from, 80 to measure on and 120 to test on: for searches in earnest."""
    view, folder, first = open_task("digits").views["train"], tmp_path_factory.mktemp("few") / "digits", 0
    for part, count in (("train", 160), ("val", 80), ("test", 120)):
        for index in range(first, first + count):
            path = folder / part / str(view.targets[index]) / f"{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            view.source.image(int(view.indices[index])).save(path)
        first += count
    return str(folder)


@pytest.fixture
def some_digits() -> Iterator[None]:
    """A quarter of the task `digits`, for what takes it by its name and trains in earnest."""
    some = digits._table()[:450]
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {"_table": lambda: some, "_VAL": 50, "_TEST": 200}.items():
            patch.setattr(digits, name, value)
        yield


def writes(folder: Path) -> Callable[..., Path]:
    """Writes tiny configurations into a folder; groups that are given are merged into them, None takes one out."""

    def write(file: str = "config.yaml", **groups: Any) -> Path:
        data = BASE | {"runs": str(folder / "runs")}
        for key, value in groups.items():
            merge = isinstance(value, dict) and key in ("search", "train", "protocol", "resources")
            data[key] = BASE[key] | value if merge else value
        path = folder / file
        path.write_text(yaml.safe_dump({key: value for key, value in data.items() if value is not None}))
        return path

    return write


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a tiny configuration."""
    return writes(tmp_path)


@pytest.fixture
def make(write: Callable[..., Path]) -> Callable[..., RunConfig]:
    """The checked configuration that `write` writes."""
    return lambda **groups: load_config(str(write(**groups)))


@pytest.fixture(scope="module")
def module_make(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., RunConfig]:
    """`make` for searches that several tests of a module look at."""
    write = writes(tmp_path_factory.mktemp("module"))
    return lambda **groups: load_config(str(write(**groups)))


@pytest.fixture
def bench(make: Callable[..., RunConfig]) -> Callable[..., "Workbench"]:
    """The workbench of the configuration that `make` makes."""
    from petlas.search.workbench import Workbench

    return lambda **groups: Workbench(make(**groups))


@pytest.fixture
def lora() -> Callable[..., Design]:
    """The design of LoRA ranks at blocks, as the space of these tests makes it."""

    def lora(**ranks: int) -> Design:
        placements = [Placement("lora", int(block.removeprefix("b")), rank) for block, rank in ranks.items()]
        return Design.of(placements, BACKBONE)

    return lora


class Training:
    """Stands in for `open_work`: the metric of a trial is what `curve` says of a design and an epoch."""

    def __init__(self) -> None:
        self.started: list[str] = []
        self.curve: Callable[[Design, int], float] = lambda design, epoch: 0.5 + epoch / 100
        self.loss = 1.0

    def __call__(self, bench: "Workbench", proposal: Any) -> Any:
        if proposal.entry is None:  # no trial, but what trials need
            return open_work(bench, proposal)
        candidate, fidelity = proposal.entry.candidate, proposal.entry.fidelity
        self.started.append(candidate.key)
        return FakeRun(self, fidelity.epochs, candidate.design)


class FakeRun:
    def __init__(self, training: Training, epochs: int, design: Design) -> None:
        self._training, self._epochs, self._design, self._done = training, epochs, design, 0

    @property
    def finished(self) -> bool:
        return self._done >= self._epochs

    def epoch(self) -> EpochResult:
        self._done += 1
        val = self._training.curve(self._design, self._done)
        loss = math.nan if math.isnan(val) else self._training.loss
        return EpochResult(self._done, loss, val, 0.1 * self._done)


@pytest.fixture(scope="session", autouse=True)
def _unseen() -> Iterator[None]:
    """No copies of studies for Optuna's tools, and no best so far for a table: of a small search they take longest."""
    nothing = SimpleNamespace(of=lambda record: SimpleNamespace(best=None))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petlas.search.driver.export_database", lambda storage, name, path: path.touch())
        patch.setattr("petlas.search.live.StudyReport", nothing)
        yield


@pytest.fixture
def exported(monkeypatch: pytest.MonkeyPatch) -> None:
    """For a test that reads the copy."""
    monkeypatch.setattr("petlas.search.driver.export_database", export_database)


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    """Replaces training in the runner of this process."""
    fake = Training()
    monkeypatch.setattr("petlas.search.runners.inline.open_work", fake)
    return fake


@pytest.fixture(scope="module")
def module_training() -> Iterator[Training]:
    """`training` for searches that several tests of a module look at; only designs with a fold are not in earnest."""
    fake = Training()

    def training(bench: "Workbench", proposal: Any) -> Any:
        if proposal.entry is None or proposal.entry.fidelity.fold is None:
            return open_work(bench, proposal)
        return fake(bench, proposal)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("petlas.search.runners.inline.open_work", training)
        yield fake


class Result:
    """What a command gave back."""

    def __init__(self, status: object, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        assert "Traceback" not in out + err, err

    @property
    def json(self) -> Any:
        return json.loads(self.out)


_command = cache(typer.main.get_command)
"""Made once from the functions of all commands, of which a process has need once."""


@pytest.fixture
def petlas(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Iterator[Callable[..., Result]]:
    """Runs the command line in this process, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("typer.main.get_command", _command)
    log = logging.getLogger("petlas")
    handlers, level, propagate = log.handlers[:], log.level, log.propagate
    signals = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        log.handlers[:], log.propagate = handlers, propagate
        log.setLevel(level)
        for number, handler in signals.items():
            signal.signal(number, handler)

    def petlas(*arguments: object) -> Result:
        capsys.readouterr()
        monkeypatch.setattr(sys, "argv", ["petlas", *map(str, arguments)])
        try:
            with pytest.raises(SystemExit) as caught:
                cli.main()
        finally:
            restore()
        out, err = capsys.readouterr()
        return Result(caught.value.code or 0, out, err)

    yield petlas
    restore()


@pytest.fixture
def environment() -> dict[str, str]:
    """For subprocesses."""
    return os.environ | {"OMP_NUM_THREADS": "1"}
