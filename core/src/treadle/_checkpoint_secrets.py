"""Secrets in what steps save: a checkpoint is handed back as it was, so one that holds a secret is told of, or refused.

A token is a name that people are shown; one that holds a secret is refused whatever the rule is.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Literal

from treadle._models import Call, Json
from treadle._redaction import Redaction
from treadle._secrets import HIDDEN, hide
from treadle.errors import CheckpointInvalidError

__all__ = ["CheckpointGuard", "SecretRule"]

SecretRule = Literal["warn", "refuse", "keep"]
"""What becomes of a checkpoint whose data hold a secret: said once for each step, refused, or nothing."""

SHORTEST = 8
"""Shorter values are not looked for: they would be found in innocent words."""

_MOST_PLACES = 3

_log = logging.getLogger("treadle.keeper")


class CheckpointGuard:
    """Looks for the secrets of a run in its checkpoints.

    Args:
        rule: What becomes of data that hold one.
        secrets: Answers name -> value of all that are known so far; asked whenever something is saved.
        redaction: What the run's policies want hidden besides; None for nothing.
    """

    def __init__(self, rule: SecretRule, secrets: Callable[[], Mapping[str, str]], redaction: Redaction | None) -> None:
        self._rule, self._secrets, self._redaction = rule, secrets, redaction
        self._values: Sequence[str] = ()
        self._told: set[str] = set()

    def check(self, call: Call, token: str, data: Json) -> None:
        """Look through what a step wants to save.

        Raises:
            CheckpointInvalidError: It holds a secret, and so is not kept.
        """
        self._values = [value for value in self._secrets().values() if len(value) >= SHORTEST]
        if not self._values and self._redaction is None:
            return
        if (shown := self._cleaned(token)) != token:
            remedy = "Tokens are shown: name how far the work is, and save the rest as data."
            raise CheckpointInvalidError(call.item, shown, "its token holds a secret", remedy)
        if self._rule == "keep" or (self._rule == "warn" and call.path in self._told):
            return
        places = [place for place, _ in zip(self._places(data, "$", ""), range(_MOST_PLACES), strict=False)]
        if not places:
            return
        where = ", ".join(places)
        if self._rule == "refuse":
            remedy = "Save where the secret is to be found, not the secret; see checkpoint_secrets of [run]."
            raise CheckpointInvalidError(call.item, token, f"its data hold a secret at {where}", remedy)
        self._told.add(call.path)
        _log.warning(
            "Step %r saves a secret in checkpoint %r, at %s; the store keeps it as it is until the step has ended."
            ' Save where the secret is to be found instead, or refuse such checkpoints: [run] checkpoint_secrets = "refuse"',
            call.path,
            token,
            where,
        )

    def _cleaned(self, text: str, field: str = "") -> str:
        text = hide(text, self._values)
        if self._redaction is not None:
            cleaned = self._redaction.value(text, field) if field else self._redaction.text(text)
            text = cleaned if isinstance(cleaned, str) else HIDDEN
        return text

    def _places(self, data: Json, path: str, field: str) -> Iterator[str]:
        """Where in plain data a text is a secret, or holds one."""
        if isinstance(data, str):
            if self._cleaned(data, field) != data:
                yield path
        elif isinstance(data, Mapping):
            for key, value in data.items():
                shown = self._cleaned(key)
                if shown != key:
                    yield f"{path}.{shown}"
                yield from self._places(value, f"{path}.{shown}", key)
        elif isinstance(data, list | tuple):
            for number, value in enumerate(data):
                yield from self._places(value, f"{path}[{number}]", field)
