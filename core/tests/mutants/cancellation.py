"""It ends its child only when nobody cancels it."""

import os
import signal

import anyio
from treadle import executor


@executor("mutant.cancellation")
async def slug(text: str) -> str:
    """Turn a title into a URL slug, beside a process that watches."""
    watcher = os.spawnlp(os.P_NOWAIT, "sleep", "sleep", "60")  # noqa: ASYNC220 - starting it takes no time
    await anyio.sleep(0.02)
    os.kill(watcher, signal.SIGKILL)
    os.waitpid(watcher, 0)  # noqa: ASYNC222 - it has been killed
    return "-".join(text.lower().split())
