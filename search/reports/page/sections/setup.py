"""With what it was made, and how to make it again."""

from __future__ import annotations

import shlex

from petlas.search.config import dump_config
from petlas.search.reports.page.html import paragraph, table, tag, text
from petlas.search.reports.page.run import RunView
from petlas.search.study.storage import without_passwords


def section(run: RunView) -> str:
    """Commands, versions, seeds and the whole configuration."""
    config = run.config
    again = shlex.join(["petlas", "search", str(config.folder / "config.yaml"), f"name={config.name}-again"])
    facts = [
        ("versions", run.versions or "not in the log"),
        ("seed of the search", config.seed),
        ("seed of the split, where val or test was set aside", config.task.split_seed),
        ("seeds of the retraining", ", ".join(map(str, (run.retrained or {}).get("seeds", []))) or "none yet"),
    ]
    prints = ("contents of train and val", "weights of the backbone")
    facts += [(name, run.about["identity"][name]) for name in prints if name in run.about.get("identity", {})]
    facts += [(f"images of {name}", f"{count:,}") for name, count in run.about.get("images", {}).items()]
    commands = "".join(tag("pre", text(command)) for command in run.commands)
    told = paragraph("Commands that worked on it:") + commands if commands else ""
    return (
        paragraph("This command repeats it under another name:")
        + tag("pre", text(again))
        + told
        + table(("", ""), facts)
        + "<details><summary>Configuration</summary>"
        + tag("pre", "\n".join(map(text, without_passwords(dump_config(config)).splitlines())))
        + "</details>"
    )
