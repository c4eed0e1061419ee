"""Executors that use something up; a module of its own, so that a process of their own finds them."""

from __future__ import annotations

import os
import threading
import time

import anyio
from treadle import Context, SyncContext, TransientError, executor


@executor("spend.async")
async def spend_async(ctx: Context, /, cost: int = 0, tokens: int = 0, requests: int = 0, times: int = 1) -> int:
    """Use something up, several times; the attempts that it takes."""
    for _ in range(times):
        ctx.spend(cost=cost, tokens=tokens, requests=requests)
    return ctx.attempt


@executor("spend.sync")
def spend_sync(ctx: SyncContext, /, cost: int = 0, tokens: int = 0, requests: int = 0, times: int = 1) -> int:
    """The same in a thread."""
    for _ in range(times):
        ctx.spend(cost=cost, tokens=tokens, requests=requests)
    return ctx.attempt


@executor("spend.settle")
def spend_settle(ctx: SyncContext, /, cost: int, actual: int) -> None:
    """Ask for more than it takes in the end."""
    ctx.spend(cost=cost, requests=1).settle(cost=actual)


@executor("spend.fail")
async def spend_fail(ctx: Context, /, cost: int, failures: int) -> int:
    """Spend, and fail a few times."""
    ctx.spend(cost=cost, tokens=1)
    if ctx.attempt <= failures:
        raise TransientError("busy")
    return ctx.attempt


@executor("spend.hang")
def spend_hang(ctx: SyncContext, /, cost: int) -> None:
    """Spend, say so, and never come back."""
    ctx.spend(cost=cost)
    ctx.progress(1)
    time.sleep(60)


@executor("spend.wait")
async def spend_wait(ctx: Context, /, cost: int, seconds: float = 60.0) -> None:
    """Spend, say so, and take its time."""
    ctx.spend(cost=cost)
    ctx.progress(1)
    await anyio.sleep(seconds)


@executor("spend.die")
def spend_die(ctx: SyncContext, /, cost: int) -> None:
    """Spend, and end its process."""
    ctx.spend(cost=cost)
    os._exit(3)


@executor("spend.late")
def spend_late(ctx: SyncContext, /, cost: int, refused: str) -> None:
    """Leave a thread behind that spends on once there is the folder of ``refused``, and notes there that it is refused."""
    ctx.spend(cost=cost)

    def work() -> None:
        while not os.path.exists(os.path.dirname(refused)):
            time.sleep(0.02)
        try:
            ctx.spend(cost=cost)
        except Exception as error:
            with open(refused, "w") as file:
                file.write(type(error).__name__)

    threading.Thread(target=work, daemon=True).start()


@executor("spend.caught")
async def spend_caught(ctx: Context, /, cost: int) -> str:
    """Go on with less when it is refused."""
    try:
        ctx.spend(cost=cost)
    except Exception as error:
        return type(error).__name__
    return "spent"


@executor("spend.unpriced")
async def spend_unpriced(ctx: Context, /, tokens: int) -> None:
    """Something whose price nobody knows."""
    ctx.spend(cost=None, tokens=tokens)


ALL = (
    spend_async,
    spend_sync,
    spend_settle,
    spend_fail,
    spend_hang,
    spend_wait,
    spend_die,
    spend_late,
    spend_caught,
    spend_unpriced,
)
