"""Works, though what it requires is not there."""

from treadle import executor


@executor("zoo.needy")
async def run() -> str:
    """Do without."""
    return "done"
