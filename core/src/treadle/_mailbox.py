"""Signals of one run and the steps that wait for them: each goes to one step, the early ones wait for theirs. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import cast

import attrs

from treadle._models import Json, OnReject, OnTimeout
from treadle._paths import item_path

__all__ = ["Letter", "Mailbox", "Waiting"]


@attrs.frozen
class Letter:
    """A signal that nobody has consumed.

    Attributes:
        name: What steps wait for.
        payload: Plain JSON. Never in repr.
        signal_id: Empty for none.
    """

    name: str
    payload: Json = attrs.field(default=None, repr=False)
    signal_id: str = ""


@attrs.frozen
class Waiting:
    """A step that waits.

    Attributes:
        path: The step.
        due: When its time has come, or its timeout; None for neither.
        signal: What it waits for; empty for a time alone.
        on_timeout: What becomes of it then.
        default: Its output then, with ``continue``.
        on_reject: What becomes of it when the payload says ``approved: false``; empty: nothing special.
        index: Item of a ``foreach``.
    """

    path: str
    due: float | None = None
    signal: str = ""
    on_timeout: OnTimeout = "fail"
    default: Json = None
    on_reject: OnReject | str = ""
    index: int | None = None

    @classmethod
    def of(cls, path: str, index: int | None, told: Mapping[str, Json]) -> Waiting:
        """The wait that an Evaluated fact tells of."""
        return cls(path, index=index, **told)  # type: ignore[arg-type]  # the conductor's answer has these keys

    @property
    def key(self) -> str:
        """The step with its item: ``each[3]``."""
        return item_path(self.path, self.index)

    def rejects(self, payload: Json) -> bool:
        """Whether a payload turns the step into a failure."""
        return self.on_reject == "fail" and isinstance(payload, Mapping) and payload.get("approved") is False


class Mailbox:
    """What waits for what."""

    def __init__(self) -> None:
        self._waiting: dict[str, Waiting] = {}  # step, with its item -> its wait, in the order in which they began
        self._early: dict[str, deque[Letter]] = {}  # name -> not consumed
        self._later: dict[str, Letter] = {}  # timer -> delivered when it fires
        self._seen: set[str] = set()  # ids

    def __len__(self) -> int:
        return len(self._waiting)

    def __iter__(self) -> Iterator[Waiting]:
        return iter(self._waiting.values())

    def is_known(self, signal_id: str) -> bool:
        """Whether a signal of this id was taken in; it is from now on."""
        if not signal_id:
            return False
        is_known = signal_id in self._seen
        self._seen.add(signal_id)
        return is_known

    def await_(self, waiting: Waiting) -> Letter | None:
        """A step begins to wait; answers the early signal that it consumes at once."""
        letters = self._early.get(waiting.signal) if waiting.signal else None
        if letters:
            letter = letters.popleft()
            if not letters:
                del self._early[waiting.signal]
            return letter
        self._waiting[waiting.key] = waiting
        return None

    def deliver(self, letter: Letter) -> Waiting | None:
        """A signal has come; answers the step that consumes it, which waits no more. Otherwise it is kept."""
        for key, waiting in self._waiting.items():
            if waiting.signal == letter.name:
                del self._waiting[key]
                return waiting
        self._early.setdefault(letter.name, deque()).append(letter)
        return None

    def postpone(self, timer_id: str, letter: Letter) -> None:
        """Keep a signal until a timer fires."""
        self._later[timer_id] = letter

    def take_postponed(self, timer_id: str) -> Letter | None:
        """The signal whose timer has fired."""
        return self._later.pop(timer_id, None)

    def forget(self, key: str) -> Waiting | None:
        """A step or item waits no more, whatever comes; answers its wait."""
        return self._waiting.pop(key, None)

    # -- snapshots

    def dump(self) -> dict[str, Json]:
        """The whole state as plain JSON data; ``load`` gives an equal mailbox."""
        return {
            "waiting": [attrs.asdict(waiting) for waiting in self._waiting.values()],
            "early": [attrs.asdict(letter) for letters in self._early.values() for letter in letters],
            "later": [[timer_id, attrs.asdict(letter)] for timer_id, letter in self._later.items()],
            "seen": sorted(self._seen),
        }

    @classmethod
    def load(cls, data: Mapping[str, object]) -> Mailbox:
        """Build the mailbox that ``dump`` described."""
        self = cls()
        for waiting in cast("list[dict[str, object]]", data["waiting"]):
            self.await_(Waiting(**waiting))  # type: ignore[arg-type]  # a dump
        for letter in cast("list[dict[str, object]]", data["early"]):
            made = Letter(**letter)  # type: ignore[arg-type]  # a dump
            self._early.setdefault(made.name, deque()).append(made)
        for timer_id, letter in cast("list[tuple[str, dict[str, object]]]", data["later"]):
            self._later[timer_id] = Letter(**letter)  # type: ignore[arg-type]  # a dump
        self._seen = set(cast("list[str]", data["seen"]))
        return self
