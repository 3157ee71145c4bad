"""The run folder: `config.yaml`, `study.db`, `log.txt` and `best/`; a crash leaves no file half written."""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from filelock import FileLock, Timeout
from pydantic import ValidationError

from petlas.search.config import ConfigError, RunConfig, dump_config, load_config

if TYPE_CHECKING:
    from optuna import Study

log = logging.getLogger("petlas")

CHECKPOINTS = "checkpoints"
"""Where trainings are kept until their stage is over."""

_CONFIG = "config.yaml"
SENSITIVITY_FILES = ("sensitivity.json", "sensitivity.png")
_SETTINGS = "settings"
_MAY_CHANGE = ("name", "search.trials", "search.seconds", "protocol", "resources", "runs", "storage")
"""Settings that may differ when a run is resumed: they don't change what a trial's number means."""


class RunError(ValueError):
    """A run folder that cannot be used: the message says why and what to do."""


def write_text(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def write_json(path: Path, data: Any) -> None:
    """Write plain data as indented JSON, whole or not at all."""
    write_text(path, json.dumps(data, indent=2) + "\n")


def clear_checkpoints(folder: Path) -> None:
    """Remove what was kept of trainings in a run folder: their results are written down."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


@contextmanager
def opened(config: RunConfig) -> Iterator[Path]:
    """The folder of a run, locked for this process, with its configuration and a log.

    Args:
        config: The run's configuration; a folder that exists must hold the same one.

    Raises:
        RunError: When another process works in the folder, or it holds another run.
    """
    folder = config.folder
    lock = FileLock(folder / "run.lock")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock.acquire(timeout=0)
    except Timeout:
        raise RunError(f"one process at a time may work in {folder}, and another one does; wait for it") from None
    except OSError as error:
        raise RunError(
            f"the run folder {folder} cannot be written ({error}); set another place with runs=FOLDER"
        ) from error
    try:
        check_same(config)
        write_text(folder / _CONFIG, dump_config(config))
        with _logging_to(folder / "log.txt"):
            yield folder
    finally:
        lock.release()


def check_same(config: RunConfig) -> None:
    """Refuse to go on with a run under other settings.

    Raises:
        RunError: Naming each setting that differs.
    """
    path = config.folder / _CONFIG
    if not path.exists() or (config.storage is None and _only_scored(config.folder)):
        return
    _refuse_changes(
        yaml.safe_load(path.read_text(encoding="utf-8")), config, str(config.folder), ", or remove the folder"
    )


def claim(study: Study, config: RunConfig) -> None:
    """Write down in a study whose it is: in a database of several runs, two may have one name.

    Raises:
        RunError: When it is of a run with other settings.
    """
    if (kept := study.user_attrs.get(_SETTINGS)) is not None:
        _refuse_changes(kept, config, f"the study {study.study_name!r} of that database")
    study.set_user_attr(_SETTINGS, config.model_dump(mode="json"))


def _refuse_changes(before: Any, config: RunConfig, place: str, way_out: str = "") -> None:
    there, now = _flat(_with_defaults(before)), _flat(config.model_dump(mode="json"))
    changed = [
        f"{key}: {there.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(there | now)
        if there.get(key) != now.get(key) and not key.startswith(_MAY_CHANGE)
    ]
    if changed:
        listed = "\n  ".join(changed)
        raise RunError(
            f"{place} holds a run with other settings, and its trials would not compare:\n  {listed}\n"
            f"give this run a name of its own with name=NAME{way_out}"
        )


def _only_scored(folder: Path) -> bool:
    """Whether a folder has nothing but what `petlas score` writes, which goes with any settings."""
    found = {path.name for path in folder.iterdir()}
    return SENSITIVITY_FILES[0] in found and found <= {_CONFIG, "log.txt", "run.lock", *SENSITIVITY_FILES}


def _with_defaults(kept: Any) -> Any:
    """A kept configuration, with the defaults of settings that came later."""
    try:
        return RunConfig.model_validate(kept).model_dump(mode="json")
    except ValidationError:
        return kept


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, dict):
        return {prefix.removesuffix("."): data}
    return {key: value for name, part in data.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


@contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    level = log.level
    log.setLevel(min(log.getEffectiveLevel(), logging.INFO))  # a program that set up no logging still gets its log
    log.addHandler(handler)
    try:
        yield
    finally:
        log.removeHandler(handler)
        log.setLevel(level)
        handler.close()


def find_run(run: str) -> RunConfig:
    """The configuration of a run, by its folder or by its name in `runs/`.

    Raises:
        RunError: When there is no such run.
    """
    for folder in (Path(run), Path("runs") / run):
        if (folder / _CONFIG).is_file():
            try:
                config = load_config(str(folder / _CONFIG))
            except ConfigError as error:
                raise RunError(f"{folder} was written by another version of petlas: {error}") from error
            place = folder if folder.name == folder.resolve().name else folder.resolve()
            return config.model_copy(update={"name": place.name, "runs": str(place.parent)})
    known = sorted(str(path.parent) for path in Path("runs").glob(f"*/{_CONFIG}"))
    raise RunError(f"RUN must be a run folder, got {run!r}; {'there are ' + ', '.join(known) if known else 'none yet'}")
