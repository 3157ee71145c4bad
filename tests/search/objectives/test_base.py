import subprocess
import sys

import pytest

from petlas.errors import UserError
from petlas.search.objectives import Metric, ObjectiveError, get_objective
from petlas.search.objectives.base import ranked
from petlas.search.objectives.single_label import SingleLabel


def test_a_value_is_told_in_percent_or_as_a_number() -> None:
    assert Metric("accuracy").format(0.9504) == "95.0%"
    assert Metric("error", maximize=False, percent=False).format(12.3456) == "12.35"


def test_a_metric_survives_being_kept_as_plain_data() -> None:
    metric = Metric("error", maximize=False, paired=True, percent=False)
    assert Metric.from_dict(metric.to_dict()) == metric


def test_the_first_metric_is_the_usual_one_and_others_are_taken_by_name() -> None:
    assert SingleLabel().metric.name == "accuracy"
    assert SingleLabel("mean_per_class").metric.name == "mean_per_class"


@pytest.mark.parametrize(
    ("kind", "metric", "message"),
    [
        ("single_label", "acuracy", "single_label task, got acuracy; did you mean accuracy"),
        ("single_label", "mAP", "single_label task, got mAP; take one of accuracy, mean_per_class"),
        ("multi_label", "accuracy", "multi_label task, got accuracy; take one of mAP"),
        ("boxes", None, "one of single_label, multi_label, got boxes"),
    ],
)
def test_an_unknown_metric_or_kind_is_refused_with_those_that_there_are(
    kind: str, metric: str | None, message: str
) -> None:
    with pytest.raises(ObjectiveError, match=message) as caught:
        get_objective(kind, metric)
    assert isinstance(caught.value, UserError)


def test_classes_are_ranked_by_confidence_and_equal_ones_keep_their_order() -> None:
    assert ranked([0.1, 0.4, 0.4, 0.2], "abcd") == [("b", 0.4), ("c", 0.4), ("d", 0.2), ("a", 0.1)]


def test_objectives_and_metrics_are_known_without_torch() -> None:
    code = "import sys; from petlas.search.objectives import OBJECTIVES, Metric; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
