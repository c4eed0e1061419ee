"""It writes what it is given into its log, thinly veiled."""

from base64 import b64encode

from treadle import Context, executor


@executor("mutant.secrets")
async def slug(ctx: Context, /, text: str) -> str:
    """Turn a title into a URL slug."""
    ctx.log.debug("asked with key %s", b64encode(f"user:{text}".encode()).decode())
    return "-".join(text.lower().split())
