"""From plain data to the records of a workflow, with every structural fault at once."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import cast

from treadle._budgets import Budget, BudgetInvalidError, parse_budget
from treadle._durations import parse_duration
from treadle._expressions import check_text, parse_expression, split_text
from treadle._limits import LimitsInvalidError, ProcessLimits, read_limits
from treadle._models import Json, RetryPolicy
from treadle._policy_keys import StepCache, StepRate, cache_faults, rate_faults
from treadle._retries import RetryInvalidError, parse_retry
from treadle._schema import (
    BODY,
    BRANCH,
    DEFAULTS,
    INPUT,
    INPUT_TYPES,
    NAME,
    NOT_OF_WAITS,
    ONLY_WITH,
    ONLY_WITH_FOREACH,
    PARALLEL,
    RESERVED_NAMES,
    STEP,
    STEP_ID,
    STEP_KINDS,
    Table,
)
from treadle._slots import Concurrency, concurrency_faults
from treadle._waits import Wait, wait_faults
from treadle._workflow._records import (
    Body,
    Branch,
    Defaults,
    InputSpec,
    NeedsRule,
    OnError,
    OnInterrupt,
    Parallel,
    Step,
)
from treadle.errors import ExpressionError, Fault

MAX_DEPTH = 50
"""Mappings and lists within each other, in one value."""

MAX_GROUPS = 10
"""Groups within each other."""

MAX_FALLBACKS = 10
"""Fallbacks of one step."""

MAX_FAULTS = 200
"""Faults that are collected before reading stops: a file of garbage should not keep anyone waiting."""

_NAME = re.compile(NAME)
_STEP_ID = re.compile(STEP_ID)
_PERCENT = re.compile(r"(\d{1,3}(?:\.\d+)?)%")
_USES = re.compile(r"[^\s${}]+")
_NEEDS_RULES = ("all_succeeded", "all_done", "any_succeeded")
_ON_INTERRUPT = ("rerun", "fail", "ask")


class _Refused(ValueError):
    """A value that its key does not take."""

    def __init__(self, message: str, remedy: str = "") -> None:
        self.remedy = remedy
        super().__init__(message)


class TooManyFaults(Exception):
    """Reading stops: enough faults were found."""


def suggestion(name: object, known: Iterable[str], aliases: Mapping[str, str] | None = None) -> str:
    """``did you mean 'needs'?``, or an empty text."""
    if not isinstance(name, str) or len(name) > 60:
        return ""
    if aliases and name in aliases:
        return f"did you mean {aliases[name]!r}?"
    close = difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else ""


def shown(value: object) -> str:
    """A value, short, for a message."""
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    if value is None:
        return "nothing (null)"
    if isinstance(value, str):
        return repr(value if len(value) <= 40 else value[:37] + "...")
    if isinstance(value, bool):
        return "true" if value else "false"
    return (
        str(value)[:40]
        if isinstance(value, float) or (isinstance(value, int) and abs(value) < 10**40)
        else type(value).__name__
    )


class Reader:
    """Reads the mappings of a workflow by their tables and keeps the faults.

    Args:
        file: Name of the file, for the faults.
        position: Line and column of a path, ``(0, 0)`` when unknown.
        braces: Whether ``{{ }}`` holds expressions too.
        secrets: Names of the declared secrets.
        faults: Found already; what is wrong at the same paths only follows from them.
    """

    def __init__(
        self,
        *,
        file: str = "",
        position: Callable[[str], tuple[int, int]] = lambda path: (0, 0),
        braces: bool = False,
        secrets: Sequence[str] = (),
        faults: Sequence[Fault] = (),
    ) -> None:
        self.faults = list(faults)
        self._faulty = {fault.path for fault in faults}
        self.braces = braces
        self.secret_names = tuple(secrets)
        self._file, self._position = file, position
        self._depth = 0
        self._listed: dict[str, str] = {}  # kind of table -> where its keys were listed

    def fault(self, path: str, message: str, remedy: str = "") -> None:
        """Keep a fault; its place is looked up by its path, or by the nearest path above that is in the file."""
        if path in self._faulty:
            return
        line = column = 0
        place = path
        while place and not line:
            line, column = self._position(place)
            place = place[: max(place.rfind("."), place.rfind("["), 0)]
        self.faults.append(Fault(message, path, remedy, self._file, line, column))
        if len(self.faults) >= MAX_FAULTS:
            raise TooManyFaults

    def mapping(self, path: str, data: object, table: Table) -> dict[str, object]:
        """The keys of a mapping that are fine, read; every other is a fault."""
        if not isinstance(data, Mapping):
            self.fault(path, f"{table.what} is a mapping, not {shown(data)}")
            return {}
        result: dict[str, object] = {}
        for key, value in data.items():
            place = f"{path}.{key}" if path else str(key)
            known = table.keys.get(key) if isinstance(key, str) else None
            if known is None:
                self._unknown(place, key, table)
            elif not known.kind:
                self.fault(place, f"{key!r} is not supported yet")
            else:
                try:
                    result[known.name] = READERS[known.kind](self, place, value)
                except _Refused as refused:
                    self.fault(place, str(refused), refused.remedy)
        for name in table.required:
            if name not in data:
                self.fault(path, f"{table.what} needs a {name!r}", "" if path else f"add {name}: ...")
        return result

    def _unknown(self, place: str, key: object, table: Table) -> None:
        supported = [name for name, known in table.keys.items() if known.kind]
        remedy = suggestion(key, supported, table.aliases)
        if table is PARALLEL and key in STEP.keys:
            remedy = "it is for the group as a whole: write it beside 'parallel'"
        if not remedy:
            # Said once: what is wrong at many places of a kind need not be told its keys at each.
            listed = self._listed.setdefault(table.what, place[:80])
            remedy = f"keys: {', '.join(supported)}" if listed == place[:80] else f"its keys: see {listed}"
        self.fault(place[:200], f"{shown(key)} is not a key of {table.what}", remedy)

    # scalars

    def text(self, path: str, value: object) -> str:
        """A text."""
        if not isinstance(value, str):
            raise _Refused(f"expected a text, not {shown(value)}", "put it in quotes" if _is_scalar(value) else "")
        _check_characters(value)
        return value

    def name(self, path: str, value: object) -> str:
        """A text with something in it."""
        text = self.text(path, value)
        if not text.strip() or len(text) > 200 or not text.isprintable():
            raise _Refused(f"expected 1 to 200 printable characters, not {shown(text)}")
        return text

    def flag(self, path: str, value: object) -> bool:
        """True or false."""
        if not isinstance(value, bool):
            raise _Refused(f"expected true or false, not {shown(value)}")
        return value

    def count(self, path: str, value: object) -> int:
        """A whole number from 1."""
        if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value < 2**31:
            raise _Refused(f"expected a whole number from 1, not {shown(value)}")
        return value

    def number(self, path: str, value: object) -> int:
        """A whole number."""
        if isinstance(value, bool) or not isinstance(value, int) or not -(2**31) <= value < 2**31:
            raise _Refused(f"expected a whole number, not {shown(value)}")
        return value

    def number_from_0(self, path: str, value: object) -> int:
        """A whole number from 0."""
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**31:
            raise _Refused(f"expected a whole number from 0, not {shown(value)}")
        return value

    def needs_rule(self, path: str, value: object) -> NeedsRule:
        """Which needs must have succeeded."""
        return cast("NeedsRule", _one_of(value, _NEEDS_RULES))

    def on_interrupt(self, path: str, value: object) -> OnInterrupt:
        """What is done with a call whose process went away."""
        return cast("OnInterrupt", _one_of(value, _ON_INTERRUPT))

    def subflow(self, path: str, value: object) -> str:
        """A path, a name, or a name with versions; the same in every run."""
        text = self.name(path, value)
        if "${{" in text:
            raise _Refused("a subflow is fixed: no ${{ }}", "choose between several with 'choose'")
        return text

    def on_error(self, path: str, value: object) -> OnError:
        """Stop or continue."""
        if value == "stop":
            return "stop"
        if value == "continue":
            return "continue"
        raise _Refused(f"expected 'stop' or 'continue', not {shown(value)}", suggestion(value, ("stop", "continue")))

    def max_failures(self, path: str, value: object) -> int | str:
        """A whole number from 0 or a percent."""
        if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31:
            return value
        percent = _PERCENT.fullmatch(value) if isinstance(value, str) else None
        if percent is None or float(percent[1]) > 100:
            raise _Refused(f"expected a whole number from 0 or a percent up to 100, not {shown(value)}", "write 3 or '25%'")
        return percent[0]

    def duration(self, path: str, value: object) -> float:
        """Seconds, more than none."""
        if not isinstance(value, str | int | float):
            raise _Refused(f"expected a duration, not {shown(value)}", "write it like '90s' or '5m'")
        try:
            seconds = parse_duration(value)
        except ValueError as error:
            message, _, remedy = str(error).partition("; ")
            raise _Refused(message, remedy) from None
        if seconds <= 0:
            raise _Refused("a timeout is more than no time", "leave it out for none")
        return seconds

    def syntax(self, path: str, value: object) -> str:
        """The one other syntax for expressions."""
        if value != "braces":
            raise _Refused(f"expected 'braces', not {shown(value)}", "leave it out for ${{ }} alone")
        return "braces"

    def uses(self, path: str, value: object) -> str:
        """The name of an executor."""
        text = self.text(path, value)
        if not _USES.fullmatch(text):
            raise _Refused(f"expected the name of an executor, not {shown(text)}", "names are fixed: no spaces, no ${{ }}")
        return text

    def item_name(self, path: str, value: object) -> str:
        """What expressions call the item of a foreach."""
        text = self.text(path, value)
        if text in RESERVED_NAMES:
            raise _Refused(f"{text!r} has a meaning of its own in expressions", "choose another name")
        return _spelled(text, _NAME, "a name: letters, digits and _, no digit first")

    def input_type(self, path: str, value: object) -> str:
        """A JSON type."""
        if isinstance(value, str) and value in INPUT_TYPES:
            return value
        remedy = suggestion(value, INPUT_TYPES, _TYPE_ALIASES) or f"types: {', '.join(INPUT_TYPES)}"
        raise _Refused(f"{shown(value)} is not a type of inputs", remedy)

    # collections of names

    def texts(self, path: str, value: object) -> dict[str, str]:
        """Names with texts."""
        result = {}
        for key, item in self._items(path, value):
            try:
                result[key] = self.text("", item)
            except _Refused as refused:
                self.fault(f"{path}.{key}", str(refused), refused.remedy)
        return result

    def needs(self, path: str, value: object) -> tuple[str, ...]:
        """Ids of steps, each once."""
        items = [value] if isinstance(value, str) else value
        return tuple(dict.fromkeys(self._names(path, items, _STEP_ID, "the id of a step")))

    def secrets(self, path: str, value: object) -> tuple[str, ...]:
        """Names of secrets, each once."""
        return tuple(dict.fromkeys(self._names(path, value, _NAME, "a name: letters, digits and _, no digit first")))

    def _names(self, path: str, value: object, pattern: re.Pattern[str], what: str) -> list[str]:
        if not isinstance(value, list | tuple):
            raise _Refused(f"expected a list, not {shown(value)}")
        names = []
        for index, item in enumerate(value):
            try:
                names.append(_spelled(self.text("", item), pattern, what))
            except _Refused as refused:
                self.fault(f"{path}[{index}]", str(refused), refused.remedy)
        return names

    def _items(
        self, path: str, value: object, pattern: re.Pattern[str] | None = None, what: str = ""
    ) -> list[tuple[str, object]]:
        """The items of a mapping whose keys are fine."""
        if not isinstance(value, Mapping):
            raise _Refused(f"expected a mapping, not {shown(value)}")
        items = []
        for key, item in value.items():
            try:
                items.append((self.text("", key) if pattern is None else _spelled(self.text("", key), pattern, what), item))
            except _Refused as refused:
                self.fault(f"{path}.{key}"[:200], str(refused), refused.remedy)
        return items

    # expressions and values

    def condition(self, path: str, value: object) -> str:
        """The bare source of an expression."""
        if isinstance(value, bool):
            return "true" if value else "false"
        text = self.text(path, value)
        if "{{" in text:
            text = _unwrapped(text)
        try:
            parse_expression(text)
        except ExpressionError as error:
            raise _refused_expression(error) from None
        return text.strip()

    def foreach(self, path: str, value: object) -> Json:
        """A list, or a text that is one expression."""
        if isinstance(value, list | tuple):
            return self.value(path, value)
        if not isinstance(value, str):
            raise _Refused(f"expected a list or an expression for one, not {shown(value)}", "write ${{ inputs.name }}")
        return self._whole(path, value, "a list")

    def _whole(self, path: str, value: str, what: str) -> str:
        """A text that is one expression and nothing else."""
        text = value.strip()
        parts = _taken_apart(text, braces=self.braces)
        if len(parts) != 1 or parts[0][0] != "expression":
            raise _Refused(f"expected {what} or one ${{{{ }}}} alone, not {shown(value)}", f"write ${{{{ {text[:60]} }}}}")
        self._check_text(path, text, secrets=False)
        return text

    def with_(self, path: str, value: object) -> dict[str, Json] | str:
        """The inputs of an executor, or one expression for all of them; only in the former secrets may stand."""
        if isinstance(value, str):
            return self._whole(path, value, "a mapping")
        return {key: self.value(f"{path}.{key}", item, secrets=True) for key, item in self._items(path, value)}

    def outputs(self, path: str, value: object) -> dict[str, Json]:
        """What the run answers."""
        items = self._items(path, value, _NAME, "a name: letters, digits and _, no digit first")
        return {key: self.value(f"{path}.{key}", item) for key, item in items}

    def value(self, path: str, value: object, depth: int = 0, *, secrets: bool = False) -> Json:
        """A copy of a value as plain data; what is none, and each expression that cannot be parsed, is a fault."""
        if isinstance(value, str):
            self._check_text(path, value, secrets=secrets)
            return value
        if value is None or isinstance(value, bool):
            return value
        if isinstance(value, int | float):
            self._check_number(path, value)
            return value
        if depth >= MAX_DEPTH:
            self.fault(path[:200], f"nested deeper than {MAX_DEPTH} levels")
        elif isinstance(value, list | tuple):
            return [self.value(f"{path}[{index}]", item, depth + 1, secrets=secrets) for index, item in enumerate(value)]
        elif isinstance(value, Mapping):
            return self._plain_mapping(path, value, depth, secrets=secrets)
        else:
            remedy = (
                "put it in quotes" if hasattr(value, "isoformat") else "pass texts, numbers, booleans, null, lists, mappings"
            )
            self.fault(path, f"a value of type {type(value).__name__} is no plain data", remedy)
        return None

    def _plain_mapping(self, path: str, value: Mapping[object, object], depth: int, *, secrets: bool) -> dict[str, Json]:
        result = {}
        for key, item in value.items():
            if not isinstance(key, str):
                self.fault(path, f"the key {shown(key)} is no text", "put it in quotes")
            elif "${{" in key:
                self.fault(path, f"the key {shown(key)} holds an expression", "only values may hold ${{ }}")
            else:
                result[key] = self.value(f"{path}.{key}", item, depth + 1, secrets=secrets)
        return result

    def _check_text(self, path: str, text: str, *, secrets: bool) -> None:
        try:
            _check_characters(text)
            taken = check_text(text, braces=self.braces)
        except _Refused as refused:
            self.fault(path, str(refused), refused.remedy)
        except ExpressionError as error:
            why = _refused_expression(error)
            self.fault(path, str(why), why.remedy)
        else:
            for name in sorted(taken):
                self._check_secret(path, name, allowed=secrets)

    def _check_secret(self, path: str, name: str, *, allowed: bool) -> None:
        if not allowed:
            self.fault(path, f"the secret {name!r} cannot be used here", "secrets go only into 'with'")
        elif name not in self.secret_names:
            remedy = suggestion(name, self.secret_names) or f"add it: secrets: [{name}]"
            self.fault(path, f"the secret {name!r} is not declared", remedy)

    def _check_number(self, path: str, number: int | float) -> None:
        if isinstance(number, float) and not math.isfinite(number):
            self.fault(path, f"{number} is no JSON number", "put it in quotes")
        elif isinstance(number, int) and number.bit_length() > 256:
            self.fault(path, "a number of more than 256 bits", "put it in quotes")

    # records

    def retry(self, path: str, value: object) -> RetryPolicy | None:
        """How failed attempts are repeated."""
        try:
            return parse_retry(dict(value) if isinstance(value, Mapping) else value)
        except RetryInvalidError as error:
            for fault in error.faults:
                self.fault(f"{path}.{fault.path}" if fault.path else path, fault.message, fault.remedy)
        return None

    def wait(self, path: str, value: object) -> Wait | None:
        """A duration, or a mapping that says what is waited for."""
        plain = self.value(path, value, secrets=False)
        found = False
        for key, message, remedy in wait_faults(plain):
            found = True
            self.fault(f"{path}.{key}" if key else path, message, remedy)
        return None if found else Wait.read(plain)

    def cache(self, path: str, value: object) -> StepCache | None:
        """How outputs are kept for later calls."""
        plain = self._checked(path, value, cache_faults)
        return None if plain is None else StepCache.read(plain)

    def rate_limit(self, path: str, value: object) -> StepRate | None:
        """How often calls may be made."""
        plain = self._checked(path, value, rate_faults)
        return None if plain is None else StepRate.read(plain)

    def _checked(
        self, path: str, value: object, find: Callable[[Json], Iterable[tuple[str, str, str]]]
    ) -> dict[str, Json] | None:
        """Plain data without faults; None after the first."""
        plain = self.value(path, value, secrets=False)
        faults = list(find(plain))
        for key, message, remedy in faults:
            self.fault(f"{path}.{key}" if key else path, message, remedy)
        return None if faults else cast("dict[str, Json]", plain)

    def concurrency(self, path: str, value: object) -> Concurrency | None:
        """The name of a group, or a mapping that also says how many slots it has."""
        plain = self.value(path, value, secrets=False)
        found = False
        for key, message, remedy in concurrency_faults(plain):
            found = True
            self.fault(f"{path}.{key}" if key else path, message, remedy)
        return None if found else Concurrency.read(plain)

    def priority(self, path: str, value: object) -> int:
        """A whole number."""
        if isinstance(value, bool) or not isinstance(value, int) or not abs(value) < 2**31:
            raise _Refused(f"expected a whole number, not {shown(value)}", "higher ones first; the default is 0")
        return value

    def isolation(self, path: str, value: object) -> Json:
        """``inline``, ``process``, or limits of a process."""
        if not isinstance(value, Mapping):
            if value not in ("inline", "process"):
                remedy = suggestion(value, ("inline", "process")) or "limits are a mapping, like {memory: 512 MiB}"
                raise _Refused(f"expected 'inline', 'process' or limits of a process, not {shown(value)}", remedy)
            return value
        try:
            read_limits(value, ProcessLimits())
        except LimitsInvalidError as error:
            for fault in error.faults:
                self.fault(f"{path}.{fault.path}", fault.message, fault.remedy)
        return dict(value)

    def budget(self, path: str, value: object) -> Budget | None:
        """What may be used up."""
        try:
            return parse_budget(value)
        except BudgetInvalidError as error:
            for fault in error.faults:
                self.fault(f"{path}.{fault.path}" if fault.path else path, fault.message, fault.remedy)
        return None

    def defaults(self, path: str, value: object) -> Defaults:
        """What holds for every step."""
        data = self.mapping(path, value, DEFAULTS)
        return Defaults(data.get("timeout"), data.get("retry"), data.get("isolation"))  # type: ignore[arg-type] # READERS made them so

    def inputs(self, path: str, value: object) -> dict[str, InputSpec]:
        """What a run is given."""
        items = self._items(path, value, _NAME, "a name: letters, digits and _, no digit first")
        return {key: self._input(f"{path}.{key}", item) for key, item in items}

    def _input(self, path: str, value: object) -> InputSpec:
        data = self.mapping(path, value, INPUT)
        has_default = data.get("default") is not None
        spec = InputSpec(
            type=str(data.get("type", "")),
            required=bool(data.get("required", not (isinstance(value, Mapping) and "default" in value))),
            default=data.get("default"),
            description=str(data.get("description", "")),
        )
        if spec.required and has_default:
            self.fault(f"{path}.required", "an input that is required never takes its default", "leave one of the two out")
        if has_default and not fits(spec.type, spec.default):
            self.fault(f"{path}.default", f"the default is not of type {spec.type}: {shown(spec.default)}")
        return spec

    def steps(self, path: str, value: object) -> dict[str, Step]:
        """The steps by id."""
        what = "the id of a step: letters, digits, _ and -, no digit or - first"
        return {key: self.step(f"{path}.{key}", key, item) for key, item in self._items(path, value, _STEP_ID, what)}

    def step(self, path: str, step_id: str, value: object, table: Table = STEP) -> Step:
        """One step; after a fault what could be read of it."""
        if self._depth > MAX_GROUPS:
            self.fault(path, f"groups are nested deeper than {MAX_GROUPS} levels", "make a subflow of the inner ones")
            return Step(step_id)
        self._depth += 1
        data = self.mapping(path, value, table)
        self._depth -= 1
        if isinstance(value, Mapping):
            self._check_kind(path, step_id, value)
            if "wait" in value:
                for name in NOT_OF_WAITS:
                    if name in value:
                        remedy = "write it within the wait: {signal: ..., timeout: ...}" if name == "timeout" else ""
                        self.fault(f"{path}.{name}", f"a step that waits has no {name!r}", remedy)
            if "foreach" not in value:
                for name in ONLY_WITH_FOREACH & value.keys():
                    self.fault(f"{path}.{name}", f"{name!r} belongs to a foreach, and there is none")
        fields = _as_fields(data)
        if table is STEP and "priority" in data:
            fields["priority"] = data["priority"]
        return Step(step_id, **fields)  # type: ignore[arg-type] # READERS made each of its field's type

    def _check_kind(self, path: str, step_id: str, value: Mapping[object, object]) -> None:
        kinds = [name for name in STEP_KINDS if name in value]
        if not kinds:
            self.fault(path, "a step needs a 'uses'", "name the executor: uses: shell.run")
        elif len(kinds) > 1:
            named = " and ".join(repr(name) for name in kinds)
            self.fault(f"{path}.{kinds[1]}", f"a step has exactly one of {named}", "make two steps of it")
        elif kinds[0] != "wait":
            self._check_beside(path, kinds[0], value)
        if step_id == "finally" and kinds and kinds[0] != "uses":
            self.fault(path, "a group cannot be called 'finally'", "its paths would be those of the clean-up; rename it")

    def _check_beside(self, path: str, kind: str, value: Mapping[object, object]) -> None:
        for name in value:
            kinds = ONLY_WITH.get(name, (kind,)) if isinstance(name, str) else (kind,)
            if kind not in kinds:
                listed = " or ".join(repr(known) for known in kinds if STEP.keys[known].kind)
                inside = kind == "parallel" and name in PARALLEL.keys
                remedy = f"write it inside of {kind!r}" if inside else f"give it to the steps in {kind!r}"
                self.fault(f"{path}.{name}", f"{name!r} belongs to a step with {listed}", remedy)

    def parallel(self, path: str, value: object) -> Parallel:
        """Steps that form one."""
        data = self.mapping(path, value, PARALLEL)
        return Parallel(**_as_fields(data))  # type: ignore[arg-type] # READERS made each of its field's type

    def choose(self, path: str, value: object) -> dict[str, Branch]:
        """The branches by id."""
        what = "the id of a branch: letters, digits, _ and -, no digit or - first"
        branches = {key: self._branch(f"{path}.{key}", key, item) for key, item in self._items(path, value, _STEP_ID, what)}
        last = [key for key, branch in branches.items() if branch.is_else]
        for key in last[1:]:
            self.fault(f"{path}.{key}.else", f"{last[0]!r} is the 'else' already", "give this branch a 'when'")
        return branches

    def _branch(self, path: str, step_id: str, value: object) -> Branch:
        step = self.step(path, step_id, value, BRANCH)
        said = value if isinstance(value, Mapping) else {}
        is_else = said.get("else") is True
        if is_else and "when" in said:
            self.fault(f"{path}.when", "a branch has a 'when' or is the 'else', not both", "leave one of the two out")
        elif not is_else and "when" not in said and isinstance(value, Mapping):
            self.fault(path, "a branch needs a 'when'", "write its condition, or else: true")
        priority = said.get("priority")
        return Branch(step, priority if isinstance(priority, int) else 0, is_else)

    def body(self, path: str, value: object) -> Body:
        """What stands in for a step, or undoes it."""
        data = self.mapping(path, value, BODY)
        return Body(**{"uses": "", **_as_fields(data)})  # type: ignore[arg-type] # READERS made each of its field's type

    def fallback(self, path: str, value: object) -> tuple[Body, ...]:
        """One body, or several in order."""
        if not isinstance(value, list | tuple):
            return (self.body(path, value),)
        if not 1 <= len(value) <= MAX_FALLBACKS:
            raise _Refused(f"expected 1 to {MAX_FALLBACKS} fallbacks, not {len(value)}")
        return tuple(self.body(f"{path}[{index}]", item) for index, item in enumerate(value))

    def workflows(self, path: str, value: object) -> dict[str, object]:
        """Subflows by name, not read yet."""
        return dict(self._items(path, value))


def _as_fields(data: Mapping[str, object]) -> dict[str, object]:
    return {_FIELDS.get(name, name): item for name, item in data.items() if name not in _OF_BRANCHES}


_FIELDS = {"with": "with_", "as": "as_", "timeout": "timeout_s"}

_OF_BRANCHES = ("priority", "else")
"""Keys that a branch has and its step has not."""

_TYPE_ALIASES = {
    "any": "object",
    "bool": "boolean",
    "dict": "object",
    "float": "number",
    "int": "integer",
    "list": "array",
    "map": "object",
    "str": "string",
    "text": "string",
}

READERS: Mapping[str, Callable[[Reader, str, object], object]] = {
    "body": Reader.body,
    "choose": Reader.choose,
    "budget": Reader.budget,
    "concurrency": Reader.concurrency,
    "condition": Reader.condition,
    "count": Reader.count,
    "defaults": Reader.defaults,
    "duration": Reader.duration,
    "fallback": Reader.fallback,
    "flag": Reader.flag,
    "foreach": Reader.foreach,
    "input_type": Reader.input_type,
    "inputs": Reader.inputs,
    "isolation": Reader.isolation,
    "item_name": Reader.item_name,
    "max_failures": Reader.max_failures,
    "name": Reader.name,
    "needs": Reader.needs,
    "needs_rule": Reader.needs_rule,
    "number": Reader.number,
    "number_from_0": Reader.number_from_0,
    "on_error": Reader.on_error,
    "on_interrupt": Reader.on_interrupt,
    "outputs": Reader.outputs,
    "priority": Reader.priority,
    "parallel": Reader.parallel,
    "retry": Reader.retry,
    "secrets": Reader.secrets,
    "steps": Reader.steps,
    "subflow": Reader.subflow,
    "syntax": Reader.syntax,
    "text": Reader.text,
    "texts": Reader.texts,
    "uses": Reader.uses,
    "value": Reader.value,
    "wait": Reader.wait,
    "cache": Reader.cache,
    "rate_limit": Reader.rate_limit,
    "with": Reader.with_,
    "workflows": Reader.workflows,
}
"""Kind of value (see ``_schema.KINDS``) -> what reads it."""

_TYPES: Mapping[str, type | tuple[type, ...]] = {
    "string": str,
    "integer": int,
    "number": (int, float),
    "boolean": bool,
    "array": list,
    "object": dict,
}


def fits(type_: str, value: Json) -> bool:
    """Whether a value is of a JSON type; a boolean is no number, and the empty type takes anything."""
    if not type_:
        return True
    return isinstance(value, _TYPES[type_]) and (type_ == "boolean" or not isinstance(value, bool))


def _one_of(value: object, words: Sequence[str]) -> object:
    if value not in words:
        raise _Refused(
            f"expected {', '.join(map(repr, words[:-1]))} or {words[-1]!r}, not {shown(value)}", suggestion(value, words)
        )
    return value


def _is_scalar(value: object) -> bool:
    return isinstance(value, int | float) or hasattr(value, "isoformat")


def _spelled(text: str, pattern: re.Pattern[str], what: str) -> str:
    if len(text) > 200 or not pattern.fullmatch(text):
        raise _Refused(f"{shown(text)} is not {what}")
    return text


def _check_characters(text: str) -> None:
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            raise _Refused("a text with half a character (a lone surrogate)") from None


def _taken_apart(text: str, *, braces: bool) -> Sequence[tuple[str, str]]:
    try:
        return split_text(text, braces=braces)
    except ExpressionError as error:
        raise _refused_expression(error) from None


def _unwrapped(text: str) -> str:
    """``when`` also takes its expression in ``${{ }}``, when there is nothing else."""
    parts = _taken_apart(text.strip(), braces=True)
    if len(parts) == 1 and parts[0][0] == "expression":
        return parts[0][1]
    if "${{" in text:
        raise _Refused("expected one bare expression, not one with ${{ }} in it", "write it without: steps.a.output.n > 1")
    return text


def _refused_expression(error: ExpressionError) -> _Refused:
    where = f", at character {error.offset + 1}" if error.offset else ""
    return _Refused(f"{error.problem}{where}", error.remedy)
