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

PLOT, DRAWN = '<div class="plot"', '<div class="plot js-plotly-plot"'
"""Where a figure is to be drawn, and where one was."""
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


@pytest.fixture(scope="module")
def pages(module_make: Callable[..., RunConfig], module_training: Any, few_digits: str) -> dict[str, Path]:
    """The page of a run that was retrained in earnest, beside its baselines; of a search by belief; and of both."""
    retrained = module_make(
        name="retrained",
        task=few_digits,
        search={"trials": 4, "baselines": True},
        train={"epochs": 1, "batch_size": 80},
    )
    believed = module_make(name="believed", strategy="auto", search={"cost": 4}, train={"epochs": 3, "batch_size": 200})
    module_training.curve = lambda design, epoch: 0.5 + epoch / 100 + len(design.placements) / 100
    room.search([retrained, believed])
    room.retrain(retrained, seeds=2, baselines=True)
    runs = [str(config.folder) for config in (retrained, believed)]
    several = write_page(runs, retrained.folder.parent / "several.html")
    return {"retrained": write_page(runs[:1]), "believed": write_page(runs[1:]), "several": several}


def browsed(page: Path, profile: Path) -> tuple[str, str]:
    """The document after a browser ran its scripts, and what the browser had to say."""
    done = subprocess.run(
        [
            str(CHROMIUM), "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}",
            "--enable-logging=stderr", "--virtual-time-budget=30000", "--dump-dom", page.resolve().as_uri(),
        ],
        capture_output=True, text=True, timeout=120, check=True,
    )  # fmt: skip
    return done.stdout, done.stderr


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_a_browser_draws_every_figure_and_has_nothing_to_complain_of(
    searched: Callable[..., RunConfig], tmp_path: Path
) -> None:
    path = write_page([str(searched("a").folder)])
    document, told = browsed(path, tmp_path / "profile")
    drawn = re.search(r'data-drawn="(\d+)"', document)
    assert drawn and int(drawn[1]) >= path.read_text().count("<figure>")
    assert document.count(DRAWN) == path.read_text().count(PLOT) > 3
    assert "CONSOLE" not in told


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("name", ["retrained", "believed"])
def test_what_a_run_may_have_is_drawn_too(pages: dict[str, Path], name: str, tmp_path: Path) -> None:
    """A confusion matrix and pictures after retraining with baselines; beliefs of a search that measures on folds."""
    made = pages[name].read_text()
    for title in {"retrained": ["What it gets wrong"], "believed": ["What was believed"]}[name]:
        assert f"<h2>{title}</h2>" in made
    if name == "retrained":
        assert "Confusion matrix, summed over 2 seeds" in made and '<figure class="picture"><img' in made
    document, told = browsed(pages[name], tmp_path / "profile")
    assert document.count(DRAWN) == made.count(PLOT) > 3
    assert "CONSOLE" not in told


@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_the_figures_of_several_runs_are_drawn_when_they_are_opened(pages: dict[str, Path], tmp_path: Path) -> None:
    made = pages["several"].read_text()
    opens = "document.querySelectorAll('details').forEach(one => one.open = true)"  # when the script has run
    waits = f"new MutationObserver(() => {opens}).observe(document.body, {{attributeFilter: ['data-drawn']}})"
    opened = tmp_path / "opened.html"
    opened.write_text(made.replace("</body>", f"<script>{waits}</script></body>"))
    document, told = browsed(opened, tmp_path / "profile")
    assert 'data-drawn="0"' in document  # nothing of it was open
    assert document.count(DRAWN) == made.count(PLOT) > 8
    assert "CONSOLE" not in told
