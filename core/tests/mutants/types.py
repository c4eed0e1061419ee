"""One of its inputs has no type."""

from treadle import executor


@executor("mutant.types")
async def slug(text: str, sep="-") -> str:
    """Turn a title into a URL slug."""
    return str(sep).join(text.lower().split())
