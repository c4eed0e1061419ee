"""An executor that saves; a module of its own, so that a process of its own finds it."""

from __future__ import annotations

import time

from treadle import SyncContext, executor


@executor("savers.save")
def save(ctx: SyncContext, /, data: object, how: str = "save") -> None:
    """Save, at once or soon."""
    if how == "save":
        ctx.save("half", data)  # type: ignore[arg-type]  # plain JSON
    else:
        ctx.save_soon("half", data)  # type: ignore[arg-type]  # the same
        time.sleep(1)
