"""The hooks. Each docstring says when it fires, who wins, what None means, and what raising means.

pluggy stays synchronous: hooks *build*, the runner *awaits*. ``execute`` answers a zero-argument async function (a thunk),
so an ordinary pluggy wrapper can time, cache, retry, replace or refuse a call.

An implementation takes the arguments that it needs, by name; hooks may give more with any version. One that a coming version
no longer gives is marked with ``HookArgumentWarning`` first, and ``treadle plugins doctor`` names who still asks for it.
"""

from __future__ import annotations

from collections.abc import Iterable

import pluggy

from treadle._models import Call, GiveUp, Issue, Outcome, Record, RetryAfter, SpanRecord, Work
from treadle.ports import Context, Redactor, RunSurroundings

__all__ = ["PROJECT", "ExecutorHooks", "HookArgumentWarning", "RunHooks", "hookimpl"]

PROJECT = "treadle"
"""pluggy's project name: what ``hookimpl`` markers carry."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a policy or sink as the implementation of the hook of its name; takes pluggy's options."""


class HookArgumentWarning(DeprecationWarning):
    """A hook implementation asks for an argument that a coming version of treadle will no longer give.

    A specification announces it: ``@hookspec(warn_on_impl_args={"loop": HookArgumentWarning("loop", removed_in="2.0")})``.

    Args:
        argument: Its name.
        removed_in: The first version without it.
        remedy: What to do instead, like ``take 'ctx'``.
    """

    def __init__(self, argument: str, *, removed_in: str, remedy: str = "leave it out") -> None:
        self.argument, self.removed_in, self.remedy = argument, removed_in, remedy
        super().__init__(f"{argument!r}, which treadle {removed_in} will no longer give; {remedy}")


class ExecutorHooks:
    """Hooks of one executor's scope: core's defaults, the executor, then the active policies; last registered wins."""

    @hookspec(firstresult=True)
    def execute(self, call: Call, ctx: Context) -> Work | None:
        """Build the work of one attempt; do not start it.

        *When:* once per attempt, after inputs, secrets and needs are ready. *Who wins:* the first answer that is not None;
        policies are asked before the executor, wrappers see (and may replace) the answer. *None:* no opinion; when nobody
        answers the attempt fails. *Raising:* the attempt fails with that exception.
        """

    @hookspec
    def wrap_work(self, call: Call, ctx: Context, work: Work) -> Work | None:
        """Answer what is done in the place of the work, like something that does the work in its turn; do not start either.

        What a wrapper of ``execute`` may do to an answer, for less: a plain function that is given the answer.

        *When:* after ``execute`` was answered with work. *Who wins:* nobody: each is given what the one before it answered, in
        the order of the wrappers of ``execute`` and among them: the last policy is outermost, unless ``tryfirst`` or
        ``trylast`` says otherwise. It cannot be wrapped itself. *None:* the work stays as it is. *Raising:* the attempt
        fails with that exception.
        """

    @hookspec
    def validate_output(self, call: Call, output: object) -> Iterable[Issue] | None:
        """Say what is wrong with an output.

        *When:* after the work returned, before the output is recorded. *Who wins:* nobody: answers are added up.
        *None:* nothing to say. *Raising:* is an issue itself; the others are still asked.
        """

    @hookspec(firstresult=True)
    def retry_policy(self, call: Call, error: Exception) -> RetryAfter | GiveUp | None:
        """Propose whether to try again after ``error``.

        *When:* after an attempt failed, unless the file's ``retry_on``/``no_retry_on`` decided already. *Who wins:* the
        first answer that is not None: policies, then the executor, then its family, then core's defaults. The scheduler
        has the last word: no answer exceeds ``max_attempts``. *None:* no opinion. *Raising:* counts as None, logged once.
        """

    @hookspec
    def end_attempt(self, call: Call, outcome: Outcome) -> None:
        """Learn how an attempt ended.

        *When:* once for each ``execute``, when the output was checked, retries were proposed and secrets taken out, before the
        outcome is recorded. *Who wins:* everybody is called. *Raising:* logged once; the others are still called.
        """


class RunHooks:
    """Hooks of one run's scope: policies and sinks. Must return in microseconds; slow sinks keep their own queue."""

    @hookspec
    def open_run(self, run: RunSurroundings) -> None:
        """Learn of a run that this process begins to drive.

        *When:* once per stint, before anything of it is recorded or performed. *Who wins:* everybody is called.
        *Raising:* the run does not start.
        """

    @hookspec
    def close_run(self, run: RunSurroundings) -> None:
        """Learn that this process no longer drives the run: it ended, was let go of, or could not be driven.

        *When:* once for each ``open_run``, whoever raised there. *Who wins:* everybody is called. *Raising:* logged once;
        the others are still called.
        """

    @hookspec
    def make_redactor(self, run: RunSurroundings) -> Redactor | None:
        """Answer what takes secrets out of all that leaves the run: before it is recorded, shown or sent.

        It is given each error, client span, reason and word of progress, and outputs when it says that it covers them.

        *When:* once per stint, after ``open_run``. *Who wins:* nobody: each redactor is given what the one before it left,
        in the order of the configuration. *None:* nothing to hide. *Raising:* the run does not start. A redactor that raises
        later is logged once, and what it was given is hidden whole.
        """

    @hookspec
    def emit_span(self, span: SpanRecord) -> None:
        """Receive a finished span of treadle, sampled or not, with or without a provider.

        *When:* at the end of each attempt, step and run. *Who wins:* everybody is called. *Raising:* logged once, noted on
        the run's span; the others are still called.
        """

    @hookspec
    def record_event(self, record: Record) -> None:
        """Receive an entry of the run's log.

        *When:* after the entry is durable, in order. *Who wins:* everybody is called. *Raising:* logged once, noted on
        the run's span; the others are still called.
        """
