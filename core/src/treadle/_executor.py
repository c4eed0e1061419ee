"""The marks that authors put on executors and clients, and the base class of the family ``general``."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from typing import ClassVar, Literal, TypeVar, cast, get_args

import attrs

from treadle._models import GiveUp, Issue, Json, RetryAfter
from treadle.errors import BindError

Effects = Literal["none", "idempotent", "unsafe"]
"""What happens when an executor runs twice: nothing, the same again, or harm."""

BACKENDS = ("asyncio", "trio")

_NAME = re.compile(r"[A-Za-z0-9_-]+(\.[A-Za-z0-9_-]+)*")
_EXECUTOR, _CLIENT = "__treadle_executor__", "__treadle_client__"
_Marked = TypeVar("_Marked")


@attrs.frozen
class ExecutorMark:
    """What ``@executor`` says of a function or class.

    Attributes:
        name: What workflows write after ``uses``.
        family: Whose output contract it keeps.
        effects: What running it twice does; None when its author did not say.
        backends: Event loops that it runs on.
        examples: Inputs that must work; the conformance kit and the documentation use them.
        isolation: ``process`` for a supervised child, None for the runner's own process.
    """

    name: str
    family: str = "general"
    effects: Effects | None = None
    backends: tuple[str, ...] = BACKENDS
    examples: tuple[Mapping[str, Json], ...] = ()
    isolation: str | None = None


@attrs.frozen
class ClientMark:
    """What ``@client`` says of a class: the name under which its settings stand in treadle.toml."""

    name: str


class Executor:
    """Base of the family ``general``: the contract is the declared type alone.

    An executor in class form derives from it (or from another family, which does) and defines ``execute``, ``async def``
    or ``def``: what it needs left of ``/``, what it is given right of it. Every hook gets a new instance, so state belongs
    in clients.
    """

    family: ClassVar[str] = "general"
    timeout_s: ClassVar[float | None] = None
    """Deadline of one attempt where the workflow names none."""
    retry_preset: ClassVar[str | None] = None
    """Which of the retry presets holds where the workflow has no ``retry``."""
    required_output_keys: ClassVar[Sequence[str | Collection[str]]] = ()
    """Keys that every output must have, all of them; of a group, like ``("post_url", "publish_count")``, at least one."""
    executor_name: str = ""
    """What workflows call the executor; set by ``@executor`` and, for the instances that treadle makes, by treadle."""

    def validate_output(self, output: Json) -> Iterable[Issue | str] | None:
        """Say what is wrong with an output that has the declared type: here, which of the required keys it lacks.

        A family overrides it for more of a contract; an executor extends it through ``super()``.

        Args:
            output: A copy, as plain JSON.

        Returns:
            Issues or texts; one bare text is one issue; None or nothing when all is well. An exception is an issue too.
        """
        return list[Issue | str](missing_keys(self.executor_name or type(self).__name__, output, self.required_output_keys))

    def retry_policy(self, error: Exception) -> RetryAfter | GiveUp | None:
        """Propose whether to try again after ``error``; None: no opinion."""
        return None

    def timed_out(self, timeout_s: float) -> Exception | None:
        """The error of an attempt that was still running at its deadline; None: treadle's StepTimeoutError."""
        return None


def missing_keys(name: str, output: Json, required: Iterable[str | Collection[str]]) -> list[str]:
    """What an output lacks of ``required_output_keys``, a text for each group that none of its keys satisfies.

    Args:
        name: The executor.
        output: What it gave.
        required: Keys, and groups of which one key is enough.
    """
    groups = [[group] if isinstance(group, str) else list(group) for group in required]
    if groups and not isinstance(output, Mapping):
        kind = "null" if output is None else type(output).__name__
        return [f"{name}: output must be an object with keys, not {kind}"]
    return [
        # A set has no order of its own; a message has.
        f"{name}: output missing required keys (expected one of: {sorted(group)})"
        for group in groups
        if not any(key in cast("Mapping[str, Json]", output) for key in group)
    ]


def executor(
    name: str,
    *,
    family: str = "general",
    effects: Effects | None = None,
    backends: Sequence[str] = BACKENDS,
    examples: Iterable[Mapping[str, Json]] = (),
    isolation: Literal["process"] | None = None,
) -> Callable[[_Marked], _Marked]:
    """Mark a function or a class as an executor; it stays what it is and can be called as before.

    Args:
        name: What workflows write after ``uses``; also the name of its entry point.
        family: Whose output contract a function keeps; a class says it by its base.
        effects: What running it twice does. ``unsafe``: neither retried nor rerun unless the file says so.
        backends: Event loops that it runs on.
        examples: Inputs that must work.
        isolation: ``process`` runs it in a child that really dies at its deadline.

    Raises:
        BindError: For a value that cannot be meant.
    """
    mark = ExecutorMark(_name("executor", name), family, effects, tuple(backends), tuple(examples), isolation)
    if effects is not None and effects not in get_args(Effects):
        raise BindError(f"Executor {name!r} declares effects={effects!r}.", f"Use one of {', '.join(get_args(Effects))}.")
    if not mark.backends or not set(mark.backends) <= set(BACKENDS):
        raise BindError(f"Executor {name!r} declares backends={mark.backends!r}.", f"Use some of {', '.join(BACKENDS)}.")
    if isolation not in (None, "process"):
        raise BindError(f"Executor {name!r} declares isolation={isolation!r}.", "Use 'process' or leave it out.")

    def put(marked: _Marked) -> _Marked:
        if isinstance(marked, type) and issubclass(marked, Executor):
            marked.executor_name = mark.name
        return _put(marked, _EXECUTOR, mark)

    return put


def client(name: str) -> Callable[[_Marked], _Marked]:
    """Mark a class as a client: its attributes are its settings, ``open()`` connects.

    Args:
        name: Name of its entry point, of its table ``[clients.NAME]``, and of the needs that it serves.

    Raises:
        BindError: When the name cannot be one or the class has no ``open``.
    """
    mark = ClientMark(_name("client", name))

    def put(marked: _Marked) -> _Marked:
        if not isinstance(marked, type) or not callable(getattr(marked, "open", None)):
            raise BindError(
                f"Client {name!r} is not a class with a method 'open'.",
                "Mark a class whose 'open' returns an (async) context manager that yields what executors receive.",
            )
        return _put(marked, _CLIENT, mark)

    return put


def executor_mark(marked: object) -> ExecutorMark | None:
    """What ``@executor`` said of this very object; a class does not inherit it."""
    mark = getattr(marked, "__dict__", {}).get(_EXECUTOR)
    return mark if isinstance(mark, ExecutorMark) else None


def client_mark(marked: object) -> ClientMark | None:
    """What ``@client`` said of this very class; a class does not inherit it."""
    mark = getattr(marked, "__dict__", {}).get(_CLIENT)
    return mark if isinstance(mark, ClientMark) else None


def _name(what: str, name: str) -> str:
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise BindError(
            f"{name!r} cannot be the name of an {what}." if what == "executor" else f"{name!r} cannot be the name of a {what}.",
            "Use words of letters, digits, '_' and '-' with dots between them, like 'acme.slug', in the decorator's call.",
        )
    return name


def _put(marked: _Marked, attribute: str, mark: ExecutorMark | ClientMark) -> _Marked:
    try:
        setattr(marked, attribute, mark)
    except (AttributeError, TypeError) as error:
        raise BindError(
            f"{mark.name!r} marks {marked!r}, which takes no attributes.", "Mark a function or a class; wrap it in a 'def'."
        ) from error
    return marked
