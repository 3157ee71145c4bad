from pathlib import Path

import pytest
import typer

from petlas.search.cli.arguments import adapter_file, load_configs, split_arguments


def test_what_has_an_equals_sign_is_an_override_unless_it_is_a_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("a=b.yaml").touch()
    assert split_arguments(["demo", "a=b.yaml", "seed=3"]) == (["demo", "a=b.yaml"], ["seed=3"])
    assert split_arguments(["demo", "name=" + "x" * 5000])[0] == ["demo"]


@pytest.mark.parametrize("arguments", [["demo", "name", "=", "x"], ["demo", "name", "=x"]])
def test_an_override_that_blanks_tore_apart_is_refused(arguments: list[str]) -> None:
    with pytest.raises(typer.BadParameter, match="without blanks around"):
        split_arguments(arguments)


def test_overrides_alone_are_nothing_to_do() -> None:
    with pytest.raises(typer.BadParameter, match=r"at least one CONFIG is needed, got only overrides: a=1 b=2"):
        split_arguments(["a=1", "b=2"])


def test_every_configuration_gets_every_override() -> None:
    assert [config.seed for config in load_configs(["demo", "seed=3", "vtab"])] == [3, 3]


def test_a_run_stands_for_its_adapter_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside = Path("runs/mine/best/adapter.safetensors")
    Path("runs/mine").mkdir(parents=True)
    assert adapter_file(Path("mine")) == Path("runs/mine")  # whoever loads it says what is missing
    inside.parent.mkdir()
    inside.touch()
    for given in ("mine", "runs/mine", str(inside)):
        assert adapter_file(Path(given)) == inside
    assert adapter_file(Path("other.safetensors")) == Path("other.safetensors")
