"""What a worker does for a trial."""

from __future__ import annotations

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.record import FINALIST, RANKING, SCORE
from petlas.search.run_folder import CHECKPOINTS
from petlas.search.scoring import ScoringRun
from petlas.search.supernet import shared_supernet
from petlas.search.training import TrainingRun, Work


def open_work(config: RunConfig, design: Design, stage: str) -> Work:
    """Score a design, or train it on its own: from the supernet's weights if the run says so."""
    if stage == SCORE:
        return ScoringRun(config, design)
    inherits = config.search.inherit and stage in (FINALIST, RANKING)
    initial = shared_supernet(config.model_dump_json()).inherited(design) if inherits else None
    return TrainingRun(config, design, config.seed, initial=initial, checkpoints=config.folder / CHECKPOINTS)
