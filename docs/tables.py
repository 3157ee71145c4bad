"""Writes the tables of the pages that are made from the code, between `<!-- table: NAME -->` and `<!-- end -->`.

python docs/tables.py; the tests hold the pages to it.
"""

import inspect
import re
from collections.abc import Callable
from pathlib import Path

from petlas.datasets import READERS, get_reader
from petlas.petl import FAMILIES, get_family
from petlas.search.cli.app import COMMANDS
from petlas.search.reports.listing import list_methods
from petlas.search.strategies import STRATEGIES, get_strategy

DOCS = Path(__file__).parent
EXAMPLES = {
    "vit": "vit_tiny_patch16_224",
    "eva": "eva02_tiny_patch14_224",
    "beit": "beitv2_base_patch16_224",
    "swin": "swin_tiny_patch4_window7_224",
    "swinv2": "swinv2_tiny_window8_256",
    "convnext": "convnext_tiny",
    "resnet": "resnet50",
    "resnet_clip": "resnet50_clip",
    "efficientnet": "tf_efficientnet_lite0",
    "generic": "mobilevit_xxs",
}
"""A model of each family."""
_MARK = re.compile(r"(<!-- table: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def methods() -> list[list[str]]:
    """Every method at its default size on ViT-B/16."""
    rows = [["method", "size", "parameters", "zero-start", "mergeable", "what", "source"]]
    for row in list_methods("vit_base_patch16_224"):
        size = f"{row['size_means']} {row['size']}" if row["size_means"] else ""
        told = [("yes" if row[key] else "no") for key in ("zero_start", "mergeable")]
        count = "-" if row["params"] is None else f"{row['params']:,}"
        rows.append([f"`{row['method']}`", size, count, *told, row["summary"], row["paper"]])
    return rows


def backbones() -> list[list[str]]:
    """What each method counts on a model of each family; what is refused has none."""
    models = [*EXAMPLES.values()]
    counts = [{row["method"]: row["params"] for row in list_methods(model)} for model in models]
    cells = ([count[name] for count in counts] for name in counts[0])
    rows = [
        [f"`{name}`", *("-" if count is None else f"{count:,}" for count in row)]
        for name, row in zip(counts[0], cells, strict=True)
    ]
    return [["method", *(f"`{family}`: {model}" for family, model in EXAMPLES.items())], *rows]


def families() -> list[list[str]]:
    """Every family by what it says of itself, and what it lacks."""
    rows = [["family", "what", "what it lacks"]]
    for name in FAMILIES:
        family = get_family(name)
        reasons: dict[str, list[str]] = {}
        for site, reason in family.lacks.items():
            reasons.setdefault(reason, []).append(f"`{site}`")
        rows.append([f"`{name}`", family.summary, "; ".join(f"{', '.join(s)}: {why}" for why, s in reasons.items())])
    return rows


def layouts() -> list[list[str]]:
    """Every reader by what its file and its class say of it."""
    rows = [["layout", "what lies there", "how"]]
    for name, place in READERS.items():
        reader = get_reader(name)
        module = inspect.getmodule(type(reader))
        what = _first(module.__doc__ if module else place).removeprefix("Reads ")
        rows.append([f"`{name}`", what[:1].upper() + what[1:], _first(type(reader).__doc__)])
    return rows


def strategies() -> list[list[str]]:
    """Every strategy by what it says of itself."""
    return [["strategy", "what"], *([f"`{name}`", get_strategy(name).summary] for name in STRATEGIES)]


def commands() -> list[list[str]]:
    """Every command by the first line of its help."""
    from petlas.lazy import look_up

    return [
        ["command", "what"],
        *([f"`petlas {name}`", _first(look_up(place).__doc__)] for name, place in COMMANDS.items()),
    ]


TABLES: dict[str, Callable[[], list[list[str]]]] = {
    "methods": methods,
    "backbones": backbones,
    "families": families,
    "layouts": layouts,
    "strategies": strategies,
    "commands": commands,
}


def filled(text: str) -> str:
    """A page with its tables as the code has them now."""
    return _MARK.sub(lambda match: f"{match[1]}{_markdown(TABLES[match[2]]())}{match[3]}", text)


def _markdown(rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:], ""])


def _first(text: str | None) -> str:
    """The first paragraph of a docstring, in one line."""
    return " ".join((text or "").strip().partition("\n\n")[0].split())


if __name__ == "__main__":
    for page in sorted(DOCS.glob("*.md")):
        page.write_text(filled(page.read_text(encoding="utf-8")), encoding="utf-8")
