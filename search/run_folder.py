"""The run folder: who works in it, whether it is of this configuration, its log, and how a run is found."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import petlas
from petlas.errors import UserError
from petlas.files import write_text
from petlas.search.config import ConfigError, RunConfig, dump_config, load_config
from petlas.search.reports.provenance import provenance_lines
from petlas.search.run_log import logging_to
from petlas.search.study import (
    DATABASE,
    HOLDER,
    JOURNAL,
    LOCK,
    Holding,
    LeaseError,
    StorageError,
    StudyRecord,
    connect,
    held,
)

CHECKPOINTS = "checkpoints"
"""Where trainings are kept until their stage is over."""
SENSITIVITY_FILES = ("sensitivity.json", "sensitivity.png")

REPORT, LOG = "report.html", "log.txt"
TRACKING = "tracking"
"""Where trackers of experiments have their files."""

_CONFIG = "config.yaml"
_HARMLESS = {_CONFIG, LOG, REPORT, LOCK, HOLDER, TRACKING, *SENSITIVITY_FILES}
"""What goes with any settings, because nothing that is taken up lies in it."""
_VERSION = "version"
_MAY_CHANGE = (
    "name", "search.cost", "search.trials", "search.seconds", "search.retry_failed", "search.trackers",
    "protocol", "resources", "runs",
    "storage", "task.download", "paths_from",
)  # fmt: skip
"""Settings that may differ when a run is resumed: they don't change what a trial's number means."""
_LISTED = 20


class RunError(UserError):
    """A run folder that cannot be used: the message says why and what to do."""


def clear_checkpoints(folder: Path) -> None:
    """Remove what was kept of trainings in a run folder: their results are written down."""
    shutil.rmtree(folder / CHECKPOINTS, ignore_errors=True)


# Who works in a folder


@contextmanager
def opened(config: RunConfig) -> Iterator[Holding]:
    """A run, held by this process alone, with its folder, its configuration and a log.

    A study without a trial, which a start that failed left there, is removed.

    Args:
        config: The run's configuration; a folder that exists must hold the same one.

    Returns:
        What this process holds: the folder, and whether nobody else took it over.

    Raises:
        RunError: When another process works on the run, here or on another machine, or it is another run.
    """
    folder = config.folder
    with _held(config) as holding:
        check_same(config)
        if config.storage is None and _is_blank(config):
            for left in (*folder.glob(f"{JOURNAL}*"), folder / DATABASE):
                left.unlink(missing_ok=True)
        write_text(folder / _CONFIG, dump_config(_as_begun(config)))
        with logging_to(folder / LOG, provenance_lines(config)):
            yield holding
        try:
            holding.check()
        except LeaseError as error:
            raise RunError(str(error)) from error


def _as_begun(config: RunConfig) -> RunConfig:
    """The configuration with `runs` as it leads to the folder from where the run was begun, if it still does."""
    runs = (_kept_config(config.folder) or {}).get("runs")
    here = isinstance(runs, str) and Path(config.paths_from, runs, config.name).resolve() == config.folder.resolve()
    return config.model_copy(update={"runs": runs}) if here else config


@contextmanager
def _held(config: RunConfig) -> Iterator[Holding]:
    with ExitStack() as stack:
        try:
            holding = stack.enter_context(held(config.folder, config.storage))
        except LeaseError as error:
            raise RunError(str(error)) from None
        except OSError as error:
            raise RunError(
                f"the run folder {config.folder} cannot be written ({error}); make it writable, or "
                "work in another place: a search with runs=FOLDER, anything else on a copy of the folder"
            ) from error
        yield holding


# Whether it is of this configuration


def check_distinct(configs: Sequence[RunConfig]) -> None:
    """Refuse to work on one run twice at once.

    Raises:
        RunError: Naming the run.
    """
    seen: set[tuple[str | None, str]] = set()
    for config in configs:
        places = {(None, str(config.folder.resolve()))} | ({(config.storage, config.name)} if config.storage else set())
        if places & seen:
            raise RunError(f"each run must have a name of its own, and {config.name!r} is given twice; set name=NAME")
        seen |= places


def check_same(config: RunConfig) -> None:
    """Refuse to go on with a run under other settings, or with one of another version of petlas.

    Raises:
        RunError: Naming each setting that differs.
        StorageError: When its database does not answer.
    """
    folder = config.folder
    if config.storage is not None:
        connect(config.storage).dispose()
    kept = _kept_config(folder)
    if kept is None or _is_blank(config):
        return
    way_out = ", or remove the folder"
    if _VERSION not in kept or _is_of_old(folder, config.storage):
        raise RunError(
            f"{folder} holds a run of an older petlas, whose trials would not compare with new ones; "
            f"give this run a name of its own with name=NAME{way_out}"
        )
    before = settings_of(_with_defaults(kept)) | {_VERSION: kept[_VERSION]}
    refuse_changes(before, settings_of(config) | {_VERSION: petlas.__version__}, str(folder), way_out)


def settings_of(config: RunConfig | Mapping[str, Any]) -> dict[str, Any]:
    """The settings that determine what a trial's number means, flat, such as `{"train.lr": 0.001}`."""
    data = config.model_dump(mode="json") if isinstance(config, RunConfig) else config
    return {key: value for key, value in _flat(data).items() if not _may_change(key)}


def refuse_changes(before: Mapping[str, Any], now: Mapping[str, Any], place: str, way_out: str = "") -> None:
    """Refuse to add trials to others of which they would not be the like.

    Args:
        before: What determined the numbers there, flat: settings, versions, fingerprints.
        now: What does now.
        place: Where the others lie.
        way_out: What else the user may do than choose a new name.

    Raises:
        RunError: Naming everything that differs.
    """
    changed = [
        f"{key}: {before.get(key)!r} there, {now.get(key)!r} now"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    ]
    if changed:
        listed = "\n  ".join(changed)
        raise RunError(
            f"{place} holds a run with other settings, and its trials would not compare:\n  {listed}\n"
            f"restore what changed, or give this run a name of its own with name=NAME{way_out}"
        )


def has_trials(config: RunConfig) -> bool:
    """Whether a trial of the run was ever begun: without one there is no study."""
    if config.storage is None and not (config.folder / JOURNAL).is_file():
        return (config.folder / DATABASE).is_file()
    try:
        return bool(StudyRecord.read(config.folder, config.storage).trials())
    except StorageError:
        return False  # there is none, or whoever opens it next says why it cannot be opened


def _is_blank(config: RunConfig) -> bool:
    """Whether a folder holds nothing that another configuration could take up or would overwrite."""
    found = {path.name for path in config.folder.iterdir() if not path.name.endswith(".tmp")}
    lasting = {name for name in found if not name.startswith(JOURNAL)} - {DATABASE} - _HARMLESS
    return not lasting and not has_trials(config)


def _is_of_old(folder: Path, storage: str | None) -> bool:
    return storage is None and (folder / DATABASE).is_file() and not (folder / JOURNAL).is_file()


def _may_change(key: str) -> bool:
    return any(f"{key}.".startswith(f"{name}.") for name in _MAY_CHANGE)


def _kept_config(folder: Path) -> dict[str, Any] | None:
    """What the folder's configuration says, with what later versions may not know; None where there is none."""
    path = folder / _CONFIG
    if not _is_file(path):
        return None
    try:
        kept = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise RunError(f"{path} must be what petlas wrote ({error}); remove the folder, or set name=NAME") from error
    return kept if isinstance(kept, dict) else {}


def _with_defaults(kept: Mapping[str, Any]) -> Mapping[str, Any]:
    """A kept configuration, with the defaults of settings that came later."""
    settings = {key: value for key, value in kept.items() if key != _VERSION}
    try:
        return RunConfig.model_validate(settings).model_dump(mode="json")
    except ValidationError:
        return settings


def _flat(data: Any, prefix: str = "") -> dict[str, Any]:
    if not isinstance(data, Mapping):
        return {prefix.removesuffix("."): data}
    return {key: value for name, part in data.items() for key, value in _flat(part, f"{prefix}{name}.").items()}


# How a run is found


def find_run(run: str) -> RunConfig:
    """The configuration of a run, by its folder or by its name in `runs/`.

    Raises:
        RunError: When there is no such run, or it is of a version of petlas that is too old.
    """
    for folder in (Path(run), Path("runs") / run):
        if not _is_file(folder / _CONFIG):
            continue
        try:
            config = load_config(str(folder / _CONFIG))
        except ConfigError as error:
            raise RunError(f"{folder} was written by another version of petlas: {error}") from error
        if _is_of_old(folder, config.storage):
            raise RunError(f"{folder} is of an older petlas, whose study only that version reads; search it anew")
        place = folder if folder.name == folder.resolve().name else folder.resolve()
        return config.model_copy(update={"name": place.name, "runs": str(place.parent)})
    known = [str(path) for path in runs_in(Path("runs"))]
    more = f" and {len(known) - _LISTED} more" if len(known) > _LISTED else ""
    there = f"there are {', '.join(known[:_LISTED])}{more}" if known else "none yet"
    raise RunError(f"RUN must be a run folder, got {run!r}; {there}")


def find_runs(runs: Sequence[str]) -> list[RunConfig]:
    """The configurations of runs, each as `find_run` finds it; of a folder of runs those of all in it.

    Args:
        runs: Run folders, names in `runs/`, or folders of runs.

    Raises:
        RunError: When one is no run, or of another version.
    """
    found: list[RunConfig] = []
    for run in runs:
        inside = [] if _is_file(Path(run) / _CONFIG) else runs_in(Path(run))
        found += [find_run(str(path)) for path in inside] or [find_run(run)]
    return found


def runs_in(folder: Path) -> list[Path]:
    """The run folders directly in a folder, by name.

    Args:
        folder: Such as `runs`.
    """
    return sorted(path.parent for path in folder.glob(f"*/{_CONFIG}"))


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False
