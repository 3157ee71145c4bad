import io
import sys
from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.objectives import Metric
from petlas.search.reports.tables import (
    datasets_tables,
    drawn,
    methods_tables,
    outcome_table,
    plan_tables,
    sensitivity_tables,
    show,
)

DESIGN = {"backbone": "b", "placements": [{"method": "lora", "block": 1, "size": 4}]}
Printed = Callable[..., list[str]]


def test_number_columns_are_aligned_to_the_right(printed: Printed) -> None:
    lines = printed(drawn(("name", "count#"), [("a", "5"), ("b", "1000")], title="things"))
    assert lines == ["things", "name  count", "a         5", "b      1000"]


def test_no_markup_is_meant_by_a_name_and_none_breaks_a_line(printed: Printed) -> None:
    names = ["[red]x[/red]", "[/]", "[bold", ":smile:", "a\nb", "\x1b[31mred", "\udcff"]
    lines = printed(drawn(("name",), [(name,) for name in names], title="[link=x] [/]"), "run [/b] :smile:")
    assert lines == [
        "[link=x] [/]", "name", "[red]x[/red]", "[/]", "[bold", ":smile:", "a\\nb", "\\x1b[31mred", "\\udcff",
        "run [/b] :smile:",
    ]  # fmt: skip


def test_outcomes_have_a_spread_where_there_are_several_seeds(printed: Printed) -> None:
    one: dict[str, Any] = {
        "name": "found", "design": DESIGN, "params": 9, "val": None, "test_mean": 0.5, "test_std": 0, "seeds": [0],
    }  # fmt: skip
    many = one | {"name": "linear", "design": {"placements": []}, "val": 0.25, "test_std": 0.0123, "seeds": [0, 1]}
    head, first, second = printed(outcome_table([one, many]))
    assert head.split()[:4] == ["val", "%", "test", "%"]
    assert first.split() == ["found", "-", "50.0", "9", "lora", "-,4"]
    assert second.split() == ["linear", "25.0", "50.0", "±", "1.2", "9", "linear"]
    tuned = one | {"settings": {"lr": 0.003}}
    head, line = printed(outcome_table([tuned], Metric("loss", percent=False)))
    assert line.split() == ["found", "-", "0.5", "9", "lora", "-,4", "|", "lr", "0.003"]
    assert "%" not in head
    sure = one | {"val": 0.861, "val_error": 0.012, "believed": True}
    head, line, known = printed(outcome_table([sure, one | {"val_error": None}]))
    assert head.split()[:5] == ["believed", "%", "error", "test", "%"]
    assert (line.split()[1:4], known.split()[1:4]) == (["86.1", "1.2", "50.0"], ["-", "-", "50.0"])


def test_sensitivities_are_shares_of_all(printed: Printed) -> None:
    design = {"budget": 10, "params": 9, "design": DESIGN}
    report = {"task": "t [x]", "backbone": "b", "sites": [{"q": 1.0, "k": 3.0}], "designs": [design],
              "seconds": {"gradients": 1.0, "after": 2.0}}  # fmt: skip
    lines = printed(*sensitivity_tables(report))
    assert "sensitivity of t [x] to b, in percent of all" in " ".join(lines)
    assert ["0", "25.00", "75.00"] in [line.split() for line in lines]
    assert lines[-1].split() == ["10", "9", "lora", "-,4"]


def test_a_plan_is_told_by_stage_and_in_all(printed: Printed) -> None:
    stages = [
        {"stage": "search", "trials": 2, "R": 2.0, "seconds": 60.0, "workers": 2},
        {"stage": "retrain", "trials": 1, "R": 1.5, "seconds": 90.0, "workers": 1},
    ]
    plan = {"stages": stages, "params": {"smallest": 0, "largest": 5_000, "budget": None}, "R_seconds": 30.0,
            "designs": 7, "flops": 2e9, "disk": 3e9, "seconds": 120.0,
            "steps": {"flops": {"smallest": 1e9, "largest": 6e9, "budget": 5e9},
                      "latency_ms": {"smallest": 2.5, "largest": 40.25, "budget": None}}}  # fmt: skip
    lines = printed(*plan_tables("x", plan))
    assert lines[0] == "x: at most"
    assert lines[4].split() == ["all,", "one", "after", "the", "other", "3", "3.5", "2.5", "min"]
    assert "in all at most 2.0 min, up to 2 at a time" in lines
    assert "designs: 7, of 0 to 5,000 parameters; no budget" in lines
    assert "a training step: 1 to 6 GFLOPs for an image; budget.flops 5" in lines
    assert "a training step: 2.5 to 40.2 ms" in lines
    slow = plan | {"steps": {"latency_ms": {"smallest": 0.00025, "largest": 40_250.25, "budget": None}}}
    assert "a training step: less than 0.001 to 40,250 ms" in printed(*plan_tables("x", slow))
    assert any("2.00 GFLOPs" in line and "3.00 GB" in line for line in lines)
    assert not any("no activations are kept" in line for line in lines)
    assert printed(*plan_tables("x", plan | {"gap": "it is none"}))[-1].endswith("does not run in parts: it is none")


def test_methods_are_listed_with_what_they_are(printed: Printed) -> None:
    row = {"method": "lora", "size": 8, "size_means": "rank", "params": 1234, "zero_start": True, "mergeable": False,
           "summary": "updates", "paper": "Hu"}  # fmt: skip
    lines = printed(*methods_tables([row, row | {"method": "bitfit", "size": None}], "vit"))
    assert lines[0] == "at default size on vit, head excluded"
    assert lines[2].split() == ["lora", "8", "(rank)", "1,234", "yes", "no", "updates", "Hu"]
    assert lines[3].split() == ["bitfit", "1,234", "yes", "no", "updates", "Hu"]


def test_why_a_backbone_does_not_take_methods_is_said_once_for_all_of_them(printed: Printed) -> None:
    row = {"method": "lora", "size": 8, "size_means": "rank", "params": 1, "zero_start": True, "mergeable": False,
           "summary": "updates", "paper": "Hu", "refused": None}  # fmt: skip
    refused = [
        row | {"method": name, "refused": f"{name} acts at {site}, which x does not have: {why}; choose another method"}
        for name, site, why in (
            ("a", "attn", "no attention"),
            ("b", "mlp", "no MLP"),
            ("c", "attn.out", "no attention"),
        )
    ]
    lines = printed(*methods_tables([row, *refused, row | {"method": "d", "refused": "a rule without a reason"}], "x"))
    assert lines[2].split()[0] == "lora"
    assert lines[3:] == [
        "not on x: a, c: no attention", "not on x: b: no MLP", "not on x: d: a rule without a reason",
    ]  # fmt: skip


def test_data_sets_are_listed_with_their_counts_their_faults_and_what_is_odd(printed: Printed) -> None:
    row = {
        "name": "a",
        "found": True,
        "fault": None,
        "num_classes": 2,
        "counts": {"train": 1000},
        "notes": ["2 left out"],
    }
    gone = {"name": "b", "found": False, "fault": None, "num_classes": None, "counts": {}, "notes": []}
    broken = row | {"name": "c", "fault": "broken", "notes": []}
    lines = printed(*datasets_tables([row, gone, broken, gone | {"name": "d"}]))
    assert lines[1].split() == ["a", "ok", "2", "train", "1,000"]
    assert lines[2].split()[:2] == ["c", "broken"]
    assert lines[3:] == ["a: 2 left out", "known by name, and not found: b, d"]


def test_a_narrow_terminal_cuts_nothing_off(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setenv("COLUMNS", "20")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stdout", terminal := Terminal())
    show(drawn(("trial#", "state", "params#", "seconds#"), [("12", "COMPLETE", "1,234,567", "1,000")]))
    assert "12  COMPLETE  1,234,567    1,000" in terminal.getvalue()
