"""What holds for every test of the checkout."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator

import hypothesis
import pytest

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    # A shell starts what goes on in the background so, and children inherit it: no Ctrl-C of a test would reach them.
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A law holds at any speed; without this, Hypothesis ends an example that took 200 ms because the machine was busy.
hypothesis.settings.register_profile("patient", parent=hypothesis.settings(), deadline=None)
hypothesis.settings.load_profile("patient")


_BEFORE = pytest.StashKey[frozenset[threading.Thread]]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    """Note which threads there are before a test: its fixtures may have some of their own."""
    yield
    item.stash[_BEFORE] = frozenset(threading.enumerate())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item) -> Iterator[None]:
    """No test leaves a thread of treadle's behind: it would go on in the middle of others."""
    yield
    until = time.monotonic() + 60
    while left := _threads() - item.stash.get(_BEFORE, frozenset[threading.Thread]()):
        assert time.monotonic() < until, f"threads were left behind: {sorted(thread.name for thread in left)}"
        time.sleep(0.01)


def _threads() -> set[threading.Thread]:
    return {thread for thread in threading.enumerate() if thread.name.startswith("treadle") and thread.is_alive()}


@pytest.fixture
def open_files() -> Callable[[], Counter[str]]:
    """What this process has open, when asked: unlike the number of descriptors it tells what others close meanwhile."""

    def names() -> Counter[str]:
        found: Counter[str] = Counter()
        for entry in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one by which they are listed
                found[os.readlink(f"/proc/self/fd/{entry}")] += 1
        return found

    return names


@pytest.fixture(scope="session", autouse=True)
def state_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No run of a test is ever kept in the real user's state directory."""
    before = os.environ.get("XDG_STATE_HOME")
    os.environ["XDG_STATE_HOME"] = str(tmp_path_factory.mktemp("state"))
    yield
    if before is None:
        del os.environ["XDG_STATE_HOME"]
    else:
        os.environ["XDG_STATE_HOME"] = before
