"""A hook that nobody calls."""

from treadle import hookimpl


class Policy:
    """Means to check outputs."""

    @hookimpl
    def validate_outputs(self, output: object) -> list[str]:
        """Never called: the hook is ``validate_output``."""
        return [f"refused: {output!r}"]
