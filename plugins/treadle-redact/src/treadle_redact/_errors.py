"""Errors without secrets: an error that holds one is replaced by a stand-in of the same name and kind."""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import TypeVar, cast

from treadle_redact._redactor import Redactor

E = TypeVar("E", bound=BaseException)


def without_secrets(error: E, redactor: Redactor) -> E:
    """The error itself when neither it, nor what caused it, nor its traceback says a secret; else a stand-in.

    The stand-in's class is derived from the error's and bears its name, so whoever asks what kind of error it is gets the same
    answer.
    """
    if not _says_secrets(error, redactor, set()) and not _shows_secrets(error, redactor):
        return error
    made = _stand_in(error, redactor, {})
    if _shows_secrets(made, redactor):
        made = made.with_traceback(None)  # a line of the source holds one
    return made


def _shows_secrets(error: BaseException, redactor: Redactor) -> bool:
    try:
        shown = "".join(traceback.format_exception(error))
    except Exception:  # an author's __str__ may do anything
        return False
    return redactor.text(shown) != shown


def _says_secrets(error: BaseException | None, redactor: Redactor, seen: set[int]) -> bool:
    """Whether an attribute of the error, or of what stands behind it, holds a secret."""
    if error is None or id(error) in seen:
        return False
    seen.add(id(error))
    try:
        if any(redactor.value(one) is not one for one in (error.args, vars(error))):
            return True
    except Exception:  # an author's class may refuse to be looked at or copied
        return True
    inner = error.exceptions if isinstance(error, BaseExceptionGroup) else ()
    return any(_says_secrets(one, redactor, seen) for one in (error.__cause__, error.__context__, *inner))


def _stand_in(error: E, redactor: Redactor, made: dict[int, BaseException]) -> E:
    if id(error) in made:
        return cast("E", made[id(error)])
    try:
        new = _derived(error, redactor, made)
    except Exception:  # a class that cannot be derived from or made in this way; the name is what is left of it
        new = _named(error, redactor)
    made[id(error)] = new
    new.__cause__ = _stand_in(error.__cause__, redactor, made) if error.__cause__ else None
    new.__context__ = _stand_in(error.__context__, redactor, made) if error.__context__ else None
    new.__suppress_context__ = error.__suppress_context__
    return cast("E", new.with_traceback(error.__traceback__))


def _derived(error: BaseException, redactor: Redactor, made: dict[int, BaseException]) -> BaseException:
    kind = type(error)
    cls = _class_like(error, kind, redactor)
    args = cast("tuple[object, ...]", redactor.value(error.args))
    if isinstance(error, BaseExceptionGroup):
        inner = [_stand_in(one, redactor, made) for one in error.exceptions]
        args = (redactor.text(error.message), inner)
    new = kind.__new__(cls, *args)
    if not isinstance(error, BaseExceptionGroup):
        new.args = args
    new.__dict__.update(_fields(error, redactor))
    return new


def _named(error: BaseException, redactor: Redactor) -> BaseException:
    new = _class_like(error, Exception if isinstance(error, Exception) else BaseException, redactor)()
    new.__dict__.update(_fields(error, redactor))
    return new


def _class_like(error: BaseException, base: type[BaseException], redactor: Redactor) -> type[BaseException]:
    """A class derived from ``base`` that is called like the error's and says what the error says, without secrets."""
    try:
        text = redactor.text(str(error))
    except Exception:  # an author's __str__ may do anything
        text = f"{type(error).__name__} (its message cannot be shown)"
    kind = type(error)
    body = {
        "__str__": lambda self: text,
        "__module__": kind.__module__,
        "__qualname__": kind.__qualname__,
        "__doc__": kind.__doc__,
    }
    make = cast("Callable[..., type[BaseException]]", type(base))
    return make(kind.__name__, (base,), body)


def _fields(error: BaseException, redactor: Redactor) -> dict[str, object]:
    """The error's attributes without secrets; one that cannot be cleaned is left out."""
    fields = {}
    for name, value in vars(error).items():
        try:
            fields[name] = redactor.value(value, name)
        except Exception:  # an author's class may refuse to be copied
            continue
    return fields
