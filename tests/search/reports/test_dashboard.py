import json
import math
import threading
import urllib.error
import urllib.request
from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.config import RunConfig
from petlas.search.driver import search
from petlas.search.reports.dashboard import dashboard
from petlas.search.run_folder import RunError
from petlas.search.study import StudyRecord

pytest.importorskip("optuna_dashboard", reason="the dashboard is not installed")


def got(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def test_it_serves_the_study_with_names_a_note_and_the_runs_files_on_this_machine_alone(
    make: Callable[..., RunConfig], training: Any
) -> None:
    training.curve = lambda design, epoch: math.nan if len(design.placements) == 2 else 0.5 + epoch / 10
    config = make(search={"trials": 6})
    search(config)
    failed = [t for t in StudyRecord.read(config.folder).trials() if t.state.name == "FAIL"]
    assert failed
    with dashboard(config, 0) as server:
        host, port = server.server_address[:2]
        assert host == "127.0.0.1"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            (summary,) = got(f"http://{host}:{port}/api/studies")["study_summaries"]
            assert summary["study_name"] == "run"
            detail = got(f"http://{host}:{port}/api/studies/{summary['study_id']}")
        finally:
            server.shutdown()
        assert detail["objective_names"] == ["accuracy"]
        assert "lora@03" not in json.dumps(detail["trials"])  # six blocks have one digit
        assert {"lora@0", "lora@5"} <= {p["name"] for t in detail["trials"] for p in t["params"]}
        assert len(detail["trials"]) == 6
        for trial, note in ((trial, trial["note"]["body"]) for trial in detail["trials"]):
            design = next(each["value"] for each in trial["user_attrs"] if each["key"] == "design").strip('"')
            assert f"**{design}**" in note
            assert f"--trial {trial['number']}`" in note
            told = "accuracy 70.0% ± 3.2% after 2 of 2 epochs"  # sqrt(0.7 * 0.3 / 200)
            assert (told in note) == ("It failed: the loss is not finite" not in note)
        assert json.dumps(detail["trials"]).count("It failed") == len(failed)
        assert "Best: trial" in detail["note"]["body"]
        facts = {each["key"]: each["value"] for each in detail["user_attrs"]}
        assert (facts["task"], facts["train.epochs"]) == ("digits", "2")
        assert "with 70.0% on val (standard error" in detail["note"]["body"]
        assert {"config.yaml", "log.txt"} <= {artifact["filename"] for artifact in detail["artifacts"]}
        with pytest.raises(RunError, match=rf"--port must be one that is free, got {port}"), dashboard(config, port):
            pass


def test_without_the_package_it_is_said_what_to_install(
    make: Callable[..., RunConfig], training: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make(search={"trials": 1})
    search(config)
    monkeypatch.setitem(__import__("sys").modules, "optuna_dashboard", None)
    with pytest.raises(RunError, match=r"pip install 'petlas\[dashboard\]'"), dashboard(config, 0):
        pass
