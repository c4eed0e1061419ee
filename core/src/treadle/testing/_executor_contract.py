"""The kit for authors of executors: a class to derive a test from."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import ClassVar, Protocol

from treadle._executor import BACKENDS, executor_mark
from treadle._models import Json
from treadle.testing._rules import RULES, Rule, judge
from treadle.testing._subject import UNKNOWN, Subject, make_subject

__all__ = ["ExecutorContract"]

_BY_ID = {rule.id: rule for rule in RULES}


class _Metafunc(Protocol):
    """What is used of pytest's object of that name."""

    fixturenames: list[str]

    def parametrize(self, argnames: str, argvalues: Sequence[str]) -> None:
        """Make one test of each value."""


class ExecutorContract:
    """Everything that an executor has to do right, as tests; derive a class from it whose name begins with ``Test``.

    ```python
    class TestSlug(ExecutorContract):
        executor = slug
        example = {"text": "A b"}
    ```

    Each rule is one test, on every event loop that the executor declares where it has to be run. A rule that is newer than
    the core that the distribution declares as its floor is advice: it shows as xfailed, not as failed. The one way out of a
    rule is to override its test under ``@pytest.mark.xfail(reason=...)``.

    Attributes:
        executor: The function or class.
        example: Inputs that must work; those that it declares (``@executor(examples=...)``) when there are none here.
        examples: Several of them.
        bad_example: Inputs of the right types that it has to refuse.
        expected: The output that the first example must give.
        clients: Need -> a client (with ``open()``), or the very object that the executor receives.
        grace_s: How long after its deadline it may still run.
    """

    executor: ClassVar[object]
    example: Mapping[str, Json] | None = None
    examples: Sequence[Mapping[str, Json]] = ()
    bad_example: Mapping[str, Json] | None = None
    expected: object = UNKNOWN
    clients: Mapping[str, object] = {}
    grace_s: float = 3.0

    def prepare(self, folder: Path) -> None:
        """Lay what the examples need into ``folder``: empty, and the working directory of each run. Override it."""

    def effects_seen(self) -> object:
        """What the executor has done so far, comparable. Override it when that does not show in its folder."""
        return None

    # -- the rules -----------------------------------------------------------------------------------------------------

    def test_name(self) -> None:
        """See the rule ``name``."""
        self._hold("name")

    def test_doc(self) -> None:
        """See the rule ``doc``."""
        self._hold("doc")

    def test_types(self) -> None:
        """See the rule ``types``."""
        self._hold("types")

    def test_schema(self) -> None:
        """See the rule ``schema``."""
        self._hold("schema")

    def test_entry_point(self) -> None:
        """See the rule ``entry_point``."""
        self._hold("entry_point")

    def test_imports(self) -> None:
        """See the rule ``imports``."""
        self._hold("imports")

    def test_backends(self, backend: str) -> None:
        """See the rule ``backends``."""
        self._hold("backends", backend)

    def test_json(self, backend: str) -> None:
        """See the rule ``json``."""
        self._hold("json", backend)

    def test_output(self, backend: str) -> None:
        """See the rule ``output``."""
        self._hold("output", backend)

    def test_bad_input(self, backend: str) -> None:
        """See the rule ``bad_input``."""
        self._hold("bad_input", backend)

    def test_cancellation(self, backend: str) -> None:
        """See the rule ``cancellation``."""
        self._hold("cancellation", backend)

    def test_deadline(self, backend: str) -> None:
        """See the rule ``deadline``."""
        self._hold("deadline", backend)

    def test_clients(self, backend: str) -> None:
        """See the rule ``clients``."""
        self._hold("clients", backend)

    def test_effects(self, backend: str) -> None:
        """See the rule ``effects``."""
        self._hold("effects", backend)

    def test_spans(self, backend: str) -> None:
        """See the rule ``spans``."""
        self._hold("spans", backend)

    def test_secrets(self, backend: str) -> None:
        """See the rule ``secrets``."""
        self._hold("secrets", backend)

    def test_nothing_overridden(self) -> None:
        """No rule is switched off in silence: an override says why, as the reason of an xfail."""
        silent = [rule.id for rule in RULES if not self._is_honest(rule)]
        assert not silent, (
            f"{type(self).__name__} overrides the rules {', '.join(silent)} without saying why.\n"
            f"Remedy: put @pytest.mark.xfail(reason='...') on the test, or remove it."
        )

    # -- how they are held ---------------------------------------------------------------------------------------------

    def subject(self) -> Subject:
        """The executor with all that this class says of it; treadle's own."""
        cls = type(self)
        examples = [self.example, *self.examples] if self.example is not None else list(self.examples)
        return make_subject(
            _executor_of(self),
            examples=[example for example in examples if example is not None],
            bad_example=self.bad_example,
            clients=self.clients,
            expected=self.expected,
            effects_seen=None if cls.effects_seen is ExecutorContract.effects_seen else self.effects_seen,
            prepare=self.prepare,
            grace_s=self.grace_s,
            tested_in=cls.__module__,
        )

    def pytest_generate_tests(self, metafunc: _Metafunc) -> None:
        """Make one test of each event loop that the executor declares; called by pytest."""
        if "backend" in metafunc.fixturenames:
            mark = executor_mark(_executor_of(self))
            metafunc.parametrize("backend", mark.backends if mark else BACKENDS)

    def _hold(self, rule: str, backend: str = "") -> None:
        verdict = judge(self.subject(), _BY_ID[rule], backend)
        if verdict.floor:
            # Not a name at the top: workflows are tested with this package too, and need no pytest for it.
            pytest = importlib.import_module("pytest")
            pytest.xfail(f"only advice, since the floor of its distribution is treadle {verdict.floor}: {verdict.text}")
        assert verdict.is_kept, verdict.text

    @classmethod
    def _is_honest(cls, rule: Rule) -> bool:
        """Whether a rule's test is the kit's own, or says as an xfail why it is not."""
        name = f"test_{rule.id}"
        found = inspect.getattr_static(cls, name, None)
        if found is inspect.getattr_static(ExecutorContract, name):
            return True
        marks = getattr(found, "pytestmark", [])
        return any(mark.name == "xfail" and mark.kwargs.get("reason") for mark in marks)


def _executor_of(contract: ExecutorContract) -> object:
    """The executor itself: a function that is asked of an instance would come as a method."""
    own = vars(contract).get("executor")
    found = own if own is not None else inspect.getattr_static(type(contract), "executor", None)
    if found is None:
        raise TypeError(f"{type(contract).__name__} does not say which executor it tests. Add: executor = ...")
    return found.__func__ if isinstance(found, staticmethod) else found
