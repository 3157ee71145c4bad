"""Optuna's dashboard of a run, with the study as people read it."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from socketserver import ThreadingMixIn
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer, make_server

import optuna
from optuna.artifacts import FileSystemArtifactStore, upload_artifact
from optuna.storages import InMemoryStorage

from petlas.search.config import RunConfig
from petlas.search.reports.readable import readable_studies
from petlas.search.run_folder import LOG, RunError
from petlas.search.study import StudyRecord

HOST = "127.0.0.1"
"""Where it can be reached: from this machine alone."""
_SHOWN = ("best/design.yaml", "best/metrics.json", "best/card.md", "config.yaml", LOG, "sensitivity.png")
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
    save_note(studies[0], _note(config))
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


def _note(config: RunConfig) -> str:
    best = StudyRecord.read(config.folder, config.storage).best()
    found = f"Best: trial {best.number}, {best.user_attrs['params']:,} parameters." if best else "No best trial yet."
    return (
        f"# {config.name}\n\n{found}\n\nThe study as it was when the dashboard began. `lora@03` is the size of "
        "that method at block 3, 0 where it is absent; the attribute `number` is a trial's number in `petlas study`. "
        "Scores with inherited weights and folds are studies of their own: their values are no values of trainings.\n"
    )
