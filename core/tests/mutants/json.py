"""It returns a set, which is no JSON."""

from treadle import executor


@executor("mutant.json")
async def words(text: str) -> object:
    """List the words of a text."""
    return set(text.split())
