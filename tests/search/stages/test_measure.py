from collections.abc import Callable

from petlas.search.config import RunConfig
from petlas.search.stages.doing import do_stages
from petlas.search.stages.measure import MeasureStage
from petlas.search.workbench import Workbench


def test_what_is_measured_for_a_plan_is_handed_over_and_no_folder_made(make: Callable[..., RunConfig]) -> None:
    config = make()
    stage = MeasureStage(Workbench(config))
    do_stages([stage], jobs=1)
    forward, step, flops, pixels = stage.found()
    assert 0 < forward < step
    assert (type(flops), flops > 10**6, pixels) == (int, True, 3 * 32 * 32)
    assert not config.folder.exists()
