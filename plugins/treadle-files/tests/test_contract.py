"""The executors for files do what every executor has to."""

from treadle.testing import ExecutorContract
from treadle_files import copy, delete, glob, list_entries, move, read, write
from treadle_files.testing import FakeFiles


class TestRead(ExecutorContract):
    executor = read
    grace_s = 30.0  # a busy machine is late
    bad_example = {"path": "../README.md"}
    clients = {"files": FakeFiles()}


class TestWrite(ExecutorContract):
    executor = write
    grace_s = 30.0  # a busy machine is late
    bad_example = {"path": "../out", "text": "hello"}
    clients = {"files": FakeFiles()}


class TestGlob(ExecutorContract):
    executor = glob
    grace_s = 30.0  # a busy machine is late
    bad_example = {"pattern": "../*"}
    clients = {"files": FakeFiles()}


class TestList(ExecutorContract):
    executor = list_entries
    grace_s = 30.0  # a busy machine is late
    bad_example = {"path": "../"}
    clients = {"files": FakeFiles()}


class TestCopy(ExecutorContract):
    executor = copy
    grace_s = 30.0  # a busy machine is late
    bad_example = {"path": "README.md", "to": "../out"}
    clients = {"files": FakeFiles()}


class TestMove(ExecutorContract):
    executor = move
    grace_s = 30.0  # a busy machine is late
    bad_example = {"path": "README.md", "to": "../out"}
    clients = {"files": FakeFiles()}


class TestDelete(ExecutorContract):
    executor = delete
    grace_s = 30.0  # a busy machine is late
    bad_example = {"path": "../README.md"}
    clients = {"files": FakeFiles()}
