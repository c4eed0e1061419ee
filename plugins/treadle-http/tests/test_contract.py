"""``http.request`` does what every executor has to."""

from treadle.testing import ExecutorContract
from treadle_http import request
from treadle_http.testing import FakeHttp


class TestRequest(ExecutorContract):
    executor = request
    grace_s = 30.0  # a busy machine is late
    example = {"url": "https://example.org/", "method": "POST", "json": {"name": "value"}, "headers": {"x-key": "secret"}}
    bad_example = {"url": "https://example.org/", "json": {}, "text": "two bodies"}
    clients = {"http": FakeHttp()}
