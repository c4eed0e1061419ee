"""Its type changes what it is given."""

import attrs
from treadle import executor


@attrs.frozen
class Title:
    text: str = attrs.field(converter=str.lower)


@executor("mutant.schema")
async def slug(title: Title) -> str:
    """Turn a title into a URL slug."""
    return "-".join(title.text.split())
