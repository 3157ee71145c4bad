import json
import sys
from collections.abc import Callable

import pytest
import timm
import torch

import petlas
from petlas.search.config import RunConfig
from petlas.search.reports.provenance import command, provenance, provenance_lines, versions, without_passwords


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert found["petlas"] == petlas.__version__
    assert found["torch"] == torch.__version__.partition("+")[0] or found["torch"] == torch.__version__
    assert found["timm"] == timm.__version__


def test_the_command_is_what_a_shell_takes_without_passwords(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/b/petlas", "search", "my run.yaml", "storage=mysql://me:se:cret@host/db"])
    assert command() == "petlas search 'my run.yaml' storage=mysql://me:***@host/db"
    assert without_passwords("sqlite:////tmp/a.db") == "sqlite:////tmp/a.db"
    assert without_passwords("postgresql://host/db, a@b") == "postgresql://host/db, a@b"


def test_all_of_it_is_plain_data_and_lines(make: Callable[..., RunConfig]) -> None:
    config = make(seed=3, task={"name": "digits", "split_seed": 5}, protocol={"retrain_seeds": 2})
    found = json.loads(json.dumps(provenance(config)))
    assert set(found) == {"versions", "command", "seed", "split_seed"}
    assert (found["seed"], found["split_seed"]) == (3, 5)
    assert provenance_lines(config)[-1] == "seed 3, split seed 5, for retraining 3, 4"
