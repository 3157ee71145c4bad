import json
import math
from pathlib import Path

import pytest

from petlas.search.cli.output import print_json, print_json_of


def test_json_is_what_any_program_reads(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"a": [math.nan, math.inf, 1.5, (None, True)], "b": Path("x"), "c": "\udcff[red]"})
    text = capsys.readouterr().out
    text.encode("ascii")
    found = json.loads(text, parse_constant=pytest.fail)
    assert found == {"a": [None, None, 1.5, [None, True]], "b": "x", "c": "\udcff[red]"}


def test_one_result_stands_alone_and_several_in_a_list(capsys: pytest.CaptureFixture[str]) -> None:
    print_json_of([{"a": 1}])
    assert json.loads(capsys.readouterr().out) == {"a": 1}
    print_json_of([{"a": 1}, {"a": 2}])
    assert json.loads(capsys.readouterr().out) == [{"a": 1}, {"a": 2}]
