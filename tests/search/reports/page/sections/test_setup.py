from collections.abc import Callable

from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.setup import section


def test_the_command_that_repeats_it_stands_with_versions_seeds_and_configuration(view: Callable[..., RunView]) -> None:
    run = view(
        log=[
            "2026 INFO petlas 0.1.0, python 3",
            "2026 INFO command: petlas search demo",
            "x INFO command: petlas study",
        ],
        about={"identity": {"weights of the backbone": "abc123"}, "images": {"val": 200}},
    )
    told = section(run)
    assert f"petlas search {run.config.folder}/config.yaml name=run-again" in told
    assert "<pre>petlas search demo</pre><pre>petlas study</pre>" in told
    assert "petlas 0.1.0, python 3" in told
    assert "abc123" in told
    assert "epochs: 2" in told
