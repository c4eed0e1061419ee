"""It tidies up at leisure before it lets itself be cancelled."""

import anyio
from treadle import executor


@executor("mutant.deadline")
async def slug(text: str) -> str:
    """Turn a title into a URL slug, after a moment."""
    try:
        await anyio.sleep(0.02)
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.sleep(0.5)
        raise
    return "-".join(text.lower().split())
