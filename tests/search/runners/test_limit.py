import signal
import subprocess
import sys
import threading
import time

import pytest

from petlas.search.runners import limit as limit_module
from petlas.search.runners.limit import Limit, TookTooLong, too_long


def test_what_hangs_is_ended_with_the_reason_and_the_alarm_is_off_afterwards() -> None:
    before, limit = signal.getsignal(signal.SIGALRM), Limit(0.2)
    start = time.monotonic()
    with pytest.raises(TookTooLong, match=r"resources\.trial_timeout=0\.2 s"), limit.watch():
        time.sleep(5)
    assert time.monotonic() - start < 3
    assert signal.getsignal(signal.SIGALRM) is before
    assert signal.getitimer(signal.ITIMER_REAL) == (0.0, 0.0)


def test_the_limit_is_for_all_of_it() -> None:
    limit = Limit(0.3)
    with limit.watch():
        time.sleep(0.2)
    with pytest.raises(TookTooLong), limit.watch():
        time.sleep(0.2)


@pytest.mark.parametrize("seconds", [None, 60.0])
def test_what_is_done_in_time_is_left_alone(seconds: float | None) -> None:
    with Limit(seconds, end_process=True).watch():
        pass


def test_another_thread_has_no_alarm() -> None:
    found: list[str] = []

    def work() -> None:
        with Limit(0.01).watch():
            time.sleep(0.05)
            found.append("done")

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == ["done"]


def test_a_process_that_may_be_ended_is_where_nothing_else_helps() -> None:
    code = (
        "import signal\nfrom petlas.search.runners import limit\nlimit._GRACE = 0.3\n"
        "with limit.Limit(0.2, end_process=True).watch():\n"
        "    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])\n"  # as in foreign code, the alarm is not heard
        "    import time; time.sleep(60)\n"
    )
    start = time.monotonic()
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "Timeout" in done.stderr
    assert time.monotonic() - start < 50
    assert limit_module._GRACE > 1


def test_the_reason_names_the_setting() -> None:
    assert too_long(90.0).startswith("a trial may take resources.trial_timeout=90 s")
