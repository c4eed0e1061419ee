"""Its docstring says nothing."""

from treadle import executor


@executor("mutant.doc")
async def slug(text: str) -> str:
    """slug"""
    return "-".join(text.lower().split())
