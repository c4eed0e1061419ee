"""``shell.run`` does what every executor has to."""

from treadle.testing import ExecutorContract
from treadle_shell import run
from treadle_shell.testing import FakeShell


class TestRun(ExecutorContract):
    executor = run
    grace_s = 30.0  # a busy machine is late
    bad_example = {"argv": []}
    clients = {"shell": FakeShell()}
