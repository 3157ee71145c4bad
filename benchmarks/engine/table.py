"""The table of a benchmark: rows, Markdown, JSON, and what has become slower."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

COLUMNS = ("ms", "ratio", "±", "rounds", "+ operations", "+ passes", "kept MiB", "peak MiB")


@dataclass(frozen=True)
class Row:
    """One line.

    Args:
        group: What is compared with each other.
        name: What was done.
        ms: The median.
        ratio: To the group's first row.
        error: The standard error of the ratio.
        rounds: How often it was measured.
        operations: Beyond the first row's, for each block.
        passes: Beyond the first row's, for each block: reads and writes of as much as the tokens.
        kept_mib: What a forward pass keeps for the backward pass.
        peak_mib: The most that a GPU had allocated.
    """

    group: str
    name: str
    ms: float
    ratio: float
    error: float
    rounds: int
    operations: float | None = None
    passes: float | None = None
    kept_mib: float | None = None
    peak_mib: float | None = None

    @property
    def cells(self) -> list[str]:
        """As the table shows it."""
        counts = [_shown(v, "{:.1f}") for v in (self.operations, self.passes)]
        memory = [_shown(v, "{:,.0f}") for v in (self.kept_mib, self.peak_mib)]
        times = [f"{self.ms:,.2f}", f"{self.ratio:.3f}", f"{self.error:.3f}", f"{self.rounds}"]
        return [self.name, *times, *counts, *memory]


def _shown(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


GOALS: dict[str, dict[str, float]] = {
    "cpu": {"lora 8": 1.08, "adapter 8": 1.08, "ssf": 1.15, "convpass 8": 1.25}
    | {"NOAH's CIFAR-100 subnet": 1.10, "NOAH's supernet, a new design": 1.08},
    "cuda": {"lora 8": 1.10, "adapter 8": 1.10, "adapter_plus 8": 1.10, "ssf": 1.25, "convpass 8": 1.4}
    | {"NOAH's CIFAR-100 subnet": 1.25},
}
"""What steps may take at most, in bare steps, by the kind of device and the row."""


def markdown(rows: Sequence[Row], about: Mapping[str, Any], goals: Mapping[str, float] | None = None) -> str:
    """A table for each group under a line that says where and how it was measured, and one of goals.

    Args:
        rows: What was measured.
        about: Where and how.
        goals: The largest ratio that a row should have, by its name.
    """
    lines = [", ".join(f"{key}: {value}" for key, value in about.items())]
    for group in dict.fromkeys(row.group for row in rows):
        lines += ["", f"| {group} | {' | '.join(COLUMNS)} |", "|---" * (len(COLUMNS) + 1) + "|"]
        lines += [f"| {' | '.join(row.cells)} |" for row in rows if row.group == group]
    aims = {name: most for name, most in (goals or {}).items() if any(row.name == name for row in rows)}
    if aims:
        groups = list(dict.fromkeys(row.group for row in rows if row.name in aims))
        lines += ["", f"| goal | at most | {' | '.join(groups)} |", "|---" * (len(groups) + 2) + "|"]
        found = {(row.group, row.name): f"{row.ratio:.3f}" for row in rows}
        for name, most in aims.items():
            cells = [name, f"{most:.2f}", *(found.get((group, name), "-") for group in groups)]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def write(
    rows: Sequence[Row], about: Mapping[str, Any], folder: Path, name: str, goals: Mapping[str, float] | None = None
) -> None:
    """Write `name.md` and `name.json`.

    Args:
        rows: What was measured.
        about: Where and how.
        folder: Where to.
        name: Of both files.
        goals: As for `markdown`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.md").write_text(markdown(rows, about, goals))
    data = {"about": dict(about), "rows": [asdict(row) for row in rows]}
    (folder / f"{name}.json").write_text(json.dumps(data, indent=1) + "\n")


def read(path: Path) -> list[Row]:
    """The rows of a JSON file; none where there is no file."""
    return [Row(**row) for row in json.loads(path.read_text())["rows"]] if path.is_file() else []


def regressions(rows: Sequence[Row], before: Sequence[Row], margin: float = 0.03) -> list[str]:
    """Rows whose ratio is larger than it was by more than the margin and three standard errors, or that keep more.

    Args:
        rows: Now.
        before: The committed ones.
        margin: Share of a ratio.
    """
    known = {(row.group, row.name): row for row in before}
    found = []
    for row in rows:
        old = known.get((row.group, row.name))
        if old is None:
            continue
        noise = 3 * (row.error**2 + old.error**2) ** 0.5
        if row.ratio > old.ratio * (1 + margin) + noise:
            found.append(f"{row.group}: {row.name}: {row.ratio:.3f} times the first row, was {old.ratio:.3f}")
        for what in ("operations", "passes", "kept_mib"):
            now, then = getattr(row, what), getattr(old, what)
            if now is not None and then is not None and now > then * (1 + margin) + 0.5:
                found.append(f"{row.group}: {row.name}: {what} {now:.1f}, was {then:.1f}")
    return found
