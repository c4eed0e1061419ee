"""A hook's implementations as one function, put together once: pluggy decides their order, and is not asked again per call."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence

import pluggy

Call = Callable[..., object]


def first_answer(hook: pluggy.HookCaller, names: Sequence[str]) -> Call:
    """What calling a ``firstresult`` hook does, at a third of the price.

    Args:
        hook: With all its implementations registered.
        names: The hook's arguments; the function takes them in this order.
    """
    implementations = hook.get_hookimpls()
    if any(one.hookwrapper for one in implementations):
        # Wrappers of pluggy's old kind: they are rare, and pluggy knows what they may do.
        return lambda *given: hook(**dict(zip(names, given, strict=True)))
    answers = [_taking(one, names) for one in reversed(implementations) if not one.wrapper]
    call = answers[0] if len(answers) == 1 else _first(answers)
    for one in implementations:
        if one.wrapper:
            call = _around(getattr(one.function, "__qualname__", repr(one.function)), _taking(one, names), call)
    return call


def each(hook: pluggy.HookCaller, names: Sequence[str]) -> Call:
    """What calling a hook does whose answers nobody asks for."""
    implementations = hook.get_hookimpls()
    if any(one.wrapper or one.hookwrapper for one in implementations):
        return lambda *given: hook(**dict(zip(names, given, strict=True)))
    calls = [_taking(one, names) for one in reversed(implementations)]
    return calls[0] if len(calls) == 1 else _every(calls)


def _every(calls: Sequence[Call]) -> Call:
    def call(*given: object) -> None:
        for one in calls:
            one(*given)

    return call


def _taking(implementation: pluggy.HookImpl, names: Sequence[str]) -> Call:
    """The implementation's function, given all arguments of the hook in order."""
    function, taken = implementation.function, tuple(implementation.argnames)
    if taken == tuple(names):
        return function
    places = [names.index(name) for name in taken]
    if len(places) == 1:
        [place] = places
        return lambda *given: function(given[place])
    return lambda *given: function(*[given[place] for place in places])


def _first(answers: Sequence[Call]) -> Call:
    def ask(*given: object) -> object:
        for answer in answers:
            result = answer(*given)
            if result is not None:
                return result
        return None

    return ask


def _around(name: str, wrapper: Call, inner: Call) -> Call:
    """``inner`` within a wrapper: a generator that is told the answer, or thrown the error, and returns the answer."""

    def call(*given: object) -> object:
        generator: Generator[None, object, object] = wrapper(*given)  # type: ignore[assignment]  # pluggy has checked it
        try:
            next(generator)
        except StopIteration:
            raise RuntimeError(f"the wrapper {name} did not yield") from None
        try:
            answer = inner(*given)
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
