"""Its entry point leads to the function that it replaced."""

from treadle import executor


@executor("mutant.entry_point")
async def old_slug(text: str) -> str:
    """Turn a title into a URL slug."""
    return text.replace(" ", "-")


@executor("mutant.entry_point")
async def slug(text: str) -> str:
    """Turn a title into a URL slug."""
    return "-".join(text.lower().split())
