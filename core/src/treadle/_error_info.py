"""Exceptions as data: what a record keeps of one, and how one that was raised in another process is raised again here."""

from __future__ import annotations

import builtins
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import cast

from treadle import errors
from treadle._json import NotJsonError, plain
from treadle._models import ErrorInfo, GiveUp, Issue, Json, RetryAfter
from treadle._secrets import hide
from treadle.errors import OutputInvalidError, TreadleError

MAX_MESSAGE = 4_096
MAX_TRACEBACK = 16_384
MAX_INPUTS = 4_096
MAX_INPUT_TEXT = 1_024
MAX_INPUT_DEPTH = 8

_PARTIAL = "partial_results"


def describe_error(error: Exception, secrets: Sequence[str], redact: Callable[[str], str] = str) -> ErrorInfo:
    """An exception as data: bounded, without the values of the call's secrets.

    Args:
        error: The exception.
        secrets: The values.
        redact: What else is taken out of its texts, before they are cut: half a secret would not be found.
    """

    def cleaned(text: str, most: int) -> str:
        return _clean(redact(hide(text, secrets)), most)

    if isinstance(error, FromChild):
        return _cleaned(error.info, cleaned)
    is_ours = isinstance(error, TreadleError)
    message = error.problem if isinstance(error, TreadleError) else message_of(error)
    issues = tuple(getattr(error, "issues", ())) if isinstance(error, OutputInvalidError) else ()
    retryable = _attribute(error, "retryable")
    results, processed = _partial_results(error)
    return ErrorInfo(
        type=type(error).__name__,
        message=cleaned(message, MAX_MESSAGE),
        remedy=cleaned(error.remedy, MAX_MESSAGE) if isinstance(error, TreadleError) else "",
        issues=tuple([_issue(issue, cleaned) for issue in issues]),
        traceback="" if is_ours and not error.__cause__ else cleaned(_stack(error), MAX_TRACEBACK),
        retryable=retryable if isinstance(retryable, bool) else None,
        partial_results=results,
        items_processed=processed,
    )


def snapshot(inputs: Mapping[str, Json], secrets: Sequence[str], redact: Callable[[str], str] = str) -> Json:
    """What a failed call was given, for its error record: a few KiB at most, without the values of its secrets (S3-38)."""
    return _Snapshot(lambda text: redact(hide(text, secrets))).take(inputs, 0)


class _Snapshot:
    """Copies plain data until there is no more room; what is cut says how much there was."""

    def __init__(self, hide: Callable[[str], str]) -> None:
        self._hide = hide  # before a text is cut: half a secret would not be found
        self._room = MAX_INPUTS

    def take(self, value: Json, depth: int) -> Json:
        if isinstance(value, str):
            text = _clean(self._hide(value), max(40, min(MAX_INPUT_TEXT, self._room)))
            self._room -= len(text)
            return text
        self._room -= 8
        if isinstance(value, Mapping | list) and (depth >= MAX_INPUT_DEPTH or self._room <= 0):
            return f"... ({len(value)} in all)" if value else value
        if isinstance(value, Mapping):
            return self._mapping(value, depth)
        return self._list(value, depth) if isinstance(value, list) else value

    def _mapping(self, value: Mapping[str, Json], depth: int) -> Json:
        copy: dict[str, Json] = {}
        for key, item in value.items():
            if self._room <= 0:
                copy["..."] = f"{len(value)} in all"
                break
            self._room -= len(key)
            copy[_clean(self._hide(key), MAX_INPUT_TEXT)] = self.take(item, depth + 1)
        return copy

    def _list(self, value: list[Json], depth: int) -> Json:
        copy: list[Json] = []
        for item in value:
            if self._room <= 0:
                copy.append(f"... ({len(value)} in all)")
                break
            copy.append(self.take(item, depth + 1))
        return copy


def message_of(error: BaseException) -> str:
    """The message, or the class's name when there is none; whatever ``__str__`` does."""
    name = type(error).__name__
    try:
        return str(error) or name
    except BaseException as broken:  # an author's __str__ may do anything
        return f"{name} (its message cannot be shown: __str__ raised {type(broken).__name__})"


def _cleaned(info: ErrorInfo, clean: Callable[[str, int], str]) -> ErrorInfo:
    return ErrorInfo(
        info.type,
        clean(info.message, MAX_MESSAGE),
        clean(info.remedy, MAX_MESSAGE),
        tuple([_issue(issue, clean) for issue in info.issues]),
        clean(info.traceback, MAX_TRACEBACK),
        info.retryable,
        info.partial_results,
        info.items_processed,
        info.inputs,
    )


def _issue(issue: object, clean: Callable[[str, int], str]) -> Issue:
    said = issue if isinstance(issue, Issue) else Issue(str(issue))
    return Issue(clean(said.message, MAX_MESSAGE), clean(said.path, MAX_MESSAGE))


def _partial_results(error: Exception) -> tuple[Json, int | None]:
    """What an exception carries of the work that was done before it, and how many items that is."""
    results = _attribute(error, _PARTIAL)
    if results is None:
        return None, None
    try:
        copy = plain(results)
    except (NotJsonError, RecursionError):
        copy = None
    try:
        return copy, len(cast("Sequence[object]", results))
    except BaseException:  # no collection, or an author's __len__
        return copy, None


def _attribute(owner: object, name: str) -> object:
    try:
        return getattr(owner, name, None)
    except BaseException:  # an author's property may do anything; it said nothing
        return None


def _stack(error: BaseException) -> str:
    try:
        return "".join(traceback.format_exception(error))
    except BaseException as broken:  # an author's __str__ or __repr__ may do anything
        return f"(the traceback cannot be shown: {type(broken).__name__})"


def _clean(text: str, most: int) -> str:
    # A lone surrogate would make the record unwritable.
    text = text.encode("utf-8", "backslashreplace").decode()
    return text if len(text) <= most else f"{text[: most - 20]}... ({len(text)} in all)"


# -- across a process border ---------------------------------------------------------------------------------------------


class FromChild(Exception):
    """Base of what stands for an exception of a child process: named and derived like it, without its code.

    Attributes:
        info: What the child said of it.
        proposal: What the executor's own ``retry_policy`` said of it, in the child.
    """

    info: ErrorInfo
    proposal: RetryAfter | GiveUp | None = None

    def __str__(self) -> str:
        """The message that it had in the child."""
        return self.info.message


def dump_error(error: Exception, proposal: RetryAfter | GiveUp | None) -> dict[str, Json]:
    """An exception for another process, see ``load_error``."""
    info = describe_error(error, ())
    response = _attribute(error, "response")
    attributes = {name: _attribute(error, name) for name in ("status_code", "retry_after_s")}
    if attributes["status_code"] is None:
        attributes["status_code"] = _attribute(response, "status_code")
    answer: dict[str, Json] | None = None
    if isinstance(proposal, RetryAfter):
        answer = {"delay_s": proposal.delay_s, "reason": proposal.reason}
    elif isinstance(proposal, GiveUp):
        answer = {"reason": proposal.reason}
    return {
        "type": info.type,
        "message": info.message,
        "remedy": info.remedy,
        "issues": [[issue.message, issue.path] for issue in info.issues],
        "traceback": info.traceback,
        "retryable": info.retryable,
        "partial_results": info.partial_results,
        "items_processed": info.items_processed,
        "kinds": [[kind.__module__, kind.__qualname__] for kind in type(_only_leaf(error)).__mro__],
        "attributes": {name: value for name, value in attributes.items() if isinstance(value, int | float)},
        "proposal": answer,
    }


def load_error(data: Mapping[str, Json]) -> Exception:
    """What ``dump_error`` gave, as an exception that retry rules judge as they would have judged the original."""
    told = cast("dict[str, object]", dict(data))
    info = ErrorInfo(
        type=str(told["type"]),
        message=str(told["message"]),
        remedy=str(told["remedy"]),
        issues=tuple(Issue(message, path) for message, path in cast("list[tuple[str, str]]", told["issues"])),
        traceback=str(told["traceback"]),
        retryable=cast("bool | None", told["retryable"]),
        partial_results=told["partial_results"],
        items_processed=cast("int | None", told["items_processed"]),
    )
    kind = _stand_in(cast("list[tuple[str, str]]", told["kinds"]))
    error = kind.__new__(kind)
    error.info, error.proposal = info, _load_proposal(cast("dict[str, object] | None", told["proposal"]))
    given = cast("dict[str, object]", told["attributes"])
    for name, value in {**given, "retryable": info.retryable, "problem": info.message, "remedy": info.remedy}.items():
        setattr(error, name, value)
    if info.issues:
        error.issues = info.issues  # type: ignore[attr-defined]  # as OutputInvalidError has them
    return error


def _load_proposal(data: Mapping[str, object] | None) -> RetryAfter | GiveUp | None:
    if data is None:
        return None
    reason = str(data["reason"])
    return RetryAfter(cast("float | None", data["delay_s"]), reason) if "delay_s" in data else GiveUp(reason)


def _stand_in(kinds: Sequence[tuple[str, str]]) -> type[FromChild]:
    """A class with the names of ``kinds``, from the leaf up; classes of Python and of treadle are the real ones."""
    known = [kind for module, name in kinds if (kind := _known(module, name)) is not None]
    # A class that another one derives from comes with it; FromChild goes first for its __str__.
    bases = [kind for kind in known if not any(other is not kind and issubclass(other, kind) for other in known)]
    strangers = [(module, name) for module, name in kinds if _known(module, name) is None and module != "builtins"]
    try:
        stand_in: type[FromChild] = type(FromChild.__name__, (FromChild, *bases), {})
        stand_in.__new__(stand_in)
    except TypeError:  # two builtins that cannot be one, or one that cannot be made without arguments
        stand_in = FromChild
    for module, name in [*reversed(strangers), tuple(kinds[0])]:
        if stand_in.__qualname__ != name or stand_in.__module__ != module:
            stand_in = type(name.rpartition(".")[2], (stand_in,), {"__module__": module, "__qualname__": name})
    return stand_in


def _known(module: str, name: str) -> type[BaseException] | None:
    home = {"builtins": builtins, "treadle.errors": errors}.get(module)
    kind = getattr(home, name, None)
    return kind if isinstance(kind, type) and issubclass(kind, Exception) else None


def _only_leaf(error: Exception) -> Exception:
    """The one error inside of groups that task groups wrap around it; else the error itself."""
    while isinstance(error, ExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    return error
