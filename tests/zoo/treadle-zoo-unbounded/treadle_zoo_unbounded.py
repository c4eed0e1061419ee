"""A distribution that does not say which versions of treadle it works with."""

from treadle import executor


@executor("zoo.unbounded")
async def run() -> str:
    """Works, for now."""
    return "for now"
