"""Records, calls and outcomes as JSON data and back: what stores, golden logs and other processes hold.

Fields with their default value are left out, so that a field added later does not change old lines.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from json import encoder
from typing import Protocol, TypeVar, cast

from treadle import _models as models
from treadle._models import DECISIONS, FACTS, Call, Entry, GiveUp, Outcome, RetryAfter

T = TypeVar("T")

_BY_KIND: Mapping[str, type] = {cast("str", kind.kind): kind for kind in (*FACTS, *DECISIONS)}  # type: ignore[attr-defined]  # each has a kind
_RECORDS = (
    models.Issue,
    models.ErrorInfo,
    models.RetryPolicy,
    models.SecretReference,
    models.SpanRecord,
    models.CallCache,
    models.CallRate,
    models.StepUsage,
    models.SpendLimit,
    models.BudgetRefusal,
    Outcome,
    Call,
)
"""From the inside out: a hook is made with those of its parts."""


def compact_json(*, ensure_ascii: bool) -> Callable[[object], str]:
    """What writes plain data as compact JSON; refuses NaN and infinity.

    The standard library's encoder makes its C part anew for every text, which takes longer than a short text itself.
    """
    plain = json.JSONEncoder(ensure_ascii=ensure_ascii, separators=(",", ":"), allow_nan=False)
    make = getattr(encoder, "c_make_encoder", None)
    if make is None:  # another Python than CPython
        return plain.encode
    escape = encoder.encode_basestring_ascii if ensure_ascii else encoder.encode_basestring
    write: Callable[[object, int], tuple[str, ...]] = make(
        None, plain.default, escape, None, ":", ",", plain.sort_keys, plain.skipkeys, plain.allow_nan
    )
    return lambda data: "".join(write(data, 0))


_encode = compact_json(ensure_ascii=False)


class _Converter(Protocol):
    """What is used of cattrs."""

    def structure(self, data: object, kind: type[T], /) -> T:
        """The record that the data stand for."""

    def unstructure(self, record: object, /) -> dict[str, object]:
        """A record as data."""


@functools.cache
def _converter() -> _Converter:
    import cattrs  # takes longer than all of treadle's records, and most processes neither read nor write a log
    from cattrs.gen import make_dict_unstructure_fn  # the same

    converter = cattrs.Converter()
    converter.register_structure_hook(str | int, lambda value, _: value)
    proposal = RetryAfter | GiveUp | None
    converter.register_unstructure_hook(proposal, _dump_proposal)
    converter.register_structure_hook(proposal, lambda value, _: _load_proposal(value))
    converter.register_structure_hook_func(lambda kind: kind is object, lambda value, _: value)
    for record in (*_RECORDS, *_BY_KIND.values()):
        converter.register_unstructure_hook(record, make_dict_unstructure_fn(record, converter, _cattrs_omit_if_default=True))
    return cast("_Converter", converter)


def _dump_proposal(proposal: RetryAfter | GiveUp | None) -> object:
    if isinstance(proposal, RetryAfter):
        data = {"after_s": proposal.delay_s, "reason": proposal.reason}
        return data if proposal.is_counted else {**data, "is_counted": False}
    return None if proposal is None else {"give_up": proposal.reason}


def _load_proposal(data: object) -> RetryAfter | GiveUp | None:
    if not isinstance(data, Mapping):
        return None
    if "give_up" in data:
        return GiveUp(data["give_up"])
    return RetryAfter(data["after_s"], data["reason"], data.get("is_counted", True))


def dump_entry(entry: Entry) -> dict[str, object]:
    """A fact or decision as JSON data, with its ``kind``."""
    return {"kind": entry.kind, **_converter().unstructure(entry)}


def load_entry(data: object) -> Entry:
    """The fact or decision that ``dump_entry`` gave.

    Raises:
        ValueError: It is no object, of an unknown kind (written by a newer version), or not of its kind's shape.
    """
    if not isinstance(data, Mapping):
        raise ValueError(f"a record is an object with a 'kind', not {type(data).__name__}")
    fields = dict(data)
    kind = str(fields.pop("kind", ""))
    if kind not in _BY_KIND:
        raise ValueError(f"unknown kind of record: {kind!r}; it may have been written by a newer version of treadle")
    return cast("Entry", _load(fields, _BY_KIND[kind]))


def _load(data: object, kind: type[T]) -> T:
    try:
        return _converter().structure(data, kind)
    except (ExceptionGroup, TypeError, ValueError, KeyError) as error:
        import cattrs  # the converter has imported it

        why = "; ".join(cattrs.transform_error(error)) if isinstance(error, cattrs.BaseValidationError) else str(error)
        raise ValueError(f"not a {kind.__name__}: {why}") from error


def dump_line(entry: Entry) -> str:
    """A fact or decision as one line of JSON."""
    return _encode(dump_entry(entry))


def load_line(line: str) -> Entry:
    """The fact or decision of a line.

    Raises:
        ValueError: As ``load_entry``, or the line is not JSON.
    """
    return load_entry(json.loads(line))


def dump_record(record: Call | Outcome) -> dict[str, object]:
    """A call or an outcome as JSON data."""
    return _converter().unstructure(record)


def load_call(data: Mapping[str, object]) -> Call:
    """The call that ``dump_record`` gave; a ValueError when it is none."""
    return _load(data, Call)


def load_outcome(data: Mapping[str, object]) -> Outcome:
    """The outcome that ``dump_record`` gave; a ValueError when it is none."""
    return _load(data, Outcome)
