"""Steps that may start, in the order in which they do: higher priority first, then who became ready first. Pure."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from treadle._instances import Step

__all__ = ["ReadyQueue"]


class ReadyQueue:
    """A queue of steps by priority; for runs whose steps have several, the others use a plain deque."""

    def __init__(self) -> None:
        self._lines: dict[int, deque[Step]] = {}  # the highest priority first

    def append(self, step: Step) -> None:
        """Put a step behind those of its priority."""
        priority = step.node.priority
        line = self._lines.get(priority)
        if line is None:
            line = deque[Step]()
            lines = {**self._lines, priority: line}
            self._lines = {number: lines[number] for number in sorted(lines, reverse=True)}
        line.append(step)

    def popleft(self) -> Step:
        """Take the first."""
        for line in self._lines.values():
            if line:
                return line.popleft()
        raise IndexError("no step is ready")

    def __bool__(self) -> bool:
        return any(self._lines.values())

    def __iter__(self) -> Iterator[Step]:
        for line in self._lines.values():
            yield from line
