"""Optuna's dashboard of a run, with the study as people read it."""

from __future__ import annotations

import logging
import shlex
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial

from petlas.search.config import RunConfig
from petlas.search.objectives import Metric
from petlas.search.reports.readable import readable_studies
from petlas.search.reports.study_report import StudyReport
from petlas.search.reports.text import USUAL, candidate_text, duration, shown, standard_error
from petlas.search.run_folder import LOG, REPORT, RunError
from petlas.search.study import SCORE, StudyRecord, value_of

HOST = "127.0.0.1"
"""Where it can be reached: from this machine alone."""
_SHOWN = ("best/design.yaml", "best/metrics.json", "best/card.md", "config.yaml", LOG, REPORT, "sensitivity.png")
"""Files of the run folder that the dashboard offers, where they are there."""

log = logging.getLogger("petlas")


class _Server(ThreadingMixIn, WSGIServer):
    daemon_threads = True


class _Quiet(WSGIRequestHandler):
    def log_message(self, format: str, *args: object) -> None:
        """Requests are no news."""


@contextmanager
def dashboard(config: RunConfig, port: int) -> Iterator[WSGIServer]:
    """A server of Optuna's dashboard on this machine alone, with a copy of the study as it is now.

    Args:
        config: The run's.
        port: Where it listens; 0 for any that is free.

    Raises:
        RunError: When the dashboard is not installed, or something else listens there.
        UserError: When the run has no study.
    """
    try:
        from optuna_dashboard import save_note, wsgi
    except ImportError:
        raise RunError("the dashboard is Optuna's, which is not installed; pip install 'petlas[dashboard]'") from None
    storage = InMemoryStorage()
    studies = readable_studies(config, storage)
    record = StudyRecord.read(config.folder, config.storage)
    save_note(studies[0], _note(config, record))
    for name, value in _facts(config, record).items():
        studies[0].set_user_attr(name, value)
    for study in studies:
        for trial in study.trials:
            if trial.user_attrs["stage"] != SCORE:  # of which there are many, and nothing to say
                save_note(
                    _writable(study, storage, trial.number),
                    _note_of(trial, record.about, shlex.quote(shown(config.folder))),
                )
    with tempfile.TemporaryDirectory(prefix="petlas-dashboard-") as scratch:
        _offer(config, studies[0], storage, store := FileSystemArtifactStore(scratch))
        try:
            server = make_server(HOST, port, wsgi(storage, store), _Server, _Quiet)
        except OSError as error:
            raise RunError(f"--port must be one that is free, got {port} ({error}); 0 takes any") from error
        with server:
            yield server


def _offer(config: RunConfig, study: optuna.Study, storage: InMemoryStorage, store: FileSystemArtifactStore) -> None:
    for name in _SHOWN:
        if (path := config.folder / name).is_file():
            upload_artifact(artifact_store=store, file_path=str(path), study_or_trial=study, storage=storage)


def _writable(study: optuna.Study, storage: InMemoryStorage, number: int) -> optuna.Trial:
    in_storage = storage.get_study_id_from_name(study.study_name)
    return optuna.Trial(study, storage.get_trial_id_from_study_id_trial_number(in_storage, number))


def _note_of(trial: FrozenTrial, about: Mapping[str, Any], run: str) -> str:
    """A trial in words: its design, what it was worth and how sure that is, and what it took."""
    own, value = trial.user_attrs, value_of(trial)
    metric = Metric.from_dict(about["metric"]) if "metric" in about else USUAL
    found = "no value"
    if value is not None:
        error = standard_error(metric, value, own.get("images", about.get("images", {}).get("val")))
        found = f"{metric.name} {metric.format(value)}" + ("" if error is None else f" ± {metric.format(error)}")
    fold = "" if own.get("fold") is None else f", fold {own['fold'] + 1} of {own['folds']}"
    lines = [
        f"**{own['design']}**",
        f"{own['params']:,} parameters; stage {own['stage']}, seed {own['seed']}{fold}",
        f"{found} after {own.get('epochs', 0)} of {own['of_epochs']} epochs; {duration(own.get('seconds', 0.0))}"
        + (f" on {own['device']}" if own.get("device") else ""),
        *([f"It failed: {own['error']}"] if "error" in own else []),
        f"`petlas retrain {run} --trial {own['number']}` retrains this candidate.",
    ]
    return "\n\n".join(lines) + "\n"


def _facts(config: RunConfig, record: StudyRecord) -> dict[str, Any]:
    """What the study is of, in the table beside its figures."""
    counts = {f"images of {name}": count for name, count in record.about.get("images", {}).items()}
    asked = {"task": config.task.name, "backbone": config.backbone.name, "strategy": config.strategy}
    return asked | {"budget.params": config.budget.params, "train.epochs": config.train.epochs} | counts


def _note(config: RunConfig, record: StudyRecord) -> str:
    report, found = StudyReport.of(record), "No best trial yet."
    if (best := report.best) is not None:
        text = candidate_text(best.design, best.settings)
        found = f"Best: trial {best.number} with {report.worth(best)}, {best.params:,} parameters, {text}."
    if report.believed is not None:
        found += " What Optuna calls the best trial is the best of single trainings, each measured on one fold alone."
    return (
        f"# {config.name}\n\n{found}\n\nThe study as it was when the dashboard began. `lora@03` is the size of "
        "that method at block 3, 0 where it is absent; the attribute `number` is a trial's number in `petlas study`. "
        "Scores with inherited weights and folds are studies of their own: their values are no values of trainings.\n"
    )
