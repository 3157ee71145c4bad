import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from petlas import search as room
from petlas.search.config import RunConfig
from petlas.search.reports.page import PAGE_SECTIONS, write_page
from petlas.search.run_folder import RunError

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")


@pytest.fixture
def searched(make: Callable[..., RunConfig], training: Any) -> Callable[..., RunConfig]:
    def searched(name: str) -> RunConfig:
        training.curve = lambda design, epoch: 0.5 + epoch / 100 + len(design.placements) / 10
        config = make(name=name, search={"trials": 5, "baselines": True})
        room.search([config])
        return config

    return searched


def test_a_run_gets_its_page_in_its_folder_and_can_be_searched_on(searched: Callable[..., RunConfig]) -> None:
    config = searched("a")
    path = write_page([str(config.folder)])
    assert path == config.folder / "report.html"
    made = path.read_text()
    assert "For digits on vit_mini_patch16_64 the search chose" in made
    for title in ("What was found", "History", "Value and parameters", "Learning curves", "How it was made"):
        assert f"<h2>{title}</h2>" in made
    room.search([config])  # a page in the folder keeps nobody out


def test_a_folder_of_runs_gets_one_page_that_compares_them(searched: Callable[..., RunConfig], tmp_path: Path) -> None:
    runs = searched("a").folder.parent
    searched("b")
    assert write_page([str(runs)]) == runs / "report.html"
    out = write_page([str(runs / "a"), str(runs / "b")], tmp_path / "deep" / "page.html")
    made = out.read_text()
    assert "<h2>2 runs</h2>" in made
    assert made.count("<summary>Configuration</summary>") == 2


def test_what_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="RUN must be a run folder"):
        write_page([str(tmp_path / "none")])


def test_a_place_that_cannot_be_written_is_told(searched: Callable[..., RunConfig], tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(RunError, match="choose another place with --out"):
        write_page([str(searched("a").folder)], tmp_path / "file" / "page.html")


def test_a_section_that_is_one_more_line_is_drawn(
    searched: Callable[..., RunConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(PAGE_SECTIONS, "Again", PAGE_SECTIONS["History"])
    assert "<h2>Again</h2>" in write_page([str(searched("a").folder)]).read_text()


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_every_figure_and_has_nothing_to_complain_of(
    searched: Callable[..., RunConfig], tmp_path: Path
) -> None:
    path = write_page([str(searched("a").folder)])
    run = [
        str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path / 'profile'}",
        "--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom", path.resolve().as_uri(),
    ]  # fmt: skip
    done = subprocess.run(run, capture_output=True, text=True, timeout=120, check=True)
    drawn = re.search(r'data-drawn="(\d+)"', done.stdout)
    assert drawn and int(drawn[1]) >= path.read_text().count("<figure>")
    assert "CONSOLE" not in done.stderr
