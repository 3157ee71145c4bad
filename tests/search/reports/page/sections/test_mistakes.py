import re
from collections.abc import Callable
from typing import Any

import pytest

from petlas.search.predictions import Predictions
from petlas.search.reports.page.run import RunView
from petlas.search.reports.page.sections.mistakes import section
from petlas.spaces import Candidate

Made = Callable[..., Predictions]
DESIGN: dict[str, Any] = {"backbone": "b", "placements": [{"method": "lora", "block": 0, "size": 2}]}
KEY = Candidate.from_dict(DESIGN).key
RETRAINED = {"design": DESIGN, "settings": {}, "test_mean": 0.5, "test_std": 0.0, "seeds": [0]}
ABC = ("a", "b", "c")


@pytest.fixture
def told(view: Callable[..., RunView]) -> Callable[..., str]:
    """The section of a retrained run."""
    return lambda *made, **more: section(view(retrained=RETRAINED, predictions=[*made], **more))


def cells(html: str) -> list[list[str]]:
    rows = re.findall(r"<tr>(.*?)</tr>", html)
    return [re.findall(r"<t[dh][^>]*>(?:<span>)?(.*?)(?:</span>)?</t[dh]>", row) for row in rows]


def test_nothing_is_told_before_test_was_read(view: Callable[..., RunView], predictions: Made) -> None:
    assert section(view()) == ""
    assert section(view(predictions=[predictions([0], [1])])) == ""


def test_a_run_of_before_says_so_in_one_line(told: Callable[..., str], predictions: Made) -> None:
    for made in ([], [predictions([0], [1], key="another")]):
        found = told(*made)
        assert found.startswith("<p>This run was tested before petlas kept what was said of each test image")
        assert found.count("<p>") == 1 and "petlas evaluate" in found


def test_rows_of_the_matrix_are_what_images_are_and_seeds_are_summed(
    told: Callable[..., str], predictions: Made
) -> None:
    targets = [0, 0, 0, 1, 1, 2]
    one, two = ([0, 1, 1, 1, 1, 0], [0, 1, 0, 1, 1, 2])
    found = told(*(predictions(said, targets, KEY, seed, classes=ABC) for seed, said in enumerate((one, two))))
    assert (
        "Of the 6 test images, which were read once for each of 2 seeds, the retrained design is wrong about 2" in found
    )
    table = cells(found)
    assert table[:4] == [
        ["is \\ taken for", "a", "b", "c"], ["a", "3", "3", ""], ["b", "", "4", ""], ["c", "1", "", "1"],
    ]  # fmt: skip
    assert '<td style="--share:100%">3</td>' in found  # the worst mistake is the darkest; what is right is not dark
    assert '<td style="--share:0%">4</td>' in found
    assert ["a", "b", "1.5", "50.0"] in table  # of a seed in the mean
    assert ["c", "1", "50.0", "100.0"] in table and ["a", "3", "50.0", "75.0"] in table


def test_of_many_classes_the_worst_pairs_alone_are_told(told: Callable[..., str], predictions: Made) -> None:
    classes = tuple(f"class {n}" for n in range(200))
    targets = [n % 200 for n in range(400)]
    said = [1 if n in (0, 200, 7) else n % 200 for n in range(400)]
    found = told(predictions(said, targets, KEY, classes=classes))
    assert "Confusion matrix" not in found
    assert ["class 0", "class 1", "2", "100.0"] in cells(found)
    assert len(found) < 5_000


def test_images_with_several_classes_have_no_matrix_but_weakest_classes(
    told: Callable[..., str], predictions: Made
) -> None:
    targets = [[True, True, False], [False, True, False]]
    said = [[True, False, False], [False, False, False]]
    found = told(predictions(said, targets, KEY, classes=ABC))
    assert "Confusion matrix" not in found and "Most often confused" not in found
    assert ["b", "2", "0.0", "-"] in cells(found)
    assert "0.png (a + b → a); 1.png (b → nothing)" in found


def test_images_that_every_design_gets_wrong_are_shown_with_their_pictures(
    told: Callable[..., str], predictions: Made
) -> None:
    own = predictions([1, 1, 0, 1], [0, 0, 0, 0], KEY)
    other = predictions([1, 1, 1, 0], [0, 0, 0, 0], "lora")
    elsewhere = predictions([0, 0, 0, 0], [0, 0, 0, 0], "ssf", test="other images")
    found = told(own, other, elsewhere, pictures={1: b"jpeg", 2: b"never"})
    assert "2 images of 4: by 2 designs in 2 trainings" in found
    assert found.count("<img") == 1 and "base64,anBlZw==" in found
    assert "Further ones: 0.png (" in found
    alone = told(own)
    assert "3 images; no other design was tested yet, which petlas retrain" in alone
    assert "They are: 0.png" in alone


def test_where_nothing_is_wrong_there_is_nothing_to_list(told: Callable[..., str], predictions: Made) -> None:
    found = told(predictions([0, 1], [0, 1], KEY))
    assert "is wrong about 0: 0.0 %" in found
    assert "Most often confused" not in found and "Weakest" not in found and "NaN" not in found
