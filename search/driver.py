"""Search a run from its start, or from where it stands, to its end."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import yaml
from optuna.trial import FrozenTrial

from petlas.petl.design import Design
from petlas.search.config import RunConfig
from petlas.search.record import design_of
from petlas.search.run_folder import opened, write_text
from petlas.search.session import Session
from petlas.search.training import fresh_backbone, open_run_task

log = logging.getLogger("petlas")


def search(config: RunConfig) -> FrozenTrial | None:
    """Run or resume the search of a configuration.

    Args:
        config: The run's configuration. Whatever can be wrong with it, the task or the backbone is found before the
            run folder is made.

    Returns:
        The best trial, or None if no trial came to its end.
    """
    session = Session(config)
    open_run_task(config)
    fresh_backbone(config)
    with opened(config) as folder:
        session.start()
        if session.exhausted():
            log.info("%s has all its %d trials; raise search.trials to go on", folder, config.search.trials)
        else:
            try:
                _runner(config)(session)
            except KeyboardInterrupt:
                session.record.recover()
                raise
        best = session.record.best()
        if best is not None:
            _hand_over(design_of(best), folder / "best")
        return best


def _hand_over(design: Design, folder: Path) -> None:
    """Write the best design; an adapter of another design that lies beside it is named as such."""
    path, adapter = folder / "design.yaml", folder / "adapter.safetensors"
    if adapter.exists() and Design.load(path) != design:
        log.warning("%s is of a design that is no longer the best; petlas retrain makes the new one", adapter)
    write_text(path, yaml.safe_dump(design.to_dict(), sort_keys=False))


def _runner(config: RunConfig) -> Callable[[Session], None]:
    if config.resources.runner == "inline":
        from petlas.search.inline_runner import run_inline

        return run_inline
    from petlas.search.ray_runner import run_ray

    return run_ray
