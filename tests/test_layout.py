"""Holds the rooms to what they may know of each other, and the tests to the shape of the sources."""

import ast
import inspect
import re
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from petlas.petl.methods import METHODS
from petlas.search.config import load_config
from petlas.spaces import check_space

ROOT = Path(__file__).parent.parent
ROOMS = ("datasets", "petl", "spaces", "search")
COMMON = {"errors", "files", "lazy"}
"""What the root package offers to every room."""

MAY_IMPORT = {
    "datasets": set(),
    "petl": set(),
    "spaces": {"petl.design"},
    "search": {"datasets", "petl", "spaces", "configs"},
    "configs": set(),
    "petlas": set(),
}
FOLDERS = {
    "datasets": {"readers", "stores"},
    "petl": {"backbones", "exports", "methods", "mini", "parts"},
    "spaces": set(),
    "search": {
        "cli",
        "config",
        "objectives",
        "page",
        "ray",
        "reports",
        "runners",
        "samplers",
        "selection",
        "sensitivity",
        "stages",
        "strategies",
        "study",
        "training",
    },
}
"""The folders of each room: a new one is a decision."""

REGISTRIES = {
    "datasets.readers": "READERS",
    "petl.backbones": "FAMILIES",
    "petl.exports": "EXPORTS",
    "petl.methods": "METHODS",
    "search.cli.app": "COMMANDS",
    "search.objectives": "OBJECTIVES",
    "search.reports.page": "PAGE_SECTIONS",
    "search.reports.sections": "SECTIONS",
    "search.runners": "RUNNERS",
    "search.samplers": "SAMPLERS",
    "search.stages": "WORKS",
    "search.strategies": "STRATEGIES",
}
"""Where one more of each is one file and one line."""

HEAVY = {"torch", "timm", "ray"}
TORCH_FREE = {
    "petl": ("design", "shape", "methods/__init__", "backbones/__init__", "exports/__init__"),
    "search": (
        "__init__",
        "api",
        "run_folder",
        "cli/app",
        "config/__init__",
        "objectives/__init__",
        "reports/study_report",
        "reports/card",
        "samplers/__init__",
        "selection/__init__",
        "stages/halving",
        "strategies/__init__",
        "study/__init__",
    ),
}
LONGEST = 450
LONGEST_FUNCTION = 90
LIBRARIES = ("optuna", "ray", "timm", "torch", "sqlalchemy")

TESTED_TOGETHER = {
    "datasets": set(),
    "petl": {"exports/errors"},
    "spaces": {"dimension", "errors"},
    "search": set(),
}
"""Modules without a test file of their own: other tests of their room cover them."""

ACROSS = {"conformance", "counts", "documented", "drivers"}
"""Test files that hold for all modules of a folder, not for one."""

ISOLATED = {"petl/graphs.py": {"torch._dynamo"}}
"""Private names that stand in one module, which has a test that fails when they move."""


def sources(folder: str) -> list[Path]:
    return sorted((ROOT / folder).rglob("*.py"))


@cache
def parsed(path: Path) -> ast.Module:
    """A source file, read once for all tests."""
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path, lazy: bool = True) -> tuple[str, ...]:
    """The modules that a file imports; without `lazy` only those that are imported with it, types left out."""
    return tuple(_imports(path, lazy))


def _imports(path: Path, lazy: bool) -> Iterator[str]:
    tree = parsed(path)
    for node in ast.walk(tree) if lazy else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: relative import"
            yield str(node.module)
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def cases(*rooms: str) -> list[str]:
    return [str(path.relative_to(ROOT)) for room in rooms for path in sources(room)]


def module_name(path: Path) -> str:
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return f"petlas.{name}" if name.partition(".")[0] != "petlas" else name


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_rooms_import_only_downwards_and_by_their_installed_names(room: str) -> None:
    allowed = {room, *MAY_IMPORT[room], *COMMON}
    for file, name in ((path, name) for path in cases(room) for name in imports(ROOT / path)):
        first, _, rest = name.partition(".")
        assert first not in ROOMS, f"{file} imports {name}: write petlas.{name}"
        if first == "petlas" and rest and rest != "__version__":
            assert any(f"{rest}.".startswith(f"{part}.") for part in allowed), f"{file} may not import {name}"


@pytest.mark.parametrize("room", ROOMS)
def test_each_room_has_the_folders_that_the_design_draws(room: str) -> None:
    found = {path.parent.name for path in (ROOT / room).rglob("*.py") if path.parent != ROOT / room}
    assert {name for name in found if name != "sections"} == FOLDERS[room]


def test_no_modules_import_each_other_in_a_circle() -> None:
    files = {module_name(path): path for room in ROOMS for path in sources(room)}
    graph = {}
    for name, path in files.items():
        reached = {target for target in imports(path) if target in files}
        packages = {part for target in reached for part in (target.rpartition(".")[0],)}
        graph[name] = reached - {name} - packages  # a package only offers what its modules hold
    lazy = {name for name, path in files.items() if "__getattr__ = offered(" in path.read_text(encoding="utf-8")}
    for name in lazy:  # offers names without importing their modules
        graph[name] = set()
    try:
        tuple(TopologicalSorter(graph).static_order())
    except CycleError as error:
        pytest.fail(f"a circle: {' -> '.join(error.args[1])}")


def test_spaces_need_neither_torch_nor_timm_nor_ray() -> None:
    heavy = {file: {name.partition(".")[0] for name in imports(ROOT / file)} & HEAVY for file in cases("spaces")}
    assert heavy and not any(heavy.values()), heavy


def test_ray_is_imported_in_one_package() -> None:
    uses = {file for file in cases(*MAY_IMPORT) if "ray" in {name.partition(".")[0] for name in imports(ROOT / file)}}
    assert uses and not {file for file in uses if not file.startswith("search/runners/ray/")}


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


@pytest.mark.parametrize("room", MAY_IMPORT)
def test_no_private_names_of_libraries_are_used(room: str) -> None:
    """Neither imported, nor reached through a module or an object that is of a library by its name."""
    for file in cases(room):
        for name in imports(ROOT / file):
            first, *rest = name.split(".")
            private = [part for part in rest if part.startswith("_") and not part.startswith("__")]
            assert first not in LIBRARIES or not private, f"{file} imports {name}"
        text = (ROOT / file).read_text(encoding="utf-8")
        reached = set(re.findall(rf"\b(?:{'|'.join(LIBRARIES)}|study|storage|trial|model|block)\._(?!_)\w+", text))
        assert reached <= ISOLATED.get(file, set()), f"{file} uses {reached}"


@pytest.mark.parametrize("room", ROOMS)
def test_tests_mirror_the_sources(room: str) -> None:
    modules = {str(path.relative_to(ROOT / room).with_suffix("")) for path in sources(room)}
    tested = {
        str(path.relative_to(ROOT / "tests" / room).with_name(path.stem.removeprefix("test_")))
        for path in (ROOT / "tests" / room).rglob("test_*.py")
    }
    packages = {module for module in modules if module.endswith("__init__")}
    offered = {str(Path(package).parent / "init") for package in packages}  # a package's own test, if it has one
    assert {test for test in tested if Path(test).name not in ACROSS} - offered <= modules
    missing = modules - tested - TESTED_TOGETHER[room] - packages
    assert not missing, f"no test file for {', '.join(sorted(missing))} of {room}"
    assert TESTED_TOGETHER[room] <= modules - tested, "the list of modules without a test file is out of date"


@pytest.mark.parametrize(("module", "name"), REGISTRIES.items())
def test_what_can_be_added_to_is_a_mapping_of_names_to_places(module: str, name: str) -> None:
    """One line for one more, nothing is registered by being imported, and every place is there."""
    registry = getattr(import_module(f"petlas.{module}"), name)
    assert registry
    for place in registry.values():
        where, _, attribute = place.partition(":")
        assert hasattr(import_module(where), attribute), place


def undescribed(module: str) -> Iterator[str]:
    """The public functions and methods of a module that take several arguments and do not describe them.

    What overrides a method is described where the method is introduced.
    """
    found = import_module(module)
    for name, item in vars(found).items():
        if name.startswith("_") or getattr(item, "__module__", None) != module:
            continue
        if inspect.isfunction(item) and len(inspect.signature(item).parameters) > 1 and not described(item):
            yield f"{module}.{name}"
        if inspect.isclass(item):
            for attribute, member in vars(item).items():
                function = member.__func__ if isinstance(member, classmethod | staticmethod) else member
                inherited = any(attribute in vars(base) for base in item.__mro__[1:])
                if (
                    attribute.startswith("_")
                    or not inspect.isfunction(function)
                    or inherited
                    or hasattr(item, "_fields")
                ):
                    continue
                own = len(inspect.signature(function).parameters) - (not isinstance(member, staticmethod))
                if own > 1 and not described(function):
                    yield f"{module}.{name}.{attribute}"


def described(function: Any) -> bool:
    return "Args:" in (function.__doc__ or "")


@pytest.mark.parametrize("room", ROOMS)
def test_public_functions_of_several_arguments_describe_them(room: str) -> None:
    """Typer's commands describe theirs in the parser, and torch calls its hooks with arguments of its own."""
    modules = [module_name(path) for path in sources(room) if path.parent.name != "cli"]
    missing = [place for module in modules for place in undescribed(module)]
    assert not missing, f"{len(missing)} without Args: {missing}"


@pytest.mark.parametrize("file", [str(p.relative_to(ROOT)) for p in sorted((ROOT / "configs").rglob("*.yaml"))])
def test_every_shipped_yaml_is_sound(file: str) -> None:
    """Those of clusters are Ray's, and have tests of their own."""
    if "cluster" in Path(file).parts:
        return
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


@pytest.mark.parametrize("room", ROOMS)
def test_no_function_is_too_long_to_read_at_once(room: str) -> None:
    for path in sources(room):
        for node in ast.walk(parsed(path)):
            if isinstance(node, ast.FunctionDef):
                assert (node.end_lineno or 0) - node.lineno < LONGEST_FUNCTION, f"{path}: {node.name}"


def test_every_package_is_installed() -> None:
    """A folder that setup.cfg does not name would be missing from a wheel."""
    listed = re.search(r"packages =\n((?:    \S+\n)+)", (ROOT / "setup.cfg").read_text())
    assert listed
    named = set(listed[1].split())
    found = {module_name(path.parent / "__init__.py") for room in (*ROOMS, "configs") for path in sources(room)}
    assert found | {"petlas"} == named
    assert inspect.getmodule(load_config) is not None
