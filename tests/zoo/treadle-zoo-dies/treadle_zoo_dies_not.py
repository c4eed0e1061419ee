"""The other module of a distribution whose first one ends the process."""

from treadle import executor


@executor("zoo.dies_not")
async def run() -> str:
    """Live."""
    return "alive"
