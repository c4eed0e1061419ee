"""It sleeps on asyncio, and says that it also runs on trio."""

import asyncio

from treadle import executor


@executor("mutant.backends")
async def slug(text: str) -> str:
    """Turn a title into a URL slug, after a moment."""
    await asyncio.sleep(0.001)
    return "-".join(text.lower().split())
