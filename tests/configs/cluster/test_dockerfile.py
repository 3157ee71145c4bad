"""The image of the nodes, as far as that can be told without building it."""

import configparser
import fnmatch
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "configs/cluster"


@pytest.fixture
def steps(tmp_path: Path) -> list[tuple[str, str]]:
    """The instructions and their values, as a parser of such files reads them."""
    parsing = pytest.importorskip("dockerfile_parse", reason="pip install 'petlas[test]'")
    copy = tmp_path / "Dockerfile"
    copy.write_text((FOLDER / "Dockerfile").read_text())
    read = parsing.DockerfileParser(str(copy)).structure
    return [(each["instruction"], each["value"]) for each in read if each["instruction"] != "COMMENT"]


@pytest.fixture(scope="module")
def setup() -> configparser.ConfigParser:
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_the_python_is_one_that_petlas_runs_on(steps: list[tuple[str, str]], setup: configparser.ConfigParser) -> None:
    from packaging.specifiers import SpecifierSet

    name, value = steps[0]
    (version,) = re.findall(r"^python:(\d+\.\d+)-slim$", value)
    assert name == "FROM"
    assert version in SpecifierSet(setup["options"]["python_requires"])


def test_it_installs_petlas_with_extras_that_there_are_and_what_ray_up_needs(
    steps: list[tuple[str, str]], setup: configparser.ConfigParser
) -> None:
    (installs,) = [value for name, value in steps if name == "RUN" and "pip install" in value]
    (extras,) = re.findall(r"/opt/petlas\[([\w,]+)\]", installs)
    assert set(extras.split(",")) <= set(setup["options.extras_require"])
    assert "postgres" in extras
    assert "ray[default]" in installs
    assert any("rsync" in value for name, value in steps if name == "RUN")


def test_what_it_copies_is_the_sources_without_what_is_told_to_be_left_out(steps: list[tuple[str, str]]) -> None:
    assert ("COPY", ". /opt/petlas") in steps
    left_out = [line for line in (FOLDER / "Dockerfile.dockerignore").read_text().splitlines() if line[:1] != "#"]
    needed = ["setup.cfg", "pyproject.toml", "README.md", "petlas", "search", "spaces", "petl", "datasets", "configs"]
    assert all((ROOT / name).exists() for name in needed)
    assert not [name for name in needed if any(fnmatch.fnmatch(name, rule) for rule in left_out)]


def test_it_does_not_run_as_root(steps: list[tuple[str, str]]) -> None:
    users = [value for name, value in steps if name == "USER"]
    assert users == ["petlas"]
    assert [name for name, _ in steps].index("USER") > max(i for i, (name, _) in enumerate(steps) if name == "RUN")
