"""Holds the rooms to what they may know of each other, and the tests to the shape of the sources."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from petlas.petl.methods import METHODS
from petlas.search.config import load_config
from petlas.spaces import check_space

ROOT = Path(__file__).parent.parent
MAY_IMPORT = {
    "datasets": set(),
    "petl": set(),
    "spaces": {"petl.design"},
    "search": {"datasets", "petl", "spaces", "configs"},
    "configs": set(),
}
ROOMS = ("datasets", "petl", "spaces", "search")
HEAVY = {"torch", "timm", "ray"}
TORCH_FREE = {"petl": ("design", "shape"), "search": ("cli", "config", "halving", "record", "run_folder", "card")}
LONGEST = 450

TESTED_TOGETHER = {
    "datasets": set(),
    "petl": {"methods/__init__"},
    "spaces": {"dimension", "errors"},
    "search": set(),
}
"""Modules without a test file of their own: other tests of their room cover them."""

ACROSS = {"petl": {"conformance", "counts"}}
"""Test files that hold for all modules of a folder, not for one."""


def sources(room: str) -> list[Path]:
    return sorted((ROOT / room).rglob("*.py"))


def imports(path: Path, lazy: bool = True) -> Iterator[str]:
    """The modules that a file imports; without `lazy` only those that are imported with it, types left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = list(ast.walk(tree)) if lazy else [n for n in tree.body if isinstance(n, ast.Import | ast.ImportFrom)]
    for node in nodes:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cases(*rooms: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for room in rooms for path in sources(room)]


@pytest.mark.parametrize("file", cases(*MAY_IMPORT))
def test_rooms_import_only_downwards_and_by_their_installed_names(file: str) -> None:
    room = Path(file).parts[0]
    allowed = {room, *MAY_IMPORT[room]}
    for name in imports(ROOT / file):
        first, _, rest = name.partition(".")
        assert first not in ROOMS, f"{file} imports {name}: write petlas.{name}"
        if first == "petlas" and rest:
            assert any(f"{rest}.".startswith(f"{part}.") for part in allowed), f"{file} may not import {name}"


@pytest.mark.parametrize("file", cases("spaces"))
def test_spaces_need_neither_torch_nor_timm_nor_ray(file: str) -> None:
    assert not {name.partition(".")[0] for name in imports(ROOT / file)} & HEAVY


@pytest.mark.parametrize("file", cases(*MAY_IMPORT))
def test_ray_is_imported_in_one_module(file: str) -> None:
    uses = "ray" in {name.partition(".")[0] for name in imports(ROOT / file)}
    assert uses == (file == "search/ray_runner.py")


@pytest.mark.parametrize(("room", "name"), [(room, name) for room, names in TORCH_FREE.items() for name in names])
def test_light_modules_are_imported_without_torch(room: str, name: str) -> None:
    """Followed through petlas's own modules, as Python does."""
    seen: set[Path] = set()

    def follow(path: Path) -> None:
        if path in seen or not path.is_file():
            return
        seen.add(path)
        for module in imports(path, lazy=False):
            assert module.partition(".")[0] not in HEAVY, f"{room}.{name} reaches {module} through {path}"
            inside = ROOT.joinpath(*module.removeprefix("petlas.").split("."))
            if module.startswith("petlas."):
                follow(inside.with_suffix(".py"))
                follow(inside / "__init__.py")

    follow(ROOT / room / f"{name}.py")
    assert seen


@pytest.mark.parametrize("room", ROOMS)
def test_tests_mirror_the_sources(room: str) -> None:
    modules = {str(path.relative_to(ROOT / room).with_suffix("")) for path in sources(room)}
    tested = {
        str(path.relative_to(ROOT / "tests" / room).with_name(path.stem.removeprefix("test_")))
        for path in (ROOT / "tests" / room).rglob("test_*.py")
    }
    assert tested - ACROSS.get(room, set()) <= modules
    missing = modules - tested - TESTED_TOGETHER[room] - {"__init__", "mini/__init__"}
    assert not missing, f"no test file for {', '.join(sorted(missing))} of {room}"
    assert TESTED_TOGETHER[room] <= modules - tested, "the list of modules without a test file is out of date"


@pytest.mark.parametrize("file", [str(p.relative_to(ROOT)) for p in sorted((ROOT / "configs").rglob("*.yaml"))])
def test_every_shipped_yaml_is_sound(file: str) -> None:
    if "spaces" in Path(file).parts:
        assert check_space(yaml.safe_load((ROOT / file).read_text()), METHODS) == []
    else:
        load_config(str(ROOT / file))


def test_there_are_shipped_configurations_and_spaces() -> None:
    names = {path.stem for path in (ROOT / "configs").rglob("*.yaml")}
    assert {"demo", "noah"} <= names


@pytest.mark.parametrize("folder", [*MAY_IMPORT, "benchmarks"])
def test_no_file_is_too_long_to_read_at_once(folder: str) -> None:
    long = {str(p.relative_to(ROOT)): n for p in sources(folder) if (n := len(p.read_text().splitlines())) > LONGEST}
    assert not long, f"longer than {LONGEST} lines: {long}"
