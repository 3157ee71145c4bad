"""What another process is handed to do a run's work, as the run's workbench has it."""

from __future__ import annotations

import json
from collections.abc import Iterable
from functools import partial

from petlas.search.supplies import BACKBONE, COSTS, TASK, Supply, images_of, packed
from petlas.search.workbench import Workbench


def supplies_of(bench: Workbench, views: Iterable[str] = ("trainval",)) -> list[Supply]:
    """All that a process needs to do a run's work without a file of the task or of the backbone; and figures.

    Args:
        bench: The run's workbench.
        views: Of `trainval` and `test`, those whose images the work reads.
    """
    config, task, inputs = bench.config, bench.task, bench.inputs
    sources = {view: task.views[view].source for view in views}
    prints = {view: source.fingerprint() for view, source in sources.items()}  # the task takes the hashes along
    about = f"{config.task.model_dump_json()} {prints} {task.fingerprint}"
    weights = sum(value.nbytes for value in bench.pristine.state_dict().values())
    own = config.backbone
    how = f"{own.name} {own.checkpoint} {own.img_size} {config.train.drop_path} {bench.weights}"
    found = [
        Supply(TASK, f"{TASK} {about}", 100 * sum(map(len, sources.values())), lambda: task),
        Supply(BACKBONE, f"{BACKBONE} {how}", weights, lambda: packed(bench.pristine)),
    ]
    for view, source in sources.items():
        key = f"images {prints[view]} {inputs.size} {inputs.interpolation} {inputs.crop}"
        make = partial(bench.decoded, task.views[view])
        found.append(Supply(images_of(view), key, len(source) * 3 * inputs.size**2, make))
    if "costs" in vars(bench):  # all processes count by the same figures, wherever they were measured
        shares = bench.costs.shares
        key = f"{COSTS} {json.dumps(shares, sort_keys=True)}"
        found.append(Supply(COSTS, key, len(key), lambda: shares, on_disk=False))
    return found
