"""A hook's implementations as one function, put together once: pluggy decides their order, and is not asked again per call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from operator import itemgetter
from typing import Protocol

Call = Callable[..., object]


class Implementation(Protocol):
    """What is used of pluggy's ``HookImpl``."""

    @property
    def function(self) -> Call:
        """What is called."""

    @property
    def argnames(self) -> Sequence[str]:
        """Which of the hook's arguments it takes, in order."""

    @property
    def wrapper(self) -> bool:
        """Whether it is a generator around the others."""

    @property
    def hookwrapper(self) -> bool:
        """Whether it is one of the kind that pluggy had before."""


def first_answer(implementations: Sequence[Implementation], names: Sequence[str], by_pluggy: Call) -> Call:
    """What calling a ``firstresult`` hook of two arguments does, at a third of the price.

    Args:
        implementations: All of them, in pluggy's order: the last one is called first.
        names: The hook's arguments; the function takes them in this order.
        by_pluggy: The hook itself, called by name: pluggy knows what wrappers of its old kind may do.
    """
    if any(one.hookwrapper for one in implementations):
        return _named(by_pluggy, names)
    answers = [_taking(one, names) for one in reversed(implementations) if not one.wrapper]
    call = answers[0] if len(answers) == 1 else _first(answers)
    for one in implementations:
        if one.wrapper:
            call = _around(_name(one), _taking(one, names), call)
    return call


def each(implementations: Sequence[Implementation], names: Sequence[str], by_pluggy: Call) -> Call | None:
    """What calling a hook does whose answers nobody asks for; None when nobody implements it."""
    if any(one.wrapper or one.hookwrapper for one in implementations):
        return _named(by_pluggy, names)
    calls = [_taking(one, names) for one in reversed(implementations)]
    return (calls[0] if len(calls) == 1 else _every(calls)) if calls else None


def all_answers(
    implementations: Sequence[Implementation], names: Sequence[str], by_pluggy: Callable[..., Sequence[object]]
) -> Callable[..., Sequence[object]]:
    """What calling a hook does whose answers are added up: all that are not None."""
    if any(one.wrapper or one.hookwrapper for one in implementations):
        return lambda *given: by_pluggy(**dict(zip(names, given, strict=True)))
    calls = [_taking(one, names) for one in reversed(implementations)]

    def ask(*given: object) -> list[object]:
        return [answer for one in calls if (answer := one(*given)) is not None]

    return ask


class Placed(Implementation, Protocol):
    """One that can be put in order with those of another hook."""

    @property
    def rank(self) -> tuple[int, int]:
        """By ``trylast`` and ``tryfirst``, then by who was registered when; the highest is outermost."""


def work_of(execute: Sequence[Placed], wraps: Sequence[Placed], by_pluggy: Call) -> Call:
    """What asking ``execute`` does, whose answer each ``wrap_work`` may replace in its place among the wrappers."""
    names, call = ("call", "ctx"), first_answer([one for one in execute if not one.wrapper], ("call", "ctx"), by_pluggy)
    wrappers: Sequence[Placed] = [] if any(one.hookwrapper for one in execute) else [one for one in execute if one.wrapper]
    for one in sorted([*wrappers, *wraps], key=lambda one: one.rank):
        taking = _taking(one, names if one.wrapper else (*names, "work"))
        call = _around(_name(one), taking, call) if one.wrapper else _replacing(call, taking)
    return call


def _replacing(inner: Call, wrap: Call) -> Call:
    def call(first: object, second: object) -> object:
        work = inner(first, second)
        if work is None:
            return None
        answer = wrap(first, second, work)
        return work if answer is None else answer

    return call


def _named(by_pluggy: Call, names: Sequence[str]) -> Call:
    return lambda *given: by_pluggy(**dict(zip(names, given, strict=True)))


def _every(calls: Sequence[Call]) -> Call:
    def call(*given: object) -> None:
        for one in calls:
            one(*given)

    return call


def _taking(implementation: Implementation, names: Sequence[str]) -> Call:
    """The implementation's function, given all arguments of the hook in order."""
    function, taken = implementation.function, tuple(implementation.argnames)
    if taken == tuple(names):
        return function
    places = [names.index(name) for name in taken]
    if len(places) == 1:
        [place] = places
        return lambda *given: function(given[place])
    if not places:
        return lambda *given: function()
    choose = itemgetter(*places)
    return lambda *given: function(*choose(given))


def _name(implementation: Implementation) -> str:
    return getattr(implementation.function, "__qualname__", repr(implementation.function))


def _first(answers: Sequence[Call]) -> Call:
    def ask(first: object, second: object) -> object:
        for answer in answers:
            result = answer(first, second)
            if result is not None:
                return result
        return None

    return ask


def _around(name: str, wrapper: Call, inner: Call) -> Call:
    """``inner`` within a wrapper: a generator that is told the answer, or thrown the error, and returns the answer."""

    def call(first: object, second: object) -> object:
        generator: Generator[None, object, object] = wrapper(first, second)  # type: ignore[assignment]  # pluggy has checked it
        try:
            next(generator)
        except StopIteration:
            raise RuntimeError(f"the wrapper {name} did not yield") from None
        try:
            answer = inner(first, second)
        except BaseException as error:
            try:
                generator.throw(error)
            except StopIteration as end:
                return end.value
        else:
            try:
                generator.send(answer)
            except StopIteration as end:
                return end.value
        generator.close()
        raise RuntimeError(f"the wrapper {name} yielded twice")

    return call
