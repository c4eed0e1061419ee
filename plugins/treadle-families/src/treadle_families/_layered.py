"""What the four families share: the name in their messages, retries without a run, and executors of the older form."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, ClassVar, cast

import anyio
import anyio.to_thread
from treadle import Context, Executor, GiveUp, Issue, RetryAfter, is_transient
from treadle.errors import BindError, OutputInvalidError, TreadleError

Heartbeat = Callable[[], object]
"""Called while the work goes on; what it returns is awaited when it can be."""

_OLDER_FORM = ("input_data", "heartbeat_fn")

_log = logging.getLogger("treadle.families")


class OutputStillInvalidError(OutputInvalidError):
    """An output that broke its contract in every attempt."""

    def __init__(self, executor: str, issues: list[str], max_retries: int) -> None:
        self.executor, self.issues = executor, tuple(issues)
        TreadleError.__init__(
            self,
            f"Output validation failed after {max_retries} retries: {issues}",
            f"Make {executor!r} return what its family asks for, or give it another family.",
        )


class _InvalidOutputError(Exception):
    """One attempt whose output breaks its contract."""

    def __init__(self, texts: list[str]) -> None:
        self.texts = texts
        super().__init__("; ".join(texts))


class LayeredExecutor(Executor):
    """Base of the four families, and of your own: its keys are checked, and it can be retried without a run.

    ``execute`` may have treadle's form, ``execute(self, topic: str, limit: int = 10)``, or take all of its inputs at once:
    ``execute(self, input_data, heartbeat_fn)``. Both run in workflows.
    """

    retry_preset: ClassVar[str | None] = "layered"

    def __init_subclass__(cls, **options: Any) -> None:
        """Let ``execute(self, input_data, heartbeat_fn)`` be called by a run, too."""
        super().__init_subclass__(**options)
        execute = cls.__dict__.get("execute")
        if inspect.isfunction(execute) and _parameters(execute) == _OLDER_FORM:
            cls.execute = _both_ways(execute)  # type: ignore[attr-defined]  # subclasses have it

    @property
    def domain(self) -> str:
        """The family, in the word of the layered architecture."""
        return self.family

    @property
    def task_type(self) -> str:
        """The executor's name; that of its class when it has none."""
        return self.executor_name or type(self).__name__

    def validate_output(self, output: object) -> list[Issue | str]:
        """What is wrong with an output; empty when all is well. Extend it through ``super()``."""
        return list(super().validate_output(output) or ())

    async def execute_with_retry(
        self,
        input_data: Mapping[str, object],
        heartbeat_fn: Heartbeat | None = None,
        max_retries: int = 2,
        base_delay: float = 2.0,
    ) -> Any:
        """Execute without a run: check the output, and try again what may heal, with waits that double and have no cap.

        Args:
            input_data: The inputs by name.
            heartbeat_fn: Given to an ``execute`` that takes one.
            max_retries: Further attempts after the first.
            base_delay: Seconds before the second attempt.

        Returns:
            The first valid output.

        Raises:
            OutputStillInvalidError: The output was invalid in every attempt; it is a RuntimeError.
            BindError: ``execute`` needs clients or the context, which only a run has.
        """
        if max_retries < 0:
            raise ValueError(f"max_retries is {max_retries}; it must be 0 or more.")
        attempt = 0
        while True:
            try:
                return await self._execute_once(input_data, heartbeat_fn)
            except _InvalidOutputError as error:
                if attempt == max_retries:
                    raise OutputStillInvalidError(self.task_type, error.texts, max_retries) from None
                failure: Exception = error
            except Exception as error:
                if attempt == max_retries or not self._is_retryable(error):
                    raise
                failure = error
            delay, said = base_delay * 2**attempt, str(failure).partition("\n")[0]
            attempt += 1
            _log.warning("[executor] %s attempt %d failed, retry in %ss: %s", self.task_type, attempt, delay, said)
            await anyio.sleep(delay)

    async def _execute_once(self, input_data: Mapping[str, object], heartbeat_fn: Heartbeat | None) -> Any:
        execute = getattr(self, "execute", None)
        if execute is None:
            raise BindError(f"{type(self).__name__} has no method 'execute'.", "Add 'async def execute(self, ...)'.")
        output = await _called(_given(execute, input_data, heartbeat_fn))
        issues = [str(issue) for issue in self.validate_output(output)]
        if issues:
            raise _InvalidOutputError(issues)
        return output

    def _is_retryable(self, error: Exception) -> bool:
        """Whether another attempt may help: what ``retry_policy`` says, else treadle's own judgement."""
        answer = self.retry_policy(error)
        if isinstance(answer, (RetryAfter, GiveUp)):
            return isinstance(answer, RetryAfter)
        return is_transient(error)


def _parameters(execute: Callable[..., object]) -> tuple[str, ...]:
    return tuple(inspect.signature(execute).parameters)[1:]


def _both_ways(execute: Callable[..., object]) -> Callable[..., object]:
    """``execute`` for a run, which gives the context and inputs by name, and for callers that give all inputs as one."""

    @functools.wraps(execute)
    async def both(self: Executor, *arguments: object, **inputs: object) -> object:
        if (arguments and isinstance(arguments[0], Mapping)) or "input_data" in inputs:
            given = inspect.signature(execute).bind_partial(self, *arguments, **inputs)
            given.arguments.setdefault("heartbeat_fn", None)
            return await _called(functools.partial(execute, *given.args, **given.kwargs))
        return await _called(functools.partial(execute, self, inputs, _beat_of(arguments[0])))

    # What a run reads: the context, then any inputs.
    del both.__wrapped__  # functools.wraps put it there
    parameter = inspect.Parameter
    parameters = [
        parameter("self", parameter.POSITIONAL_ONLY),
        parameter("ctx", parameter.POSITIONAL_ONLY, annotation=Context),
        parameter("inputs", parameter.VAR_KEYWORD, annotation=object),
    ]
    both.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # inspect reads it
    both.__takes_all_at_once__ = True  # type: ignore[attr-defined]  # read by _given
    both.__annotations__ = {"ctx": Context, "inputs": object} | _return_of(execute)
    return both


def _return_of(execute: Callable[..., object]) -> dict[str, object]:
    """The declared type of the output; a plain ``dict`` says no more than the keys do."""
    said = execute.__annotations__.get("return", inspect.Signature.empty)
    return {} if said is inspect.Signature.empty else {"return": dict if said == "dict" else said}


def _beat_of(context: object) -> Callable[[], Awaitable[None]]:
    """A heartbeat for the older form: that of the run, where it has one; it may be awaited or not."""
    beat = getattr(context, "heartbeat", None)

    def heartbeat_fn(*_: object, **__: object) -> Awaitable[None]:
        if beat is not None:
            beat()
        return _nothing()

    return heartbeat_fn


class _Nothing:
    """Something that may be awaited, and need not."""

    def __await__(self) -> Any:
        return iter(())


def _nothing() -> Awaitable[None]:
    return _Nothing()


def _given(
    execute: Callable[..., object], input_data: Mapping[str, object], heartbeat_fn: Heartbeat | None
) -> Callable[[], object]:
    """``execute`` with its inputs, in whichever form it takes them."""
    if hasattr(execute, "__takes_all_at_once__"):
        return functools.partial(execute, dict(input_data), heartbeat_fn)
    needs = [each.name for each in inspect.signature(execute).parameters.values() if each.kind is each.POSITIONAL_ONLY]
    if needs:
        raise BindError(
            f"execute needs {', '.join(needs)}, which only a run gives.",
            "Call it from a workflow or a treadle.Pipeline, which retry it the same way.",
        )
    return functools.partial(execute, **input_data)


async def _called(work: Callable[[], object]) -> object:
    """What the work gives; a plain ``def`` runs in a worker thread."""
    function = cast("Any", work)
    while isinstance(function, functools.partial):
        function = function.func
    result = work() if inspect.iscoroutinefunction(function) else await anyio.to_thread.run_sync(work)
    return await result if inspect.isawaitable(result) else result
