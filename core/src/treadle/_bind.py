"""From an author's function or class to a BoundExecutor: what it needs, what it is given, and the hooks that delegate to it."""

from __future__ import annotations

import collections.abc
import functools
import hashlib
import inspect
import sys
import types
import typing
from collections.abc import Awaitable, Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Protocol, cast

import attrs

from treadle._contracts import (
    NO_DEFAULT,
    Contract,
    JsonSchema,
    Member,
    contract_for,
    described_names,
    object_schema,
    suggestion,
    summary,
    type_text,
    unresolvable,
)
from treadle._error_info import FromChild
from treadle._executor import BACKENDS, Effects, Executor, ExecutorMark, executor_mark
from treadle._json import NotJsonError, copy_json
from treadle._models import Call, GiveUp, Issue, Json, RetryAfter, RetryPolicy, Work
from treadle._origin import Origin, origin_of
from treadle._retries import preset, unsafe_refusal
from treadle.errors import BindError, Fault, InputsInvalidError, OutputInvalidError
from treadle.hookspecs import hookimpl
from treadle.ports import Context, SyncContext


class CallContext(Protocol):
    """What core's own context carries for the executor, besides the public Context."""

    arguments: tuple[object, ...]
    inputs: dict[str, object]

    def run_sync(self, function: Callable[[], object]) -> Awaitable[object]:
        """Run ``function`` in a worker thread, in a copy of the context."""


@attrs.frozen
class Need:
    """What an executor asks for left of ``/``, found by its name.

    Attributes:
        name: The parameter's name: the client's, unless the step's ``clients`` says another.
        type_: The declared type, checked where it can be.
    """

    name: str
    type_: object = object

    def accepts(self, given: object) -> bool:
        """Whether ``given`` is of the declared type; True when that cannot be asked (a Protocol, object)."""
        kind = typing.get_origin(self.type_) or self.type_
        try:
            return not isinstance(kind, type) or isinstance(given, kind)
        except TypeError:  # a Protocol that is not runtime_checkable
            return True


@attrs.frozen
class InputParameter:
    """What an executor is given right of ``/``.

    Attributes:
        name: Key of ``with``.
        type_: The declared type; object: any JSON.
        required: Whether it must be given.
        default: What Python puts in when it is not.
        description: From the docstring's ``Args:``.
    """

    name: str
    type_: object = object
    required: bool = True
    default: object = None
    description: str = ""


@attrs.frozen(eq=False)
class BoundExecutor:
    """An executor ready to be called, and the only plugin in a scope that stands for it.

    Attributes:
        name: What workflows write after ``uses``.
        doc: The docstring, cleaned.
        family: Whose output contract it keeps.
        effects: What running it twice does; None when its author did not say.
        backends: Event loops that it runs on.
        distribution: Who provides it; empty when nobody installed it.
        version: Of the distribution.
        is_async: Whether it runs on the event loop; else in a worker thread.
        needs: What it asks for, in order, without the context.
        takes_context: Whether it asks for the context.
        positional: Every parameter left of ``/`` in order; None stands for the context.
        inputs: What it may be given.
        examples: Inputs that must work.
        isolation: ``process`` or None.
        origin: How another process gets it; None when it cannot.
        family_origin: The same for the class of the family that a function keeps the contract of; None for ``general``.
    """

    name: str
    doc: str
    family: str
    effects: Effects | None
    backends: tuple[str, ...]
    distribution: str
    version: str
    is_async: bool
    positional: tuple[Need | None, ...]
    inputs: tuple[InputParameter, ...]
    examples: tuple[Mapping[str, Json], ...]
    isolation: str | None
    origin: Origin | None
    family_origin: Origin | None
    _start: Callable[..., object]
    _makes_family: Callable[[], Executor]
    _contracts: Mapping[str, Contract]
    _others: Contract | None
    _output: Contract
    _required: frozenset[str]
    _checks_output: bool
    _declares_output: bool

    @property
    def needs(self) -> tuple[Need, ...]:
        """What it asks for, in order, without the context."""
        return tuple(need for need in self.positional if need is not None)

    @property
    def takes_context(self) -> bool:
        """Whether it asks for the context."""
        return None in self.positional

    @property
    def takes_others(self) -> bool:
        """Whether it takes inputs of any name."""
        return self._others is not None

    @property
    def timeout_s(self) -> float | None:
        """Deadline of one attempt where the workflow names none; None for none."""
        return self._family.timeout_s

    @property
    def retry(self) -> RetryPolicy | None:
        """How it is retried where the workflow does not say; None: as everything is."""
        name = self._family.retry_preset
        # What nobody asked for in the file does not allow to repeat what does harm.
        return None if name is None else attrs.evolve(preset(name), explicit=False)

    @property
    def _family(self) -> type[Executor]:
        return cast("type[Executor]", self._makes_family)

    @property
    def contract(self) -> tuple[str, ...]:
        """What its outputs are held to, in words: the declared type, the family's keys, a check of its own; empty: nothing."""
        keys = [group if isinstance(group, str) else " or ".join(sorted(group)) for group in self._family.required_output_keys]
        parts = [
            f"type {self._output.name}" if self._declares_output else "",
            f"keys {', '.join(keys)}" if keys else "",
            "validate_output" if self._family.validate_output is not Executor.validate_output else "",
        ]
        return tuple(part for part in parts if part)

    def isolation_problem(self) -> tuple[str, str]:
        """Why it cannot run in a process of its own, and what to do; empty when it can."""
        if self.needs:
            names = ", ".join(need.name for need in self.needs)
            return f"{self.name} cannot run in a process of its own: it needs {names}", "clients live in the run's process"
        if self.origin is None:
            remedy = "define it at the top level of a module, not in a function or a session"
            return f"{self.name} cannot run in a process of its own: another process could not find it", remedy
        return "", ""

    def local_version(self) -> str:
        """A hash of the file that it is in, when that is a file of the user's and not of something installed; else empty."""
        if self.origin is None:
            return ""
        source = (self.origin.arguments or {}).get("source")  # of a tool
        try:
            if self.distribution == "local" and self.origin.file:
                code = Path(self.origin.file).read_bytes()
            elif isinstance(source, str):
                code = source.encode("utf-8", "surrogateescape")
            else:
                return ""
        except OSError:  # it is gone
            return ""
        return f"sha256:{hashlib.sha256(code).hexdigest()[:16]}"

    def code_version(self) -> str:
        """What tells its code from an earlier one's: distribution, version, and a hash of the file that it is in."""
        place = (self.origin.file or _file_of(self.origin.module)) if self.origin is not None else ""
        try:
            digest = hashlib.sha256(Path(place).read_bytes()).hexdigest() if place else ""
        except OSError:  # it comes from an archive
            digest = ""
        return f"{self.distribution} {self.version} {digest}".strip()

    # -- inputs

    def input_schema(self) -> JsonSchema:
        """JSON Schema 2020-12 of ``with``."""
        members = [
            Member(each.name, self._contracts[each.name], each.required, _default(each), each.description)
            for each in self.inputs
        ]
        return object_schema(members, others=self._others, description=summary(self.doc))

    def input_faults(self, known: Mapping[str, Json], unknown: Collection[str] = ()) -> list[Fault]:
        """What is wrong with the inputs of a step that has not run yet.

        Args:
            known: Inputs whose values are constant.
            unknown: Names of inputs whose values come from expressions.

        Returns:
            Faults with paths below ``with``, like ``headers['x y'][0]``.
        """
        faults = self._name_faults([*known, *unknown])
        for name, value in known.items():
            contract = self._contracts.get(name, self._others)
            if contract is not None and name not in unknown:
                issues: list[Issue] = []
                contract.structure_at(value, (None, name, 1), issues)
                faults.extend(_fault(issue) for issue in issues)
        return faults

    def structure_inputs(self, inputs: Mapping[str, Json]) -> dict[str, object]:
        """Inputs as the executor takes them; shares no container with ``inputs``, so that recorded values stay as they are.

        Raises:
            InputsInvalidError: With all faults.
        """
        issues: list[Issue] = []
        values: dict[str, object] = {}
        contracts = self._contracts
        for name, value in inputs.items():
            contract = contracts.get(name, self._others)
            if contract is not None:
                values[name] = contract.structure_at(value, (None, name, 1), issues)
        if issues or len(values) != len(inputs) or not self._required <= values.keys():
            faults = self._name_faults(inputs) + [_fault(issue) for issue in issues]
            raise InputsInvalidError(f"executor {self.name!r}", faults)
        return values

    def _name_faults(self, given: Collection[str]) -> list[Fault]:
        """Names that it does not take, and required ones that are missing."""
        faults = []
        if self._others is None:
            strange = [name for name in given if name not in self._contracts]
            faults += [Fault(f"{self.name} has no input {name!r}", name, suggestion(name, self._contracts)) for name in strange]
        for name in self._contracts:
            if name in self._required and name not in given:
                type_ = self._contracts[name].name
                faults.append(Fault(f"{self.name} needs the input {name!r} ({type_})", name, "add it under 'with'"))
        return faults

    # -- output

    def output_schema(self) -> JsonSchema:
        """JSON Schema 2020-12 of what it returns."""
        return self._output.schema()

    def plain_output(self, output: object) -> Json:
        """``output`` as plain JSON; ``validate_output`` then says whether it satisfies the declared type.

        Raises:
            OutputInvalidError: It is not JSON.
        """
        try:
            return self._output.to_plain(output)
        except NotJsonError as error:
            raise OutputInvalidError(self.name, error.issues) from error

    # -- hooks

    @hookimpl
    def execute(self, call: Call, ctx: Context) -> Work:
        """The work of one attempt; a ``def`` runs in a worker thread."""
        context: CallContext = ctx  # type: ignore[assignment]  # what the runner makes is both
        isolated: Work | None = getattr(context, "isolated", None)  # a context of somebody's tests need not have it
        if isolated is not None:
            return isolated
        start = functools.partial(self._start, *context.arguments, **context.inputs)
        if self.is_async:
            return start  # type: ignore[return-value]  # an ``async def`` answers an awaitable
        return functools.partial(context.run_sync, start)

    @hookimpl
    def validate_output(self, call: Call, output: object) -> list[Issue]:
        """The declared type first; only what satisfies it is shown to the family's or author's ``validate_output``."""
        issues = [] if self._output.is_any else self._output.issues(output)
        if issues or not self._checks_output:
            return issues
        try:
            # A copy: a check that changes its argument must not change what is recorded.
            return _as_issues(self._asked().validate_output(copy_json(output)))
        except Exception as error:  # foreign code; an exception is an issue
            return [Issue(f"validate_output raised {type(error).__name__}: {error}")]

    @hookimpl
    def retry_policy(self, call: Call, error: Exception) -> RetryAfter | GiveUp | None:
        """Nothing is retried that does harm; else what the author or the family says."""
        refusal = unsafe_refusal(self.effects, call.retry)
        if isinstance(error, FromChild):  # the child has asked, with the real exception
            return refusal or error.proposal
        return refusal or self._asked().retry_policy(error)

    def timed_out(self, timeout_s: float) -> Exception | None:
        """What the family calls an attempt that was still running at its deadline; None: no words of its own."""
        return self._asked().timed_out(timeout_s)

    def _asked(self) -> Executor:
        """A new instance of the family, or of the executor in class form, that knows its name."""
        return named(self._makes_family(), self.name)


def bind(
    name: str,
    obj: object,
    *,
    distribution: str = "",
    version: str = "",
    family: type[Executor] | None = None,
    origin: Origin | None = None,
) -> BoundExecutor:
    """Wrap a function or an Executor class.

    Args:
        name: The name it is known by; wins over the one in its mark.
        obj: The function or class, marked or not.
        distribution: Who provides it.
        version: Of the distribution.
        family: The class of the family that the mark of a function names.
        origin: How another process gets it; None finds out.

    Raises:
        BindError: It cannot work; the message says why and what to write instead.
    """
    mark = executor_mark(obj) or ExecutorMark(name)
    try:
        form = _class_form(name, obj, mark) if isinstance(obj, type) else _function_form(obj, mark, family)
        signature = _read_signature(form)
    except BindError as error:
        raise BindError(f"Executor {name!r}: {error.problem}", error.remedy) from error
    makes_family = form.family
    return BoundExecutor(
        name=name,
        doc=inspect.cleandoc(form.doc),
        family=makes_family.family,
        effects=mark.effects,
        backends=mark.backends or BACKENDS,
        distribution=distribution,
        version=version,
        is_async=form.is_async,
        positional=signature.positional,
        inputs=signature.inputs,
        examples=mark.examples,
        isolation=mark.isolation,
        origin=origin or origin_of(obj),
        family_origin=None if isinstance(obj, type) or makes_family is Executor else origin_of(makes_family),
        start=form.start,
        makes_family=makes_family,
        contracts=signature.contracts,
        others=signature.others,
        output=signature.output,
        required=frozenset(each.name for each in signature.inputs if each.required),
        checks_output=makes_family.validate_output is not Executor.validate_output or bool(makes_family.required_output_keys),
        declares_output=signature.declares_output,
    )


# -- the two forms -------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Form:
    """What both forms come down to.

    Attributes:
        function: Whose signature counts.
        skip: Parameters to leave out at the front: ``self``.
        start: Called with needs and inputs; what it returns is the output, or is awaited.
        is_async: Whether it is awaited.
        family: Whose instances validate and judge errors.
        doc: The docstring.
    """

    function: Callable[..., object]
    skip: int
    start: Callable[..., object]
    is_async: bool
    family: type[Executor]
    doc: str


def _function_form(obj: object, mark: ExecutorMark, family: type[Executor] | None) -> _Form:
    if not callable(obj):
        raise BindError(f"{obj!r} is no function or class.", "Point the entry point to a function or an Executor class.")
    if family is None and mark.family != Executor.family:
        raise BindError(f"the family {mark.family!r} is not installed.", "Install the plugin that provides the family.")
    function = cast("Callable[..., object]", obj)
    is_async = _is_async(function)
    start = _awaiting(function) if is_async and not inspect.iscoroutinefunction(function) else function
    kind = _checked_family(family or Executor)
    return _Form(function, 0, start, is_async, kind, inspect.getdoc(_bare(function)) or "")


def named(made: Executor, name: str) -> Executor:
    """The instance, with the name that workflows use; also when its class is frozen."""
    object.__setattr__(made, "executor_name", name)
    return made


def _class_form(name: str, kind: type, mark: ExecutorMark) -> _Form:
    execute = inspect.getattr_static(kind, "execute", None)
    if not issubclass(kind, Executor):
        raise BindError(
            f"the class {kind.__name__} is no Executor.", "Derive it from treadle.Executor or a family, or mark a function."
        )
    if not inspect.isfunction(execute):
        raise BindError(
            f"the class {kind.__name__} has no method 'execute'.", "Add 'async def execute(self, ...)' or 'def execute'."
        )
    if mark.family not in (Executor.family, kind.family):
        raise BindError(
            f"its mark says family {mark.family!r}, its base {kind.family!r}.",
            "Leave 'family' out: a class says it by its base.",
        )
    _checked_family(kind)
    is_async = _is_async(execute)

    async def start_async(*arguments: object, **inputs: object) -> object:
        return await execute(named(kind(), name), *arguments, **inputs)

    def start_sync(*arguments: object, **inputs: object) -> object:
        return execute(named(kind(), name), *arguments, **inputs)

    doc = execute.__doc__ if execute.__doc__ and not kind.__doc__ else kind.__doc__
    start = cast("Callable[..., object]", start_async if is_async else start_sync)
    return _Form(execute, 1, start, is_async, kind, doc or "")


def _checked_family(kind: type[Executor]) -> type[Executor]:
    """A family whose instances can be made without arguments and whose hooks are not async."""
    for name in ("validate_output", "retry_policy"):
        method = getattr(kind, name)
        if inspect.iscoroutinefunction(method) or inspect.isasyncgenfunction(method):
            raise BindError(f"{kind.__name__}.{name} is 'async def'.", "Make it 'def': it is called, never awaited.")
    needed = [each.name for each in inspect.signature(kind).parameters.values() if _is_required(each)]
    if needed:
        raise BindError(
            f"{kind.__name__} cannot be made without {', '.join(needed)}.",
            "Take inputs in 'execute'; every call makes a new instance, so keep state in a client.",
        )
    return kind


def _is_required(parameter: inspect.Parameter) -> bool:
    variable = parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    return parameter.default is inspect.Parameter.empty and not variable


def _bare(function: Callable[..., object]) -> Callable[..., object]:
    """The function at the bottom of partials and decorators that use functools.wraps."""
    while isinstance(function, functools.partial):
        function = function.func
    return cast("Callable[..., object]", inspect.unwrap(function))


def _called(function: Callable[..., object]) -> Callable[..., object]:
    """The method behind an object that can be called; a function itself."""
    return function if inspect.isroutine(function) else cast("Callable[..., object]", type(function).__call__)


def _is_async(function: Callable[..., object]) -> bool:
    bare = _bare(function)
    for each in (function, bare):
        if inspect.isgeneratorfunction(each) or inspect.isasyncgenfunction(each):
            raise BindError("it is a generator.", "Return a list; to show progress use ctx.progress().")
    return any(inspect.iscoroutinefunction(each) for each in (function, bare, _called(bare)))


def _awaiting(function: Callable[..., object]) -> Callable[..., object]:
    """A decorator may have made a ``def`` of an ``async def``: await what it gives when it can be awaited."""

    async def start(*arguments: object, **inputs: object) -> object:
        result = function(*arguments, **inputs)
        return await result if inspect.isawaitable(result) else result

    return start


# -- the signature -------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Signature:
    positional: tuple[Need | None, ...]
    inputs: tuple[InputParameter, ...]
    contracts: Mapping[str, Contract]
    others: Contract | None
    output: Contract
    declares_output: bool


def _read_signature(form: _Form) -> _Signature:
    hints = _hints(form.function)
    positional: list[Need | None] = []
    inputs: list[InputParameter] = []
    others: Contract | None = None
    texts = described_names(form.doc) | described_names(form.function.__doc__)
    for parameter in _parameters(form):
        hint = hints.get(parameter.name, object)
        if parameter.kind is parameter.POSITIONAL_ONLY:
            positional.append(_position(parameter, hint, is_async=form.is_async))
        elif parameter.kind is parameter.VAR_POSITIONAL:
            raise BindError(f"it takes '*{parameter.name}'.", "Take one list as an input instead.")
        elif parameter.kind is parameter.VAR_KEYWORD:
            others = _contract(f"the inputs '**{parameter.name}'", hint)
        else:
            inputs.append(_input(parameter, hint, texts.get(parameter.name, "")))
    if positional.count(None) > 1:
        raise BindError("it asks for the context twice.", "Ask for one.")
    return _Signature(
        positional=tuple(positional),
        inputs=tuple(inputs),
        contracts={each.name: _contract(f"the input {each.name!r}", each.type_) for each in inputs},
        others=others,
        output=_output_contract(hints.get("return", object)),
        declares_output="return" in hints,
    )


def _parameters(form: _Form) -> list[inspect.Parameter]:
    try:
        return list(inspect.signature(form.function).parameters.values())[form.skip :]
    except (TypeError, ValueError) as error:
        raise BindError(f"its signature cannot be read ({error}).", "Wrap it in a 'def' of your own.") from error


def _hints(function: Callable[..., object]) -> dict[str, object]:
    bare = _called(_bare(function))
    try:
        hints = typing.get_type_hints(bare, include_extras=True)
    except NameError as error:
        raise unresolvable(getattr(bare, "__qualname__", repr(bare)), error) from error
    except (TypeError, SyntaxError) as error:
        raise BindError(f"an annotation is no type: {error}.", "Correct the annotation.") from error
    return {name: object if hint is typing.Any else hint for name, hint in hints.items()}


def _position(parameter: inspect.Parameter, hint: object, *, is_async: bool) -> Need | None:
    """A parameter left of ``/``: a need, or None for the context."""
    name, bare = parameter.name, _without_notes(hint)
    if parameter.default is not parameter.empty:
        raise BindError(f"{name!r}, left of '/', has a default.", "Needs are always given; move inputs right of '/'.")
    if bare is Context and not is_async:
        raise BindError(f"{name!r} is a Context in a 'def'.", "Ask for a SyncContext, or make it 'async def'.")
    if bare is Context or bare is SyncContext:
        return None
    if parameter.annotation is parameter.empty or not _can_be_need(bare):
        shown = type_text(bare) if parameter.annotation is not parameter.empty else "not annotated"
        raise BindError(
            f"{name!r}, left of '/', is {shown}, so it cannot be a client.",
            "Move inputs right of '/'; annotate needs with the client's class.",
        )
    return Need(name, bare)


_UNION_ORIGINS = (typing.Union, types.UnionType, typing.Literal)


def _can_be_need(type_: object) -> bool:
    """Whether a type can be that of a client: a class that is neither a builtin nor an abstract collection."""
    origin = typing.get_origin(type_)
    if origin in _UNION_ORIGINS:
        return False
    kind = origin or type_
    if not isinstance(kind, type):
        return False
    return kind is object or kind.__module__ not in ("builtins", "collections.abc", "types")


def _input(parameter: inspect.Parameter, hint: object, description: str) -> InputParameter:
    """A parameter right of ``/``, or of a signature without one."""
    if _without_notes(hint) in (Context, SyncContext):
        raise BindError(
            f"{parameter.name!r} is the context, right of '/'.", f"Put it left: def f({parameter.name}: Context, /, ...)."
        )
    required = parameter.default is parameter.empty
    return InputParameter(parameter.name, hint, required, None if required else parameter.default, description)


def _without_notes(hint: object) -> object:
    return typing.get_args(hint)[0] if typing.get_origin(hint) is typing.Annotated else hint


def _contract(place: str, type_: object) -> Contract:
    try:
        return contract_for(type_)
    except BindError as error:
        raise BindError(f"{place}: {error.problem}", error.remedy) from error


def _output_contract(type_: object) -> Contract:
    contract = _contract("what it returns", type_)
    if contract.has_sets:
        raise BindError(f"it returns {contract.name}, and a set is not JSON.", "Return a list and declare it.")
    return contract


def _file_of(module: str) -> str:
    return str(getattr(sys.modules.get(module), "__file__", None) or "")


def _default(parameter: InputParameter) -> object:
    return NO_DEFAULT if parameter.required else parameter.default


def _as_issues(answer: Iterable[Issue | str] | Issue | str | None) -> list[Issue]:
    """What ``validate_output`` answered, with its looseness taken out."""
    if answer is None:
        return []
    if isinstance(answer, (str, Issue)):
        answer = [answer]
    if not isinstance(answer, collections.abc.Iterable) or isinstance(answer, Mapping):
        return [Issue(f"validate_output answered {type(answer).__name__} instead of issues or None")]
    return [each if isinstance(each, Issue) else Issue(str(each)) for each in answer]


def _fault(issue: Issue) -> Fault:
    return Fault(issue.message, issue.path.removeprefix("$").removeprefix("."))
