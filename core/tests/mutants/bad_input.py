"""It does its work before it looks at what it was given."""

from treadle import PermanentError, executor

POSTED: list[str] = []


@executor("mutant.bad_input")
async def post(text: str) -> int:
    """Post a text to the board."""
    POSTED.append(text)
    if not text.strip():
        raise PermanentError("There is nothing to post.", "Give a text.")
    return len(text)
