"""It returns a number where it says a text."""

from treadle import executor


@executor("mutant.output")
async def slug(text: str) -> str:
    """Turn a title into a URL slug."""
    return len(text)  # type: ignore[return-value] # it is what the rule has to find
