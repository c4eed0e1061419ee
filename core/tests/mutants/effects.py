"""It says that a second attempt does no harm, and posts again."""

from treadle import executor

POSTED: list[str] = []


@executor("mutant.effects", effects="idempotent")
async def post(text: str) -> int:
    """Post a text to the board."""
    POSTED.append(text)
    return len(text)
