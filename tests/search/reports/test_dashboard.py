import json
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

pytest.importorskip("optuna_dashboard", reason="the dashboard is not installed")


def got(url: str) -> Any:
    with urllib.request.urlopen(url, timeout=20) as answer:
        return json.load(answer)


def test_it_serves_the_study_with_names_a_note_and_the_runs_files_on_this_machine_alone(
    make: Callable[..., RunConfig], training: Any
) -> None:
    config = make(search={"trials": 6})
    search(config)
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
        assert "Best: trial" in detail["note"]["body"]
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
