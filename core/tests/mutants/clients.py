"""It closes a client that other steps share."""

from typing import Protocol

from treadle import executor


class Board(Protocol):
    async def post(self, text: str) -> int: ...

    async def aclose(self) -> None: ...


@executor("mutant.clients")
async def post(board: Board, /, text: str) -> int:
    """Post a text to the board."""
    number = await board.post(text)
    await board.aclose()
    return number
