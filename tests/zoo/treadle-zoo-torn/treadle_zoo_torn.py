"""Its list of entry points is damaged; one line of it is not."""

from treadle import executor


@executor("zoo.torn")
async def run() -> str:
    """Live."""
    return "alive"
