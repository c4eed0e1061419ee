"""A hook that asks for what is not given (any more)."""

from treadle import hookimpl


class Policy:
    """Written for another version."""

    @hookimpl
    def execute(self, call: object, loop: object) -> None:
        """There is no ``loop``."""
