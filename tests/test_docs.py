"""The pages build without a warning, say what the code says, and their examples run."""

import doctest
import importlib.util
import os
import re
import socket
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
import yaml

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))


def tables() -> ModuleType:
    spec = importlib.util.spec_from_file_location("tables", DOCS / "tables.py")
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def examples(page: str) -> list[str]:
    text = (ROOT / page).read_text(encoding="utf-8")
    return [block for block in re.findall(r"^```python\n(.*?)^```", text, re.M | re.S) if ">>>" not in block]


def test_the_pages_build_strictly_with_every_link(tmp_path: Path) -> None:
    pytest.importorskip("material", reason="needs the extra docs: mkdocs-material")
    pytest.importorskip("mkdocstrings", reason="needs the extra docs: mkdocstrings")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "-q", "-f", str(ROOT / "mkdocs.yml")]
    done = subprocess.run([*command, "-d", str(tmp_path / "site")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "def" not in (tmp_path / "site/python/index.html").read_text()[:100]
    assert "search.api.retrain" in (tmp_path / "site/python/index.html").read_text()


def test_every_page_is_in_the_navigation() -> None:
    listed = set(re.findall(r": (\w+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.M))
    assert listed == {page.name for page in PAGES}


def test_tables_are_what_the_code_says() -> None:
    made = tables()
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        assert made.filled(text) == text, f"{page.name} is out of date: python docs/tables.py"


def test_links_to_files_of_the_repository_lead_somewhere() -> None:
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "CHANGELOG.md"]:
        for link in re.findall(r"\]\((?!https?:)([^)#]+)\)", page.read_text(encoding="utf-8")):
            assert (ROOT / link).exists(), f"{page.name}: {link}"
    named = {name for page in PAGES for name in re.findall(r"`((?:\w+/)+[\w.]+\.(?:py|yaml))`", page.read_text())}
    missing = {
        name for name in named if not (ROOT / name).exists() and not name.endswith(("/x.py", "best/design.yaml"))
    }
    assert not missing


def test_the_examples_for_python_hold(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PETLAS_CACHE", str(tmp_path))
    failed, tried = doctest.testfile(str(DOCS / "python.md"), module_relative=False)
    assert tried > 10
    assert not failed


@pytest.mark.parametrize("page", ["README.md", "docs/python.md", "docs/loops.md"])
def test_what_longer_examples_import_is_there(page: str) -> None:
    """They train; that the calls work is shown by the notebook and the tests of `petlas.search.api`."""
    for block in examples(page):
        compile(block, page, "exec")
        exec("\n".join(re.findall(r"^from petlas.*$", block, re.M)))


BEGINNING, *LOOPS = examples("docs/loops.md")
ALONE = [block for block in LOOPS if "init_process_group" not in block]
(PARALLEL,) = set(LOOPS) - set(ALONE)


@pytest.mark.parametrize("block", ALONE, ids=lambda block: re.findall(r"import (\w+)|optim", block)[0] or "pytorch")
def test_a_training_loop_that_is_shown_runs(block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for package in ("lightning", "accelerate"):
        if re.search(rf"^(import|from) {package}\b", block, re.M):
            pytest.importorskip(package, reason=f"needs the extra loops: {package}")
    names: dict[str, object] = {}
    needed = [LOOPS[0]] if '"plain.safetensors"' in block and block != LOOPS[0] else []
    for part in (BEGINNING, *needed, block):
        exec(compile(part, "docs/loops.md", "exec"), names)
    if "save_adapter" in block:
        assert list(tmp_path.glob("*.safetensors"))


def _process(rank: int, folder: str, port: int) -> None:
    os.chdir(folder)
    torch.set_num_threads(1)
    torch.manual_seed(0)
    os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    names: dict[str, Any] = {}
    for part in (BEGINNING, PARALLEL):
        exec(compile(part, "docs/loops.md", "exec"), names)
    torch.save([p.detach() for p in names["trained"]], f"{rank}.pt")


def test_two_processes_train_the_same_design(tmp_path: Path) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.start_processes(_process, (str(tmp_path), port), nprocs=2, start_method="fork")
    one, other = (torch.load(tmp_path / f"{rank}.pt", weights_only=True) for rank in range(2))
    assert len(one) == len(other) > 2
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    assert (tmp_path / "parallel.safetensors").is_file()


def test_messages_that_are_explained_are_those_of_the_code() -> None:
    text = "".join(
        path.read_text() for room in ("datasets", "petl", "spaces", "search") for path in (ROOT / room).rglob("*.py")
    )
    joined = re.sub(r'"\s*\n\s*f?"', "", text)
    rows = re.findall(r"^\| `([^`]+)` \|", (DOCS / "errors.md").read_text(), re.M)
    assert len(rows) > 8
    for row in rows:
        for piece in filter(None, (part.strip() for part in row.split("..."))):
            assert piece in joined, f"no message says {piece!r}"


def written(folder: Path, name: str, block: str, monkeypatch: pytest.MonkeyPatch) -> None:
    (folder / f"{name}.py").write_text(block)
    monkeypatch.syspath_prepend(folder)


def example(word: str) -> str:
    (found,) = (block for block in examples("docs/extend.md") if word in block)
    return found


def test_the_reader_that_is_shown_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from PIL import Image

    from petlas.datasets import READERS, open_task

    written(tmp_path, "shown_reader", example("(Reader)"), monkeypatch)
    monkeypatch.setitem(READERS, "pairs", "shown_reader:Pairs")
    for number in range(16):
        (tmp_path / "data").mkdir(exist_ok=True)
        Image.new("RGB", (4, 4), (number, 0, 0)).save(tmp_path / f"data/{number}.png")
    lines = [f"{number}.png {'ab'[number % 2]}\n" for number in range(16)]
    (tmp_path / "data/learn.lst").write_text("".join(lines[:12]))
    (tmp_path / "data/judge.lst").write_text("".join(lines[12:]))
    task = open_task(str(tmp_path / "data"))
    assert (task.layout, task.classes, len(task.views["test"])) == ("pairs", ("a", "b"), 4)


def test_the_method_that_is_shown_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from petlas.petl import METHODS, Design, Placement, apply, count_params, load_backbone, remove

    written(tmp_path, "shown_method", example("(BlockMethod"), monkeypatch)
    monkeypatch.setitem(METHODS, "shift", "shown_method:ShiftMethod")
    model = load_backbone("vit_mini_patch16_64", num_classes=3, img_size=32).eval()
    images = torch.randn(2, 3, 32, 32)
    before = model(images)
    design = Design.of([Placement("shift", block) for block in (0, 5)])
    apply(model, design)
    tuned = [p for name, p in model.named_parameters() if name.startswith("petl.")]
    assert sum(p.numel() for p in tuned) == count_params(design, model) == 2 * 128
    assert torch.equal(model(images), before)
    torch.nn.init.ones_(tuned[0])
    assert not torch.equal(model(images), before)
    assert torch.equal(remove(model)(images), before)


def test_the_strategy_that_is_shown_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from petlas.search.config import load_config
    from petlas.search.strategies import STRATEGIES, get_strategy

    written(tmp_path, "shown_strategy", example("(Strategy)"), monkeypatch)
    monkeypatch.setitem(STRATEGIES, "plain", "shown_strategy:Plain")
    assert load_config("demo", ["strategy=plain"]).strategy == "plain"
    assert get_strategy("plain").summary


def test_the_version_is_that_of_one_place() -> None:
    (said,) = re.findall(r"^version = (.+)$", (ROOT / "setup.cfg").read_text(), re.M)
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert cited["version"] == said
    assert cited["cff-version"] == "1.2.0"
    assert f"## {said}" in (ROOT / "CHANGELOG.md").read_text()
    assert version("petlas") == said
