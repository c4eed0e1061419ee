"""Its name has no namespace."""

from treadle import executor


@executor("slug")
async def slug(text: str) -> str:
    """Turn a title into a URL slug."""
    return "-".join(text.lower().split())
