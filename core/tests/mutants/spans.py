"""Its span does not say which service it calls."""

from treadle import Context, executor


@executor("mutant.spans")
async def slug(ctx: Context, /, text: str) -> str:
    """Turn a title into a URL slug."""
    with ctx.span("make slug"):
        return "-".join(text.lower().split())
