import re

from petlas.search.reports.page.template import document


def test_the_document_is_whole_and_fetches_nothing() -> None:
    made = document(["<b>"], ["<p>part</p>"])
    assert made.startswith("<!doctype html>")
    assert made.rstrip().endswith("</html>")
    assert "<title>petlas: &lt;b&gt;</title>" in made
    assert "<p>part</p>" in made
    assert not re.search(r"""(src|href)=["']?https?:""", made)
    assert len(made) < 600_000
    assert made == document(["<b>"], ["<p>part</p>"])


def test_many_runs_are_counted_in_the_title() -> None:
    assert "<h1>5 runs</h1>" in document(list("abcde"), [])


def test_printing_opens_what_is_closed_and_closes_it_again() -> None:
    made = document(["a"], ["<details><summary>b</summary></details>"])
    before, after = made.index("addEventListener('beforeprint', print)"), made.index("'afterprint', printed")
    assert before < after
    assert "closed.forEach(one => one.open = true)" in made and "closed.forEach(one => one.open = false)" in made


def test_on_paper_nothing_is_cut_off_and_no_heading_stands_alone() -> None:
    _, _, printed = document(["a"], []).partition("@media print{body")
    style, _, _ = printed.partition("</style>")
    assert ".wide{overflow:visible}" in style  # a wide table would end at the margin, with a bar that cannot be moved
    assert "td:not(.number){overflow-wrap:anywhere}" in style
    assert "h1,h2,h3,summary{break-after:avoid}" in style
