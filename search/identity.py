"""What the trials of a study are of: settings, data, weights and version. Trials of anything else would not compare."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import petlas
from petlas.search.run_folder import refuse_changes, settings_of
from petlas.search.study import StudyRecord
from petlas.search.workbench import Workbench


def identity_of(bench: Workbench) -> dict[str, Any]:
    """All that determines what a trial's number means, flat."""
    return settings_of(bench.config) | {
        "petlas": petlas.__version__,
        "contents of train and val": bench.task.fingerprint,
        "weights of the backbone": bench.weights,
    }


def claim(record: StudyRecord, bench: Workbench) -> None:
    """Write down what a study is of; one that has trials already must be of the same.

    Args:
        record: The study.
        bench: The workbench of the run that adds trials to it.

    Raises:
        RunError: When its trials would not compare with those to come, naming what differs.
    """
    if record.trials():  # a start that failed before its first trial binds nobody
        check_identity(record, bench)
        return
    task = bench.task
    record.claim(
        {
            "identity": identity_of(bench),
            "begun": datetime.now().astimezone().isoformat(sep=" ", timespec="seconds"),
            "classes": task.num_classes,
            "epochs": bench.config.train.epochs,
            "images": {name: len(task.views[name]) for name in ("train", "val")},
            "metric": bench.objective.metric.to_dict(),
            "split_seed": task.split_seed,
        }
    )


def check_identity(record: StudyRecord, bench: Workbench) -> None:
    """Make sure that what was selected by a study is used with the same data, weights and settings.

    Args:
        record: The study.
        bench: The workbench of the run as it is now.

    Raises:
        RunError: Naming what differs.
    """
    about = record.about
    if about:
        refuse_changes(about["identity"], identity_of(bench), f"the study {record.name!r}, begun {about['begun']},")
