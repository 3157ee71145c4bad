"""One local Ray for the tests of a module: it takes seconds to start."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module")
def local_ray() -> Iterator[None]:
    from petlas.search.runners.ray.cluster import ray  # with what petlas sets for Ray's import

    # The workers inherit the environment, and with it the cache of the decoded images.
    ray.init(
        address="local",
        num_cpus=1,
        include_dashboard=False,
        object_store_memory=100 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield
    ray.shutdown()
