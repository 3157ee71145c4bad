"""What all tests share."""

import gc
import os
from collections.abc import Generator

import pytest

os.environ.setdefault("RAY_worker_niceness", "0")
"""Ray's workers are not to starve beside the other processes of the tests."""
os.environ.setdefault("OMP_NUM_THREADS", "1")
"""Nor are threads of processes that the tests start."""
os.environ.setdefault("RAY_LOG_MONITOR_MANY_FILES_THRESHOLD", "0")
os.environ.setdefault("LOG_NAME_UPDATE_INTERVAL_S", "60")
"""Ray looks for its workers' logs, which nobody reads here, once a minute and not ten times a second."""


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, object, object]:
    """The garbage collector need not look at what is imported and collected, which stays: that takes seconds."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


@pytest.fixture(scope="session", autouse=True)
def _no_power_cut() -> Generator[None]:
    """Nothing needs to be on the disk when a process ends, however it ends; a test says that it is asked for."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda file: None)
        yield


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What waits for Ray comes first: in one of several processes, which starts it once, beside all that only computes.

    pytest-xdist gives each process a part of the tests in their order, and moves the last of a part where it ends late.
    """
    items.sort(key=lambda item: "runners" not in item.path.parts)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Names of files may hold what is no text: captured, it must not stop a test run in several processes."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report
