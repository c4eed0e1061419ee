"""``shell.run`` does what every executor has to."""

from treadle.testing import ExecutorContract
from treadle_shell import run


class TestRun(ExecutorContract):
    executor = run
    bad_example = {"argv": []}
