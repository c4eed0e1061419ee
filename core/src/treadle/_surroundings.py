"""What policies are told of a run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

import attrs

from treadle._clock import SteadySeconds
from treadle._models import Json
from treadle._secrets import Secret, holds_secret
from treadle.errors import TreadleError
from treadle.ports import Clock


@attrs.frozen
class Surroundings:
    """What ``ports.RunSurroundings`` promises.

    Attributes:
        run_id: The run.
        workflow: Name of the workflow.
        stint: How many processes have driven the run with this one.
        clock: The run's time.
        seconds: The same, as seconds that only go forward.
    """

    run_id: str
    workflow: str
    stint: int
    clock: Clock
    _resolved: Mapping[str, str] = attrs.field(repr=False)
    _configured: Callable[[], Iterable[tuple[str, Secret]]] = attrs.field(repr=False)
    seconds: Callable[[], float] = attrs.field(repr=False)
    _known: list[Sequence[str]] = attrs.field(init=False, repr=False, factory=list)

    @seconds.default
    def _forward(self) -> Callable[[], float]:
        return SteadySeconds(self.clock)

    def holds_secret(self, value: Json) -> bool:
        """Whether plain data hold the value of one."""
        if not self._known:
            self._known.append([value for value in self.secrets().values() if value])
        return holds_secret(value, self._known[0])

    def secrets(self) -> Mapping[str, str]:
        """Name -> value: of the workflow, and of settings."""
        values = dict(self._resolved)
        for setting, secret in self._configured():
            try:
                values[setting] = secret.reveal()
            except TreadleError:  # whoever needs it will say so
                continue
        return values
