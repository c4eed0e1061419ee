"""``shell.run`` does what every executor has to."""

from treadle.testing import ExecutorContract
from treadle_shell import run
from treadle_shell.testing import FakeShell


class TestRun(ExecutorContract):
    executor = run
    bad_example = {"argv": []}
    clients = {"shell": FakeShell()}
