"""One of two that claim a name."""

from treadle import executor


@executor("zoo.twins")
async def run() -> str:
    """Say which one."""
    return "b"
