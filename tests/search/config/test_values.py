from collections.abc import Callable
from pathlib import Path

import pytest

from petlas.search.config import Fault, load_config

Write = Callable[..., Path]
FaultsOf = Callable[..., dict[str, Fault]]


@pytest.mark.parametrize(
    "name", ["a b", "q?1", "x%20y", "x#y", "a=b", "[red]x", "日本", "a'b\"c", "-x", "a\\b", "é" * 127]
)
def test_a_runs_name_is_any_text_that_a_folder_can_have(write: Write, name: str) -> None:
    assert load_config(str(write(name=name))).name == name


@pytest.mark.parametrize("name", ["a/b", "..", ".", "", " a", "a ", "a\nb", "a\tb", "a\x1bb", "a\0b", "a\u2028b"])
def test_a_name_that_no_folder_can_have_or_no_list_can_show_is_refused(
    write: Write, faults_of: FaultsOf, name: str
) -> None:
    faults = faults_of(write(name=name))
    assert "plain folder name" in faults["name"].rule
    assert faults["name"].value == name


def test_a_name_is_at_most_as_long_as_a_folders(write: Write, faults_of: FaultsOf) -> None:
    assert load_config(str(write(name="x" * 255)))
    assert "at most 255 bytes" in faults_of(write(name="é" * 128))["name"].rule


def test_a_path_has_no_zero_byte(write: Write, faults_of: FaultsOf) -> None:
    faults = faults_of(write(task="a\0b", runs="c\0d"))
    assert set(faults) == {"task.name", "runs"}


def test_a_file_of_sqlite_is_the_same_from_another_folder(
    write: Write, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def storage(url: str) -> str | None:
        return load_config(str(write(storage=url))).storage

    assert storage("sqlite:///all.db") == f"sqlite:///{tmp_path}/all.db"
    for url in ("sqlite:////data/all.db", "sqlite:///:memory:", "sqlite://", "postgresql://user@host/name"):
        assert storage(url) == url


@pytest.mark.parametrize(("given", "meant"), [("on", "on"), ("yes", "on"), ("off", "off"), ("auto", "auto")])
def test_a_switch_is_what_it_says_however_yaml_reads_it(given: str, meant: str, write: Write) -> None:
    assert load_config(str(write()), [f"train.compile={given}"]).train.compile == meant
