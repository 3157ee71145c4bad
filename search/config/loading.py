"""Find, read, override, check and write a configuration."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from contextlib import suppress
from copy import deepcopy
from importlib import resources
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

import petlas
from petlas.search.config.faults import ConfigError, Fault, fault_of, nearest
from petlas.search.config.groups import GROUP, Member, chosen, members
from petlas.search.config.rules import combination_faults, space_faults
from petlas.search.config.schema import RunConfig

VERSION = "version"
"""Which petlas wrote a resolved configuration: said in its file, and no setting."""

_SHORT = ("task", "backbone")
"""Groups that a plain name may stand for."""


def find_config(name: str, kind: str = "") -> Path:
    """The YAML file of that path, or of that name among the package's.

    Args:
        name: A path, or the name of a shipped file without its suffix.
        kind: A folder among the package's, such as `spaces`.

    Raises:
        ConfigError: When there is neither.
    """
    if _is_file(Path(name)):
        return Path(name)
    shipped = Path(str(resources.files("petlas.configs"))) / kind
    packaged = shipped / f"{name}.yaml"
    if _is_file(packaged):
        return packaged
    hint = nearest(name, sorted(path.stem for path in shipped.glob("*.yaml")), "shipped with petlas")
    raise ConfigError(name, [Fault(kind or "CONFIG", name, f"must be a YAML file or a known name; {hint}")])


def _is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that is too long, or holds a zero byte
        return False


class _UniqueKeys(yaml.SafeLoader):
    """YAML in which no key stands twice: of two values one would be lost without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """The mapping of a node, unless a key of it stands twice."""
        seen: set[Any] = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value != "<<":
                if key.value in seen:
                    place = f"on line {key.start_mark.line + 1}"
                    raise yaml.YAMLError(f"the key {key.value!r} stands there twice, again {place}; leave one out")
                seen.add(key.value)
        return super().construct_mapping(node, deep)


def _parse(text: str) -> Any:
    return yaml.load(text, _UniqueKeys)


def read_yaml(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        ConfigError: When it cannot be read, holds a key twice, or is no mapping.
    """
    try:
        data = _parse(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ConfigError(str(path), [Fault("file", path.name, f"must be readable YAML: {error}")]) from error
    if not isinstance(data, dict):
        raise ConfigError(str(path), [Fault("file", path.name, "must hold a mapping")])
    if wrong := [key for key in data if not isinstance(key, str)]:
        raise ConfigError(str(path), [Fault(str(key), data[key], "a key must be text; quote it") for key in wrong])
    return data


def apply_overrides(data: dict[str, Any], overrides: Sequence[str]) -> dict[str, Any]:
    """Set dotted keys, as in `train.epochs=20`; the values are YAML.

    Args:
        data: A configuration as it was read; it is changed.
        overrides: `key=value` pairs, in their order.

    Raises:
        ConfigError: When an override is not of the form key=value, or its key runs through a plain value.
    """
    faults = []
    for override in overrides:
        key, equals, text = override.partition("=")
        try:
            if not equals or not _set(data, key, _parse(text)):
                faults.append(Fault(key, override, "an override must be key=value, with dots between groups"))
        except (ValueError, RecursionError, yaml.YAMLError):
            faults.append(Fault(key, text, "must be readable YAML; quote text with special characters"))
    if faults:
        raise ConfigError("command line", faults)
    return data


def _set(data: dict[str, Any], key: str, value: Any) -> bool:
    """Set a dotted key; whether that can be done."""
    *groups, last = key.strip().split(".")
    node = _group_at(data, groups)
    if not last or node is None:
        return False
    node[last] = value
    return True


def _group_at(data: dict[str, Any], groups: Sequence[str]) -> dict[str, Any] | None:
    """The mapping that a dotted key leads to, made where it is missing; None where a plain value is in the way."""
    node: Any = data
    for group in groups:
        value = node.get(group)
        if value is None:
            node[group] = {}
        elif isinstance(value, str) and group in _SHORT:
            node[group] = {"name": value}
        elif isinstance(value, str) and group == "space" and node is data:
            node[group] = _named_space(value, "command line")
        node = node[group]
        if not isinstance(node, dict):
            return None
    return node  # type: ignore[no-any-return]


def _named_space(name: str, source: str) -> dict[str, Any]:
    """A space by its name or file; that there is none is a fault of the key `space`."""
    try:
        return read_yaml(find_config(name, "spaces"))
    except ConfigError as error:
        raise ConfigError(source, [Fault("space", fault.value, fault.rule) for fault in error.faults]) from None


def load_config(name: str, overrides: Sequence[str] = ()) -> RunConfig:
    """The checked configuration of a file, or of a shipped one, with overrides; its space is read, not only named.

    Args:
        name: Path of a YAML file, or the name of a configuration that petlas ships; `NAME/MEMBER` is one of a group.
        overrides: `key=value` pairs that go through the same check.

    Raises:
        ConfigError: Listing every fault with its path, its value and the rule.
    """
    first, *more = _read(name, overrides)
    if more:
        raise ConfigError(name, [Fault("CONFIG", name, f"must be one run, and is {len(more) + 1}; name one of them")])
    return _checked(*first)


def load_configs(name: str, overrides: Sequence[str] = ()) -> list[RunConfig]:
    """The checked configurations of a file: one; or the members of its group that `NAME/PATTERN` names.

    Where `task.name` is a list, there is one run for each, named NAME-TASK.

    Args:
        name: As for `load_config`.
        overrides: `key=value` pairs, for all of them.

    Raises:
        ConfigError: Listing every fault with its path, its value and the rule.
    """
    runs = []
    for path, data in _read(name, overrides):
        task = data.get("task")
        names = task.get("name") if isinstance(task, dict) else None
        if not isinstance(task, dict) or not isinstance(names, list):
            runs.append(_checked(path, data))
            continue
        if not names or not all(isinstance(each, str) and Path(each).name for each in names):
            raise ConfigError(str(path), [Fault("task.name", names, "must be the name of a task, or a list of names")])
        each_run = ({"name": f"{data['name']}-{Path(each).name}", "task": task | {"name": each}} for each in names)
        runs += [_checked(path, data | run) for run in each_run]
    return runs


def _read(name: str, overrides: Sequence[str]) -> list[tuple[Path, dict[str, Any]]]:
    """Where a configuration lies, and what it or each chosen member of its group says with the overrides, unchecked."""
    path, pattern = _located(name)
    data = {"name": path.stem} | read_yaml(path)
    data.pop(VERSION, None)
    axes = data.pop(GROUP, None)
    if pattern is None:
        return [(path, apply_overrides(data, overrides))]
    if axes is None:
        raise ConfigError(
            name, [Fault("CONFIG", name, f"must be a YAML file or a known name; {path.stem} has no group")]
        )
    try:
        found = members(axes)
    except ValueError as error:
        raise ConfigError(str(path), [Fault(GROUP, axes, str(error))]) from None
    if not (wanted := chosen(found, pattern)):
        hint = nearest(pattern, [member.name for member in found], "its members")
        raise ConfigError(name, [Fault("CONFIG", pattern, f"must be a member of the group {path.stem}; {hint}")])
    return [(path, _of_member(path, data, member, overrides, alone=pattern == member.name)) for member in wanted]


def _located(name: str) -> tuple[Path, str | None]:
    """The file of a configuration, and the pattern of members of its group where the name has one behind a slash."""
    head, slash, pattern = name.rpartition("/")
    if slash and not _is_file(Path(name)):
        with suppress(ConfigError):
            return find_config(head), pattern
    return find_config(name), None


def _of_member(
    path: Path, data: dict[str, Any], member: Member, overrides: Sequence[str], *, alone: bool
) -> dict[str, Any]:
    """What a member of a group says; a name on the command line is its own where it is asked for by its name."""
    mine: dict[str, Any] = deepcopy(data)
    wrong = [key for key, value in member.settings.items() if not _set(mine, key, value)]
    if wrong:
        raise ConfigError(str(path), [Fault(GROUP, key, "must be a key, with dots between groups") for key in wrong])
    own = alone and any(override.partition("=")[0].strip() == "name" for override in overrides)
    mine = apply_overrides(mine, overrides)
    return mine if own else mine | {"name": f"{mine['name']}-{member.name}"}


def _checked(path: Path, data: dict[str, Any]) -> RunConfig:
    faults: list[Fault] = []
    try:
        config = RunConfig.model_validate(data)
    except ValidationError as error:
        faults = [fault_of(item, RunConfig) for item in error.errors()]
    space = data.get("space")
    if isinstance(space, str):
        try:
            space = _named_space(space, str(path))
        except ConfigError as error:
            faults += error.faults
    faults += space_faults(space) if isinstance(space, dict) else []
    faults += combination_faults(data)
    if faults:
        raise ConfigError(str(path), faults)
    return config.model_copy(update={"space": space})


def space_of(config: RunConfig) -> dict[str, Any]:
    """The YAML of the run's space: inline, a file, or one that petlas ships."""
    return config.space if isinstance(config.space, dict) else read_yaml(find_config(config.space, "spaces"))


def dump_config(config: RunConfig) -> str:
    """The resolved configuration as YAML, and which petlas resolved it."""
    data = {VERSION: petlas.__version__} | config.model_dump()
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True)
