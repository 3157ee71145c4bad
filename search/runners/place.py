"""Where the work of a run is done, as far as its configuration tells."""

from __future__ import annotations

import os

from petlas.search.config import RunConfig


def on_cluster(config: RunConfig) -> bool:
    """Whether a cluster is named, and this machine's room is no matter.

    Args:
        config: The run's configuration.
    """
    return bool(config.resources.address or os.environ.get("RAY_ADDRESS"))


def elsewhere(config: RunConfig) -> bool:
    """Whether work is done on a cluster, whose devices may be others than those of this machine.

    Args:
        config: The run's configuration.
    """
    return on_cluster(config) and config.resources.runner != "inline"
