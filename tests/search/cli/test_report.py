from collections.abc import Callable
from pathlib import Path
from typing import Any

Petlas = Callable[..., Any]


def test_the_place_of_the_page_is_printed(petlas: Petlas, write: Callable[..., Path], training: Any) -> None:
    config = write(search={"trials": 2})
    assert petlas("search", config).status == 0
    result = petlas("report", "run", "--out", "page.html")
    assert (result.status, result.out) == (0, "wrote page.html\n")
    found = petlas("report", "runs", "-f", "json").json["path"]
    assert Path(found).name == "report.html"


def test_what_is_no_run_ends_with_status_2(petlas: Petlas) -> None:
    result = petlas("report", "nothing")
    assert result.status == 2
    assert "RUN must be a run folder" in result.err
