"""The structure of a space's YAML: every fault at once, each with its path."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from fractions import Fraction
from typing import Any

from petlas.petl.design import DesignError, Placement
from petlas.spaces.errors import SpaceError, nearest
from petlas.spaces.places import Stages, is_count, parse_blocks, share_of
from petlas.spaces.settings import check_settings

_KEYS = ("methods", "depth", "prune", "settings")
_METHOD_KEYS = ("blocks", "sizes", "options")


def _counts(path: str, value: Any) -> list[str]:
    """The faults of a list of sizes or depths."""
    if not isinstance(value, list | tuple) or not value:
        return [f"{path}: must be a list of whole numbers such as [0, 1, 5, 10], got {value!r}"]
    wrong = [number for number in value if not is_count(number)]
    if wrong:
        return [f"{path}: must be whole numbers of at least 0, got {wrong[0]!r} in {value!r}"]
    ordered = sorted(set(value))
    if list(value) != ordered:
        return [f"{path}: must increase, each number once, got {value!r}; write {ordered}"]
    if ordered == [0]:
        return [f"{path}: needs a number above 0, got {value!r}; to do without the method, leave it out"]
    return []


def _sizes(path: str, value: Any) -> list[str]:
    """The faults of a list of sizes: all whole numbers, or shares of the width beside 0."""
    if not isinstance(value, list | tuple) or not any(isinstance(size, str) for size in value):
        return _counts(path, value)
    shares = [Fraction() if is_count(size) and size == 0 else share_of(size) for size in value]
    wrong = [size for size, share in zip(value, shares, strict=True) if share is None]
    if wrong:
        rule = "must be whole numbers, or 0 and shares of the width such as 1/32"
        return [f"{path}: {rule}, got {wrong[0]!r} in {value!r}"]
    given = [share for share in shares if share is not None]
    if given != sorted(set(given)) or max(given) > 1:
        return [f"{path}: must increase, each share once and up to 1/1, got {value!r}"]
    return []


def _method(path: str, spec: Any, depth: int | None, stages: Stages) -> list[str]:
    """The faults of one method's entry."""
    if not isinstance(spec, Mapping):
        return [f"{path}: must be a mapping such as {{blocks: all, sizes: [0, 1, 5, 10]}}, got {spec!r}"]
    faults = [f"{path}.{key}: unknown key; {nearest(key, _METHOD_KEYS)}" for key in spec if key not in _METHOD_KEYS]
    if "blocks" not in spec:
        faults.append(f"{path}.blocks: is missing; write all, backbone, a list of blocks or a range such as 3-8")
    else:
        try:
            parse_blocks(spec["blocks"], depth, stages)
        except SpaceError as error:
            faults.append(f"{path}.blocks: {error}")
    if "sizes" in spec:
        faults += _sizes(f"{path}.sizes", spec["sizes"])
    options = spec.get("options", {})
    if not isinstance(options, Mapping):
        return [*faults, f"{path}.options: must be a mapping of names to plain values, got {options!r}"]
    for key, value in options.items():
        try:
            Placement("method", options=((key, value),))
        except DesignError as error:
            faults.append(f"{path}.options.{key}: {error}")
    return faults


def _depth_rule(path: str, name: str, spec: Any, depths: Any, depth: int | None, stages: Stages) -> list[str]:
    """The faults of one method's depth rule, given the method's entry."""
    if not isinstance(spec, Mapping):
        return []  # The entry's own fault says so.
    if spec.get("blocks") == "backbone":
        return [f"{path}: {name} is one choice over the whole backbone and has no depth; leave the rule out"]
    faults = _counts(path, depths)
    sizes = spec.get("sizes", (0, 1))
    if not _sizes("", sizes) and sizes[0] != 0:
        faults.append(f"methods.{name}.sizes: need 0 under a depth rule, for the blocks beyond it, got {sizes!r}")
    try:
        known = len(parse_blocks(spec.get("blocks"), depth, stages))
    except SpaceError:
        return faults
    if not faults and known and depths[-1] > known:
        faults.append(f"{path}: must be at most {known}, the number of {name}'s blocks, got {depths[-1]}")
    return faults


def _depth(value: Any, methods: Mapping[Any, Any], depth: int | None, stages: Stages) -> list[str]:
    """The faults of the depth rules."""
    if isinstance(value, Mapping):
        unknown = [key for key in value if key not in methods]
        faults = [f"depth.{key}: no such method; {nearest(key, map(str, methods))}" for key in unknown]
        known = [(f"depth.{name}", name, value[name]) for name in methods if name in value]
        for path, name, depths in known:
            faults += _depth_rule(path, name, methods[name], depths, depth, stages)
        return faults
    faults = _counts("depth", value)
    if faults:
        return faults
    placed = {name: s for name, s in methods.items() if not isinstance(s, Mapping) or s.get("blocks") != "backbone"}
    if not placed:
        return ["depth: no method is placed at blocks; leave the rule out"]
    return [f for name, spec in placed.items() for f in _depth_rule("depth", name, spec, value, depth, stages)]


def check_space(
    data: Any,
    known_methods: Collection[str] | None = None,
    known_settings: Collection[str] | None = None,
    *,
    depth: int | None = None,
    stages: Stages = (),
) -> list[str]:
    """All faults of a space's structure at once.

    Args:
        data: The space as plain data, as its YAML reads.
        known_methods: The methods there are; None accepts every name.
        known_settings: The settings there are; None accepts every name.
        depth: The backbone's number of blocks; while it is None, blocks are not held against it.
        stages: The backbone's, where it has several.

    Returns:
        One line per fault, such as `methods.lora.sizes: must increase, …`; empty for a sound space.
    """
    if not isinstance(data, Mapping):
        return [f"a space must be a mapping with the keys {', '.join(_KEYS)}, got {data!r}"]
    faults = [f"{key}: unknown key; {nearest(key, _KEYS)}" for key in data if key not in _KEYS]
    methods = data.get("methods")
    if not isinstance(methods, Mapping) or not methods:
        return [*faults, f"methods: must map at least one method to its blocks and sizes, got {methods!r}"]
    for name, spec in methods.items():
        path = f"methods.{name}"
        if not isinstance(name, str) or not name:
            faults.append(f"{path}: a method's name must be text, got {name!r}")
        elif known_methods is not None and name not in known_methods:
            faults.append(f"{path}: unknown method; {nearest(name, known_methods)}")
        faults += _method(path, spec, depth, stages)
    if data.get("depth") is not None:
        faults += _depth(data["depth"], methods, depth, stages)
    prune = data.get("prune")
    if prune is not None and (isinstance(prune, bool) or not isinstance(prune, int | float) or not 0 <= prune < 1):
        faults.append(f"prune: must be the share of the places that is dropped, from 0 to below 1, got {prune!r}")
    if prune and data.get("depth") is not None:
        faults.append("prune: cannot be together with depth, whose rule fills blocks from the first; leave one out")
    if data.get("settings") is not None:
        faults += check_settings(data["settings"], known_settings)
    return faults
