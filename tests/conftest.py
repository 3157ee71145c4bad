"""What all tests share."""

import os
from collections.abc import Generator

import pytest

os.environ.setdefault("RAY_worker_niceness", "0")
"""Ray's workers are not to starve beside the other processes of the tests."""


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for Ray comes first, beside all that only computes; that of several drivers first in another process.

    pytest-xdist gives each process an equal part of the tests in order, and moves the last of a part that ends late.
    """
    items.sort(key=lambda item: "runners" not in item.path.parts)
    drivers = [item for item in items if item.path.name == "test_drivers.py"]
    second = len(items) // int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    others = [item for item in items if item not in drivers]
    items[:] = [*others[:second], *drivers, *others[second:]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names of files may hold what is no text: captured, it must not stop a test run in several processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
