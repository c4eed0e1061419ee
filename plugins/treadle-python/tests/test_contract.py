"""``python.call`` does what every executor has to."""

from treadle.testing import ExecutorContract
from treadle_python import Python, call


class TestCall(ExecutorContract):
    executor = call
    grace_s = 30.0  # a busy machine is late
    example = {"function": "math:sqrt", "args": [9]}
    expected = 3.0
    bad_example = {"function": "os:getcwd"}
    clients = {"python": Python(allow=("math",))}
