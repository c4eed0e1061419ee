"""Makes ``docs/reference/executor-contract.md`` from the rules of the kit."""

from __future__ import annotations

from collections.abc import Iterator

from treadle.testing._rules import RULES

HEAD = """\
# The contract of executors

What every executor does right, whoever wrote it: the rules of `treadle.testing.ExecutorContract` and of `treadle plugins test`.
[How to test an executor](../how-to/test-an-executor.md) shows both. The test of a rule is called `test_` and its name.

A rule binds a distribution whose floor (`treadle>=X`) is at least the version that first had the rule; to an older one it is
advice: its test shows as xfailed, and `treadle plugins test` says `advice`. The one way out of a rule is to override its test
under `@pytest.mark.xfail(reason=...)`; the test `test_nothing_overridden` fails for any other.
"""
STATIC = """
## Rules that look at it

They hold or not without a run: the column *declared* of `treadle plugins test`.
"""
RUNNABLE = """
## Rules that run it

Each call goes through the real runner, on every event loop that the executor declares, in an empty folder, with fakes for its
clients: the column *tested*.
"""


def page() -> str:
    """The whole page."""
    kinds = {"static": STATIC, "runnable": RUNNABLE}
    return HEAD + "".join(f"{text}\n" + "\n".join(_table(kind)) + "\n" for kind, text in kinds.items())


def _table(kind: str) -> Iterator[str]:
    yield "| rule | since | what holds | when it does not |"
    yield "|---|---|---|---|"
    for rule in RULES:
        if rule.kind == kind:
            yield f"| `{rule.id}` | {rule.since} | {rule.title} | {rule.remedy} |"
