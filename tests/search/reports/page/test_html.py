import json
import math

from petlas.search.reports.page.html import figure, heat, paragraph, table, tag, text

EVIL = "</script><script>alert('x')</script>"


def test_names_are_data_wherever_they_stand() -> None:
    for made in (text(EVIL), paragraph(EVIL), table([EVIL], [[EVIL]]), figure(EVIL, [{"name": text(EVIL)}])):
        assert "<script>alert" not in made
        assert "</script><" not in made.replace("</script><figcaption>", "")
    assert text("a\nb") == "a\\nb"
    assert tag("a", "x", kind='"><b>') == '<a class="&quot;&gt;&lt;b&gt;">x</a>'


def test_a_figure_keeps_what_plotly_reads_and_nothing_that_json_has_no_word_for() -> None:
    made = figure("told", [{"y": [1.0, math.nan, math.inf], "name": "a & b <"}], height=99)
    spec = json.loads(made.partition('json">')[2].partition("</script>")[0])
    assert spec == {"data": [{"y": [1.0, None, None], "name": "a & b <"}], "layout": {"height": 99}}
    assert "<figcaption>told</figcaption>" in made


def test_columns_of_numbers_are_marked() -> None:
    made = table(["name", "value#"], [["a", 1]])
    assert '<th class="number">value</th>' in made
    assert '<td class="number">1</td>' in made


def test_the_more_the_darker_and_what_is_not_known_is_empty() -> None:
    made = heat("told", [EVIL], ["a", 1], [[(2.0, EVIL), None]], corner="block")
    assert "<script>" not in made
    assert 'style="--share:100%"' in made  # never more than all
    assert "<td></td>" in made
    assert heat("", ["a"], [0], [[(math.nan, "-")]]).count("--share:0%") == 1
