"""One local Ray for all tests: it takes seconds to start."""

import logging
from collections.abc import Iterator

import pytest

import petlas.search.runners.ray  # noqa: F401 (before any test imports Ray, which reads what this sets)


@pytest.fixture(scope="session")
def local_ray() -> Iterator[str]:
    """The address of a Ray of this process with room for two trials."""
    import ray

    # The workers inherit the environment, and with it the cache of the decoded images.
    ray.init(
        address="local",
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200 * 2**20,
        log_to_driver=False,
        logging_level=logging.ERROR,
    )
    yield ray.get_runtime_context().gcs_address
    ray.shutdown()
